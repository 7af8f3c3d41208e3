//! What of some ids has to be looked at, by what filters say.

use std::collections::HashMap;

use uuid::Uuid;
use warren_domain::ports::Order;
use warren_domain::search::IdRange;

/// What a filter says of the rows from one id to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// Since 1970.
    pub(crate) minute: i64,
    /// How many messages the minute had when the filter was made.
    pub(crate) stored: u64,
    pub(crate) first: Uuid,
    pub(crate) last: Uuid,
    /// Whether a row of it may have all texts.
    pub(crate) may: bool,
}

/// Returns the parts of `ids` that have to be looked at, in order.
///
/// `counted`: how many messages each minute has, counted before the filters were read; a minute that is not in it, or had
/// another number when its filters were made, is looked at in full.
pub(crate) fn narrow(
    ids: IdRange,
    order: Order,
    counted: &HashMap<i64, u64>,
    blocks: &[Block],
) -> Vec<IdRange> {
    let mut of_minute: HashMap<i64, Vec<&Block>> = HashMap::new();
    for block in blocks {
        of_minute.entry(block.minute).or_default().push(block);
    }
    let mut parts: Vec<IdRange> = Vec::new();
    // Adjacent ones become one.
    let mut joins = false;
    for minute in ids.minutes() {
        let whole = ids.and(IdRange::of_minute(minute));
        match of_minute.get_mut(&minute) {
            Some(blocks)
                if blocks
                    .iter()
                    .all(|block| counted.get(&minute) == Some(&block.stored)) =>
            {
                blocks.sort_unstable_by_key(|block| block.first);
                for block in blocks.iter() {
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
            _ => {
                add(&mut parts, whole, joins);
                joins = true;
            }
        }
    }
    if order == Order::NewestFirst {
        parts.reverse();
    }
    parts
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

    fn block(minute: i64, stored: u64, (first, last): (u128, u128), may: bool) -> Block {
        let at = |within| id(minute.unsigned_abs().into(), within);
        Block {
            minute,
            stored,
            first: at(first),
            last: at(last),
            may,
        }
    }

    fn minutes(from: i64, until: i64) -> IdRange {
        let time = |minute| Timestamp::from_unix_micros(minute * 60_000_000).unwrap();
        IdRange::of_time(TimeRange::new(time(from), time(until)).unwrap())
    }

    #[test]
    fn what_filters_rule_out_is_left_out_and_neighbours_are_looked_at_together() {
        let counted: HashMap<i64, u64> = (0..6).map(|minute| (minute, 10)).collect();
        let blocks = [
            block(0, 10, (5, 9), true),
            block(0, 10, (12, 13), false),
            block(0, 10, (20, 30), true),
            block(1, 10, (4, 8), true),
            block(2, 10, (4, 8), false),
            // Made when there was less.
            block(3, 9, (4, 8), false),
            block(5, 10, (7, 7), false),
        ];
        let expected = [
            IdRange::between(id(0, 5), id(0, 9)),
            IdRange::between(id(0, 20), id(1, 8)),
            // Minute 4 has no filter.
            minutes(3, 5),
        ];
        assert_eq!(
            narrow(minutes(0, 6), Order::OldestFirst, &counted, &blocks),
            expected
        );
        let mut reversed = narrow(minutes(0, 6), Order::NewestFirst, &counted, &blocks);
        reversed.reverse();
        assert_eq!(reversed, expected);
    }

    #[test]
    fn a_minute_that_was_not_counted_is_looked_at_in_full() {
        let blocks = [block(1, 10, (4, 8), false)];
        let parts = narrow(minutes(1, 2), Order::OldestFirst, &HashMap::new(), &blocks);
        assert_eq!(parts, [minutes(1, 2)]);
    }

    #[test]
    fn what_is_returned_lies_within_what_was_asked_for() {
        let counted = HashMap::from([(1, 10)]);
        let blocks = [block(1, 10, (4, 8), true), block(1, 10, (9, 20), true)];
        let ids = IdRange::between(id(1, 6), id(1, 15));
        assert_eq!(narrow(ids, Order::OldestFirst, &counted, &blocks), [ids]);
        let ids = IdRange::between(id(1, 21), id(1, 50));
        assert_eq!(narrow(ids, Order::OldestFirst, &counted, &blocks), []);
    }
}
