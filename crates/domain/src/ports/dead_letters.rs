//! What nobody could store, where people can look at it and send it on its way again.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use async_trait::async_trait;
use sha2::{Digest as _, Sha256};
use uuid::{Builder, Uuid};

use super::{Cause, SettleError, StoreError};
use crate::{Message, MessageId, Severity, SeveritySet, Source, Timestamp};

/// Keeps dead letters until somebody redrives or purges them.
///
/// Errors of every method: [`DeadLettersError`]. None waits longer than the adapter's documented timeouts.
#[async_trait]
pub trait DeadLetters: fmt::Debug + Send + Sync + 'static {
    /// Lists letters that `filter` means, the one that died last first, from behind `after` on; at most `limit`, and
    /// at most [`MOST_LISTED`].
    ///
    /// A letter that dies again while a list is read page by page moves to its front, never towards its end: whoever
    /// reads to the end meets each letter once at most, and comes to an end.
    async fn list(
        &self,
        filter: &DeadLetterFilter,
        after: Option<DeadLetterPlace>,
        limit: usize,
    ) -> Result<Vec<KeptLetter>, DeadLettersError>;

    /// Returns those of the letters `ids` that are kept, with their bytes, in any order; at most [`MOST_LISTED`].
    async fn read(&self, ids: &[DeadLetterId]) -> Result<Vec<(KeptLetter, Vec<u8>)>, DeadLettersError>;

    /// Returns the letter `id`, if it is kept, with the first `most` of its bytes at most; no more of them than that is held.
    async fn show(
        &self,
        id: DeadLetterId,
        most: usize,
    ) -> Result<Option<(KeptLetter, Vec<u8>)>, DeadLettersError>;

    /// Counts the letters that `filter` means, and tells the newest state among them, all at one moment.
    async fn count(&self, filter: &DeadLetterFilter) -> Result<DeadLetterCounts, DeadLettersError>;

    /// Keeps every letter of `letters`, durable on `Ok`; all or nothing.
    ///
    /// Of letters with the same id there is one row: another [`Death`] of it adds its attempts, moves the last time on
    /// and never back, and brings its reason along; the same death again changes nothing, because brokers deliver
    /// again: at least the last 128 deaths of each letter are known. The first bytes stay. Every row that is changed
    /// gets a new [`Revision`]. Dropping the future is safe.
    async fn keep(&self, letters: &[DeadLetter]) -> Result<(), DeadLettersError>;

    /// Removes each letter that has not changed since it had this revision; returns how many there were.
    ///
    /// One that has died again meanwhile stays: whoever redrove the earlier death has not seen this one.
    async fn remove(&self, letters: &[(DeadLetterId, Revision)]) -> Result<u64, DeadLettersError>;

    /// Finds out whether letters can be kept and removed here, and changes nothing; whoever is about to publish what is in
    /// them asks first.
    ///
    /// # Errors
    /// [`DeadLettersError::ReadOnly`] while letters can be looked at and not changed, such as on a standby.
    async fn check_writable(&self) -> Result<(), DeadLettersError> {
        Ok(())
    }
}

/// How many letters one call of [`DeadLetters`] lists, reads or removes at most.
pub const MOST_LISTED: usize = 1_000;

/// Yields the dead letters that a broker holds, at least once each, to be kept where people can work with them.
#[async_trait]
pub trait DeadLetterConsumer: fmt::Debug + Send + 'static {
    /// Waits for the next delivery; as [`super::MessageConsumer::next`], but for records that are no messages: here
    /// they are what is delivered. Cancel safe.
    ///
    /// `None`: the consumer was closed, or the adapter is gone for good.
    async fn next(&mut self) -> Option<DeadDelivery>;

    /// Stops fetching, and gives back whatever was fetched but not yet yielded.
    async fn close(&mut self);
}

/// Some dead letters that arrived together and are settled together.
///
/// Settled by value: acknowledged once, or dropped and so delivered again.
#[derive(Debug)]
pub struct DeadDelivery {
    /// The letters, at least one.
    pub letters: Vec<DeadLetter>,
    /// How it is settled.
    pub settlement: Box<dyn DeadSettlement>,
}

/// The adapter's side of a [`DeadDelivery`].
#[async_trait]
pub trait DeadSettlement: fmt::Debug + Send + Sync {
    /// Tells the broker that every letter is kept elsewhere.
    ///
    /// # Errors
    /// The delivery is not known to be settled, and comes again.
    async fn acknowledge(self: Box<Self>) -> Result<(), SettleError>;
}

/// Which dead letter: of a message its own id, of anything else a hash of where it came from and of its bytes.
///
/// So a message that dies twice is one letter, and so is a line that every consumer group gives up in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeadLetterId(Uuid);

impl DeadLetterId {
    /// Identifies the letter of a message.
    pub const fn of_message(id: MessageId) -> Self {
        Self(id.as_uuid())
    }

    /// Identifies bytes that are no message: 122 bits of SHA-256, as a UUID of version 8.
    pub fn of_content(exchange: &str, routing_key: &str, content: &[u8]) -> Self {
        Self(hashed([exchange.as_bytes(), routing_key.as_bytes(), content]))
    }

    /// Takes what [`DeadLetterId::as_uuid`] has returned.
    pub const fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// Returns the id as a UUID.
    pub const fn as_uuid(self) -> Uuid {
        self.0
    }
}

impl fmt::Display for DeadLetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.as_hyphenated(), f)
    }
}

/// A text that is no id of a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no id of a dead letter, which is written as a UUID with hyphens")]
pub struct InvalidDeadLetterId;

impl FromStr for DeadLetterId {
    type Err = InvalidDeadLetterId;

    fn from_str(text: &str) -> Result<Self, InvalidDeadLetterId> {
        if text.len() != 36 {
            return Err(InvalidDeadLetterId);
        }
        Uuid::try_parse(text).map(Self).map_err(|_| InvalidDeadLetterId)
    }
}

/// Which death of a letter: the same one, delivered twice by a broker, is told from another by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Death(Uuid);

impl Death {
    /// Identifies a death by all that tells it from others.
    pub fn of<const N: usize>(marks: [&[u8]; N]) -> Self {
        Self(hashed(marks))
    }

    /// Takes what [`Death::as_uuid`] has returned.
    pub const fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// Returns it as a UUID.
    pub const fn as_uuid(self) -> Uuid {
        self.0
    }
}

/// Hashes parts so that where one ends and the next begins counts.
fn hashed<const N: usize>(parts: [&[u8]; N]) -> Uuid {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let digest = hash.finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    Builder::from_custom_bytes(bytes).into_uuid()
}

/// Which state of a kept letter; no two are ever the same, also after it was removed and came back.
///
/// They sort by when they were made, as far as the clocks of those who keep letters agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(Uuid);

impl Revision {
    /// Before every state that ever was.
    pub const NONE: Self = Self(Uuid::nil());

    /// Makes one that never was.
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }

    /// Takes what [`Revision::as_uuid`] has returned.
    pub const fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// Returns it as a UUID.
    pub const fn as_uuid(self) -> Uuid {
        self.0
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.as_hyphenated(), f)
    }
}

/// A text that is no state of dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not what a count said, which is written as a UUID with hyphens")]
pub struct InvalidRevision;

impl FromStr for Revision {
    type Err = InvalidRevision;

    fn from_str(text: &str) -> Result<Self, InvalidRevision> {
        if text.len() != 36 {
            return Err(InvalidRevision);
        }
        Uuid::try_parse(text).map(Self).map_err(|_| InvalidRevision)
    }
}

/// A short text about a dead letter, whoever wrote it: without U+0000, at most [`LetterText::MOST_BYTES`] long.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LetterText(String);

impl LetterText {
    /// The longest, in bytes of UTF-8; what is longer is cut off.
    pub const MOST_BYTES: usize = 1_024;

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<T: AsRef<str>> From<T> for LetterText {
    fn from(text: T) -> Self {
        let text = text.as_ref();
        // Long enough before anything is replaced: a hostile text may be of any length.
        let text = &text[..text.floor_char_boundary(Self::MOST_BYTES)];
        let mut text = text.replace('\0', "\u{fffd}");
        text.truncate(text.floor_char_boundary(Self::MOST_BYTES));
        Self(text)
    }
}

impl fmt::Display for LetterText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What is known about a dead letter, beside its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LetterFacts {
    /// Which one it is.
    pub id: DeadLetterId,
    /// What kind of fault, for programs: `undecodable`, `refused_by_store`, `delivery_limit`.
    pub reason: LetterText,
    /// What is wrong, for people.
    pub detail: LetterText,
    /// The exchange it came through; in one process, which has none, the name of its severity.
    pub exchange: LetterText,
    /// The routing key it came with.
    pub routing_key: LetterText,
    /// The queue, or the consumer group, that gave it up.
    pub queue: LetterText,
    /// How grave it is, where that can be told.
    pub severity: Option<Severity>,
    /// Who says it, where that can be told.
    pub source: Option<Source>,
    /// What it says its format is, such as `warren.v1`.
    pub message_type: Option<LetterText>,
    /// What it says its encoding is, such as `gzip`.
    pub content_encoding: Option<LetterText>,
    /// How many deliveries were tried, over all its deaths since it was kept: one that is redriven begins anew.
    pub attempts: u64,
    /// When Warren first had it.
    pub first_at: Timestamp,
    /// When it last became a dead letter.
    pub last_at: Timestamp,
}

/// A dead letter on its way to where it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// What is known about it; `attempts` are those of this death.
    pub facts: LetterFacts,
    /// Which death it is.
    pub death: Death,
    /// The original bytes.
    pub content: Vec<u8>,
}

impl DeadLetter {
    /// Tells who is speaking in a line, of which `message` was read if it is one: whoever it is names the letter, its
    /// severity and its source.
    pub fn identify(
        exchange: &str,
        routing_key: &str,
        line: &[u8],
        message: Option<&Message>,
    ) -> (DeadLetterId, Option<Severity>, Option<Source>) {
        match message {
            Some(message) => (
                DeadLetterId::of_message(message.id),
                Some(message.severity),
                Some(message.source.clone()),
            ),
            None => {
                // Exchanges are named after severities: `warren.error`.
                let severity = exchange.rsplit('.').next().and_then(|name| name.parse().ok());
                let id = DeadLetterId::of_content(exchange, routing_key, line);
                (id, severity, routing_key.parse().ok())
            }
        }
    }
}

/// A dead letter as it is kept; its bytes are read apart, by [`DeadLetters::read`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptLetter {
    /// What is known about it.
    pub facts: LetterFacts,
    /// Its state.
    pub revision: Revision,
    /// How long it is.
    pub bytes: u64,
}

impl KeptLetter {
    /// Returns where it stands in the list.
    pub const fn place(&self) -> DeadLetterPlace {
        DeadLetterPlace {
            last_at: self.facts.last_at,
            id: self.facts.id,
        }
    }
}

/// A place in the list of dead letters, to go on behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadLetterPlace {
    /// When the letter died that stands there.
    pub last_at: Timestamp,
    /// Which one it is.
    pub id: DeadLetterId,
}

impl fmt::Display for DeadLetterPlace {
    /// Writes it as [`FromStr`] reads it: microseconds, a dot, the id.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.last_at.unix_micros(), self.id)
    }
}

/// A text that is no place in the list of dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no place in the list of dead letters")]
pub struct InvalidDeadLetterPlace;

impl FromStr for DeadLetterPlace {
    type Err = InvalidDeadLetterPlace;

    fn from_str(text: &str) -> Result<Self, InvalidDeadLetterPlace> {
        let place = || {
            let (micros, id) = text.split_once('.')?;
            Some(Self {
                last_at: Timestamp::from_unix_micros(micros.parse().ok()?)?,
                id: id.parse().ok()?,
            })
        };
        place().ok_or(InvalidDeadLetterPlace)
    }
}

/// Which dead letters are meant: those that every condition holds for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetterFilter {
    /// One of these; empty for any. At most [`MOST_LISTED`].
    pub ids: Vec<DeadLetterId>,
    /// Of one of these reasons; empty for any. At most [`MOST_LISTED`].
    pub reasons: Vec<String>,
    /// Of one of these severities, and so not one whose severity is unknown.
    pub severities: Option<SeveritySet>,
    /// Of one of these sources, and so not one whose source is unknown.
    pub source: Option<SourceBranch>,
    /// That died last at this time or later.
    pub since: Option<Timestamp>,
    /// That died last before this time.
    pub until: Option<Timestamp>,
    /// Whose state is this one or an older one: what a count has seen, as [`DeadLetterCounts::newest`], without what
    /// has died since, as far as the clocks of those who keep letters agree.
    pub as_of: Option<Revision>,
}

impl DeadLetterFilter {
    /// Tells whether it means every letter that there is, or was at its moment.
    pub fn means_all(&self) -> bool {
        let now = Self {
            as_of: None,
            ..self.clone()
        };
        now == Self::default()
    }
}

/// One source, or a source with all that is beneath it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceBranch {
    /// The source itself.
    pub root: Source,
    /// Whether the sources beneath it are meant too, at any depth.
    pub beneath: bool,
}

/// A text that is neither a source nor a branch of sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is neither a source, such as billing.api, nor one with all beneath it, such as billing.#")]
pub struct InvalidSourceBranch;

impl FromStr for SourceBranch {
    type Err = InvalidSourceBranch;

    fn from_str(text: &str) -> Result<Self, InvalidSourceBranch> {
        let (root, beneath) = match text.strip_suffix(".#") {
            Some(root) => (root, true),
            None => (text, false),
        };
        let root = root.parse().map_err(|_| InvalidSourceBranch)?;
        Ok(Self { root, beneath })
    }
}

impl fmt::Display for SourceBranch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let beneath = if self.beneath { ".#" } else { "" };
        write!(f, "{}{beneath}", self.root)
    }
}

/// How many dead letters there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetterCounts {
    /// How many of each reason; none of them zero.
    pub by_reason: BTreeMap<String, u64>,
    /// The newest state among the letters that were counted; `None` without any.
    pub newest: Option<Revision>,
}

impl DeadLetterCounts {
    /// Returns how many there are in all.
    pub fn total(&self) -> u64 {
        self.by_reason.values().sum()
    }
}

/// Why dead letters could not be kept, read or removed; each variant is a decision of the caller.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DeadLettersError {
    /// Wait and repeat. It may have happened.
    #[error("the dead letters cannot be reached now: {reason}")]
    Unavailable {
        /// What is the matter, for people.
        reason: String,
        /// The technology's error, where there is one.
        #[source]
        cause: Option<Cause>,
    },
    /// Ask somewhere else: letters can be looked at here, and neither kept nor removed.
    #[error("the dead letters can only be looked at here: {reason}")]
    ReadOnly {
        /// Why, for people.
        reason: String,
    },
    /// Stop and say so: schema, rights or name are wrong, or the letter is against a rule of whoever runs the store.
    #[error("the place of the dead letters is not set up for this program: {reason}")]
    Misconfigured {
        /// What is wrong and what to do, for people.
        reason: String,
        /// The technology's error, where there is one.
        #[source]
        cause: Option<Cause>,
    },
}

impl From<StoreError> for DeadLettersError {
    /// Takes over what a store says. One that refuses a letter is not what this program has set up: every letter has
    /// a place in the schema.
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable { reason, cause } => Self::Unavailable { reason, cause },
            StoreError::Misconfigured { reason, cause } | StoreError::Rejected { reason, cause } => {
                Self::Misconfigured { reason, cause }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_of_a_message_is_the_message_and_of_anything_else_its_bytes() {
        let id = MessageId::generate();
        let line = format!("{{\"id\":\"{id}\",\"body\":\"x\",\"severity\":\"error\",\"source\":\"a.b\"}}");
        let identify = |exchange, routing_key, line| {
            let message = Message::from_json(line).ok();
            DeadLetter::identify(exchange, routing_key, line, message.as_ref())
        };
        let (of_message, severity, source) = identify("e", "r", line.as_bytes());
        assert_eq!(of_message, DeadLetterId::of_message(id));
        assert_eq!(severity, Some(Severity::Error));
        assert_eq!(source, "a.b".parse().ok());

        let (garbage, severity, source) = identify("warren.critical", "shop", b"\xff");
        assert_eq!(
            garbage,
            DeadLetterId::of_content("warren.critical", "shop", b"\xff")
        );
        assert_eq!(severity, Some(Severity::Critical));
        assert_eq!(source, "shop".parse().ok());
        let others = [
            DeadLetterId::of_content("warren.critical", "sho", b"p\xff"),
            DeadLetterId::of_content("warren.critical", "shop", b"\xfe"),
            DeadLetterId::of_content("warren.error", "shop", b"\xff"),
        ];
        assert!(!others.contains(&garbage));
        assert_eq!(garbage.to_string().parse(), Ok(garbage));
        let unknown = identify("amq.topic", "no source", b"");
        assert_eq!((unknown.1, unknown.2), (None, None));
    }

    #[test]
    fn any_text_can_be_kept() {
        let text = LetterText::from("é\0".repeat(LetterText::MOST_BYTES));
        assert!(text.as_str().len() <= LetterText::MOST_BYTES);
        assert!(text.as_str().starts_with("é\u{fffd}é"));
    }

    #[test]
    fn a_place_and_a_branch_read_back_as_they_are_written() {
        let place = DeadLetterPlace {
            last_at: Timestamp::MAX,
            id: DeadLetterId::of_content("", "", b""),
        };
        assert_eq!(place.to_string().parse(), Ok(place));
        for wrong in [
            "",
            "1",
            "1.",
            ".x",
            "-1.019aa0c0-0000-7000-8000-000000000001",
            "1.2",
        ] {
            assert!(wrong.parse::<DeadLetterPlace>().is_err(), "{wrong}");
        }
        for right in ["a", "a.b", "a.b.#"] {
            assert_eq!(right.parse::<SourceBranch>().unwrap().to_string(), right);
        }
        for wrong in ["", "#", "*", "a.*", "a#", "a.#.b", ".#"] {
            assert!(wrong.parse::<SourceBranch>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_a_filter_without_a_condition_means_all() {
        assert!(DeadLetterFilter::default().means_all());
        let filter = DeadLetterFilter {
            severities: Some(SeveritySet::ALL),
            ..DeadLetterFilter::default()
        };
        assert!(!filter.means_all());
        let then = DeadLetterFilter {
            as_of: Some(Revision::generate()),
            ..DeadLetterFilter::default()
        };
        assert!(then.means_all());
    }
}
