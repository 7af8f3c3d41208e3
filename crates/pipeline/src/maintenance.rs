//! Keeps the store fit for the days to come.

use std::sync::Arc;
use std::time::Duration;

use metrics::counter;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use warren_domain::Timestamp;
use warren_domain::ports::{StoreError, StoreMaintenance};

use crate::Backoff;
use crate::config::MaintenanceConfig;
use crate::metrics::MAINTENANCE;

/// Runs a round of maintenance now and at every interval, until `stop` is cancelled.
///
/// A failed round is logged once and tried again sooner, with backoff up to the interval.
pub async fn run_maintenance(
    store: Arc<dyn StoreMaintenance>,
    config: MaintenanceConfig,
    stop: CancellationToken,
) {
    let mut backoff = Backoff::new(Duration::from_millis(500).min(config.interval), config.interval);
    let mut failing = false;
    loop {
        let Some(round) = stop.run_until_cancelled(store.maintain(Timestamp::now())).await else {
            return;
        };
        let wait = match round {
            Ok(done) => {
                counter!(MAINTENANCE, "outcome" => "done").increment(1);
                if !done.prepared.is_empty() || !done.removed.is_empty() {
                    info!(prepared = ?done.prepared, removed = ?done.removed, "maintained the store");
                }
                failing = false;
                backoff.reset();
                config.interval
            }
            Err(failure) => {
                counter!(MAINTENANCE, "outcome" => verdict(&failure)).increment(1);
                if !failing {
                    warn!(error = %failure, "maintenance of the store failed; trying again");
                    failing = true;
                }
                backoff.next_wait()
            }
        };
        if stop.run_until_cancelled(sleep(wait)).await.is_none() {
            return;
        }
    }
}

const fn verdict(failure: &StoreError) -> &'static str {
    match failure {
        StoreError::Unavailable { .. } => "unavailable",
        StoreError::Misconfigured { .. } => "misconfigured",
        StoreError::Rejected { .. } => "rejected",
    }
}
