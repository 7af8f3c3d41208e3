//! When the keys of requests were first seen by this process.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use warren_domain::{IdempotencyKey, Timestamp};

/// How many keys are remembered, the last ones: some 4 MiB.
const MOST: usize = 65_536;
/// How long one is remembered: as long as a key counts for sure, in microseconds.
const LONGEST: i64 = 24 * 3_600_000_000;

/// When the last keys were first seen, so that a repeat gets the ids of the first time.
///
/// A convenience and no promise: what makes a repeat count once is in the store. Another process does not know these
/// times, nor does this one after a restart; a repeat is then told other ids, under which nothing is stored.
#[derive(Debug, Default)]
pub(crate) struct RecentKeys(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    first: HashMap<u64, Timestamp>,
    /// Oldest first.
    order: VecDeque<(u64, Timestamp)>,
}

impl RecentKeys {
    /// Returns when `key` was first seen, which is `now` if it is not known.
    pub(crate) fn first_seen(&self, key: &IdempotencyKey, now: Timestamp) -> Timestamp {
        let request = key.request();
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = seen.first.get(&request).copied();
        if let Some(first) = known.filter(|first| now.unix_micros() - first.unix_micros() < LONGEST) {
            return first;
        }
        seen.first.insert(request, now);
        seen.order.push_back((request, now));
        if seen.order.len() > MOST
            && let Some((oldest, at)) = seen.order.pop_front()
            // It may have come anew since.
            && seen.first.get(&oldest) == Some(&at)
        {
            seen.first.remove(&oldest);
        }
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> IdempotencyKey {
        IdempotencyKey::new(number.to_string().as_bytes()).unwrap()
    }

    fn at(micros: i64) -> Timestamp {
        Timestamp::from_unix_micros(micros).unwrap()
    }

    #[test]
    fn a_key_keeps_its_first_time_for_a_day() {
        let keys = RecentKeys::default();
        assert_eq!(keys.first_seen(&key(1), at(5)), at(5));
        assert_eq!(keys.first_seen(&key(2), at(6)), at(6));
        assert_eq!(keys.first_seen(&key(1), at(LONGEST + 4)), at(5));
        assert_eq!(keys.first_seen(&key(1), at(LONGEST + 5)), at(LONGEST + 5));
        assert_eq!(keys.first_seen(&key(1), at(LONGEST + 7)), at(LONGEST + 5));
    }

    #[test]
    fn the_oldest_are_forgotten_when_there_are_too_many() {
        let keys = RecentKeys::default();
        for number in 0..=MOST {
            keys.first_seen(&key(number), at(number as i64));
        }
        assert_eq!(keys.first_seen(&key(1), at(1_000_000)), at(1));
        assert_eq!(keys.first_seen(&key(0), at(1_000_000)), at(1_000_000));
        let seen = keys.0.lock().unwrap();
        assert!(seen.first.len() <= MOST && seen.order.len() <= MOST);
    }
}
