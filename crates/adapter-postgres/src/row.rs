//! A message as PostgreSQL's binary formats write it, for COPY and for array parameters alike.

use std::error::Error;
use std::io;

use bytes::{BufMut, BytesMut};
use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter};
use tokio_postgres::types::{IsNull, ToSql, Type, accepts, to_sql_checked};
use warren_domain::{Attributes, MessageId, SeverityCounts, Timestamp};
use warren_domain::{Message, Severity};

/// What a message becomes, in the order every statement names it.
pub(crate) const COLUMNS: &str = "id, severity, source, body, attributes, occurred_at, received_at";

/// PostgreSQL counts microseconds from 2000-01-01T00:00:00Z.
const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// The version byte that precedes the text in the binary format of `jsonb`.
const JSONB_VERSION: u8 = 1;

/// Returns `timestamp` as the binary format of `timestamptz` has it.
pub(crate) fn postgres_micros(timestamp: Timestamp) -> i64 {
    timestamp.unix_micros() - EPOCH_MICROS
}

/// Returns the start of a minute since 1970 as the binary format of `timestamptz` has it.
pub(crate) const fn micros_of_minute(minute: i64) -> i64 {
    minute * 60_000_000 - EPOCH_MICROS
}

/// Returns a severity as its column has it: the lowest OpenTelemetry number of the severity.
pub(crate) fn severity_number(severity: Severity) -> i16 {
    i16::from(severity.number())
}

/// Appends attributes in the binary format of `jsonb`.
pub(crate) fn put_jsonb(buffer: &mut BytesMut, attributes: &Attributes) -> io::Result<()> {
    buffer.put_u8(JSONB_VERSION);
    if attributes.is_empty() {
        buffer.put_slice(b"{}");
        return Ok(());
    }
    let mut serializer = serde_json::Serializer::with_formatter(buffer.writer(), Decimals);
    attributes.serialize(&mut serializer).map_err(io::Error::from)
}

/// Writes JSON so that a number reads back as the kind it was.
///
/// `jsonb` keeps decimal digits, not floats: 1e17 would come back as 100000000000000000, an integer, and no longer be
/// equal. From 1e16 on, where the shortest form of a float has an exponent, to where 64-bit integers end, such a
/// float is written out with a fraction, which `jsonb` keeps.
struct Decimals;

impl Formatter for Decimals {
    fn write_f64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        if (1e16..2e19).contains(&value.abs()) {
            write!(writer, "{value}.0")
        } else {
            CompactFormatter.write_f64(writer, value)
        }
    }
}

/// A moment as a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Moment(pub(crate) Timestamp);

impl ToSql for Moment {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.put_i64(postgres_micros(self.0));
        Ok(IsNull::No)
    }

    accepts!(TIMESTAMPTZ);
    to_sql_checked!();
}

/// Attributes as a parameter, as [`put_jsonb`] has written them.
#[derive(Debug)]
pub(crate) struct Jsonb<'a>(pub(crate) &'a [u8]);

impl ToSql for Jsonb<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.put_slice(self.0);
        Ok(IsNull::No)
    }

    accepts!(JSONB);
    to_sql_checked!();
}

/// Sorts a batch by id and leaves out what comes twice, the first of each kept; counts what was left out.
///
/// Sorted, because that is the order of the index, and because two writers that lock the same ids in the same
/// order wait for each other instead of dying in a deadlock.
pub(crate) fn distinct(batch: &[Message]) -> (Vec<&Message>, SeverityCounts) {
    let mut rows: Vec<_> = batch.iter().collect();
    // Stable: equal ids stay in the order they came in.
    rows.sort_by_key(|message| message.id);
    let mut repeated = SeverityCounts::default();
    let mut last: Option<MessageId> = None;
    rows.retain(|message| {
        let again = last.replace(message.id) == Some(message.id);
        if again {
            repeated.add(message.severity, 1);
        }
        !again
    });
    (rows, repeated)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use warren_domain::{Body, MessageLimits};

    use super::*;

    fn jsonb(value: Value) -> String {
        let Value::Object(map) = value else {
            panic!("not an object")
        };
        let attributes = Attributes::new(map, &MessageLimits::default()).unwrap();
        let mut buffer = BytesMut::new();
        put_jsonb(&mut buffer, &attributes).unwrap();
        assert_eq!(buffer[0], 1);
        String::from_utf8(buffer[1..].to_vec()).unwrap()
    }

    #[test]
    fn floats_without_a_fraction_stay_floats() {
        assert_eq!(jsonb(json!({})), "{}");
        assert_eq!(
            jsonb(json!({"a": 1e17, "b": -1.5e16, "c": 1e300, "d": 0.1, "e": 1e15, "f": u64::MAX})),
            r#"{"a":100000000000000000.0,"b":-15000000000000000.0,"c":1e+300,"d":0.1,"e":1000000000000000.0,"f":18446744073709551615}"#
        );
    }

    #[test]
    fn the_epoch_of_postgresql_is_the_year_2000() {
        let moment = "2000-01-01T00:00:01Z".parse().unwrap();
        assert_eq!(postgres_micros(moment), 1_000_000);
    }

    #[test]
    fn a_batch_is_sorted_and_the_first_under_an_id_is_kept() {
        let message = |id: MessageId, severity| Message {
            id,
            severity,
            source: "a".parse().unwrap(),
            body: Body::new(severity.to_string(), &MessageLimits::default()).unwrap(),
            attributes: Attributes::default(),
            occurred_at: Timestamp::MIN,
            received_at: Timestamp::MIN,
            idempotency: None,
        };
        let (one, two) = (MessageId::generate(), MessageId::generate());
        let batch = [
            message(two, Severity::Error),
            message(one, Severity::Info),
            message(two, Severity::Debug),
            message(two, Severity::Debug),
        ];
        let (rows, repeated) = distinct(&batch);
        let kept: Vec<_> = rows.iter().map(|row| (row.id, row.severity)).collect();
        assert_eq!(kept, [(one, Severity::Info), (two, Severity::Error)]);
        assert_eq!((repeated.get(Severity::Debug), repeated.total()), (2, 2));
    }
}
