//! The queue of the dead letters, read by a consumer that no message can harm.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use metrics::gauge;
use tokio::select;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use warren_domain::ports::{
    DeadDelivery, DeadLetter, DeadLetterConsumer, DeadSettlement, HealthCheck, SettleError,
};

use crate::backoff::Backoff;
use crate::config::AmqpConfig;
use crate::dead_link::{CHANNEL, Link, ended, farewell, limited};
use crate::error::{ConfigError, Lost};
use crate::metrics::DEAD_UNSETTLED;
use crate::status::Status;
use crate::tls;
use crate::topology::Topology;
use crate::unpacking::Raw;
use crate::url::Endpoint;
use crate::wire::{BODY, Frame, HEADER, HEARTBEAT, Header, Writer};

/// How many messages are on their way at once.
const PREFETCH: u16 = 100;

/// How many bytes of letters are gathered; nothing more is read from the network while they wait.
const MOST_BYTES: usize = 8 << 20;

/// How long letters gather after the first, so that a burst of them is kept with few commits.
const LINGER: Duration = Duration::from_millis(50);

/// How long closing waits until the last delivery is settled and RabbitMQ knows.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(15);

/// What nobody sends more than: RabbitMQ's own limit is 128 MiB, and 16 MiB since 4.0.
const MOST_BODY: u64 = 512 << 20;

/// Consumes the queue of the dead letters from RabbitMQ.
///
/// It reads what amqprs cannot (see `wire`), gathers what is there into deliveries of at most some hundred messages or
/// 8 MiB, one at a time, and acknowledges each when it is settled. A connection of its own, which starts with the first
/// call to [`DeadLetterConsumer::next`] and is mended inside. The queue is declared by the publishers and consumers of
/// messages; while it is not there, this waits.
#[derive(Debug)]
pub struct AmqpDeadLetters {
    deliveries: mpsc::Receiver<Yielded>,
    reading: Option<Box<Reading>>,
    status: Arc<Status>,
    closing: CancellationToken,
    ended: CancellationToken,
}

/// A delivery, and whether its connection is gone.
#[derive(Debug)]
struct Yielded {
    delivery: DeadDelivery,
    lost: CancellationToken,
}

impl AmqpDeadLetters {
    /// Makes a consumer that does nothing until it is asked for a delivery. Needs a tokio runtime then.
    ///
    /// # Errors
    /// [`ConfigError`] when the settings cannot be used, or the files they name cannot be read.
    pub fn new(config: AmqpConfig) -> Result<Self, ConfigError> {
        let config = config.checked()?;
        let endpoints = config
            .url
            .endpoints()
            .map_err(|fault| ConfigError::one("url", fault.to_string()))?;
        let tls = match endpoints.iter().any(|endpoint| endpoint.tls) {
            true => Some(TlsConnector::from(tls::client_config(&config)?)),
            false => None,
        };
        let (out, deliveries) = mpsc::channel(1);
        let status = Arc::new(Status::idle("keep"));
        let (closing, ended) = (CancellationToken::new(), CancellationToken::new());
        let reading = Reading {
            next: fastrand::usize(..endpoints.len()),
            endpoints,
            tls,
            queue: Topology::new(&config).dead(),
            backoff: Backoff::new(config.reconnect_min, config.reconnect_max),
            config,
            status: Arc::clone(&status),
            out,
            closing: closing.clone(),
            ended: ended.clone(),
        };
        Ok(Self {
            deliveries,
            reading: Some(Box::new(reading)),
            status,
            closing,
            ended,
        })
    }

    /// Returns what tells whether the consumer is connected; `rabbitmq` by name. Unhealthy until it has begun.
    pub fn health(&self) -> Arc<dyn HealthCheck> {
        Arc::clone(&self.status) as Arc<dyn HealthCheck>
    }
}

#[async_trait]
impl DeadLetterConsumer for AmqpDeadLetters {
    async fn next(&mut self) -> Option<DeadDelivery> {
        if let Some(reading) = self.reading.take() {
            tokio::spawn(reading.run());
        }
        loop {
            let Yielded { delivery, lost } = self.deliveries.recv().await?;
            // What came on a connection that is gone comes again.
            if !lost.is_cancelled() {
                return Some(delivery);
            }
        }
    }

    async fn close(&mut self) {
        self.closing.cancel();
        self.deliveries.close();
        while let Some(given_back) = self.deliveries.recv().await {
            drop(given_back);
        }
        let begun = self.reading.take().is_none();
        if begun && timeout(CLOSE_TIMEOUT, self.ended.cancelled()).await.is_err() {
            tracing::warn!(
                "the last dead letters were not settled in time; RabbitMQ takes them back by itself"
            );
        }
    }
}

impl Drop for AmqpDeadLetters {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

/// The task behind the consumer.
struct Reading {
    endpoints: Vec<Endpoint>,
    next: usize,
    tls: Option<TlsConnector>,
    queue: String,
    config: AmqpConfig,
    backoff: Backoff,
    status: Arc<Status>,
    out: mpsc::Sender<Yielded>,
    closing: CancellationToken,
    ended: CancellationToken,
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reading({})", self.queue)
    }
}

/// One delivery's way back to the connection it came on.
#[derive(Debug)]
struct Settling {
    tag: u64,
    session: Session,
    decided: bool,
}

#[derive(Clone, Debug)]
struct Session {
    decisions: mpsc::Sender<Decision>,
    lost: CancellationToken,
}

/// What is to become of everything up to a tag.
#[derive(Clone, Copy, Debug)]
enum Decision {
    Acknowledge(u64),
    GiveBack(u64),
}

impl Decision {
    const fn tag(self) -> u64 {
        match self {
            Self::Acknowledge(tag) | Self::GiveBack(tag) => tag,
        }
    }
}

impl Settling {
    fn decide(&mut self, decision: Decision) -> Result<(), SettleError> {
        self.decided = true;
        if self.session.lost.is_cancelled() {
            return Err(SettleError::ConnectionLost);
        }
        // There is one delivery at a time, and room for it.
        self.session
            .decisions
            .try_send(decision)
            .map_err(|_| SettleError::ConnectionLost)
    }
}

#[async_trait]
impl DeadSettlement for Settling {
    async fn acknowledge(mut self: Box<Self>) -> Result<(), SettleError> {
        let tag = self.tag;
        self.decide(Decision::Acknowledge(tag))
    }
}

impl Drop for Settling {
    fn drop(&mut self) {
        let tag = self.tag;
        if !self.decided
            && let Err(error) = self.decide(Decision::GiveBack(tag))
        {
            tracing::trace!(%error, "RabbitMQ gives the letters to somebody else by itself");
        }
    }
}

/// A message whose frames are still coming.
struct Arriving {
    tag: u64,
    exchange: String,
    routing_key: String,
    header: Option<Header>,
    body: Vec<u8>,
}

/// What has arrived and is not handed over.
#[derive(Default)]
struct Gathered {
    letters: Vec<DeadLetter>,
    bytes: usize,
    /// The last message among them.
    tag: u64,
    /// How many messages are among them.
    messages: u16,
    since: Option<Instant>,
}

impl Reading {
    async fn run(mut self: Box<Self>) {
        let closing = self.closing.clone();
        self.status.away("not connected to RabbitMQ yet");
        while !closing.is_cancelled() {
            let endpoint = &self.endpoints[self.next];
            let opening = Link::open(endpoint, self.tls.as_ref(), &self.config, &self.queue, PREFETCH);
            let opened = select! {
                opened = timeout(self.config.connect_timeout, opening) => opened,
                () = closing.cancelled() => break,
            };
            let endpoint = endpoint.to_string();
            let reason = match opened {
                Ok(Ok(link)) => {
                    tracing::info!(endpoint, queue = self.queue, "reads the dead letters");
                    self.status.connected();
                    let began = Instant::now();
                    let lost = CancellationToken::new();
                    let served = self.serve(link, &lost).await;
                    lost.cancel();
                    if began.elapsed() >= self.config.connect_timeout {
                        self.backoff.reset();
                    }
                    match served {
                        Ok(()) => break,
                        Err(error) => {
                            let reason = error.to_string();
                            tracing::warn!(
                                reason,
                                queue = self.queue,
                                "lost the connection for dead letters"
                            );
                            let lost = match error.kind() {
                                io::ErrorKind::InvalidData => Lost::unexpected(reason),
                                io::ErrorKind::ConnectionAborted => Lost::closed(reason),
                                io::ErrorKind::Other => Lost::useless(reason),
                                _ => Lost::cut(reason),
                            };
                            self.status.lost(&lost);
                            None
                        }
                    }
                }
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some(format!("no answer within {:?}", self.config.connect_timeout)),
            };
            if let Some(reason) = reason {
                let reason = format!("cannot read the dead letters from {endpoint}: {reason}");
                if self.status.failed(&reason) {
                    tracing::warn!(reason, "keeps trying");
                }
                self.next = (self.next + 1) % self.endpoints.len();
            }
            let pause = self.backoff.pause();
            select! {
                () = sleep(pause) => {}
                () = closing.cancelled() => {}
            }
        }
        self.status.away("the consumer was closed");
        self.ended.cancel();
    }

    /// Reads until it is asked to close, or the connection is gone.
    async fn serve(&self, link: Link, lost: &CancellationToken) -> io::Result<()> {
        let Link {
            mut frames,
            mut writer,
            heartbeat,
        } = link;
        let (decisions, mut decided) = mpsc::channel(2);
        let session = Session {
            decisions,
            lost: lost.clone(),
        };
        let (mut arriving, mut gathered) = (None, Gathered::default());
        let (mut heard_at, mut beat_at) = (Instant::now(), Instant::now() + heartbeat / 2);
        let mut out_at_all = false;
        let mut unsettled = Unsettled::default();
        loop {
            let full = gathered.bytes >= MOST_BYTES || gathered.messages >= PREFETCH;
            let due_at = match gathered.since {
                Some(_) if full => Some(Instant::now()),
                Some(since) => Some(since + LINGER),
                None => None,
            };
            let listening = !heartbeat.is_zero() && !full;
            select! {
                biased;
                decision = decided.recv() => {
                    let Some(decision) = decision else { return Ok(()) };
                    settle(&mut writer, decision).await?;
                    unsettled.settled(decision.tag());
                    out_at_all = false;
                }
                // Nothing is out: whoever closed it has settled everything, and what is gathered comes again.
                () = self.closing.cancelled(), if !out_at_all => {
                    return farewell(&mut writer).await;
                }
                () = sleep_until(beat_at), if !heartbeat.is_zero() => {
                    beat_at = Instant::now() + heartbeat / 2;
                    limited(writer.frame(HEARTBEAT, 0, &[])).await?;
                }
                permit = ready(&self.out, due_at), if !out_at_all && due_at.is_some() => {
                    // Whoever closed it asks for nothing more.
                    let Some(permit) = permit else { return farewell(&mut writer).await };
                    let Gathered { letters, tag, .. } = std::mem::take(&mut gathered);
                    let settlement = Settling { tag, session: session.clone(), decided: false };
                    let delivery = DeadDelivery { letters, settlement: Box::new(settlement) };
                    permit.send(Yielded { delivery, lost: lost.clone() });
                    out_at_all = true;
                }
                frame = frames.next(), if !full => {
                    heard_at = Instant::now();
                    let frame = frame?;
                    if let Some(arrived) = take(&mut arriving, &frame)? {
                        unsettled.arrived(arrived.tag);
                        gathered.add(arrived);
                    }
                }
                () = sleep_until(heard_at + 2 * heartbeat), if listening => {
                    let fault = format!("RabbitMQ has said nothing for {:?}", 2 * heartbeat);
                    return Err(io::Error::new(io::ErrorKind::TimedOut, fault));
                }
            }
            if full {
                // What else was delivered stays unread.
                unsettled.unread();
                // Nobody listened meanwhile, so nothing is proved by having heard nothing.
                heard_at = Instant::now();
            }
        }
    }
}

/// How many messages of one connection are not settled, by their tags, shown while it lasts.
///
/// The broker gives back what was not settled when the connection ends, or gives it to another.
#[derive(Default)]
struct Unsettled {
    newest: u64,
    settled: u64,
}

impl Unsettled {
    fn arrived(&mut self, tag: u64) {
        self.newest = tag;
        self.show(tag.saturating_sub(self.settled));
    }

    fn settled(&mut self, up_to: u64) {
        self.settled = up_to;
        self.show(self.newest.saturating_sub(up_to));
    }

    /// Shows the most there can be.
    fn unread(&self) {
        self.show(PREFETCH.into());
    }

    fn show(&self, packets: u64) {
        gauge!(DEAD_UNSETTLED).set(packets as f64);
    }
}

impl Drop for Unsettled {
    fn drop(&mut self) {
        self.show(0);
    }
}

impl Gathered {
    fn add(&mut self, arrived: Arriving) {
        let Arriving {
            tag,
            exchange,
            routing_key,
            header,
            body,
        } = arrived;
        self.bytes += body.len();
        self.messages += 1;
        self.tag = tag;
        self.since.get_or_insert_with(Instant::now);
        let raw = Raw {
            exchange,
            routing_key,
            header: header.unwrap_or_default(),
            body,
        };
        self.letters.extend(raw.into_letters());
    }
}

/// Waits until the moment is there and somebody asks for a delivery; `None`: nobody ever will.
async fn ready(out: &mpsc::Sender<Yielded>, due_at: Option<Instant>) -> Option<mpsc::Permit<'_, Yielded>> {
    if let Some(due_at) = due_at {
        sleep_until(due_at).await;
    }
    out.reserve().await.ok()
}

/// Takes a frame in; returns the message that it completes.
fn take(arriving: &mut Option<Arriving>, frame: &Frame) -> io::Result<Option<Arriving>> {
    let garbled = || {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "RabbitMQ sends frames in no known order",
        )
    };
    match frame.kind {
        HEARTBEAT => return Ok(None),
        HEADER => {
            let message = arriving.as_mut().ok_or_else(garbled)?;
            let header = Header::read(&frame.payload).ok_or_else(garbled)?;
            if header.body_bytes > MOST_BODY {
                return Err(garbled());
            }
            message.header = Some(header);
        }
        BODY => {
            let message = arriving.as_mut().ok_or_else(garbled)?;
            message.body.extend_from_slice(&frame.payload);
        }
        _ => match frame.method() {
            Some((60, 60, mut reader)) => {
                let mut read = || {
                    let _consumer_tag = reader.short()?;
                    let tag = reader.u64()?;
                    let _redelivered = reader.u8()?;
                    Some((tag, reader.short()?, reader.short()?))
                };
                let (tag, exchange, routing_key) = read().ok_or_else(garbled)?;
                *arriving = Some(Arriving {
                    tag,
                    exchange,
                    routing_key,
                    header: None,
                    body: Vec::new(),
                });
            }
            Some(method) => return Err(ended(method)),
            None => return Err(garbled()),
        },
    }
    let complete = arriving.as_ref().is_some_and(|message| {
        let header = message.header.as_ref();
        header.is_some_and(|header| message.body.len() as u64 >= header.body_bytes)
    });
    Ok(if complete { arriving.take() } else { None })
}

async fn settle(writer: &mut Writer, decision: Decision) -> io::Result<()> {
    const MULTIPLE: u8 = 1;
    const MULTIPLE_AND_REQUEUE: u8 = 0b11;
    let (method, tag, bits) = match decision {
        Decision::Acknowledge(tag) => ((60, 80), tag, MULTIPLE),
        Decision::GiveBack(tag) => ((60, 120), tag, MULTIPLE_AND_REQUEUE),
    };
    let arguments = [&tag.to_be_bytes()[..], &[bits]].concat();
    limited(writer.method(CHANNEL, method, &arguments)).await
}
