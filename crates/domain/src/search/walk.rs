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
    /// Whether what was found had to be looked at again, because not all of it was meant.
    loose: bool,
    /// Whether ids are looked at without counts.
    way: Way,
    /// Minutes that have what is meant, in order.
    ahead: VecDeque<MinuteCount>,
    /// Minutes of which that is not known.
    uncounted: Range<i64>,
    /// How many counts are read at once.
    counts: usize,
    /// How many coarser counts are read at once; 0 where there are none, or not in time.
    leap: usize,
    /// Whether the counts just read had nothing that is meant.
    leaping: bool,
    /// How many messages one look may pass, about.
    pace: u64,
}

/// How what to look at is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// By the counts.
    Counted,
    /// There are so few ids that they are not worth counting.
    Few,
    /// The counts are not read in time.
    Blind,
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
    /// Find the first of these minutes, in the order of the search, that may have something that is meant, by `most`
    /// counts that are coarser; then [`Walk::leapt`].
    Leap {
        /// Minutes since 1970.
        minutes: Range<i64>,
        /// How many counts to read.
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

/// What [`Step::Count`] has read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CountedMinutes {
    /// The minutes that have something that is meant, in the order of the search.
    pub minutes: Vec<MinuteCount>,
    /// The last minute that was counted whole, if there are others behind it.
    pub through: Option<i64>,
}

/// Where [`Step::Leap`] has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leap {
    /// None of the minutes before this one has anything that is meant, and this one may.
    To(i64),
    /// None of the minutes before this one has; of this one and of those behind it nothing was read.
    Past(i64),
    /// None of the minutes has.
    Over,
    /// The store has no counts that are coarser.
    Nowhere,
}

/// What came of [`Step::Look`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// The ids that were looked at, which may be fewer than were asked for.
    pub ids: IdRange,
    /// How many messages were found.
    pub found: usize,
    /// Whether some were passed over that were no more than likely.
    pub loose: bool,
    /// The last that was looked at, if others may follow it among these ids.
    pub last: Option<Uuid>,
}

impl Look {
    /// Begins a look at these ids.
    pub const fn nothing(ids: IdRange) -> Self {
        Self {
            ids,
            found: 0,
            loose: false,
            last: None,
        }
    }
}

impl Walk {
    /// How many counts are read first.
    const FEW_COUNTS: usize = 2_000;
    /// How many counts are read at once when many are to be read.
    const MANY_COUNTS: usize = 20_000;
    /// By how much fewer counts are read when they were not read in time; who has to read fewer yet, reads none.
    const FEWER: usize = 64;
    /// How many coarser counts a leap reads at most.
    const MANY_LEAPT: usize = 320_000;
    /// How many messages the first look passes when their text has to be read.
    const FEW_TEXTS: u64 = 1_000;
    /// How many messages the first look passes otherwise.
    const FEW: u64 = 20_000;
    /// How many messages a look passes at most.
    const MANY: u64 = 250_000;
    /// How many messages are asked for at least where not all that are found are meant: one at a time would be slow.
    const SOME: usize = 300;
    /// A step that took less leaves time for a larger one…
    const QUICK: Duration = Duration::from_millis(50);
    /// …and after one that took more a smaller one comes.
    const SLOW: Duration = Duration::from_millis(300);

    /// Begins.
    pub fn new(meaning: &Meaning<'_>, order: Order, wanted: usize) -> Self {
        let ids = meaning.ids;
        let few = ids.width() <= IdRange::MILLISECOND;
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
            loose: false,
            way: if few { Way::Few } else { Way::Counted },
            ahead: VecDeque::new(),
            uncounted: if few { 0..0 } else { rest.minutes() },
            counts: Self::FEW_COUNTS,
            leap: Self::MANY_COUNTS,
            leaping: false,
            pace: if meaning.is_counted() {
                Self::FEW
            } else {
                Self::FEW_TEXTS
            },
        }
    }

    /// Returns what to do next.
    pub fn next(&self) -> Step {
        let minutes = self.uncounted.clone();
        if self.wanted == 0 || self.rest.is_empty() {
            Step::End
        } else if self.way != Way::Counted {
            self.look(self.rest)
        } else if let Some(first) = self.ahead.front() {
            self.look(self.chunk(*first))
        } else if self.leaping {
            let most = self.leap;
            Step::Leap { minutes, most }
        } else {
            let most = self.counts;
            Step::Count { minutes, most }
        }
    }

    fn look(&self, ids: IdRange) -> Step {
        let guessed = self.way == Way::Counted && self.pace > Self::FEW_TEXTS;
        let exactly = ids.width() > 1 && !guessed;
        Step::Look {
            ids,
            most: if self.loose {
                self.wanted.max(Self::SOME)
            } else {
                self.wanted
            },
            passing: usize::try_from(self.pace).ok().filter(|_| exactly),
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

    /// Takes what was counted, and how long it took.
    pub fn counted(&mut self, counted: CountedMinutes, took: Duration) {
        let Range { start, end } = self.uncounted;
        self.uncounted = match (counted.through, self.order) {
            (None, _) => 0..0,
            (Some(minute), Order::NewestFirst) => start..minute.min(end - 1),
            (Some(minute), Order::OldestFirst) => minute.max(start) + 1..end,
        };
        self.leaping = counted.minutes.is_empty() && self.leap > 0;
        self.ahead.extend(counted.minutes);
        self.counts = resized(self.counts, took).min(Self::MANY_COUNTS);
        self.settle();
    }

    /// Takes where a leap has ended, and how long it took.
    pub fn leapt(&mut self, leap: Leap, took: Duration) {
        let before = self.uncounted.clone();
        match leap {
            Leap::To(minute) | Leap::Past(minute) => match self.order {
                Order::NewestFirst => self.uncounted.end = self.uncounted.end.min(minute + 1),
                Order::OldestFirst => self.uncounted.start = self.uncounted.start.max(minute),
            },
            Leap::Over => self.uncounted = 0..0,
            Leap::Nowhere => self.leap = 0,
        }
        self.leaping = matches!(leap, Leap::Past(_)) && self.uncounted != before;
        self.leap = resized(self.leap, took).min(Self::MANY_LEAPT);
        self.settle();
    }

    /// Takes what came of a look, and how long it took.
    pub fn looked(&mut self, look: Look, took: Duration) {
        self.wanted = self.wanted.saturating_sub(look.found);
        self.loose |= look.loose;
        self.rest = match look.last {
            Some(id) => self.rest.behind_place(self.order, Place::from_uuid(id)),
            None => self.rest.behind(self.order, look.ids),
        };
        if let Some(first) = self.ahead.front_mut() {
            // What is left of a minute is looked at in as many parts as were planned.
            first.stored = first.stored.saturating_sub(self.pace).max(1);
        }
        if look.last.is_none() && took < Self::QUICK {
            self.pace = (self.pace * 4).min(Self::MANY);
        } else if took > Self::SLOW {
            self.slow_down();
        }
        self.settle();
    }

    /// Plans smaller steps, because the store was slow.
    pub fn slow_down(&mut self) {
        self.pace = (self.pace / 8).max(1);
        self.counts = (self.counts / 8).max(1);
    }

    /// Plans the step otherwise that comes next, because it was not done in time; returns whether that is possible.
    pub fn too_slow(&mut self) -> bool {
        match self.next() {
            Step::End => false,
            Step::Leap { .. } => {
                (self.leap, self.leaping) = (0, false);
                true
            }
            Step::Count { .. } if self.counts >= Self::FEWER => {
                self.counts /= Self::FEWER;
                true
            }
            Step::Count { .. } => {
                self.way = Way::Blind;
                true
            }
            Step::Look { .. } => {
                let before = self.pace;
                self.slow_down();
                self.pace < before
            }
        }
    }

    /// Leaves behind what needs no look.
    fn settle(&mut self) {
        if self.way != Way::Counted {
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

    /// Tells how many messages are wanted yet.
    pub const fn wanted(&self) -> usize {
        self.wanted
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

/// Returns how much to read at once after so much took so long.
fn resized(size: usize, took: Duration) -> usize {
    if took < Walk::QUICK {
        size * 4
    } else if took > Walk::SLOW {
        (size / 8).max(size.min(1))
    } else {
        size
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

    impl Stored {
        fn minute(&self) -> i64 {
            (self.id >> 80) as i64 / 60_000
        }
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

    /// Counts as a store does, a few at a time, or the walk would not have to ask again.
    fn count(all: &[Stored], minutes: &Range<i64>, newest: bool) -> CountedMinutes {
        let mut counts: Vec<MinuteCount> = Vec::new();
        for stored in all {
            let minute = stored.minute();
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
        let through = counts.get(2).map(|count| count.minute);
        counts.truncate(3);
        counts.retain(|count| count.meant > 0);
        CountedMinutes {
            minutes: counts,
            through,
        }
    }

    /// Leaps as a store does, over a few quarters of an hour at a time.
    fn leap(all: &[Stored], minutes: &Range<i64>, newest: bool) -> Leap {
        let quarter = |stored: &Stored| stored.minute() / 15 * 15;
        let (start, end) = (minutes.start / 15 * 15, minutes.end);
        let mut quarters: Vec<_> = all
            .iter()
            .map(|stored| (quarter(stored), stored.counted))
            .collect();
        quarters.retain(|(quarter, _)| start <= *quarter && *quarter < end);
        if newest {
            quarters.reverse();
        }
        let edge = quarters.get(4).map(|(quarter, _)| *quarter);
        let first = quarters
            .iter()
            .find(|(quarter, counted)| *counted && Some(*quarter) != edge);
        let first = first.filter(|(quarter, _)| edge.is_none_or(|edge| (*quarter > edge) == newest));
        let minute = |quarter: i64| if newest { quarter + 14 } else { quarter };
        match (first, edge) {
            (Some((quarter, _)), _) => Leap::To(minute(*quarter)),
            (None, Some(edge)) => Leap::Past(minute(edge)),
            (None, None) => Leap::Over,
        }
    }

    /// Looks as a store does that may find more than what is meant; returns what is meant, too.
    fn look(
        all: &[Stored],
        search: &Search,
        step: (IdRange, usize, Option<usize>),
        wanted: usize,
    ) -> (Look, Vec<u128>) {
        let (ids, most, passing) = step;
        let newest = search.order == Order::NewestFirst;
        let mut there: Vec<_> = all
            .iter()
            .filter(|stored| ids.holds(Uuid::from_u128(stored.id)))
            .collect();
        if newest {
            there.reverse();
        }
        let edge = passing.and_then(|passing| there.get(passing));
        let ids = edge.map_or(ids, |edge| ids.through(search.order, Uuid::from_u128(edge.id)));
        there.retain(|stored| stored.counted && ids.holds(Uuid::from_u128(stored.id)));
        let mut cut = there.len() >= most;
        there.truncate(most);
        let (mut last, mut loose, mut rows) = (None, false, Vec::new());
        for stored in there {
            last = Some(Uuid::from_u128(stored.id));
            loose |= !stored.meant;
            if stored.meant {
                rows.push(stored.id);
            }
            if rows.len() == wanted {
                cut = true;
                break;
            }
        }
        let look = Look {
            ids,
            found: rows.len(),
            loose,
            last: last.filter(|_| cut),
        };
        (look, rows)
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
                // Some are not done in time.
                _ if step % 5 == 4 && walk.too_slow() => {}
                Step::Count { minutes, most } => {
                    assert!(!minutes.is_empty() && most > 0);
                    walk.counted(count(all, &minutes, newest), Duration::ZERO);
                }
                Step::Leap { minutes, most } => {
                    assert!(!minutes.is_empty() && most > 0);
                    walk.leapt(leap(all, &minutes, newest), Duration::ZERO);
                }
                Step::Look { ids, most, passing } => {
                    assert!(!ids.is_empty() && most > 0);
                    let (look, rows) = look(all, search, (ids, most, passing), walk.wanted());
                    walk.looked(look, Duration::ZERO);
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

    fn everything(order: Order) -> Search {
        Search {
            selection: Selection::of(SeveritySet::ALL),
            query: "text".parse().unwrap(),
            range: TimeRange::new(
                Timestamp::MIN,
                Timestamp::from_unix_micros(3_600_000_000).unwrap(),
            )
            .unwrap(),
            order,
            from: None,
        }
    }

    fn walk(search: &Search) -> Walk {
        Walk::new(&Meaning::of(search), search.order, 100)
    }

    fn minutes(minutes: impl IntoIterator<Item = MinuteCount>) -> CountedMinutes {
        CountedMinutes {
            minutes: minutes.into_iter().collect(),
            through: None,
        }
    }

    fn nothing_through(minute: i64) -> CountedMinutes {
        CountedMinutes {
            minutes: Vec::new(),
            through: Some(minute),
        }
    }

    #[test]
    fn one_id_is_looked_up_without_counting() {
        let id = MessageId::generate();
        let search = Search {
            query: format!("id:{id}").parse().unwrap(),
            range: TimeRange::ALL,
            ..everything(Order::NewestFirst)
        };
        let mut walk = walk(&search);
        let Step::Look { ids, passing, .. } = walk.next() else {
            panic!("{walk:?}")
        };
        assert_eq!(passing, None);
        let look = Look {
            ids,
            found: 1,
            loose: false,
            last: None,
        };
        walk.looked(look, Duration::ZERO);
        assert_eq!((walk.next(), walk.place()), (Step::End, None));
    }

    #[test]
    fn a_look_passes_a_bounded_number_of_messages() {
        let search = everything(Order::NewestFirst);
        let full = |minute| MinuteCount {
            minute,
            stored: 400,
            meant: 1,
        };
        let mut two = walk(&search);
        two.counted(minutes((0..60).rev().map(full)), Duration::ZERO);
        let Step::Look { ids, .. } = two.next() else {
            panic!("{two:?}")
        };
        assert_eq!(ids.minutes(), 58..60, "two minutes are 800 messages");
        let huge = MinuteCount {
            minute: 59,
            stored: 1_000_000,
            meant: 1,
        };
        let mut part = walk(&search);
        part.counted(minutes([huge]), Duration::ZERO);
        let Step::Look { ids, .. } = part.next() else {
            panic!("{part:?}")
        };
        assert_eq!(IdRange::of_minute(59).width() / ids.width(), 1_000);
    }

    #[test]
    fn a_leap_reads_a_bounded_number_of_counts_and_none_follows_one_that_was_too_slow() {
        for (order, through, past, left) in [
            (Order::NewestFirst, 50, 29, 0..30),
            (Order::OldestFirst, 10, 30, 30..60),
        ] {
            let search = everything(order);
            let mut walk = walk(&search);
            assert!(
                matches!(walk.next(), Step::Count { .. }),
                "what is nearest is counted"
            );
            walk.counted(nothing_through(through), Duration::ZERO);
            let Step::Leap { most, .. } = walk.next() else {
                panic!("{walk:?}")
            };
            walk.leapt(Leap::Past(past), Duration::ZERO);
            let Step::Leap { minutes, most: more } = walk.next() else {
                panic!("{walk:?}")
            };
            assert!(minutes == left && more == 4 * most, "{walk:?}");
            let mut slow = walk.clone();
            assert!(slow.too_slow());
            for _ in 0..3 {
                let Step::Count { minutes, .. } = slow.next() else {
                    panic!("{slow:?}")
                };
                let middle = (minutes.start + minutes.end) / 2;
                slow.counted(nothing_through(middle), Duration::ZERO);
            }
            // One that comes no further would be repeated for ever.
            walk.leapt(Leap::Past(past), Duration::ZERO);
            assert!(matches!(walk.next(), Step::Count { .. }), "{walk:?}");
        }
    }

    #[test]
    fn counts_that_are_not_read_in_time_are_done_without() {
        let search = everything(Order::OldestFirst);
        let mut walk = walk(&search);
        let mut read = Vec::new();
        while let Step::Count { most, .. } = walk.next() {
            read.push(most);
            assert!(walk.too_slow());
        }
        assert_eq!(read, [2_000, 31]);
        let Step::Look { ids, passing, .. } = walk.next() else {
            panic!("{walk:?}")
        };
        assert_eq!((ids.minutes(), passing), (0..60, Some(1_000)));
        // However quick it becomes, each look has an end of its own.
        for _ in 0..10 {
            let Step::Look { ids, passing, .. } = walk.next() else {
                panic!("{walk:?}")
            };
            assert!(passing.is_some());
            let ids = ids.first(Order::OldestFirst, IdRange::MILLISECOND);
            let look = Look {
                ids,
                found: 0,
                loose: false,
                last: None,
            };
            walk.looked(look, Duration::ZERO);
        }
        assert!(walk.has_moved());
    }

    #[test]
    fn where_not_all_that_is_found_is_meant_more_is_asked_for_than_is_wanted() {
        let search = everything(Order::NewestFirst);
        let mut walk = Walk::new(&Meaning::of(&search), search.order, 1);
        let minute = MinuteCount {
            minute: 59,
            stored: 900,
            meant: 900,
        };
        walk.counted(minutes([minute]), Duration::ZERO);
        for (loose, expected) in [(true, 1), (false, 300), (false, 300)] {
            let Step::Look { ids, most, .. } = walk.next() else {
                panic!("{walk:?}")
            };
            assert_eq!(most, expected);
            let look = Look {
                ids,
                found: 0,
                loose,
                last: Some(ids.first(Order::NewestFirst, 1).from()),
            };
            walk.looked(look, Duration::ZERO);
        }
    }
}
