//! Which of the rows before it a search has to look at, by the filters of words.

use std::sync::atomic::{AtomicBool, Ordering};

use metrics::counter;
use tokio_postgres::Row;
use warren_domain::ports::Order;
use warren_domain::search::{CountedMinutes, IdRange, Meaning, MinuteCount};

use crate::error::Failure;
use crate::metrics as measured;
use crate::words::filter::hashes;
use crate::words::narrow::{Block, Minute, narrow};

/// To ask a filter takes as long as to read so many counts.
const COUNTS: usize = 10;

/// The filters of words, as a reader knows them.
#[derive(Debug)]
pub(super) struct WordIndex {
    /// Whether searches ask them.
    pub(super) on: bool,
    /// Whether it was said that they cannot be asked.
    failing: AtomicBool,
}

impl WordIndex {
    pub(super) const fn new(on: bool) -> Self {
        Self {
            on,
            failing: AtomicBool::new(false),
        }
    }

    /// Tells whether a search that failed may succeed without filters: somebody must not read them, has dropped them, or their
    /// disk has not kept them.
    pub(super) fn is_at_fault(failure: &Failure) -> bool {
        const FAULTS: [&str; 4] = ["42501", "42P01", "XX001", "XX002"];
        failure.state().is_some_and(|state| FAULTS.contains(&state))
    }

    /// Counts a search that goes on without filters; says so at the first.
    fn failed(&self, failure: Failure, place: &str) {
        counter!(measured::UNUSABLE).increment(1);
        if !self.failing.swap(true, Ordering::Relaxed) {
            let error = failure.into_store_error(place);
            tracing::warn!(
                %error,
                "the index of words cannot be read: searches for words look at every message of their range"
            );
        }
    }

    fn worked(&self) {
        self.failing.store(false, Ordering::Relaxed);
    }
}

/// What one search knows of filters.
#[derive(Debug)]
pub(super) struct Words<'r> {
    index: &'r WordIndex,
    hashes: Vec<i32>,
    /// What was counted last, in the order of time.
    minutes: Vec<Minute>,
}

impl<'r> Words<'r> {
    /// Begins a search.
    pub(super) fn of(meaning: &Meaning<'_>, index: &'r WordIndex) -> Self {
        let wanted = meaning.texts.iter().filter(|(_, negated)| index.on && !negated);
        Self {
            index,
            hashes: hashes(wanted.map(|(text, _)| *text)),
            minutes: Vec::new(),
        }
    }

    /// Returns the hashes that filters are asked for, and how many filters instead of so many counts; none where filters have
    /// nothing to say.
    pub(super) fn ask(&self, counts: usize) -> Option<(&[i32], usize)> {
        (!self.hashes.is_empty()).then(|| (&self.hashes[..], counts.div_ceil(COUNTS)))
    }

    /// Does without filters from now on, because they cannot be read.
    pub(super) fn do_without(&mut self, failure: Failure, place: &str) {
        self.index.failed(failure, place);
        self.hashes.clear();
        self.minutes.clear();
    }

    /// Takes what was counted and what the filters said, in the order of the search.
    pub(super) fn counted(&mut self, order: Order, rows: &[Row]) -> Result<CountedMinutes, Failure> {
        self.index.worked();
        let mut through = None;
        let mut minutes: Vec<Minute> = Vec::new();
        for row in rows {
            let number: i64 = row.try_get(0)?;
            through = row.try_get(2)?;
            if minutes.last().is_none_or(|last| last.minute != number) {
                let stored: i64 = row.try_get(1)?;
                minutes.push(Minute::of(number, stored.unsigned_abs()));
            }
            let Some(minute) = minutes.last_mut() else {
                continue;
            };
            minute.meant |= row.try_get::<_, bool>(6)?;
            // Without filters there is one row, and nothing in it.
            if let Some(first) = row.try_get(3)? {
                minute.blocks.push(Block {
                    first,
                    last: row.try_get(4)?,
                    may: row.try_get(5)?,
                });
            }
        }
        let counts = minutes.iter().filter_map(|minute| {
            Some(MinuteCount {
                minute: minute.minute,
                stored: minute.passes()?,
                meant: minute.stored,
            })
        });
        let counted = CountedMinutes {
            minutes: counts.collect(),
            through,
        };
        if order == Order::NewestFirst {
            minutes.reverse();
        }
        self.minutes = minutes;
        Ok(counted)
    }

    /// Returns the parts of these ids that have to be looked at, in order.
    pub(super) fn parts(&self, ids: IdRange, order: Order) -> Vec<IdRange> {
        if self.hashes.is_empty() {
            return vec![ids];
        }
        narrow(ids, order, &self.minutes)
    }
}
