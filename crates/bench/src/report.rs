//! The table, and the goals beside it.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::cost::Costs;
use crate::messages::MESSAGE_BYTES;
use crate::plan::Plan;
use crate::servers::{OWN, Servers};
use crate::statistics::median;

/// A line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Row {
    Singles,
    Batches100,
    Batches1000,
    CatchUp,
    Tenth,
    GroupCatchUp,
    RawConsume,
    EmbeddedSingles,
    EmbeddedBatches100,
    EmbeddedBatches1000,
    EmbeddedCatchUp,
    EmbeddedTenth,
    RawConfirmed,
    RawTenth,
    RawOneAtATime,
    RawCopy,
    BareHttp,
}

impl Row {
    /// Returns what the table calls it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Singles | Self::EmbeddedSingles => "requests of 1",
            Self::Batches100 | Self::EmbeddedBatches100 => "NDJSON requests of 100",
            Self::Batches1000 | Self::EmbeddedBatches1000 => "NDJSON requests of 1,000",
            Self::CatchUp => "one worker, full queue",
            Self::GroupCatchUp => "one severity-consumer",
            Self::RawConsume => "AMQP acknowledged, 1 a packet",
            Self::EmbeddedCatchUp => "full queue after kill -9",
            Self::Tenth | Self::EmbeddedTenth => "requests of 1, tenth of peak",
            Self::RawConfirmed => "AMQP confirmed, window 128",
            Self::RawTenth => "AMQP confirmed, same tenth",
            Self::RawOneAtATime => "AMQP confirmed, window 1",
            Self::RawCopy => "binary COPY, 5,000 a batch",
            Self::BareHttp => "requests of 1, nothing kept",
        }
    }

    const fn heading(self) -> &'static str {
        match self {
            Self::Singles | Self::Batches100 | Self::Batches1000 | Self::CatchUp | Self::Tenth => {
                "HTTP to RabbitMQ to PostgreSQL"
            }
            Self::GroupCatchUp | Self::RawConsume => "A full queue of RabbitMQ to one consumer",
            Self::EmbeddedSingles
            | Self::EmbeddedBatches100
            | Self::EmbeddedBatches1000
            | Self::EmbeddedCatchUp
            | Self::EmbeddedTenth => "HTTP to SQLite, one process",
            Self::RawConfirmed | Self::RawTenth | Self::RawOneAtATime | Self::RawCopy | Self::BareHttp => {
                "Raw limits: the plainest client or server there is"
            }
        }
    }
}

impl Row {
    /// Returns what the table calls the rate at the far end.
    const fn done(self) -> &'static str {
        match self {
            Self::GroupCatchUp | Self::RawConsume => "consumed/s",
            _ => "stored/s",
        }
    }
}

/// What one measurement found; absent where it does not apply.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Figures {
    /// Messages a second that were answered for.
    pub(crate) accepted_per_second: Option<f64>,
    /// Messages a second from the first request to the last commit; of a consumer, what it counts or acknowledges.
    pub(crate) stored_per_second: Option<f64>,
    pub(crate) p50_ms: Option<f64>,
    pub(crate) p99_ms: Option<f64>,
    /// Requests answered with 503, or cut off before their end.
    pub(crate) refused: u64,
    /// Processor seconds a million messages, by process.
    pub(crate) processor_seconds_per_million: BTreeMap<&'static str, f64>,
    /// Peak memory in MiB, by process.
    pub(crate) peak_mib: BTreeMap<&'static str, f64>,
}

impl Figures {
    /// Adds what each party cost for so many messages.
    pub(crate) fn add_costs(&mut self, costs: &Costs, messages: u64) {
        let millions = messages.max(1) as f64 / 1e6;
        for (name, cost) in &costs.0 {
            self.processor_seconds_per_million
                .insert(name, cost.processor_seconds / millions);
            self.peak_mib
                .insert(name, cost.peak_bytes as f64 / f64::from(1 << 20));
        }
    }

    /// Returns the median of each figure.
    fn medians(all: &[Self]) -> Self {
        let middle = |of: fn(&Self) -> Option<f64>| median(&all.iter().filter_map(of).collect::<Vec<_>>());
        let by_name = |of: fn(&Self) -> &BTreeMap<&'static str, f64>| {
            let names = all.iter().flat_map(|figures| of(figures).keys().copied());
            names
                .filter_map(|name| {
                    let values: Vec<_> = all
                        .iter()
                        .filter_map(|figures| of(figures).get(name).copied())
                        .collect();
                    Some((name, median(&values)?))
                })
                .collect()
        };
        Self {
            accepted_per_second: middle(|figures| figures.accepted_per_second),
            stored_per_second: middle(|figures| figures.stored_per_second),
            p50_ms: middle(|figures| figures.p50_ms),
            p99_ms: middle(|figures| figures.p99_ms),
            refused: all.iter().map(|figures| figures.refused).sum(),
            processor_seconds_per_million: by_name(|figures| &figures.processor_seconds_per_million),
            peak_mib: by_name(|figures| &figures.peak_mib),
        }
    }
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    setting: Vec<String>,
    repetitions: BTreeMap<Row, Vec<Figures>>,
}

/// Whose cost is shown, in which order; the name in a figure, and in the table.
const PARTIES: [(&str, &str); 8] = [
    ("ingest-api", "ingest"),
    ("store-worker", "worker"),
    ("severity-consumer", "consumer"),
    ("warren", "warren"),
    ("rabbitmq", "broker"),
    ("postgres", "database"),
    ("bare-http", "server"),
    (OWN, "client"),
];

impl Report {
    pub(crate) fn new(plan: &Plan, servers: &Servers) -> Self {
        let mut setting = servers.description.clone();
        setting.push(if cfg!(debug_assertions) {
            "DEBUG BUILD".to_owned()
        } else {
            "release build".to_owned()
        });
        setting.push(format!("{} connections", plan.connections));
        setting.push(format!(
            "messages of {MESSAGE_BYTES} bytes as JSON, {} severities, {} sources",
            plan.mix.severities, plan.mix.sources
        ));
        setting.extend(
            plan.settings
                .iter()
                .map(|(name, value)| format!("{name}={value}")),
        );
        setting.push(format!(
            "{} repetitions of {:.1} s or {} messages",
            plan.repetitions,
            plan.load.as_secs_f64(),
            thousands(plan.most_messages as f64)
        ));
        Self {
            setting,
            repetitions: BTreeMap::new(),
        }
    }

    /// Adds what one repetition found.
    pub(crate) fn add(&mut self, row: Row, figures: Figures) {
        self.repetitions.entry(row).or_default().push(figures);
    }

    fn median(&self, row: Row) -> Option<Figures> {
        self.repetitions.get(&row).map(|all| Figures::medians(all))
    }

    /// Lists the goals, how far each is reached, and whether that is enough.
    fn goals(&self) -> Vec<Goal> {
        let accepted = |row| self.median(row)?.accepted_per_second;
        let stored = |row| self.median(row)?.stored_per_second;
        let p99 = |row| self.median(row)?.p99_ms;
        let ratio = |what: &str, of: Option<f64>, to: Option<f64>, least: f64| {
            let figure = of? / to?;
            let (figure_said, wanted) = (format!("{figure:.2} ×"), format!("≥ {least} ×"));
            Some(Goal {
                what: what.to_owned(),
                figure: figure_said,
                wanted,
                met: figure >= least,
            })
        };
        let later = |what: &str, of: Option<f64>, to: Option<f64>| {
            let figure = of? - to?;
            Some(Goal {
                what: what.to_owned(),
                figure: format!("{figure:+.1} ms"),
                wanted: "≤ +5 ms".to_owned(),
                met: figure <= 5.0,
            })
        };
        let raw = accepted(Row::RawConfirmed);
        let copy = stored(Row::RawCopy);
        [
            ratio(
                "requests of 1, accepted : raw confirmed",
                accepted(Row::Singles),
                raw,
                2.0,
            ),
            ratio(
                "requests of 100, accepted : raw confirmed",
                accepted(Row::Batches100),
                raw,
                6.0,
            ),
            ratio(
                "requests of 1,000, accepted : raw confirmed",
                accepted(Row::Batches1000),
                raw,
                6.0,
            ),
            ratio(
                "one worker on a full queue : raw COPY",
                stored(Row::CatchUp),
                copy,
                0.5,
            ),
            ratio(
                "one severity-consumer : raw acknowledged",
                stored(Row::GroupCatchUp),
                stored(Row::RawConsume),
                3.0,
            ),
            later(
                "p99 of 1 at a tenth, after raw p99",
                p99(Row::Tenth),
                p99(Row::RawTenth),
            ),
            ratio(
                "embedded: requests of 1 : raw confirmed",
                accepted(Row::EmbeddedSingles),
                raw,
                2.0,
            ),
            ratio(
                "embedded: requests of 100 : raw confirmed",
                accepted(Row::EmbeddedBatches100),
                raw,
                6.0,
            ),
            ratio(
                "embedded: requests of 1,000 : raw confirmed",
                accepted(Row::EmbeddedBatches1000),
                raw,
                6.0,
            ),
            ratio(
                "embedded: full queue : raw COPY",
                stored(Row::EmbeddedCatchUp),
                copy,
                0.5,
            ),
            later(
                "embedded: p99 of 1 at a tenth, after raw p99",
                p99(Row::EmbeddedTenth),
                p99(Row::RawTenth),
            ),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// What was reached beside what is wanted.
pub(crate) struct Goal {
    pub(crate) what: String,
    pub(crate) figure: String,
    pub(crate) wanted: String,
    pub(crate) met: bool,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.setting.join(" · "))?;
        let mut heading = "";
        for row in self.repetitions.keys() {
            if row.heading() != heading {
                heading = row.heading();
                writeln!(
                    f,
                    "\n{heading:<50}\n{:<29} {:>10} {:>10} {:>8} {:>8}   processor s a million · peak MiB",
                    "",
                    "accepted/s",
                    row.done(),
                    "p50 ms",
                    "p99 ms"
                )?;
            }
            if let Some(figures) = self.median(*row) {
                write_row(f, *row, &figures)?;
            }
        }
        let goals = self.goals();
        if goals.is_empty() {
            return Ok(());
        }
        write_goals(f, goals)
    }
}

/// Writes what was reached beside what is wanted.
pub(crate) fn write_goals(f: &mut fmt::Formatter<'_>, goals: Vec<Goal>) -> fmt::Result {
    writeln!(
        f,
        "\n{:<46} {:>10}   {:<8}",
        "Goals (medians)", "reached", "wanted"
    )?;
    for Goal {
        what,
        figure,
        wanted,
        met,
    } in goals
    {
        let verdict = if met { "met" } else { "MISSED" };
        writeln!(f, "{what:<46} {figure:>10}   {wanted:<8} {verdict}")?;
    }
    Ok(())
}

fn write_row(f: &mut fmt::Formatter<'_>, row: Row, figures: &Figures) -> fmt::Result {
    let rate = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), thousands);
    let wait = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1}"));
    write!(
        f,
        "{:<29} {:>10} {:>10} {:>8} {:>8}  ",
        row.name(),
        rate(figures.accepted_per_second),
        rate(figures.stored_per_second),
        wait(figures.p50_ms),
        wait(figures.p99_ms)
    )?;
    for (name, short) in PARTIES {
        let seconds = figures.processor_seconds_per_million.get(name);
        let mib = figures.peak_mib.get(name);
        if let (Some(seconds), Some(mib)) = (seconds, mib) {
            write!(f, " {short} {seconds:.1} · {mib:.0}")?;
        }
    }
    if figures.refused > 0 {
        write!(f, "  ({} requests refused)", figures.refused)?;
    }
    writeln!(f)
}

/// Writes a whole number with commas between thousands.
pub(crate) fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(rows: &[(Row, [f64; 3])]) -> Report {
        let mut report = Report {
            setting: Vec::new(),
            repetitions: BTreeMap::new(),
        };
        for (row, values) in rows {
            for value in values {
                let value = Some(*value);
                let figures = Figures {
                    accepted_per_second: value,
                    stored_per_second: value,
                    p99_ms: value,
                    ..Figures::default()
                };
                report.add(*row, figures);
            }
        }
        report
    }

    #[test]
    fn a_goal_compares_medians() {
        let report = report(&[
            (Row::RawConfirmed, [10_000.0, 9_000.0, 90_000.0]),
            (Row::Singles, [21_000.0, 1.0, 20_000.0]),
            (Row::Batches100, [59_000.0, 59_000.0, 59_000.0]),
        ]);
        let goals = report.goals();
        assert_eq!(
            goals.iter().map(|goal| goal.met).collect::<Vec<_>>(),
            [true, false]
        );
        let text = report.to_string();
        assert!(
            text.contains("20,000") && text.contains("2.00 ×") && text.contains("MISSED"),
            "{text}"
        );
    }

    #[test]
    fn what_was_not_measured_has_no_goal() {
        assert!(report(&[(Row::RawCopy, [1.0; 3])]).goals().is_empty());
    }

    #[test]
    fn thousands_are_set_apart() {
        for (value, text) in [
            (0.4, "0"),
            (999.0, "999"),
            (1_000.0, "1,000"),
            (1_234_567.8, "1,234,568"),
        ] {
            assert_eq!(thousands(value), text);
        }
    }
}
