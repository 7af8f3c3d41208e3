//! What a request about dead letters asks for.

use std::fmt::Display;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use warren_domain::Timestamp;
use warren_domain::ports::{DeadLetterFilter, DeadLetterPlace, MOST_LISTED};

use crate::messages::{self, Given, moment};
use crate::problem::{Kind, Problem};

/// How many letters a page holds unless it is said.
const PAGE: usize = 100;

/// The largest page: one less than the letters can list, so that whether there is a next one can be told.
const MOST_PAGE: usize = MOST_LISTED - 1;

/// A page that is asked for.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) filter: DeadLetterFilter,
    pub(super) after: Option<DeadLetterPlace>,
    pub(super) limit: usize,
}

impl Listing {
    /// Reads the query.
    pub(super) fn parse(query: Option<&str>, now: Timestamp) -> Result<Self, Problem> {
        let mut given = Given::read(
            query,
            &["reason", "severity", "source", "since", "until", "limit", "after"],
        )?;
        let filter = FilterText {
            reason: given.take("reason").into_iter().collect(),
            severity: given.take("severity"),
            source: given.take("source"),
            since: given.take("since"),
            until: given.take("until"),
        };
        Ok(Self {
            filter: filter.parse(now)?,
            after: parsed("after", given.take("after"))?,
            limit: given.number("limit", PAGE, 1, MOST_PAGE)?,
        })
    }
}

/// What is to be done with which letters.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Wish {
    pub(super) dry_run: bool,
    pub(super) all: bool,
    #[serde(deserialize_with = "object")]
    filter: Option<FilterBody>,
    ids: Option<Vec<String>>,
    as_of: Option<String>,
}

/// Reads an object and no array: as one, serde would take an array of the members' values, and an empty one for no
/// condition at all.
fn object<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<FilterBody>, D::Error> {
    let members = Option::<Map<String, Value>>::deserialize(deserializer)?;
    members
        .map(|members| FilterBody::deserialize(Value::Object(members)).map_err(D::Error::custom))
        .transpose()
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct FilterBody {
    reason: Option<OneOrMore>,
    severity: Option<String>,
    source: Option<String>,
    since: Option<String>,
    until: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl Wish {
    /// Reads the body; an empty one wishes nothing in particular.
    pub(super) fn parse(body: &[u8]) -> Result<Self, Problem> {
        if body.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self::default());
        }
        let members: Result<Map<String, Value>, _> = serde_json::from_slice(body);
        let wish = members.and_then(|members| Self::deserialize(Value::Object(members)));
        wish.map_err(|error| {
            Problem::new(
                Kind::InvalidParameter,
                format!("the body is not what is expected: {error}"),
                "send an object with dry_run, all, ids, as_of, and filter with reason, severity, source, since and until; \
                 all of them are optional",
            )
        })
    }

    /// Returns which letters are meant.
    pub(super) fn filter(&self, now: Timestamp) -> Result<DeadLetterFilter, Problem> {
        let mut filter = match &self.filter {
            None => DeadLetterFilter::default(),
            Some(body) => FilterText {
                reason: match &body.reason {
                    None => Vec::new(),
                    Some(OneOrMore::One(reason)) => vec![reason.clone()],
                    Some(OneOrMore::More(reasons)) => reasons.clone(),
                },
                severity: body.severity.clone(),
                source: body.source.clone(),
                since: body.since.clone(),
                until: body.until.clone(),
            }
            .parse(now)?,
        };
        if let Some(ids) = &self.ids {
            if ids.is_empty() || ids.len() > MOST_LISTED {
                // None at all would mean every letter.
                let expected = format!("has {} of them; name 1 to {MOST_LISTED}", ids.len());
                return Err(wrong("ids", "", expected));
            }
            filter.ids = ids
                .iter()
                .map(|id| id.parse().map_err(|error| wrong("ids", id, error)))
                .collect::<Result<_, _>>()?;
        }
        filter.as_of = parsed("as_of", self.as_of.clone())?;
        Ok(filter)
    }
}

/// The conditions as they are written.
#[derive(Debug, Default)]
struct FilterText {
    reason: Vec<String>,
    severity: Option<String>,
    source: Option<String>,
    since: Option<String>,
    until: Option<String>,
}

impl FilterText {
    fn parse(self, now: Timestamp) -> Result<DeadLetterFilter, Problem> {
        let mut reasons = Vec::new();
        for reason in self.reason.iter().flat_map(|reasons| reasons.split(',')) {
            let reason = reason.trim();
            if reason.is_empty() || reasons.len() == MOST_LISTED {
                return Err(wrong("reason", reason, "names no reason, or too many"));
            }
            reasons.push(reason.to_owned());
        }
        let time = |name, text: Option<String>| {
            text.map(|text| moment(&text, now).map_err(|error| wrong(name, &text, error)))
                .transpose()
        };
        Ok(DeadLetterFilter {
            ids: Vec::new(),
            reasons,
            severities: parsed("severity", self.severity)?,
            source: parsed("source", self.source)?,
            since: time("since", self.since)?,
            until: time("until", self.until)?,
            as_of: None,
        })
    }
}

fn parsed<T: FromStr<Err: Display>>(name: &'static str, text: Option<String>) -> Result<Option<T>, Problem> {
    text.map(|text| text.parse().map_err(|error| wrong(name, &text, error)))
        .transpose()
}

/// Says what is wrong with a parameter, or with a member of a body.
pub(super) fn wrong(name: &'static str, value: &str, why: impl Display) -> Problem {
    let hint = match name {
        "id" | "ids" => {
            "an id looks like 019aa2f4-0c1e-7d3a-9b52-6c1f0e8d7a45; GET /v1/dead-letters lists those there are"
        }
        "as_of" => "take it from the answer to \"dry_run\": true",
        "after" => "take it from the next of the page before",
        "reason" => "write reason=undecodable, or several with commas between",
        "source" => "write source=billing.api or, for all beneath it too, billing.# (in an address %23)",
        "since" | "until" => {
            "write a time such as 2026-11-22T13:00:00Z, or one before now: -15m, -1h, -7d; or now"
        }
        name => return messages::wrong(name, value, why),
    };
    messages::wrong(name, value, why).with_hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-22T13:00:00Z".parse().unwrap()
    }

    #[test]
    fn times_are_written_as_those_of_messages() {
        let listing = Listing::parse(Some("since=-1h&until=now"), now()).unwrap();
        assert_eq!(listing.filter.since, "2026-11-22T12:00:00Z".parse().ok());
        assert_eq!(listing.filter.until, Some(now()));
        let wish = Wish::parse(br#"{"filter":{"since":"-1h"}}"#).unwrap();
        assert_eq!(wish.filter(now()).unwrap().since, listing.filter.since);
    }

    #[test]
    fn a_query_says_which_letters_and_which_page() {
        let place = "1795352400000000.019aa0c0-0000-7000-8000-000000000001";
        let query = format!(
            "reason=undecodable,delivery_limit&severity=error%2B&source=a.%23&since=2026-11-22T13:00:00%2B01:00\
             &limit=7&after={place}"
        );
        let listing = Listing::parse(Some(&query), now()).unwrap();
        assert_eq!(listing.filter.reasons, ["undecodable", "delivery_limit"]);
        assert_eq!(listing.filter.source.unwrap().to_string(), "a.#");
        assert_eq!(listing.filter.severities.map(|set| set.iter().count()), Some(2));
        assert_eq!(listing.filter.since, "2026-11-22T12:00:00Z".parse().ok());
        assert_eq!(
            (listing.limit, listing.after.unwrap().to_string()),
            (7, place.to_owned())
        );
        let plain = Listing::parse(None, now()).unwrap();
        assert!(plain.filter.means_all() && plain.limit == PAGE && plain.after.is_none());
    }

    #[test]
    fn every_wrong_parameter_is_named() {
        for (query, name) in [
            ("limit=0", "limit"),
            ("limit=1000", "limit"),
            ("limit=x", "limit"),
            ("after=x", "after"),
            ("severity=loud", "severity"),
            ("source=*", "source"),
            ("since=yesterday", "since"),
            ("until=%20", "until"),
            ("reason=", "reason"),
            ("until=2026-11-22T13:00:00Z&until=2026-11-22T13:00:00Z", "until"),
            ("drop=1", "drop"),
            ("since=%zz", "since"),
        ] {
            let problem = Listing::parse(Some(query), now()).unwrap_err();
            let problem = serde_json::to_value(problem.document()).unwrap();
            assert_eq!(problem["parameter"], name, "{query}: {problem}");
            assert!(
                problem["detail"].as_str().unwrap().contains(name),
                "{query}: {problem}"
            );
        }
    }

    #[test]
    fn a_wish_is_read_strictly() {
        let wish =
            Wish::parse(br#"{"dry_run":true,"filter":{"reason":["a","b"],"severity":"error+"}}"#).unwrap();
        assert!(wish.dry_run && !wish.all);
        assert_eq!(wish.filter(now()).unwrap().reasons, ["a", "b"]);
        assert!(Wish::parse(b" ").unwrap().filter(now()).unwrap().means_all());
        for (body, part) in [
            ("[", "body"),
            ("[]", "body"),
            (r#"{"dry-run":true}"#, "dry-run"),
            (r#"{"filter":{"reasons":"a"}}"#, "reasons"),
            (r#"{"filter":[]}"#, "body"),
            (r#"{"ids":"x"}"#, "body"),
        ] {
            let problem = Wish::parse(body.as_bytes()).unwrap_err();
            assert!(problem.document().detail().contains(part), "{body}");
        }
        for (body, part) in [
            (r#"{"ids":[]}"#, "ids"),
            (r#"{"ids":["x"]}"#, "ids"),
            (r#"{"as_of":"now"}"#, "as_of"),
            (r#"{"filter":{"since":"x"}}"#, "since"),
            (r#"{"filter":{"reason":["a",""]}}"#, "reason"),
        ] {
            let wish = Wish::parse(body.as_bytes()).unwrap();
            let problem = wish.filter(now()).unwrap_err();
            assert!(problem.document().detail().contains(part), "{body}");
        }
    }
}
