//! What a request for stored messages asks for.

use std::fmt::Display;
use std::str::FromStr;

use warren_domain::ports::{Counts, MOST_FOUND, MOST_PATTERNS, Order, Place, ReadError, Search, TimeRange};
use warren_domain::{MessageId, Query, Selection, SeveritySet, SourcePattern, Timestamp};

use super::times::{bucket, chosen_width, moment};
use crate::problem::{Fault, Kind, Problem};
use crate::query::{excerpt, percent_decoded};

/// How many messages a page holds unless it is said.
const PAGE: usize = 100;

/// How many neighbours are shown on either side at most.
const MOST_NEIGHBOURS: usize = 50;

/// How long a range of counts is that has an end and no beginning, microseconds.
const HOUR: i64 = 3_600_000_000;

/// A page that is asked for.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) search: Search,
    pub(super) limit: usize,
}

impl Listing {
    /// Reads the query of `GET /v1/messages`.
    pub(super) fn parse(query: Option<&str>, now: Timestamp) -> Result<Self, Problem> {
        let mut given = Given::read(
            query,
            &[
                "severity", "source", "q", "from", "until", "order", "limit", "after",
            ],
        )?;
        let order = match given.take("order").as_deref() {
            None | Some("newest") => Order::NewestFirst,
            Some("oldest") => Order::OldestFirst,
            Some(text) => return Err(wrong("order", text, "is neither newest nor oldest")),
        };
        let search = Search {
            selection: given.selection()?,
            query: given.search_text()?,
            range: given.range(now, None, None)?,
            order,
            from: given.parsed::<Place>("after")?,
        };
        let limit = given.number("limit", PAGE, 1, MOST_FOUND)?;
        Ok(Self { search, limit })
    }
}

/// Reads the path and the query of `GET /v1/messages/{id}`: which one, and how many neighbours on either side.
pub(super) fn one(id: &str, query: Option<&str>) -> Result<(MessageId, usize), Problem> {
    let parsed = id.parse().map_err(|error| wrong("id", id, error))?;
    let mut given = Given::read(query, &["neighbours"])?;
    Ok((parsed, given.number("neighbours", 0, 0, MOST_NEIGHBOURS)?))
}

/// Reads the query of `GET /v1/counts`.
pub(super) fn counts(query: Option<&str>, now: Timestamp) -> Result<Counts, Problem> {
    let mut given = Given::read(query, &["severity", "source", "from", "until", "bucket"])?;
    let selection = given.selection()?;
    let range = given.range(now, Some(HOUR), Some(now))?;
    let width = given.take("bucket");
    let minutes = match &width {
        None => chosen_width(range),
        Some(text) => bucket(text).map_err(|error| wrong("bucket", text, error))?,
    };
    let wanted = Counts {
        selection,
        range,
        minutes,
    };
    match wanted.check() {
        Err(ReadError::TooMuch { reason }) => {
            Err(wrong("bucket", width.as_deref().unwrap_or_default(), reason))
        }
        Err(other) => Err(other.into()),
        Ok(()) => Ok(wanted),
    }
}

/// Reads the query of `GET /v1/sources`.
pub(super) fn sources(query: Option<&str>, now: Timestamp) -> Result<(TimeRange, SeveritySet), Problem> {
    let mut given = Given::read(query, &["from", "until", "severity"])?;
    let severities = given.parsed("severity")?.unwrap_or(SeveritySet::ALL);
    Ok((given.range(now, None, None)?, severities))
}

/// The parameters that were given, each at most once.
#[derive(Debug)]
pub(crate) struct Given(Vec<(&'static str, String)>);

impl Given {
    pub(crate) fn read(query: Option<&str>, known: &[&'static str]) -> Result<Self, Problem> {
        let mut given: Vec<(&'static str, String)> = Vec::new();
        let pairs = query.unwrap_or_default().split('&');
        for pair in pairs.filter(|pair| !pair.is_empty()) {
            let (key, written) = pair.split_once('=').unwrap_or((pair, ""));
            let name = percent_decoded(key).map_err(|at| undecodable("", key, at))?;
            let Some(name) = known.iter().copied().find(|known| *known == name) else {
                let detail = format!("no parameter is called {:?}", excerpt(&name));
                return Err(Problem::new(
                    Kind::InvalidParameter,
                    detail,
                    format!("there are {}", known.join(", ")),
                )
                .at(Fault::of(excerpt(&name))));
            };
            // Forms write a space as `+`, and only the text that is searched for has any; elsewhere `+` stands for
            // itself, so that `error+` and the offset of a time need no encoding.
            let value = match name {
                "q" => percent_decoded(&written.replace('+', " ")),
                _ => percent_decoded(written),
            };
            let value = value.map_err(|at| undecodable(name, written, at))?;
            if given.iter().any(|(other, _)| *other == name) {
                return Err(wrong(name, "", "is given twice"));
            }
            given.push((name, value));
        }
        Ok(Self(given))
    }

    pub(crate) fn take(&mut self, name: &str) -> Option<String> {
        let place = self.0.iter().position(|(given, _)| *given == name)?;
        Some(self.0.swap_remove(place).1)
    }

    fn parsed<T: FromStr<Err: Display>>(&mut self, name: &'static str) -> Result<Option<T>, Problem> {
        self.take(name)
            .map(|text| text.parse().map_err(|error| wrong(name, &text, error)))
            .transpose()
    }

    pub(crate) fn number(
        &mut self,
        name: &'static str,
        absent: usize,
        least: usize,
        most: usize,
    ) -> Result<usize, Problem> {
        let Some(text) = self.take(name) else {
            return Ok(absent);
        };
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            Ok(number) if digits && (least..=most).contains(&number) => Ok(number),
            _ => {
                let expected = format!("is not a number from {least} to {most}");
                Err(wrong(name, &text, expected))
            }
        }
    }

    pub(crate) fn selection(&mut self) -> Result<Selection, Problem> {
        let severities = self.parsed("severity")?.unwrap_or(SeveritySet::ALL);
        let Some(text) = self.take("source") else {
            return Ok(Selection::of(severities));
        };
        let count = text.split(',').count();
        if count > MOST_PATTERNS {
            let reason = format!("{count} patterns, over the limit of {MOST_PATTERNS}");
            return Err(wrong("source", "", reason));
        }
        let (mut sources, mut column) = (Vec::with_capacity(count), 1);
        for part in text.split(',') {
            let pattern = part.trim();
            let parsed = pattern.parse::<SourcePattern>().map_err(|error| {
                let before = part.chars().take_while(|character| character.is_whitespace());
                wrong_at("source", pattern, column + before.count(), error)
            });
            sources.push(parsed?);
            column += part.chars().count() + 1;
        }
        Ok(Selection { severities, sources })
    }

    pub(crate) fn search_text(&mut self) -> Result<Query, Problem> {
        let text = self.take("q").unwrap_or_default();
        text.parse().map_err(|fault: warren_domain::InvalidQuery| {
            let detail = format!("q, column {}: {}", fault.column, fault.detail);
            Problem::new(Kind::InvalidParameter, detail, fault.hint).at(Fault {
                column: Some(fault.column),
                length: Some(fault.length),
                ..Fault::of("q")
            })
        })
    }

    /// Reads `from` and `until`. One that is absent is no condition, unless there is a default: so many microseconds
    /// before the end, and the end.
    fn range(
        &mut self,
        now: Timestamp,
        length: Option<i64>,
        end: Option<Timestamp>,
    ) -> Result<TimeRange, Problem> {
        let (written_from, written_until) = (self.take("from"), self.take("until"));
        let time = |name, text: &Option<String>| {
            let text = text.as_deref();
            text.map(|text| moment(text, now).map_err(|error| wrong(name, text, error)))
                .transpose()
        };
        let (from, until) = (time("from", &written_from)?, time("until", &written_until)?);
        let (faulty, written) = match written_until {
            Some(until) => ("until", until),
            None => ("from", written_from.unwrap_or_default()),
        };
        let until = until.or(end).unwrap_or(Timestamp::MAX);
        let before_the_end = |length| Timestamp::from_unix_micros(until.unix_micros() - length);
        let from = from.or_else(|| length.and_then(before_the_end));
        TimeRange::new(from.unwrap_or(Timestamp::MIN), until).map_err(|error| wrong(faulty, &written, error))
    }
}

/// Points at what is not percent-encoded UTF-8, in the text as it was written.
fn undecodable(name: &'static str, written: &str, at: usize) -> Problem {
    let (before, fault) = written.split_at_checked(at).unwrap_or(("", written));
    let column = before.chars().count() + 1;
    let fault = excerpt(fault);
    let of = if name.is_empty() { "a name" } else { name };
    let detail = format!("{of}, column {column}: {fault:?} is not percent-encoded UTF-8");
    let hint = "encode what is no letter and no digit, such as %20 for a space and %25 for a percent sign";
    let problem = Problem::new(Kind::InvalidParameter, detail, hint);
    match name {
        "" => problem,
        name => problem.at(Fault {
            column: Some(column),
            length: Some(fault.chars().count().clamp(1, 3)),
            ..Fault::of(name)
        }),
    }
}

/// Says what is wrong with a parameter: with all of its value, unless that is empty.
pub(crate) fn wrong(name: &'static str, value: &str, why: impl Display) -> Problem {
    wrong_at(name, value, 1, why)
}

/// Says what is wrong with a part of a parameter, which begins at this column of it.
fn wrong_at(name: &'static str, part: &str, column: usize, why: impl Display) -> Problem {
    let length = part.chars().count();
    let value = match part {
        "" => String::new(),
        part => format!(" {:?}", excerpt(part)),
    };
    let hint = match name {
        "severity" => "write severity=error,critical or severity=warning+",
        "source" => {
            "write source=billing.api, billing.* or, with # as %23, billing.%23; several with commas between"
        }
        "from" | "until" => {
            "write a time such as 2026-11-22T13:00:00Z, or one before now: -15m, -1h, -7d; or now; from before until"
        }
        "bucket" => "write a width such as 1m, 5m, 1h or 1d, or leave it out",
        "order" => "write order=newest or order=oldest",
        "after" => "take it from the next of the page before, or give the id of a message",
        "last_event_id" => "give back the id of the last event that came, or leave it out",
        "id" => {
            "an id looks like 019aa2f4-0c1e-7d3a-9b52-6c1f0e8d7a45; GET /v1/messages lists those there are"
        }
        _ => "give it once, or leave it out",
    };
    let place = (length > 0 || column > 1).then_some((column, length.max(1)));
    Problem::new(Kind::InvalidParameter, format!("{name}{value}: {why}"), hint).at(Fault {
        column: place.map(|(column, _)| column),
        length: place.map(|(_, length)| length),
        ..Fault::of(name)
    })
}

#[cfg(test)]
mod tests {
    use super::super::times::MOST_CHOSEN;
    use super::*;

    fn now() -> Timestamp {
        "2026-11-22T13:00:00Z".parse().unwrap()
    }

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_query_says_which_messages_and_which_page() {
        let place = "019aa0c0-0000-7000-8000-000000000001";
        let query = format!(
            "severity=warning%2B&source=billing.%23,shop.*&q=card+declined+a%2Bb&from=-1h\
             &until=2026-11-22T14:00:00+01:00&order=oldest&limit=7&after={place}"
        );
        let Listing { search, limit } = Listing::parse(Some(&query), now()).unwrap();
        assert_eq!(search.selection.severities, "warning+".parse().unwrap());
        let patterns: Vec<_> = search
            .selection
            .sources
            .iter()
            .map(|pattern| pattern.as_str())
            .collect();
        assert_eq!(patterns, ["billing.#", "shop.*"]);
        assert_eq!(search.query, "card declined a+b".parse().unwrap());
        let range = TimeRange::new(time("2026-11-22T12:00:00Z"), now()).unwrap();
        assert_eq!(
            (search.range, search.order, limit),
            (range, Order::OldestFirst, 7)
        );
        assert_eq!(search.from.unwrap().to_string(), place);

        let Listing { search, limit } = Listing::parse(None, now()).unwrap();
        assert_eq!((search.range, limit), (TimeRange::ALL, PAGE));
        assert_eq!(search.selection, Selection::of(SeveritySet::ALL));
        assert_eq!(
            (search.query, search.order),
            (Query::default(), Order::NewestFirst)
        );
        let plain = Listing::parse(Some("severity=error+&q="), now()).unwrap().search;
        assert_eq!(plain.selection.severities, "error,critical".parse().unwrap());
    }

    #[test]
    fn counts_are_of_the_last_hour_unless_it_is_said() {
        let wanted = counts(None, now()).unwrap();
        assert_eq!(
            wanted.range,
            TimeRange::new(time("2026-11-22T12:00:00Z"), now()).unwrap()
        );
        assert_eq!(wanted.minutes.get(), 1);
        let wanted = counts(Some("until=2026-01-01T00:30:00Z&bucket=5m"), now()).unwrap();
        assert_eq!(wanted.range.from(), time("2025-12-31T23:30:00Z"));
        assert_eq!(wanted.minutes.get(), 5);
        let wanted = counts(Some("until=1970-01-01T00:00:01Z"), now()).unwrap();
        assert_eq!(wanted.range.from(), Timestamp::MIN);
        let wanted = counts(Some("from=-365d"), now()).unwrap();
        assert!(wanted.check().is_ok());
    }

    #[test]
    fn every_wrong_parameter_is_named() {
        type Reads<'r> = &'r dyn Fn(&str) -> Result<(), Problem>;
        let listing = |query: &str| Listing::parse(Some(query), now()).map(drop);
        let counting = |query: &str| counts(Some(query), now()).map(drop);
        let of_sources = |query: &str| sources(Some(query), now()).map(drop);
        let of_one = |query: &str| one("019aa0c0-0000-7000-8000-000000000001", Some(query)).map(drop);
        let many = format!("source={}", ["a"; 101].join(","));
        for (reads, query, name) in [
            (&listing as Reads<'_>, "limit=0", "limit"),
            (&listing, "limit=1001", "limit"),
            (&listing, "limit=+5", "limit"),
            (&listing, "limit=5&limit=5", "limit"),
            (&listing, "order=up", "order"),
            (&listing, "after=x", "after"),
            (&listing, "severity=loud", "severity"),
            (&listing, "severity=", "severity"),
            (&listing, "source=billing.", "source"),
            (&listing, "source=a,,b", "source"),
            (&listing, "source=%00", "source"),
            (&listing, &many, "source"),
            (&listing, "from=yesterday", "from"),
            (&listing, "from=now&until=-1h", "until"),
            (&listing, "until=1970-01-01T00:00:00Z", "until"),
            (&listing, "q=%ff", "q"),
            (&listing, "q=%2", "q"),
            (&listing, "drop=1", "drop"),
            (&listing, "bucket=1m", "bucket"),
            (&counting, "q=a", "q"),
            (&counting, "from=now", "from"),
            (&counting, "bucket=0m", "bucket"),
            (&counting, "from=-7d&bucket=1m", "bucket"),
            (&of_sources, "source=a", "source"),
            (&of_one, "neighbours=51", "neighbours"),
        ] {
            let problem = serde_json::to_value(reads(query).unwrap_err().document()).unwrap();
            assert_eq!(
                (&problem["status"], &problem["parameter"]),
                (&400.into(), &name.into()),
                "{query}"
            );
            assert!(
                problem["detail"].as_str().unwrap().contains(name),
                "{query}: {problem}"
            );
        }
        assert_eq!(one("what", None).unwrap_err().kind(), Kind::InvalidParameter);
    }

    #[test]
    fn a_fault_in_the_search_text_is_told_with_its_place() {
        let problem = Listing::parse(Some("q=é+severity:loud"), now()).unwrap_err();
        let problem = serde_json::to_value(problem.document()).unwrap();
        assert_eq!(
            (&problem["parameter"], &problem["column"]),
            (&"q".into(), &12.into()),
            "{problem}"
        );
        assert!(problem["length"].as_u64().unwrap() >= 1);
    }

    #[test]
    fn what_is_wrong_within_a_parameter_is_pointed_at() {
        let listing = |query: &str| Listing::parse(Some(query), now()).map(drop);
        let counting = |query: &str| counts(Some(query), now()).map(drop);
        for (told, column, length) in [
            (listing("q=a%zz"), 2, 3),
            (listing("q=é+%ff"), 3, 3),
            (listing("source=%F0%9F"), 1, 3),
            (listing("source=shop,%20b..c"), 7, 4),
            (listing("source=shop,,b"), 6, 1),
            (listing("source=a'b"), 1, 3),
            (listing("severity=error,loud"), 1, 10),
            (listing("limit=-1"), 1, 2),
            (listing("from=now&until=-100w"), 1, 5),
            (listing("from=2262-01-01T00:00:00Z"), 1, 20),
            (counting("from=-365d&bucket=1m"), 1, 2),
        ] {
            let problem = serde_json::to_value(told.unwrap_err().document()).unwrap();
            assert_eq!(
                (&problem["column"], &problem["length"]),
                (&column.into(), &length.into()),
                "{problem}"
            );
        }
        // Nothing of what was written is at fault by itself.
        let twice = serde_json::to_value(listing("q=a&q=b").unwrap_err().document()).unwrap();
        assert_eq!(
            (&twice["parameter"], twice.get("column")),
            (&"q".into(), None),
            "{twice}"
        );
    }

    #[test]
    fn a_range_without_a_bucket_has_few_enough_of_them() {
        for range in [
            "-1m",
            "-59m",
            "-2h",
            "-1d",
            "-30d",
            "-365d",
            "1970-01-01T00:00:00Z",
        ] {
            let wanted = counts(Some(&format!("from={range}")), now()).unwrap();
            let span = wanted.range.until().unix_micros() - wanted.range.from().unix_micros();
            let buckets = span / 60_000_000 / i64::from(wanted.minutes.get());
            assert!(buckets <= MOST_CHOSEN, "{range}: {buckets}");
            assert!(buckets >= MOST_CHOSEN / 2 || span < HOUR, "{range}: {buckets}");
        }
    }
}
