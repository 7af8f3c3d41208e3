//! The last of what was heard, bounded.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, OnceLock};

use warren_domain::{Message, MessageId, SeverityCounts, Timestamp};

use super::config::TailConfig;
use crate::gather::weight;

/// How many bytes a message takes beside what it holds: its places in the ring and among the ids.
const FIXED: u64 = 256;

/// How long a message may well be on its way here since it was taken in, microseconds; in the spool it may be longer.
const ON_THE_WAY: i64 = 5_000_000;

/// A message that was heard, shared by everyone who reads it.
#[derive(Debug)]
pub struct Heard {
    /// The message.
    pub message: Message,
    shown: OnceLock<Box<[u8]>>,
}

impl Heard {
    const fn new(message: Message) -> Self {
        Self {
            message,
            shown: OnceLock::new(),
        }
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
    /// Exactly how many of them the reader wanted; `None`: not known, as with a reader that asks for sources or words.
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
    /// The reader came back when its place was not kept any more.
    LateReader,
    /// The reader came back to another process, which does not know its place.
    OtherProcess,
    /// There was no connection to what is listened to.
    Disconnected,
    /// More was published than could be listened to.
    Overrun,
    /// Nobody was reading, so nothing was listened to.
    Unattended,
}

impl GapReason {
    /// Returns its name as it is shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SlowReader => "slow_reader",
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
}

impl Place {
    fn beginning(at: Timestamp) -> Self {
        Self {
            passed: SeverityCounts::default(),
            gaps: 0,
            at,
        }
    }

    /// Returns how many items are before it.
    pub(super) fn number(&self) -> u64 {
        self.passed.total() + self.gaps
    }

    /// Returns the time that a gap begins at behind this place.
    pub(super) fn gap_from(&self) -> Timestamp {
        let micros = self.at.unix_micros().saturating_sub(ON_THE_WAY);
        Timestamp::from_unix_micros(micros).unwrap_or(Timestamp::MIN)
    }

    /// Moves behind an item.
    pub(super) fn pass(&mut self, item: &Item) {
        match &item.what {
            Piece::Message(heard) => self.passed.add(heard.message.severity, 1),
            Piece::Gap(_) => self.gaps += 1,
        }
        self.at = self.at.max(item.at);
    }
}

/// Something that was heard, and when.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) at: Timestamp,
    pub(super) what: Piece,
}

#[derive(Clone, Debug)]
pub(super) enum Piece {
    Message(Arc<Heard>),
    /// As one who reads everything sees it.
    Gap(Gap),
}

/// What a reader finds at its place.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// Where what is kept begins, if that is behind the reader's place: it has missed what is between.
    pub(super) begins: Option<Place>,
    pub(super) items: Vec<Item>,
}

/// The last of what was heard.
#[derive(Debug)]
pub(super) struct Kept {
    items: VecDeque<Item>,
    /// A message that is published again while it is kept is not told again.
    ids: HashSet<MessageId>,
    bytes: u64,
    first: Place,
    last: Place,
    most_items: usize,
    most_bytes: u64,
}

impl Kept {
    pub(super) fn new(config: &TailConfig, now: Timestamp) -> Self {
        Self {
            items: VecDeque::new(),
            ids: HashSet::new(),
            bytes: 0,
            first: Place::beginning(now),
            last: Place::beginning(now),
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
            self.push(Piece::Message(Arc::new(Heard::new(message))), now);
        }
    }

    /// Notes that messages are missing here.
    pub(super) fn gap(&mut self, messages: Option<u64>, reason: GapReason, now: Timestamp) {
        let gap = Gap {
            skipped: messages,
            missed: messages,
            from: self.last.gap_from(),
            until: now,
            reason,
        };
        self.push(Piece::Gap(gap), now);
    }

    /// Notes that up to now nothing else has come.
    pub(super) fn quiet_until(&mut self, now: Timestamp) {
        self.last.at = self.last.at.max(now);
    }

    fn push(&mut self, what: Piece, at: Timestamp) {
        let item = Item { at, what };
        self.last.pass(&item);
        self.bytes += cost(&item);
        self.items.push_back(item);
        while self.items.len() > 1
            && (self.items.len() > self.most_items || self.bytes > self.most_bytes)
            && let Some(dropped) = self.items.pop_front()
        {
            self.bytes -= cost(&dropped);
            self.first.pass(&dropped);
            if let Piece::Message(heard) = &dropped.what {
                self.ids.remove(&heard.message.id);
            }
        }
    }

    /// Returns what is behind `place`, at most `most` items.
    pub(super) fn take(&self, place: &Place, most: usize) -> Taken {
        let (first, number) = (self.first.number(), place.number());
        let skip = usize::try_from(number.saturating_sub(first)).unwrap_or(usize::MAX);
        let end = skip.saturating_add(most).min(self.items.len());
        Taken {
            begins: (number < first).then_some(self.first),
            items: self.items.range(skip.min(end)..end).cloned().collect(),
        }
    }
}

/// What an item takes: the message, and the same again once it is shown.
pub(super) fn cost(item: &Item) -> u64 {
    match &item.what {
        Piece::Message(heard) => FIXED + 2 * weight(&heard.message),
        Piece::Gap(_) => FIXED,
    }
}
