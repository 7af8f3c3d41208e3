//! The ids that were counted last.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

/// The ids that were counted last, numbered from the group's first message: a set for looking up, in the order of
/// counting for forgetting.
///
/// An id takes 16 bytes in the order and five in the table, and both keep room to spare: 38 bytes each for a window of
/// a million, never more than 60. Hashed with a key of this process, because senders choose their ids.
///
/// What is inserted is tentative until it is committed, so that a failed transaction leaves no trace.
#[derive(Debug)]
pub(super) struct Window {
    limit: usize,
    /// Oldest first.
    ids: VecDeque<u128>,
    /// The number of the oldest id.
    first: u64,
    /// The number of the last id that is committed.
    committed: u64,
    /// The lower half of each id's number; the window is far smaller than that reaches.
    numbers: HashTable<u32>,
    keyed: RandomState,
}

impl Window {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            ids: VecDeque::new(),
            first: 1,
            committed: 0,
            numbers: HashTable::new(),
            keyed: RandomState::new(),
        }
    }

    pub(super) const fn limit(&self) -> usize {
        self.limit
    }

    /// Returns the number of the last id that is committed.
    pub(super) const fn committed(&self) -> u64 {
        self.committed
    }

    /// Lists the ids that are not committed yet, oldest first.
    pub(super) fn tentative(&self) -> impl Iterator<Item = u128> {
        let committed = (self.committed + 1 - self.first) as usize;
        self.ids.range(committed..).copied()
    }

    /// Appends an id unless it is there; returns whether it was appended.
    pub(super) fn insert(&mut self, id: u128) -> bool {
        let hash = self.keyed.hash_one(id);
        let (ids, first) = (&self.ids, self.first);
        let is_there = |number: &u32| ids.get(place(*number, first)) == Some(&id);
        if self.numbers.find(hash, is_there).is_some() {
            return false;
        }
        self.append(hash, id);
        true
    }

    fn append(&mut self, hash: u64, id: u128) {
        let number = self.first + self.ids.len() as u64;
        self.ids.push_back(id);
        let (ids, first, keyed) = (&self.ids, self.first, &self.keyed);
        let rehash = |number: &u32| keyed.hash_one(ids[place(*number, first)]);
        self.numbers.insert_unique(hash, number as u32, rehash);
    }

    /// Takes ids that another process has counted, up to the one numbered `last`, and forgets what goes beyond the
    /// limit.
    pub(super) fn follow(&mut self, last: u64, ids: impl ExactSizeIterator<Item = u128>) {
        let first = last + 1 - ids.len() as u64;
        if first != self.committed + 1 {
            // What lies between is gone: it was beyond the window of whoever counted on.
            self.ids.clear();
            self.numbers.clear();
            self.first = first;
        }
        for id in ids {
            self.append(self.keyed.hash_one(id), id);
        }
        self.commit();
    }

    /// Keeps what was inserted, and forgets what goes beyond the limit.
    pub(super) fn commit(&mut self) {
        self.committed = self.first + self.ids.len() as u64 - 1;
        while self.ids.len() > self.limit {
            self.remove(self.first);
            self.ids.pop_front();
            self.first += 1;
        }
    }

    /// Forgets what was inserted since the last commit.
    pub(super) fn roll_back(&mut self) {
        let mut last = self.first + self.ids.len() as u64 - 1;
        while last > self.committed {
            self.remove(last);
            self.ids.pop_back();
            last -= 1;
        }
    }

    /// Takes a number out of the table; its id is still in its place.
    fn remove(&mut self, number: u64) {
        let hash = self.keyed.hash_one(self.ids[(number - self.first) as usize]);
        let number = number as u32;
        if let Ok(entry) = self.numbers.find_entry(hash, |other| *other == number) {
            entry.remove();
        }
    }
}

const fn place(number: u32, first: u64) -> usize {
    number.wrapping_sub(first as u32) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_remembers_the_last_ids_and_no_more_memory_than_they_need() {
        let mut window = Window::new(1_000);
        for id in 0..100_000_u128 {
            assert!(window.insert(id));
            if id % 100 == 99 {
                window.commit();
            }
        }
        assert_eq!(window.committed(), 100_000);
        assert!(
            (99_000..100_000).all(|id| !window.insert(id)),
            "the last thousand are known"
        );
        assert!(window.insert(98_999), "the one before is forgotten");
        let bytes = window.ids.capacity() * 16 + window.numbers.allocation_size();
        assert!(bytes <= 1_100 * 60, "{bytes} bytes");
    }

    #[test]
    fn numbers_beyond_32_bits_find_their_ids() {
        let mut window = Window::new(100);
        window.follow((1 << 32) - 50, (0..10_u128).collect::<Vec<_>>().into_iter());
        for id in 10..200 {
            assert!(window.insert(id));
            window.commit();
        }
        assert!((100..200).all(|id| !window.insert(id)));
        assert!(window.insert(99));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u8),
        Commit,
        RollBack,
        Follow(Vec<u8>),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => any::<u8>().prop_map(Step::Insert),
            2 => Just(Step::Commit),
            1 => Just(Step::RollBack),
            1 => proptest::collection::vec(any::<u8>(), 1..20).prop_map(Step::Follow),
        ]
    }

    proptest! {
        #[test]
        fn it_does_what_a_plain_list_does(limit in 1..40_usize, steps in proptest::collection::vec(step(), 0..300)) {
            let mut window = Window::new(limit);
            let (mut kept, mut tentative) = (VecDeque::new(), Vec::new());
            let mut total = 0_u64;
            for step in steps {
                match step {
                    Step::Insert(id) => {
                        let id = u128::from(id);
                        let new = !kept.contains(&id) && !tentative.contains(&id);
                        prop_assert_eq!(window.insert(id), new);
                        if new { tentative.push(id); }
                    }
                    Step::Commit => {
                        window.commit();
                        total += tentative.len() as u64;
                        kept.extend(tentative.drain(..));
                    }
                    Step::RollBack => {
                        window.roll_back();
                        tentative.clear();
                    }
                    Step::Follow(ids) => {
                        window.roll_back();
                        tentative.clear();
                        total += ids.len() as u64;
                        let ids: Vec<_> = ids.into_iter().map(u128::from).collect();
                        window.follow(total, ids.iter().copied());
                        kept.extend(ids);
                    }
                }
                while kept.len() > limit { kept.pop_front(); }
                prop_assert_eq!(window.committed(), total);
                prop_assert_eq!(window.tentative().collect::<Vec<_>>(), tentative.clone());
            }
        }
    }
}
