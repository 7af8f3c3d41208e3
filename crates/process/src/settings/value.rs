//! Turns the merged tree into types, strictly, and says what was expected where.
//!
//! The merging crate's own deserializer is too obliging for settings: it takes `yes` for the number 1, rounds 1.7
//! to 2, and names no range when a number does not fit. Text is parsed here into whatever the field wants, because
//! environment variables and flags have only text; apart from that, nothing is converted.

use std::fmt;

use config::{Value, ValueKind};
use serde::de::{self, DeserializeSeed, Expected, IntoDeserializer, Unexpected, Visitor};

/// Why one value does not fit, and the path to it.
#[derive(Debug)]
pub(super) struct ValueError {
    /// Segments from the innermost outwards, as they are added on the way up.
    reversed_path: Vec<String>,
    pub(super) what: What,
}

/// The kinds of misfit that are worded differently.
#[derive(Debug)]
pub(super) enum What {
    /// A key nobody reads.
    Unknown,
    /// A key that has no default and was not given.
    Missing(String),
    /// A value of the wrong type, form or range.
    Invalid(String),
}

impl ValueError {
    fn invalid(message: impl Into<String>) -> Self {
        Self {
            reversed_path: Vec::new(),
            what: What::Invalid(message.into()),
        }
    }

    fn inside(mut self, segment: &str) -> Self {
        self.reversed_path.push(segment.to_owned());
        self
    }

    pub(super) fn path(&self) -> Vec<String> {
        self.reversed_path.iter().rev().cloned().collect()
    }
}

impl fmt::Display for ValueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            What::Unknown => f.write_str("no such setting"),
            What::Missing(_) => f.write_str("must be given; it has no default"),
            What::Invalid(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for ValueError {}

impl de::Error for ValueError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        let message = message.to_string();
        Self::invalid(match message.as_str() {
            "invalid socket address syntax" => {
                "expected an IP address and a port, such as 127.0.0.1:8080 or [::]:8080".to_owned()
            }
            _ => message,
        })
    }

    // The value itself is left out: it is shown beside the message, masked where it must be.
    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid(format!("expected {}", in_plain_words(&expected.to_string())))
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(Unexpected::Unit, expected)
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        Self::invalid(format!("expected one of {}", expected.join(", ")))
    }

    fn unknown_field(field: &str, _: &'static [&'static str]) -> Self {
        Self {
            reversed_path: vec![field.to_owned()],
            what: What::Unknown,
        }
    }

    fn missing_field(field: &'static str) -> Self {
        Self {
            reversed_path: Vec::new(),
            what: What::Missing(field.to_owned()),
        }
    }
}

/// Words for the expectations that the types of other crates phrase for programmers.
fn in_plain_words(expected: &str) -> &str {
    match expected {
        "a duration" => "a duration with its unit, such as 500ms, 5s or 2h",
        "an integer or string" | "parsable string" | "integer overflow" => "a size, such as 64KiB or 20MiB",
        "a string" => "text",
        other => other,
    }
}

/// Reads a type out of a merged value.
pub(super) struct ValueReader<'a>(pub(super) &'a Value);

impl<'a> ValueReader<'a> {
    fn text(&self) -> Option<&'a str> {
        match &self.0.kind {
            ValueKind::String(text) => Some(text),
            _ => None,
        }
    }

    fn integer(&self, min: i128, max: i128) -> Result<i128, ValueError> {
        let number = match &self.0.kind {
            ValueKind::I64(number) => Some(i128::from(*number)),
            ValueKind::U64(number) => Some(i128::from(*number)),
            ValueKind::I128(number) => Some(*number),
            ValueKind::U128(number) => i128::try_from(*number).ok(),
            ValueKind::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        number
            .filter(|number| (min..=max).contains(number))
            .ok_or_else(|| ValueError::invalid(format!("expected a whole number from {min} to {max}")))
    }

    fn float(&self) -> Result<f64, ValueError> {
        let number = match &self.0.kind {
            ValueKind::Float(number) => Some(*number),
            ValueKind::String(text) => text.trim().parse().ok(),
            _ => self
                .integer(i128::from(i32::MIN), i128::from(i32::MAX))
                .ok()
                .map(|number| number as f64),
        };
        number
            .filter(|number| number.is_finite())
            .ok_or_else(|| ValueError::invalid("expected a number"))
    }

    fn boolean(&self) -> Result<bool, ValueError> {
        let flag = match &self.0.kind {
            ValueKind::Boolean(flag) => Some(*flag),
            ValueKind::String(text) => match text.trim().to_ascii_lowercase().as_str() {
                "true" | "yes" | "on" | "1" => Some(true),
                "false" | "no" | "off" | "0" => Some(false),
                _ => None,
            },
            _ => None,
        };
        flag.ok_or_else(|| ValueError::invalid("expected true or false"))
    }
}

macro_rules! integers {
    ($($method:ident $visit:ident $type:ident)*) => { $(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
            let number = self.integer(i128::from($type::MIN), i128::from($type::MAX))?;
            // In range, as just checked.
            visitor.$visit(number as $type)
        }
    )* };
}

impl<'de> de::Deserializer<'de> for ValueReader<'_> {
    type Error = ValueError;

    integers! {
        deserialize_i8 visit_i8 i8
        deserialize_i16 visit_i16 i16
        deserialize_i32 visit_i32 i32
        deserialize_i64 visit_i64 i64
        deserialize_u8 visit_u8 u8
        deserialize_u16 visit_u16 u16
        deserialize_u32 visit_u32 u32
        deserialize_u64 visit_u64 u64
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        match &self.0.kind {
            ValueKind::Nil => visitor.visit_unit(),
            ValueKind::Boolean(flag) => visitor.visit_bool(*flag),
            ValueKind::I64(number) => visitor.visit_i64(*number),
            ValueKind::I128(number) => visitor.visit_i128(*number),
            ValueKind::U64(number) => visitor.visit_u64(*number),
            ValueKind::U128(number) => visitor.visit_u128(*number),
            ValueKind::Float(number) => visitor.visit_f64(*number),
            ValueKind::String(text) => visitor.visit_str(text),
            ValueKind::Array(_) => self.deserialize_seq(visitor),
            ValueKind::Table(_) => self.deserialize_map(visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        visitor.visit_bool(self.boolean()?)
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        visitor.visit_f64(self.float()?)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        // A bare number of a file is handed on as text: a duration without its unit then says what is missing.
        match &self.0.kind {
            ValueKind::String(text) => visitor.visit_str(text),
            ValueKind::I64(_) | ValueKind::U64(_) | ValueKind::Float(_) | ValueKind::Boolean(_) => {
                visitor.visit_string(self.0.kind.to_string())
            }
            _ => Err(ValueError::invalid("expected text")),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        match &self.0.kind {
            ValueKind::Nil => visitor.visit_none(),
            // The only way to unset something from the environment.
            ValueKind::String(text) if text.is_empty() => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, ValueError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        let split;
        let items = match &self.0.kind {
            ValueKind::Array(items) => items,
            ValueKind::String(text) => {
                let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
                split = parts.map(|part| Value::new(None, part)).collect();
                &split
            }
            _ => return Err(ValueError::invalid("expected a list")),
        };
        visitor.visit_seq(Items(items.iter()))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        match &self.0.kind {
            ValueKind::Table(table) => visitor.visit_map(Fields {
                fields: table.iter(),
                next: None,
            }),
            _ => Err(ValueError::invalid("expected a section with settings of its own")),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ValueError> {
        // Not left to `deny_unknown_fields`, which one struct may have forgotten.
        if let ValueKind::Table(table) = &self.0.kind
            && let Some(unknown) = table.keys().filter(|key| !fields.contains(&key.as_str())).min()
        {
            return Err(de::Error::unknown_field(unknown, fields));
        }
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ValueError> {
        match self.text() {
            Some(text) => visitor.visit_enum(text.into_deserializer()),
            None => Err(de::Error::unknown_variant("", variants)),
        }
    }

    serde::forward_to_deserialize_any! {
        i128 u128 bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

struct Items<'a>(std::slice::Iter<'a, Value>);

impl<'de> de::SeqAccess<'de> for Items<'_> {
    type Error = ValueError;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, ValueError> {
        self.0
            .next()
            .map(|item| seed.deserialize(ValueReader(item)))
            .transpose()
    }
}

struct Fields<'a> {
    fields: std::collections::hash_map::Iter<'a, String, Value>,
    next: Option<(&'a str, &'a Value)>,
}

impl<'de> de::MapAccess<'de> for Fields<'_> {
    type Error = ValueError;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, ValueError> {
        self.next = self.fields.next().map(|(key, value)| (key.as_str(), value));
        self.next
            .map(|(key, _)| seed.deserialize(key.into_deserializer()))
            .transpose()
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, ValueError> {
        match self.next.take() {
            Some((key, value)) => seed
                .deserialize(ValueReader(value))
                .map_err(|error| error.inside(key)),
            None => Err(de::Error::custom("a value was asked for before its key")),
        }
    }
}
