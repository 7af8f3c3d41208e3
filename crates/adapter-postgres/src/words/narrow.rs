//! What of some ids has to be looked at, by what filters say.

use std::ops::Range;

use uuid::Uuid;
use warren_domain::ports::Order;
use warren_domain::search::IdRange;

/// A minute as it was counted, and what its filters say if they were right by that count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Minute {
    /// Since 1970.
    pub(crate) minute: i64,
    /// How many messages it has.
    pub(crate) stored: u64,
    /// Whether any of them are of a severity and source that are meant, unless all filters rule the texts out.
    pub(crate) meant: bool,
    /// One after the other, of all of its rows; none if it has no filters.
    pub(crate) blocks: Vec<Block>,
}

/// What a filter says of the rows from one id to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) first: Uuid,
    pub(crate) last: Uuid,
    /// Whether a row of it may have all texts.
    pub(crate) may: bool,
}

impl Minute {
    pub(crate) const fn of(minute: i64, stored: u64) -> Self {
        Self {
            minute,
            stored,
            meant: false,
            blocks: Vec::new(),
        }
    }

    /// Returns how many messages a look passes, about; none if nothing is meant whatever the filters say.
    pub(crate) fn passes(&self) -> Option<u64> {
        let all = self.blocks.len() as u64;
        let may = self.blocks.iter().filter(|block| block.may).count() as u64;
        if all > 0 && may == 0 {
            return Some(0);
        }
        let stored = || {
            self.stored
                .saturating_mul(may)
                .checked_div(all)
                .unwrap_or(self.stored)
        };
        self.meant.then(|| stored().max(1))
    }
}

/// Returns the parts of `ids` that have to be looked at, in order.
///
/// `counted`: minutes in the order of time. One that is not among them is looked at in full, as is one without filters.
pub(crate) fn narrow(ids: IdRange, order: Order, counted: &[Minute]) -> Vec<IdRange> {
    let minutes = ids.minutes();
    let first = counted.partition_point(|minute| minute.minute < minutes.start);
    let mut parts: Vec<IdRange> = Vec::new();
    // Adjacent ones become one.
    let mut joins = false;
    let mut next = minutes.start;
    for minute in counted[first..]
        .iter()
        .take_while(|minute| minute.minute < minutes.end)
    {
        if next < minute.minute {
            add(&mut parts, ids.and(all_of(next..minute.minute)), joins);
            joins = true;
        }
        next = minute.minute + 1;
        if minute.blocks.is_empty() {
            add(&mut parts, ids.and(IdRange::of_minute(minute.minute)), joins);
            joins = true;
        }
        for block in &minute.blocks {
            let part = ids.and(IdRange::between(block.first, block.last));
            if part.is_empty() {
                continue;
            }
            if block.may {
                add(&mut parts, part, joins);
            }
            joins = block.may;
        }
    }
    if next < minutes.end {
        add(&mut parts, ids.and(all_of(next..minutes.end)), joins);
    }
    if order == Order::NewestFirst {
        parts.reverse();
    }
    parts
}

/// Returns the ids of minutes, of which there are some.
fn all_of(minutes: Range<i64>) -> IdRange {
    IdRange::of_minute(minutes.start).joined(IdRange::of_minute(minutes.end - 1))
}

fn add(parts: &mut Vec<IdRange>, part: IdRange, joins: bool) {
    match parts.last_mut() {
        Some(last) if joins => *last = last.joined(part),
        _ => parts.push(part),
    }
}

#[cfg(test)]
mod tests {
    use warren_domain::Timestamp;
    use warren_domain::ports::TimeRange;

    use super::*;

    const MINUTE: u128 = 60_000 << 80;

    fn id(minute: u128, within: u128) -> Uuid {
        Uuid::from_u128(minute * MINUTE + within)
    }

    fn minute(minute: i64, blocks: &[(u128, u128, bool)]) -> Minute {
        let at = |within| id(minute.unsigned_abs().into(), within);
        Minute {
            meant: true,
            blocks: blocks
                .iter()
                .map(|(first, last, may)| Block {
                    first: at(*first),
                    last: at(*last),
                    may: *may,
                })
                .collect(),
            ..Minute::of(minute, 10)
        }
    }

    fn minutes(from: i64, until: i64) -> IdRange {
        let time = |minute| Timestamp::from_unix_micros(minute * 60_000_000).unwrap();
        IdRange::of_time(TimeRange::new(time(from), time(until)).unwrap())
    }

    #[test]
    fn what_filters_rule_out_is_left_out_and_neighbours_are_looked_at_together() {
        let counted = [
            minute(0, &[(5, 9, true), (12, 13, false), (20, 30, true)]),
            minute(1, &[(4, 8, true)]),
            minute(2, &[(4, 8, false)]),
            minute(3, &[]),
            minute(4, &[]),
            minute(5, &[(7, 7, false)]),
        ];
        let expected = [
            IdRange::between(id(0, 5), id(0, 9)),
            IdRange::between(id(0, 20), id(1, 8)),
            minutes(3, 5),
        ];
        assert_eq!(narrow(minutes(0, 6), Order::OldestFirst, &counted), expected);
        let mut reversed = narrow(minutes(0, 6), Order::NewestFirst, &counted);
        reversed.reverse();
        assert_eq!(reversed, expected);
    }

    #[test]
    fn what_was_not_counted_is_looked_at_in_full() {
        assert_eq!(narrow(minutes(1, 3), Order::OldestFirst, &[]), [minutes(1, 3)]);
        let all = IdRange::of_time(TimeRange::ALL);
        let ruled_out = |number| minute(number, &[(0, 8, false)]);
        let parts = narrow(all, Order::OldestFirst, &[ruled_out(5), ruled_out(7)]);
        let [before, between, behind] = parts[..] else {
            panic!("{parts:?}")
        };
        assert_eq!(
            (before.from(), before.until()),
            (all.from(), minutes(5, 6).from())
        );
        assert_eq!(between, minutes(6, 7));
        assert_eq!(
            (behind.from(), behind.until()),
            (minutes(8, 9).from(), all.until())
        );
    }

    #[test]
    fn what_is_returned_lies_within_what_was_asked_for() {
        let counted = [minute(1, &[(4, 8, true), (9, 20, true)])];
        let ids = IdRange::between(id(1, 6), id(1, 15));
        assert_eq!(narrow(ids, Order::OldestFirst, &counted), [ids]);
        let ids = IdRange::between(id(1, 21), id(1, 50));
        assert_eq!(narrow(ids, Order::OldestFirst, &counted), []);
    }

    #[test]
    fn a_look_passes_what_filters_leave() {
        let blocks = [(1, 2, true), (3, 4, false), (5, 6, false), (7, 8, false)];
        let some = minute(0, &blocks);
        assert_eq!(some.passes(), Some(2));
        assert_eq!(minute(0, &blocks[1..]).passes(), Some(0));
        assert_eq!(minute(0, &[]).passes(), Some(10));
        for blocks in [&blocks[..], &[]] {
            let nobodys = Minute {
                meant: false,
                ..minute(0, blocks)
            };
            assert_eq!(nobodys.passes(), None);
        }
    }
}
