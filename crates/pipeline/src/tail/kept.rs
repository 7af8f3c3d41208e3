//! The last of what was heard, bounded.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, OnceLock};

use warren_domain::{Message, MessageId, Severity, SeverityCounts, SeveritySet, Timestamp};

use super::config::TailConfig;
use super::cursor::Cursor;
use super::mark::Mark;
use crate::gather::weight;

/// How many bytes a message takes beside what it holds: its places in the ring and among the ids, and its cursor.
const FIXED: u64 = 512;

/// How long a message may well be on its way here since it was taken in, microseconds; in the spool it may be longer.
const ON_THE_WAY: i64 = 5_000_000;

/// A message that was heard, shared by everyone who reads it.
#[derive(Debug)]
pub struct Heard {
    /// The message.
    pub message: Message,
    /// The place behind it, which is the same for everyone.
    cursor: Cursor,
    cursor_text: OnceLock<Box<str>>,
    shown: OnceLock<Box<[u8]>>,
    bytes: u64,
}

impl Heard {
    pub(super) fn new(message: Message, cursor: Cursor) -> Self {
        Self {
            // The message, and the same again once it is shown.
            bytes: FIXED + 2 * weight(&message),
            message,
            cursor,
            cursor_text: OnceLock::new(),
            shown: OnceLock::new(),
        }
    }

    /// Returns the place behind it.
    pub const fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Returns the text of the place behind it; it is written once, however many read it.
    pub fn cursor_text(&self) -> &str {
        self.cursor_text
            .get_or_init(|| self.cursor.to_string().into_boxed_str())
    }

    /// Returns about how many bytes it takes where it is shown.
    pub(super) const fn shown_bytes(&self) -> u64 {
        self.bytes / 2
    }

    /// Returns what `show` makes of the message; it is called once, however many read it. All readers have to show it the
    /// same way.
    pub fn shown(&self, show: impl FnOnce(&Message) -> Vec<u8>) -> &[u8] {
        self.shown.get_or_init(|| show(&self.message).into_boxed_slice())
    }
}

/// Messages that a reader does not get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Exactly how many messages went by, of every severity and source; `None`: not known.
    pub skipped: Option<u64>,
    /// Exactly how many of them the reader wanted; `None`: not known, as with a reader that asks for sources or words,
    /// unless it was passed over because of what all readers may be sent.
    pub missed: Option<u64>,
    /// They came after this, by the clock of the hub; five seconds are allowed for between a message is taken in, which is
    /// the time that stores find it by, and heard.
    pub from: Timestamp,
    /// They came before this, by the same clock.
    pub until: Timestamp,
    /// Why.
    pub reason: GapReason,
}

/// Why messages are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapReason {
    /// The reader was too slow for what is kept.
    SlowReader,
    /// What all readers together may be sent did not suffice, and the reader had its share of it.
    RateLimited,
    /// The reader came back when its place was not kept any more.
    LateReader,
    /// The reader came back to another process, which does not know its place.
    OtherProcess,
    /// There was no connection to what is listened to.
    Disconnected,
    /// More was published than is read, or than could be listened to.
    Overrun,
    /// Nobody was reading, so nothing was listened to.
    Unattended,
}

impl GapReason {
    /// Returns its name as it is shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SlowReader => "slow_reader",
            Self::RateLimited => "rate_limited",
            Self::LateReader => "late_reader",
            Self::OtherProcess => "other_process",
            Self::Disconnected => "broker_lost",
            Self::Overrun => "overrun",
            Self::Unattended => "unattended",
        }
    }
}

/// A place in what was heard: what is before it, and when the last of that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) passed: SeverityCounts,
    pub(super) gaps: u64,
    pub(super) at: Timestamp,
    pub(super) mark: Mark,
}

impl Place {
    pub(super) fn beginning(at: Timestamp) -> Self {
        Self {
            passed: SeverityCounts::default(),
            gaps: 0,
            at,
            mark: Mark::default(),
        }
    }

    /// Returns how many items are before it.
    pub(super) fn number(&self) -> u64 {
        self.passed.total() + self.gaps
    }

    /// Returns how many messages of some severities came between it and a later place.
    pub(super) fn messages_until(&self, place: &Self, severities: SeveritySet) -> u64 {
        let before = self.passed.total_of(severities);
        place.passed.total_of(severities).saturating_sub(before)
    }

    /// Returns the time that a gap begins at behind this place.
    pub(super) fn gap_from(&self) -> Timestamp {
        let micros = self.at.unix_micros().saturating_sub(ON_THE_WAY);
        Timestamp::from_unix_micros(micros).unwrap_or(Timestamp::MIN)
    }

    /// Moves behind a message that has come.
    fn pass(&mut self, message: &Message, at: Timestamp) {
        self.passed.add(message.severity, 1);
        self.mark.pass(message.id, at);
        self.at = self.at.max(at);
    }

    /// Moves behind a gap.
    fn pass_gap(&mut self, at: Timestamp) {
        self.gaps += 1;
        self.at = self.at.max(at);
    }
}

/// Something that was heard, or was not.
#[derive(Clone, Debug)]
pub(super) enum Item {
    Message(Arc<Heard>),
    Gap(Arc<Unheard>),
}

/// Messages that the hub did not hear.
#[derive(Debug)]
pub(super) struct Unheard {
    /// As one who reads everything sees it.
    pub(super) gap: Gap,
    /// How many of each severity, where that is known.
    pub(super) messages: Option<SeverityCounts>,
    since: Timestamp,
    /// The place behind it.
    pub(super) behind: Place,
}

impl Unheard {
    /// Returns the place before it.
    pub(super) fn before(&self) -> Place {
        Place {
            gaps: self.behind.gaps - 1,
            ..self.behind
        }
    }

    /// Returns when the last came before them.
    pub(super) const fn since(&self) -> Timestamp {
        self.since
    }
}

impl Item {
    /// Returns the place behind it; the time in it is when it came.
    pub(super) fn behind(&self) -> Place {
        match self {
            Self::Message(heard) => heard.cursor.place,
            Self::Gap(unheard) => unheard.behind,
        }
    }

    /// Returns what it takes.
    fn cost(&self) -> u64 {
        match self {
            Self::Message(heard) => heard.bytes,
            Self::Gap(_) => FIXED,
        }
    }
}

/// An item that is kept. The severity stands here, too: most readers want few, and look no further.
#[derive(Debug)]
struct Entry {
    severity: Option<Severity>,
    item: Item,
}

impl Entry {
    fn may_be_of(&self, severities: SeveritySet) -> bool {
        self.severity.is_none_or(|severity| severities.contains(severity))
    }
}

/// How many items are looked at in one go, while the hub cannot add any.
const LOOKED_AT: usize = 4_096;

/// What a reader finds at its place.
#[derive(Debug)]
pub(super) struct Taken {
    /// Where what is kept begins, if that is behind the reader's place: it has missed what is between.
    pub(super) begins: Option<Place>,
    /// When the first came of what was looked at.
    pub(super) first_at: Option<Timestamp>,
    /// Those of the severities that were asked for, and gaps.
    pub(super) items: Vec<Item>,
    /// The place behind everything that was looked at, if that was anything.
    pub(super) behind: Option<Place>,
}

/// The last of what was heard.
#[derive(Debug)]
pub(super) struct Kept {
    /// Whose places these are.
    hub: u64,
    items: VecDeque<Entry>,
    /// Those of the items that are gaps.
    gaps: VecDeque<Arc<Unheard>>,
    /// A message that is published again while it is kept is not told again.
    ids: HashSet<MessageId>,
    bytes: u64,
    first: Place,
    last: Place,
    /// Behind it, nothing is missing that was published and is not counted.
    unbroken: Place,
    most_items: usize,
    most_bytes: u64,
}

impl Kept {
    pub(super) fn new(hub: u64, config: &TailConfig, now: Timestamp) -> Self {
        Self {
            hub,
            items: VecDeque::new(),
            gaps: VecDeque::new(),
            ids: HashSet::new(),
            bytes: 0,
            first: Place::beginning(now),
            last: Place::beginning(now),
            unbroken: Place::beginning(now),
            most_items: config.keep_messages,
            most_bytes: config.keep_bytes.as_u64(),
        }
    }

    /// Returns the place behind everything.
    pub(super) const fn last(&self) -> Place {
        self.last
    }

    /// Tells whether `place` was ever reached here.
    pub(super) fn knows(&self, place: &Place) -> bool {
        place.number() <= self.last.number()
    }

    pub(super) fn message(&mut self, message: Message, now: Timestamp) {
        if self.ids.insert(message.id) {
            self.last.pass(&message, now);
            let severity = message.severity;
            let cursor = Cursor {
                hub: self.hub,
                place: self.last,
            };
            let heard = Arc::new(Heard::new(message, cursor));
            self.push(Some(severity), Item::Message(heard));
        }
    }

    /// Notes that messages are missing here.
    pub(super) fn gap(&mut self, messages: Option<SeverityCounts>, reason: GapReason, now: Timestamp) {
        let total = messages.map(|messages| messages.total());
        let gap = Gap {
            skipped: total,
            missed: total,
            from: self.last.gap_from(),
            until: now,
            reason,
        };
        let since = self.last.at;
        self.last.pass_gap(now);
        // What is counted exactly is not missing: nobody has to ask the store for it.
        if messages.is_none() {
            self.unbroken = self.last;
        }
        let unheard = Unheard {
            gap,
            messages,
            since,
            behind: self.last,
        };
        let unheard = Arc::new(unheard);
        self.gaps.push_back(Arc::clone(&unheard));
        self.push(None, Item::Gap(unheard));
    }

    /// Tells whether everything is kept that came behind `place`, and nothing is missing there.
    pub(super) fn has_all_behind(&self, place: &Place) -> bool {
        place.number() >= self.first.number().max(self.unbroken.number())
    }

    /// Returns a place behind which everything is kept, and will be for a while, and nothing is missing.
    pub(super) fn joint(&self) -> Place {
        let filled = self.items.len() > self.most_items / 2 || self.bytes > self.most_bytes / 2;
        let middle = self.items.get(self.items.len() / 2).filter(|_| filled);
        let kept = middle.map_or(self.first, |entry| entry.item.behind());
        if self.unbroken.number() >= kept.number() {
            self.unbroken
        } else {
            kept
        }
    }

    /// Tells whether a message is kept.
    pub(super) fn holds(&self, id: MessageId) -> bool {
        self.ids.contains(&id)
    }

    /// Notes that up to now nothing else has come.
    pub(super) fn quiet_until(&mut self, now: Timestamp) {
        self.last.at = self.last.at.max(now);
        // When it begins to listen nothing is kept, and before now nothing was heard.
        if self.last.number() == self.unbroken.number() {
            self.unbroken.at = self.last.at;
        }
    }

    fn push(&mut self, severity: Option<Severity>, item: Item) {
        self.bytes += item.cost();
        self.items.push_back(Entry { severity, item });
        while self.items.len() > 1
            && (self.items.len() > self.most_items || self.bytes > self.most_bytes)
            && let Some(Entry { item: dropped, .. }) = self.items.pop_front()
        {
            self.bytes -= dropped.cost();
            self.first = dropped.behind();
            match &dropped {
                Item::Message(heard) => {
                    self.ids.remove(&heard.message.id);
                }
                Item::Gap(_) => {
                    self.gaps.pop_front();
                }
            }
        }
    }

    /// Returns what is behind `place` and before the item of this number, of these severities: at most `most` items, and
    /// not all of it at once.
    pub(super) fn take(&self, place: &Place, before: u64, severities: SeveritySet, most: usize) -> Taken {
        let (first, number) = (self.first.number(), place.number());
        let index = |number: u64| usize::try_from(number.saturating_sub(first)).unwrap_or(usize::MAX);
        let end = index(before).min(self.items.len());
        let start = index(number).min(end);
        let ahead = self.items.range(start..end.min(start.saturating_add(LOOKED_AT)));
        let first_at = ahead.clone().next().map(|entry| entry.item.behind().at);
        let (mut items, mut last) = (Vec::with_capacity(most.min(ahead.len())), None);
        for entry in ahead {
            last = Some(&entry.item);
            if entry.may_be_of(severities) {
                items.push(entry.item.clone());
                if items.len() == most {
                    break;
                }
            }
        }
        Taken {
            begins: (number < first).then_some(self.first),
            first_at,
            items,
            behind: last.map(Item::behind),
        }
    }

    /// Returns the gaps behind `place`; `None`: one may be forgotten.
    pub(super) fn gaps_behind(&self, place: &Place) -> Option<Vec<Arc<Unheard>>> {
        let before = usize::try_from(place.gaps.checked_sub(self.first.gaps)?).ok()?;
        Some(self.gaps.iter().skip(before).cloned().collect())
    }

    /// Tells whether what is behind `place` is about to be dropped.
    pub(super) fn is_about_to_drop(&self, place: &Place) -> bool {
        let ahead = self.last.number().saturating_sub(place.number());
        let held = self.items.len() as u64;
        let full = self.items.len() >= self.most_items / 8 * 7 || self.bytes >= self.most_bytes / 8 * 7;
        full && ahead >= held - held / 8
    }
}
