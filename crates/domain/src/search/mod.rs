//! What people type to find messages.
//!
//! A query is a list of terms, all of which have to hold: words and `"phrases"` of the body, `key=value` of the
//! attributes, `severity>=error`, `source:billing.*`, `id:…`; a `-` before a term asks for its opposite. There is no
//! `or` and there are no parentheses, so a query has no depth, and what it costs is bounded by [`Query::MOST_TERMS`].
//!
//! [`Query::holds`] is what a term means. Stores find by other means and have to find the same; [`Meaning`] is a search
//! as they can ask for it, [`Walk`] how they look through what no index finds, and [`Searcher`] the loop in which they do.

mod attribute;
mod breath;
mod error;
mod ids;
mod meaning;
mod parse;
mod scan;
mod searcher;
mod slowness;
mod walk;

use std::cell::OnceCell;
use std::fmt;

pub use attribute::AttributeTest;
pub use breath::Breath;
pub use error::InvalidQuery;
pub use ids::IdRange;
pub use meaning::{Meaning, SourceTest};
pub use searcher::{Listed, SearchSteps, Searcher, reader_problems};
pub use walk::{CountedMinutes, Leap, Look, MinuteCount, Step, Walk};

use crate::{Message, MessageId, SeveritySet, SourcePattern};

/// Which messages somebody looks for: those that every term holds for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Query(Vec<Term>);

impl Query {
    /// The longest query, in bytes of UTF-8.
    pub const MOST_BYTES: usize = 2_048;
    /// The most terms of a query.
    pub const MOST_TERMS: usize = 20;

    /// Returns the terms in the order in which they were written.
    pub fn terms(&self) -> &[Term] {
        &self.0
    }

    /// Tells whether every term holds for `message`.
    ///
    /// It takes time by the length of the message, for each term once: some milliseconds for one that is as large as may be
    /// and as many terms as there may be.
    pub fn holds(&self, message: &Message) -> bool {
        let body = LowerBody::of(message);
        self.0.iter().all(|term| term.holds(message, &body))
    }
}

impl fmt::Display for Query {
    /// Writes it so that it can be read again.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, term) in self.0.iter().enumerate() {
            let space = if place > 0 { " " } else { "" };
            write!(f, "{space}{term}")?;
        }
        Ok(())
    }
}

/// One condition.
#[derive(Clone, Debug, PartialEq)]
pub struct Term {
    /// Whether the opposite is asked for.
    pub negated: bool,
    /// What is asked.
    pub test: Test,
}

/// What a [`Term`] asks of a message.
#[derive(Clone, Debug, PartialEq)]
pub enum Test {
    /// The body has this text in it, whatever the case of the letters from A to Z.
    Text(Box<str>),
    /// An attribute has this value.
    Attribute(AttributeTest),
    /// The severity is one of these.
    Severity(SeveritySet),
    /// The source is one of these.
    Source(SourcePattern),
    /// It is this message.
    Id(MessageId),
}

impl Term {
    fn holds(&self, message: &Message, body: &LowerBody<'_>) -> bool {
        let holds = match &self.test {
            Test::Text(text) => body.contains(text),
            Test::Attribute(test) => test.holds(&message.attributes),
            Test::Severity(severities) => severities.contains(message.severity),
            Test::Source(pattern) => pattern.matches(&message.source),
            Test::Id(id) => message.id == *id,
        };
        holds != self.negated
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.negated {
            f.write_str("-")?;
        }
        match &self.test {
            Test::Text(text) => write!(f, "{}", parse::Quoted(text)),
            Test::Attribute(test) => write!(f, "{test}"),
            Test::Severity(severities) => write!(f, "severity:{severities}"),
            Test::Source(pattern) => write!(f, "source:{pattern}"),
            Test::Id(id) => write!(f, "id:{id}"),
        }
    }
}

/// A body with the letters from a to z for those from A to Z, written when the first term asks for it.
struct LowerBody<'m> {
    body: &'m str,
    lower: OnceCell<String>,
}

impl<'m> LowerBody<'m> {
    fn of(message: &'m Message) -> Self {
        Self {
            body: message.body.as_str(),
            lower: OnceCell::new(),
        }
    }

    fn contains(&self, text: &str) -> bool {
        let lower = self.lower.get_or_init(|| self.body.to_ascii_lowercase());
        lower.contains(&text.to_ascii_lowercase())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Draft, MessageLimits, Timestamp};

    fn message(json: &str) -> Message {
        let draft = Draft::from_json(json.as_bytes()).unwrap();
        draft
            .into_message(&MessageLimits::CEILING, Timestamp::now())
            .unwrap()
    }

    #[test]
    fn a_query_finds_what_every_term_holds_for() {
        let message = message(
            r#"{"body":"Card DECLINED: é","severity":"error","source":"billing.api",
                "attributes":{"order":42,"paid":false,"http":{"status":402},"http.route":"/pay","user":"7"}}"#,
        );
        for (query, found) in [
            ("", true),
            ("declined", true),
            ("card declined", true),
            ("\"card declined\"", true),
            ("\"declined card\"", false),
            ("é", true),
            ("É", false),
            ("-declined", false),
            ("-refused", true),
            ("order=42", true),
            ("order=42.0", true),
            ("order=\"42\"", false),
            ("user=7", true),
            ("user=\"7\"", true),
            ("order!=42", false),
            ("-order!=42", true),
            ("customer!=1", true),
            ("paid=false", true),
            ("http.status=402", true),
            ("http.route=/pay", true),
            ("http=402", false),
            ("severity>=error", true),
            ("severity>error", false),
            ("severity!=error", false),
            ("severity:error,critical", true),
            ("source:billing.*", true),
            ("source:billing", false),
            ("-source:#", false),
            (
                "declined order=42 severity>=warning source:billing.# -refund",
                true,
            ),
        ] {
            assert_eq!(query.parse::<Query>().unwrap().holds(&message), found, "{query}");
        }
        let by_id: Query = format!("id:{}", message.id).parse().unwrap();
        assert!(by_id.holds(&message));
    }

    proptest! {
        #[test]
        fn texts_are_found_whatever_the_case_of_the_letters_of_ascii_and_of_no_others(
            body in "[aAbBéÉkK\u{212a}ßſ \u{0}]{0,12}",
            text in "[aAbBéÉkK\u{212a}ßſ]{1,3}",
        ) {
            let json = serde_json::json!({ "body": body }).to_string();
            let message = message(&json);
            let windows = message.body.as_str().as_bytes().windows(text.len());
            let expected = windows.into_iter().any(|window| window.eq_ignore_ascii_case(text.as_bytes()));
            let term = Term { negated: false, test: Test::Text(text.into()) };
            prop_assert_eq!(Query(vec![term]).holds(&message), expected);
        }
    }
}
