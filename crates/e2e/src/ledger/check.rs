//! The comparison of what is stored with what was sent.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::MutexGuard;

use uuid::Uuid;

use super::{Ledger, State, StoredRow, now_micros};
use crate::compare::same_value;
use crate::generate::Record;
use crate::request::Form;

/// How many examples of each kind of fault a report shows.
const SHOWN: usize = 10;

/// A comparison under way; takes every row once.
#[derive(Debug)]
pub struct Check<'l> {
    ledger: &'l Ledger,
    state: MutexGuard<'l, State>,
    seen: Vec<u32>,
    report: Report,
}

impl<'l> Check<'l> {
    pub(super) fn new(ledger: &'l Ledger, state: MutexGuard<'l, State>) -> Self {
        let seen = vec![0; state.entries.len()];
        Self {
            ledger,
            state,
            seen,
            report: Report::default(),
        }
    }

    /// Returns the number of the message with this id, if one was sent.
    fn number(&self, id: Uuid) -> Option<u64> {
        let number = self.ledger.generator.number(id)?;
        let entry = self.state.entries.get(usize::try_from(number).ok()?)?;
        (entry.sent > 0).then_some(number)
    }

    /// Compares one stored row.
    pub fn row(&mut self, row: &StoredRow) {
        self.report.stored += 1;
        let Some(number) = self.number(row.id) else {
            self.report.phantom.push(format!(
                "{} from {:?}: {:?}",
                row.id,
                row.source,
                start(&row.body)
            ));
            return;
        };
        let entry = self.state.entries[number as usize];
        self.seen[number as usize] += 1;
        if self.seen[number as usize] == 2 {
            self.report
                .duplicated
                .push(format!("message {number}, id {}", row.id));
        }
        if entry.rejected {
            self.report
                .phantom
                .push(format!("message {number} was answered with 4xx and is stored"));
        }
        let mut record = self.ledger.generator.record(number);
        if entry.form == Some(Form::Plain) {
            record = record.into_plain();
        }
        let times = self.ledger.opened_at - 1_000_000..=now_micros() + 1_000_000;
        if let Some(difference) = difference(&record, row, &times) {
            self.report
                .altered
                .push(format!("message {number}, id {}: {difference}", row.id));
        }
    }

    /// Ends the comparison.
    pub fn finish(mut self) -> Report {
        for (number, (entry, seen)) in self.state.entries.iter().zip(&self.seen).enumerate() {
            self.report.sent += u64::from(entry.sent > 0);
            self.report.accepted += u64::from(entry.accepted);
            self.report.unknown += u64::from(entry.sent > 0 && !entry.accepted && !entry.rejected);
            if entry.accepted && *seen == 0 {
                let id = self.ledger.generator.id(number as u64);
                self.report.lost.push(format!("message {number}, id {id}"));
            }
        }
        self.report.surprises.clone_from(&self.state.surprises);
        self.report
    }
}

/// Returns the first field in which a row differs from what was sent.
pub fn difference(record: &Record, row: &StoredRow, times: &RangeInclusive<i64>) -> Option<String> {
    let differs = |field: &str, sent: &dyn fmt::Debug, stored: &dyn fmt::Debug| {
        let (sent, stored) = (format!("{sent:?}"), format!("{stored:?}"));
        let at = sent
            .bytes()
            .zip(stored.bytes())
            .take_while(|(a, b)| a == b)
            .count();
        Some(format!(
            "{field} differs at byte {at}: sent {}, stored {}",
            excerpt(&sent, at),
            excerpt(&stored, at)
        ))
    };
    if row.severity != record.severity_number {
        return differs("severity", &record.severity_number, &row.severity);
    }
    if row.source != record.stored_source() {
        return differs("source", &record.stored_source(), &row.source);
    }
    let body = record.stored_body();
    if row.body != body {
        return differs("body", &body, &row.body);
    }
    let attributes = record.stored_attributes();
    if !same_value(&row.attributes, &attributes) {
        return differs("attributes", &attributes.to_string(), &row.attributes.to_string());
    }
    let occurred_at = record
        .occurred_at
        .as_ref()
        .map_or(row.received_at, |moment| moment.micros);
    if row.occurred_at != occurred_at {
        return differs("occurred_at", &occurred_at, &row.occurred_at);
    }
    if !times.contains(&row.received_at) {
        return differs("received_at", times, &row.received_at);
    }
    None
}

/// Returns a few dozen characters around a byte.
fn excerpt(text: &str, at: usize) -> String {
    let from = text.floor_char_boundary(at.saturating_sub(20));
    let to = text.ceil_char_boundary((at + 40).min(text.len()));
    format!("…{}… ({} bytes)", &text[from..to], text.len())
}

fn start(text: &str) -> &str {
    &text[..text.floor_char_boundary(40)]
}

/// The result of a comparison.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Messages sent, each counted once.
    pub sent: u64,
    /// Messages answered with 202.
    pub accepted: u64,
    /// Messages sent and never answered for good: either way is right, twice is not.
    pub unknown: u64,
    /// Rows found.
    pub stored: u64,
    /// Answered with 202 and not stored.
    pub lost: Vec<String>,
    /// Stored more than once.
    pub duplicated: Vec<String>,
    /// Stored otherwise than sent.
    pub altered: Vec<String>,
    /// Stored and never sent, or refused and stored all the same.
    pub phantom: Vec<String>,
    /// Answers that no valid request should get.
    pub surprises: Vec<String>,
}

impl Report {
    /// Tells whether everything is as promised.
    pub const fn is_clean(&self) -> bool {
        self.lost.is_empty()
            && self.duplicated.is_empty()
            && self.altered.is_empty()
            && self.phantom.is_empty()
            && self.surprises.is_empty()
    }

    /// Fails the test unless everything is as promised.
    ///
    /// # Panics
    /// With the whole report when anything was lost, duplicated, altered, made up or answered oddly.
    pub fn assert_clean(&self) {
        assert!(self.is_clean(), "{self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "sent {} | accepted {} | unknown {} | stored {} | LOST {} | DUPLICATED {} | ALTERED {} | PHANTOM {} | SURPRISES {}",
            self.sent,
            self.accepted,
            self.unknown,
            self.stored,
            self.lost.len(),
            self.duplicated.len(),
            self.altered.len(),
            self.phantom.len(),
            self.surprises.len()
        )?;
        for (what, examples) in [
            ("lost", &self.lost),
            ("duplicated", &self.duplicated),
            ("altered", &self.altered),
            ("phantom", &self.phantom),
            ("surprise", &self.surprises),
        ] {
            for example in examples.iter().take(SHOWN) {
                writeln!(f, "  {what}: {example}")?;
            }
            if examples.len() > SHOWN {
                writeln!(f, "  {what}: … and {} more", examples.len() - SHOWN)?;
            }
        }
        Ok(())
    }
}
