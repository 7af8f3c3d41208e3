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

/// Counts as a store does, a few at a time, or the walk would not have to ask again. With `knows` it knows which minutes have
/// nothing that is meant.
fn count(all: &[Stored], minutes: &Range<i64>, newest: bool, knows: bool) -> CountedMinutes {
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
    for count in &mut counts {
        if knows
            && !all
                .iter()
                .any(|stored| stored.meant && stored.minute() == count.minute)
        {
            count.stored = 0;
        }
    }
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
fn page(
    all: &[Stored],
    search: &Search,
    knows: bool,
    (wanted, steps): (usize, usize),
) -> (Vec<u128>, Option<Place>) {
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
                walk.counted(count(all, &minutes, newest, knows), Duration::ZERO);
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
        (newest, exact, selects, knows) in any::<(bool, bool, bool, bool)>(),
        (wanted, steps) in (1_usize..40, 1_usize..8),
    ) {
        let all: Vec<_> = all
            .into_iter()
            .map(|stored| Stored { meant: stored.meant || exact && stored.counted, ..stored })
            .collect();
        let mut search = Search {
            selection: Selection::of(SeveritySet::ALL),
            query: match (exact, selects) {
                (true, false) => "",
                (true, true) => "severity>=error",
                (false, false) => "text",
                (false, true) => "text severity>=error",
            }
            .parse()
            .unwrap(),
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
            let (rows, next) = page(&all, &search, knows, (wanted, steps));
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
fn a_look_leaves_minutes_behind_that_have_nothing_to_look_at_and_learns_nothing_from_that() {
    let search = everything(Order::NewestFirst);
    let mut walk = walk(&search);
    let count = |minute| MinuteCount {
        minute,
        stored: if minute % 10 == 0 { 600 } else { 0 },
        meant: 600,
    };
    walk.counted(minutes((0..60).rev().map(count)), Duration::ZERO);
    let quick = |ids| Look::nothing(ids);
    for expected in [41..60, 0..41] {
        let Step::Look { ids, .. } = walk.next() else {
            panic!("{walk:?}")
        };
        assert_eq!(ids.minutes(), expected);
        walk.looked(quick(ids), Duration::ZERO);
    }
    // All of it at once is too much for who has only passed over what he need not look at.
    let mut none = Walk::new(&Meaning::of(&search), search.order, 100);
    let ruled_out = |minute| MinuteCount {
        stored: 0,
        ..count(minute)
    };
    none.counted(
        CountedMinutes {
            through: Some(30),
            ..minutes((30..60).rev().map(ruled_out))
        },
        Duration::ZERO,
    );
    let Step::Look { ids, .. } = none.next() else {
        panic!("{none:?}")
    };
    assert_eq!(ids.minutes(), 30..60);
    none.looked(quick(ids), Duration::ZERO);
    assert!(
        matches!(none.next(), Step::Count { .. }),
        "nothing is selected: {none:?}"
    );
    none.counted(
        minutes((0..30).rev().map(|minute| MinuteCount {
            stored: 600,
            ..count(minute)
        })),
        Duration::ZERO,
    );
    let Step::Look { ids, .. } = none.next() else {
        panic!("{none:?}")
    };
    assert_eq!(ids.minutes(), 29..30);
}

#[test]
fn a_leap_reads_a_bounded_number_of_counts_and_none_follows_one_that_was_too_slow() {
    for (order, through, past, left) in [
        (Order::NewestFirst, 50, 29, 0..30),
        (Order::OldestFirst, 10, 30, 30..60),
    ] {
        let search = Search {
            query: "text severity>=error".parse().unwrap(),
            ..everything(order)
        };
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
