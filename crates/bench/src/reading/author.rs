//! Messages as services write them: some 180 bytes, of a few dozen shapes, with numbers and names of their own.

use std::fmt::Write as _;

use anyhow::Result;
use fastrand::Rng;
use serde_json::{Map, Value};
use uuid::Uuid;
use warren_domain::{Attributes, Body, Message, MessageId, MessageLimits, Severity, Source, Timestamp};

use crate::messages::SEVERITIES;

/// In one of this many messages is [`RARE`].
pub(crate) const RARE_EVERY: u64 = 100_000;
/// A word that few messages have.
pub(crate) const RARE: &str = "quarantined";
/// A word that many messages have.
pub(crate) const COMMON: &str = "timeout";
/// A word that no message has.
pub(crate) const ABSENT: &str = "kangaroo";

/// How many sources there are.
pub(crate) const SOURCES: usize = 50;

const SYSTEMS: [&str; 10] = [
    "billing", "shop", "search", "auth", "mail", "stock", "gateway", "reports", "media", "ledger",
];
const PARTS: [&str; 5] = ["api", "worker", "cron", "cache", "db"];

/// `$n` a number, `$t` milliseconds, `$x` eight hexadecimal digits, `$i` an address, `$u` a user, `$p` a path.
const SHAPES: [&str; 24] = [
    "GET $p answered 200 in $t ms for user $u from $i, $n bytes",
    "POST $p answered 201 in $t ms for user $u from $i",
    "GET $p answered 404 in $t ms, referred by https://www.example.com$p",
    "POST $p answered 503 in $t ms, upstream timeout after 3 tries",
    "order $n accepted, 3 positions, total 129.90 EUR, paid by card ending in $n",
    "payment $n declined by the acquirer: insufficient funds, customer $u",
    "connection to db-$n.internal:5432 reset by peer while reading, reconnecting in $t ms",
    "cache miss for key session:$x:$u, loaded from the replica in $t ms",
    "job nightly-report finished, $n rows in $t ms, wrote s3://reports/$x.parquet",
    "slow query ($t ms): SELECT * FROM positions WHERE order_id = $n ORDER BY created_at",
    "user $u logged in from $i with a security key, session $x",
    "user $u failed to log in from $i: wrong password, attempt $n",
    "lock on account $n was held for $t ms by transaction $x",
    "message $x of queue outbound delivered to smtp.example.org in $t ms",
    "mail to user $u bounced: mailbox full (552 5.2.2), will retry in $t s",
    "garbage collection paused for $t ms, heap $n of 4096 MiB",
    "certificate of $i expires in 12 days, fingerprint $x",
    "stock of article $n fell to 7, reorder point is 25, supplier $u",
    "picture $x.jpeg scaled to 1280x720 in $t ms, $n bytes saved",
    "config reloaded, generation $n, checksum $x, no differences",
    "circuit to ledger opened after $n failures, probing in $t ms",
    "transfer $n from $u settled, Überweisung über 250,00 € bestätigt",
    "worker $n took batch $x with 500 records, lag is $t ms",
    "index segment $x merged, $n documents, $t ms",
];
const PATHS: [&str; 8] = [
    "/v1/orders",
    "/v1/orders/pay",
    "/v2/search",
    "/login",
    "/cart",
    "/static/app.js",
    "/health",
    "/v1/users/me",
];

/// Writes messages, the same for the same seed.
#[derive(Debug)]
pub(crate) struct Author {
    rng: Rng,
    sources: Vec<Source>,
}

/// A message and the name of its request, which no other has.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) message: Message,
    pub(crate) request: String,
}

impl Author {
    /// # Errors
    /// A name is not one of a source.
    pub(crate) fn new(seed: u64) -> Result<Self> {
        Ok(Self {
            rng: Rng::with_seed(seed),
            sources: (0..SOURCES)
                .map(|n| Ok(source(n).parse()?))
                .collect::<Result<_>>()?,
        })
    }

    /// Writes a message that was taken at a time.
    ///
    /// # Errors
    /// It is not valid.
    pub(crate) fn write(&mut self, number: u64, at: Timestamp) -> Result<Written> {
        let (severity, rng) = (severity(&mut self.rng), &mut self.rng);
        let request = format!("{:016x}", rng.u64(..));
        let mut body = String::with_capacity(256);
        say(&mut body, SHAPES[rng.usize(..SHAPES.len())], rng)?;
        if number % RARE_EVERY == RARE_EVERY / 2 {
            write!(body, ", {RARE}")?;
        }
        write!(
            body,
            "; request {request} on node-{:02} in zone eu-central-1{}, version 2026.11.{}, trace {:016x}",
            rng.u8(..40),
            ["a", "b", "c"][rng.usize(..3)],
            rng.u8(1..30),
            rng.u64(..)
        )?;
        // Most of what is said comes from few sources.
        let source = (rng.f64().powi(2) * SOURCES as f64) as usize;
        let mut attributes = Map::new();
        attributes.insert("order".to_owned(), Value::from(rng.u32(1_000..10_000_000)));
        attributes.insert(
            "user".to_owned(),
            Value::from(format!("u-{}", rng.u32(..100_000))),
        );
        attributes.insert("ms".to_owned(), Value::from(f64::from(rng.u32(..10_000)) / 8.0));
        let limits = MessageLimits::CEILING;
        let rejected = |rejection| anyhow::anyhow!("{rejection:?}");
        let message = Message {
            id: MessageId::try_from(id(at, self.rng.u128(..)))?,
            severity,
            source: self.sources[source.min(SOURCES - 1)].clone(),
            body: Body::new(body, &limits).map_err(rejected)?,
            attributes: Attributes::new(attributes, &limits).map_err(rejected)?,
            occurred_at: at,
            received_at: at,
            idempotency: None,
        };
        Ok(Written { message, request })
    }
}

/// Returns the name of a source; those with a low number say the most.
pub(crate) fn source(number: usize) -> String {
    format!(
        "{}.{}",
        SYSTEMS[number % SYSTEMS.len()],
        PARTS[number / SYSTEMS.len() % PARTS.len()]
    )
}

fn severity(rng: &mut Rng) -> Severity {
    let mut dice = rng.u8(..100);
    for (_, number, share) in SEVERITIES {
        if dice < share {
            return u8::try_from(number)
                .ok()
                .and_then(Severity::from_number)
                .unwrap_or(Severity::Info);
        }
        dice -= share;
    }
    Severity::Info
}

/// Makes an id of version 7 of this time.
fn id(at: Timestamp, random: u128) -> Uuid {
    let millis = u128::from(at.unix_micros().unsigned_abs() / 1_000);
    let (a, b) = (random >> 64 & 0xfff, random & (u128::MAX >> 66));
    Uuid::from_u128(millis << 80 | 0x7 << 76 | a << 64 | 0b10 << 62 | b)
}

fn say(body: &mut String, shape: &str, rng: &mut Rng) -> std::fmt::Result {
    let mut parts = shape.split('$');
    body.push_str(parts.next().unwrap_or_default());
    for part in parts {
        match part.as_bytes().first() {
            Some(b'n') => write!(body, "{}", rng.u32(1..1_000_000))?,
            Some(b't') => write!(body, "{}", rng.u32(1..4_000))?,
            Some(b'x') => write!(body, "{:08x}", rng.u32(..))?,
            Some(b'i') => write!(body, "10.{}.{}.{}", rng.u8(..8), rng.u8(..), rng.u8(1..))?,
            Some(b'u') => write!(body, "u-{}", rng.u32(..100_000))?,
            _ => body.push_str(PATHS[rng.usize(..PATHS.len())]),
        }
        body.push_str(part.get(1..).unwrap_or_default());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_as_long_as_is_said_and_each_word_is_as_rare_as_it_should_be() {
        let mut author = Author::new(1).unwrap();
        let at = Timestamp::now();
        let (mut bytes, mut common) = (0, 0);
        for number in 0..2_000 {
            let written = author.write(number, at).unwrap();
            let body = written.message.body.as_str();
            assert_eq!(
                written.message.id.timestamp().unix_micros() / 1_000,
                at.unix_micros() / 1_000
            );
            assert!(body.contains(&written.request));
            assert!(!body.contains(ABSENT) && !body.contains(RARE));
            bytes += body.len();
            common += usize::from(body.contains(COMMON));
        }
        assert!((170..190).contains(&(bytes / 2_000)), "{}", bytes / 2_000);
        assert!((40..160).contains(&common), "{common}");
        let rare = author.write(RARE_EVERY / 2, at).unwrap().message;
        assert!(rare.body.as_str().contains(RARE));
    }
}
