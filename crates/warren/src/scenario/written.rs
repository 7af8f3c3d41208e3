//! The format of a scenario file, and what it forbids; `docs/scenarios.md` describes it.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use serde::de::{Error as _, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use toml::Spanned;
use warren_domain::{Attributes, Body, MessageLimits, Severity, SeverityCounts, Source};

use super::GROUPS;
use super::file::{Event, Happening, MAX_MESSAGES, Scenario, Step};
use super::problem::{FileProblems, Found};

/// The longest pause in a file.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// Reads the text of a file.
///
/// # Errors
/// Everything that is wrong with it, or, where it does not even have the form, the first thing.
pub(super) fn parse(path: &Path, text: &str) -> Result<Scenario, FileProblems> {
    let written: Written =
        toml::from_str(text).map_err(|error| FileProblems::of_parser(path, text, &error))?;
    let mut found = Found::default();
    let scenario = written.check(path, &mut found);
    if found.is_empty() {
        Ok(scenario)
    } else {
        Err(found.into_problems(path, text))
    }
}

/// The file as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    title: String,
    about: String,
    #[serde(default)]
    order: Order,
    seed: Option<Spanned<u64>>,
    #[serde(default)]
    send: Vec<Spanned<Send>>,
    #[serde(default)]
    pause: Vec<Pause>,
    #[serde(default)]
    kill: Vec<Kill>,
    expect: Expect,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Order {
    #[default]
    AsWritten,
    Shuffled,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Send {
    severity: Name<Severity>,
    source: Option<Name<Source>>,
    count: Spanned<Count>,
    body: Spanned<String>,
    attributes: Option<Spanned<toml::Table>>,
    twice: Option<Spanned<Count>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pause {
    after: Spanned<Count>,
    #[serde(rename = "for")]
    lasting: Spanned<Lasting>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kill {
    group: Name<GroupIndex>,
    after: Spanned<Count>,
    #[serde(default)]
    away: Option<Spanned<Count>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Expect {
    all: Expected,
    debug_info: Expected,
    critical: Expected,
    error: Expected,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Expected {
    debug: Count,
    info: Count,
    warning: Count,
    error: Count,
    critical: Count,
}

impl Expected {
    fn counts(&self) -> SeverityCounts {
        let mut counts = SeverityCounts::default();
        for (severity, count) in
            Severity::ALL
                .into_iter()
                .zip([self.debug, self.info, self.warning, self.error, self.critical])
        {
            counts.add(severity, count.0);
        }
        counts
    }
}

impl Written {
    fn check(self, path: &Path, found: &mut Found) -> Scenario {
        if self.send.is_empty() {
            found.say(
                None,
                "sends nothing; add a [[send]] with severity, count and body",
            );
        }
        let shuffle = match (self.order, &self.seed) {
            (Order::Shuffled, Some(seed)) => Some(*seed.get_ref()),
            (Order::Shuffled, None) => {
                found.say(
                    None,
                    "order = \"shuffled\" needs a seed, such as seed = 1, so that every run is the same",
                );
                None
            }
            (Order::AsWritten, Some(seed)) => {
                found.say(
                    Some(seed.span()),
                    "seed: without order = \"shuffled\" it changes nothing; remove it, or add the order",
                );
                None
            }
            (Order::AsWritten, None) => None,
        };
        let expect = [
            &self.expect.all,
            &self.expect.debug_info,
            &self.expect.critical,
            &self.expect.error,
        ];
        let expected = expect.map(Expected::counts);
        let steps: Vec<Step> = self
            .send
            .into_iter()
            .enumerate()
            .filter_map(|(index, send)| send.into_inner().check(index + 1, found))
            .collect();
        let total: u64 = steps.iter().map(|step| step.count + step.twice).sum();
        if total > MAX_MESSAGES {
            found.say(
                None,
                format!("sends {total} messages; a file may send {MAX_MESSAGES} at most"),
            );
        }
        let events = events(&self.pause, &self.kill, total, found);
        Scenario {
            path: path.to_owned(),
            title: self.title,
            about: self.about.trim().to_owned(),
            shuffle,
            steps,
            events,
            expected,
        }
    }
}

impl Send {
    fn check(self, number: usize, found: &mut Found) -> Option<Step> {
        let count = self.count.get_ref().0;
        if count == 0 {
            found.say(
                Some(self.count.span()),
                format!("send[{number}].count: at least 1, or leave the step out"),
            );
        }
        let twice = self.twice.as_ref().map_or(0, |twice| twice.get_ref().0);
        if let Some(twice) = self.twice.as_ref().filter(|twice| twice.get_ref().0 > count) {
            found.say(
                Some(twice.span()),
                format!("send[{number}].twice: at most the count of the step, {count}"),
            );
        }
        let limits = MessageLimits::default();
        // As long as the longest that comes of it.
        let longest = self.body.get_ref().replace("{n}", &count.to_string());
        if let Err(rejection) = Body::new(longest, &limits) {
            found.say(
                Some(self.body.span()),
                format!("send[{number}].body: {}", rejection.detail),
            );
        }
        let attributes = match self.attributes {
            None => Attributes::default(),
            Some(table) => {
                let span = table.span();
                let attributes = json_map(table.into_inner())
                    .and_then(|map| Attributes::new(map, &limits).map_err(|rejection| rejection.to_string()));
                match attributes {
                    Ok(attributes) => attributes,
                    Err(problem) => {
                        found.say(Some(span), format!("send[{number}].attributes: {problem}"));
                        return None;
                    }
                }
            }
        };
        Some(Step {
            severity: self.severity.0,
            source: self.source.map(|source| source.0).unwrap_or_default(),
            body: self.body.into_inner(),
            attributes,
            count,
            twice,
        })
    }
}

/// Returns what happens on the way, by ascending place.
fn events(pauses: &[Pause], kills: &[Kill], total: u64, found: &mut Found) -> Vec<Event> {
    let mut within = |key: String, after: &Spanned<Count>| {
        if !(1..total).contains(&after.get_ref().0) {
            found.say(
                Some(after.span()),
                format!(
                    "{key}: has to come after at least 1 and before the last of the {total} messages that are sent"
                ),
            );
        }
        after.get_ref().0
    };
    let mut events: Vec<_> = (1..)
        .zip(pauses)
        .map(|(number, pause)| Event {
            after: within(format!("pause[{number}].after"), &pause.after),
            what: Happening::Pause(pause.lasting.get_ref().0),
        })
        .collect();
    events.extend((1..).zip(kills).map(|(number, kill)| Event {
        after: within(format!("kill[{number}].after"), &kill.after),
        what: Happening::Kill {
            group: kill.group.0.0,
            away: kill.away.as_ref().map_or(0, |away| away.get_ref().0),
        },
    }));
    // Who is away already cannot be killed.
    for (index, kill) in kills.iter().enumerate() {
        let (after, group) = (kill.after.get_ref().0, kill.group.0.0);
        let away_then = kills.iter().enumerate().any(|(other, earlier)| {
            let since = earlier.after.get_ref().0;
            let until = since.saturating_add(earlier.away.as_ref().map_or(0, |away| away.get_ref().0));
            other != index
                && earlier.group.0.0 == group
                && ((since..until).contains(&after) || (since == after && other < index))
        });
        if away_then {
            found.say(
                Some(kill.after.span()),
                format!(
                    "kill[{}].after: the consumer of {} is away already at this point",
                    index + 1,
                    GROUPS[group]
                ),
            );
        }
    }
    events.sort_by_key(|event| event.after);
    events
}

/// Makes JSON of TOML: a date becomes text.
fn json_map(table: toml::Table) -> Result<Map<String, Value>, String> {
    table
        .into_iter()
        .map(|(key, value)| Ok((key, json(value)?)))
        .collect()
}

fn json(value: toml::Value) -> Result<Value, String> {
    Ok(match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => serde_json::Number::from_f64(number)
            .map(Value::Number)
            .ok_or("nan and inf are no JSON; write a finite number")?,
        toml::Value::Boolean(truth) => truth.into(),
        toml::Value::Datetime(moment) => moment.to_string().into(),
        toml::Value::Array(items) => items.into_iter().map(json).collect::<Result<Vec<_>, _>>()?.into(),
        toml::Value::Table(table) => json_map(table)?.into(),
    })
}

/// A number of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count(u64);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Whole;
        impl Visitor<'_> for Whole {
            type Value = Count;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a number of messages, a whole one from 0 to {MAX_MESSAGES}")
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Count, E> {
                u64::try_from(number)
                    .ok()
                    .filter(|count| *count <= MAX_MESSAGES)
                    .map(Count)
                    .ok_or_else(|| E::invalid_value(Unexpected::Signed(number), &self))
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Count, E> {
                Err(E::invalid_value(Unexpected::Unsigned(number), &self))
            }
        }
        deserializer.deserialize_i64(Whole)
    }
}

/// A text that is read by [`Named`].
#[derive(Debug)]
struct Name<T>(T);

/// What can be read from a text of the file.
trait Named: Sized {
    /// What has to stand there.
    const EXPECTED: &str;
    fn named(text: &str) -> Option<Self>;
}

impl Named for Severity {
    const EXPECTED: &str = "one of debug, info, warning, error, critical";
    fn named(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Named for Source {
    const EXPECTED: &str = "a source: segments of A–Z, a–z, 0–9, _ and - joined by dots, such as billing.api";
    fn named(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

/// The place of a group in [`GROUPS`].
#[derive(Debug)]
struct GroupIndex(usize);

impl Named for GroupIndex {
    const EXPECTED: &str = "one of all, debug-info, critical, error";
    fn named(text: &str) -> Option<Self> {
        GROUPS.iter().position(|group| *group == text).map(Self)
    }
}

/// How long a pause lasts.
#[derive(Debug)]
struct Lasting(Duration);

impl<'de> Deserialize<'de> for Lasting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Name::deserialize(deserializer).map(|Name(lasting)| lasting)
    }
}

impl Named for Lasting {
    const EXPECTED: &str = "a duration of at most 1m, such as 200ms";
    fn named(text: &str) -> Option<Self> {
        humantime::parse_duration(text)
            .ok()
            .filter(|lasting| *lasting <= MAX_PAUSE)
            .map(Self)
    }
}

impl<'de, T: Named> Deserialize<'de> for Name<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        T::named(&text)
            .map(Self)
            .ok_or_else(|| D::Error::invalid_value(Unexpected::Str(&text), &T::EXPECTED))
    }
}

#[cfg(test)]
#[path = "written_tests.rs"]
mod tests;
