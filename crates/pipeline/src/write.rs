//! Stores a batch, whatever the store says.

use std::time::{Duration, Instant};

use metrics::{counter, gauge, histogram};
use tokio::time::sleep;
use tracing::{error, info, warn};
use warren_domain::ports::{DeadLetterReason, MessageStore, Refused, StoreError};
use warren_domain::{Message, SeverityCounts};

use crate::Backoff;
use crate::metrics::{BATCH_SECONDS, DEAD, DUPLICATES, PAUSED, RETRIES, STORED, count_by_severity};
use crate::store_loop::WorkerHealth;

/// The store was away for longer than deliveries may be held.
#[derive(Debug)]
pub(crate) struct GaveUp;

/// Stores every message that the store takes; returns the others, by ascending place.
///
/// A batch with a row that the store refuses is halved until the row is found: its neighbours cost at most
/// `2 · log2(n)` further transactions. A store that is away is waited for, up to `patience`.
pub(crate) async fn write(
    store: &dyn MessageStore,
    messages: &[Message],
    health: &WorkerHealth,
    mut backoff: Backoff,
    patience: Duration,
) -> Result<Vec<Refused>, GaveUp> {
    let mut refused = Vec::new();
    // The parts still to be stored, the first one last.
    let mut parts = Vec::new();
    parts.push(0..messages.len());
    let mut away_since: Option<Instant> = None;
    while let Some(part) = parts.pop() {
        let started = Instant::now();
        let outcome = store.store(&messages[part.clone()]).await;
        let (verdict, failure) = match outcome {
            Ok(stored) => {
                histogram!(BATCH_SECONDS).record(started.elapsed().as_secs_f64());
                count_by_severity(STORED, &stored.inserted);
                count_by_severity(DUPLICATES, &stored.duplicates);
                if let Some(since) = away_since.take() {
                    info!(away_seconds = since.elapsed().as_secs_f64(), "the store is back");
                    resume(health);
                }
                backoff.reset();
                continue;
            }
            Err(StoreError::Rejected { reason, cause }) if part.len() == 1 => {
                let message = &messages[part.start];
                warn!(id = %message.id, reason, cause = ?cause, "the store refuses a message; it becomes a dead letter");
                count_by_severity(DEAD, &SeverityCounts::from_iter([message.severity]));
                let reason = DeadLetterReason {
                    code: "refused_by_store",
                    detail: reason,
                };
                refused.push(Refused {
                    index: part.start,
                    reason,
                });
                continue;
            }
            Err(StoreError::Rejected { .. }) => {
                let middle = part.start + part.len() / 2;
                parts.push(middle..part.end);
                parts.push(part.start..middle);
                continue;
            }
            Err(failure @ StoreError::Unavailable { .. }) => ("unavailable", failure),
            Err(failure @ StoreError::Misconfigured { .. }) => ("misconfigured", failure),
        };
        counter!(RETRIES, "verdict" => verdict).increment(1);
        let since = *away_since.get_or_insert_with(|| {
            let cause = cause(&failure);
            match verdict {
                "misconfigured" => {
                    error!(error = %failure, cause, "pausing: the store is not set up for this program");
                }
                _ => warn!(error = %failure, cause, "pausing until the store is back"),
            }
            gauge!(PAUSED).set(1.0);
            started
        });
        health.pause(&failure);
        if since.elapsed() >= patience {
            return Err(GaveUp);
        }
        parts.push(part);
        sleep(backoff.next_wait()).await;
    }
    Ok(refused)
}

fn resume(health: &WorkerHealth) {
    gauge!(PAUSED).set(0.0);
    health.resume();
}

/// Names what is behind a failure, for the log.
fn cause(failure: &StoreError) -> String {
    std::error::Error::source(failure)
        .map(ToString::to_string)
        .unwrap_or_default()
}
