//! The publishing port on RabbitMQ.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use metrics::gauge;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use warren_domain::ports::{HealthCheck, MessagePublisher, PublishError, Unhealthy, Unpublished};
use warren_domain::{Message, Severity, Source, TraceContext};

use crate::backoff::Backoff;
use crate::call::{Budget, Call};
use crate::config::AmqpConfig;
use crate::connection::Connector;
use crate::error::ConfigError;
use crate::metrics::PublishMetrics;
use crate::packing::{Address, Chunk, PacketLimits};
use crate::status::Status;
use crate::topology::Topology;
use crate::window::WindowLimits;
use crate::writer::Writing;

/// How much longer than its confirms the closing of a publisher may take: what it is declaring is declared to the end,
/// and the broker gets a farewell.
const CLOSE_GRACE: Duration = Duration::from_secs(15);

/// Publishes to RabbitMQ: packed, confirmed, mandatory; a call never lasts longer than `publish_timeout`.
///
/// Messages are turned into lines in the caller's task; one task of its own publishes and waits for the confirms.
/// That task connects by itself, again and again: a broker that is away makes calls fail with
/// [`PublishError::Unavailable`], at once when it has been away for longer than 400 ms.
#[derive(Debug)]
pub struct AmqpPublisher {
    sender: Sender,
}

impl AmqpPublisher {
    /// Starts publishing; the broker may be away. Needs a tokio runtime around it.
    ///
    /// # Errors
    /// [`ConfigError`] when the settings cannot be used, or the files they name cannot be read.
    pub fn start(config: AmqpConfig) -> Result<Self, ConfigError> {
        let config = config.checked()?;
        let sender = Sender::start(&config, "publish")?;
        Ok(Self { sender })
    }

    /// Takes no more messages, waits for the confirms of those it has, and closes the connection.
    ///
    /// Lasts 15 s longer than `publish_timeout` at most, and only while the broker hangs. Dropping the publisher does
    /// the same in the background.
    pub async fn close(&self) {
        self.sender.close().await;
    }
}

#[async_trait]
impl MessagePublisher for AmqpPublisher {
    async fn publish(&self, messages: Vec<Message>, trace: Option<TraceContext>) -> Result<(), Unpublished> {
        if messages.is_empty() {
            return Ok(());
        }
        let deadline = self.sender.deadline();
        if let Some(error) = self.sender.refusal() {
            return Err(Unpublished::all(messages.len(), &error));
        }
        let call = Call::new();
        // Which messages of the call each chunk holds, and those that did not even become one.
        let mut chunks: Vec<Vec<usize>> = Vec::new();
        let mut errors: Vec<(usize, PublishError)> = Vec::new();
        for places in by_address(&messages) {
            let mut places = places.into_iter().peekable();
            let mut carried = Vec::new();
            while let Some((held, lines)) = self.sender.next_chunk(&messages, &mut places, &mut carried) {
                let first = &messages[held[0]];
                let address = Address::Messages {
                    severity: first.severity,
                    source: first.source.clone(),
                };
                let handed = self
                    .sender
                    .hand_over(&call, address, lines, held.len(), trace, deadline);
                match handed.await {
                    Ok(()) => chunks.push(held),
                    Err(error) => errors.extend(held.into_iter().map(|place| (place, error.clone()))),
                }
            }
        }
        drop(messages);
        let outcomes = call.outcomes(deadline).await;
        for (held, outcome) in chunks.into_iter().zip(outcomes) {
            let error = match outcome {
                Some(Ok(())) => continue,
                Some(Err(error)) => error,
                None => self.sender.overdue(),
            };
            errors.extend(held.into_iter().map(|place| (place, error.clone())));
        }
        if errors.is_empty() {
            return Ok(());
        }
        errors.sort_unstable_by_key(|(place, _)| *place);
        Err(Unpublished { errors })
    }
}

#[async_trait]
impl HealthCheck for AmqpPublisher {
    fn name(&self) -> &'static str {
        "rabbitmq"
    }

    async fn check(&self) -> Result<(), Unhealthy> {
        self.sender.status.check().await
    }
}

/// Groups the places of messages by severity and source, each in the order of the call.
fn by_address(messages: &[Message]) -> Vec<Vec<usize>> {
    if let [_] = messages {
        return vec![vec![0]];
    }
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut known: HashMap<(Severity, &Source), usize> = HashMap::new();
    for (place, message) in messages.iter().enumerate() {
        let group = *known
            .entry((message.severity, &message.source))
            .or_insert_with(|| {
                groups.push(Vec::new());
                groups.len() - 1
            });
        groups[group].push(place);
    }
    groups
}

/// Hands chunks to the writing task and keeps it alive.
#[derive(Debug)]
pub(crate) struct Sender {
    queue: mpsc::Sender<Chunk>,
    budget: Budget,
    packet: PacketLimits,
    timeout: Duration,
    status: Arc<Status>,
    closing: CancellationToken,
    tasks: TaskTracker,
}

impl Sender {
    /// Starts the writing task; `config` has been checked.
    pub(crate) fn start(config: &AmqpConfig, role: &'static str) -> Result<Self, ConfigError> {
        let packet = PacketLimits {
            messages: config.packet_max_messages,
            bytes: usize::try_from(config.packet_max_bytes.as_u64()).unwrap_or(usize::MAX),
        };
        // Every chunk has a share of the budget, of at least one message: the queue never is what makes them wait.
        let (queue, waiting) = mpsc::channel(config.max_pending_messages);
        let status = Arc::new(Status::idle(role));
        status.away("not connected to RabbitMQ yet");
        let closing = CancellationToken::new();
        let writing = Writing {
            connector: Connector::new(config, role)?,
            topology: Topology::new(config),
            packet,
            window: WindowLimits {
                rounds: config.max_unconfirmed_rounds,
                packets: config.max_unconfirmed_packets,
                bytes: usize::try_from(config.max_unconfirmed_bytes.as_u64()).unwrap_or(usize::MAX),
            },
            round_pause: config.round_pause,
            confirm_timeout: config.publish_timeout,
            connect_timeout: config.connect_timeout,
            backoff: Backoff::new(config.reconnect_min, config.reconnect_max),
            queue: waiting,
            status: Arc::clone(&status),
            closing: closing.clone(),
            metrics: PublishMetrics::new(role),
            staged: VecDeque::new(),
            again: VecDeque::new(),
            one_by_one: false,
        };
        gauge!("warren_amqp_packet_max_messages").set(packet.messages as f64);
        let tasks = TaskTracker::new();
        tasks.spawn(writing.run());
        tasks.close();
        Ok(Self {
            queue,
            budget: Budget::new(
                config.max_pending_messages,
                config.max_pending_bytes.as_u64(),
                role,
            ),
            packet,
            timeout: config.publish_timeout,
            status,
            closing,
            tasks,
        })
    }

    /// Returns when a call that begins now has to end.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }

    /// Returns why a call is better refused at once, if it is.
    pub(crate) fn refusal(&self) -> Option<PublishError> {
        if self.closing.is_cancelled() {
            return Some(PublishError::unavailable("the publisher was closed"));
        }
        self.status.refusal(Instant::now())
    }

    /// Tells why something was not confirmed in time, as far as is known.
    pub(crate) fn overdue(&self) -> PublishError {
        self.status.overdue()
    }

    /// Writes the lines of the next messages that fit into a packet together, at least one.
    ///
    /// `carried` is the line of the next message if it is written already: it was the first that did not fit.
    fn next_chunk(
        &self,
        messages: &[Message],
        places: &mut std::iter::Peekable<impl Iterator<Item = usize>>,
        carried: &mut Vec<u8>,
    ) -> Option<(Vec<usize>, Vec<u8>)> {
        let first = places.next()?;
        let mut lines = std::mem::take(carried);
        if lines.is_empty() {
            lines.reserve(512);
            messages[first].append_json_line(&mut lines);
        }
        let mut held = vec![first];
        while held.len() < self.packet.messages
            && let Some(place) = places.peek().copied()
        {
            let before = lines.len();
            messages[place].append_json_line(&mut lines);
            if lines.len() > self.packet.bytes {
                *carried = lines.split_off(before);
                break;
            }
            held.push(place);
            places.next();
        }
        // What waits is counted by its length.
        if lines.capacity() > 2 * lines.len() {
            lines.shrink_to_fit();
        }
        Some((held, lines))
    }

    /// Hands a chunk to the writing task; waits for room until `deadline`. The outcome goes to `call`.
    ///
    /// # Errors
    /// [`PublishError::Unavailable`] when there was no room in time.
    pub(crate) async fn hand_over(
        &self,
        call: &Arc<Call>,
        address: Address,
        lines: Vec<u8>,
        messages: usize,
        trace: Option<TraceContext>,
        deadline: Instant,
    ) -> Result<(), PublishError> {
        let share = self.budget.share(messages, lines.len(), deadline).await?;
        let chunk = Chunk {
            address,
            lines,
            messages,
            trace,
            deadline,
            ticket: call.ticket(),
            share,
        };
        // A chunk that cannot be handed over is dropped, and its ticket tells the outcome.
        if let Err(error) = self.queue.try_send(chunk) {
            tracing::trace!(%error, "a chunk came too late");
        }
        Ok(())
    }

    pub(crate) async fn close(&self) {
        self.closing.cancel();
        if timeout(self.timeout + CLOSE_GRACE, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("the publisher did not close in time");
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(severity: &str, source: &str) -> Message {
        let json = serde_json::json!({
            "id": warren_domain::MessageId::generate().to_string(),
            "severity": severity, "source": source, "body": "",
        });
        Message::from_json(json.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn messages_are_grouped_by_severity_and_source() {
        let messages = [("info", "a"), ("error", "a"), ("info", "a"), ("info", "b")]
            .map(|(severity, source)| message(severity, source));
        assert_eq!(by_address(&messages), [vec![0, 2], vec![1], vec![3]]);
        assert_eq!(by_address(&messages[..1]), [vec![0]]);
    }
}
