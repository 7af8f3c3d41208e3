//! Reads packets ahead of whoever asks for them.

use std::collections::VecDeque;
use std::sync::Arc;

use amqprs::channel::ConsumerMessage;
use amqprs::{BasicProperties, Deliver};
use tokio::select;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;
use warren_domain::Timestamp;
use warren_domain::ports::{DeadLetterReason, Delivery};

use crate::acks::Verdict;
use crate::consuming::Yielded;
use crate::dead_letters::{Letter, Origin, undecodable};
use crate::metrics::{ConsumeMetrics, Unsettled};
use crate::packet::{self, Decoded};
use crate::settlement::{Decision, PacketSettlement, Session};

/// Decodes what one channel delivers.
pub(crate) struct Reader {
    pub(crate) arriving: Arriving,
    pub(crate) session: Arc<Session>,
    /// The queue it reads from.
    pub(crate) queue: String,
    pub(crate) out: mpsc::Sender<Yielded>,
    pub(crate) closing: CancellationToken,
    pub(crate) metrics: Arc<ConsumeMetrics>,
}

/// What one channel delivers, counted as it comes, however long it then waits to be read.
pub(crate) struct Arriving {
    messages: UnboundedReceiver<ConsumerMessage>,
    unsettled: Arc<Unsettled>,
    /// What has come, bounded by the prefetch.
    raw: VecDeque<Raw>,
    /// More may come.
    open: bool,
}

impl Arriving {
    pub(crate) const fn new(messages: UnboundedReceiver<ConsumerMessage>, unsettled: Arc<Unsettled>) -> Self {
        Self {
            messages,
            unsettled,
            raw: VecDeque::new(),
            open: true,
        }
    }

    /// Waits until something more has come, or nothing will. Cancel safe.
    async fn more(&mut self) {
        match self.messages.recv().await {
            None => self.open = false,
            Some(message) => {
                if let Some(raw) = Raw::of(message) {
                    self.unsettled.delivered();
                    self.raw.push_back(raw);
                }
            }
        }
    }
}

/// How many packets are decoded at a time, on as many threads as the runtime has; beside those that are decoded and wait.
pub(crate) const DECODED_AT_ONCE: usize = 4;

/// A packet with less in it is decoded where it is read: handing it to another thread would cost more.
const WORTH_A_TASK: usize = 4 << 10;

/// A packet as it came.
struct Raw {
    deliver: Deliver,
    properties: BasicProperties,
    body: Vec<u8>,
}

/// A packet that was read, and what turned out to be in it.
struct Read {
    raw: Raw,
    decoded: Result<Decoded, DeadLetterReason>,
}

/// A packet on its way through decoding.
enum Decoding {
    Done(Box<Read>),
    Elsewhere(JoinHandle<Read>),
}

impl Raw {
    fn of(message: ConsumerMessage) -> Option<Self> {
        // amqprs hands out whole messages only, and says so in no type.
        Some(Self {
            deliver: message.deliver?,
            properties: message.basic_properties?,
            body: message.content?,
        })
    }

    fn decode(self) -> Read {
        let decoded = match packet::unsupported(&self.properties) {
            Some(why) => Err(undecodable(why)),
            None => some_message(packet::decode(&self.body)),
        };
        Read { raw: self, decoded }
    }

    fn begin_decoding(self) -> Decoding {
        if self.body.len() < WORTH_A_TASK {
            Decoding::Done(Box::new(self.decode()))
        } else {
            Decoding::Elsewhere(tokio::spawn(async move { self.decode() }))
        }
    }
}

/// Waits until the first of `decoding` is done, and takes it out. Cancel safe.
///
/// `Err`: decoding it panicked.
async fn first(decoding: &mut VecDeque<Decoding>) -> Option<Result<Read, JoinError>> {
    let done = match decoding.front_mut()? {
        Decoding::Done(_) => None,
        Decoding::Elsewhere(task) => Some(task.await),
    };
    let front = decoding.pop_front()?;
    match (front, done) {
        (Decoding::Done(read), _) => Some(Ok(*read)),
        (Decoding::Elsewhere(_), done) => done,
    }
}

impl Reader {
    /// Reads until the broker delivers nothing more, and gives back what is not decoded yet when the consumer is closed.
    ///
    /// Packets are decoded beside each other and handed over in the order they came.
    pub(crate) async fn run(mut self) {
        let mut decoding = VecDeque::new();
        loop {
            while decoding.len() < DECODED_AT_ONCE
                && let Some(raw) = self.arriving.raw.pop_front()
            {
                if self.closing.is_cancelled() {
                    self.give_back(raw.deliver.delivery_tag());
                } else {
                    decoding.push_back(raw.begin_decoding());
                }
            }
            if decoding.is_empty() && !self.arriving.open {
                return;
            }
            select! {
                biased;
                read = first(&mut decoding), if !decoding.is_empty() => {
                    let handed_over = match read {
                        Some(Ok(read)) => self.hand_over(read).await,
                        // The deliveries end, and with them the connection: the packet comes again, one at a time after a
                        // while, until the broker gives it up.
                        Some(Err(error)) => {
                            tracing::error!(%error, queue = self.queue, "decoding a packet panicked");
                            false
                        }
                        None => true,
                    };
                    if !handed_over {
                        return;
                    }
                }
                () = self.arriving.more(), if self.arriving.open => {}
            }
        }
    }

    /// Hands a packet to whoever asks for the next one, or to the dead letters; `false`: the connection is gone.
    async fn hand_over(&mut self, read: Read) -> bool {
        let Read {
            raw:
                Raw {
                    deliver,
                    properties,
                    body,
                },
            decoded,
        } = read;
        let tag = deliver.delivery_tag();
        let origin = Origin {
            queue: self.queue.clone(),
            exchange: deliver.exchange().clone(),
            routing_key: deliver.routing_key().clone(),
            attempt: packet::attempt(&properties),
            first_seen: published_at(&properties),
        };
        match decoded {
            Ok(decoded) => {
                let delivery = self.delivery(tag, deliver.redelivered(), &properties, decoded, body, origin);
                let lost = self.session.lost.clone();
                let sending = self.out.send(Yielded { delivery, lost });
                tokio::pin!(sending);
                loop {
                    select! {
                        biased;
                        sent = &mut sending => {
                            if sent.is_err() {
                                tracing::trace!("a delivery comes too late for a consumer that was closed");
                            }
                            break;
                        }
                        () = self.session.lost.cancelled() => return false,
                        () = self.arriving.more(), if self.arriving.open => {}
                    }
                }
            }
            Err(reason) => self.bury(tag, &properties, body, &origin, &reason),
        }
        true
    }

    fn give_back(&self, tag: u64) {
        let requeue = Decision::Settle(tag, Verdict::Requeue);
        if let Err(error) = self.session.decide(requeue) {
            tracing::trace!(%error, "RabbitMQ gives the delivery to somebody else by itself");
        }
    }

    fn delivery(
        &self,
        tag: u64,
        redelivered: bool,
        properties: &BasicProperties,
        decoded: Decoded,
        mut body: Vec<u8>,
        origin: Origin,
    ) -> Delivery {
        // amqprs gathers the frames of a body in a buffer that doubles: up to half of it is air.
        body.shrink_to_fit();
        let Decoded { messages, lines, bad } = decoded;
        self.metrics
            .delivered(messages.iter().map(|message| message.severity), redelivered);
        Delivery {
            messages,
            redelivered,
            attempt: origin.attempt,
            traces: packet::traces(properties),
            settlement: Box::new(PacketSettlement {
                session: Arc::clone(&self.session),
                tag,
                body,
                lines,
                bad,
                origin,
                decided: false,
            }),
        }
    }

    /// Makes a dead letter of a packet that holds no message, while others are read.
    ///
    /// As many at once as the prefetch allows, because each is unsettled until its letter is durable.
    fn bury(
        &self,
        tag: u64,
        properties: &BasicProperties,
        body: Vec<u8>,
        origin: &Origin,
        reason: &DeadLetterReason,
    ) {
        let letter = Letter::of_packet(origin, properties, reason);
        let (session, queue, detail) = (
            Arc::clone(&self.session),
            self.queue.clone(),
            reason.detail.clone(),
        );
        let attempt = origin.attempt;
        tokio::spawn(async move {
            match session.bury(tag, attempt, vec![(letter, body)]).await {
                Ok(()) => tracing::warn!(queue, detail, "a packet without a message is a dead letter now"),
                Err(error) => tracing::warn!(queue, detail, %error, "cannot make a dead letter; tries again"),
            }
        });
    }
}

/// Returns what was decoded if there is a message in it, else why the packet is of no use.
fn some_message(decoded: Decoded) -> Result<Decoded, DeadLetterReason> {
    if !decoded.messages.is_empty() {
        return Ok(decoded);
    }
    Err(undecodable(match &decoded.bad[..] {
        [] => "a packet without a line".to_owned(),
        [(_, rejection)] => rejection.to_string(),
        [(_, rejection), ..] => {
            format!(
                "{} lines, none of them a message; the first: {rejection}",
                decoded.bad.len()
            )
        }
    }))
}

/// Returns when a packet was published, by its publisher's clock, or else now.
fn published_at(properties: &BasicProperties) -> Timestamp {
    let seconds = properties
        .timestamp()
        .and_then(|seconds| i64::try_from(seconds).ok());
    seconds
        .and_then(|seconds| seconds.checked_mul(1_000_000))
        .and_then(Timestamp::from_unix_micros)
        .unwrap_or_else(Timestamp::now)
}
