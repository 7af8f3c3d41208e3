//! Who says a message; becomes the routing key.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// Who says a message: segments of `[A-Za-z0-9_-]` joined by dots, at most [`Source::MAX_BYTES`] bytes.
///
/// It is the routing key, and AMQP holds a routing key in at most 255 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source(Box<str>);

impl Source {
    /// The longest source, in bytes.
    pub const MAX_BYTES: usize = 200;

    /// Returns the source as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Source {
    /// The source of a message that names none: `default`.
    fn default() -> Self {
        Self("default".into())
    }
}

/// What is wrong with a text that should be a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSource {
    /// Nothing between two dots, or nothing at all.
    #[error("has an empty segment")]
    EmptySegment,
    /// Longer than [`Source::MAX_BYTES`].
    #[error("is {0} bytes long, over the limit of {limit}", limit = Source::MAX_BYTES)]
    TooLong(usize),
    /// A character outside the alphabet.
    #[error("has {0:?} in it")]
    Character(char),
}

impl FromStr for Source {
    type Err = InvalidSource;

    fn from_str(text: &str) -> Result<Self, InvalidSource> {
        if text.len() > Self::MAX_BYTES {
            return Err(InvalidSource::TooLong(text.len()));
        }
        let mut previous = '.';
        for character in text.chars() {
            match character {
                '.' if previous == '.' => return Err(InvalidSource::EmptySegment),
                '.' | '_' | '-' => {}
                other if other.is_ascii_alphanumeric() => {}
                other => return Err(InvalidSource::Character(other)),
            }
            previous = character;
        }
        if previous == '.' {
            return Err(InvalidSource::EmptySegment);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Serialize for Source {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dotted_names_are_sources() {
        for text in ["default", "billing.api", "a", "A-1_b.c", &"x".repeat(200)] {
            assert_eq!(
                text.parse::<Source>().map(|source| source.to_string()),
                Ok(text.to_owned())
            );
        }
    }

    #[test]
    fn everything_else_is_refused_with_its_reason() {
        use InvalidSource::{Character, EmptySegment, TooLong};
        for (text, reason) in [
            ("", EmptySegment),
            (".", EmptySegment),
            ("a.", EmptySegment),
            (".a", EmptySegment),
            ("a..b", EmptySegment),
            ("a b", Character(' ')),
            ("a.*", Character('*')),
            ("#", Character('#')),
            ("é", Character('é')),
            ("a\u{0}", Character('\u{0}')),
            (&"x".repeat(201), TooLong(201)),
        ] {
            assert_eq!(text.parse::<Source>(), Err(reason), "{text:?}");
        }
    }
}
