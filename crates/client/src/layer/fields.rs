//! The fields of events and spans as JSON, bounded.

use std::error::Error;
use std::fmt::{self, Write};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use warren_domain::Severity;

const MAX_EVENT_FIELDS: usize = 64;
const MAX_EVENT_TEXT: usize = 16 << 10;
const MAX_SPAN_FIELDS: usize = 32;
const MAX_SPAN_TEXT: usize = 1 << 10;

/// What an event says.
#[derive(Debug, Default)]
pub(super) struct EventFields {
    message: Option<String>,
    fields: Map<String, Value>,
    /// The target of a record that came through the `log` crate.
    pub(super) log_target: Option<String>,
}

impl EventFields {
    fn put(&mut self, field: &Field, value: impl FnOnce() -> Value) {
        match field.name() {
            "message" => {
                self.message = Some(match value() {
                    Value::String(text) => text,
                    other => other.to_string(),
                });
            }
            "log.target" => self.log_target = value().as_str().map(str::to_owned),
            // The rest of what the bridge from the `log` crate knows is about the place in the code.
            name if name.starts_with("log.") => {}
            name if self.fields.len() < MAX_EVENT_FIELDS => {
                self.fields.insert(plain(name).to_owned(), value());
            }
            _ => {}
        }
    }

    /// Takes the severity that the event names for itself.
    pub(super) fn severity(&mut self) -> Option<Severity> {
        let named = self.fields.get("severity")?.as_str()?.parse().ok();
        if named.is_some() {
            self.fields.remove("severity");
        }
        named
    }

    /// Takes what the event says: its message, else its fields, else its name.
    pub(super) fn body(&mut self, name: &str) -> String {
        if let Some(message) = self.message.take() {
            return message;
        }
        let mut body = String::new();
        for (key, value) in &self.fields {
            let space = if body.is_empty() { "" } else { " " };
            let written = match value {
                Value::String(text) => write!(body, "{space}{key}={text}"),
                other => write!(body, "{space}{key}={other}"),
            };
            // Writing into a String cannot fail.
            debug_assert!(written.is_ok());
        }
        if body.is_empty() {
            body.push_str(name);
        }
        body
    }

    pub(super) fn into_attributes(self) -> Map<String, Value> {
        self.fields
    }
}

/// What a span says.
#[derive(Debug, Default)]
pub(super) struct SpanFields(Map<String, Value>);

impl SpanFields {
    fn put(&mut self, name: &str, value: impl FnOnce() -> Value) {
        let name = plain(name);
        if self.0.len() < MAX_SPAN_FIELDS || self.0.contains_key(name) {
            self.0.insert(name.to_owned(), value());
        }
    }

    /// Adds what was recorded later.
    pub(super) fn extend(&mut self, later: Self) {
        for (name, value) in later.0 {
            self.put(&name, || value);
        }
    }

    pub(super) fn to_map(&self) -> Map<String, Value> {
        self.0.clone()
    }
}

/// Writes the methods of a visitor that differ by nothing but the type.
macro_rules! visit {
    ($most:expr, $name:ident => $key:expr) => {
        fn record_f64(&mut self, $name: &Field, value: f64) {
            self.put($key, || value.into());
        }

        fn record_i64(&mut self, $name: &Field, value: i64) {
            self.put($key, || value.into());
        }

        fn record_u64(&mut self, $name: &Field, value: u64) {
            self.put($key, || value.into());
        }

        fn record_i128(&mut self, $name: &Field, value: i128) {
            self.put($key, || {
                i64::try_from(value).map_or_else(|_| value.to_string().into(), Value::from)
            });
        }

        fn record_u128(&mut self, $name: &Field, value: u128) {
            self.put($key, || {
                u64::try_from(value).map_or_else(|_| value.to_string().into(), Value::from)
            });
        }

        fn record_bool(&mut self, $name: &Field, value: bool) {
            self.put($key, || value.into());
        }

        fn record_str(&mut self, $name: &Field, value: &str) {
            self.put($key, || cut($name, value, $most).into());
        }

        fn record_error(&mut self, $name: &Field, value: &(dyn Error + 'static)) {
            self.put($key, || cut($name, &chain(value), $most).into());
        }

        fn record_debug(&mut self, $name: &Field, value: &dyn fmt::Debug) {
            self.put($key, || cut($name, &format!("{value:?}"), $most).into());
        }
    };
}

impl Visit for EventFields {
    visit!(MAX_EVENT_TEXT, field => field);
}

impl Visit for SpanFields {
    visit!(MAX_SPAN_TEXT, field => field.name());
}

/// A field that is called as a keyword is written `r#type`.
fn plain(name: &str) -> &str {
    name.strip_prefix("r#").unwrap_or(name)
}

/// Cuts a text at `most` bytes; the message itself has the limit of a body.
fn cut(field: &Field, text: &str, most: usize) -> String {
    if text.len() <= most || field.name() == "message" {
        return text.to_owned();
    }
    format!("{}…", &text[..text.floor_char_boundary(most)])
}

/// Writes an error with everything behind it.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
