//! Percentiles of many waits and medians of few repetitions.

use std::time::Duration;

/// How long things took, each of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Waits(Vec<u32>);

impl Waits {
    /// Adds one, in microseconds; longer than an hour counts as an hour.
    pub(crate) fn add(&mut self, wait: Duration) {
        self.0.push(u32::try_from(wait.as_micros()).unwrap_or(u32::MAX));
    }

    /// Returns the wait in milliseconds that `share` (0 to 1) of all do not exceed; `None` when there are none.
    pub(crate) fn percentile(&mut self, share: f64) -> Option<f64> {
        let last = self.0.len().checked_sub(1)?;
        let rank = (self.0.len() as f64 * share).ceil() as usize;
        let (_, wait, _) = self.0.select_nth_unstable(rank.saturating_sub(1).min(last));
        Some(f64::from(*wait) / 1_000.0)
    }
}

/// Returns the middle of some values, the mean of the two middle ones for an even count.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = sorted[(sorted.len() - 1) / 2];
    Some(f64::midpoint(lower, upper))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_waits() {
        let mut waits = Waits::default();
        assert_eq!(waits.percentile(0.5), None);
        for ms in (1..=100).rev() {
            waits.add(Duration::from_millis(ms));
        }
        assert_eq!(
            (waits.percentile(0.5), waits.percentile(0.99)),
            (Some(50.0), Some(99.0))
        );
        assert_eq!(
            (waits.percentile(0.0), waits.percentile(1.0)),
            (Some(1.0), Some(100.0))
        );
    }

    #[test]
    fn a_median_is_not_moved_by_one_outlier() {
        assert_eq!(median(&[3.0, 1_000.0, 1.0]), Some(3.0));
        assert_eq!(median(&[1.0, 3.0]), Some(2.0));
        assert_eq!(median(&[]), None);
    }
}
