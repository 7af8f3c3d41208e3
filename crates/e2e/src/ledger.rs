//! What was sent, what was answered, what was stored, and whether the three agree.

mod check;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::timeout;
use uuid::Uuid;

use crate::generate::Generator;
use crate::http::Answer;
use crate::request::{Form, Plan};

pub use check::{Check, Report, difference};

/// A row as a database gave it back.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredRow {
    /// The primary key.
    pub id: Uuid,
    /// OpenTelemetry's number.
    pub severity: i16,
    /// The source.
    pub source: String,
    /// The body.
    pub body: String,
    /// The attributes, an object.
    pub attributes: Value,
    /// Microseconds since 1970.
    pub occurred_at: i64,
    /// Microseconds since 1970.
    pub received_at: i64,
}

/// What clients have seen so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Messages answered with 202, each counted once.
    pub accepted: u64,
    /// Answers by status.
    pub answers: BTreeMap<u16, u64>,
    /// Requests that got no whole answer.
    pub broken: u64,
}

impl Tally {
    /// Returns how many answers had this status.
    pub fn of(&self, status: u16) -> u64 {
        self.answers.get(&status).copied().unwrap_or(0)
    }
}

/// What is to be done about a request after an answer, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything in it is settled.
    Done,
    /// Whether it had an effect is unknown or nothing was taken: send it again as it is, after this long.
    Again(Duration),
}

/// What became of one message, as its sender knows it.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    sent: u32,
    form: Option<Form>,
    accepted: bool,
    rejected: bool,
}

#[derive(Debug, Default)]
struct State {
    entries: Vec<Entry>,
    /// Answers that no valid request should ever get.
    surprises: Vec<String>,
}

/// The book of a test: safe to share between clients.
#[derive(Debug)]
pub struct Ledger {
    generator: Generator,
    opened_at: i64,
    state: Mutex<State>,
    tally: watch::Sender<Tally>,
}

fn now_micros() -> i64 {
    i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000).unwrap_or(i64::MAX)
}

impl Ledger {
    /// Opens an empty ledger for the messages of `generator`.
    pub fn new(generator: Generator) -> Self {
        let opened_at = now_micros();
        Self {
            generator,
            opened_at,
            state: Mutex::default(),
            tally: watch::Sender::new(Tally::default()),
        }
    }

    /// Returns where the messages come from.
    pub const fn generator(&self) -> &Generator {
        &self.generator
    }

    /// Returns what clients have seen so far.
    pub fn tally(&self) -> Tally {
        self.tally.borrow().clone()
    }

    /// Waits until what clients have seen satisfies `condition`.
    ///
    /// # Errors
    /// It does not come to that within the time; the message has what they had seen by then.
    pub async fn wait_until(
        &self,
        what: &str,
        within: Duration,
        mut condition: impl FnMut(&Tally) -> bool,
    ) -> Result<()> {
        let mut tally = self.tally.subscribe();
        let waited = timeout(within, tally.wait_for(|tally| condition(tally))).await;
        match waited {
            Ok(reached) => reached.map(|_| ()).context("the ledger is closed"),
            Err(_) => bail!("not within {within:?}: {what}; so far {:?}", self.tally()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a request is about to be sent.
    pub fn sent(&self, plan: &Plan) {
        let mut state = self.state();
        let end = usize::try_from(plan.messages.end).unwrap_or(usize::MAX);
        if state.entries.len() < end {
            state.entries.resize_with(end, Entry::default);
        }
        for number in plan.messages.clone() {
            let entry = &mut state.entries[number as usize];
            entry.sent += 1;
            entry.form = Some(plan.form);
        }
    }

    /// Notes the answer to a request, or that none came, and says what to do next.
    pub fn answered(&self, plan: &Plan, answer: &Result<Answer>) -> Verdict {
        let mut newly_accepted = 0;
        let verdict = match answer {
            Err(_) => Verdict::Again(Duration::from_millis(50)),
            Ok(answer) if answer.status == 202 => {
                newly_accepted = self.accept(plan, answer);
                Verdict::Done
            }
            Ok(answer) if answer.status == 503 => {
                let wait = answer.retry_after();
                if wait.is_none() {
                    self.surprise(format!("503 without Retry-After: {}", answer.text_start()));
                }
                Verdict::Again(wait.unwrap_or(Duration::from_secs(1)))
            }
            Ok(answer) => {
                self.surprise(format!(
                    "{} to the valid request {} ({:?}, messages {:?}): {}",
                    answer.status,
                    plan.number,
                    plan.form,
                    plan.messages,
                    answer.text_start()
                ));
                if (400..500).contains(&answer.status) {
                    for number in plan.messages.clone() {
                        self.state().entries[number as usize].rejected = true;
                    }
                }
                Verdict::Done
            }
        };
        self.tally.send_modify(|tally| {
            tally.accepted += newly_accepted;
            match answer {
                Ok(answer) => *tally.answers.entry(answer.status).or_default() += 1,
                Err(_) => tally.broken += 1,
            }
        });
        verdict
    }

    fn surprise(&self, what: String) {
        self.state().surprises.push(what);
    }

    /// Reads a 202; returns how many messages it is the first to accept.
    fn accept(&self, plan: &Plan, answer: &Answer) -> u64 {
        let count = plan.messages.end - plan.messages.start;
        let Ok(receipt) = answer.json() else {
            self.surprise(format!("202 without JSON: {}", answer.text_start()));
            return 0;
        };
        if receipt["accepted"] != count || receipt["rejected"] != 0 {
            self.surprise(format!(
                "202 for {count} valid messages says {}",
                answer.text_start()
            ));
            return 0;
        }
        let ids: Vec<Uuid> = receipt["ids"]
            .as_array()
            .map(|ids| ids.iter().filter_map(|id| id.as_str()?.parse().ok()).collect())
            .unwrap_or_default();
        let asked = plan.wants_ids || count == 1;
        let expected = plan.messages.clone().map(|number| self.generator.id(number));
        if asked && !expected.eq(ids) {
            self.surprise(format!(
                "other ids than those of messages {:?}: {}",
                plan.messages,
                answer.text_start()
            ));
            return 0;
        }
        let mut state = self.state();
        let mut newly_accepted = 0;
        for number in plan.messages.clone() {
            let entry = &mut state.entries[number as usize];
            newly_accepted += u64::from(!entry.accepted);
            entry.accepted = true;
        }
        newly_accepted
    }

    /// Begins to compare what is stored with what was sent.
    pub fn check(&self) -> Check<'_> {
        Check::new(self, self.state())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn generator() -> Generator {
        Generator::new(5, OffsetDateTime::now_utc())
    }

    fn plan(messages: std::ops::Range<u64>) -> Plan {
        Plan {
            number: 0,
            form: Form::Ndjson,
            wants_ids: false,
            messages,
        }
    }

    fn answer(status: u16, body: &Value) -> Result<Answer> {
        Ok(Answer {
            status,
            headers: Default::default(),
            body: Bytes::from(body.to_string()),
        })
    }

    fn accepted(n: u64) -> Result<Answer> {
        answer(202, &serde_json::json!({"accepted": n, "rejected": 0}))
    }

    fn row(ledger: &Ledger, number: u64) -> StoredRow {
        let record = ledger.generator().record(number);
        let received_at = now_micros();
        StoredRow {
            id: record.id,
            severity: record.severity_number,
            source: record.stored_source().to_owned(),
            body: record.stored_body(),
            attributes: record.stored_attributes(),
            occurred_at: record
                .occurred_at
                .as_ref()
                .map_or(received_at, |moment| moment.micros),
            received_at,
        }
    }

    fn ledger_of(n: u64) -> Ledger {
        let ledger = Ledger::new(generator());
        ledger.sent(&plan(0..n));
        assert_eq!(ledger.answered(&plan(0..n), &accepted(n)), Verdict::Done);
        ledger
    }

    #[test]
    fn what_is_stored_as_it_was_sent_is_clean() {
        let ledger = ledger_of(50);
        let mut check = ledger.check();
        for number in 0..50 {
            check.row(&row(&ledger, number));
        }
        let report = check.finish();
        report.assert_clean();
        assert_eq!((report.sent, report.accepted, report.stored), (50, 50, 50));
    }

    #[test]
    fn every_kind_of_fault_is_found_and_named() {
        let ledger = ledger_of(5);
        let mut check = ledger.check();
        check.row(&row(&ledger, 0));
        check.row(&row(&ledger, 0));
        check.row(&StoredRow {
            body: "other".to_owned(),
            ..row(&ledger, 1)
        });
        check.row(&StoredRow {
            received_at: 0,
            ..row(&ledger, 2)
        });
        check.row(&StoredRow {
            id: Uuid::nil(),
            ..row(&ledger, 3)
        });
        let report = check.finish();
        assert_eq!(
            (
                report.lost.len(),
                report.duplicated.len(),
                report.altered.len(),
                report.phantom.len()
            ),
            (2, 1, 2, 1),
            "{report}"
        );
        assert!(report.altered[0].contains("body differs"), "{report}");
    }

    #[test]
    fn each_altered_field_is_found() {
        let ledger = ledger_of(1);
        let good = row(&ledger, 0);
        for bad in [
            StoredRow {
                severity: 1,
                ..good.clone()
            },
            StoredRow {
                source: "x".to_owned(),
                ..good.clone()
            },
            StoredRow {
                body: good.body.clone() + " ",
                ..good.clone()
            },
            StoredRow {
                attributes: serde_json::json!({"x": 1}),
                ..good.clone()
            },
            StoredRow {
                occurred_at: good.occurred_at + 1,
                ..good
            },
        ] {
            let mut check = ledger.check();
            check.row(&bad);
            assert_eq!(check.finish().altered.len(), 1, "{bad:?}");
        }
    }

    #[test]
    fn an_unanswered_message_may_be_stored_or_not() {
        let ledger = Ledger::new(generator());
        ledger.sent(&plan(0..2));
        let verdict = ledger.answered(&plan(0..2), &Err(anyhow::anyhow!("reset")));
        assert!(matches!(verdict, Verdict::Again(_)));
        let mut check = ledger.check();
        check.row(&row(&ledger, 0));
        let report = check.finish();
        report.assert_clean();
        assert_eq!((report.unknown, report.accepted), (2, 0));
    }

    #[test]
    fn an_answer_with_another_id_is_a_surprise() {
        let ledger = Ledger::new(generator());
        let receipt = |id: Uuid| {
            answer(
                202,
                &serde_json::json!({"accepted": 1, "rejected": 0, "ids": [id.to_string()]}),
            )
        };
        ledger.sent(&plan(0..1));
        ledger.answered(&plan(0..1), &receipt(Uuid::nil()));
        assert_eq!(ledger.tally().accepted, 0);
        assert_eq!(ledger.check().finish().surprises.len(), 1);
        ledger.answered(&plan(0..1), &receipt(ledger.generator().id(0)));
        ledger.answered(&plan(0..1), &receipt(ledger.generator().id(0)));
        assert_eq!(ledger.tally().accepted, 1);
    }

    #[test]
    fn a_503_without_retry_after_and_a_4xx_to_a_valid_request_are_surprises() {
        let ledger = Ledger::new(generator());
        ledger.sent(&plan(0..1));
        for status in [503, 422, 500] {
            ledger.answered(&plan(0..1), &answer(status, &Value::Null));
        }
        let mut check = ledger.check();
        check.row(&row(&ledger, 0));
        let report = check.finish();
        assert_eq!((report.surprises.len(), report.phantom.len()), (3, 1), "{report}");
    }
}
