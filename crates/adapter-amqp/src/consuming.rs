//! The task behind a consumer: it keeps the connection, reads ahead and settles.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use amqprs::channel::{
    BasicAckArguments, BasicCancelArguments, BasicConsumeArguments, BasicNackArguments, BasicQosArguments,
    Channel, ConsumerMessage,
};
use tokio::select;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use warren_domain::ports::{ConsumerGroup, Delivery};

use crate::acks::{Acks, Settling, Verdict};
use crate::backoff::Backoff;
use crate::connection::{Connector, Event, Link};
use crate::error::{LinkError, cause};
use crate::metrics::ConsumeMetrics;
use crate::reader::Reader;
use crate::settlement::{Decision, Letters, Session};
use crate::status::{Status, chain};
use crate::topology::Topology;

/// How long acknowledgements wait behind a gap for it to close, before they are told one by one.
const GAP_PATIENCE: Duration = Duration::from_millis(50);

/// How long telling the broker may take; only a writer that is stuck takes longer.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest that a delivery is kept back whose dead letters cannot be written; RabbitMQ waits 30 minutes for an
/// acknowledgement.
const LONGEST_REQUEUE_PAUSE: Duration = Duration::from_secs(300);

/// The consumer's name on its channel, which has no other.
const CONSUMER_TAG: &str = "warren";

/// Why a connection is given up whose deliveries end without being asked to.
const DELIVERIES_ENDED: &str = "RabbitMQ ended the deliveries";

/// A delivery on its way to whoever asks for the next one.
#[derive(Debug)]
pub(crate) struct Yielded {
    pub(crate) delivery: Delivery,
    /// Cancelled once the connection it came on is gone.
    pub(crate) lost: CancellationToken,
}

/// What the task behind a consumer works with.
pub(crate) struct Consuming {
    pub(crate) connector: Connector,
    pub(crate) topology: Topology,
    pub(crate) group: ConsumerGroup,
    pub(crate) queue: String,
    pub(crate) prefetch: u16,
    pub(crate) connect_timeout: Duration,
    pub(crate) backoff: Backoff,
    /// How long a delivery is kept back at least whose dead letters could not be written.
    pub(crate) requeue_pause: Duration,
    pub(crate) status: Arc<Status>,
    pub(crate) out: mpsc::Sender<Yielded>,
    pub(crate) letters: Arc<Letters>,
    pub(crate) closing: CancellationToken,
    /// Cancelled once the broker delivers nothing more and everything that was fetched is read.
    pub(crate) stopped: CancellationToken,
    /// Tells, by being dropped, that there is nothing left to do.
    pub(crate) _ended: DropGuard,
    pub(crate) metrics: Arc<ConsumeMetrics>,
    pub(crate) quarantine: Quarantine,
}

impl fmt::Debug for Consuming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Consuming({})", self.queue)
    }
}

/// How the work on one connection ended.
enum End {
    /// Asked to close, and every delivery is settled.
    Drained,
    /// The quarantine is over: connect anew with the whole prefetch.
    Released,
    /// The connection, or the queue, is gone.
    Lost(String),
}

/// One packet at a time after connections have died young.
///
/// A header that is not UTF-8 kills every connection of amqprs that receives it, and each death counts as a delivery
/// of everything that was out: with a whole prefetch out, the broker would give up hundreds of innocent packets with
/// the guilty one. One at a time, it gives up the guilty one alone.
#[derive(Debug, Default)]
pub(crate) struct Quarantine {
    young_deaths: u32,
}

impl Quarantine {
    /// How many young deaths in a row begin it.
    const BEGINS: u32 = 3;
    /// How many packets settled, one at a time, end it.
    const ENDS_AFTER: usize = 100;
    /// A connection that lived so long died of something else. What was settled on a younger one proves nothing: the
    /// acknowledgements of what came before the guilty packet die with the connection.
    const YOUTH: Duration = Duration::from_secs(10);
    /// So long without a death ends it too.
    const ENDS_WITHIN: Duration = Duration::from_secs(60);

    fn begun(&self) -> bool {
        self.young_deaths >= Self::BEGINS
    }

    /// Notes a death; once begun, only [`End::Released`] ends the quarantine.
    fn died(&mut self, age: Duration) {
        if !self.begun() && age >= Self::YOUTH {
            self.young_deaths = 0;
        } else {
            self.young_deaths = self.young_deaths.saturating_add(1);
        }
    }
}

/// What is settled, and what is to be told to the broker, on one channel.
struct Settler {
    channel: Channel,
    acks: Acks,
    settled: usize,
    tell_rest_at: Option<Instant>,
    /// Deliveries to be given back, and when.
    requeue_later: BTreeSet<(Instant, u64)>,
    requeue_pause: Duration,
    /// The consumer is closing: what is given back is told last.
    closing: bool,
    /// Deliveries to be given back when everything else is settled.
    ///
    /// Earlier, before the broker has stopped delivering, it would deliver them again to this very consumer. And a
    /// quorum queue's client in the broker takes a few dozen such returns at once; what comes behind them waits there,
    /// acknowledgements too, and is forgotten when the connection closes (seen with 3.10.8). Returns that are
    /// forgotten happen anyway.
    give_back_last: Vec<u64>,
}

impl Consuming {
    /// Works until the consumer is closed and every delivery is settled.
    pub(crate) async fn run(mut self: Box<Self>) {
        let (mut failures, closing) = (0_u32, self.closing.clone());
        self.status.away("not connected to RabbitMQ yet");
        while !closing.is_cancelled() {
            let opened = select! {
                opened = self.connector.open() => opened,
                () = closing.cancelled() => break,
            };
            let subscribed = match opened {
                Ok(link) => {
                    let subscribed = self.subscribed(link).await;
                    if subscribed.is_err() {
                        self.connector.next_address();
                    }
                    subscribed
                }
                Err(error) => Err(error),
            };
            match subscribed {
                Ok((mut link, messages)) => {
                    failures = 0;
                    tracing::info!(
                        endpoint = link.endpoint(),
                        queue = self.queue,
                        "consumes from RabbitMQ"
                    );
                    self.status.connected();
                    match self.serve(&mut link, messages).await {
                        End::Drained => {
                            link.close().await;
                            break;
                        }
                        End::Released => {
                            tracing::info!(queue = self.queue, "consumes with the whole prefetch again");
                            link.close().await;
                            continue;
                        }
                        End::Lost(reason) => {
                            tracing::warn!(reason, queue = self.queue, "lost the connection for consuming");
                            self.status.away(reason);
                        }
                    }
                }
                Err(error) => {
                    failures = failures.wrapping_add(1);
                    let reason = chain(&error);
                    if self.status.failed(&reason) {
                        let queue = &self.queue;
                        tracing::warn!(reason, queue, "cannot consume from RabbitMQ; keeps trying");
                    }
                }
            }
            if failures.is_multiple_of(self.connector.addresses()) {
                let pause = self.backoff.pause();
                select! {
                    () = sleep(pause) => {}
                    () = closing.cancelled() => {}
                }
            }
        }
        self.stopped.cancel();
        self.status.away("the consumer was closed");
    }

    /// Declares everything and asks for deliveries; for the same reason as a publisher never given up midway.
    async fn subscribed(
        &mut self,
        mut link: Link,
    ) -> Result<(Link, UnboundedReceiver<ConsumerMessage>), LinkError> {
        self.topology.declare(&mut link, Some(&self.group)).await?;
        let channel = link.channel()?.clone();
        let prefetch = if self.quarantine.begun() { 1 } else { self.prefetch };
        let arguments = BasicConsumeArguments::new(&self.queue, CONSUMER_TAG)
            .manual_ack(true)
            .finish();
        // The receiver has no bound of its own; the prefetch is its bound, so it has to be set before.
        let consuming = link.run(self.connect_timeout, async move {
            channel
                .basic_qos(BasicQosArguments::new(0, prefetch, false))
                .await?;
            channel.basic_consume_rx(arguments).await
        });
        let (_, messages) = consuming.await?.map_err(|error| LinkError::Connect {
            endpoint: link.endpoint().to_owned(),
            cause: cause(error),
        })?;
        Ok((link, messages))
    }

    async fn serve(&mut self, link: &mut Link, messages: UnboundedReceiver<ConsumerMessage>) -> End {
        let channel = match link.channel() {
            Ok(channel) => channel.clone(),
            Err(error) => return End::Lost(chain(&error)),
        };
        let born = Instant::now();
        let (decisions, decided) = mpsc::channel(usize::from(self.prefetch) + 16);
        let lost = CancellationToken::new();
        let reader = Reader {
            messages,
            session: Arc::new(Session {
                decisions,
                lost: lost.clone(),
                letters: Arc::clone(&self.letters),
            }),
            queue: self.queue.clone(),
            out: self.out.clone(),
            closing: self.closing.clone(),
            metrics: Arc::clone(&self.metrics),
        };
        let mut reader = tokio::spawn(reader.run());
        let mut settler = Settler {
            channel,
            acks: Acks::new(),
            settled: 0,
            tell_rest_at: None,
            requeue_later: BTreeSet::new(),
            requeue_pause: self.requeue_pause,
            closing: false,
            give_back_last: Vec::new(),
        };
        let end = self.settle(link, &mut settler, decided, &mut reader, &lost).await;
        lost.cancel();
        reader.abort();
        if settler.settled > 0 || born.elapsed() >= Quarantine::YOUTH {
            self.backoff.reset();
        }
        match &end {
            End::Released => self.quarantine = Quarantine::default(),
            End::Lost(_) => {
                self.quarantine.died(born.elapsed());
                if self.quarantine.young_deaths == Quarantine::BEGINS {
                    tracing::warn!(
                        queue = self.queue,
                        "connections die young, perhaps of one packet; consumes one at a time for a while"
                    );
                }
            }
            End::Drained => {}
        }
        end
    }

    async fn settle(
        &mut self,
        link: &mut Link,
        settler: &mut Settler,
        mut decided: mpsc::Receiver<Decision>,
        reader: &mut JoinHandle<()>,
        lost: &CancellationToken,
    ) -> End {
        let released_at = Instant::now() + Quarantine::ENDS_WITHIN;
        let (mut decisions, mut cancelled, mut reading) = (Vec::new(), false, true);
        loop {
            let quarantined = self.quarantine.begun();
            if quarantined && settler.settled >= Quarantine::ENDS_AFTER {
                return End::Released;
            }
            let told = select! {
                biased;
                event = link.events.recv() => match event {
                    None => return End::Lost("the connection to RabbitMQ was lost".to_owned()),
                    Some(Event::Closed { code, reason }) => return End::Lost(format!("{reason} ({code})")),
                    Some(Event::Cancelled) if !cancelled => {
                        return End::Lost(format!("queue {} was deleted", self.queue));
                    }
                    // The channel publishes nothing, so nothing else concerns it.
                    Some(_) => Ok(()),
                },
                () = self.closing.cancelled(), if !cancelled => {
                    (cancelled, settler.closing) = (true, true);
                    self.cancel(link, &settler.channel).await
                }
                count = decided.recv_many(&mut decisions, 1_024) => {
                    settler.closing |= self.closing.is_cancelled();
                    let told = settler.decide(decisions.drain(..)).await;
                    if count == 0 {
                        // Nobody is left who could settle anything: everything is done if that was asked for, and
                        // else the deliveries ended with the connection, which may be known here first.
                        let told = told.and(settler.tell_rest().await);
                        return match told.and(settler.give_back().await) {
                            Ok(()) if !cancelled => End::Lost(DELIVERIES_ENDED.to_owned()),
                            Ok(()) => End::Drained,
                            Err(reason) => End::Lost(reason),
                        };
                    }
                    told
                }
                () = until(settler.tell_rest_at) => settler.tell_rest().await,
                () = until(settler.requeue_later.first().map(|(at, _)| *at)) => settler.requeue_due().await,
                () = lost.cancelled() => return End::Lost("more was delivered than the prefetch allows".to_owned()),
                _ = &mut *reader, if reading => {
                    if !cancelled {
                        return End::Lost(DELIVERIES_ENDED.to_owned());
                    }
                    reading = false;
                    let mut rest = Vec::new();
                    while let Ok(decision) = decided.try_recv() {
                        rest.push(decision);
                    }
                    let told = settler.decide(rest.into_iter()).await;
                    let told = told.and(settler.tell_rest().await);
                    self.stopped.cancel();
                    told
                }
                () = sleep_until(released_at), if quarantined => return End::Released,
            };
            if let Err(reason) = told {
                return End::Lost(reason);
            }
        }
    }

    /// Asks the broker to deliver nothing more; what it has sent already is read to the end.
    async fn cancel(&self, link: &Link, channel: &Channel) -> Result<(), String> {
        let channel = channel.clone();
        let cancelled = link.run(self.connect_timeout, async move {
            channel
                .basic_cancel(BasicCancelArguments::new(CONSUMER_TAG))
                .await
        });
        match cancelled.await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(error) => Err(chain(&error)),
        }
    }
}

impl Settler {
    /// Notes decisions, and tells the broker what can be told in one frame.
    async fn decide(&mut self, decisions: impl Iterator<Item = Decision>) -> Result<(), String> {
        for decision in decisions {
            match decision {
                Decision::Settle(tag, Verdict::Requeue) if self.closing => self.give_back_last.push(tag),
                Decision::Settle(tag, verdict) => {
                    self.settled += usize::from(verdict == Verdict::Ack);
                    if let Some(settling) = self.acks.decide(tag, verdict) {
                        self.tell(settling).await?;
                    }
                }
                Decision::RequeueLater { tag, attempt } => {
                    let pause = requeue_pause(self.requeue_pause, attempt);
                    self.requeue_later.insert((Instant::now() + pause, tag));
                }
            }
        }
        if let Some(settling) = self.acks.settle_prefix() {
            self.tell(settling).await?;
        }
        self.tell_rest_at = match self.tell_rest_at {
            at @ Some(_) if self.acks.has_untold() => at,
            _ => self.acks.has_untold().then(|| Instant::now() + GAP_PATIENCE),
        };
        Ok(())
    }

    /// Tells the broker what waits behind a gap.
    async fn tell_rest(&mut self) -> Result<(), String> {
        self.tell_rest_at = None;
        for settling in self.acks.settle_rest() {
            self.tell(settling).await?;
        }
        Ok(())
    }

    /// Gives back what was to be given back last.
    async fn give_back(&mut self) -> Result<(), String> {
        for tag in std::mem::take(&mut self.give_back_last) {
            if let Some(settling) = self.acks.decide(tag, Verdict::Requeue) {
                self.tell(settling).await?;
            }
        }
        Ok(())
    }

    async fn requeue_due(&mut self) -> Result<(), String> {
        let now = Instant::now();
        while let Some(due) = self.requeue_later.first().copied().filter(|(at, _)| *at <= now) {
            self.requeue_later.remove(&due);
            let (_, tag) = due;
            if let Some(settling) = self.acks.decide(tag, Verdict::Requeue) {
                self.tell(settling).await?;
            }
        }
        Ok(())
    }

    async fn tell(&self, settling: Settling) -> Result<(), String> {
        let telling = async {
            match settling {
                Settling::AckUpTo(tag) => self.channel.basic_ack(BasicAckArguments::new(tag, true)).await,
                Settling::Ack(tag) => self.channel.basic_ack(BasicAckArguments::new(tag, false)).await,
                Settling::Requeue(tag) => {
                    let arguments = BasicNackArguments::new(tag, false, true);
                    self.channel.basic_nack(arguments).await
                }
            }
        };
        match timeout(SETTLE_TIMEOUT, telling).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("RabbitMQ reads no acknowledgements".to_owned()),
        }
    }
}

/// Returns how long a delivery is kept back whose dead letters could not be written: twice as long with every attempt,
/// so that an outage of the dead letters does not use up the delivery limit, and with it the reason.
fn requeue_pause(shortest: Duration, attempt: u32) -> Duration {
    let doubled = shortest.saturating_mul(1 << attempt.min(16));
    doubled
        .min(LONGEST_REQUEUE_PAUSE)
        .mul_f64(0.5 + fastrand::f64() / 2.0)
}

/// Waits for a moment, or for ever.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_made_a_dead_letter_is_kept_back_longer_each_time() {
        let second = Duration::from_secs(1);
        for (attempt, longest) in [(1, 2), (2, 4), (8, 256), (9, 300), (20, 300), (u32::MAX, 300)] {
            let longest = second * longest;
            let pause = requeue_pause(second, attempt);
            assert!((longest / 2..=longest).contains(&pause), "{attempt}: {pause:?}");
        }
        // The default delivery limit lasts for more than half an hour.
        let all: Duration = (1..20).map(|attempt| requeue_pause(second, attempt)).sum();
        assert!(all > second * 1_800, "{all:?}");
    }

    #[test]
    fn three_young_deaths_begin_the_quarantine() {
        let mut quarantine = Quarantine::default();
        quarantine.died(Duration::ZERO);
        quarantine.died(Duration::ZERO);
        quarantine.died(Quarantine::YOUTH);
        for _ in 0..3 {
            assert!(!quarantine.begun());
            quarantine.died(Duration::ZERO);
        }
        assert!(quarantine.begun());
        quarantine.died(Quarantine::YOUTH);
        assert!(quarantine.begun());
    }
}
