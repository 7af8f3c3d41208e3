//! A live tail: what is published now, for people to look at.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use warren_domain::ports::HealthCheck;
use warren_domain::{Message, Selection, SeverityCounts};

use crate::backoff::Backoff;
use crate::config::AmqpConfig;
use crate::connection::Connector;
use crate::error::ConfigError;
use crate::packet;
use crate::ring::{Entry, Ring, RingLimits, Unread};
use crate::status::Status;
use crate::tailing::Tailing;
use crate::topology::Topology;

/// How much waits for whoever is slow to take it.
const LIMITS: RingLimits = RingLimits {
    entries: 10_000,
    bytes: 16 << 20,
};

/// How long closing waits for the farewell.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// What a live tail has to show.
#[derive(Clone, Debug, PartialEq)]
pub enum TailEvent {
    /// It listens: every message that is confirmed from now on comes, or is said to be missed.
    Listening,
    /// A message that it selects.
    Message(Box<Message>),
    /// Exactly so many messages that it selects came here, and were dropped because nobody took them in time. They are
    /// counted as lines, by the exchange and the key that they were published under.
    Missed {
        /// How many of each severity.
        messages: SeverityCounts,
    },
    /// RabbitMQ dropped messages before it could send them; how many, and where before here, is not known.
    Overrun,
    /// Lines came here that are no messages.
    Undecodable {
        /// How many, at least.
        lines: u64,
        /// What is wrong with the first of them.
        reason: String,
    },
    /// There is no connection, or no more; tries again by itself. Said once for each reason.
    Disconnected {
        /// Why, for people.
        reason: String,
    },
    /// It listens again; what was published since [`TailEvent::Disconnected`], and whether anything was, is not known.
    Reconnected,
}

/// Listens to what is published now, without taking it from anybody.
///
/// It has a queue of its own on the broker, `<prefix>.tail.<random>`, which goes with the connection, holds 10,000
/// packets and 16 MiB at most, and drops its oldest. A task of its own takes what comes without a pause, however slow
/// whoever calls [`AmqpTail::next`] is: up to 10,000 messages and 16 MiB of lines wait for that, unread, then the oldest
/// packets are dropped and counted, but for the last. So a tail holds up no publisher, and always says where something is
/// missing.
///
/// It needs nothing but the exchanges, which it declares. It makes no dead letters: what it cannot read it tells, or counts
/// where it was dropped.
/// A lost connection is opened again, with backoff.
#[derive(Debug)]
pub struct AmqpTail {
    selection: Selection,
    shared: Arc<Shared>,
    /// What was read and is still to be said.
    ready: VecDeque<TailEvent>,
    status: Arc<Status>,
    closing: CancellationToken,
    ended: CancellationToken,
}

/// What the tail and its task share.
#[derive(Debug)]
pub(crate) struct Shared {
    ring: Mutex<Ring>,
    pushed: Notify,
}

impl Shared {
    /// Changes the ring, and wakes whoever waits for it.
    pub(crate) fn with<T>(&self, change: impl FnOnce(&mut Ring) -> T) -> T {
        let changed = change(&mut self.ring());
        self.pushed.notify_one();
        changed
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AmqpTail {
    /// Begins to listen to what `selection` selects; needs a tokio runtime.
    ///
    /// # Errors
    /// [`ConfigError`] when the settings cannot be used, or the files they name cannot be read.
    pub fn start(config: AmqpConfig, selection: Selection) -> Result<Self, ConfigError> {
        let config = config.checked()?;
        let status = Arc::new(Status::idle("tail"));
        let shared = Arc::new(Shared {
            ring: Mutex::new(Ring::new(LIMITS)),
            pushed: Notify::new(),
        });
        let (closing, ended) = (CancellationToken::new(), CancellationToken::new());
        let tailing = Tailing {
            connector: Connector::new(&config, "tail")?,
            topology: Topology::new(&config),
            selection: selection.clone(),
            connect_timeout: config.connect_timeout,
            backoff: Backoff::new(config.reconnect_min, config.reconnect_max),
            status: Arc::clone(&status),
            shared: Arc::clone(&shared),
            closing: closing.clone(),
            _ended: ended.clone().drop_guard(),
        };
        tokio::spawn(tailing.run());
        Ok(Self {
            selection,
            shared,
            ready: VecDeque::new(),
            status,
            closing,
            ended,
        })
    }

    /// Waits for what is next. Cancel safe. `None`: its task has ended, which only a fault of the program does.
    pub async fn next(&mut self) -> Option<TailEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let (entry, closed) = {
                let mut ring = self.shared.ring();
                (ring.pop(), ring.is_closed())
            };
            match entry {
                Some(Entry::Said(event)) => return Some(event),
                Some(Entry::Packet(packet)) => self.read(&packet),
                None if closed => return None,
                // A push since the look leaves its permit.
                None => self.shared.pushed.notified().await,
            }
        }
    }

    /// Passes over the messages that have come and were not taken, without reading them; returns how many of each severity
    /// that were, those included that would have been missed. What else there is to say is still said.
    pub fn pass_over(&mut self) -> SeverityCounts {
        let mut passed = self.shared.ring().pass_over();
        self.ready.retain(|event| match event {
            TailEvent::Message(message) => {
                passed.add(message.severity, 1);
                false
            }
            _ => true,
        });
        passed
    }

    /// Returns how many messages came so far, those included that are missed or still to be taken.
    pub fn received(&self) -> u64 {
        self.shared.ring().received()
    }

    fn read(&mut self, packet: &Unread) {
        let packet::Decoded { messages, bad, .. } = packet::decode(&packet.body);
        let selected = messages
            .into_iter()
            .filter(|message| self.selection.matches(message));
        self.ready
            .extend(selected.map(|message| TailEvent::Message(Box::new(message))));
        if let Some((_, rejection)) = bad.first() {
            self.ready.push_back(TailEvent::Undecodable {
                lines: bad.len() as u64,
                reason: rejection.to_string(),
            });
        }
    }

    /// Returns what tells whether the tail is connected; `rabbitmq` by name.
    pub fn health(&self) -> Arc<dyn HealthCheck> {
        Arc::clone(&self.status) as Arc<dyn HealthCheck>
    }

    /// Says farewell to the broker, so that the queue is gone; waits a few seconds at most. Dropping the tail does the
    /// same without waiting.
    pub async fn close(self) {
        self.closing.cancel();
        if timeout(CLOSE_TIMEOUT, self.ended.cancelled()).await.is_err() {
            tracing::debug!("RabbitMQ did not answer the farewell of a tail in time");
        }
    }
}

impl Drop for AmqpTail {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}
