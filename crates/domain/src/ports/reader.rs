//! Where stored messages are found again.

use std::fmt;
use std::num::NonZeroU32;
use std::ops::Range;
use std::str::FromStr;

use async_trait::async_trait;
use uuid::Uuid;

use super::Cause;
use crate::{Message, MessageId, Query, Selection, SeverityCounts, SeveritySet, Source, Timestamp};

/// Finds stored messages.
///
/// The time of a message is here the time in its id: when it was taken, unless its sender chose the id. Ranges of time
/// and pages follow it, because stores keep messages in that order.
///
/// Errors of every method: [`ReadError`]. None waits longer than the adapter's documented timeouts, none holds a writer
/// up, and a future that is dropped ends the work in the store, too, as far as the store can.
#[async_trait]
pub trait MessageReader: fmt::Debug + Send + Sync + 'static {
    /// Lists messages that `search` means, from its place on, in its order; at most `limit`, and at most [`MOST_FOUND`]. A
    /// limit of 0 is taken for 1.
    ///
    /// A search that meets little may look at much, and one that meets large messages would make a large answer
    /// ([`MOST_FOUND_BYTES`]). It then ends before its page is full, or with none at all, and says how far it has come:
    /// whoever goes on from [`Found::next`] misses nothing and meets nothing twice, and always comes further. Without a next
    /// place there was nothing more when it was looked for.
    ///
    /// What is stored while pages are turned is found if it lies ahead. What is older than the store keeps may be missed
    /// before it is gone.
    async fn find(&self, search: &Search, limit: usize) -> Result<Found, ReadError>;

    /// Returns one message.
    async fn fetch(&self, id: MessageId) -> Result<Option<StoredMessage>, ReadError>;

    /// Counts messages by bucket of time and severity, from the counts by minute, oldest first; empty buckets are left
    /// out.
    async fn counts(&self, wanted: &Counts) -> Result<Vec<Bucket>, ReadError>;

    /// Lists the sources of a range of time, in the order of their names, with their counts of these severities; at most
    /// [`MOST_SOURCES`]. As with [`Counts`], whole minutes are counted.
    async fn sources(&self, range: TimeRange, severities: SeveritySet) -> Result<Sources, ReadError>;
}

/// How many messages one call of [`MessageReader::find`] lists at most.
pub const MOST_FOUND: usize = 1_000;

/// After how many bytes of messages a page ends ([`StoredMessage::bytes`]); it may be longer by one message.
pub const MOST_FOUND_BYTES: usize = 8 << 20;

/// How many sources are listed at most.
pub const MOST_SOURCES: usize = 1_000;

/// How many patterns of sources a [`Selection`] may have that is read by.
pub const MOST_PATTERNS: usize = 100;

/// How many buckets [`Counts`] may have at most.
pub const MOST_BUCKETS: u64 = 1_500;

const MINUTE_MICROS: i64 = 60_000_000;
const DAY_MINUTES: i64 = 24 * 60;

/// A range of time that holds its beginning and not its end; never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeRange {
    from: Timestamp,
    until: Timestamp,
}

/// Two times that are no range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the range ends at {until}, which is not after its beginning, {from}")]
pub struct InvalidTimeRange {
    /// Where it should begin.
    pub from: Timestamp,
    /// Where it should end.
    pub until: Timestamp,
}

impl TimeRange {
    /// All the time that a message can have.
    pub const ALL: Self = Self {
        from: Timestamp::MIN,
        until: Timestamp::MAX,
    };

    /// Makes a range.
    ///
    /// # Errors
    /// It would be empty.
    pub fn new(from: Timestamp, until: Timestamp) -> Result<Self, InvalidTimeRange> {
        if from < until {
            Ok(Self { from, until })
        } else {
            Err(InvalidTimeRange { from, until })
        }
    }

    /// Returns where it begins, the time itself included.
    pub const fn from(self) -> Timestamp {
        self.from
    }

    /// Returns where it ends, the time itself not included.
    pub const fn until(self) -> Timestamp {
        self.until
    }

    /// Returns the minutes since 1970 that it is in, those that it begins and ends in included.
    pub const fn minutes(self) -> Range<i64> {
        let last = self.until.unix_micros() - 1;
        self.from.unix_micros() / MINUTE_MICROS..last / MINUTE_MICROS + 1
    }

    /// Tells whether a time is within.
    pub fn holds(self, time: Timestamp) -> bool {
        self.from <= time && time < self.until
    }
}

/// Which messages, in which order, from where on.
#[derive(Clone, Debug, PartialEq)]
pub struct Search {
    /// The severities and the sources.
    pub selection: Selection,
    /// What else has to hold.
    pub query: Query,
    /// When.
    pub range: TimeRange,
    /// Which come first.
    pub order: Order,
    /// The place that was reached before; from the beginning without one.
    pub from: Option<Place>,
}

impl Search {
    /// Tells whether `message` is meant, wherever the search has come to.
    pub fn means(&self, message: &Message) -> bool {
        self.range.holds(message.id.timestamp())
            && self.selection.matches(message)
            && self.query.holds(message)
    }

    /// Refuses what would be too much for any store.
    ///
    /// # Errors
    /// [`ReadError::TooMuch`].
    pub fn check(&self) -> Result<(), ReadError> {
        check_patterns(&self.selection)
    }
}

fn check_patterns(selection: &Selection) -> Result<(), ReadError> {
    let patterns = selection.sources.len();
    if patterns <= MOST_PATTERNS {
        return Ok(());
    }
    Err(ReadError::TooMuch {
        reason: format!("{patterns} patterns of sources, over the limit of {MOST_PATTERNS}"),
    })
}

/// Which messages come first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// The highest id.
    #[default]
    NewestFirst,
    /// The lowest id.
    OldestFirst,
}

/// How far a search has come: behind this id, whether there is such a message or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place(Uuid);

impl Place {
    /// Returns the place behind a message.
    pub const fn behind(id: MessageId) -> Self {
        Self(id.as_uuid())
    }

    /// Takes what [`Place::as_uuid`] has returned.
    pub const fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// Returns it as a UUID.
    pub const fn as_uuid(self) -> Uuid {
        self.0
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.as_hyphenated(), f)
    }
}

/// A text that is no place of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no place of a search, which is the id of a message or what an answer called the next place")]
pub struct InvalidPlace;

impl FromStr for Place {
    type Err = InvalidPlace;

    fn from_str(text: &str) -> Result<Self, InvalidPlace> {
        if text.len() != 36 {
            return Err(InvalidPlace);
        }
        Uuid::try_parse(text).map(Self).map_err(|_| InvalidPlace)
    }
}

/// A message as it rests.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredMessage {
    /// The message.
    pub message: Message,
    /// When it was stored, by the store's clock.
    pub stored_at: Timestamp,
}

impl StoredMessage {
    /// Returns how many bytes of source, body and attributes it has, the attributes as compact JSON.
    pub fn bytes(&self) -> usize {
        let message = &self.message;
        let texts = message.source.as_str().len() + message.body.as_str().len();
        texts.saturating_add(message.attributes.bytes())
    }
}

/// What a search has found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// The messages in the order that was asked for.
    pub messages: Vec<StoredMessage>,
    /// Where to go on, unless everything was looked at.
    pub next: Option<Place>,
}

/// Which counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Counts {
    /// The severities and the sources.
    pub selection: Selection,
    /// When; whole minutes are counted, those that it begins and ends in included.
    pub range: TimeRange,
    /// The width of a bucket, minutes; buckets begin at multiples of it since 1970. With the range at most
    /// [`MOST_BUCKETS`].
    pub minutes: NonZeroU32,
}

impl Counts {
    /// Refuses what would be too much for any store.
    ///
    /// # Errors
    /// [`ReadError::TooMuch`].
    pub fn check(&self) -> Result<(), ReadError> {
        check_patterns(&self.selection)?;
        let (minutes, width) = (self.range.minutes(), i64::from(self.minutes.get()));
        // Not negative, and never empty.
        let buckets = ((minutes.end - 1) / width - minutes.start / width + 1).unsigned_abs();
        if buckets <= MOST_BUCKETS {
            return Ok(());
        }
        Err(ReadError::TooMuch {
            reason: format!(
                "{buckets} buckets, over the limit of {MOST_BUCKETS}; ask for wider ones, or for less time"
            ),
        })
    }
}

/// The counts of a stretch of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Where it begins.
    pub start: Timestamp,
    /// The messages by severity.
    pub counts: SeverityCounts,
}

/// The sources of a stretch of time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// By name.
    pub sources: Vec<(Source, SeverityCounts)>,
    /// Whether there are more than were listed.
    pub more: bool,
}

/// Why nothing was found; each variant is a decision of the caller.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// Wait and repeat.
    #[error("the store cannot be read now: {reason}")]
    Unavailable {
        /// What is the matter, for people.
        reason: String,
        /// The technology's error, where there is one.
        #[source]
        cause: Option<Cause>,
    },
    /// Stop and say so: schema, rights or name are wrong.
    #[error("the store is not set up for this program: {reason}")]
    Misconfigured {
        /// What is wrong and what to do, for people.
        reason: String,
        /// The technology's error, where there is one.
        #[source]
        cause: Option<Cause>,
    },
    /// Ask for less: too many patterns of sources, a range of too many buckets, one that takes too long to count.
    #[error("too much is asked for: {reason}")]
    TooMuch {
        /// What is too much, and what the limit is.
        reason: String,
    },
}

impl ReadError {
    /// Says that the counts of a range were not read in their time. Over more than a day that is too much; over less it is
    /// the store that is slow, and no fault of whoever asks.
    pub fn slow_counts(range: TimeRange, reason: String) -> Self {
        let minutes = range.minutes();
        if minutes.end - minutes.start > DAY_MINUTES + 1 {
            let reason = format!("{reason}; ask for less time");
            Self::TooMuch { reason }
        } else {
            Self::Unavailable { reason, cause: None }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SeveritySet;

    #[test]
    fn counts_of_a_day_are_never_too_much() {
        let micros = |minutes: i64| minutes * MINUTE_MICROS;
        let slow = |minutes| {
            let from = Timestamp::from_unix_micros(micros(10) + 1).unwrap();
            let until = Timestamp::from_unix_micros(micros(10 + minutes) + 1).unwrap();
            ReadError::slow_counts(TimeRange::new(from, until).unwrap(), "slow".to_owned())
        };
        for minutes in [1, DAY_MINUTES] {
            assert!(
                matches!(slow(minutes), ReadError::Unavailable { .. }),
                "{minutes}"
            );
        }
        assert!(matches!(slow(DAY_MINUTES + 1), ReadError::TooMuch { .. }));
    }

    #[test]
    fn a_range_holds_its_beginning_and_not_its_end_and_is_never_empty() {
        let time = |micros| Timestamp::from_unix_micros(micros).unwrap();
        let range = TimeRange::new(time(5), time(7)).unwrap();
        let held: Vec<_> = (4..9).filter(|micros| range.holds(time(*micros))).collect();
        assert_eq!(held, [5, 6]);
        for (from, until) in [(5, 5), (6, 5)] {
            assert!(TimeRange::new(time(from), time(until)).is_err());
        }
    }

    #[test]
    fn a_place_comes_back_from_its_text() {
        let place = Place::behind(MessageId::generate());
        assert_eq!(place.to_string().parse(), Ok(place));
        for wrong in [
            "",
            "7",
            "019aa0c0000070008000000000000001",
            "{019aa0c0-0000-7000-8000-00000000000}",
        ] {
            assert_eq!(wrong.parse::<Place>(), Err(InvalidPlace), "{wrong}");
        }
    }

    #[test]
    fn a_search_means_what_every_part_of_it_means() {
        let draft =
            crate::Draft::from_json(br#"{"body":"declined","severity":"error","source":"billing.api"}"#);
        let limits = crate::MessageLimits::CEILING;
        let message = draft.unwrap().into_message(&limits, Timestamp::now()).unwrap();
        let search = Search {
            selection: Selection::of(SeveritySet::ALL),
            query: "declined".parse().unwrap(),
            range: TimeRange::ALL,
            order: Order::NewestFirst,
            from: None,
        };
        assert!(search.means(&message));
        let at = message.id.timestamp();
        let others = [
            Search {
                selection: Selection::of("info".parse().unwrap()),
                ..search.clone()
            },
            Search {
                query: "refused".parse().unwrap(),
                ..search.clone()
            },
            Search {
                range: TimeRange::new(Timestamp::MIN, at).unwrap(),
                ..search
            },
        ];
        assert!(others.iter().all(|other| !other.means(&message)));
    }
}
