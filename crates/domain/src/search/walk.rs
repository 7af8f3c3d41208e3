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
use crate::SeveritySet;
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
    /// Whether the counts just read had nothing to look at, and coarser ones may tell how far that goes on.
    leaping: bool,
    /// Whether only some severities or sources are meant: coarser counts tell nothing else.
    selects: bool,
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
    /// How many messages a look passes: those that are stored, without those that the store knows not to be meant. None if
    /// it knows that of all; looks leave such a minute behind without stopping at it.
    pub stored: u64,
    /// How many of those that are stored have a severity and a source that are meant; at least one.
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
            selects: meaning.severities != SeveritySet::ALL || !meaning.sources.is_empty(),
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
        let nothing = counted.minutes.iter().all(|minute| minute.stored == 0);
        self.leaping = nothing && self.selects && self.leap > 0;
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
        // To pass nothing tells nothing of what it takes to pass something.
        let ahead = self
            .ahead
            .iter()
            .take_while(|minute| !IdRange::of_minute(minute.minute).and(look.ids).is_empty());
        let passed = self.way != Way::Counted || ahead.into_iter().any(|minute| minute.stored > 0);
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
        if look.last.is_none() && passed && took < Self::QUICK {
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
#[path = "walk_tests.rs"]
mod tests;
