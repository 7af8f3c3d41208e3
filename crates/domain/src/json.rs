//! Reads a record from JSON, and says where and why when it cannot.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::io;
use std::str::FromStr;

use serde::Serialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::map::Entry;
use serde_json::{Map, Number, Value};

use crate::id::InvalidId;
use crate::idempotency::InvalidIdempotency;
use crate::source::InvalidSource;
use crate::timestamp::InvalidTimestamp;
use crate::{
    Draft, Idempotency, MessageId, MessageLimits, Rejection, RejectionCode, Severity, Source, Timestamp,
};

/// How much of a key is quoted back: a hostile one must not make the answer as large as the request.
const MOST_CHARACTERS: usize = 64;

/// A place in a JSON document (RFC 6901), moved while the document is walked.
#[derive(Debug, Default)]
pub(crate) struct Pointer(String);

impl Pointer {
    pub(crate) fn at(place: &str) -> Self {
        Self(place.to_owned())
    }

    /// Steps into an object's member; returns where to step back to.
    pub(crate) fn enter(&mut self, key: &str) -> usize {
        let above = self.0.len();
        self.0.push('/');
        // Most keys need neither care.
        if key.len() <= MOST_CHARACTERS && !key.bytes().any(|byte| matches!(byte, b'~' | b'/')) {
            self.0.push_str(key);
            return above;
        }
        for character in key.chars().take(MOST_CHARACTERS) {
            match character {
                '~' => self.0.push_str("~0"),
                '/' => self.0.push_str("~1"),
                other => self.0.push(other),
            }
        }
        above
    }

    /// Steps into an array's element; returns where to step back to.
    pub(crate) fn enter_index(&mut self, index: usize) -> usize {
        let above = self.0.len();
        // Writing into a String cannot fail; and an index that is cut short would only make a message less exact.
        if write!(self.0, "/{index}").is_err() {
            self.0.truncate(above);
        }
        above
    }

    pub(crate) fn leave(&mut self, above: usize) {
        self.0.truncate(above);
    }

    pub(crate) fn reject(
        &self,
        code: RejectionCode,
        detail: impl Into<String>,
        hint: impl Into<Cow<'static, str>>,
    ) -> Rejection {
        Rejection::new(code, self.0.clone(), detail, hint)
    }
}

/// Replaces U+0000, which PostgreSQL cannot hold, by U+FFFD.
pub(crate) fn without_nul(text: String) -> String {
    #[cfg(feature = "planted-bugs")]
    if warren_planted::planted(warren_planted::Bug::ValidatorLetsNulPass) {
        return text;
    }
    if text.as_bytes().contains(&0) {
        text.replace('\0', "\u{fffd}")
    } else {
        text
    }
}

/// Counts the bytes of `value` as compact JSON without building it.
pub(crate) fn compact_len(value: &impl Serialize) -> usize {
    struct Count(usize);
    impl io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    match serde_json::to_writer(&mut count, value) {
        Ok(()) => count.0,
        // A value that cannot be written is over every limit.
        Err(_) => usize::MAX,
    }
}

/// Reads one JSON object as a draft.
pub(crate) fn draft(json: &[u8]) -> Result<Draft, Rejection> {
    let first = json.iter().find(|byte| !byte.is_ascii_whitespace());
    if first != Some(&b'{') && serde_json::from_slice::<IgnoredAny>(json).is_ok() {
        return Err(Rejection::new(
            RejectionCode::NotAnObject,
            "",
            "valid JSON, but not an object",
            "wrap it: {\"body\":\"…\"}",
        ));
    }
    let mut reader = Reader::default();
    // Checked as a whole, which is faster than text by text; what is not UTF-8 is read all the same, as far as the fault,
    // for its place.
    let read = match str::from_utf8(json) {
        Ok(text) => read(&mut reader, serde_json::Deserializer::from_str(text)),
        Err(_) => read(&mut reader, serde_json::Deserializer::from_slice(json)),
    };
    read.map_err(|error| reader.fault(&error))
}

/// Reads one JSON object as a draft, but not what it says: the body is empty, the attributes are absent.
///
/// Body and attributes are stepped over without being built; their bytes need not even be UTF-8.
pub(crate) fn envelope(json: &[u8]) -> Result<Draft, Rejection> {
    let mut reader = Reader {
        skips_content: true,
        ..Reader::default()
    };
    read(&mut reader, serde_json::Deserializer::from_slice(json)).map_err(|error| reader.fault(&error))
}

fn read<'de, R: serde_json::de::Read<'de>>(
    reader: &mut Reader,
    mut json: serde_json::Deserializer<R>,
) -> serde_json::Result<Draft> {
    let draft = DraftSeed(reader).deserialize(&mut json)?;
    json.end()?;
    Ok(draft)
}

/// Where the reading is, and the fault that ended it.
#[derive(Default)]
struct Reader {
    pointer: Pointer,
    rejection: Option<Rejection>,
    /// Whether body and attributes are stepped over.
    skips_content: bool,
}

impl Reader {
    /// Keeps the rejection and returns an error for serde that stands for it.
    fn reject<E: Error>(
        &mut self,
        code: RejectionCode,
        detail: impl Into<String>,
        hint: impl Into<Cow<'static, str>>,
    ) -> E {
        self.rejection = Some(self.pointer.reject(code, detail, hint));
        E::custom("rejected")
    }

    /// Returns the rejection that `error` stands for, or else one that says what is wrong with the JSON.
    fn fault(&mut self, error: &serde_json::Error) -> Rejection {
        self.rejection.take().unwrap_or_else(|| {
            self.pointer.reject(
                RejectionCode::InvalidJson,
                format!("not JSON that can be kept: {error}"),
                "send RFC 8259 JSON in UTF-8: no lone surrogates, no NaN, no number beyond a 64-bit float",
            )
        })
    }
}

const FIELDS: [&str; 8] = [
    "id",
    "severity",
    "source",
    "body",
    "attributes",
    "occurred_at",
    "received_at",
    "idempotency",
];

/// Names what other log formats call our fields.
fn field_meant_by(key: &str) -> Option<&'static str> {
    Some(match key.to_ascii_lowercase().as_str() {
        "message" | "msg" | "text" | "log" | "@m" | "event" => "body",
        "level" | "lvl" | "loglevel" | "severity_text" | "@l" => "severity",
        "time" | "timestamp" | "ts" | "date" | "@timestamp" | "@t" | "occurredat" => "occurred_at",
        "logger" | "service" | "app" | "host" => "source",
        "fields" | "properties" | "tags" | "labels" | "data" | "context" | "meta" | "metadata" => {
            "attributes"
        }
        "uuid" | "_id" => "id",
        other => return FIELDS.into_iter().find(|field| *field == other),
    })
}

struct DraftSeed<'r>(&'r mut Reader);

impl<'de> DeserializeSeed<'de> for DraftSeed<'_> {
    type Value = Draft;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Draft, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for DraftSeed<'_> {
    type Value = Draft;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Draft, A::Error> {
        let reader = self.0;
        let mut draft = Draft::default();
        let mut seen = 0_u8;
        let above = reader.pointer.0.len();
        while let Some(field) = map.next_key_seed(Field(&mut *reader))? {
            if seen & (1 << field) != 0 {
                return Err(reader.reject(RejectionCode::DuplicateField, "given twice", "send it once"));
            }
            seen |= 1 << field;
            match FIELDS[field] {
                "id" => draft.id = map.next_value_seed(Text(reader, parse_id))?,
                "severity" => draft.severity = map.next_value_seed(Text(reader, parse_severity))?,
                "source" => draft.source = map.next_value_seed(Text(reader, parse_source))?,
                "body" if reader.skips_content => {
                    draft.body = map.next_value::<Option<IgnoredAny>>()?.map(|_| String::new());
                }
                "attributes" if reader.skips_content => {
                    map.next_value::<IgnoredAny>()?;
                }
                "body" => draft.body = map.next_value_seed(Text(reader, |text| Ok(text.to_owned())))?,
                "attributes" => draft.attributes = map.next_value_seed(AttributesSeed(reader))?,
                "occurred_at" => draft.occurred_at = map.next_value_seed(Text(reader, parse_time))?,
                "received_at" => draft.received_at = map.next_value_seed(Text(reader, parse_time))?,
                _ => draft.idempotency = map.next_value_seed(Text(reader, parse_idempotency))?,
            }
            reader.pointer.leave(above);
        }
        Ok(draft)
    }
}

/// Reads the name of a field without keeping it; returns its place in [`FIELDS`] and steps into it.
struct Field<'r>(&'r mut Reader);

impl<'de> DeserializeSeed<'de> for Field<'_> {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<usize, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Field<'_> {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<usize, E> {
        self.0.pointer.enter(key);
        FIELDS.iter().position(|field| *field == key).ok_or_else(|| {
            let hint = field_meant_by(key).map_or(Cow::Borrowed("move it under attributes"), |field| {
                Cow::Owned(format!("did you mean {field}? other data goes under attributes"))
            });
            self.0.reject(RejectionCode::UnknownField, "no such field", hint)
        })
    }
}

type Fault = (RejectionCode, String, &'static str);

fn parse_id(text: &str) -> Result<MessageId, Fault> {
    MessageId::from_str(text).map_err(|fault: InvalidId| {
        let hint = "send a UUID of version 7, such as 019aa0c0-0000-7000-8000-000000000001, or none at all";
        (RejectionCode::InvalidId, format!("the id {fault}"), hint)
    })
}

fn parse_severity(text: &str) -> Result<Severity, Fault> {
    Severity::from_str(text).map_err(|fault| {
        let hint = "use debug, info, warning, error or critical";
        (
            RejectionCode::UnknownSeverity,
            format!("{:?} is {fault}", excerpt(text)),
            hint,
        )
    })
}

fn parse_source(text: &str) -> Result<Source, Fault> {
    Source::from_str(text).map_err(|fault: InvalidSource| {
        let hint =
            "use letters, digits, _ and - in segments joined by dots, such as billing.api, at most 200 bytes";
        (RejectionCode::InvalidSource, format!("the source {fault}"), hint)
    })
}

fn parse_time(text: &str) -> Result<Timestamp, Fault> {
    Timestamp::from_str(text).map_err(|fault: InvalidTimestamp| {
        let code = match fault {
            InvalidTimestamp::Syntax => RejectionCode::InvalidTimestamp,
            InvalidTimestamp::Range => RejectionCode::TimestampOutOfRange,
        };
        (
            code,
            format!("{:?} {fault}", excerpt(text)),
            "write it as 2026-11-22T13:00:00.123Z",
        )
    })
}

fn parse_idempotency(text: &str) -> Result<Idempotency, Fault> {
    Idempotency::from_str(text).map_err(|fault: InvalidIdempotency| {
        let hint = "leave it out over HTTP; in a packet, leave it as Warren wrote it";
        (
            RejectionCode::InvalidIdempotency,
            format!("the idempotency {fault}"),
            hint,
        )
    })
}

/// Returns the first characters of a text that is quoted back.
fn excerpt(text: &str) -> String {
    text.chars().take(40).collect()
}

/// Reads a string as a `T`, and `null` as nothing.
struct Text<'r, T>(&'r mut Reader, fn(&str) -> Result<T, Fault>);

impl<T> Text<'_, T> {
    fn wrong_type<E: Error>(self, found: &str) -> E {
        self.0.reject(
            RejectionCode::WrongType,
            format!("expected a string, found {found}"),
            "write it in double quotes; structured data goes under attributes",
        )
    }
}

impl<'de, T> DeserializeSeed<'de> for Text<'_, T> {
    type Value = Option<T>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T> Visitor<'de> for Text<'_, T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        match (self.1)(text) {
            Ok(value) => Ok(Some(value)),
            Err((code, detail, hint)) => Err(self.0.reject(code, detail, hint)),
        }
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Self::Value, E> {
        Err(self.wrong_type("true or false"))
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Self::Value, E> {
        Err(self.wrong_type("a number"))
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Self::Value, E> {
        Err(self.wrong_type("a number"))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Self::Value, E> {
        Err(self.wrong_type("a number"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Self::Value, A::Error> {
        Err(self.wrong_type("an array"))
    }

    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<Self::Value, A::Error> {
        Err(self.wrong_type("an object"))
    }
}

/// Reads an object whose keys are unique at every level, and `null` as nothing.
struct AttributesSeed<'r>(&'r mut Reader);

impl<'de> DeserializeSeed<'de> for AttributesSeed<'_> {
    type Value = Option<Map<String, Value>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        let values = UniqueKeys {
            reader: &mut *self.0,
            level: 0,
        };
        match values.deserialize(deserializer)? {
            Value::Object(map) => Ok(Some(map)),
            Value::Null => Ok(None),
            _ => Err(self.0.reject(
                RejectionCode::WrongType,
                "expected an object",
                "write the attributes as {\"key\":value}",
            )),
        }
    }
}

/// Reads any value, refusing an object with the same key twice: keeping one of them would lose the other silently.
struct UniqueKeys<'r> {
    reader: &'r mut Reader,
    /// How many objects and arrays are around it.
    level: usize,
}

impl UniqueKeys<'_> {
    /// Returns what reads the values of an object or array, unless no limit allows it to be so deep; refused here,
    /// where the parser would only say that it recursed too far.
    fn inside<E: Error>(&mut self) -> Result<usize, E> {
        let deepest = MessageLimits::CEILING.attributes_depth;
        if self.level == deepest {
            return Err(self.reader.reject(
                RejectionCode::TooDeep,
                format!("nested deeper than {deepest} levels, which no setting allows"),
                "flatten it, or put it into the body as text",
            ));
        }
        Ok(self.level + 1)
    }
}

impl<'de> DeserializeSeed<'de> for UniqueKeys<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for UniqueKeys<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| {
            self.reader.reject(
                RejectionCode::InvalidJson,
                "a number beyond a 64-bit float",
                "send it as a string",
            )
        })
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::String(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::String(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<Value, A::Error> {
        let level = self.inside()?;
        let reader = self.reader;
        let mut items = Vec::new();
        let mut above = reader.pointer.enter_index(0);
        while let Some(item) = seq.next_element_seed(UniqueKeys {
            reader: &mut *reader,
            level,
        })? {
            items.push(item);
            reader.pointer.leave(above);
            above = reader.pointer.enter_index(items.len());
        }
        reader.pointer.leave(above);
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut access: A) -> Result<Value, A::Error> {
        let level = self.inside()?;
        let reader = self.reader;
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            let above = reader.pointer.enter(&key);
            let Entry::Vacant(place) = map.entry(key) else {
                return Err(reader.reject(RejectionCode::DuplicateField, "given twice", "send it once"));
            };
            place.insert(access.next_value_seed(UniqueKeys {
                reader: &mut *reader,
                level,
            })?);
            reader.pointer.leave(above);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rejection(json: impl AsRef<[u8]>) -> (RejectionCode, String) {
        let rejection = draft(json.as_ref()).unwrap_err();
        assert!(!rejection.detail.is_empty() && !rejection.hint.is_empty());
        (rejection.code, rejection.pointer)
    }

    #[test]
    fn every_fault_names_its_place() {
        use RejectionCode::*;
        for (json, code, pointer) in [
            (r#""text""#, NotAnObject, ""),
            ("[]", NotAnObject, ""),
            ("42", NotAnObject, ""),
            ("", InvalidJson, ""),
            ("{", InvalidJson, ""),
            (r#"{"body":"a"} x"#, InvalidJson, ""),
            (r#"{"body":"a"}{"body":"b"}"#, InvalidJson, ""),
            (r#"{"body":42}"#, WrongType, "/body"),
            (r#"{"body":["a"]}"#, WrongType, "/body"),
            (r#"{"body":{"a":1}}"#, WrongType, "/body"),
            (r#"{"body":"\ud800"}"#, InvalidJson, "/body"),
            (r#"{"body":NaN}"#, InvalidJson, "/body"),
            (r#"{"message":"a"}"#, UnknownField, "/message"),
            (r#"{"body":"a","a/b~":1}"#, UnknownField, "/a~1b~0"),
            (r#"{"body":"a","body":"b"}"#, DuplicateField, "/body"),
            (r#"{"severity":3}"#, WrongType, "/severity"),
            (r#"{"severity":"loud"}"#, UnknownSeverity, "/severity"),
            (r#"{"source":"a b"}"#, InvalidSource, "/source"),
            (r#"{"id":"7"}"#, InvalidId, "/id"),
            (r#"{"occurred_at":1763816400}"#, WrongType, "/occurred_at"),
            (r#"{"occurred_at":"yesterday"}"#, InvalidTimestamp, "/occurred_at"),
            (
                r#"{"occurred_at":"1900-01-01T00:00:00Z"}"#,
                TimestampOutOfRange,
                "/occurred_at",
            ),
            (r#"{"attributes":[]}"#, WrongType, "/attributes"),
            (
                r#"{"attributes":{"a":{"b":1,"b":2}}}"#,
                DuplicateField,
                "/attributes/a/b",
            ),
            (
                r#"{"attributes":{"a":[0,{"b":1e999}]}}"#,
                InvalidJson,
                "/attributes/a/1/b",
            ),
        ] {
            assert_eq!(rejection(json), (code, pointer.to_owned()), "{json}");
        }
        assert_eq!(
            rejection(b"{\"body\":\"\xff\"}"),
            (InvalidJson, "/body".to_owned())
        );
    }

    #[test]
    fn a_bottomless_record_is_refused_by_its_depth_without_overflowing_the_stack() {
        let json = format!(r#"{{"attributes":{{"a":{}"#, "[".repeat(1_000_000));
        assert_eq!(rejection(json).0, RejectionCode::TooDeep);
        let deepest = MessageLimits::CEILING.attributes_depth;
        let nested = |levels: usize| {
            let (open, close) = ("[".repeat(levels - 1), "]".repeat(levels - 1));
            format!(r#"{{"body":"a","attributes":{{"a":{open}{close}}}}}"#)
        };
        assert!(draft(nested(deepest).as_bytes()).is_ok());
        assert_eq!(rejection(nested(deepest + 1)).0, RejectionCode::TooDeep);
    }

    #[test]
    fn a_hostile_key_is_not_echoed_whole() {
        let json = format!(r#"{{"{}":1}}"#, "k".repeat(100_000));
        assert!(draft(json.as_bytes()).unwrap_err().pointer.len() < 100);
    }

    #[test]
    fn the_names_of_other_formats_are_explained() {
        let hint = |json: &str| draft(json.as_bytes()).unwrap_err().hint.into_owned();
        assert!(hint(r#"{"msg":"a"}"#).contains("body"));
        assert!(hint(r#"{"level":"a"}"#).contains("severity"));
        assert!(hint(r#"{"Body":"a"}"#).contains("body"));
        assert!(hint(r#"{"shoe_size":"a"}"#).contains("attributes"));
    }

    #[test]
    fn null_counts_as_absent() {
        let json =
            r#"{"id":null,"severity":null,"source":null,"body":null,"attributes":null,"occurred_at":null}"#;
        assert_eq!(draft(json.as_bytes()), Ok(Draft::default()));
    }
}
