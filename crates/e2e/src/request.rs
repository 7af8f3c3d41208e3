//! Messages as HTTP requests, in every form and encoding that the intake takes.

use std::fmt::Write as _;
use std::io::Write as _;
use std::ops::Range;

use anyhow::Result;
use bytes::Bytes;
use fastrand::Rng;
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use serde_json::Value;

use crate::generate::{Generator, Record};

/// How the records of a request are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One JSON object.
    Object,
    /// A JSON array of objects.
    Array,
    /// One object a line.
    Ndjson,
    /// The body of one message as it is; severity and source in the query.
    Plain,
}

/// What a request will consist of; the request itself is made from it when it is sent.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its place in the sequence.
    pub number: u64,
    /// How its records are laid out.
    pub form: Form,
    /// Asks for the ids of the accepted messages.
    pub wants_ids: bool,
    /// The numbers of its messages.
    pub messages: Range<u64>,
}

/// A request ready to be sent, any number of times.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET`, `POST`, ….
    pub method: &'static str,
    /// Path and query.
    pub target: String,
    /// Header fields; `host` and `content-length` are added on sending.
    pub headers: Vec<(&'static str, String)>,
    /// The body as it goes over the wire.
    pub body: Bytes,
}

impl Request {
    /// Makes a `GET` of `target`.
    pub fn get(target: impl Into<String>) -> Self {
        Self {
            method: "GET",
            target: target.into(),
            headers: Vec::new(),
            body: Bytes::new(),
        }
    }

    /// Makes a `POST` of `body` to the intake, without any header.
    pub fn post(body: impl Into<Bytes>) -> Self {
        Self {
            method: "POST",
            target: "/v1/messages".to_owned(),
            headers: Vec::new(),
            body: body.into(),
        }
    }

    /// Adds a header field.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// Deals messages out to requests; the same generator makes the same sequence.
#[derive(Clone, Debug)]
pub struct Planner {
    generator: Generator,
    next_request: u64,
    next_message: u64,
    last_message: u64,
    most_messages: u64,
}

impl Planner {
    /// Deals out the messages `0..count`.
    pub const fn new(generator: Generator, count: u64) -> Self {
        Self {
            generator,
            next_request: 0,
            next_message: 0,
            last_message: count,
            most_messages: 500,
        }
    }

    /// Lets no request have more than `messages`.
    pub const fn with_most_messages(mut self, messages: u64) -> Self {
        self.most_messages = messages;
        self
    }
}

impl Iterator for Planner {
    type Item = Plan;

    fn next(&mut self) -> Option<Plan> {
        if self.next_message >= self.last_message {
            return None;
        }
        let number = self.next_request;
        let mut rng = self.generator.rng(2, number);
        let form = match rng.u8(..10) {
            0..=2 => Form::Object,
            3 => Form::Plain,
            4..=6 => Form::Array,
            _ => Form::Ndjson,
        };
        let count = match form {
            Form::Object | Form::Plain => 1,
            _ if rng.u8(..8) == 0 => rng.u64(1..=self.most_messages),
            _ => rng.u64(1..=self.most_messages.min(30)),
        };
        let messages = self.next_message..(self.next_message + count).min(self.last_message);
        self.next_request += 1;
        self.next_message = messages.end;
        let wants_ids = rng.u8(..10) == 0;
        Some(Plan {
            number,
            form,
            wants_ids,
            messages,
        })
    }
}

impl Plan {
    /// Returns the message of `number` as a request of this form can carry it.
    pub fn record(&self, generator: &Generator, number: u64) -> Record {
        let record = generator.record(number);
        if self.form == Form::Plain {
            record.into_plain()
        } else {
            record
        }
    }

    /// Makes the request.
    ///
    /// # Errors
    /// An encoder's error, which memory does not give.
    pub fn request(&self, generator: &Generator) -> Result<Request> {
        let records: Vec<_> = self
            .messages
            .clone()
            .map(|number| self.record(generator, number))
            .collect();
        self.request_of(&records, generator.rng(3, self.number))
    }

    /// Makes a request of this form of other records; one, where the form is of one.
    ///
    /// # Errors
    /// As [`Plan::request`].
    pub fn request_of(&self, records: &[Record], mut rng: Rng) -> Result<Request> {
        let (mut target, content_type, body) = match self.form {
            Form::Plain => {
                let record = &records[0];
                let types = [
                    "text/plain",
                    "text/plain; charset=utf-8",
                    "Text/Plain;charset=UTF-8",
                ];
                (
                    plain_target(record),
                    Some(types[rng.usize(..types.len())]),
                    record.body.clone().into_bytes(),
                )
            }
            form => {
                let lines: Vec<_> = records.iter().map(|record| json(record, &mut rng)).collect();
                let (content_type, body) = join(form, &lines, &mut rng);
                ("/v1/messages".to_owned(), content_type, body.into_bytes())
            }
        };
        let mut headers = Vec::new();
        if let Some(content_type) = content_type {
            headers.push(("content-type", content_type.to_owned()));
        }
        if self.wants_ids {
            target.push_str(if target.contains('?') {
                "&ids=true"
            } else {
                "?ids=true"
            });
        }
        let (encoding, body) = encode(body, &mut rng)?;
        if let Some(encoding) = encoding {
            headers.push(("content-encoding", encoding.to_owned()));
        }
        Ok(Request {
            method: "POST",
            target,
            headers,
            body,
        })
    }
}

fn plain_target(record: &Record) -> String {
    let mut target = format!("/v1/messages?id={}", record.id.hyphenated());
    let mut add = |name: &str, value: &str| {
        target.push('&');
        target.push_str(name);
        target.push('=');
        target.push_str(&value.replace('+', "%2B").replace(':', "%3a"));
    };
    if let Some(severity) = record.severity {
        add("severity", severity);
    }
    if let Some(source) = &record.source {
        add("source", source);
    }
    if let Some(moment) = &record.occurred_at {
        add("occurred_at", &moment.text);
    }
    target
}

fn join(form: Form, lines: &[String], rng: &mut Rng) -> (Option<&'static str>, String) {
    match form {
        Form::Object => (
            [
                None,
                Some("application/json"),
                Some("application/json; charset=utf-8"),
            ][rng.usize(..3)],
            lines.concat(),
        ),
        Form::Array => {
            let separator = [",", ", ", ",\n  ", "\r\n,"][rng.usize(..4)];
            (
                [None, Some("application/json"), Some("Application/JSON")][rng.usize(..3)],
                format!("[{}]", lines.join(separator)),
            )
        }
        Form::Ndjson | Form::Plain => {
            let separator = ["\n", "\r\n", "\n\n"][rng.usize(..3)];
            let end = ["", "\n", "\r\n"][rng.usize(..3)];
            // A single line without a type is an object; the type makes it a list of one.
            let types = [None, Some("application/x-ndjson"), Some("application/jsonl")];
            let content_type = if lines.len() == 1 {
                types[1]
            } else {
                types[rng.usize(..2)]
            };
            (content_type, lines.join(separator) + end)
        }
    }
}

/// Compresses, or not; the name of the encoding comes in any letter case.
fn encode(body: Vec<u8>, rng: &mut Rng) -> Result<(Option<&'static str>, Bytes)> {
    Ok(match rng.u8(..8) {
        0 => {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(&body)?;
            (
                Some(["gzip", "GZip", "x-gzip"][rng.usize(..3)]),
                encoder.finish()?.into(),
            )
        }
        1 => (
            Some(["zstd", "ZSTD", "Zstd"][rng.usize(..3)]),
            zstd::encode_all(&body[..], 1)?.into(),
        ),
        2 => {
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(&body)?;
            (
                Some(["deflate", "DeFlate", "DEFLATE"][rng.usize(..3)]),
                encoder.finish()?.into(),
            )
        }
        3 => (Some(["identity", "Identity"][rng.usize(..2)]), body.into()),
        _ => (None, body.into()),
    })
}

/// Writes a record as a JSON object: members in any order, with or without white space, absent or `null`.
fn json(record: &Record, rng: &mut Rng) -> String {
    let escapes = [
        Escapes::Needed,
        Escapes::Needed,
        Escapes::Ascii,
        Escapes::AsciiUpper,
    ][rng.usize(..4)];
    let mut members = vec![("body", quoted(&record.body, escapes))];
    let id = record.id.hyphenated().to_string();
    let id = if rng.u8(..8) == 0 { id.to_uppercase() } else { id };
    members.push(("id", quoted(&id, escapes)));
    let mut optional = |name, value: Option<String>| match value {
        Some(value) => members.push((name, value)),
        None if rng.u8(..4) == 0 => members.push((name, "null".to_owned())),
        None => {}
    };
    optional(
        "severity",
        record.severity.map(|severity| quoted(severity, escapes)),
    );
    optional(
        "source",
        record.source.as_ref().map(|source| quoted(source, escapes)),
    );
    optional(
        "occurred_at",
        record
            .occurred_at
            .as_ref()
            .map(|moment| quoted(&moment.text, escapes)),
    );
    let attributes = record.attributes.clone().map(Value::Object);
    optional("attributes", attributes.map(|map| write_value(&map, escapes)));
    rng.shuffle(&mut members);
    let (colon, comma) = [(":", ","), (": ", ", "), (" :\t", " ,")][rng.usize(..3)];
    let members: Vec<_> = members
        .into_iter()
        .map(|(name, value)| format!("\"{name}\"{colon}{value}"))
        .collect();
    format!("{{{}}}", members.join(comma))
}

/// Which characters of a string are written as escapes.
#[derive(Clone, Copy)]
enum Escapes {
    /// Those that JSON demands.
    Needed,
    /// Everything outside ASCII, too; `/` as well, as some languages do.
    Ascii,
    /// The same with capital digits.
    AsciiUpper,
}

fn write_value(value: &Value, escapes: Escapes) -> String {
    match value {
        Value::String(text) => quoted(text, escapes),
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(|item| write_value(item, escapes)).collect();
            format!("[{}]", items.join(","))
        }
        Value::Object(map) => {
            let members: Vec<_> = map
                .iter()
                .map(|(key, value)| format!("{}:{}", quoted(key, escapes), write_value(value, escapes)))
                .collect();
            format!("{{{}}}", members.join(","))
        }
        scalar => scalar.to_string(),
    }
}

fn quoted(text: &str, escapes: Escapes) -> String {
    if let Escapes::Needed = escapes {
        return Value::from(text).to_string();
    }
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '/' => out.push_str("\\/"),
            ' '..='~' => out.push(character),
            _ => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    // Writing into a String cannot fail.
                    let written = match escapes {
                        Escapes::AsciiUpper => write!(out, "\\u{unit:04X}"),
                        _ => write!(out, "\\u{unit:04x}"),
                    };
                    debug_assert!(written.is_ok());
                }
            }
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::OffsetDateTime;

    fn generator() -> Generator {
        Generator::new(5, OffsetDateTime::from_unix_timestamp(1_795_352_400).unwrap())
    }

    #[test]
    fn every_message_is_dealt_out_once_and_in_every_form() {
        let plans: Vec<_> = Planner::new(generator(), 20_000).collect();
        let dealt: Vec<_> = plans.iter().flat_map(|plan| plan.messages.clone()).collect();
        assert_eq!(dealt, (0..20_000).collect::<Vec<_>>());
        for form in [Form::Object, Form::Array, Form::Ndjson, Form::Plain] {
            for wants_ids in [true, false] {
                let wanted = (form, wants_ids);
                assert!(
                    plans.iter().any(|plan| (plan.form, plan.wants_ids) == wanted),
                    "{wanted:?}"
                );
            }
        }
        assert!(
            plans
                .iter()
                .any(|plan| plan.messages.end - plan.messages.start > 400)
        );
    }

    #[test]
    fn a_request_can_be_made_again_byte_for_byte() {
        for plan in Planner::new(generator(), 2_000) {
            let (first, second) = (
                plan.request(&generator()).unwrap(),
                plan.request(&generator()).unwrap(),
            );
            assert_eq!(
                (first.target, first.headers, first.body),
                (second.target, second.headers, second.body)
            );
        }
    }

    #[test]
    fn escapes_mean_the_text_they_stand_for() {
        let text = "a\"\\/\u{1}\n\u{7f}é🔑\u{10ffff}\0";
        for escapes in [Escapes::Needed, Escapes::Ascii, Escapes::AsciiUpper] {
            let read: String = serde_json::from_str(&quoted(text, escapes)).unwrap();
            assert_eq!(read, text);
        }
    }

    #[test]
    fn a_record_written_as_json_reads_back_equal() {
        let mut rng = Rng::with_seed(1);
        for number in 0..1_000 {
            let record = generator().record(number);
            let read: Value = serde_json::from_str(&json(&record, &mut rng)).unwrap();
            assert_eq!(read["body"], Value::from(record.body));
            assert_eq!(
                read.get("attributes").cloned().unwrap_or_default(),
                record.attributes.map(Value::Object).unwrap_or_default()
            );
        }
    }
}
