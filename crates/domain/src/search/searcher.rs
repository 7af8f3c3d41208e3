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

/// Lists what cannot be used of the settings of whoever reads a store, each by its name, with what to do about it.
///
/// It has 1 to 64 connections. A search has its time, and a statement has, of at most ten minutes.
pub fn reader_problems(
    connections: u64,
    search_time: Duration,
    statement_timeout: Duration,
) -> Vec<(&'static str, String)> {
    let mut problems = Vec::new();
    if !(1..=64).contains(&connections) {
        problems.push((
            "connections",
            format!("is {connections}; set it between 1 and 64"),
        ));
    }
    let most = Duration::from_mins(10);
    for (field, time, least) in [
        ("search_time", search_time, Duration::from_millis(1)),
        ("statement_timeout", statement_timeout, Duration::from_millis(100)),
    ] {
        if time < least || time > most {
            problems.push((
                field,
                format!("is {time:?}; set it between {least:?} and {most:?}"),
            ));
        }
    }
    problems
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
#[path = "searcher_tests.rs"]
mod tests;
