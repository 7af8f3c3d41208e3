use std::pin::pin;
use std::task::{Context, Poll, Waker};

use serde_json::json;

use super::*;
use crate::ports::{Order, Place, TimeRange};
use crate::search::MinuteCount;
use crate::{Attributes, Draft, Message, MessageLimits, Selection, SeveritySet, Timestamp};

/// A store of one minute, which is not done in time with more than so many rows at once, of each kind.
struct Store {
    rows: Vec<Message>,
    most_counts: usize,
    most_looked_at: usize,
    steps: Vec<(&'static str, usize)>,
}

#[derive(Debug, PartialEq)]
struct Slow;

impl Store {
    fn of(rows: Vec<Message>) -> Self {
        Self {
            rows,
            most_counts: usize::MAX,
            most_looked_at: usize::MAX,
            steps: Vec::new(),
        }
    }

    fn among(&self, ids: IdRange) -> impl Iterator<Item = &Message> {
        self.rows.iter().filter(move |row| ids.holds(row.id.as_uuid()))
    }
}

impl SearchSteps for Store {
    type Failure = Slow;

    fn is_slow(_: &Slow) -> bool {
        true
    }

    async fn count(&mut self, minutes: Range<i64>, most: usize) -> Result<CountedMinutes, Slow> {
        self.steps.push(("count", most));
        if most > self.most_counts {
            return Err(Slow);
        }
        let minute = self.rows[0].id.timestamp().unix_micros() / 60_000_000;
        let (stored, meant) = (self.rows.len() as u64, 1);
        let counted = minutes.contains(&minute).then_some(MinuteCount {
            minute,
            stored,
            meant,
        });
        Ok(CountedMinutes {
            minutes: counted.into_iter().collect(),
            through: None,
        })
    }

    async fn edge(&mut self, ids: IdRange, passing: usize) -> Result<Option<Uuid>, Slow> {
        self.steps.push(("edge", passing));
        let edge = self.among(ids).nth(passing);
        Ok(edge.map(|row| row.id.as_uuid()))
    }

    async fn look(&mut self, ids: IdRange, most: usize, _: usize) -> Result<Listed, Slow> {
        let count = self.among(ids).count();
        self.steps.push(("look", count));
        if count > self.most_looked_at {
            return Err(Slow);
        }
        let stored = |row: &Message| StoredMessage {
            message: row.clone(),
            stored_at: Timestamp::now(),
        };
        Ok(Listed {
            messages: self.among(ids).take(most).map(stored).collect(),
            cut: count >= most,
        })
    }
}

fn rows(count: usize, attributes: &serde_json::Value) -> Vec<Message> {
    let row = |at: usize| {
        let json =
            format!(r#"{{"body":"text","id":"019aa0c0-0000-7000-8000-{at:012}","attributes":{attributes}}}"#);
        let draft = Draft::from_json(json.as_bytes()).unwrap();
        draft
            .into_message(&MessageLimits::CEILING, Timestamp::now())
            .unwrap()
    };
    (0..count).map(row).collect()
}

fn search() -> Search {
    Search {
        selection: Selection::of(SeveritySet::ALL),
        query: "text".parse().unwrap(),
        range: TimeRange::ALL,
        order: Order::OldestFirst,
        from: None,
    }
}

fn find(searcher: &Searcher, store: &mut Store) -> Result<Found, Slow> {
    find_from(None, searcher, store)
}

fn find_from(from: Option<Place>, searcher: &Searcher, store: &mut Store) -> Result<Found, Slow> {
    let search = Search { from, ..search() };
    let meaning = Meaning::of(&search);
    let mut finding = pin!(searcher.find(&search, &meaning, 1_000, store));
    loop {
        // It waits for nothing but its turn.
        if let Poll::Ready(found) = finding.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return found;
        }
    }
}

fn searcher() -> Searcher {
    Searcher::new(Duration::from_mins(10), Duration::from_mins(10))
}

#[test]
fn a_step_that_is_not_done_in_time_is_repeated_with_less_to_do_and_others_learn_of_it() {
    let searcher = searcher();
    let mut slow = Store {
        most_looked_at: 20,
        ..Store::of(rows(60, &json!({})))
    };
    let found = find(&searcher, &mut slow).unwrap();
    assert_eq!((found.messages.len(), found.next), (60, None));
    let looks = |store: &Store| -> Vec<_> {
        let looks = store.steps.iter().filter(|(step, _)| *step == "look");
        looks.map(|(_, rows)| *rows).collect()
    };
    assert_eq!(
        looks(&slow)[..3],
        [60, 60, 16],
        "1,000, 125 and 15 others before the last"
    );

    // Whoever is quick with something else does not make the slow ones try in vain again.
    let mut quick = Store::of(rows(2, &json!({})));
    for _ in 0..10 {
        find(&searcher, &mut quick).unwrap();
    }
    slow.steps.clear();
    find(&searcher, &mut slow).unwrap();
    assert!(looks(&slow)[0] <= 20, "{:?}", slow.steps);
}

#[test]
fn a_store_that_is_never_done_in_time_is_given_up_and_one_whose_counts_are_not_is_searched_without() {
    let mut hopeless = Store {
        most_looked_at: 0,
        ..Store::of(rows(3, &json!({})))
    };
    let as_far_as_the_minute = find(&searcher(), &mut hopeless).unwrap();
    assert_eq!(as_far_as_the_minute.messages, []);
    let next = as_far_as_the_minute.next;
    assert_eq!(find_from(next, &searcher(), &mut hopeless), Err(Slow));
    let mut uncounted = Store {
        most_counts: 0,
        ..Store::of(rows(3, &json!({})))
    };
    let found = find(&searcher(), &mut uncounted).unwrap();
    assert_eq!((found.messages.len(), found.next), (3, None));
}

#[test]
fn a_page_ends_by_the_bytes_of_all_that_it_holds() {
    let attributes = json!({ "large": "x".repeat(60 << 10) });
    let mut store = Store::of(rows(200, &attributes));
    let found = find(&searcher(), &mut store).unwrap();
    let one = found.messages[0].bytes();
    let compact = Attributes::new(attributes.as_object().unwrap().clone(), &MessageLimits::CEILING);
    assert_eq!(one, "default".len() + "text".len() + compact.unwrap().bytes());
    assert_eq!(found.messages.len(), MOST_FOUND_BYTES.div_ceil(one));
    assert!(found.next.is_some());
}

#[test]
fn a_step_has_a_part_of_the_time_of_a_search() {
    let seconds = Duration::from_secs;
    for (time, statement, step) in [
        (seconds(2), seconds(2), Duration::from_millis(500)),
        (seconds(60), seconds(2), seconds(2)),
        (Duration::from_millis(1), seconds(2), Duration::from_millis(100)),
    ] {
        assert_eq!(Searcher::new(time, statement).step_time(), step);
    }
}

#[test]
fn what_a_reader_may_take_is_bounded() {
    let (short, long) = (Duration::from_millis(100), Duration::from_mins(10));
    for connections in [1, 64] {
        assert_eq!(reader_problems(connections, Duration::from_millis(1), long), []);
        assert_eq!(reader_problems(connections, long, short), []);
    }
    for (connections, search_time, statement_timeout) in [
        (0, Duration::ZERO, Duration::from_millis(99)),
        (65, long + short, long + short),
    ] {
        let problems = reader_problems(connections, search_time, statement_timeout);
        let fields: Vec<_> = problems.into_iter().map(|(field, _)| field).collect();
        assert_eq!(fields, ["connections", "search_time", "statement_timeout"]);
    }
}
