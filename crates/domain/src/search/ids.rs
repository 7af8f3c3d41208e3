//! Stretches of ids, which are stretches of time.

use std::ops::Range;

use uuid::Uuid;

use crate::ports::{Order, Place, TimeRange};
use crate::{MessageId, Timestamp};

/// A stretch of ids that holds its beginning and not its end; may be empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    from: u128,
    until: u128,
}

impl IdRange {
    /// How many ids a millisecond has: below the 48 bits of milliseconds that an id begins with there are 80 others.
    pub(super) const MILLISECOND: u128 = 1 << 80;
    /// How many ids a minute has.
    const MINUTE: u128 = 60_000 * Self::MILLISECOND;

    /// Returns the ids whose time is in a range.
    pub const fn of_time(range: TimeRange) -> Self {
        Self {
            from: first_at(range.from()),
            until: first_at(range.until()),
        }
    }

    /// Returns one id.
    pub const fn of(id: MessageId) -> Self {
        let id = id.as_uuid().as_u128();
        Self {
            from: id,
            until: id + 1,
        }
    }

    /// Returns the ids from one to another, both included.
    pub const fn between(first: Uuid, last: Uuid) -> Self {
        Self {
            from: first.as_u128(),
            until: last.as_u128().saturating_add(1),
        }
    }

    /// Returns the ids of a minute, which is counted since 1970.
    pub fn of_minute(minute: i64) -> Self {
        let from = u128::from(minute.max(0).unsigned_abs()) * Self::MINUTE;
        Self {
            from,
            until: from + Self::MINUTE,
        }
    }

    /// Returns the first id.
    pub const fn from(self) -> Uuid {
        Uuid::from_u128(self.from)
    }

    /// Returns the id behind the last.
    pub const fn until(self) -> Uuid {
        Uuid::from_u128(self.until)
    }

    /// Tells whether there is no id in it.
    pub const fn is_empty(self) -> bool {
        self.from >= self.until
    }

    /// Tells whether an id is in it.
    pub const fn holds(self, id: Uuid) -> bool {
        let id = id.as_u128();
        self.from <= id && id < self.until
    }

    /// Returns what both have.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            from: self.from.max(other.from),
            until: self.until.min(other.until),
        }
    }

    /// Returns the minutes since 1970 that its ids have.
    pub fn minutes(self) -> Range<i64> {
        if self.is_empty() {
            return 0..0;
        }
        // At most 2^128 / 2^80 / 60,000.
        let minute = |id: u128| i64::try_from(id / Self::MINUTE).unwrap_or(i64::MAX);
        minute(self.from)..minute(self.until - 1) + 1
    }

    /// Returns how many ids there are.
    pub(super) const fn width(self) -> u128 {
        self.until.saturating_sub(self.from)
    }

    /// Returns what comes first in an order: `width` ids of it, or all.
    pub(super) fn first(self, order: Order, width: u128) -> Self {
        match order {
            Order::NewestFirst => Self {
                from: self.from.max(self.until.saturating_sub(width)),
                ..self
            },
            Order::OldestFirst => Self {
                until: self.until.min(self.from.saturating_add(width)),
                ..self
            },
        }
    }

    /// Returns what both have and what lies between them.
    #[must_use]
    pub fn joined(self, other: Self) -> Self {
        Self {
            from: self.from.min(other.from),
            until: self.until.max(other.until),
        }
    }

    /// Returns what is left, in an order, behind another stretch.
    pub(super) fn behind(self, order: Order, other: Self) -> Self {
        match order {
            Order::NewestFirst => Self {
                until: self.until.min(other.from),
                ..self
            },
            Order::OldestFirst => Self {
                from: self.from.max(other.until),
                ..self
            },
        }
    }

    /// Returns what comes, in an order, before an id, and the id itself.
    #[must_use]
    pub fn through(self, order: Order, id: Uuid) -> Self {
        let id = id.as_u128();
        match order {
            Order::NewestFirst => Self {
                from: self.from.max(id),
                ..self
            },
            Order::OldestFirst => Self {
                until: self.until.min(id.saturating_add(1)),
                ..self
            },
        }
    }

    /// Returns what is left, in an order, from where another stretch begins.
    pub(super) fn beginning_with(self, order: Order, other: Self) -> Self {
        match order {
            Order::NewestFirst => Self {
                until: self.until.min(other.until),
                ..self
            },
            Order::OldestFirst => Self {
                from: self.from.max(other.from),
                ..self
            },
        }
    }

    /// Returns what is left, in an order, behind a place.
    #[must_use]
    pub fn behind_place(self, order: Order, place: Place) -> Self {
        let place = place.as_uuid().as_u128();
        match order {
            Order::NewestFirst => Self {
                until: self.until.min(place),
                ..self
            },
            Order::OldestFirst => Self {
                from: self.from.max(place.saturating_add(1)),
                ..self
            },
        }
    }

    /// Returns the place behind which it begins, in an order.
    pub(super) const fn place(self, order: Order) -> Place {
        Place::from_uuid(Uuid::from_u128(match order {
            Order::NewestFirst => self.until,
            Order::OldestFirst => self.from.saturating_sub(1),
        }))
    }
}

/// Returns the first id that has this time or a later one.
const fn first_at(time: Timestamp) -> u128 {
    // Not negative; the time of an id is in whole milliseconds.
    (time.unix_micros().unsigned_abs() as u128).div_ceil(1_000) * IdRange::MILLISECOND
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(millis: u128, rest: u128) -> MessageId {
        let rest = rest & 0x0fff_3fff_ffff_ffff_ffff | 0x7000_8000_0000_0000_0000;
        MessageId::try_from(Uuid::from_u128(millis << 80 | rest)).unwrap()
    }

    proptest! {
        #[test]
        fn a_range_of_time_has_the_ids_whose_time_is_in_it(
            (from, until, time) in (0_i64..5_000, 1_i64..5_000, 0_u128..5),
            rest in any::<u128>(),
        ) {
            let at = |micros| Timestamp::from_unix_micros(micros).unwrap();
            let range = TimeRange::new(at(from), at(from + until)).unwrap();
            let id = id(time, rest);
            prop_assert_eq!(IdRange::of_time(range).holds(id.as_uuid()), range.holds(id.timestamp()));
        }

        #[test]
        fn behind_a_place_are_the_ids_beyond_it(place in any::<u128>(), other in any::<u128>()) {
            let all = IdRange { from: 0, until: u128::MAX };
            let (place, other) = (Uuid::from_u128(place), Uuid::from_u128(other));
            let newer = all.behind_place(Order::OldestFirst, Place::from_uuid(place));
            let older = all.behind_place(Order::NewestFirst, Place::from_uuid(place));
            prop_assert_eq!(older.holds(other), other < place);
            prop_assert_eq!(newer.holds(other), other > place && other != Uuid::max());
            for (order, left) in [(Order::OldestFirst, newer), (Order::NewestFirst, older)] {
                prop_assert!(left.is_empty() || all.behind_place(order, left.place(order)) == left);
            }
        }
    }

    #[test]
    fn the_last_id_of_all_time_is_in_all_of_it() {
        let all = IdRange::of_time(TimeRange::ALL);
        let last = id(9_214_646_399_999, u128::MAX);
        assert_eq!(last.timestamp().to_string(), "2261-12-31T23:59:59.999000Z");
        assert!(all.holds(last.as_uuid()) && all.holds(id(0, 0).as_uuid()));
        assert_eq!(all.minutes(), 0..153_577_440);
        assert_eq!(IdRange::of(last).minutes(), 153_577_439..153_577_440);
    }
}
