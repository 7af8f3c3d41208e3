//! How many dead letters wait.

use std::sync::Arc;
use std::time::Duration;

use metrics::gauge;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use warren_domain::ports::{DeadLetterFilter, DeadLetters};

use super::metrics::WAITING;

/// How often they are counted: every letter is looked at, which takes a database some milliseconds for 100,000.
const EVERY: Duration = Duration::from_secs(30);

/// Counts the letters that wait, now and every half minute, until `stop` is cancelled.
///
/// While they cannot be counted, the number stays what it was; the first failure is logged.
pub async fn watch_dead_letters(letters: Arc<dyn DeadLetters>, stop: CancellationToken) {
    let (everything, mut failing) = (DeadLetterFilter::default(), false);
    while let Some(counted) = stop.run_until_cancelled(letters.count(&everything)).await {
        match counted {
            Ok(counts) => {
                gauge!(WAITING).set(counts.total() as f64);
                failing = false;
            }
            Err(error) if !failing => {
                warn!(%error, "the dead letters cannot be counted; trying again");
                failing = true;
            }
            Err(_) => {}
        }
        let pause = EVERY.mul_f64(0.9 + fastrand::f64() / 5.0);
        if stop.run_until_cancelled(sleep(pause)).await.is_none() {
            return;
        }
    }
}
