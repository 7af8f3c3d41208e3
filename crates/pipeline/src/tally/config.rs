//! The settings of counting, section `tally`.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use crate::WorkerConfig;

/// How many batches are with the book at once: one is being counted while the one before is acknowledged.
const BATCHES_IN_FLIGHT: usize = 2;

/// Settings of counting, section `tally`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TallyConfig {
    /// The folder of the books, one file a group. Unset: `./warren-tally`; in `warren`, `tally` under
    /// `embedded.path`.
    pub path: Option<PathBuf>,
    /// How many ids a book remembers; a message that comes again after more than so many others counts again.
    /// Default 1,000,000.
    pub window: usize,
    /// A batch is counted once it holds this many messages. Default 10,000.
    pub batch_messages: usize,
    /// A batch is counted once its messages hold this many bytes, roughly. Default 8 MiB.
    pub batch_bytes: ByteSize,
    /// A batch is counted once it holds this many deliveries; a third of the broker's prefetch lets the next batch
    /// gather while two are being counted. Default 128.
    pub batch_deliveries: usize,
    /// A batch is counted this long after its first message at the latest; each is one fsync. Default 200 ms.
    #[serde(with = "humantime_serde")]
    pub batch_wait: Duration,
    /// The first wait after the book could not be written; doubles, with full jitter. Default 100 ms.
    #[serde(with = "humantime_serde")]
    pub retry_min: Duration,
    /// The longest wait between two tries of the book. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub retry_max: Duration,
    /// After this long without the book, what is held goes back to the broker, as `worker.give_back_after` says.
    /// Default 10 minutes.
    #[serde(with = "humantime_serde")]
    pub give_back_after: Duration,
    /// How long a stopping loop counts what it holds before it gives the rest back. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub drain_timeout: Duration,
    /// How often the broker is asked what waits for the group. Default 2 s.
    #[serde(with = "humantime_serde")]
    pub lag_interval: Duration,
}

impl Default for TallyConfig {
    fn default() -> Self {
        Self {
            path: None,
            window: 1_000_000,
            batch_messages: 10_000,
            batch_bytes: ByteSize::mib(8),
            batch_deliveries: 128,
            batch_wait: Duration::from_millis(200),
            retry_min: Duration::from_millis(100),
            retry_max: Duration::from_secs(5),
            give_back_after: Duration::from_secs(600),
            drain_timeout: Duration::from_secs(10),
            lag_interval: Duration::from_secs(2),
        }
    }
}

impl TallyConfig {
    /// Returns how the loop gathers and waits.
    pub(super) const fn pace(&self) -> WorkerConfig {
        WorkerConfig {
            batch_messages: self.batch_messages,
            batch_bytes: self.batch_bytes,
            batch_deliveries: self.batch_deliveries,
            batch_wait: self.batch_wait,
            batches_in_flight: BATCHES_IN_FLIGHT,
            retry_min: self.retry_min,
            retry_max: self.retry_max,
            give_back_after: self.give_back_after,
            drain_timeout: self.drain_timeout,
            // A book refuses no message.
            breaker_refused: 0,
            breaker_share: 0.0,
        }
    }

    /// Returns how many deliveries the broker has to hand out, so that a batch gathers while others are counted.
    pub const fn least_prefetch(&self) -> usize {
        (BATCHES_IN_FLIGHT + 1).saturating_mul(self.batch_deliveries)
    }

    /// Lists what the types alone do not forbid: the setting, and what is wrong with it.
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = self.pace().problems();
        if self.path.as_ref().is_some_and(|path| path.to_str().is_none()) {
            problems.push((
                "path",
                "is not UTF-8, which SQLite needs; name another folder".to_owned(),
            ));
        }
        const MOST: usize = 100_000_000;
        if !(1..=MOST).contains(&self.window) {
            problems.push(("window", format!("is {}; use 1 to {MOST}", self.window)));
        }
        let (least, most) = (Duration::from_millis(100), Duration::from_secs(3_600));
        if self.lag_interval < least || self.lag_interval > most {
            problems.push((
                "lag_interval",
                format!("is {:?}; use {least:?} to {most:?}", self.lag_interval),
            ));
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_that_cannot_work_is_named() {
        assert_eq!(TallyConfig::default().problems(), []);
        let wrong = TallyConfig {
            window: 0,
            batch_messages: 0,
            batch_deliveries: 0,
            lag_interval: Duration::ZERO,
            retry_min: Duration::ZERO,
            ..TallyConfig::default()
        };
        let named: Vec<_> = wrong.problems().into_iter().map(|(key, _)| key).collect();
        assert_eq!(
            named,
            [
                "batch_messages",
                "batch_deliveries",
                "retry_min",
                "window",
                "lag_interval"
            ]
        );
    }
}
