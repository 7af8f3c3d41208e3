//! Reads the query of an intake request.

use crate::problem::{Kind, Problem};

/// The fields that a message of plain text takes from the query.
const FIELDS: [&str; 4] = ["severity", "source", "id", "occurred_at"];

/// The query of an intake request.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Query {
    /// Whether the answer names the ids of accepted messages.
    pub(crate) ids: bool,
    /// The fields of a message of plain text, each at most once.
    pub(crate) fields: Vec<(&'static str, String)>,
}

impl Query {
    /// Reads `key=value` pairs joined by `&`, percent-encoded; `+` stands for itself, so that an offset of a time
    /// needs no encoding.
    pub(crate) fn parse(query: Option<&str>) -> Result<Self, Problem> {
        let mut parsed = Self::default();
        let mut ids_given = false;
        for pair in query
            .unwrap_or_default()
            .split('&')
            .filter(|pair| !pair.is_empty())
        {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (key, value) = (decode(key)?, decode(value)?);
            let twice = if key == "ids" {
                parsed.ids = match value.to_ascii_lowercase().as_str() {
                    "" | "true" | "1" => true,
                    "false" | "0" => false,
                    _ => {
                        return Err(invalid(format!(
                            "ids={:?} is neither true nor false",
                            excerpt(&value)
                        )));
                    }
                };
                std::mem::replace(&mut ids_given, true)
            } else if let Some(field) = FIELDS.into_iter().find(|field| *field == key) {
                let twice = parsed.fields.iter().any(|(given, _)| *given == field);
                parsed.fields.push((field, value));
                twice
            } else {
                return Err(invalid(format!("no parameter is called {:?}", excerpt(&key))));
            };
            if twice {
                return Err(invalid(format!("{key} is given twice")));
            }
        }
        Ok(parsed)
    }

    /// Checks that no field is given for a body that has fields of its own.
    pub(crate) fn without_fields(&self) -> Result<(), Problem> {
        match self.fields.first() {
            None => Ok(()),
            Some((field, _)) => Err(Problem::new(
                Kind::InvalidQuery,
                format!("{field} in the query belongs to a body of plain text, and this one is JSON"),
                "write the field into each record, or send Content-Type: text/plain",
            )),
        }
    }
}

fn invalid(detail: String) -> Problem {
    Problem::new(
        Kind::InvalidQuery,
        detail,
        "use ids=true, and severity, source, id and occurred_at with a body of plain text, each at most once",
    )
}

/// Returns as much of what a client has sent as is shown to it again.
pub(crate) fn excerpt(text: &str) -> String {
    text.chars().take(80).collect()
}

fn decode(text: &str) -> Result<String, Problem> {
    let wrong = |_| invalid(format!("{:?} is not percent-encoded UTF-8", excerpt(text)));
    percent_decoded(text).map_err(wrong)
}

/// Returns a key or a value of a query as it was meant.
///
/// # Errors
/// Where in `text` is what is not percent-encoded UTF-8, in bytes.
pub(crate) fn percent_decoded(text: &str) -> Result<String, usize> {
    if !text.contains('%') {
        return Ok(text.to_owned());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let at = text.len() - rest.len();
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2).ok_or(at)?;
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let (Some(high), Some(low)) = (digit(digits[0]), digit(digits[1])) else {
            return Err(at);
        };
        bytes.push((high << 4 | low) as u8);
        rest = after;
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let step = |at: usize, _| at + if text.as_bytes()[at] == b'%' { 3 } else { 1 };
        (0..good).fold(0, step)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_known_parameters_are_read() {
        let query = "ids=TRUE&severity=error&source=a%2eb&occurred_at=2026-11-22T13:00:00+01:00";
        let query = Query::parse(Some(query)).unwrap();
        assert!(query.ids);
        assert_eq!(
            query.fields,
            [
                ("severity", "error".to_owned()),
                ("source", "a.b".to_owned()),
                ("occurred_at", "2026-11-22T13:00:00+01:00".to_owned()),
            ]
        );
        assert!(query.without_fields().is_err());
        assert_eq!(
            Query::parse(Some("&ids&")).map(|query| query.ids).ok(),
            Some(true)
        );
        assert_eq!(Query::parse(None).ok(), Some(Query::default()));
    }

    #[test]
    fn everything_else_is_refused() {
        for query in [
            "idz=true",
            "ids=maybe",
            "ids=1&ids=1",
            "source=a&source=b",
            "severity=%",
            "severity=%4",
            "source=%zz",
            "source=%ff",
            "=",
            "%00=1",
            "body=x",
            "ids=true&drop",
            "source=%+1",
        ] {
            assert!(Query::parse(Some(query)).is_err(), "{query}");
        }
    }

    #[test]
    fn what_cannot_be_decoded_is_pointed_at() {
        for (text, at) in [
            ("%", 0),
            ("é%2", 2),
            ("a%zz%00", 1),
            ("%25%+1", 3),
            ("ab%ff", 2),
            ("%F0%9F%90", 0),
            ("%C3%A9x%C3y", 7),
            ("é%e9é", 2),
        ] {
            assert_eq!(percent_decoded(text), Err(at), "{text}");
        }
        assert_eq!(percent_decoded("%F0%9F%90%87 é").as_deref(), Ok("🐇 é"));
    }
}
