//! Telling from the store what came while a reader was away.
//!
//! What is published is in the store a little later, under ids that sort by when it was taken in. So a reader that comes
//! back is told, in this order: everything stored above the highest id that was heard before its cursor, up to where
//! this hub has heard everything itself, and then what the hub has heard, without what is among the former. Before
//! that it waits until nothing waits for those who store, and two seconds more for what they hold; and it compares the
//! store with the sums in its [`Mark`], because what was taken in a little before and published a little after is below
//! the highest id. Whatever of this cannot be had ends in a gap that says so.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tracing::{debug, warn};
use uuid::Uuid;
use warren_domain::ports::{
    Found, GroupLag, MOST_FOUND, MessageReader, Order, Place as StorePlace, ReadError, Search, TimeRange,
};
use warren_domain::{Message, MessageId, Query, Selection, SeveritySet, Timestamp};

use super::cursor::{Cursor, STORE};
use super::hub::Shared;
use super::kept::{Gap, GapReason, Heard, Place};
use super::mark::{Mark, SKEW};
use super::reader::{Told, Wanted, What};

/// How long what those who store hold may take until it is stored.
const HELD: Duration = Duration::from_secs(2);
/// How long a reader waits until nothing waits for those who store, and for a store that does not answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same where the hub can tell itself how many messages are missing.
const OWN_PATIENCE: Duration = Duration::from_secs(3);
/// For how long it looks for what is wanted and finds nothing.
const LONGEST_LOOK: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long it may take until a hub has heard what is stored, microseconds.
const ABOUT_TO_BE: i64 = 10_000_000;
/// How many messages a reader is told in one go.
const PAGE: usize = 200;
/// How many messages the sums are compared over at most, and how many times the most that are told are counted.
const MOST_SUMMED: usize = 10_000;
const MOST_COUNTED: usize = 10;

/// What a hub asks about stored messages.
#[derive(Clone, Debug)]
pub struct TailStore {
    /// The store.
    pub reader: Arc<dyn MessageReader>,
    /// What waits for those who store.
    pub backlog: Arc<dyn GroupLag>,
}

/// What a reader that catches up does next.
#[derive(Debug)]
pub(super) enum Caught {
    /// Tells this, and goes on.
    Told(Vec<Told>),
    /// Tells this, and goes on with what the hub has heard.
    Up(Vec<Told>),
}

/// A reader on its way from its cursor to what the hub has heard.
#[derive(Debug)]
pub(super) struct CatchUp {
    /// Where it has come back to, or come to since.
    pub(super) cursor: Cursor,
    /// Where it goes on with what the hub has heard.
    pub(super) joint: Place,
    reason: GapReason,
    step: Step,
    /// Since when the present step fails or waits.
    since: Instant,
    /// How far it has looked in the store.
    reached: u128,
    /// Why something may be missing, if it may and was not told of yet.
    unsure: Option<&'static str>,
    /// It was told that something may be missing.
    inexact: bool,
    before: Before,
    /// How many more than may be told there are.
    counted: usize,
    /// The place of its cursor, if this hub can tell itself how many messages are missing behind it.
    own: Option<Place>,
    /// When something was last found in the store, or looked for first.
    found_last: Instant,
}

/// What a reader was told before it goes on with what the hub has heard.
#[derive(Debug)]
pub(super) struct Before {
    /// Nothing above it, but for what is here.
    mark: Mark,
    at: Timestamp,
    told: HashSet<MessageId>,
    /// When it was told.
    ended: Timestamp,
}

impl Before {
    /// Tells whether what is heard behind a place of this time was certainly not told: what is in the store was heard
    /// before, or is about to be.
    pub(super) fn is_over(&self, at: Timestamp) -> bool {
        at.unix_micros() > self.ended.unix_micros().saturating_add(ABOUT_TO_BE)
    }

    /// Tells whether a message that the hub has heard was told already. `at`: when it was heard.
    pub(super) fn has(&self, message: &Message, at: Timestamp) -> bool {
        let at_the_time = at.unix_micros() <= self.at.unix_micros().saturating_add(SKEW);
        self.told.contains(&message.id) || (at_the_time && !self.mark.is_below(message.id))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Until nothing waits for those who store; `Some`: since when.
    Settle(Option<Instant>),
    Compare,
    Tell,
    /// What is beyond what may be told.
    Count,
    End,
}

impl CatchUp {
    /// `own`: the hub knows the place of the cursor itself.
    pub(super) fn new(cursor: Cursor, own: bool, joint: Place) -> Self {
        let place = cursor.place;
        // Nothing was heard before it: nothing below it was wanted.
        let nothing = place.mark.highest == 0;
        let mark = if nothing {
            Mark::before(place.at)
        } else {
            place.mark
        };
        Self {
            cursor,
            joint,
            reason: if own {
                GapReason::LateReader
            } else {
                GapReason::OtherProcess
            },
            step: Step::Settle(None),
            since: Instant::now(),
            reached: mark.highest,
            unsure: None,
            inexact: false,
            before: Before {
                mark,
                // Whatever this hub has heard behind its own place was not told.
                at: if own { Timestamp::MIN } else { place.at },
                told: HashSet::new(),
                ended: Timestamp::MIN,
            },
            counted: 0,
            own: own.then_some(place),
            found_last: Instant::now(),
        }
    }

    /// Goes on with what the hub knows, or with a gap.
    fn give_up(&mut self, why: &'static str) {
        match self.own {
            Some(place) if self.before.told.is_empty() => {
                debug!(
                    why,
                    "a tail is not told from the store what came while it was away"
                );
                (self.joint, self.unsure) = (place, None);
            }
            _ => self.unsure = Some(why),
        }
        self.enter(Step::End);
    }

    /// Does the next step. Cancel safe.
    pub(super) async fn go_on(&mut self, shared: &Shared, wanted: &Wanted) -> Caught {
        let Some(store) = &shared.store else {
            return Caught::Up(Vec::new());
        };
        loop {
            match self.step {
                Step::Settle(idle) => self.settle(store, idle).await,
                Step::Compare => match self.compare(shared, store).await {
                    Ok(same) => {
                        if !same {
                            self.unsure = Some("the store differs from what was heard before the cursor");
                        }
                        self.enter(Step::Tell);
                        // At once: who breaks off from here on comes back to a place in the store, which knows nothing of it.
                        if let Some(gap) = self.gap() {
                            return Caught::Told(vec![gap]);
                        }
                    }
                    Err(error) => self.failed(&error).await,
                },
                Step::Tell | Step::Count => match self.page(shared, store, wanted).await {
                    Ok(told) if told.is_empty() => {}
                    Ok(told) => return Caught::Told(told),
                    Err(error) => self.failed(&error).await,
                },
                Step::End => {
                    let kept = shared.kept();
                    if self.own != Some(self.joint) && !kept.has_all_behind(&self.joint) {
                        // More has come meanwhile than is kept.
                        self.unsure = Some("what was heard meanwhile is not kept any more");
                        self.joint = kept.joint();
                    }
                    drop(kept);
                    return Caught::Up(self.gap().into_iter().collect());
                }
            }
        }
    }

    /// Returns the gap that is still to be told of.
    fn gap(&mut self) -> Option<Told> {
        let counted = std::mem::take(&mut self.counted);
        let unsure = self.unsure.take();
        if let Some(why) = unsure {
            debug!(why, "a tail goes on behind a gap");
            self.inexact = true;
        } else if counted == 0 {
            return None;
        }
        let place = self.cursor.place;
        let from = place.gap_from();
        let gap = Gap {
            skipped: None,
            missed: u64::try_from(counted).ok().filter(|_| !self.inexact),
            from: place.mark.range().map_or(from, |range| range.from().min(from)),
            until: self.joint.at.max(place.at),
            reason: self.reason,
        };
        Some(Told {
            cursor: self.cursor,
            what: What::Gap(gap),
        })
    }

    /// Ends; returns what was told, if it was anything.
    pub(super) fn before(&mut self, ended: Timestamp) -> Option<Before> {
        let before = Before {
            told: std::mem::take(&mut self.before.told),
            ended,
            ..self.before
        };
        let nothing = before.told.is_empty() && before.at == Timestamp::MIN;
        (!nothing).then_some(before)
    }

    fn enter(&mut self, step: Step) {
        self.found_last = Instant::now();
        (self.step, self.since) = (step, Instant::now());
    }

    async fn failed(&mut self, error: &ReadError) {
        if self.since.elapsed() > PATIENCE || !matches!(error, ReadError::Unavailable { .. }) {
            warn!(%error, "a tail is not told from the store what came while it was away");
            self.give_up("the store cannot be read");
        } else {
            sleep(LOOK_EVERY.mul_f64(1.0 + fastrand::f64())).await;
        }
    }

    async fn settle(&mut self, store: &TailStore, idle: Option<Instant>) {
        if idle.is_some_and(|since| since.elapsed() >= HELD) {
            return self.enter(Step::Compare);
        }
        let patience = if self.own.is_some() {
            OWN_PATIENCE
        } else {
            PATIENCE
        };
        if idle.is_none() && self.since.elapsed() > patience {
            const WHY: &str = "it is not known whether everything is stored";
            if self.own.is_some() {
                return self.give_up(WHY);
            }
            self.unsure = Some(WHY);
            return self.enter(Step::Compare);
        }
        if idle.is_none()
            && let Ok(Ok(lag)) = timeout_at(self.since + PATIENCE, store.backlog.lag()).await
            && lag.packets == 0
        {
            self.step = Step::Settle(Some(Instant::now()));
        }
        sleep(LOOK_EVERY).await;
    }

    /// Tells whether the store has what was heard before the cursor, and no more.
    async fn compare(&self, shared: &Shared, store: &TailStore) -> Result<bool, ReadError> {
        let mark = self.before.mark;
        // From the store itself, or before anything was heard.
        if self.cursor.hub == STORE || self.cursor.place.mark.highest == 0 {
            return Ok(true);
        }
        let Some(range) = mark.range() else {
            return Ok(false);
        };
        let mut search = everything(range);
        let (mut stored, mut looked_at) = (Mark::default(), 0);
        loop {
            let found = find(shared, store, &search, MOST_FOUND).await?;
            for row in &found.messages {
                if !mark.is_below(row.message.id) {
                    stored.pass(row.message.id, range.until());
                }
            }
            looked_at += found.messages.len();
            search.from = found.next;
            if search.from.is_none() {
                // No message may have been in the later span, or in none.
                return Ok(stored.sums == mark.sums && stored.highest == mark.highest);
            }
            if looked_at > MOST_SUMMED {
                return Ok(false);
            }
        }
    }

    /// Reads what is next in the store; returns what of it is to be told.
    async fn page(
        &mut self,
        shared: &Shared,
        store: &TailStore,
        wanted: &Wanted,
    ) -> Result<Vec<Told>, ReadError> {
        // Where the hub has heard everything itself; not quite, because clocks differ.
        let until = self.joint.at.unix_micros().saturating_add(SKEW);
        let until = Timestamp::from_unix_micros(until).unwrap_or(Timestamp::MAX);
        let Ok(range) = TimeRange::new(Timestamp::MIN, until) else {
            self.enter(Step::End);
            return Ok(Vec::new());
        };
        let search = Search {
            selection: wanted.selection.clone(),
            query: wanted.query.clone(),
            range,
            order: Order::OldestFirst,
            from: Some(StorePlace::from_uuid(Uuid::from_u128(self.reached))),
        };
        let limit = if self.step == Step::Count {
            MOST_FOUND
        } else {
            PAGE
        };
        let found = find(shared, store, &search, limit).await?;
        if !found.messages.is_empty() {
            self.found_last = Instant::now();
        }
        let most = shared.config.resume_messages;
        let mut told = Vec::new();
        for row in found.messages {
            let id = row.message.id;
            self.reached = id.as_uuid().as_u128();
            if self.step == Step::Tell && self.before.told.len() == most {
                self.enter(Step::Count);
            }
            if self.step == Step::Count {
                // What is kept is told from there.
                self.counted += usize::from(!shared.kept().holds(id));
                continue;
            }
            self.before.told.insert(id);
            self.come_to(self.reached);
            told.push(Told::message(Arc::new(Heard::new(row.message, self.cursor))));
        }
        self.since = Instant::now();
        if let Some(next) = found.next {
            // Further than the last that was found, where many are not wanted.
            self.reached = next.as_uuid().as_u128();
            if self.step == Step::Tell && self.reached > self.cursor.place.mark.highest {
                self.come_to(self.reached);
            }
            if self.counted > most.saturating_mul(MOST_COUNTED) {
                self.unsure = Some("more was stored than is counted");
                self.enter(Step::End);
            } else if self.found_last.elapsed() > LONGEST_LOOK {
                self.give_up("what is wanted is looked for among too much");
            }
        } else {
            self.enter(Step::End);
        }
        Ok(told)
    }

    /// Notes that everything was told that is in the store up to here.
    fn come_to(&mut self, highest: u128) {
        let sums = [0, 0];
        let mark = Mark { highest, sums };
        let place = Place {
            mark,
            ..Place::beginning(mark.at())
        };
        self.cursor = Cursor { hub: STORE, place };
    }
}

fn everything(range: TimeRange) -> Search {
    Search {
        selection: Selection::of(SeveritySet::ALL),
        query: Query::default(),
        range,
        order: Order::OldestFirst,
        from: None,
    }
}

async fn find(shared: &Shared, store: &TailStore, search: &Search, limit: usize) -> Result<Found, ReadError> {
    // It is never closed.
    let _turn = shared.asking.acquire().await;
    store.reader.find(search, limit).await
}
