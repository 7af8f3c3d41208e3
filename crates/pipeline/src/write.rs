//! Stores a batch, whatever the store says.

use std::time::{Duration, Instant};

use metrics::{counter, histogram};
use tokio::time::sleep;
use tracing::{error, info, warn};
use warren_domain::Message;
use warren_domain::ports::{DeadLetterReason, MessageStore, Refused, StoreError};

use crate::health::Paused;
use crate::metrics::{BATCH_SECONDS, DUPLICATES, RETRIES, STORED, count_by_severity};
use crate::{Backoff, WorkerHealth};

/// The store was away for longer than deliveries may be held; the loop stays paused.
#[derive(Debug)]
pub(crate) struct GaveUp(pub(crate) Paused);

/// Waiting for the store; over with the first answer of whatever kind.
struct Away {
    since: Instant,
    paused: Paused,
}

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
    let mut away: Option<Away> = None;
    while let Some(part) = parts.pop() {
        let started = Instant::now();
        let outcome = store.store(&messages[part.clone()]).await;
        let (verdict, failure) = match outcome {
            Ok(stored) => {
                histogram!(BATCH_SECONDS).record(started.elapsed().as_secs_f64());
                count_by_severity(STORED, &stored.inserted);
                count_by_severity(DUPLICATES, &stored.duplicates);
                answered(&mut away);
                backoff.reset();
                continue;
            }
            Err(StoreError::Rejected { reason, cause }) if part.len() == 1 => {
                answered(&mut away);
                let message = &messages[part.start];
                warn!(id = %message.id, reason, cause = ?cause, "the store refuses a message; it becomes a dead letter");
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
                answered(&mut away);
                let middle = part.start + part.len() / 2;
                parts.push(middle..part.end);
                parts.push(part.start..middle);
                continue;
            }
            Err(failure @ StoreError::Unavailable { .. }) => ("unavailable", failure),
            Err(failure @ StoreError::Misconfigured { .. }) => ("misconfigured", failure),
        };
        counter!(RETRIES, "verdict" => verdict).increment(1);
        let reason = format!("paused: {failure}");
        let waiting = match away.take() {
            Some(waiting) => {
                waiting.paused.because(reason);
                waiting
            }
            None => {
                log_pause(&failure);
                Away {
                    since: started,
                    paused: health.pause(reason),
                }
            }
        };
        if waiting.since.elapsed() >= patience {
            return Err(GaveUp(waiting.paused));
        }
        away = Some(waiting);
        parts.push(part);
        sleep(backoff.next_wait()).await;
    }
    Ok(refused)
}

/// Ends the pause: a store that refuses a message is not away.
fn answered(away: &mut Option<Away>) {
    if let Some(Away { since, .. }) = away.take() {
        info!(away_seconds = since.elapsed().as_secs_f64(), "the store is back");
    }
}

fn log_pause(failure: &StoreError) {
    let cause = cause(failure);
    match failure {
        StoreError::Misconfigured { .. } => {
            error!(error = %failure, cause, "pausing: the store is not set up for this program");
        }
        _ => warn!(error = %failure, cause, "pausing until the store is back"),
    }
}

/// Names what is behind a failure, for the log.
fn cause(failure: &StoreError) -> String {
    std::error::Error::source(failure)
        .map(ToString::to_string)
        .unwrap_or_default()
}
