//! The books, for people and for programs.

use std::time::Duration;

use serde_json::{Value, json};
use warren_domain::Severity;

use super::books::{Books, Finding, Row};
use crate::command::grouped;

/// How a window of the books was closed.
#[derive(Debug)]
pub(crate) struct Closed {
    pub(crate) books: Books,
    /// How long the window was; `None`: since the programs began.
    pub(crate) window: Option<Duration>,
    /// It was waited until nothing was in flight, and something still was.
    pub(crate) waited_in_vain: bool,
}

const COLUMNS: [&str; 8] = [
    "severity",
    "accepted",
    "unknown",
    "stored",
    "duplicate",
    "dead",
    "in flight",
    "missing",
];

impl Closed {
    pub(crate) fn holds(&self) -> bool {
        matches!(self.books.verdict().0, Finding::Exact | Finding::Within(_))
    }

    /// Says it in a table and a sentence.
    pub(crate) fn text(&self) -> String {
        let names = Severity::ALL.map(Severity::as_str);
        let rows = names
            .into_iter()
            .zip(&self.books.rows)
            .chain([("total", &self.books.total)]);
        let mut lines = vec![COLUMNS.map(str::to_owned)];
        lines.extend(rows.map(|(name, row)| cells(name, row)));
        let widths: [usize; 8] = std::array::from_fn(|column| {
            let widths = lines.iter().map(|line| line[column].chars().count());
            widths.max().unwrap_or(0)
        });
        let mut text = String::new();
        for line in &lines {
            let mut row = format!("{:<width$}", line[0], width = widths[0]);
            for (cell, width) in line.iter().zip(widths).skip(1) {
                row.push_str(&format!("  {cell:>width$}"));
            }
            text.push_str(row.trim_end());
            text.push('\n');
        }
        format!("{text}{}\n", self.sentence())
    }

    fn sentence(&self) -> String {
        let (finding, severity) = self.books.verdict();
        let of = severity.map_or_else(
            || "of all severities together".to_owned(),
            |severity| format!("of severity {severity}"),
        );
        match finding {
            Finding::Exact => {
                "holds: everything accepted is stored, a duplicate, or a dead letter".to_owned()
            }
            Finding::Within(0) => {
                "holds: nothing accepted is missing; what came besides is explained by unknown \
                                   outcomes, repetitions, or what was in flight before"
                    .to_owned()
            }
            Finding::Within(most) if self.waited_in_vain => format!(
                "cannot be judged: messages are still in flight, and {} could be missing; wait longer, and see what the \
                 worker's /readyz says",
                grouped(most)
            ),
            Finding::Within(most) => format!(
                "holds within {}: so many could be missing {of}, no more, as far as is known; messages are in \
                 flight, came again, or have an unknown outcome",
                grouped(most)
            ),
            Finding::Lost(least) => format!(
                "LOST at least {} {of}: accepted, and neither stored, nor a duplicate, nor a dead letter, nor in \
                 flight. Look for a queue that was purged or deleted, and for a worker that was not named",
                grouped(least)
            ),
            Finding::Surplus(more) => format!(
                "does not hold: at least {} more {of} came than were accepted. Look for an ingest-api that was not \
                 named, and for a program that publishes to RabbitMQ itself",
                grouped(more)
            ),
        }
    }

    /// Says it as one JSON object.
    pub(crate) fn json(&self) -> Value {
        let (finding, severity) = self.books.verdict();
        let (verdict, messages) = match finding {
            Finding::Exact => ("holds", 0),
            Finding::Within(most) => ("holds_within", most),
            Finding::Lost(least) => ("lost", least),
            Finding::Surplus(more) => ("surplus", more),
        };
        let rows = Severity::ALL.into_iter().zip(&self.books.rows);
        let rows: serde_json::Map<_, _> = rows
            .map(|(severity, row)| (severity.as_str().to_owned(), row_json(row)))
            .collect();
        json!({
            "verdict": verdict,
            "messages": messages,
            "severity": severity.map(Severity::as_str),
            "waited_in_vain": self.waited_in_vain,
            "window_seconds": self.window.map(|window| window.as_secs_f64()),
            "held_messages": self.books.in_flight.held,
            "waiting_packets": self.books.in_flight.packets,
            "severities": rows,
            "total": row_json(&self.books.total),
        })
    }
}

fn cells(name: &str, row: &Row) -> [String; 8] {
    let signed = |number: i64| {
        let digits = grouped(number.unsigned_abs());
        if number < 0 { format!("-{digits}") } else { digits }
    };
    let missing = match row.missing {
        (least, most) if least == most => signed(least),
        (least, most) => format!("{} to {}", signed(least), signed(most)),
    };
    let in_flight = if row.in_flight == 0 {
        "0".to_owned()
    } else {
        format!("≤ {}", grouped(row.in_flight))
    };
    [
        name.to_owned(),
        grouped(row.accepted),
        grouped(row.unknown),
        grouped(row.stored),
        grouped(row.duplicate),
        grouped(row.dead),
        in_flight,
        missing,
    ]
}

fn row_json(row: &Row) -> Value {
    json!({
        "accepted": row.accepted,
        "unknown": row.unknown,
        "stored": row.stored,
        "duplicate": row.duplicate,
        "dead": row.dead,
        "in_flight_at_most": row.in_flight,
        "missing_at_least": row.missing.0,
        "missing_at_most": row.missing.1,
    })
}

#[cfg(test)]
mod tests {
    use super::super::cut::InFlight;
    use super::*;

    fn closed(missing: (i64, i64)) -> Closed {
        let row = Row {
            accepted: 12_345,
            stored: 12_000,
            missing,
            ..Row::default()
        };
        let mut rows = [Row::default(); 5];
        rows[Severity::Info.index()] = row;
        Closed {
            books: Books {
                rows,
                total: row,
                in_flight: InFlight::default(),
            },
            window: Some(Duration::from_secs(30)),
            waited_in_vain: false,
        }
    }

    #[test]
    fn the_table_is_aligned_and_the_sentence_names_what_is_lost() {
        let text = closed((345, 345)).text();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines[..3],
            [
                "severity  accepted  unknown  stored  duplicate  dead  in flight  missing",
                "debug            0        0       0          0     0          0        0",
                "info        12,345        0  12,000          0     0          0      345",
            ]
        );
        assert!(text.contains("LOST at least 345 of severity info"), "{text}");
        assert!(closed((-3, 0)).text().contains("-3 to 0"));
    }

    #[test]
    fn programs_are_told_the_same() {
        let lost = closed((345, 345)).json();
        assert_eq!(lost["verdict"], "lost");
        assert_eq!(
            (&lost["messages"], &lost["severity"]),
            (&json!(345), &json!("info"))
        );
        assert_eq!(lost["severities"]["info"]["missing_at_least"], 345);
        assert_eq!(closed((0, 0)).json()["verdict"], "holds");
        assert!(closed((-1, 7)).holds() && !closed((-9, -1)).holds());
    }
}
