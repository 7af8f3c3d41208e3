//! Reads a query.

use std::fmt;
use std::str::FromStr;

use super::scan::Scan;
use super::{AttributeTest, InvalidQuery, Query, Term, Test};
use crate::{MessageId, Severity, SeveritySet, SourcePattern};

/// Between a key and a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Equal,
    Unequal,
    Colon,
    Less,
    AtMost,
    More,
    AtLeast,
}

impl Operator {
    /// The longer before those that they begin with.
    const ALL: [(&'static str, Self); 7] = [
        ("!=", Self::Unequal),
        ("<=", Self::AtMost),
        (">=", Self::AtLeast),
        ("=", Self::Equal),
        (":", Self::Colon),
        ("<", Self::Less),
        (">", Self::More),
    ];

    fn take(scan: &mut Scan<'_>) -> Option<Self> {
        let found = Self::ALL.into_iter().find(|(text, _)| scan.eat(text));
        found.map(|(_, operator)| operator)
    }
}

/// A value, and where it is.
struct Value<'a> {
    text: std::borrow::Cow<'a, str>,
    quoted: bool,
    column: usize,
    length: usize,
}

impl FromStr for Query {
    type Err = InvalidQuery;

    fn from_str(text: &str) -> Result<Self, InvalidQuery> {
        if text.len() > Self::MOST_BYTES {
            let within = |(at, character): &(usize, char)| at + character.len_utf8() <= Self::MOST_BYTES;
            let taken = text.char_indices().take_while(within).count();
            return Err(InvalidQuery {
                column: taken + 1,
                length: text.chars().count() - taken,
                detail: format!("{} bytes, over the limit of {}", text.len(), Self::MOST_BYTES),
                hint: "search for less",
            });
        }
        if let Some(place) = text.chars().position(|character| character == '\0') {
            return Err(InvalidQuery {
                column: place + 1,
                length: 1,
                detail: "U+0000, which no message holds".to_owned(),
                hint: "leave it out; where a message was sent with one, it has U+FFFD",
            });
        }
        let mut scan = Scan::new(text);
        let mut terms = Vec::new();
        loop {
            scan.take_while(char::is_whitespace);
            if scan.peek().is_none() {
                return Ok(Self(terms));
            }
            if terms.len() == Self::MOST_TERMS {
                return Err(InvalidQuery {
                    column: scan.column(),
                    length: scan.rest().chars().count(),
                    detail: format!("more than {} terms", Self::MOST_TERMS),
                    hint: "search for less, or quote words that stand together",
                });
            }
            terms.push(term(&mut scan)?);
        }
    }
}

/// Reads one term; what comes next is no whitespace.
fn term(scan: &mut Scan<'_>) -> Result<Term, InvalidQuery> {
    let start = scan.clone();
    let minus = scan.peek() == Some('-') && start.rest()[1..].starts_with(|next: char| !next.is_whitespace());
    if minus {
        scan.take();
    }
    let of = |test, negated: bool| Term {
        negated: negated != minus,
        test,
    };
    let key = if scan.peek() == Some('"') {
        let (column, phrase) = (scan.column(), phrase(scan)?);
        match scan.peek() {
            None => return text(&phrase, column, scan).map(|test| of(test, false)),
            Some(next) if next.is_whitespace() => {
                return text(&phrase, column, scan).map(|test| of(test, false));
            }
            Some(_) => std::borrow::Cow::Owned(phrase),
        }
    } else {
        let word = scan.clone();
        let key = scan.take_while(is_of_key);
        let reserved = matches!(key, "severity" | "source" | "id");
        let operator = Operator::take(&mut scan.clone());
        // A colon is in many words, such as 12:30 and https://…; only of these keys it is more.
        if key.is_empty() || operator.is_none() || (operator == Some(Operator::Colon) && !reserved) {
            *scan = word;
            return plain(scan).map(|test| of(test, false));
        }
        std::borrow::Cow::Borrowed(key)
    };
    let column = scan.column();
    let Some(operator) = Operator::take(scan) else {
        return Err(InvalidQuery {
            column,
            length: 1,
            detail: "something follows a closing quote".to_owned(),
            hint: "put a space between two terms, and write \\\" for a quote within quotes",
        });
    };
    let length = scan.column() - column;
    let value = value(scan)?;
    let test = match &*key {
        "severity" => return severity(operator, &value).map(|set| of(Test::Severity(set), false)),
        "source" | "id" if !matches!(operator, Operator::Equal | Operator::Unequal | Operator::Colon) => {
            return Err(uncomparable(column, length, &key));
        }
        "source" => Test::Source(source(&value)?),
        "id" => Test::Id(id(&value)?),
        _ if matches!(operator, Operator::Equal | Operator::Unequal) => {
            Test::Attribute(AttributeTest::new(&key, &value.text, value.quoted))
        }
        _ => return Err(uncomparable(column, length, &key)),
    };
    Ok(of(test, operator == Operator::Unequal))
}

fn uncomparable(column: usize, length: usize, key: &str) -> InvalidQuery {
    InvalidQuery {
        column,
        length,
        detail: format!("{key} cannot be compared in this way"),
        hint: "only severity has an order; of others write = or !=, and quote what is meant as text",
    }
}

/// Reads a word without quotes.
fn plain(scan: &mut Scan<'_>) -> Result<Test, InvalidQuery> {
    let column = scan.column();
    let word = scan.take_while(|character| !character.is_whitespace());
    if matches!(word, "OR" | "AND" | "NOT") {
        return Err(InvalidQuery {
            column,
            length: word.len(),
            detail: format!("there is no {word}"),
            hint: "every term has to hold, and - before a term asks for its opposite; quote it to search for the word",
        });
    }
    Ok(Test::Text(word.into()))
}

fn text(phrase: &str, column: usize, scan: &Scan<'_>) -> Result<Test, InvalidQuery> {
    if phrase.is_empty() {
        return Err(InvalidQuery {
            column,
            length: scan.column() - column,
            detail: "nothing between the quotes".to_owned(),
            hint: "write what the body should hold, or leave the quotes out",
        });
    }
    Ok(Test::Text(phrase.into()))
}

/// Reads a phrase with its quotes.
fn phrase(scan: &mut Scan<'_>) -> Result<String, InvalidQuery> {
    let column = scan.column();
    scan.take();
    let mut phrase = String::new();
    loop {
        match scan.take() {
            Some('"') => return Ok(phrase),
            Some('\\') if matches!(scan.peek(), Some('"' | '\\')) => phrase.extend(scan.take()),
            Some(character) => phrase.push(character),
            None => {
                return Err(InvalidQuery {
                    column,
                    length: scan.column() - column,
                    detail: "a quote that is not closed".to_owned(),
                    hint: "end the phrase with \"; a quote that is meant itself is written \\\" within quotes",
                });
            }
        }
    }
}

fn value<'a>(scan: &mut Scan<'a>) -> Result<Value<'a>, InvalidQuery> {
    let column = scan.column();
    let quoted = scan.peek() == Some('"');
    let text: std::borrow::Cow<'a, str> = if quoted {
        let phrase = phrase(scan)?;
        if scan.peek().is_some_and(|next| !next.is_whitespace()) {
            return Err(InvalidQuery {
                column: scan.column(),
                length: 1,
                detail: "something follows a closing quote".to_owned(),
                hint: "put a space between two terms, and write \\\" for a quote within quotes",
            });
        }
        phrase.into()
    } else {
        scan.take_while(|character| !character.is_whitespace()).into()
    };
    if text.is_empty() && !quoted {
        return Err(InvalidQuery {
            column,
            length: 1,
            detail: "a value is missing".to_owned(),
            hint: "write it without a space before it; an empty text is \"\"",
        });
    }
    Ok(Value {
        text,
        quoted,
        column,
        length: (scan.column() - column).max(1),
    })
}

impl Value<'_> {
    fn wrong(&self, detail: String, hint: &'static str) -> InvalidQuery {
        InvalidQuery {
            column: self.column,
            length: self.length,
            detail,
            hint,
        }
    }
}

fn severity(operator: Operator, value: &Value<'_>) -> Result<SeveritySet, InvalidQuery> {
    const HINT: &str = "write one of debug, info, warning, error, critical, such as severity>=error, or several, \
                        such as severity:error,critical";
    let set: SeveritySet = (value.text.parse()).map_err(|error| value.wrong(format!("{error}"), HINT))?;
    let meant = |wanted: &dyn Fn(Severity) -> bool| -> SeveritySet {
        Severity::ALL
            .into_iter()
            .filter(|severity| wanted(*severity))
            .collect()
    };
    let one = || {
        let mut named = set.iter();
        match (named.next(), named.next()) {
            (Some(one), None) => Ok(one),
            _ => Err(value.wrong("more than one severity to compare with".to_owned(), HINT)),
        }
    };
    Ok(match operator {
        Operator::Equal | Operator::Colon => set,
        Operator::Unequal => meant(&|severity| !set.contains(severity)),
        Operator::Less => one().map(|one| meant(&|severity| severity < one))?,
        Operator::AtMost => one().map(|one| meant(&|severity| severity <= one))?,
        Operator::More => one().map(|one| meant(&|severity| severity > one))?,
        Operator::AtLeast => one().map(|one| meant(&|severity| severity >= one))?,
    })
}

fn source(value: &Value<'_>) -> Result<SourcePattern, InvalidQuery> {
    value.text.parse().map_err(|error| {
        value.wrong(
            format!("the source {error}"),
            "write a source, such as billing.api, or a pattern, such as billing.* or billing.#",
        )
    })
}

fn id(value: &Value<'_>) -> Result<MessageId, InvalidQuery> {
    value.text.parse().map_err(|error| {
        value.wrong(
            format!("the id {error}"),
            "write the id of a message, as the answer to its request had it",
        )
    })
}

fn is_of_key(character: char) -> bool {
    character.is_alphanumeric() || matches!(character, '_' | '-' | '.' | '/' | '@' | '$')
}

/// Tells whether a key needs no quotes.
pub(super) fn is_key(key: &str) -> bool {
    let reserved = matches!(key, "severity" | "source" | "id");
    !key.is_empty() && !key.starts_with('-') && !reserved && key.chars().all(is_of_key)
}

/// Writes a text within quotes.
pub(super) struct Quoted<'a>(pub(super) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let escaped = self.0.replace('\\', "\\\\").replace('"', "\\\"");
        write!(f, "\"{escaped}\"")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wrong(query: &str) -> InvalidQuery {
        query.parse::<Query>().expect_err(query)
    }

    #[test]
    fn what_is_wrong_is_told_with_its_column() {
        for (query, column, length, word) in [
            ("\"card", 1, 5, "not closed"),
            ("é \"card", 3, 5, "not closed"),
            ("a \"\"", 3, 2, "nothing between"),
            ("\"a\"b", 4, 1, "closing quote"),
            ("k=\"a\"b", 6, 1, "closing quote"),
            ("order= 42", 7, 1, "value is missing"),
            ("order>=42", 6, 2, "cannot be compared"),
            ("source>a", 7, 1, "cannot be compared"),
            ("severity>=loud", 11, 4, "loud"),
            ("severity>error,critical", 10, 14, "more than one"),
            ("source:a..b", 8, 4, "empty segment"),
            ("id:7", 4, 1, "the id"),
            ("a OR b", 3, 2, "no OR"),
            ("a\0", 2, 1, "U+0000"),
        ] {
            let error = wrong(query);
            assert_eq!((error.column, error.length), (column, length), "{query}: {error}");
            assert!(error.detail.contains(word), "{query}: {error}");
        }
        assert!(wrong(&"a ".repeat(21)).detail.contains("20 terms"));
        for (text, bytes, column, length) in [
            ("x".repeat(10_000), 10_000, 2_049, 7_952),
            ("(".repeat(2_049), 2_049, 2_049, 1),
            // A letter of two bytes that the limit would cut in half.
            (format!("x{}", "é".repeat(1_024)), 2_049, 1_025, 1),
        ] {
            let error = wrong(&text);
            assert_eq!((error.column, error.length), (column, length), "{error}");
            assert!(error.detail.contains(&format!("{bytes} bytes")), "{error}");
        }
    }

    #[test]
    fn what_people_paste_is_text() {
        for text in [
            "12:30:05",
            "https://a.example/?b",
            "(((((",
            "<b>",
            "100%",
            "a_b",
            "-",
            "or",
            "é(x)=1",
            "%_\\",
        ] {
            let query: Query = text.parse().unwrap();
            let expected = Term {
                negated: false,
                test: Test::Text(text.into()),
            };
            assert_eq!(query.terms(), [expected], "{text}");
        }
    }

    #[test]
    fn a_reserved_word_in_quotes_is_an_attribute_or_a_word() {
        let query: Query = "\"OR\" \"my key\"=1".parse().unwrap();
        assert_eq!(query.to_string(), "\"OR\" \"my key\"=1");
    }

    proptest! {
        #[test]
        fn any_text_is_a_query_or_wrong_within_itself(text in ".{0,60}") {
            match text.parse::<Query>() {
                Ok(query) => prop_assert_eq!(query.to_string().parse::<Query>(), Ok(query)),
                Err(error) => {
                    let characters = text.chars().count();
                    prop_assert!(error.column >= 1 && error.column <= characters + 1, "{}", error);
                    prop_assert!(error.length >= 1);
                }
            }
        }
    }
}
