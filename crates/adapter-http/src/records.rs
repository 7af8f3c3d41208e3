//! Tells the forms of a request body apart and takes the records out of it.

use std::ops::Range;

use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use bytes::Bytes;
use memchr::memchr;
use serde::de::IgnoredAny;
use warren_domain::{Draft, Rejection, RejectionCode};

use crate::answer::count;
use crate::problem::{Kind, Problem};
use crate::query::Query;
use crate::scan::{Unbalanced, Weight, elements, skip_space, trim, value_end};

/// What the content type says about the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// JSON of any kind: an object, an array, or objects one a line. Also what says nothing (`curl -d`).
    Json,
    /// One record a line.
    Lines,
    /// One message.
    Text,
}

impl Form {
    /// Reads `Content-Type`.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let Some(value) = headers.get(CONTENT_TYPE) else {
            return Ok(Self::Json);
        };
        let value = value
            .to_str()
            .map_err(|_| unsupported("with bytes outside ASCII"))?;
        let (media_type, parameters) = value.split_once(';').unwrap_or((value, ""));
        let media_type = media_type.trim().to_ascii_lowercase();
        let form = match media_type.as_str() {
            "" | "application/json" | "text/json" | "application/x-json" => Self::Json,
            // What clients say when nobody told them what to say.
            "application/x-www-form-urlencoded" | "application/octet-stream" => Self::Json,
            "text/plain" => Self::Text,
            "application/x-ndjson"
            | "application/ndjson"
            | "application/jsonl"
            | "application/x-jsonl"
            | "application/jsonlines"
            | "application/x-jsonlines"
            | "application/json-lines"
            | "application/json-l"
            | "application/x-json-stream"
            | "application/stream+json"
            | "application/jsonlines+json"
            | "text/x-ndjson"
            | "text/ndjson" => Self::Lines,
            other if other.starts_with("application/") && other.ends_with("+x-ndjson") => Self::Lines,
            other if other.starts_with("application/") && other.ends_with("+json") => Self::Json,
            other => {
                let excerpt: String = other.chars().take(60).collect();
                return Err(unsupported(&format!("{excerpt:?}")));
            }
        };
        for parameter in parameters.split(';') {
            if let Some((name, charset)) = parameter.split_once('=')
                && name.trim().eq_ignore_ascii_case("charset")
            {
                let charset = charset.trim().trim_matches('"').to_ascii_lowercase();
                if !matches!(charset.as_str(), "utf-8" | "utf8" | "us-ascii" | "ascii") {
                    let excerpt: String = charset.chars().take(40).collect();
                    return Err(unsupported(&format!("with the charset {excerpt:?}")));
                }
            }
        }
        Ok(form)
    }
}

fn unsupported(what: &str) -> Problem {
    Problem::new(
        Kind::UnsupportedMediaType,
        format!("a Content-Type {what}"),
        "send UTF-8 as application/json (or any +json), application/x-ndjson (or application/jsonl), text/plain, \
         or without a Content-Type",
    )
}

/// What a record takes in memory beside its text until it is confirmed or its rejection is told, in bytes.
const RECORD_BYTES: usize = 512;
/// How many records are covered by what every request is charged anyway.
const RECORDS_OF_A_REQUEST: usize = 8;

/// The records of one request, each still to be read.
#[derive(Debug)]
pub(crate) enum Records {
    /// Places of JSON records within the body.
    Json {
        body: Bytes,
        places: Vec<Range<usize>>,
        weight: Weight,
    },
    /// One message of plain text.
    Text(Box<Result<Draft, Rejection>>),
}

impl Records {
    /// Splits `body`; nothing in the records is looked at yet.
    pub(crate) fn split(form: Form, body: Bytes, query: &Query, most: usize) -> Result<Self, Problem> {
        if form == Form::Text {
            return if body.is_empty() {
                Err(empty("the body is empty"))
            } else {
                Ok(text(&body, query))
            };
        }
        query.without_fields()?;
        let mut weight = Weight::default();
        // A byte order mark is no part of JSON, but some editors and shells write one.
        let after_mark = if body.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
        let start = skip_space(&body, after_mark);
        if start == body.len() {
            let what = if body.is_empty() {
                "the body is empty"
            } else {
                "the body is only white space"
            };
            return Err(empty(what));
        }
        let places = match form {
            Form::Lines => lines(&body, start, most, &mut weight),
            _ => json(&body, start, most, &mut weight)?,
        };
        if places.is_empty() {
            return Err(empty("the array is empty"));
        }
        if places.len() > most {
            return Err(Problem::new(
                Kind::TooLarge,
                format!(
                    "the request holds more than {}, the limit intake.max_messages",
                    count(most, "message")
                ),
                "send them in several requests; nothing of this one is stored",
            ));
        }
        Ok(Self::Json { body, places, weight })
    }

    /// Returns the bytes to charge, of which the process may hold four for each: the text three times over and, once,
    /// what its records and values take beside it. At least the text itself.
    pub(crate) fn charge(&self) -> usize {
        match self {
            Self::Json { body, places, weight } => {
                let records = RECORD_BYTES * places.len().saturating_sub(RECORDS_OF_A_REQUEST);
                let held = 3 * body.len() + records + weight.bytes();
                body.len().max(held / 4)
            }
            Self::Text(_) => 0,
        }
    }

    /// Reads the records one by one.
    pub(crate) fn into_drafts(self) -> impl Iterator<Item = Result<Draft, Rejection>> + Send {
        let (body, places, text) = match self {
            Self::Json { body, places, .. } => (body, places, None),
            Self::Text(draft) => (Bytes::new(), Vec::new(), Some(*draft)),
        };
        places
            .into_iter()
            .map(move |place| Draft::from_json(&body[place]))
            .chain(text)
    }

    /// Returns how many records there are.
    pub(crate) const fn count(&self) -> usize {
        match self {
            Self::Json { places, .. } => places.len(),
            Self::Text(_) => 1,
        }
    }

    /// Returns the size of the body, in bytes.
    pub(crate) const fn bytes(&self) -> usize {
        match self {
            Self::Json { body, .. } => body.len(),
            Self::Text(_) => 0,
        }
    }
}

fn empty(what: &'static str) -> Problem {
    Problem::new(
        Kind::EmptyRequest,
        what,
        "send at least one message: {\"body\":\"…\"}",
    )
}

fn malformed(detail: String, hint: &'static str) -> Problem {
    Problem::new(Kind::MalformedBody, detail, hint)
}

const BALANCE: &str = "close every bracket and string; nothing of this request is stored";

impl From<Unbalanced> for Problem {
    fn from(fault: Unbalanced) -> Self {
        malformed(format!("not JSON: at byte {} {}", fault.at, fault.what), BALANCE)
    }
}

/// Finds the records of a body whose content type does not say which kind of JSON it is.
fn json(body: &Bytes, start: usize, most: usize, weight: &mut Weight) -> Result<Vec<Range<usize>>, Problem> {
    match body[start] {
        b'[' => {
            let (places, end) = elements(body, start, most, weight)?;
            let rest = skip_space(body, end);
            if rest < body.len() && places.len() <= most {
                return Err(malformed(
                    format!("not JSON: at byte {rest} something stands behind the end of the array"),
                    "send one array, or one object a line",
                ));
            }
            Ok(places)
        }
        b'{' => {
            match value_end(body, start, weight) {
                Ok(end) if skip_space(body, end) == body.len() => {
                    return Ok(std::iter::once(start..end).collect());
                }
                // One bad line must not spoil those behind it, the first as little as any other.
                Err(fault) if !has_record_line(body, start) => return Err(fault.into()),
                Ok(_) | Err(_) => {}
            }
            *weight = Weight::default();
            Ok(lines(body, start, most, weight))
        }
        // Any other JSON is a record that is no object, which the record's own reader explains.
        _ if serde_json::from_slice::<IgnoredAny>(&body[start..]).is_ok() => {
            Ok(vec![trim(body, start..body.len())])
        }
        first => Err(not_json(body, start, first)),
    }
}

fn not_json(body: &[u8], start: usize, first: u8) -> Problem {
    let hint = if body.starts_with(&[0x1f, 0x8b]) {
        "these are the first bytes of gzip: say Content-Encoding: gzip"
    } else if body.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        "these are the first bytes of zstd: say Content-Encoding: zstd"
    } else if body.starts_with(&[0xff, 0xfe]) || body.starts_with(&[0xfe, 0xff]) {
        "these are the first bytes of UTF-16: send UTF-8"
    } else {
        "send JSON, or say Content-Type: text/plain for one message of plain text"
    };
    let first = if first.is_ascii_graphic() {
        format!("{:?}", first as char)
    } else {
        format!("0x{first:02x}")
    };
    malformed(
        format!("neither JSON nor NDJSON: at byte {start} stands {first}"),
        hint,
    )
}

/// Tells whether a line behind the first is an object of its own, and not a part of one that goes over several lines.
fn has_record_line(body: &[u8], start: usize) -> bool {
    let mut goes_on = true;
    body[start..].split(|byte| *byte == b'\n').any(|line| {
        let line = &line[trim(line, 0..line.len())];
        let Some(last) = line.last() else { return false };
        let whole =
            !goes_on && line[0] == b'{' && value_end(line, 0, &mut Weight::default()) == Ok(line.len());
        goes_on = b":,[{".contains(last);
        whole
    })
}

/// Finds the lines that are not blank; stops behind `most + 1` of them.
fn lines(body: &[u8], start: usize, most: usize, weight: &mut Weight) -> Vec<Range<usize>> {
    let mut places = Vec::new();
    let mut at = start;
    while at < body.len() && places.len() <= most {
        let end = memchr(b'\n', &body[at..]).map_or(body.len(), |offset| at + offset);
        let place = trim(body, at..end);
        if !place.is_empty() {
            weight.add_line(&body[place.clone()]);
            places.push(place);
        }
        at = end + 1;
    }
    places
}

/// Makes one record of a body of plain text and the fields of the query.
fn text(body: &[u8], query: &Query) -> Records {
    let draft = match std::str::from_utf8(body) {
        Ok(text) => {
            // Read as JSON, so that a fault in the query is told in the words it has in a record.
            let fields: serde_json::Map<_, _> = query
                .fields
                .iter()
                .map(|(field, value)| ((*field).to_owned(), value.as_str().into()))
                .collect();
            let fields = serde_json::Value::Object(fields).to_string();
            Draft::from_json(fields.as_bytes()).map(|draft| Draft {
                body: Some(text.to_owned()),
                ..draft
            })
        }
        Err(error) => Err(Rejection::new(
            RejectionCode::InvalidJson,
            "/body",
            format!("not UTF-8 at byte {}", error.valid_up_to()),
            "send the text in UTF-8",
        )),
    };
    Records::Text(Box::new(draft))
}

#[cfg(test)]
#[path = "records_tests.rs"]
mod tests;
