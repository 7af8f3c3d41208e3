//! What is sent: messages as a function of the seed and a number, good ones, bad ones and poison.

use std::ops::Range;

use anyhow::Result;
use serde_json::json;
use time::OffsetDateTime;
use uuid::Uuid;
use warren_e2e::request::{Form, Plan, Request};
use warren_e2e::{Generator, Record, StoredRow};

/// From this number on, messages are such that the database refuses them for ever.
const POISON: u64 = 1 << 30;

/// From this number on, and below those, messages have no id of their own: they travel under an `Idempotency-Key`.
const KEYED: u64 = 1 << 29;

/// The attribute by which such a message is found again, since its id is the server's.
const NUMBER: &str = "torture_number";

/// The source of those, by which the database knows them.
pub const POISON_SOURCE: &str = "poison.row";

/// The longest body, bytes.
const LARGEST_BODY: usize = 64 << 10;

/// A body longer than intake takes, bytes.
const TOO_LARGE: usize = 300 << 10;

/// How many sources send; the k-th sends 1/k as much as the first.
const SOURCES: usize = 40;

/// One message in so many is one that intake must refuse.
const BAD: u64 = 100;

/// One message in so many is one that may travel as plain text, and so has no attributes.
const PLAIN: u64 = 10;

/// One message in so many is sent a second time with a later one, or twice in one request.
const REPEATED: u64 = 100;

/// Purposes of random numbers that are not the generator's own.
const SOURCE_OF: u64 = 40;
const BADNESS_OF: u64 = 41;
const BATCH_OF: u64 = 42;

/// The messages of one seed.
#[derive(Clone, Debug)]
pub struct Messages {
    generator: Generator,
    /// The share of the first k sources, of all.
    shares: Vec<f64>,
}

/// The messages of one request.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Its place in the sequence of requests.
    pub request: u64,
    /// How it is written.
    pub form: Form,
    /// The numbers of its messages, those that are repeated included.
    pub numbers: Vec<u64>,
}

impl Messages {
    /// Makes the messages of a seed, with ids of about now.
    pub fn new(seed: u64) -> Self {
        let weights: Vec<f64> = (1..=SOURCES).map(|rank| 1.0 / rank as f64).collect();
        let all: f64 = weights.iter().sum();
        let mut sum = 0.0;
        let shares = weights
            .iter()
            .map(|weight| {
                sum += weight / all;
                sum
            })
            .collect();
        Self {
            generator: Generator::new(seed, OffsetDateTime::now_utc()).with_largest_body(LARGEST_BODY),
            shares,
        }
    }

    /// Returns the id of a message.
    pub fn id(&self, number: u64) -> Uuid {
        self.generator.id(number)
    }

    /// Returns the number of the message with an id, if it can be one of these.
    pub fn number(&self, id: Uuid) -> Option<u64> {
        self.generator.number(id)
    }

    /// Tells whether intake must refuse a message.
    pub fn is_bad(&self, number: u64) -> bool {
        number < POISON && self.generator.rng(BADNESS_OF, number).u64(..BAD) == 0
    }

    /// Tells whether the database refuses a message that intake takes.
    pub const fn is_poison(number: u64) -> bool {
        number >= POISON
    }

    /// Returns the number of the n-th message that the database refuses.
    pub const fn poison(n: u64) -> u64 {
        POISON + n
    }

    /// Tells whether a message travels under a key, without an id.
    pub const fn is_keyed(number: u64) -> bool {
        KEYED <= number && number < POISON
    }

    /// Returns the number of the n-th message that travels under a key.
    pub const fn keyed(n: u64) -> u64 {
        KEYED + n
    }

    /// Returns the number of the message that a row is, if it can be one of these.
    pub fn number_of(&self, row: &StoredRow) -> Option<u64> {
        let told = row.attributes[NUMBER].as_u64();
        told.filter(|number| Self::is_keyed(*number))
            .or_else(|| self.number(row.id))
    }

    /// Tells whether a message can travel as plain text.
    fn is_plain(number: u64) -> bool {
        number.is_multiple_of(PLAIN) && !Self::is_keyed(number)
    }

    /// Returns a message; the same at every call.
    pub fn record(&self, number: u64) -> Record {
        let mut record = self.generator.record(number);
        let place = self.generator.rng(SOURCE_OF, number).f64();
        let rank = self.shares.iter().position(|share| place < *share).unwrap_or(0);
        record.source = Some(format!("torture.source-{rank}"));
        if Self::is_poison(number) {
            record.source = Some(POISON_SOURCE.to_owned());
        }
        if Self::is_plain(number) {
            record = record.into_plain();
        }
        if Self::is_keyed(number) {
            let attributes = record.attributes.get_or_insert_default();
            attributes.insert(NUMBER.to_owned(), number.into());
        }
        if self.is_bad(number) {
            let mut rng = self.generator.rng(BADNESS_OF, number);
            match rng.u8(..20) {
                0 => record.body = "x".repeat(TOO_LARGE),
                1..=9 => record.severity = Some("loud"),
                _ => record.source = Some("no:source".to_owned()),
            }
        }
        record
    }

    /// Puts messages into a request, and now and then one of them, or an earlier one, a second time.
    pub fn batch(&self, request: u64, own: Range<u64>) -> Batch {
        let mut rng = self.generator.rng(BATCH_OF, request);
        let count = own.end - own.start;
        let mut numbers: Vec<_> = own.clone().collect();
        let form = match (count, rng.u8(..2)) {
            (1, _) if Self::is_plain(own.start) => Form::Plain,
            (1, _) => Form::Object,
            (_, 0) => Form::Array,
            _ => Form::Ndjson,
        };
        if count > 1 {
            for number in own.clone() {
                if rng.u64(..REPEATED) == 0 {
                    numbers.push(number);
                }
                if own.start > 0 && rng.u64(..REPEATED) == 0 {
                    numbers.push(rng.u64(own.start.saturating_sub(20_000)..own.start));
                }
            }
            rng.shuffle(&mut numbers);
        }
        Batch {
            request,
            form,
            numbers,
        }
    }

    /// Puts messages without ids into a request, each once: equal records of one request are two messages.
    pub fn keyed_batch(&self, request: u64, own: Range<u64>) -> Batch {
        let form = match (own.end - own.start, request % 2) {
            (1, _) => Form::Object,
            (_, 0) => Form::Array,
            _ => Form::Ndjson,
        };
        Batch {
            request,
            form,
            numbers: own.map(Self::keyed).collect(),
        }
    }

    /// Writes a request whose messages are known by its key and what they say.
    fn keyed_request(&self, batch: &Batch) -> Request {
        let lines: Vec<_> = batch
            .numbers
            .iter()
            .map(|number| {
                let record = self.record(*number);
                let mut line = json!({ "body": record.body, "attributes": record.attributes });
                if let Some(severity) = record.severity {
                    line["severity"] = severity.into();
                }
                if let Some(source) = record.source {
                    line["source"] = source.into();
                }
                if let Some(moment) = record.occurred_at {
                    line["occurred_at"] = moment.text.into();
                }
                line.to_string()
            })
            .collect();
        let (content_type, body) = match batch.form {
            Form::Array => ("application/json", format!("[{}]", lines.join(","))),
            Form::Object => ("application/json", lines.concat()),
            Form::Ndjson | Form::Plain => ("application/x-ndjson", lines.join("\n")),
        };
        Request::post(body)
            .header("content-type", content_type)
            .header("idempotency-key", format!("torture/{}", batch.request))
    }

    /// Writes a request.
    ///
    /// # Errors
    /// An encoder's error, which memory does not give.
    pub fn request(&self, batch: &Batch) -> Result<Request> {
        if batch
            .numbers
            .first()
            .is_some_and(|number| Self::is_keyed(*number))
        {
            return Ok(self.keyed_request(batch));
        }
        let records: Vec<_> = batch.numbers.iter().map(|number| self.record(*number)).collect();
        let plan = Plan {
            number: batch.request,
            form: batch.form,
            wants_ids: false,
            messages: 0..0,
        };
        plan.request_of(&records, self.generator.rng(3, batch.request))
    }

    /// Counts the messages of a request that intake must refuse.
    pub fn bad(&self, batch: &Batch) -> usize {
        batch
            .numbers
            .iter()
            .filter(|number| self.is_bad(**number))
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_the_same_at_every_call_and_is_known_by_its_id() {
        let messages = Messages::new(3);
        for number in (0..500).chain([Messages::poison(0), Messages::poison(7)]) {
            assert_eq!(
                format!("{:?}", messages.record(number)),
                format!("{:?}", messages.record(number))
            );
            assert_eq!(messages.number(messages.id(number)), Some(number));
        }
        assert_eq!(
            messages.record(Messages::poison(1)).stored_source(),
            POISON_SOURCE
        );
    }

    #[test]
    fn one_in_a_hundred_is_bad_and_the_first_source_sends_most() {
        let messages = Messages::new(3);
        let bad = (0..20_000).filter(|number| messages.is_bad(*number)).count();
        assert!((100..300).contains(&bad), "{bad}");
        let of = |source: &str| {
            (0..2_000)
                .filter(|number| messages.record(*number).stored_source() == source)
                .count()
        };
        assert!(of("torture.source-0") > 4 * of("torture.source-9").max(1));
    }

    #[test]
    fn a_message_under_a_key_has_no_id_and_is_known_by_what_it_says() {
        let messages = Messages::new(3);
        let batch = messages.keyed_batch(7, 10..13);
        let request = messages.request(&batch).unwrap();
        let body = String::from_utf8(request.body.to_vec()).unwrap();
        assert!(!body.contains("\"id\""), "{body}");
        assert!(
            request
                .headers
                .contains(&("idempotency-key", "torture/7".to_owned()))
        );
        for number in batch.numbers {
            let record = messages.record(number);
            let row = StoredRow {
                id: Uuid::nil(),
                severity: record.severity_number,
                source: record.stored_source().to_owned(),
                body: record.stored_body(),
                attributes: record.stored_attributes(),
                occurred_at: 0,
                received_at: 0,
            };
            assert_eq!(messages.number_of(&row), Some(number));
        }
    }

    #[test]
    fn a_request_of_many_repeats_some_of_its_own_and_some_of_earlier_ones() {
        let messages = Messages::new(3);
        let batch = messages.batch(1, 5_000..6_000);
        let earlier = batch.numbers.iter().filter(|number| **number < 5_000).count();
        assert!(earlier > 0 && batch.numbers.len() > 1_000 + earlier, "{batch:?}");
        assert!(messages.request(&batch).unwrap().body.len() > 1_000);
        let one = messages.batch(2, 10..11);
        assert_eq!((one.form, one.numbers.as_slice()), (Form::Plain, &[10][..]));
    }
}
