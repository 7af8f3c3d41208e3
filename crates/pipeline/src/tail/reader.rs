//! One who reads what a hub has heard.

use std::sync::Arc;

use metrics::counter;
use tokio::sync::watch;
use warren_domain::{Message, Query, Selection, SeveritySet};

use super::cursor::Cursor;
use super::hub::{Shared, Slot, State};
use super::kept::{Gap, GapReason, Heard, Item, Piece, Place, cost};
use super::metrics::GAPS;

/// How many items are looked at in one go.
const AT_ONCE: usize = 256;
/// After how many bytes, roughly, a reader has enough for one go: what it holds is kept for it, whatever the hub keeps.
const ENOUGH_BYTES: u64 = 64 << 10;

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
    _slot: Slot,
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>, slot: Slot, wanted: Wanted, from: Option<Cursor>) -> Self {
        let state = shared.state.subscribe();
        let (place, first) = {
            let kept = shared.kept();
            let last = kept.last();
            match from {
                None => (last, None),
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
            _slot: slot,
        }
    }

    /// Returns its place: behind everything it was told, and behind what it was not told because it does not want it.
    pub fn cursor(&self) -> Cursor {
        Cursor {
            hub: self.shared.id,
            place: self.place,
        }
    }

    /// Waits for what is next: a few of it at once, at least one. Cancel safe. `None`: the hub is closed, and everything
    /// was told.
    pub async fn next(&mut self) -> Option<Vec<Told>> {
        loop {
            // Before the look, so that whatever comes after it is noticed.
            let closed = self.state.borrow_and_update().closed;
            let (told, looked_at) = self.look();
            if !told.is_empty() {
                return Some(told);
            }
            if looked_at > 0 {
                // A reader that wants little must not keep the thread to itself.
                tokio::task::yield_now().await;
                continue;
            }
            if closed || self.state.changed().await.is_err() {
                return None;
            }
        }
    }

    /// Looks at what is next; returns what of it is to be told, and how much it was.
    fn look(&mut self) -> (Vec<Told>, usize) {
        let taken = self.shared.kept().take(&self.place, AT_ONCE);
        let mut told = Vec::new();
        if let Some(gap) = self.first.take() {
            self.tell(&mut told, What::Gap(gap));
        }
        let looked_at = taken.items.len() + usize::from(taken.begins.is_some());
        if let Some(begins) = taken.begins {
            // What comes next tells when the gap has ended.
            let until = taken.items.first().map_or(begins.at, |item| item.at);
            let gap = self.fallen_out(&begins, until.max(self.place.at));
            self.place = begins;
            if gap.missed != Some(0) {
                self.tell(&mut told, What::Gap(gap));
            }
        }
        self.comes_back = false;
        let mut bytes = 0;
        for item in &taken.items {
            self.place.pass(item);
            if let Some(what) = self.wanted_of(item) {
                self.tell(&mut told, what);
                bytes += cost(item);
            }
            if bytes > ENOUGH_BYTES {
                break;
            }
        }
        (told, looked_at)
    }

    fn tell(&self, told: &mut Vec<Told>, what: What) {
        if let What::Gap(gap) = &what {
            counter!(GAPS, "reason" => gap.reason.as_str()).increment(1);
        }
        told.push(Told {
            cursor: self.cursor(),
            what,
        });
    }

    /// Describes what is between its place and where what is kept begins.
    fn fallen_out(&self, begins: &Place, until: warren_domain::Timestamp) -> Gap {
        let between = |severities: SeveritySet| {
            let counts = begins.passed.iter().zip(self.place.passed.iter());
            let chosen = counts.filter(|((severity, _), _)| severities.contains(*severity));
            chosen
                .map(|((_, then), (_, now))| then.saturating_sub(now))
                .sum::<u64>()
        };
        // Gaps that are forgotten themselves have said more, which nobody knows any more.
        let exact = begins.gaps == self.place.gaps;
        let severities = self.wanted.severities_alone().filter(|_| exact);
        Gap {
            skipped: exact.then(|| between(SeveritySet::ALL)),
            missed: severities.map(between),
            from: self.place.gap_from(),
            until,
            reason: if self.comes_back {
                GapReason::LateReader
            } else {
                GapReason::SlowReader
            },
        }
    }

    fn wanted_of(&self, item: &Item) -> Option<What> {
        match &item.what {
            Piece::Message(heard) => self
                .wanted
                .matches(&heard.message)
                .then(|| What::Message(Arc::clone(heard))),
            Piece::Gap(gap) => {
                let everything = self.wanted.severities_alone() == Some(SeveritySet::ALL);
                Some(What::Gap(Gap {
                    missed: gap.missed.filter(|_| everything),
                    ..*gap
                }))
            }
        }
    }
}
