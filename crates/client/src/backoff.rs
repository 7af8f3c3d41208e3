//! The pauses between attempts.

use std::time::Duration;

/// Grows from pause to pause, with full jitter so that the clients of a restarted broker do not come back at once.
#[derive(Debug)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    pub(crate) const fn new(min: Duration, max: Duration) -> Self {
        Self {
            min,
            max,
            failures: 0,
        }
    }

    /// Begins anew with the shortest pauses.
    #[cfg(any(test, feature = "http"))]
    pub(crate) const fn reset(&mut self) {
        self.failures = 0;
    }

    /// Returns how long to wait before the next attempt: at least `min`, at most `max`.
    pub(crate) fn pause(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let bound = 2_u32
            .checked_pow(self.failures)
            .and_then(|factor| self.min.checked_mul(factor))
            .map_or(self.max, |bound| bound.min(self.max));
        self.min + bound.saturating_sub(self.min).mul_f64(fastrand::f64())
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
