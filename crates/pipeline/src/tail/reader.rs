//! One who reads what a hub has heard.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use metrics::counter;
use tokio::select;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use warren_domain::{Message, Query, Selection, SeveritySet, Timestamp};

use super::catch_up::{Before, CatchUp, Caught};
use super::cursor::Cursor;
use super::hub::{Shared, Slot, State};
use super::kept::{Gap, GapReason, Heard, Item, Place};
use super::metrics::{BYTES, GAPS};

/// How many items a reader is given in one go.
const AT_ONCE: usize = 256;
/// How long a reader may wait for its share, all in all, before it passes over what it has not read and goes on with what
/// comes now: who looks on wants to see what happens, not what happened a minute ago.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often one that waits looks whether what it waits for is about to be dropped.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Which messages a reader wants.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// The severities and the sources.
    pub selection: Selection,
    /// What else has to hold.
    pub query: Query,
}

impl Wanted {
    /// Tells whether `message` is wanted.
    pub fn matches(&self, message: &Message) -> bool {
        self.selection.matches(message) && self.query.holds(message)
    }

    /// Returns the severities, if nothing else is asked for.
    fn severities_alone(&self) -> Option<SeveritySet> {
        let alone = self.selection.sources.is_empty() && self.query.terms().is_empty();
        alone.then_some(self.selection.severities)
    }
}

/// What a reader is told, and the place behind it.
#[derive(Clone, Debug)]
pub struct Told {
    /// Where to go on.
    pub cursor: Cursor,
    /// What it is.
    pub what: What,
}

impl Told {
    pub(super) fn message(heard: Arc<Heard>) -> Self {
        Self {
            cursor: heard.cursor(),
            what: What::Message(heard),
        }
    }

    /// Returns the text of its cursor; that of a message is written once for all who are told of it.
    pub fn cursor_text(&self) -> Cow<'_, str> {
        match &self.what {
            What::Message(heard) => heard.cursor_text().into(),
            What::Gap(_) => self.cursor.to_string().into(),
        }
    }
}

/// What a reader can be told.
#[derive(Clone, Debug)]
pub enum What {
    /// A message that it wants.
    Message(Arc<Heard>),
    /// Messages are missing here, or may be.
    Gap(Gap),
}

/// Reads what a [`Hub`](super::Hub) hears, from a place on; dropping it gives its slot back.
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    state: watch::Receiver<State>,
    wanted: Wanted,
    place: Place,
    /// Told before anything else.
    first: Option<Gap>,
    /// Whether it has come back and was told nothing yet.
    comes_back: bool,
    /// When it began, unless it has come back.
    began: Option<Timestamp>,
    /// Until when it waits, because it was sent its share.
    pays_until: Option<Instant>,
    /// How long it has waited for its share since it last had read everything.
    waited: Duration,
    passing: Option<Passing>,
    /// It is told from the store what came while it was away.
    catching_up: Option<CatchUp>,
    /// It was, not long ago.
    before: Option<Before>,
    _slot: Slot,
}

/// What a reader passes over because of its share.
#[derive(Clone, Copy, Debug)]
struct Passing {
    /// Where it began.
    from: Place,
    /// The number of the item that it ends before.
    before: u64,
    missed: u64,
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>, slot: Slot, wanted: Wanted, from: Option<Cursor>) -> Self {
        let state = shared.state.subscribe();
        let mut catching_up = None;
        let (place, first) = {
            let kept = shared.kept();
            let last = kept.last();
            match from {
                None => (last, None),
                Some(Cursor { hub, place })
                    if hub == shared.id && kept.knows(&place) && kept.has_all_behind(&place) =>
                {
                    (place, None)
                }
                Some(cursor) if shared.store.is_some() => {
                    let joint = kept.joint();
                    let own = cursor.hub == shared.id && kept.knows(&cursor.place);
                    catching_up = Some(CatchUp::new(cursor, own, joint));
                    (joint, None)
                }
                Some(Cursor { hub, place }) if hub == shared.id && kept.knows(&place) => (place, None),
                Some(Cursor { place, .. }) => {
                    let gap = Gap {
                        skipped: None,
                        missed: None,
                        from: place.gap_from(),
                        until: last.at.max(place.at),
                        reason: GapReason::OtherProcess,
                    };
                    (last, Some(gap))
                }
            }
        };
        Self {
            shared,
            state,
            wanted,
            place,
            first,
            comes_back: from.is_some(),
            began: from.is_none().then(Timestamp::now),
            pays_until: None,
            waited: Duration::ZERO,
            passing: None,
            catching_up,
            before: None,
            _slot: slot,
        }
    }

    /// Returns its place: behind everything it was told, and behind what it was not told because it does not want it.
    pub fn cursor(&self) -> Cursor {
        if let Some(catching_up) = &self.catching_up {
            return catching_up.cursor;
        }
        // What is being passed over is still to be told of.
        self.cursor_at(self.passing.map_or(self.place, |passing| passing.from))
    }

    fn cursor_at(&self, place: Place) -> Cursor {
        Cursor {
            hub: self.shared.id,
            place,
        }
    }

    /// Notes that what it was told took so many bytes: it is told more when they are paid for.
    pub fn sent(&mut self, bytes: usize) {
        let bytes = bytes as u64;
        counter!(BYTES).increment(bytes);
        self.pays_until = Some(self.shared.budget.spend(bytes));
    }

    /// Waits for what is next: a few of it at once, at least one. Cancel safe. `None`: the hub is closed, and everything
    /// was told.
    pub async fn next(&mut self) -> Option<Vec<Told>> {
        loop {
            // Before the look, so that whatever comes after it is noticed.
            let closed = self.state.borrow_and_update().closed;
            let (told, looked_at) = if self.catching_up.is_some() {
                if closed {
                    // It goes on where it connects next.
                    return None;
                }
                if self.pays() {
                    self.wait_for_its_share().await;
                    continue;
                }
                (self.catch_up().await, true)
            } else if self.passes_over(closed) {
                self.pass_over()
            } else if self.pays() && !closed {
                self.wait_for_its_share().await;
                continue;
            } else {
                self.look()
            };
            if !told.is_empty() {
                return Some(told);
            }
            if looked_at {
                // A reader that wants little must not keep the thread to itself.
                tokio::task::yield_now().await;
                continue;
            }
            if closed || self.state.changed().await.is_err() {
                return None;
            }
        }
    }

    /// Goes on to catch up; returns what is told on the way.
    async fn catch_up(&mut self) -> Vec<Told> {
        let Some(catching_up) = &mut self.catching_up else {
            return Vec::new();
        };
        let caught = select! {
            caught = catching_up.go_on(&self.shared, &self.wanted) => caught,
            () = self.shared.closing.cancelled() => {
                drop(self.state.wait_for(|state| state.closed).await);
                return Vec::new();
            }
        };
        let told = match caught {
            Caught::Told(told) => told,
            Caught::Up(told) => {
                self.place = catching_up.joint;
                self.before = catching_up.before(Timestamp::now());
                self.catching_up = None;
                told
            }
        };
        for told in &told {
            if let What::Gap(gap) = &told.what {
                count(gap);
            }
        }
        told
    }

    /// Tells whether it has still to wait for its share.
    fn pays(&self) -> bool {
        self.pays_until.is_some_and(|until| until > Instant::now())
    }

    /// Tells whether it passes over what it has not read.
    fn passes_over(&self, closed: bool) -> bool {
        if self.passing.is_some() {
            return true;
        }
        // Before the first gap nothing may be told.
        if self.first.is_some() || !self.pays() {
            return false;
        }
        let kept = self.shared.kept();
        let behind = kept.last().number() > self.place.number();
        behind && (closed || self.waited >= PATIENCE || kept.is_about_to_drop(&self.place))
    }

    async fn wait_for_its_share(&mut self) {
        let now = Instant::now();
        let until = self.pays_until.unwrap_or(now).min(now + LOOK_EVERY);
        select! {
            () = sleep_until(until) => self.waited += until.saturating_duration_since(now),
            () = self.shared.closing.cancelled() => {
                // Its task says so as soon as it has put down what it has heard.
                drop(self.state.wait_for(|state| state.closed).await);
            }
        }
    }

    /// Passes over all that has come, if how much of it is wanted is known without a look at it.
    fn jump(&mut self) -> Option<Vec<Told>> {
        let severities = self.wanted.severities_alone().filter(|_| self.before.is_none())?;
        let (gaps, last) = {
            let kept = self.shared.kept();
            (kept.gaps_behind(&self.place)?, kept.last())
        };
        let mut told = Vec::new();
        for unheard in gaps {
            told.extend(self.jump_to(unheard.before(), severities));
            self.place = unheard.behind;
            told.extend(self.wanted_of(&Item::Gap(unheard)));
        }
        told.extend(self.jump_to(last, severities));
        self.waited = Duration::ZERO;
        Some(told)
    }

    fn jump_to(&mut self, place: Place, severities: SeveritySet) -> Option<Told> {
        let (from, before) = match self.passing {
            Some(passing) => (passing.from, passing.missed),
            None => (self.place, 0),
        };
        let missed = before + self.place.messages_until(&place, severities);
        let skipped = from.messages_until(&place, SeveritySet::ALL);
        self.place = place;
        self.passed_over(from, Some(skipped), Some(missed))
    }

    /// Passes over a part of what has come, and counts what of it is wanted; at the end of it tells how much that was.
    fn pass_over(&mut self) -> (Vec<Told>, bool) {
        if let Some(told) = self.jump() {
            return (told, true);
        }
        let kept = self.shared.kept();
        let mut passing = self.passing.unwrap_or_else(|| Passing {
            from: self.place,
            before: kept.last().number(),
            missed: 0,
        });
        let severities = self.wanted.selection.severities;
        let taken = kept.take(&self.place, passing.before, severities, AT_ONCE);
        drop(kept);
        let (mut skipped, mut missed, mut unheard) = (None, None, None);
        let mut ended = taken.behind.is_none();
        if let Some(begins) = taken.begins {
            let gap = self.fallen_out(&begins, begins.at);
            let passed = self.place.number() - passing.from.number();
            skipped = gap.skipped.map(|skipped| passed + skipped);
            missed = gap.missed.map(|missed| passing.missed + missed);
            (self.place, ended) = (begins, true);
        } else {
            self.place = taken.behind.unwrap_or(self.place);
            for item in &taken.items {
                match item {
                    Item::Message(heard) => passing.missed += u64::from(self.wants(heard)),
                    Item::Gap(gap) => {
                        (self.place, unheard) = (gap.before(), Some(item));
                        break;
                    }
                }
            }
            ended |= unheard.is_some() || self.place.number() >= passing.before;
        }
        if !ended {
            self.passing = Some(passing);
            return (Vec::new(), true);
        }
        if taken.begins.is_none() {
            skipped = Some(self.place.number() - passing.from.number());
            missed = Some(passing.missed);
        }
        let mut told = Vec::from_iter(self.passed_over(passing.from, skipped, missed));
        self.waited = Duration::ZERO;
        if let Some(item) = unheard {
            self.place = item.behind();
            told.extend(self.wanted_of(item));
            // It does not wait again, but goes on to what comes now.
            self.waited = PATIENCE;
        }
        (told, true)
    }

    /// Says what it has passed over, if it wanted any of it.
    fn passed_over(&mut self, from: Place, skipped: Option<u64>, missed: Option<u64>) -> Option<Told> {
        self.passing = None;
        let gap = Gap {
            skipped,
            missed,
            from: from.gap_from(),
            until: self.place.at,
            reason: GapReason::RateLimited,
        };
        (missed != Some(0)).then(|| self.gap(gap))
    }

    /// Looks at what is next; returns what of it is to be told, and whether there was anything.
    fn look(&mut self) -> (Vec<Told>, bool) {
        if self
            .before
            .as_ref()
            .is_some_and(|before| before.is_over(self.place.at))
        {
            self.before = None;
        }
        let severities = self.wanted.selection.severities;
        let (taken, last) = {
            let kept = self.shared.kept();
            let taken = kept.take(&self.place, u64::MAX, severities, AT_ONCE);
            (taken, kept.last().number())
        };
        let mut told = Vec::new();
        if let Some(gap) = self.first.take() {
            told.push(self.gap(gap));
        }
        let looked_at = taken.behind.is_some() || taken.begins.is_some();
        if let Some(begins) = taken.begins {
            // What comes next tells when the gap has ended.
            let until = taken.first_at.unwrap_or(begins.at);
            let gap = self.fallen_out(&begins, until.max(self.place.at));
            self.place = begins;
            if gap.missed != Some(0) {
                told.push(self.gap(gap));
            }
        }
        self.comes_back = false;
        let enough = self.shared.budget.turn(self.shared.readers());
        let mut bytes = 0;
        for item in &taken.items {
            self.place = item.behind();
            if let Some(wanted) = self.wanted_of(item) {
                told.push(wanted);
                bytes += match item {
                    Item::Message(heard) => heard.shown_bytes(),
                    Item::Gap(_) => 0,
                };
            }
            if bytes > enough {
                return (told, looked_at);
            }
        }
        self.place = taken.behind.unwrap_or(self.place);
        if self.place.number() >= last {
            self.waited = Duration::ZERO;
        }
        (told, looked_at)
    }

    /// Says that there is a gap before its place.
    fn gap(&self, gap: Gap) -> Told {
        count(&gap);
        Told {
            cursor: self.cursor_at(self.place),
            what: What::Gap(gap),
        }
    }

    /// Describes what is between its place and where what is kept begins.
    fn fallen_out(&self, begins: &Place, until: Timestamp) -> Gap {
        let between = |severities| self.place.messages_until(begins, severities);
        // Gaps that are forgotten themselves have said more, which nobody knows any more.
        let exact = begins.gaps == self.place.gaps;
        let counted = exact && self.before.is_none();
        let severities = self.wanted.severities_alone().filter(|_| counted);
        Gap {
            skipped: exact.then(|| between(SeveritySet::ALL)),
            missed: severities.map(between),
            from: self.place.gap_from(),
            until,
            reason: if self.comes_back {
                GapReason::LateReader
            } else if self.waited > Duration::ZERO {
                GapReason::RateLimited
            } else {
                GapReason::SlowReader
            },
        }
    }

    /// Tells whether it wants a message of its severities.
    fn wants(&self, heard: &Heard) -> bool {
        let told = |before: &Before| before.has(&heard.message, heard.cursor().place.at);
        (self.wanted.severities_alone().is_some() || self.wanted.matches(&heard.message))
            && !self.before.as_ref().is_some_and(told)
    }

    fn wanted_of(&self, item: &Item) -> Option<Told> {
        match item {
            Item::Message(heard) => self.wants(heard).then(|| Told::message(Arc::clone(heard))),
            Item::Gap(unheard) => {
                // Some of them may have been told from the store, or have come before it did.
                let counted =
                    self.before.is_none() && self.began.is_none_or(|began| unheard.since() >= began);
                let severities = self.wanted.severities_alone();
                let messages = unheard.messages.zip(severities);
                let missed = messages.map(|(messages, severities)| messages.total_of(severities));
                let gap = Gap {
                    missed: missed.filter(|_| counted),
                    skipped: unheard.gap.skipped.filter(|_| counted),
                    ..unheard.gap
                };
                (missed != Some(0)).then(|| self.gap(gap))
            }
        }
    }
}

fn count(gap: &Gap) {
    counter!(GAPS, "reason" => gap.reason.as_str()).increment(1);
}
