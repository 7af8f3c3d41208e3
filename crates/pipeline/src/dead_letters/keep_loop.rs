//! Gets what lies in a broker's queue of dead letters to where people can work with it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use metrics::gauge;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use warren_domain::ports::{
    DeadDelivery, DeadLetter, DeadLetterConsumer, DeadLetterFilter, DeadLetters, Unhealthy,
};

use super::metrics::{PAUSED, kept};
use crate::health::{Paused, WorkerHealth};
use crate::{Backoff, WorkerConfig};

/// Moves dead letters from a broker to where they are kept; acknowledges each delivery after that.
///
/// It takes the first delivery once the place of the letters answers, and holds what it has while that is away: the
/// letters wait in the broker. What a delivery holds can always be kept, so nothing is ever dead-lettered from here.
pub struct KeepLoop {
    consumer: Box<dyn DeadLetterConsumer>,
    keeping: Keeping,
    drain_timeout: Duration,
}

/// What keeps letters, whoever yields them.
#[derive(Debug)]
struct Keeping {
    letters: Arc<dyn DeadLetters>,
    retry: (Duration, Duration),
    health: WorkerHealth,
}

impl fmt::Debug for KeepLoop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeepLoop")
            .field("keeping", &self.keeping)
            .finish_non_exhaustive()
    }
}

impl KeepLoop {
    /// Makes a loop that moves what `consumer` yields into `letters`, with the waits of `config`.
    pub fn new(
        consumer: Box<dyn DeadLetterConsumer>,
        letters: Arc<dyn DeadLetters>,
        config: &WorkerConfig,
    ) -> Self {
        Self {
            consumer,
            keeping: Keeping {
                letters,
                retry: (config.retry_min, config.retry_max),
                health: WorkerHealth::new("dead_letters", gauge!(PAUSED)),
            },
            drain_timeout: config.drain_timeout,
        }
    }

    /// Returns what tells whether the loop is at work.
    pub fn health(&self) -> WorkerHealth {
        self.keeping.health.clone()
    }

    /// Runs until `stop` is cancelled or the consumer has ended; what is not kept by then is given back.
    pub async fn run(self, stop: CancellationToken) {
        let Self {
            mut consumer,
            keeping,
            drain_timeout,
        } = self;
        if stop.run_until_cancelled(keeping.until_ready()).await.is_some() {
            keeping.health.set(Ok(()));
            while let Some(delivery) = stop.run_until_cancelled(consumer.next()).await {
                let Some(delivery) = delivery else {
                    let ended = "the consumer of the dead letters has ended";
                    warn!("{ended}");
                    keeping.health.set(Err(Unhealthy(ended.to_owned())));
                    break;
                };
                keeping.keep(delivery, &stop).await;
            }
        }
        if timeout(drain_timeout, consumer.close()).await.is_err() {
            warn!("the broker did not take the last acknowledgement in time; those letters come again");
        }
    }
}

impl Keeping {
    async fn until_ready(&self) {
        let everything = DeadLetterFilter::default();
        let looking = || self.letters.list(&everything, None, 1);
        self.patiently("the dead letters wait in the broker", looking)
            .await;
    }

    /// Keeps what was delivered, and acknowledges it; gives it back when `stop` comes first.
    async fn keep(&self, delivery: DeadDelivery, stop: &CancellationToken) {
        let DeadDelivery { letters, settlement } = delivery;
        let keeping = self.patiently("dead letters wait to be kept", || self.letters.keep(&letters));
        let kept = tokio::select! {
            biased;
            () = keeping => true,
            () = stop.cancelled() => false,
        };
        if !kept {
            return;
        }
        count(&letters);
        match settlement.acknowledge().await {
            Ok(()) => debug!(letters = letters.len(), "kept dead letters"),
            Err(error) => info!(%error, "dead letters were kept, but not acknowledged; they come again"),
        }
    }

    /// Repeats a call until it succeeds.
    async fn patiently<T, F>(&self, what: &str, mut call: impl FnMut() -> F)
    where
        F: Future<Output = Result<T, warren_domain::ports::DeadLettersError>>,
    {
        let mut backoff = Backoff::new(self.retry.0, self.retry.1);
        let mut paused: Option<Paused> = None;
        while let Err(error) = call().await {
            let reason = format!("{what}: {error}");
            match &paused {
                Some(paused) => paused.because(reason),
                None => {
                    warn!(%error, cause = crate::write::cause(&error), "{what}");
                    paused = Some(self.health.pause(reason));
                }
            }
            sleep(backoff.next_wait()).await;
        }
        if paused.is_some() {
            info!("the place of the dead letters is back");
        }
    }
}

fn count(letters: &[DeadLetter]) {
    for letter in letters {
        let facts = &letter.facts;
        kept(facts.reason.as_str());
        // One line each: a letter is rare, and a log that knows of it is where an operator looks first.
        debug!(id = %facts.id, reason = %facts.reason, queue = %facts.queue, "kept a dead letter");
    }
}
