//! How slow a store was lately.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How many times smaller the first steps of searches are planned, because others were not done in time.
///
/// It goes down with time alone: that searches for other things are quick says nothing of those that are slow.
#[derive(Debug, Default)]
pub(super) struct Slowness(Mutex<Option<Found>>);

/// What was found when.
#[derive(Clone, Copy, Debug)]
struct Found {
    level: u32,
    at: Instant,
}

impl Slowness {
    /// Each level is an eighth of the one before.
    const MOST: u32 = 6;
    /// How long one level lasts.
    const LASTS: Duration = Duration::from_secs(30);

    /// Returns how many times steps are made smaller.
    pub(super) fn level(&self, now: Instant) -> u32 {
        let found = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        found.map_or(0, |found| found.left(now))
    }

    /// Takes note of a step that was not done in time.
    pub(super) fn grow(&self, now: Instant) {
        let mut found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = found.map_or(0, |found| found.left(now));
        let level = (before + 1).min(Self::MOST);
        *found = Some(Found { level, at: now });
    }
}

impl Found {
    fn left(self, now: Instant) -> u32 {
        let gone = now.saturating_duration_since(self.at).as_secs() / Slowness::LASTS.as_secs();
        self.level.saturating_sub(u32::try_from(gone).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slowness_grows_with_each_step_that_is_late_and_goes_down_with_time_alone() {
        let slowness = Slowness::default();
        let now = Instant::now();
        assert_eq!(slowness.level(now), 0);
        for level in [1, 2, 3, 4, 5, 6, 6] {
            slowness.grow(now);
            assert_eq!(slowness.level(now), level);
        }
        for (seconds, level) in [(29, 6), (30, 5), (90, 3), (1_000_000, 0)] {
            let later = now + Duration::from_secs(seconds);
            assert_eq!(slowness.level(later), level, "{seconds}");
        }
        slowness.grow(now + Duration::from_secs(150));
        assert_eq!(slowness.level(now + Duration::from_secs(150)), 2);
    }
}
