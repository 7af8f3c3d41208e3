//! Reads that nobody could wait for any longer, and that have not ended yet.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::sync::lock;

/// Reads that have not ended when they should have; as many at most as there are connections.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stuck(Arc<Mutex<Reads>>);

#[derive(Debug, Default)]
struct Reads {
    next: u64,
    /// Since when, by a number.
    since: BTreeMap<u64, Instant>,
}

/// One of them; it has ended when this is dropped.
#[derive(Debug)]
pub(crate) struct StuckRead {
    all: Stuck,
    number: u64,
}

impl Stuck {
    /// Takes note of one.
    pub(crate) fn note(&self) -> StuckRead {
        let mut reads = lock(&self.0);
        let number = reads.next;
        reads.next += 1;
        reads.since.insert(number, Instant::now());
        StuckRead {
            all: self.clone(),
            number,
        }
    }

    /// Returns how many there are, and since when the first of them is known; `None` without any.
    pub(crate) fn told(&self) -> Option<(usize, Duration)> {
        let reads = lock(&self.0);
        let (_, first) = reads.since.first_key_value()?;
        Some((reads.since.len(), first.elapsed()))
    }
}

impl Drop for StuckRead {
    fn drop(&mut self) {
        lock(&self.all.0).since.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_is_told_until_it_has_ended() {
        let stuck = Stuck::default();
        let [first, second] = [stuck.note(), stuck.note()];
        assert_eq!(stuck.told().map(|(reads, _)| reads), Some(2));
        drop(first);
        assert_eq!(stuck.told().map(|(reads, _)| reads), Some(1));
        drop(second);
        assert_eq!(stuck.told(), None);
    }
}
