//! What makes a record recognisable that comes again under the key of its request.
//!
//! A client that cannot give each record an id gives the request a key. Whoever takes the request in may be another
//! process than the one that took it before, and shares nothing with it; so each record carries what a store needs to
//! find out: a token, made from nothing but the key, the record's content, and how many equal records came before it in
//! the request. A repeat has the same tokens in whatever form, order or parts it comes.
//!
//! An id made from the key alone would not do: ids carry the time they were made, and that of a repeat is another one.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::{Message, MessageId, Timestamp};

/// Precede what is hashed, so that no hash of one kind is ever one of the other.
const RECORD: &[u8] = b"warren record v1";
const REQUEST: &[u8] = b"warren request v1";

/// What a client calls a request, so that the request counts once however often it comes: 1 to 255 bytes of its choice.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(Box<[u8]>);

/// The length of an idempotency key is not 1 to 255 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} bytes, and a key has 1 to 255")]
pub struct InvalidIdempotencyKey(pub usize);

impl IdempotencyKey {
    /// The longest key, in bytes.
    pub const MAX_BYTES: usize = 255;

    /// Takes the bytes as they are.
    ///
    /// # Errors
    /// When they are none, or more than [`IdempotencyKey::MAX_BYTES`].
    pub fn new(bytes: &[u8]) -> Result<Self, InvalidIdempotencyKey> {
        if bytes.is_empty() || bytes.len() > Self::MAX_BYTES {
            return Err(InvalidIdempotencyKey(bytes.len()));
        }
        Ok(Self(bytes.into()))
    }

    /// Returns what stands for the key: 64 bits of its hash.
    pub fn request(&self) -> u64 {
        let [high, _] = halves(&Sha256::new().chain_update(REQUEST).chain_update(&self.0));
        high
    }
}

impl fmt::Debug for IdempotencyKey {
    /// Shows the length only: a key may be an order number, or a person's address.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdempotencyKey({} bytes)", self.0.len())
    }
}

/// What makes a record recognisable that comes again under the key of its request.
///
/// As text, and so in JSON: token, request and digest in hexadecimal digits, joined by `/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Idempotency {
    /// Which record it is: two with the same token are the same one, whatever their ids.
    pub token: [u8; 16],
    /// Under which key it came.
    pub request: u64,
    /// Which records came with it; another one under the same key shows that the key was given to another content.
    pub digest: u64,
}

/// How long at most what is received is taken to wait until it is stored; see [`Idempotency::forgotten_before`].
const LONGEST_WAIT_MICROS: i64 = 30 * 86_400_000_000;

impl Idempotency {
    /// Counts the records that came under a key whose request was known with other content.
    ///
    /// Of each record that was new: whether the store knew its request with another digest. The batch itself may hold
    /// two contents of one request; then one of them is another one.
    pub fn conflicting(new: impl IntoIterator<Item = (Self, bool)>) -> u64 {
        let mut first = HashMap::new();
        let others = new.into_iter().filter(|(record, known)| {
            let first = *first.entry(record.request).or_insert(record.digest);
            *known || first != record.digest
        });
        others.count() as u64
    }

    /// Returns the moment from which on a token is still kept when it was stored then.
    ///
    /// A token is needed until every repeat that was received within `keep` is stored, and a repeat may wait behind
    /// days of others. So time is measured by what gets through: `newest` is when the youngest of the last stored
    /// records was received, not `now`. Where nothing gets through, 30 days are taken for the longest wait.
    pub fn forgotten_before(newest: Timestamp, now: Timestamp, keep: Duration) -> Timestamp {
        let now = now.unix_micros();
        let through = newest.unix_micros().clamp(now - LONGEST_WAIT_MICROS, now);
        let keep = i64::try_from(keep.as_micros()).unwrap_or(i64::MAX);
        Timestamp::from_unix_micros(through.saturating_sub(keep)).unwrap_or(Timestamp::MIN)
    }
}

impl fmt::Display for Idempotency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = u128::from_be_bytes(self.token);
        write!(f, "{token:032x}/{:016x}/{:016x}", self.request, self.digest)
    }
}

/// A text that no [`Idempotency`] is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not three numbers of 32, 16 and 16 hexadecimal digits joined by /")]
pub struct InvalidIdempotency;

impl FromStr for Idempotency {
    type Err = InvalidIdempotency;

    fn from_str(text: &str) -> Result<Self, InvalidIdempotency> {
        let mut parts = text.split('/');
        let mut part = |digits: usize| {
            parts
                .next()
                .filter(|part| part.len() == digits && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
                .and_then(|part| u128::from_str_radix(part, 16).ok())
                .ok_or(InvalidIdempotency)
        };
        let (token, request, digest) = (part(32)?, part(16)?, part(16)?);
        if parts.next().is_some() {
            return Err(InvalidIdempotency);
        }
        Ok(Self {
            token: token.to_be_bytes(),
            // Sixteen digits are 64 bits.
            request: request as u64,
            digest: digest as u64,
        })
    }
}

impl Serialize for Idempotency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Gives the records of one keyed request their tokens.
#[derive(Debug)]
pub struct KeyedRequest {
    /// What every record's hash begins with.
    begun: Sha256,
    request: u64,
    /// The time that the ids carry.
    first_at: Timestamp,
    /// How often each content came.
    seen: HashMap<[u8; 32], u64>,
    digest: u64,
}

impl KeyedRequest {
    /// Begins a request with `key` that first came at `first_at`, as far as is known: the time that the ids carry.
    pub fn new(key: &IdempotencyKey, first_at: Timestamp) -> Self {
        Self {
            begun: with(Sha256::new().chain_update(RECORD), &key.0),
            request: key.request(),
            first_at,
            seen: HashMap::new(),
            digest: 0,
        }
    }

    /// Gives the next record of the request its token, and the id that follows from it.
    ///
    /// `occurred_at` is what the client said, not what stands for it: the time of arrival is not the same in a repeat.
    /// A record whose id is the client's has no need of a token.
    pub fn identify(&mut self, message: &mut Message, occurred_at: Option<Timestamp>) {
        let mut content = with(self.begun.clone(), message.source.as_str().as_bytes());
        content = with(content, message.body.as_str().as_bytes());
        content = with(content, &canonical(message));
        content.update([message.severity.number(), u8::from(occurred_at.is_some())]);
        content.update(occurred_at.map_or(0, Timestamp::unix_micros).to_be_bytes());
        let content: [u8; 32] = content.finalize().into();

        let before = self.seen.entry(content).or_insert(0);
        let hashed = Sha256::new()
            .chain_update(content)
            .chain_update(before.to_be_bytes());
        *before += 1;
        let [high, low] = halves(&hashed);
        let token = (u128::from(high) << 64 | u128::from(low)).to_be_bytes();
        // A sum, so that the order in which the records come makes no difference.
        self.digest = self.digest.wrapping_add(low);
        message.id = MessageId::of_parts(self.first_at, token);
        message.idempotency = Some(Idempotency {
            token,
            request: self.request,
            digest: 0,
        });
    }

    /// Writes into each record that has a token which records came with it.
    pub fn finish(self, messages: &mut [Message]) {
        for idempotency in messages
            .iter_mut()
            .filter_map(|message| message.idempotency.as_mut())
        {
            idempotency.digest = self.digest;
        }
    }
}

/// Hashes `bytes` with their length, so that nothing can be moved from one part to the next.
fn with(hash: Sha256, bytes: &[u8]) -> Sha256 {
    hash.chain_update((bytes.len() as u64).to_be_bytes())
        .chain_update(bytes)
}

/// Writes the attributes so that equal ones are written alike: compact, the keys of every object sorted.
fn canonical(message: &Message) -> Vec<u8> {
    // The maps of `serde_json` sort their keys; a test says so. Writing JSON into memory cannot fail.
    serde_json::to_vec(&message.attributes).unwrap_or_default()
}

/// Returns the first 128 bits of a hash.
fn halves(hash: &Sha256) -> [u64; 2] {
    let hash: [u8; 32] = hash.clone().finalize().into();
    let half = |at: usize| u64::from_be_bytes(std::array::from_fn(|byte| hash[at + byte]));
    [half(0), half(8)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Draft, MessageLimits};

    const WHEN: &str = "2026-11-22T13:00:00Z";

    fn key(text: &str) -> IdempotencyKey {
        IdempotencyKey::new(text.as_bytes()).unwrap()
    }

    fn request(name: &str, records: &[&str]) -> Vec<Message> {
        let mut request = KeyedRequest::new(&key(name), WHEN.parse().unwrap());
        let mut messages: Vec<_> = records
            .iter()
            .map(|record| {
                let draft = Draft::from_json(record.as_bytes()).unwrap();
                let occurred_at = draft.occurred_at;
                let mut message = draft
                    .into_message(&MessageLimits::default(), Timestamp::now())
                    .unwrap();
                request.identify(&mut message, occurred_at);
                message
            })
            .collect();
        request.finish(&mut messages);
        messages
    }

    fn tokens(messages: &[Message]) -> Vec<[u8; 16]> {
        messages
            .iter()
            .map(|message| message.idempotency.unwrap().token)
            .collect()
    }

    #[test]
    fn a_repeat_has_the_same_tokens_whatever_its_order_and_its_spelling() {
        let first = request(
            "k",
            &[
                r#"{"body":"a","severity":"warn","attributes":{"x":{"b":1,"a":[2]},"y":3}}"#,
                r#"{"body":"b","occurred_at":"2026-11-22T13:00:00Z"}"#,
            ],
        );
        let again = request(
            "k",
            &[
                r#"{"source":"default","severity":"INFO","occurred_at":"2026-11-22T14:00:00+01:00","body":"b"}"#,
                r#"{"attributes":{"y":3,"x":{"a":[2],"b":1}},"severity":"warning","body":"\u0061"}"#,
            ],
        );
        let mut reversed = tokens(&again);
        reversed.reverse();
        assert_eq!(tokens(&first), reversed);
        assert_eq!(
            first[0].idempotency.unwrap().digest,
            again[0].idempotency.unwrap().digest
        );
        assert_eq!(first[0].id, again[1].id, "and the ids follow from them");
        assert_eq!(first[0].id.timestamp().to_string(), "2026-11-22T13:00:00.000000Z");
    }

    #[test]
    fn every_part_of_a_record_and_the_key_tell_tokens_apart() {
        let records = [
            r#"{"body":"a"}"#,
            r#"{"body":"b"}"#,
            r#"{"body":"a","severity":"error"}"#,
            r#"{"body":"a","source":"b"}"#,
            r#"{"body":"","source":"default.a"}"#,
            r#"{"body":"a","attributes":{"a":1}}"#,
            r#"{"body":"a","attributes":{"a":"1"}}"#,
            r#"{"body":"a","occurred_at":"1970-01-01T00:00:00Z"}"#,
            r#"{"body":"a","occurred_at":"1970-01-01T00:00:01Z"}"#,
            r#"{"body":"a"}"#,
            r#"{"body":"a"}"#,
        ];
        let mut all = tokens(&request("k", &records));
        all.extend(tokens(&request("l", &records)));
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(
            all.len(),
            count,
            "equal records of one request are told apart, too"
        );
    }

    #[test]
    fn a_part_of_a_request_has_tokens_of_the_whole() {
        let (one, other) = (r#"{"body":"a"}"#, r#"{"body":"b"}"#);
        let whole = request("k", &[one, other]);
        for (part, place) in [(one, 0), (other, 1)] {
            let part = request("k", &[part]);
            assert_eq!(tokens(&part)[0], tokens(&whole)[place]);
            let (part, whole) = (part[0].idempotency.unwrap(), whole[place].idempotency.unwrap());
            assert_eq!(part.request, whole.request);
            assert_ne!(part.digest, whole.digest);
        }
    }

    #[test]
    fn a_token_is_what_it_was() {
        // Stores and queues hold tokens of earlier releases: another hash would store every repeat a second time.
        let messages = request("order-4711", &[r#"{"body":"card declined","severity":"error"}"#]);
        assert_eq!(
            messages[0].idempotency.unwrap().to_string(),
            "c9a66dd4a8a80759b5c8ebce86984d34/51090dceb57e94c3/b5c8ebce86984d34"
        );
    }

    #[test]
    fn another_digest_of_a_request_is_another_content() {
        let record = |request, digest| Idempotency {
            token: [0; 16],
            request,
            digest,
        };
        let count = |new: &[(Idempotency, bool)]| Idempotency::conflicting(new.iter().copied());
        assert_eq!(count(&[]), 0);
        assert_eq!(
            count(&[
                (record(1, 1), false),
                (record(1, 1), false),
                (record(2, 2), false)
            ]),
            0
        );
        assert_eq!(
            count(&[(record(1, 1), true), (record(1, 1), true), (record(2, 2), false)]),
            2
        );
        assert_eq!(
            count(&[
                (record(1, 1), false),
                (record(1, 2), false),
                (record(1, 3), false)
            ]),
            2
        );
    }

    #[test]
    fn tokens_are_forgotten_by_what_gets_through_and_not_by_the_clock() {
        let hours = |hours: i64| Timestamp::from_unix_micros(hours * 3_600_000_000).unwrap();
        let before = |newest, now| {
            Idempotency::forgotten_before(hours(newest), hours(now), Duration::from_secs(72 * 3_600))
        };
        assert_eq!(before(1_000, 1_000), hours(928));
        assert_eq!(
            before(900, 1_000),
            hours(828),
            "what is stored now was received 100 hours ago"
        );
        assert_eq!(before(2_000, 1_000), hours(928), "a clock ahead of ours");
        assert_eq!(before(0, 1_000), hours(208), "nothing gets through");
        assert_eq!(before(0, 10), Timestamp::MIN);
    }

    #[test]
    fn it_reads_back_equal_and_nothing_else_is_read() {
        let idempotency = Idempotency {
            token: [7; 16],
            request: 1,
            digest: u64::MAX,
        };
        let text = idempotency.to_string();
        assert_eq!(text.parse(), Ok(idempotency));
        assert_eq!(text.to_uppercase().parse(), Ok(idempotency));
        let (cut, more) = (&text[1..], format!("{text}/"));
        let signed = text.replacen("07", "+7", 1);
        for other in ["", "//", cut, &more, &signed, &text.replace('/', "-")] {
            assert_eq!(other.parse::<Idempotency>(), Err(InvalidIdempotency), "{other:?}");
        }
    }

    #[test]
    fn a_key_has_1_to_255_bytes_of_any_kind_and_is_never_shown() {
        assert_eq!(IdempotencyKey::new(b""), Err(InvalidIdempotencyKey(0)));
        assert_eq!(IdempotencyKey::new(&[b'k'; 256]), Err(InvalidIdempotencyKey(256)));
        let key = IdempotencyKey::new(&[0xff; 255]).unwrap();
        assert_eq!(format!("{key:?}"), "IdempotencyKey(255 bytes)");
    }
}
