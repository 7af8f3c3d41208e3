//! Means over the last seconds.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;
use warren_domain::{Severity, SeverityCounts};

/// How far back a mean reaches.
const WINDOW: Duration = Duration::from_secs(5);

/// What a group had counted at moments of the last seconds.
#[derive(Debug, Default)]
pub(super) struct Rates(VecDeque<(Instant, SeverityCounts)>);

impl Rates {
    /// Notes what is counted now, and returns the mean number of messages a second since the window began.
    pub(super) fn note(&mut self, now: Instant, counts: SeverityCounts) -> [f64; 5] {
        self.0.push_back((now, counts));
        // One moment before the window is kept: the mean is over the window, not over a part of it.
        while self.0.get(1).is_some_and(|(at, _)| *at + WINDOW <= now) {
            self.0.pop_front();
        }
        let Some((since, before)) = self.0.front() else {
            return [0.0; 5];
        };
        let seconds = now.duration_since(*since).as_secs_f64();
        if seconds <= 0.0 {
            return [0.0; 5];
        }
        Severity::ALL.map(|severity| {
            let more = counts.get(severity).saturating_sub(before.get(severity));
            more as f64 / seconds
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_the_mean_of_the_last_seconds() {
        let (mut rates, begin) = (Rates::default(), Instant::now());
        let mut counts = SeverityCounts::default();
        counts.add(Severity::Info, 1_000);
        assert_eq!(
            rates.note(begin, counts),
            [0.0; 5],
            "what was there before is no rate"
        );
        for second in 1..=20 {
            counts.add(Severity::Info, 10 * second);
            let now = begin + Duration::from_secs(second);
            let rate = rates.note(now, counts)[Severity::Info.index()];
            let last = second.min(5);
            let expected = (second - last + 1..=second).map(|n| n * 10).sum::<u64>() as f64 / last as f64;
            assert!((rate - expected).abs() < 1e-9, "{second}: {rate} {expected}");
        }
        assert!(rates.0.len() <= 7, "it keeps no more than the window");
        let later = begin + Duration::from_secs(60);
        rates.note(later, counts);
        assert_eq!(rates.note(later + WINDOW, counts), [0.0; 5]);
    }
}
