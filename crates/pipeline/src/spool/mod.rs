//! Puts messages by while the broker is away.
//!
//! A spool is a durable queue of this process alone, used when the broker cannot take messages. Two ways lead through
//! it, and a message takes one of them:
//!
//! - *Straight*: the broker is asked first. What it cannot take now ([`PublishError::Unavailable`]) is committed to the
//!   spool before the client hears yes, and from then on new messages go
//! - *through the spool*, at once, until the drain has handed the broker all that waited. So nobody waits for a broker
//!   that is known to be away, and the drain, which tries it again and again, is the one who finds out that it is back.
//!   New messages go straight again once nothing waits and nobody puts anything by.
//!
//! What is unroutable is not spooled: the broker is there, and what it lacks does not mend itself.
//!
//! The broker may have taken what it did not confirm in time, so a message may reach it twice, under one id: whoever
//! stores or counts knows it by that.

mod drain;
mod hand_over;
mod health;
mod turn;
mod way;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use warren_domain::ports::{GroupLag, HealthCheck, MessageConsumer, MessagePublisher, PublishError};
use warren_domain::{Message, SeverityCounts, Timestamp, TraceContext};

use self::drain::Drain;
use self::way::{Entering, Way, Ways};
use crate::intake::publish_each;
use crate::metrics::{SPOOL_DEAD, SPOOL_REPEATED, SPOOLED, SeverityCounters};

pub use self::health::SpoolHealth;

/// The ways into and out of a durable queue that this process has for itself.
#[derive(Debug)]
pub struct SpoolPorts {
    /// The way in.
    pub publisher: Arc<dyn MessagePublisher>,
    /// The way out, of which there is one.
    pub consumer: Box<dyn MessageConsumer>,
    /// How much waits.
    pub lag: Arc<dyn GroupLag>,
    /// Whether it takes messages.
    pub health: Arc<dyn HealthCheck>,
}

/// A spool at work; see the module's documentation.
///
/// Cloning is cheap; the clones share everything.
#[derive(Clone, Debug)]
pub struct Spool(Arc<Shared>);

/// What the ways in and the drain share.
#[derive(Debug)]
struct Shared {
    broker: Arc<dyn MessagePublisher>,
    queue: Arc<dyn MessagePublisher>,
    lag: Arc<dyn GroupLag>,
    health: Arc<dyn HealthCheck>,
    ways: Ways,
    /// An outage was said in the log, and its end was not.
    announced: AtomicBool,
    /// What the drain has taken out and the broker has not confirmed.
    held: Mutex<Held>,
    spooled: SeverityCounters,
    /// What the broker is given once more, though it may have taken it and not said so.
    repeated: SeverityCounters,
    dead: SeverityCounters,
    stop: CancellationToken,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// Messages that are out of the spool and not yet dropped from it.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    messages: u64,
    oldest: Option<Timestamp>,
}

/// What became of a call: an error as that of [`publish_each`], and how many messages are in the spool.
pub(crate) type Published = (Result<(), Vec<Option<PublishError>>>, usize);

impl Spool {
    /// Puts a spool in front of `broker`, and begins to drain what an earlier process left in it.
    ///
    /// Make it after the metrics recorder is installed, within a tokio runtime: it keeps handles of counters.
    pub async fn start(broker: Arc<dyn MessagePublisher>, ports: SpoolPorts) -> Self {
        let waiting = match ports.lag.lag().await {
            Ok(lag) if lag.packets == 0 => false,
            Ok(lag) => {
                info!(
                    packets = lag.packets,
                    messages = lag.messages,
                    "the spool of an earlier run holds messages; they are drained first"
                );
                true
            }
            Err(error) => {
                warn!(%error, "it cannot be told what the spool holds; messages pass through it until that is known");
                true
            }
        };
        let way = match waiting {
            true => Way::ThroughSpool { broker: None },
            false => Way::Straight,
        };
        let shared = Arc::new(Shared {
            broker,
            queue: ports.publisher,
            lag: ports.lag,
            health: ports.health,
            ways: Ways::new(way),
            announced: AtomicBool::new(false),
            held: Mutex::default(),
            spooled: SeverityCounters::new(SPOOLED),
            repeated: SeverityCounters::new(SPOOL_REPEATED),
            dead: SeverityCounters::new(SPOOL_DEAD),
            stop: CancellationToken::new(),
            tasks: Mutex::default(),
        });
        let drain = Drain::new(Arc::clone(&shared), ports.consumer);
        let tasks = vec![
            tokio::spawn(drain.run()),
            tokio::spawn(drain::report(Arc::clone(&shared))),
        ];
        *lock(&shared.tasks) = tasks;
        Self(shared)
    }

    /// Publishes, or puts by what the broker cannot take now.
    pub(crate) async fn publish(&self, messages: Vec<Message>, trace: Option<TraceContext>) -> Published {
        let shared = &self.0;
        let (way, _entering) = shared.ways.choose().await;
        match way {
            Way::Straight | Way::StraightAlone => shared.publish_straight(messages, trace).await,
            Way::ThroughSpool { broker } => shared.publish_through(messages, trace, broker).await,
        }
    }

    /// Drains on while the broker takes what is drained, at most for `patience`; what is left is drained by the next
    /// start. New messages must have ended before.
    pub async fn stop(&self, patience: Duration) {
        self.0.stop.cancel();
        let tasks = std::mem::take(&mut *lock(&self.0.tasks));
        let aborts: Vec<_> = tasks.iter().map(JoinHandle::abort_handle).collect();
        let ending = async {
            for task in tasks {
                if let Err(error) = task.await {
                    tracing::error!(%error, "a task of the spool ended badly");
                }
            }
        };
        if timeout(patience, ending).await.is_err() {
            warn!("the spool was not drained within {patience:?}; the next start goes on");
            // What they hold is given back, and the broker may have taken it: it is known by its ids.
            aborts.iter().for_each(tokio::task::AbortHandle::abort);
        }
    }
}

impl Shared {
    /// Notes that the broker takes nothing, and says so once; whoever found that out holds what is returned until its
    /// messages are put by. `None`: nothing is put by any more.
    fn broker_is_away(&self, reason: String) -> Option<Entering<'_>> {
        let entering = self.ways.broker_is_away(reason.clone());
        if entering.is_some() && !self.announced.swap(true, Ordering::Relaxed) {
            warn!(reason, "the broker takes no messages; they are spooled");
        }
        entering
    }

    /// Notes that the broker has confirmed something.
    fn broker_takes(&self) {
        if self.announced.load(Ordering::Relaxed) && self.announced.swap(false, Ordering::Relaxed) {
            info!("the broker takes messages again");
        }
    }

    async fn publish_straight(&self, messages: Vec<Message>, trace: Option<TraceContext>) -> Published {
        let mut copies: Vec<_> = messages.iter().cloned().map(Some).collect();
        let mut errors = match publish_each(&*self.broker, messages, trace).await {
            Ok(()) => {
                self.broker_takes();
                return (Ok(()), 0);
            }
            Err(errors) => errors,
        };
        let mut reason = None;
        let (mut places, mut left) = (Vec::new(), Vec::new());
        for (place, error) in errors.iter().enumerate() {
            if let Some(PublishError::Unavailable { reason: why, .. }) = error {
                reason.get_or_insert_with(|| why.clone());
                places.push(place);
                left.extend(copies[place].take());
            }
        }
        let Some(reason) = reason else {
            return (Err(errors), 0);
        };
        drop(copies);
        let Some(_entering) = self.broker_is_away(reason.clone()) else {
            return (Err(errors), 0);
        };
        let severities: Vec<_> = left.iter().map(|message| message.severity).collect();
        let spooled = match self.put_by(left, trace).await {
            Ok(()) => {
                self.repeated.add(&SeverityCounts::from_iter(severities));
                for place in &places {
                    errors[*place] = None;
                }
                places.len()
            }
            Err(refused) => {
                let put_by = severities.into_iter().zip(&refused);
                let put_by = put_by.filter(|(_, refused)| refused.is_none());
                let put_by: SeverityCounts = put_by.map(|(severity, _)| severity).collect();
                self.repeated.add(&put_by);
                let spooled = usize::try_from(put_by.total()).unwrap_or(usize::MAX);
                for (place, refused) in places.into_iter().zip(refused) {
                    errors[place] = refused.map(|error| both(&reason, error));
                }
                spooled
            }
        };
        let failed = errors.iter().any(Option::is_some);
        (if failed { Err(errors) } else { Ok(()) }, spooled)
    }

    async fn publish_through(
        &self,
        messages: Vec<Message>,
        trace: Option<TraceContext>,
        broker: Option<String>,
    ) -> Published {
        let count = messages.len();
        // The broker is not known to be away: should the spool be full, or broken, it may take these as well.
        let copies = match broker {
            None => messages.iter().cloned().map(Some).collect(),
            Some(_) => Vec::new(),
        };
        let Err(refused) = self.put_by(messages, trace).await else {
            return (Ok(()), count);
        };
        let spooled = refused.iter().filter(|error| error.is_none()).count();
        let outcome = match broker {
            None => self.publish_unspooled(copies, refused, trace).await,
            Some(reason) => {
                let refused = refused.into_iter();
                Err(refused.map(|error| Some(both(&reason, error?))).collect())
            }
        };
        (outcome, spooled)
    }

    /// Asks the broker for those messages that the spool has refused, at their places in `refused`.
    async fn publish_unspooled(
        &self,
        mut messages: Vec<Option<Message>>,
        mut refused: Vec<Option<PublishError>>,
        trace: Option<TraceContext>,
    ) -> Result<(), Vec<Option<PublishError>>> {
        let places: Vec<_> = (0..refused.len())
            .filter(|place| refused[*place].is_some())
            .collect();
        let left = places
            .iter()
            .filter_map(|place| messages[*place].take())
            .collect();
        let Err(errors) = publish_each(&*self.broker, left, trace).await else {
            self.broker_takes();
            return Ok(());
        };
        let mut away = None;
        for (place, error) in places.into_iter().zip(errors) {
            refused[place] = match (error, refused[place].take()) {
                (Some(PublishError::Unavailable { reason, .. }), Some(spool)) => {
                    let error = both(&reason, spool);
                    away.get_or_insert(reason);
                    Some(error)
                }
                (error, _) => error,
            };
        }
        if let Some(reason) = away {
            // Until the drain knows better, nobody else need wait for it.
            drop(self.broker_is_away(reason));
        }
        Err(refused)
    }

    /// Commits messages to the spool.
    async fn put_by(
        &self,
        messages: Vec<Message>,
        trace: Option<TraceContext>,
    ) -> Result<(), Vec<Option<PublishError>>> {
        let severities: Vec<_> = messages.iter().map(|message| message.severity).collect();
        let outcome = publish_each(&*self.queue, messages, trace).await;
        match &outcome {
            Ok(()) => self.spooled.add(&SeverityCounts::from_iter(severities)),
            Err(errors) => {
                let kept = severities.into_iter().zip(errors);
                let kept = kept.filter(|(_, error)| error.is_none());
                self.spooled.add(&kept.map(|(severity, _)| severity).collect());
            }
        }
        outcome
    }
}

/// Says of a message that neither takes it.
fn both(broker: &str, spool: PublishError) -> PublishError {
    match spool {
        PublishError::Unavailable { reason, cause } => PublishError::Unavailable {
            reason: format!("{broker}; nor can the spool: {reason}"),
            cause,
        },
        other => other,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
