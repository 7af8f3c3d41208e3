//! The pauses between attempts to connect, and waiting for a moment.

use std::future::pending;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Grows from pause to pause, with full jitter so that many clients of a restarted broker do not come back at once.
#[derive(Debug)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    pub(crate) fn new(min: Duration, max: Duration) -> Self {
        Self {
            min,
            max,
            failures: 0,
        }
    }

    /// Begins anew with the shortest pauses.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// Returns how long to wait before the next attempt: between `min` and twice the last bound, at most `max`.
    pub(crate) fn pause(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let bound = 2_u32
            .checked_pow(self.failures)
            .and_then(|factor| self.min.checked_mul(factor))
            .map_or(self.max, |bound| bound.min(self.max));
        self.min + bound.saturating_sub(self.min).mul_f64(fastrand::f64())
    }
}

/// Waits for a moment, or for ever.
pub(crate) async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_the_longest_and_begin_anew() {
        let (min, max) = (Duration::from_millis(50), Duration::from_secs(1));
        let mut backoff = Backoff::new(min, max);
        for failures in 1..100_u32 {
            let bound = (min * 2_u32.pow(failures.min(10))).min(max);
            let pause = backoff.pause();
            assert!((min..=bound).contains(&pause), "{failures}: {pause:?}");
        }
        backoff.reset();
        assert!(backoff.pause() <= 2 * min);
    }
}
