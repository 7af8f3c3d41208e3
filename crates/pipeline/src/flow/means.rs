//! Means over the last seconds of what several programs count together.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::source::Counters;

/// How far back a mean reaches.
const WINDOW: Duration = Duration::from_secs(10);

/// The most readings that are kept for it.
const READINGS: usize = 16;

/// Which programs counted, and since when: a program that began anew counts from 0 again.
pub(crate) type Programs = Vec<(String, Option<u64>)>;

/// Names the programs that answered.
pub(crate) fn programs(counters: &Counters) -> Programs {
    let programs = counters.counting.iter();
    programs
        .map(|counting| {
            let started = counting.page.started().map(f64::to_bits);
            (counting.program.clone(), started)
        })
        .collect()
}

/// What was counted at moments of the last seconds.
#[derive(Debug)]
pub(crate) struct Means<const N: usize>(VecDeque<Reading<N>>);

#[derive(Debug)]
struct Reading<const N: usize> {
    at: Instant,
    of: Programs,
    counted: [u64; N],
}

impl<const N: usize> Default for Means<N> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<const N: usize> Means<N> {
    /// Notes what is counted now, and returns how much more it was in a second; `None` where nothing comparable was read
    /// in the last seconds.
    pub(crate) fn note(&mut self, at: Instant, of: Programs, counted: [u64; N]) -> Option<[f64; N]> {
        let readings = &mut self.0;
        readings.retain(|reading| reading.of == of && reading.at + 2 * WINDOW >= at);
        // One reading before the window is kept: the mean is over the window, not over a part of it.
        while readings.len() >= READINGS || readings.get(1).is_some_and(|next| next.at + WINDOW <= at) {
            readings.pop_front();
        }
        let means = readings.front().and_then(|before| {
            let seconds = at.duration_since(before.at).as_secs_f64();
            let mean = |place: usize| counted[place].saturating_sub(before.counted[place]) as f64 / seconds;
            (seconds > 0.0).then(|| std::array::from_fn(mean))
        });
        readings.push_back(Reading { at, of, counted });
        means
    }
}
