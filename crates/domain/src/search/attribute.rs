//! The attribute that a query asks for.

use std::fmt;

use serde_json::{Map, Number, Value};

use super::parse::{Quoted, is_key};
use crate::Attributes;

/// An attribute, by its key, and the value that it has to have.
///
/// A key with dots means the attribute of that whole name, as OpenTelemetry writes them, and also the path through
/// objects: `http.status` is found in `{"http.status":200}` and in `{"http":{"status":200}}`. A value that was not
/// quoted means the text and, where it reads as one, the number, `true`, `false` or `null`: `42` finds 42 and `"42"`.
/// Only whole values are found: not an element of an array, nor a part of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct AttributeTest {
    key: Box<str>,
    text: Box<str>,
    quoted: bool,
}

impl AttributeTest {
    pub(super) fn new(key: &str, text: &str, quoted: bool) -> Self {
        Self {
            key: key.into(),
            text: text.into(),
            quoted,
        }
    }

    /// Returns the key as it was written.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Returns the key as a path through objects; of one segment, when there is no dot in it.
    pub fn path(&self) -> impl Iterator<Item = &str> {
        self.key.split('.')
    }

    /// Returns the values that are meant: the text, and what it reads as.
    pub fn values(&self) -> Vec<Value> {
        let text = Value::String(self.text.to_string());
        let literal = if self.quoted { None } else { literal(&self.text) };
        std::iter::once(text).chain(literal).collect()
    }

    /// Tells whether one of the attributes is meant.
    pub fn holds(&self, attributes: &Attributes) -> bool {
        let attributes = attributes.as_map();
        let found = [attributes.get(&*self.key), at(attributes, self.path())];
        let wanted = self.values();
        found
            .into_iter()
            .flatten()
            .any(|value| wanted.iter().any(|wanted| same(wanted, value)))
    }
}

impl fmt::Display for AttributeTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_key(&self.key) {
            f.write_str(&self.key)?;
        } else {
            write!(f, "{}", Quoted(&self.key))?;
        }
        if self.quoted {
            write!(f, "={}", Quoted(&self.text))
        } else {
            write!(f, "={}", self.text)
        }
    }
}

/// Reads what JSON takes for a number, `true`, `false` or `null`.
fn literal(text: &str) -> Option<Value> {
    match text {
        "true" => Some(Value::Bool(true)),
        "false" => Some(Value::Bool(false)),
        "null" => Some(Value::Null),
        _ => serde_json::from_str::<Number>(text).ok().map(Value::Number),
    }
}

fn at<'a>(attributes: &'a Map<String, Value>, mut path: impl Iterator<Item = &'a str>) -> Option<&'a Value> {
    let first = attributes.get(path.next()?)?;
    path.try_fold(first, |value, segment| value.as_object()?.get(segment))
}

/// Compares as databases do: numbers by what they are worth, however they are written.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => match (integer(a), integer(b)) {
            (Some(a), Some(b)) => a == b,
            _ => a.as_f64() == b.as_f64(),
        },
        _ => a == b,
    }
}

fn integer(number: &Number) -> Option<i128> {
    let signed = number.as_i64().map(i128::from);
    signed.or_else(|| number.as_u64().map(i128::from))
}
