//! The task behind a live tail: it keeps the connection, and reads without a pause.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use amqprs::FieldValue;
use amqprs::channel::{
    BasicAckArguments, BasicConsumeArguments, BasicQosArguments, Channel, ConsumerMessage,
    QueuePurgeArguments,
};
use memchr::memchr_iter;
use tokio::select;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use warren_domain::{Message, Selection, Severity, SeverityCounts};

use crate::backoff::{Backoff, until};
use crate::connection::{Connector, Event, Link};
use crate::declaration::{Declaration, bind, declare, exchange, own_queue, passing_exchange};
use crate::error::{LinkError, Lost, cause};
use crate::packet;
use crate::ring::{Ring, Unread};
use crate::status::{Status, chain};
use crate::tail::{Shared, TailEvent};
use crate::topology::{DECLARE_TIMEOUT, EVERY_SOURCE, Topology, keys};

/// How many packets wait on the broker before it drops the oldest…
const QUEUE_PACKETS: i64 = 10_000;

/// …and how many bytes of them.
const QUEUE_BYTES: i64 = 16 << 20;

/// How many packets are on their way at once: amqprs keeps what it was sent in a buffer without a bound, so this and
/// the size of packets is its bound.
const PREFETCH: u16 = 64;

/// How many deliveries are acknowledged at once: each acknowledgement costs the broker about what a delivery does.
const ENOUGH: u16 = PREFETCH / 2;

/// How soon after a delivery it is asked whether the broker had to drop something.
const LOOK_AFTER: Duration = Duration::from_secs(1);

/// How long deliveries wait to be acknowledged together, if they are not enough before.
const ACK_AFTER: Duration = Duration::from_millis(50);

/// How long acknowledging may take; only a writer that is stuck takes longer.
const ACK_TIMEOUT: Duration = Duration::from_secs(5);

/// The consumer's name on its channel, which has no other.
const CONSUMER_TAG: &str = "warren-tail";

/// What the task behind a tail works with.
pub(crate) struct Tailing {
    pub(crate) connector: Connector,
    pub(crate) topology: Topology,
    pub(crate) selection: Selection,
    pub(crate) connect_timeout: Duration,
    pub(crate) backoff: Backoff,
    pub(crate) status: Arc<Status>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) closing: CancellationToken,
    /// Tells, by being dropped, that there is nothing left to do.
    pub(crate) _ended: DropGuard,
}

/// A connection that delivers.
struct Subscription {
    link: Link,
    messages: UnboundedReceiver<ConsumerMessage>,
    dropped: String,
}

type Looking = Pin<Box<dyn Future<Output = Result<u32, String>> + Send>>;

impl Tailing {
    /// Works until it is asked to close.
    pub(crate) async fn run(mut self) {
        let (mut failures, mut listened, closing) = (0_u32, false, self.closing.clone());
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
                Ok(mut subscription) => {
                    failures = 0;
                    self.status.connected();
                    let again = std::mem::replace(&mut listened, true);
                    self.say(if again {
                        TailEvent::Reconnected
                    } else {
                        TailEvent::Listening
                    });
                    let born = Instant::now();
                    match self.serve(&mut subscription).await {
                        Ok(()) => {
                            subscription.link.close().await;
                            break;
                        }
                        Err(lost) => {
                            if born.elapsed() >= self.connect_timeout {
                                self.backoff.reset();
                            }
                            self.status.lost(&lost);
                            self.say(TailEvent::Disconnected { reason: lost.reason });
                        }
                    }
                }
                Err(error) => {
                    failures = failures.wrapping_add(1);
                    let reason = chain(&error);
                    if self.status.failed(&reason) {
                        self.say(TailEvent::Disconnected { reason });
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
        self.status.away("the tail was closed");
        self.shared.with(Ring::close);
    }

    fn say(&self, said: TailEvent) {
        self.shared.with(|ring| ring.say(said));
    }

    /// Declares the queue and asks for deliveries.
    async fn subscribed(&self, mut link: Link) -> Result<Subscription, LinkError> {
        // A new name for each connection: the broker may not have noticed yet that the last one is gone.
        let name = self.topology.tail_queue();
        let dropped = format!("{name}.dropped");
        declare(&mut link, DECLARE_TIMEOUT, self.declarations(&name, &dropped)).await?;
        let channel = link.channel()?.clone();
        let arguments = BasicConsumeArguments::new(&name, CONSUMER_TAG)
            .manual_ack(true)
            .exclusive(true)
            .finish();
        let consuming = link.run(self.connect_timeout, async move {
            channel
                .basic_qos(BasicQosArguments::new(0, PREFETCH, false))
                .await?;
            channel.basic_consume_rx(arguments).await
        });
        let (_, messages) = consuming.await?.map_err(|error| LinkError::Connect {
            endpoint: link.endpoint().to_owned(),
            cause: cause(error),
        })?;
        Ok(Subscription {
            link,
            messages,
            dropped,
        })
    }

    /// The queue, and beside it one that gets what the queue drops and keeps the last of it: whether it holds something
    /// tells whether something was dropped, which nothing else does.
    fn declarations(&self, name: &str, dropped: &str) -> Vec<Declaration> {
        let selected = Severity::ALL
            .into_iter()
            .filter(|severity| self.selection.severities.contains(*severity));
        let exchanges: Vec<_> = selected
            .map(|severity| self.topology.exchange(severity))
            .collect();
        let mut declarations: Vec<_> = exchanges.iter().map(|name| exchange(name)).collect();
        let classic = || ("x-queue-type", FieldValue::from("classic"));
        declarations.push(passing_exchange(dropped));
        declarations.push(own_queue(
            dropped,
            [classic(), ("x-max-length", FieldValue::l(1))],
        ));
        declarations.push(bind(dropped, dropped, EVERY_SOURCE));
        declarations.push(own_queue(
            name,
            [
                classic(),
                ("x-max-length", FieldValue::l(QUEUE_PACKETS)),
                ("x-max-length-bytes", FieldValue::l(QUEUE_BYTES)),
                ("x-dead-letter-exchange", FieldValue::from(dropped.to_owned())),
            ],
        ));
        for key in keys(&self.selection) {
            declarations.extend(exchanges.iter().map(|exchange| bind(name, exchange, key)));
        }
        declarations
    }

    /// Reads until it is asked to close, or the connection is gone.
    async fn serve(&self, subscription: &mut Subscription) -> Result<(), Lost> {
        let Subscription {
            link,
            messages,
            dropped,
        } = subscription;
        let channel = link.channel().map_err(|error| Lost::cut(chain(&error)))?.clone();
        let (mut unacknowledged, mut last, mut acknowledge_at) = (0, 0, None);
        let (mut look_at, mut looking) = (None, None);
        loop {
            select! {
                biased;
                event = link.events.recv() => match event {
                    None => return Err(Lost::cut("the connection to RabbitMQ was lost")),
                    Some(Event::Closed { code, reason }) => return Err(Lost::closed(format!("{reason} ({code})"))),
                    Some(Event::Cancelled) => return Err(Lost::useless("the tail's queue was deleted")),
                    // The channel publishes nothing, so nothing else concerns it.
                    Some(_) => {}
                },
                () = self.closing.cancelled() => return Ok(()),
                outcome = looked(&mut looking) => {
                    looking = None;
                    if outcome.map_err(Lost::cut)? > 0 {
                        self.say(TailEvent::Overrun);
                    }
                }
                () = until(look_at), if looking.is_none() => {
                    look_at = None;
                    looking = Some(self.look(link, &channel, dropped));
                }
                () = until(acknowledge_at) => {
                    (unacknowledged, acknowledge_at) = (0, None);
                    acknowledge(&channel, last).await.map_err(Lost::cut)?;
                }
                message = messages.recv() => {
                    let Some(message) = message else {
                        return Err(Lost::useless("RabbitMQ ended the deliveries"));
                    };
                    look_at = look_at.or_else(|| Some(Instant::now() + LOOK_AFTER));
                    if let Some(tag) = self.take(message) {
                        (unacknowledged, last) = (unacknowledged + 1, tag);
                        acknowledge_at = acknowledge_at.or_else(|| Some(Instant::now() + ACK_AFTER));
                        if unacknowledged >= ENOUGH {
                            (unacknowledged, acknowledge_at) = (0, None);
                            acknowledge(&channel, last).await.map_err(Lost::cut)?;
                        }
                    }
                }
            }
        }
    }

    /// Asks whether the broker has dropped something since it was last asked.
    fn look(&self, link: &Link, channel: &Channel, dropped: &str) -> Looking {
        let (channel, purge) = (channel.clone(), QueuePurgeArguments::new(dropped));
        let purging = link.run(
            self.connect_timeout,
            async move { channel.queue_purge(purge).await },
        );
        Box::pin(async move {
            let purged = purging.await.map_err(|error| chain(&error))?;
            Ok(purged.map_err(|error| error.to_string())?.unwrap_or(0))
        })
    }

    /// Puts a packet into the ring; returns the delivery tag.
    fn take(&self, message: ConsumerMessage) -> Option<u64> {
        let (deliver, properties, body) = (
            message.deliver?,
            message.basic_properties?,
            message.content.unwrap_or_default(),
        );
        match packet::unsupported(&properties) {
            Some(reason) => {
                let lines = lines(&body).max(1);
                self.say(TailEvent::Undecodable { lines, reason });
            }
            None => {
                let messages = self.count(deliver.exchange(), &body);
                self.shared.with(|ring| ring.push(Unread { messages, body }));
            }
        }
        Some(deliver.delivery_tag())
    }

    /// Counts the messages of a packet without reading it: its exchange says what they are.
    fn count(&self, exchange: &str, body: &[u8]) -> SeverityCounts {
        let severity = self.topology.severity(exchange).or_else(|| {
            // Somebody has bound an exchange of their own to one of ours. The first line says what the others are.
            let first = body.split(|byte| *byte == b'\n').next()?;
            Some(Message::from_json(first).ok()?.severity)
        });
        let mut counts = SeverityCounts::default();
        counts.add(severity.unwrap_or(Severity::Info), lines(body));
        counts
    }
}

/// Tells how many lines a body has that say something.
fn lines(body: &[u8]) -> u64 {
    let (mut lines, mut start) = (0, 0);
    for end in memchr_iter(b'\n', body).chain([body.len()]) {
        lines += u64::from(!body[start..end].iter().all(u8::is_ascii_whitespace));
        start = end + 1;
    }
    lines
}

async fn acknowledge(channel: &Channel, tag: u64) -> Result<(), String> {
    let acknowledging = channel.basic_ack(BasicAckArguments::new(tag, true));
    match timeout(ACK_TIMEOUT, acknowledging).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("RabbitMQ reads no acknowledgements".to_owned()),
    }
}

/// Waits for the answer to a question that may not have been asked.
async fn looked(looking: &mut Option<Looking>) -> Result<u32, String> {
    match looking {
        Some(looking) => looking.await,
        None => std::future::pending().await,
    }
}
