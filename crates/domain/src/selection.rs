//! Which messages somebody listens to.

use std::fmt;
use std::str::FromStr;

use crate::{Message, SeveritySet, Source};

/// Which sources: dotted segments, where `*` stands for exactly one segment and `#` for any number of them, none too.
///
/// What RabbitMQ's topic exchanges call a binding key, over the segments that a [`Source`] may have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourcePattern(Box<str>);

impl SourcePattern {
    /// Returns the pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Tells whether `source` is one of those that are meant.
    pub fn matches(&self, source: &Source) -> bool {
        let pattern: Vec<_> = self.0.split('.').collect();
        // reached[n]: what was read of the source so far matches the first n segments of the pattern.
        let mut reached = vec![false; pattern.len() + 1];
        reached[0] = true;
        skip_hashes(&pattern, &mut reached);
        for segment in source.as_str().split('.') {
            let mut next = vec![false; reached.len()];
            for (n, expected) in pattern.iter().enumerate() {
                if *expected == "#" {
                    next[n + 1] |= reached[n] || reached[n + 1];
                } else if *expected == "*" || *expected == segment {
                    next[n + 1] |= reached[n];
                }
            }
            skip_hashes(&pattern, &mut next);
            reached = next;
        }
        reached[pattern.len()]
    }
}

/// A `#` may stand for nothing: whoever is before it is behind it too.
fn skip_hashes(pattern: &[&str], reached: &mut [bool]) {
    for (n, expected) in pattern.iter().enumerate() {
        if *expected == "#" && reached[n] {
            reached[n + 1] = true;
        }
    }
}

impl Default for SourcePattern {
    /// The pattern of every source: `#`.
    fn default() -> Self {
        Self("#".into())
    }
}

/// What is wrong with a text that should be a pattern of sources.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSourcePattern {
    /// Nothing between two dots, or nothing at all.
    #[error("has an empty segment; write segments joined by dots, such as billing.#")]
    EmptySegment,
    /// Longer than a source may be.
    #[error("is {0} bytes long, over the limit of {limit}", limit = Source::MAX_BYTES)]
    TooLong(usize),
    /// A wildcard beside other characters.
    #[error("has a wildcard within the segment {0:?}; * and # stand for whole segments, such as billing.*")]
    PartialWildcard(String),
    /// A character outside the alphabet.
    #[error("has {0:?} in it; a segment is *, #, or some of A–Z, a–z, 0–9, _ and -")]
    Character(char),
}

impl FromStr for SourcePattern {
    type Err = InvalidSourcePattern;

    fn from_str(text: &str) -> Result<Self, InvalidSourcePattern> {
        if text.len() > Source::MAX_BYTES {
            return Err(InvalidSourcePattern::TooLong(text.len()));
        }
        for segment in text.split('.') {
            match segment {
                "" => return Err(InvalidSourcePattern::EmptySegment),
                "*" | "#" => {}
                words => {
                    let taken = |character: &char| {
                        character.is_ascii_alphanumeric() || matches!(character, '_' | '-' | '*' | '#')
                    };
                    if let Some(other) = words.chars().find(|character| !taken(character)) {
                        return Err(InvalidSourcePattern::Character(other));
                    }
                    if words.contains(['*', '#']) {
                        return Err(InvalidSourcePattern::PartialWildcard(words.to_owned()));
                    }
                }
            }
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for SourcePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Which messages somebody listens to: those of some severities, and of some sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// The severities.
    pub severities: SeveritySet,
    /// The sources, by any of these patterns; none stands for every source.
    pub sources: Vec<SourcePattern>,
}

impl Selection {
    /// Selects everything of some severities.
    pub const fn of(severities: SeveritySet) -> Self {
        Self {
            severities,
            sources: Vec::new(),
        }
    }

    /// Tells whether `message` is meant.
    pub fn matches(&self, message: &Message) -> bool {
        self.severities.contains(message.severity) && self.matches_source(&message.source)
    }

    /// Tells whether what `source` says is meant, given the severity.
    pub fn matches_source(&self, source: &Source) -> bool {
        self.sources.is_empty() || self.sources.iter().any(|pattern| pattern.matches(source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, source: &str) -> bool {
        let pattern: SourcePattern = pattern.parse().unwrap();
        pattern.matches(&source.parse().unwrap())
    }

    #[test]
    fn a_star_is_one_segment_and_a_hash_any_number() {
        for (pattern, yes, no) in [
            ("#", &["a", "a.b.c"][..], &[][..]),
            ("*", &["a"], &["a.b"]),
            (
                "billing.#",
                &["billing", "billing.api", "billing.api.v2"],
                &["shop", "shop.billing", "billings"],
            ),
            ("billing.*", &["billing.api"], &["billing", "billing.api.v2"]),
            ("#.api", &["api", "a.api", "a.b.api"], &["api.a", "a.apis"]),
            ("a.#.z", &["a.z", "a.b.z", "a.z.z"], &["a", "z", "a.b"]),
            ("*.#.*", &["a.b", "a.b.c"], &["a"]),
            ("#.#", &["a", "a.b"], &[]),
            ("a.b", &["a.b"], &["a", "a.b.c", "A.b"]),
        ] {
            for source in yes {
                assert!(matches(pattern, source), "{pattern} should match {source}");
            }
            for source in no {
                assert!(!matches(pattern, source), "{pattern} should not match {source}");
            }
        }
    }

    #[test]
    fn a_malformed_pattern_says_what_is_wrong() {
        use InvalidSourcePattern::{Character, EmptySegment, PartialWildcard, TooLong};
        for (text, reason) in [
            ("", EmptySegment),
            ("a..b", EmptySegment),
            (".#", EmptySegment),
            ("bill*", PartialWildcard("bill*".to_owned())),
            ("a.##", PartialWildcard("##".to_owned())),
            ("a b", Character(' ')),
            ("a.é", Character('é')),
            (&"x".repeat(201), TooLong(201)),
        ] {
            assert_eq!(text.parse::<SourcePattern>(), Err(reason), "{text:?}");
        }
    }
}
