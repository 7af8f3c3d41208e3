//! The task behind a consumer: it keeps the connection, reads ahead and settles.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use amqprs::channel::{
    BasicCancelArguments, BasicConsumeArguments, BasicQosArguments, Channel, ConsumerMessage,
    QueuePurgeArguments,
};
use tokio::select;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::{CancellationToken, DropGuard};
use warren_domain::ports::{ConsumerGroup, Delivery};

use crate::backoff::{Backoff, until};
use crate::connection::{Connector, Event, Link};
use crate::error::{LinkError, Lost, cause};
use crate::lag::{Answering, ready};
use crate::metrics::{ConsumeMetrics, Unsettled};
use crate::quarantine::{Quarantine, Silence};
use crate::reader::{Arriving, Reader};
use crate::settlement::{Decision, Letters, Session};
use crate::settler::Settler;
use crate::status::{Status, chain};
use crate::topology::Topology;

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
    /// What waits is still to be dropped, because the consumer begins with what comes next.
    pub(crate) drops_waiting: bool,
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
    pub(crate) answering: Answering,
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
    Lost(Lost),
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
                        End::Lost(lost) => {
                            let reason = &lost.reason;
                            tracing::warn!(reason, queue = self.queue, "lost the connection for consuming");
                            self.status.lost(&lost);
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
        if self.drops_waiting {
            self.drop_waiting(&link).await?;
            self.drops_waiting = false;
        }
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

    /// Drops what waits in the queue; what members of the group hold is theirs.
    async fn drop_waiting(&self, link: &Link) -> Result<(), LinkError> {
        let channel = link.channel()?.clone();
        let purge = QueuePurgeArguments::new(&self.queue);
        let purging = link.run(
            self.connect_timeout,
            async move { channel.queue_purge(purge).await },
        );
        let packets = purging.await?.map_err(|error| {
            let queue = &self.queue;
            LinkError::Lost(format!("what waits in queue {queue} cannot be dropped: {error}"))
        })?;
        tracing::info!(
            queue = self.queue,
            packets,
            "begins with what comes next; what waited was dropped"
        );
        Ok(())
    }

    async fn serve(&mut self, link: &mut Link, messages: UnboundedReceiver<ConsumerMessage>) -> End {
        let channel = match link.channel() {
            Ok(channel) => channel.clone(),
            Err(error) => return End::Lost(Lost::cut(chain(&error))),
        };
        let born = Instant::now();
        let (decisions, decided) = mpsc::channel(usize::from(self.prefetch) + 16);
        let lost = CancellationToken::new();
        let unsettled = Arc::new(Unsettled::new());
        let reader = Reader {
            arriving: Arriving::new(messages, Arc::clone(&unsettled)),
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
        let mut settler = Settler::new(channel, self.requeue_pause, Arc::clone(&unsettled));
        let end = self
            .settle(link, &mut settler, decided, &mut reader, &lost, &unsettled)
            .await;
        lost.cancel();
        unsettled.gone();
        reader.abort();
        self.answering.give_up();
        if settler.settled > 0 || born.elapsed() >= Quarantine::YOUTH {
            self.backoff.reset();
        }
        match &end {
            End::Released => self.quarantine = Quarantine::default(),
            End::Lost(_) => {
                self.quarantine.died(born.elapsed());
                if self.quarantine.has_just_begun() {
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
        unsettled: &Arc<Unsettled>,
    ) -> End {
        let ends_after = Quarantine::ends_after(self.prefetch);
        let (mut silence, mut settled) = (Silence::begins(), 0);
        let (mut decisions, mut cancelled, mut reading) = (Vec::new(), false, true);
        loop {
            let quarantined = self.quarantine.begun();
            if quarantined && settler.settled >= ends_after {
                return End::Released;
            }
            if settler.settled > settled {
                settled = settler.settled;
                silence = Silence::begins();
            }
            let told = select! {
                biased;
                event = link.events.recv() => match event {
                    None => return End::Lost(Lost::cut("the connection to RabbitMQ was lost")),
                    Some(Event::Closed { code, reason }) => return End::Lost(Lost::closed(format!("{reason} ({code})"))),
                    Some(Event::Cancelled) if !cancelled => {
                        return End::Lost(Lost::useless(format!("queue {} was deleted", self.queue)));
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
                            Ok(()) if !cancelled => End::Lost(Lost::useless(DELIVERIES_ENDED)),
                            Ok(()) => End::Drained,
                            Err(reason) => End::Lost(Lost::cut(reason)),
                        };
                    }
                    told
                }
                () = until(settler.tell_rest_at) => settler.tell_rest().await,
                () = until(settler.requeue_later.first().map(|(at, _)| *at)) => settler.requeue_due().await,
                () = lost.cancelled() => {
                    return End::Lost(Lost::unexpected("more was delivered than the prefetch allows"));
                }
                _ = &mut *reader, if reading => {
                    if !cancelled {
                        return End::Lost(Lost::useless(DELIVERIES_ENDED));
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
                question = self.answering.question() => {
                    // Letters are given up from there; nobody else asks for them.
                    let letters = matches!(self.group, ConsumerGroup::Store);
                    let dead = || self.topology.dead();
                    self.answering.ask(question, |due| {
                        ready(link, &self.queue, (due && letters).then(dead), Arc::clone(unsettled))
                    });
                    Ok(())
                }
                () = silence.lasts(|| unsettled.out()), if quarantined => return End::Released,
            };
            if let Err(reason) = told {
                return End::Lost(Lost::cut(reason));
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
