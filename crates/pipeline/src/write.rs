//! Stores a batch, whatever the store says.

use std::time::Instant;

use metrics::{counter, histogram};
use tracing::{error, warn};
use warren_domain::ports::{DeadLetterReason, MessageStore, Refused, StoreError, Unhealthy};
use warren_domain::{Message, Severity, SeverityCounts};

use crate::breaker::{Breaker, Fate};
use crate::gather::Batch;
use crate::metrics::{
    BATCH_SECONDS, CONFLICTING, DUPLICATES, REPEATED, RETRIES, STORED, count_by_delivery, count_by_severity,
};
use crate::outage::{GaveUp, Outage};

/// Stores every message that the store takes; returns the others, by ascending place.
///
/// A batch with a row that the store refuses is halved until the row is found: its neighbours cost at most
/// `2 · log2(n)` further transactions. A store that is away is waited for, as long as `outage` has patience; so is one
/// that refuses so many that `breaker` takes it for a defect.
pub(crate) async fn write(
    store: &dyn MessageStore,
    breaker: &Breaker,
    batch: &Batch,
    mut outage: Outage,
) -> Result<Vec<Refused>, GaveUp> {
    let messages = &batch.messages;
    let mut refused = Vec::new();
    // The parts still to be stored, the first one last.
    let mut parts = Vec::new();
    parts.push(0..messages.len());
    while let Some(part) = parts.pop() {
        let started = Instant::now();
        let outcome = store.store(&messages[part.clone()]).await;
        #[cfg(feature = "planted-bugs")]
        if outcome.is_err() && warren_planted::planted(warren_planted::Bug::BatchErrorDropsBatch) {
            return Ok(refused);
        }
        let (verdict, failure) = match outcome {
            Ok(stored) => {
                histogram!(BATCH_SECONDS).record(started.elapsed().as_secs_f64());
                count_by_severity(STORED, &stored.inserted);
                if stored.repeated > 0 || stored.conflicting > 0 {
                    counter!(REPEATED).increment(stored.repeated);
                    counter!(CONFLICTING).increment(stored.conflicting);
                }
                if stored.duplicates != SeverityCounts::default() {
                    let probed = breaker.probed_in(&messages[part.clone()]);
                    let duplicates = less(&stored.duplicates, &probed);
                    // The store does not say which they are: as many as may have been stored before are taken for that.
                    let again = at_most(&duplicates, &batch.redelivered_in(&part));
                    count_by_delivery(DUPLICATES, &less(&duplicates, &again), &again);
                }
                breaker.taken(part.len());
                outage.succeeded();
                continue;
            }
            Err(StoreError::Rejected { reason, cause }) if part.len() == 1 => {
                outage.answered();
                let message = &messages[part.start];
                if breaker.refused(message, &reason) == Fate::Held {
                    // All that this batch has found refused waits together, and is tried again together.
                    let found = refused.drain(..).map(|refused: Refused| refused.index);
                    let held: Vec<_> = found.chain([part.start]).collect();
                    let ones = held.iter().map(|index| &messages[*index]);
                    wait_for(breaker, store, ones, &mut outage).await?;
                    parts.extend(held.into_iter().rev().map(|index| index..index + 1));
                    continue;
                }
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
                outage.answered();
                let middle = part.start + part.len() / 2;
                parts.push(middle..part.end);
                parts.push(part.start..middle);
                continue;
            }
            Err(failure @ StoreError::Unavailable { .. }) => ("unavailable", failure),
            Err(failure @ StoreError::Misconfigured { .. }) => ("misconfigured", failure),
        };
        counter!(RETRIES, "verdict" => verdict).increment(1);
        parts.push(part);
        let reason = format!("paused: {failure}");
        outage.wait(started, reason, || log_pause(&failure)).await?;
    }
    refused.sort_unstable_by_key(|refused| refused.index);
    Ok(refused)
}

/// Waits until the store takes something that it refused; tries all that is held, in turn: much of it may be poison.
async fn wait_for(
    breaker: &Breaker,
    store: &dyn MessageStore,
    held: impl Iterator<Item = &Message> + Clone + Send,
    outage: &mut Outage,
) -> Result<(), GaveUp> {
    breaker.holds(held.clone());
    let mut reason = breaker.why();
    for message in held.cycle() {
        // The breaker has said it in the log.
        outage
            .wait(Instant::now(), format!("paused: {reason}"), || {})
            .await?;
        match breaker.try_again(store, message).await {
            Ok(()) => break,
            Err(Unhealthy(still)) => reason = still,
        }
    }
    outage.succeeded();
    Ok(())
}

/// Returns the smaller count of each severity.
fn at_most(counts: &SeverityCounts, most: &SeverityCounts) -> SeverityCounts {
    by_severity(|severity| counts.get(severity).min(most.get(severity)))
}

/// Returns what is left of each severity.
fn less(counts: &SeverityCounts, taken: &SeverityCounts) -> SeverityCounts {
    by_severity(|severity| counts.get(severity).saturating_sub(taken.get(severity)))
}

fn by_severity(count: impl Fn(Severity) -> u64) -> SeverityCounts {
    let mut counts = SeverityCounts::default();
    Severity::ALL
        .into_iter()
        .for_each(|severity| counts.add(severity, count(severity)));
    counts
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
pub(crate) fn cause(failure: &dyn std::error::Error) -> String {
    failure.source().map(ToString::to_string).unwrap_or_default()
}
