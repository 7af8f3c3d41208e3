//! One search, step by step: a [`Walk`] plans, a store does, until a page is full or the time is over.

use std::ops::Range;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::breath::Breath;
use super::slowness::Slowness;
use super::walk::{CountedMinutes, Leap, Look, Step, Walk};
use super::{IdRange, Meaning};
use crate::ports::{Found, MOST_FOUND, MOST_FOUND_BYTES, Search, StoredMessage};

/// What a store does of one search. It knows what is meant, and in which order.
///
/// Each call is ended once [`Searcher::step_time`] is over, and fails then as [`SearchSteps::is_slow`] tells. A future that
/// is dropped ends its work in the store, too.
pub trait SearchSteps: Send {
    /// Why a step failed.
    type Failure: Send;

    /// Tells whether a step failed for want of time, and a smaller one may succeed.
    fn is_slow(failure: &Self::Failure) -> bool;

    /// Does [`Step::Count`].
    fn count(
        &mut self,
        minutes: Range<i64>,
        most: usize,
    ) -> impl Future<Output = Result<CountedMinutes, Self::Failure>> + Send;

    /// Does [`Step::Leap`]. A store whose counts are all of minutes leaps nowhere.
    fn leap(
        &mut self,
        _minutes: Range<i64>,
        _most: usize,
    ) -> impl Future<Output = Result<Leap, Self::Failure>> + Send {
        std::future::ready(Ok(Leap::Nowhere))
    }

    /// Returns the message among these ids that so many others come before, if there are so many.
    fn edge(
        &mut self,
        ids: IdRange,
        passing: usize,
    ) -> impl Future<Output = Result<Option<Uuid>, Self::Failure>> + Send;

    /// Lists, in the order of the search, all that is meant among these ids, and perhaps more; at most `most`, and no more
    /// than it takes for `most_bytes` ([`StoredMessage::bytes`], about).
    fn look(
        &mut self,
        ids: IdRange,
        most: usize,
        most_bytes: usize,
    ) -> impl Future<Output = Result<Listed, Self::Failure>> + Send;
}

/// What a look lists.
#[derive(Debug)]
pub struct Listed {
    /// In the order of the search.
    pub messages: Vec<StoredMessage>,
    /// Whether it was ended by a limit, so that others may follow.
    pub cut: bool,
}

/// Searches a store.
#[derive(Debug)]
pub struct Searcher {
    time: Duration,
    step_time: Duration,
    slowness: Slowness,
}

impl Searcher {
    /// A step may take so many times less than a search: one that fails is repeated with less to do.
    const STEPS: u32 = 4;
    /// A step may take at least so long, however short a search is to be.
    const LEAST_STEP: Duration = Duration::from_millis(100);

    /// Makes searches that look for `time`, and whose steps may take no longer than `statement_timeout`.
    pub fn new(time: Duration, statement_timeout: Duration) -> Self {
        let step = (time / Self::STEPS).max(Self::LEAST_STEP);
        Self {
            time,
            step_time: step.min(statement_timeout),
            slowness: Slowness::default(),
        }
    }

    /// Returns how long one step may take.
    pub const fn step_time(&self) -> Duration {
        self.step_time
    }

    /// Lists what `search` means, at most `limit` messages.
    ///
    /// A page that has come any further ends when the time is over. One that has not is tried for the time of four steps,
    /// if that is longer, with less to do each time. What was begun then is finished: to come any further takes three steps
    /// at most. So a search takes no longer than its time, or four steps, and three steps.
    ///
    /// # Errors
    /// The first failure of a step that was not for want of time, or the last one of a search that comes no further.
    pub async fn find<S: SearchSteps>(
        &self,
        search: &Search,
        meaning: &Meaning<'_>,
        limit: usize,
        store: &mut S,
    ) -> Result<Found, S::Failure> {
        let began = Instant::now();
        let mut walk = Walk::new(meaning, search.order, limit.clamp(1, MOST_FOUND));
        for _ in 0..self.slowness.level(began) {
            walk.slow_down();
        }
        let mut page = Page::of(search);
        while walk.next() != Step::End && !page.is_full() {
            let step = take(store, &mut walk, &mut page).await;
            let is_over = began.elapsed() >= self.time && walk.has_moved();
            match step {
                Ok(()) if is_over => break,
                Ok(()) => {}
                Err(failure) if S::is_slow(&failure) => {
                    let goes_on = self.plan_less(&mut walk, began);
                    if walk.has_moved() && (is_over || !goes_on) {
                        break;
                    }
                    if !goes_on {
                        return Err(failure);
                    }
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(Found {
            messages: page.messages,
            next: walk.place(),
        })
    }

    /// Plans less after a step that was not done in time; returns whether that is possible, and there is time for it.
    fn plan_less(&self, walk: &mut Walk, began: Instant) -> bool {
        // Only few searches leap, so this says nothing of others.
        if !matches!(walk.next(), Step::Leap { .. }) {
            self.slowness.grow(Instant::now());
        }
        let patience = self.time.max(self.step_time * Self::STEPS);
        walk.too_slow() && began.elapsed() < patience
    }
}

/// Takes the next step.
async fn take<S: SearchSteps>(store: &mut S, walk: &mut Walk, page: &mut Page<'_>) -> Result<(), S::Failure> {
    let began = Instant::now();
    match walk.next() {
        Step::End => {}
        Step::Count { minutes, most } => {
            let counted = store.count(minutes, most).await?;
            walk.counted(counted, began.elapsed());
        }
        Step::Leap { minutes, most } => {
            let leap = store.leap(minutes, most).await?;
            walk.leapt(leap, began.elapsed());
        }
        Step::Look { ids, most, passing } => {
            let edge = match passing {
                Some(passing) => store.edge(ids, passing).await?,
                None => None,
            };
            let ids = edge.map_or(ids, |edge| ids.through(page.search.order, edge));
            let listed = store.look(ids, most, page.room()).await?;
            let took = began.elapsed();
            walk.looked(page.take(ids, listed, walk.wanted()).await, took);
        }
    }
    Ok(())
}

/// What a search has found.
#[derive(Debug)]
struct Page<'s> {
    search: &'s Search,
    messages: Vec<StoredMessage>,
    bytes: usize,
}

impl<'s> Page<'s> {
    const fn of(search: &'s Search) -> Self {
        Self {
            search,
            messages: Vec::new(),
            bytes: 0,
        }
    }

    /// Returns how many bytes there is room for.
    const fn room(&self) -> usize {
        MOST_FOUND_BYTES.saturating_sub(self.bytes)
    }

    const fn is_full(&self) -> bool {
        self.room() == 0
    }

    /// Takes what is meant of what was listed, until `wanted` messages are found or the page is full.
    async fn take(&mut self, ids: IdRange, listed: Listed, wanted: usize) -> Look {
        let (mut look, mut breath) = (Look::nothing(ids), Breath::default());
        let mut cut = listed.cut;
        for stored in listed.messages {
            let bytes = stored.bytes();
            look.last = Some(stored.message.id.as_uuid());
            breath.after(bytes).await;
            if !self.search.means(&stored.message) {
                look.loose = true;
                continue;
            }
            self.messages.push(stored);
            self.bytes = self.bytes.saturating_add(bytes);
            look.found += 1;
            if look.found == wanted || self.is_full() {
                cut = true;
                break;
            }
        }
        look.last = look.last.filter(|_| cut);
        look
    }
}

#[cfg(test)]
mod tests {
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
            let json = format!(
                r#"{{"body":"text","id":"019aa0c0-0000-7000-8000-{at:012}","attributes":{attributes}}}"#
            );
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
}
