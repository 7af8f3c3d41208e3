//! Means over the last seconds of what several programs count together.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::page::Page;
use super::source::Counters;

/// How far back a mean reaches.
const WINDOW: Duration = Duration::from_secs(10);

/// The most readings that are kept for it.
const READINGS: usize = 16;

/// What programs have counted: which each is and since when, as one that began anew counts from 0 again.
pub(crate) type Counts<const N: usize> = Vec<((String, Option<u64>), [u64; N])>;

/// Returns what is counted on each page that has it.
pub(crate) fn counts<const N: usize>(
    counters: &Counters,
    counted: impl Fn(&Page) -> Option<[u64; N]>,
) -> Counts<N> {
    let programs = counters.counting.iter();
    programs
        .filter_map(|counting| {
            let counted = counted(&counting.page)?;
            let started = counting.page.started().map(f64::to_bits);
            // It may have several addresses, and not answer at all of them each time.
            let program = counting.page.process().unwrap_or(&counting.program);
            Some(((program.to_owned(), started), counted))
        })
        .collect()
}

/// What was counted at moments of the last seconds.
#[derive(Debug)]
pub(crate) struct Means<const N: usize>(VecDeque<Reading<N>>);

#[derive(Debug)]
struct Reading<const N: usize> {
    at: Instant,
    counts: Counts<N>,
}

impl<const N: usize> Default for Means<N> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<const N: usize> Means<N> {
    /// Notes what is counted now, and returns how much more it was in a second: each program's mean since it was first read
    /// in the last seconds, added up. `None` where nobody counts, or one does who was not read before.
    pub(crate) fn note(&mut self, at: Instant, counts: Counts<N>) -> Option<[f64; N]> {
        let readings = &mut self.0;
        readings.retain(|reading| reading.at + 2 * WINDOW >= at);
        // One reading before the window is kept: the mean is over the window, not over a part of it.
        while readings.len() >= READINGS || readings.get(1).is_some_and(|next| next.at + WINDOW <= at) {
            readings.pop_front();
        }
        let each = counts.iter().map(|(program, counted)| {
            let (since, before) = readings.iter().find_map(|reading| {
                let mut known = reading.counts.iter();
                let (_, before) = known.find(|(known, _)| known == program)?;
                Some((reading.at, before))
            })?;
            let seconds = at.duration_since(since).as_secs_f64();
            let mean = |place: usize| counted[place].saturating_sub(before[place]) as f64 / seconds;
            (seconds > 0.0).then(|| std::array::from_fn(mean))
        });
        let sum = |sum: [f64; N], more: [f64; N]| std::array::from_fn(|place| sum[place] + more[place]);
        let means = each.reduce(|all, one| Some(sum(all?, one?))).flatten();
        readings.push_back(Reading { at, counts });
        means
    }
}
