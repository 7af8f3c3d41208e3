//! How a store looks through its messages when no index finds them.
//!
//! Stores keep messages by id, which is by time, and have no index for most of what is searched for: writers would
//! pay for it with every message. But they count by minute, severity and source. So a search reads counts first, a
//! bounded number of them, and then looks only into the minutes that have what it is after, a bounded number of
//! messages with each statement. A severity that is rare, or a source that was silent for a week, is found without
//! looking at what lies between; and wherever a search is ended, it knows how far it has come.
//!
//! Here is what to do next; doing it is the store's.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use uuid::Uuid;

use super::{IdRange, Meaning};
use crate::ports::{Order, Place};

/// A walk through the ids that a search means.
#[derive(Clone, Debug)]
pub struct Walk {
    order: Order,
    /// Where it began.
    all: IdRange,
    /// What is left.
    rest: IdRange,
    /// How many messages are wanted yet.
    wanted: usize,
    /// Whether the counts tell what will be found.
    exact: bool,
    /// Few ids, not worth counting.
    straight: bool,
    /// Minutes that have what is meant, in order.
    ahead: VecDeque<MinuteCount>,
    /// Minutes of which that is not known.
    uncounted: Range<i64>,
    /// How many counts are read at once.
    counts: usize,
    /// How many messages one look may pass, about.
    pace: u64,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Read the counts of these minutes, in the order of the search, `most` of them or a few more; then [`Walk::counted`].
    Count {
        /// Minutes since 1970.
        minutes: Range<i64>,
        /// How many counts to read, about.
        most: usize,
    },
    /// Find what is meant among these ids, at most `most`; then [`Walk::looked`].
    ///
    /// How many messages there are among them is a guess from the counts of whole minutes, and wrong where all of a minute
    /// came at one moment. With `passing`, look only as far as to the message that so many come before
    /// ([`IdRange::through`]).
    Look {
        /// Where.
        ids: IdRange,
        /// How many.
        most: usize,
        /// How far.
        passing: Option<usize>,
    },
    /// Nothing: all that was wanted was found, or everything was looked at.
    End,
}

/// What was counted of a minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MinuteCount {
    /// Since 1970.
    pub minute: i64,
    /// How many messages are stored.
    pub stored: u64,
    /// How many of them have a severity and a source that are meant; at least one.
    pub meant: u64,
}

impl Walk {
    /// How many counts are read first.
    const FEW_COUNTS: usize = 2_000;
    /// How many counts are read at once when many are to be read.
    const MANY_COUNTS: usize = 20_000;
    /// How many messages the first look passes when their text has to be read.
    const FEW_TEXTS: u64 = 1_000;
    /// How many messages the first look passes otherwise.
    const FEW: u64 = 20_000;
    /// How many messages a look passes at most.
    const MANY: u64 = 250_000;
    /// A step that took less leaves time for a larger one…
    const QUICK: Duration = Duration::from_millis(50);
    /// …and after one that took more a smaller one comes.
    const SLOW: Duration = Duration::from_millis(300);

    /// Begins.
    pub fn new(meaning: &Meaning<'_>, order: Order, wanted: usize) -> Self {
        let ids = meaning.ids;
        let straight = ids.width() <= IdRange::MILLISECOND;
        let rest = if meaning.is_nothing() {
            ids.first(order, 0)
        } else {
            ids
        };
        Self {
            order,
            all: rest,
            rest,
            wanted,
            exact: meaning.is_counted(),
            straight,
            ahead: VecDeque::new(),
            uncounted: if straight { 0..0 } else { rest.minutes() },
            counts: Self::FEW_COUNTS,
            pace: if meaning.is_counted() {
                Self::FEW
            } else {
                Self::FEW_TEXTS
            },
        }
    }

    /// Returns what to do next.
    pub fn next(&self) -> Step {
        if self.wanted == 0 || self.rest.is_empty() {
            Step::End
        } else if self.straight {
            self.look(self.rest)
        } else if let Some(first) = self.ahead.front() {
            self.look(self.chunk(*first))
        } else {
            Step::Count {
                minutes: self.uncounted.clone(),
                most: self.counts,
            }
        }
    }

    fn look(&self, ids: IdRange) -> Step {
        Step::Look {
            ids,
            most: self.wanted,
            passing: usize::try_from(self.pace)
                .ok()
                .filter(|_| self.pace <= Self::FEW_TEXTS),
        }
    }

    /// Returns a part of the first minute that is ahead, or it and some that follow it.
    fn chunk(&self, first: MinuteCount) -> IdRange {
        let part = |minute: i64| IdRange::of_minute(minute).and(self.rest);
        let mut chunk = part(first.minute);
        if first.stored > self.pace {
            let width = chunk.width() / u128::from(first.stored) * u128::from(self.pace);
            return chunk.first(self.order, width.max(1));
        }
        let (mut last, mut stored, mut meant) = (first.minute, first.stored, first.meant);
        for next in self.ahead.iter().skip(1) {
            stored = stored.saturating_add(next.stored);
            let enough = self.exact && meant >= self.wanted as u64;
            if enough || stored > self.pace || last.abs_diff(next.minute) != 1 {
                break;
            }
            chunk = chunk.joined(part(next.minute));
            (last, meant) = (next.minute, meant.saturating_add(next.meant));
        }
        chunk
    }

    /// Takes what was counted: the minutes that have what is meant, in the order of the search, and the last minute that
    /// was counted whole, if there are others behind it.
    pub fn counted(&mut self, minutes: impl IntoIterator<Item = MinuteCount>, through: Option<i64>) {
        let Range { start, end } = self.uncounted;
        self.uncounted = match (through, self.order) {
            (None, _) => 0..0,
            (Some(minute), Order::NewestFirst) => start..minute.min(end - 1),
            (Some(minute), Order::OldestFirst) => minute.max(start) + 1..end,
        };
        self.ahead.extend(minutes);
        self.counts = (self.counts * 4).min(Self::MANY_COUNTS);
        self.settle();
    }

    /// Takes what came of a look at these ids, which may be fewer than were asked for: how many messages were found, the last of them if others may follow it among these
    /// ids, and how long it took.
    pub fn looked(&mut self, ids: IdRange, found: usize, last: Option<Uuid>, took: Duration) {
        self.wanted = self.wanted.saturating_sub(found);
        self.rest = match last {
            Some(id) => self.rest.behind_place(self.order, Place::from_uuid(id)),
            None => self.rest.behind(self.order, ids),
        };
        if let Some(first) = self.ahead.front_mut() {
            // What is left of a minute is looked at in as many parts as were planned.
            first.stored = first.stored.saturating_sub(self.pace).max(1);
        }
        if last.is_none() && took < Self::QUICK {
            self.pace = (self.pace * 4).min(Self::MANY);
        } else if took > Self::SLOW {
            self.slow_down();
        }
        self.settle();
    }

    /// Plans smaller steps, because one was not done in time; returns whether that was possible.
    pub fn slow_down(&mut self) -> bool {
        let before = (self.pace, self.counts);
        self.pace = (self.pace / 8).max(1);
        self.counts = (self.counts / 8).max(1);
        before != (self.pace, self.counts)
    }

    /// Leaves behind what needs no look.
    fn settle(&mut self) {
        if self.straight {
            return;
        }
        let passed = |minute: i64, rest: IdRange| IdRange::of_minute(minute).and(rest).is_empty();
        while (self.ahead.front()).is_some_and(|first| passed(first.minute, self.rest)) {
            self.ahead.pop_front();
        }
        let next = match (self.ahead.front(), self.order) {
            (Some(first), _) => first.minute,
            (None, _) if self.uncounted.is_empty() => {
                self.rest = self.rest.first(self.order, 0);
                return;
            }
            (None, Order::NewestFirst) => self.uncounted.end - 1,
            (None, Order::OldestFirst) => self.uncounted.start,
        };
        self.rest = self.rest.beginning_with(self.order, IdRange::of_minute(next));
    }

    /// Tells whether it has come any further than where it began.
    pub fn has_moved(&self) -> bool {
        self.rest != self.all
    }

    /// Returns where to go on, unless everything was looked at.
    pub fn place(&self) -> Option<Place> {
        (!self.rest.is_empty()).then(|| self.rest.place(self.order))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ports::{Search, TimeRange};
    use crate::{MessageId, Selection, SeveritySet, Timestamp};

    /// A message, and whether it is of a severity that is meant, and has the text.
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Stored {
        id: u128,
        counted: bool,
        meant: bool,
    }

    fn stored() -> impl Strategy<Value = Vec<Stored>> {
        let one = (
            0_u128..600_000,
            any::<u16>(),
            prop::bool::weighted(0.3),
            any::<bool>(),
        );
        prop::collection::vec(one, 0..150).prop_map(|all| {
            let mut all: Vec<_> = all
                .into_iter()
                .map(|(millis, rest, counted, text)| Stored {
                    // Most at a few moments, and some a day later.
                    id: (millis / 100 * 100 + u128::from(rest % 2) * 86_400_000) << 80
                        | 0x7000_8000_0000_0000_0000
                        | u128::from(rest),
                    counted,
                    meant: counted && text,
                })
                .collect();
            all.sort_by_key(|stored| stored.id);
            all.dedup_by_key(|stored| stored.id);
            all
        })
    }

    /// Does what a store does, on a list; stops after some steps as if the time were over.
    fn page(all: &[Stored], search: &Search, wanted: usize, steps: usize) -> (Vec<u128>, Option<Place>) {
        let newest = search.order == Order::NewestFirst;
        let mut walk = Walk::new(&Meaning::of(search), search.order, wanted);
        let mut found = Vec::new();
        for step in 0.. {
            if step >= steps && walk.has_moved() {
                break;
            }
            match walk.next() {
                Step::End => break,
                Step::Count { minutes, most } => {
                    assert!(!minutes.is_empty() && most > 0);
                    let mut counts: Vec<MinuteCount> = Vec::new();
                    for stored in all {
                        let minute = (stored.id >> 80) as i64 / 60_000;
                        if !minutes.contains(&minute) {
                            continue;
                        }
                        match counts.last_mut() {
                            Some(count) if count.minute == minute => {
                                count.stored += 1;
                                count.meant += u64::from(stored.counted);
                            }
                            _ => counts.push(MinuteCount {
                                minute,
                                stored: 1,
                                meant: stored.counted.into(),
                            }),
                        }
                    }
                    if newest {
                        counts.reverse();
                    }
                    // A few at a time, or the walk would not have to ask again.
                    let through = counts.get(2).map(|count| count.minute);
                    counts.truncate(3);
                    counts.retain(|count| count.meant > 0);
                    walk.counted(counts, through);
                }
                Step::Look { ids, most, passing } => {
                    assert!(!ids.is_empty() && most > 0);
                    let mut there: Vec<_> = all.iter().map(|stored| Uuid::from_u128(stored.id)).collect();
                    there.retain(|id| ids.holds(*id));
                    if newest {
                        there.reverse();
                    }
                    let edge = passing.and_then(|passing| there.get(passing));
                    let ids = edge.map_or(ids, |edge| ids.through(search.order, *edge));
                    let among = |stored: &&Stored| stored.meant && ids.holds(Uuid::from_u128(stored.id));
                    let mut rows: Vec<_> = all.iter().filter(among).map(|stored| stored.id).collect();
                    if newest {
                        rows.reverse();
                    }
                    rows.truncate(most);
                    let last = rows.last().filter(|_| rows.len() == most);
                    walk.looked(
                        ids,
                        rows.len(),
                        last.map(|id| Uuid::from_u128(*id)),
                        Duration::ZERO,
                    );
                    found.extend(rows);
                    if step % 3 == 0 {
                        walk.slow_down();
                    }
                }
            }
        }
        (found, walk.place())
    }

    proptest! {
        #[test]
        fn pages_have_everything_once_and_in_order(
            all in stored(),
            (newest, exact) in any::<(bool, bool)>(),
            (wanted, steps) in (1_usize..40, 1_usize..8),
        ) {
            let all: Vec<_> = all
                .into_iter()
                .map(|stored| Stored { meant: stored.meant || exact && stored.counted, ..stored })
                .collect();
            let mut search = Search {
                selection: Selection::of(SeveritySet::ALL),
                query: if exact { "" } else { "text" }.parse().unwrap(),
                range: TimeRange::ALL,
                order: if newest { Order::NewestFirst } else { Order::OldestFirst },
                from: None,
            };
            let mut expected: Vec<_> = all.iter().filter(|stored| stored.meant).map(|stored| stored.id).collect();
            if newest {
                expected.reverse();
            }
            let mut found = Vec::new();
            for _ in 0..10_000 {
                let (rows, next) = page(&all, &search, wanted, steps);
                prop_assert!(rows.len() <= wanted);
                found.extend(rows);
                let Some(next) = next else { break };
                prop_assert_ne!(search.from, Some(next), "it has not moved");
                search.from = Some(next);
            }
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn one_id_is_looked_up_without_counting() {
        let id = MessageId::generate();
        let search = Search {
            selection: Selection::of(SeveritySet::ALL),
            query: format!("id:{id}").parse().unwrap(),
            range: TimeRange::ALL,
            order: Order::NewestFirst,
            from: None,
        };
        let mut walk = Walk::new(&Meaning::of(&search), search.order, 100);
        let Step::Look { ids, .. } = walk.next() else {
            panic!("{walk:?}")
        };
        walk.looked(ids, 1, None, Duration::ZERO);
        assert_eq!((walk.next(), walk.place()), (Step::End, None));
    }

    #[test]
    fn a_look_passes_a_bounded_number_of_messages() {
        let (from, until) = (
            Timestamp::MIN,
            Timestamp::from_unix_micros(3_600_000_000).unwrap(),
        );
        let search = Search {
            selection: Selection::of(SeveritySet::ALL),
            query: "text".parse().unwrap(),
            range: TimeRange::new(from, until).unwrap(),
            order: Order::NewestFirst,
            from: None,
        };
        let mut walk = Walk::new(&Meaning::of(&search), search.order, 100);
        let full = |minute| MinuteCount {
            minute,
            stored: 400,
            meant: 1,
        };
        walk.counted((0..60).rev().map(full), None);
        let Step::Look { ids, .. } = walk.next() else {
            panic!("{walk:?}")
        };
        assert_eq!(ids.minutes(), 58..60, "two minutes are 800 messages");
        let huge = MinuteCount {
            minute: 59,
            stored: 1_000_000,
            meant: 1,
        };
        let mut walk = Walk::new(&Meaning::of(&search), search.order, 100);
        walk.counted([huge], None);
        let Step::Look { ids, .. } = walk.next() else {
            panic!("{walk:?}")
        };
        assert_eq!(IdRange::of_minute(59).width() / ids.width(), 1_000);
    }
}
