//! Waiting for what an effect needs, while it is away.

use std::time::{Duration, Instant};

use tokio::time::sleep;
use tracing::info;

use crate::health::Paused;
use crate::{Backoff, WorkerHealth};

/// What was needed was away for longer than deliveries may be held; the loop stays paused.
#[derive(Debug)]
pub(crate) struct GaveUp(pub(crate) Paused);

/// How one batch waits for what its effect needs: not at all, until it is away.
#[derive(Debug)]
pub(crate) struct Outage {
    /// What is needed, as the log calls it.
    needs: &'static str,
    health: WorkerHealth,
    backoff: Backoff,
    patience: Duration,
    away: Option<Away>,
}

/// Over with the first answer of whatever kind.
#[derive(Debug)]
struct Away {
    since: Instant,
    paused: Paused,
}

impl Outage {
    pub(crate) const fn new(
        needs: &'static str,
        health: WorkerHealth,
        backoff: Backoff,
        patience: Duration,
    ) -> Self {
        Self {
            needs,
            health,
            backoff,
            patience,
            away: None,
        }
    }

    /// Ends the pause: what refuses a message is not away.
    pub(crate) fn answered(&mut self) {
        if let Some(Away { since, .. }) = self.away.take() {
            info!(
                away_seconds = since.elapsed().as_secs_f64(),
                "{} is back", self.needs
            );
        }
    }

    /// Ends the pause, and lets the next one begin with short waits.
    pub(crate) fn succeeded(&mut self) {
        self.answered();
        self.backoff.reset();
    }

    /// Waits before the next try, after one that began at `tried` and failed for `reason`; `say` logs the first failure.
    ///
    /// # Errors
    /// It has been away for too long.
    pub(crate) async fn wait(
        &mut self,
        tried: Instant,
        reason: String,
        say: impl FnOnce() + Send,
    ) -> Result<(), GaveUp> {
        let away = match self.away.take() {
            Some(away) => {
                away.paused.because(reason);
                away
            }
            None => {
                say();
                Away {
                    since: tried,
                    paused: self.health.pause(reason),
                }
            }
        };
        #[cfg(feature = "planted-bugs")]
        if warren_planted::planted(warren_planted::Bug::RequeueOnDatabaseError) {
            return Err(GaveUp(away.paused));
        }
        if away.since.elapsed() >= self.patience {
            return Err(GaveUp(away.paused));
        }
        self.away = Some(away);
        sleep(self.backoff.next_wait()).await;
        Ok(())
    }
}
