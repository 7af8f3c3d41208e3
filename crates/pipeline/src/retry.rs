//! Waiting before the next try.

use std::time::Duration;

/// Growing waits with full jitter, so that many waiters do not come back at the same moment.
///
/// The bound doubles from `min` to `max`; each wait is a random part of the bound, at least a tenth of it.
#[derive(Clone, Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    tries: u32,
}

impl Backoff {
    /// Starts with waits of up to `min`.
    pub const fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, tries: 0 }
    }

    /// Returns how long to wait before the next try.
    pub fn next_wait(&mut self) -> Duration {
        let bound = self.min.saturating_mul(1 << self.tries.min(20)).min(self.max);
        self.tries = self.tries.saturating_add(1);
        bound.mul_f64(0.1 + 0.9 * fastrand::f64())
    }

    /// Starts over after a success.
    pub const fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_the_bound_and_start_over() {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(100));
        for _ in 0..10 {
            assert!(backoff.next_wait() <= Duration::from_millis(100));
        }
        let late = (0..50).map(|_| backoff.next_wait()).max();
        assert!(late > Some(Duration::from_millis(50)));
        backoff.reset();
        assert!(backoff.next_wait() <= Duration::from_millis(10));
    }
}
