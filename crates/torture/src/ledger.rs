//! The book of a run: what was sent and answered, and at the end whether it agrees with what is stored.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;
use warren_e2e::StoredRow;
use warren_e2e::http::Answer;
use warren_e2e::ledger::difference;

use crate::inject::{POISON_KEY, exchange_of};
use crate::messages::{Batch, Messages};

/// How many cases of each kind a report names.
pub const SHOWN: usize = 20;

/// The longest that a client follows a `Retry-After`, so that one answer does not cost half a run.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// What the clients know of one message.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    sent: u16,
    accepted: u16,
    refused: bool,
    /// Which intake accepted it, and when, milliseconds after the beginning.
    by: u8,
    at: u32,
}

#[derive(Debug, Default)]
struct State {
    entries: Vec<Entry>,
    poison: Vec<Entry>,
    keyed: Vec<Entry>,
    /// What no client should ever be answered.
    surprises: Vec<String>,
    tally: Tally,
}

/// What the clients have seen, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Tally {
    /// Requests by the status of their answer.
    pub answers: BTreeMap<u16, u64>,
    /// Requests that got no whole answer.
    pub broken: u64,
    /// Messages answered with 202, each once.
    pub accepted: u64,
    /// Messages in answers of 202 of each intake, repetitions included.
    pub accepted_by: [u64; 2],
}

/// What a client does next about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: it is answered for good.
    Done,
    /// The same again, after this long.
    Again(Duration),
}

/// The book; safe to share between clients.
#[derive(Debug)]
pub struct Ledger {
    messages: Messages,
    opened: Instant,
    opened_at: i64,
    state: Mutex<State>,
}

/// A dead letter as it was found, whatever keeps it.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// The original record.
    pub body: Vec<u8>,
    /// Why it is one.
    pub reason: String,
    /// The exchange and the key it came by, where it is kept; none in the queue, where a letter may come twice.
    pub origin: Option<(String, String)>,
}

/// Why a record that is no message is a dead letter.
const UNDECODABLE: &str = "undecodable";

/// Why a row that the database refuses is one.
const REFUSED: &str = "refused_by_store";

fn now_micros() -> i64 {
    i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000).unwrap_or(i64::MAX)
}

impl Ledger {
    /// Opens an empty book.
    pub fn new(messages: Messages) -> Self {
        Self {
            messages,
            opened: Instant::now(),
            opened_at: now_micros(),
            state: Mutex::default(),
        }
    }

    /// Returns what is sent.
    pub const fn messages(&self) -> &Messages {
        &self.messages
    }

    /// Returns when it was opened.
    pub const fn opened(&self) -> Instant {
        self.opened
    }

    /// Returns what the clients have seen so far.
    pub fn tally(&self) -> Tally {
        self.state().tally.clone()
    }

    /// Returns how many messages should become rows: those accepted, but for the poison among them.
    pub fn to_store(&self) -> u64 {
        let state = self.state();
        let poison = state.poison.iter().filter(|entry| entry.accepted > 0).count();
        state.tally.accepted - poison as u64
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a request is about to be sent.
    pub fn sent(&self, batch: &Batch) {
        let mut state = self.state();
        for number in &batch.numbers {
            let entry = state.entry(*number);
            entry.sent = entry.sent.saturating_add(1);
        }
    }

    /// Returns a number near `wished` of a message that was sent, and that intake takes.
    pub fn sent_before(&self, wished: u64) -> Option<u64> {
        let state = self.state();
        let end = (wished as usize).min(state.entries.len());
        (0..end)
            .rev()
            .find(|number| state.entries[*number].sent > 0 && !self.messages.is_bad(*number as u64))
            .map(|number| number as u64)
    }

    /// Notes an answer, or that none came, and says what the client does next.
    pub fn answered(&self, batch: &Batch, by: usize, answer: &Result<Answer>) -> Verdict {
        let mut state = self.state();
        let Ok(answer) = answer else {
            state.tally.broken += 1;
            return Verdict::Again(Duration::from_millis(100));
        };
        *state.tally.answers.entry(answer.status).or_default() += 1;
        let (all, bad) = (batch.numbers.len(), self.messages.bad(batch));
        match answer.status {
            202 => {
                self.accept(&mut state, batch, by, answer);
                Verdict::Done
            }
            // The whole request is bad, and nothing of it is stored.
            400 | 413 | 422 if all == bad => {
                for number in &batch.numbers {
                    state.entry(*number).refused = true;
                }
                Verdict::Done
            }
            408 | 429 | 500 | 502..=504 => {
                if answer.status != 503 && answer.status != 408 {
                    state.surprise(format!("{}: {}", answer.status, answer.text_start()));
                }
                let wait = answer.retry_after();
                if answer.status == 503 && wait.is_none() {
                    state.surprise(format!("503 without Retry-After: {}", answer.text_start()));
                }
                Verdict::Again(wait.unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT))
            }
            status => {
                state.surprise(format!(
                    "{status} to a request of {all} messages, {bad} of them bad: {}",
                    answer.text_start()
                ));
                for number in &batch.numbers {
                    state.entry(*number).refused = true;
                }
                Verdict::Done
            }
        }
    }

    fn accept(&self, state: &mut State, batch: &Batch, by: usize, answer: &Answer) {
        let (all, bad) = (batch.numbers.len(), self.messages.bad(batch));
        let Ok(receipt) = answer.json() else {
            return state.surprise(format!("202 without JSON: {}", answer.text_start()));
        };
        if receipt["accepted"] != all - bad || receipt["rejected"] != bad {
            return state.surprise(format!(
                "202 to {all} messages, {bad} of them bad, says {}",
                answer.text_start()
            ));
        }
        let at = u32::try_from(self.opened.elapsed().as_millis()).unwrap_or(u32::MAX);
        for number in &batch.numbers {
            let entry = state.entry(*number);
            if self.messages.is_bad(*number) {
                entry.refused = true;
                continue;
            }
            entry.accepted = entry.accepted.saturating_add(1);
            if entry.accepted == 1 {
                (entry.by, entry.at) = (by as u8, at);
                state.tally.accepted += 1;
            }
        }
        if let Some(sum) = state.tally.accepted_by.get_mut(by) {
            *sum += (all - bad) as u64;
        }
    }

    /// Compares the book with what was found.
    ///
    /// `planted` are the bodies of the records that were put into the queue and are no messages.
    pub fn verdict(
        &self,
        rows: &[StoredRow],
        dead: &[DeadLetter],
        planted: &BTreeMap<Vec<u8>, &'static str>,
        events: &[(Instant, String)],
    ) -> Findings {
        let state = self.state();
        let mut findings = Findings {
            surprises: state.surprises.clone(),
            stored: rows.len() as u64,
            ..Findings::default()
        };
        let times = self.opened_at - 1_000_000..=now_micros() + 1_000_000;
        let found = self.bury(&state, dead, planted, &times, &mut findings);
        let mut seen: BTreeMap<Uuid, u32> = BTreeMap::new();
        // Two rows of one message under a key have two ids.
        let mut seen_keyed: BTreeMap<u64, u32> = BTreeMap::new();
        for row in rows {
            let count = seen.entry(row.id).or_default();
            *count += 1;
            if *count == 2 {
                findings.twice.push(format!("id {}", row.id));
            }
            let number = self.messages.number_of(row);
            if let Some(number) = number.filter(|number| Messages::is_keyed(*number)) {
                let count = seen_keyed.entry(number).or_default();
                *count += 1;
                if *count == 2 {
                    findings.twice.push(format!("message {number} under a key"));
                }
            }
            let Some((number, entry)) =
                number.and_then(|number| Some((number, state.get(number).filter(|entry| entry.sent > 0)?)))
            else {
                findings
                    .phantom
                    .push(format!("id {}, source {:?}", row.id, row.source));
                continue;
            };
            if entry.refused || self.messages.is_bad(number) {
                findings
                    .refused_and_stored
                    .push(format!("message {number}, id {}", row.id));
                continue;
            }
            if let Some(difference) = difference(&self.messages.record(number), row, &times) {
                findings
                    .altered
                    .push(format!("message {number}, id {}: {difference}", row.id));
            }
        }
        for (number, entry) in state.all() {
            findings.sent += u64::from(entry.sent > 0);
            findings.accepted += u64::from(entry.accepted > 0);
            findings.refused += u64::from(entry.refused);
            findings.unknown += u64::from(entry.sent > 0 && entry.accepted == 0 && !entry.refused);
            let id = self.messages.id(number);
            let stored = if Messages::is_keyed(number) {
                seen_keyed.contains_key(&number)
            } else {
                seen.contains_key(&id)
            };
            if entry.accepted > 0 && !stored && !found.contains(&number) {
                findings.lost.push(self.last_seen(number, entry, events));
            }
        }
        findings
    }

    /// Reads the dead letters; returns the numbers of the messages among them.
    fn bury(
        &self,
        state: &State,
        dead: &[DeadLetter],
        planted: &BTreeMap<Vec<u8>, &'static str>,
        times: &RangeInclusive<i64>,
        findings: &mut Findings,
    ) -> BTreeSet<u64> {
        let mut packets: BTreeSet<&[u8]> = BTreeSet::new();
        let mut rows = BTreeSet::new();
        let mut kept: BTreeMap<&[u8], u32> = BTreeMap::new();
        for letter in dead {
            if letter.reason.is_empty() {
                let start = &letter.body[..letter.body.len().min(120)];
                findings
                    .dead_unplanned
                    .push(format!("without a reason: {}", String::from_utf8_lossy(start)));
            }
            if letter.origin.is_some() {
                let count = kept.entry(&letter.body).or_default();
                *count += 1;
                if *count == 2 {
                    let start = &letter.body[..letter.body.len().min(120)];
                    findings
                        .twice
                        .push(format!("a dead letter: {}", String::from_utf8_lossy(start)));
                }
            }
            let mut wrong = |what: String| findings.altered.push(format!("a dead letter: {what}"));
            if let Some((body, exchange)) = planted.get_key_value(&letter.body) {
                packets.insert(body);
                if let Some(what) = letter.differs_from(exchange, POISON_KEY, UNDECODABLE) {
                    wrong(what);
                }
                continue;
            }
            let number = id_of(&letter.body).and_then(|id| self.messages.number(id));
            match number {
                Some(number) if Messages::is_poison(number) => {
                    rows.insert(number);
                    let record = self.messages.record(number);
                    let exchange = exchange_of(record.severity_number);
                    let what = letter
                        .differs_from(exchange, record.stored_source(), REFUSED)
                        .or_else(|| match row_of(&letter.body) {
                            Some(row) => difference(&record, &row, times),
                            None => Some("it is no message any more".to_owned()),
                        });
                    if let Some(what) = what {
                        wrong(format!("message {number}: {what}"));
                    }
                }
                _ => findings.dead_unplanned.push(format!(
                    "{} ({:?}): {}",
                    number.map_or_else(
                        || "no message".to_owned(),
                        |number| format!("message {number}, id {}", self.messages.id(number))
                    ),
                    letter.reason,
                    String::from_utf8_lossy(&letter.body[..letter.body.len().min(120)])
                )),
            }
        }
        let accepted = state.poison.iter().filter(|entry| entry.accepted > 0).count();
        findings.dead_planted = (planted.len() + accepted) as u64;
        findings.dead_found = (packets.len() + rows.len()) as u64;
        for body in planted.keys().filter(|body| !packets.contains(body.as_slice())) {
            findings
                .dead_missing
                .push(format!("a planted record: {}", String::from_utf8_lossy(body)));
        }
        rows
    }

    fn last_seen(&self, number: u64, entry: &Entry, events: &[(Instant, String)]) -> String {
        let at = self.opened + Duration::from_millis(entry.at.into());
        let last = events.iter().rev().find(|(time, _)| *time <= at);
        format!(
            "message {number}, id {}: accepted by ingest-{} at {:.1} s, after {}",
            self.messages.id(number),
            entry.by,
            f64::from(entry.at) / 1_000.0,
            last.map_or("the beginning", |(_, event)| event)
        )
    }
}

impl State {
    fn entry(&mut self, number: u64) -> &mut Entry {
        let (list, place) = if Messages::is_poison(number) {
            (&mut self.poison, number - Messages::poison(0))
        } else if Messages::is_keyed(number) {
            (&mut self.keyed, number - Messages::keyed(0))
        } else {
            (&mut self.entries, number)
        };
        let place = place as usize;
        if list.len() <= place {
            list.resize_with(place + 1, Entry::default);
        }
        &mut list[place]
    }

    fn get(&self, number: u64) -> Option<&Entry> {
        if Messages::is_poison(number) {
            self.poison.get((number - Messages::poison(0)) as usize)
        } else if Messages::is_keyed(number) {
            self.keyed.get((number - Messages::keyed(0)) as usize)
        } else {
            self.entries.get(number as usize)
        }
    }

    fn all(&self) -> impl Iterator<Item = (u64, &Entry)> {
        let entries = self.entries.iter().enumerate();
        let poison = self.poison.iter().enumerate();
        let keyed = self.keyed.iter().enumerate();
        entries
            .map(|(place, entry)| (place as u64, entry))
            .chain(poison.map(|(place, entry)| (Messages::poison(place as u64), entry)))
            .chain(keyed.map(|(place, entry)| (Messages::keyed(place as u64), entry)))
    }

    fn surprise(&mut self, what: String) {
        self.surprises.push(what);
    }
}

impl DeadLetter {
    /// Names where a letter that is kept says something else about its origin, or why it is one.
    fn differs_from(&self, exchange: &str, key: &str, reason: &str) -> Option<String> {
        let (own_exchange, own_key) = self.origin.as_ref()?;
        let same = (own_exchange.as_str(), own_key.as_str(), self.reason.as_str()) == (exchange, key, reason);
        (!same).then(|| {
            format!(
                "exchange, key and reason are {own_exchange} {own_key} {}, and should be {exchange} {key} {reason}",
                self.reason
            )
        })
    }
}

/// Reads the message in a record as the row that it would be.
fn row_of(body: &[u8]) -> Option<StoredRow> {
    let line: serde_json::Value = serde_json::from_slice(body).ok()?;
    let micros = |name: &str| {
        let moment = OffsetDateTime::parse(line[name].as_str()?, &Rfc3339).ok()?;
        i64::try_from(moment.unix_timestamp_nanos() / 1_000).ok()
    };
    let severities = [
        ("debug", 5),
        ("info", 9),
        ("warning", 13),
        ("error", 17),
        ("critical", 21),
    ];
    let severity = line["severity"].as_str()?;
    Some(StoredRow {
        id: line["id"].as_str()?.parse().ok()?,
        severity: severities.iter().find(|(name, _)| *name == severity)?.1,
        source: line["source"].as_str()?.to_owned(),
        body: line["body"].as_str()?.to_owned(),
        attributes: line
            .get("attributes")
            .cloned()
            .unwrap_or_else(|| serde_json::json!({})),
        occurred_at: micros("occurred_at")?,
        received_at: micros("received_at")?,
    })
}

/// Returns the id of the first message in a record.
fn id_of(body: &[u8]) -> Option<Uuid> {
    let line = body.split(|byte| *byte == b'\n').next()?;
    let value: serde_json::Value = serde_json::from_slice(line).ok()?;
    value["id"].as_str()?.parse().ok()
}

/// What the comparison found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Findings {
    /// Messages sent, each once.
    pub sent: u64,
    /// Messages answered with 202.
    pub accepted: u64,
    /// Messages refused with 4xx, or as part of a 202.
    pub refused: u64,
    /// Messages that were never answered for good.
    pub unknown: u64,
    /// Rows.
    pub stored: u64,
    /// Planted poison that became dead letters.
    pub dead_found: u64,
    /// Poison that was planted.
    pub dead_planted: u64,
    /// I1: answered with 202, and neither stored nor a dead letter.
    pub lost: Vec<String>,
    /// I1: a dead letter, and not planted as one.
    pub dead_unplanned: Vec<String>,
    /// I1: planted poison that is no dead letter.
    pub dead_missing: Vec<String>,
    /// I2 and I6: stored more than once.
    pub twice: Vec<String>,
    /// I3: stored otherwise than sent.
    pub altered: Vec<String>,
    /// I4: stored and never sent.
    pub phantom: Vec<String>,
    /// I5: refused, and stored all the same.
    pub refused_and_stored: Vec<String>,
    /// Answers that nobody should get.
    pub surprises: Vec<String>,
}

impl Findings {
    /// Returns what is broken: the invariant's name and the cases.
    pub fn broken(&self) -> Vec<(&'static str, &[String])> {
        [
            ("I1 lost", &self.lost),
            ("I1 dead letter that was not planted", &self.dead_unplanned),
            ("I1 planted poison that is no dead letter", &self.dead_missing),
            ("I2 stored twice", &self.twice),
            ("I3 altered", &self.altered),
            ("I4 phantom", &self.phantom),
            ("I5 refused and stored", &self.refused_and_stored),
            ("answers that nobody should get", &self.surprises),
        ]
        .into_iter()
        .filter(|(_, cases)| !cases.is_empty())
        .map(|(what, cases)| (what, cases.as_slice()))
        .collect()
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "sent {} | acked {} | rejected {} | unknown-open {} | stored {} | dead {}/{} planted | LOST {} | TWICE {} | ALTERED {} | PHANTOM {}",
            self.sent,
            self.accepted,
            self.refused,
            self.unknown,
            self.stored,
            self.dead_found,
            self.dead_planted,
            self.lost.len(),
            self.twice.len(),
            self.altered.len(),
            self.phantom.len() + self.refused_and_stored.len(),
        )
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::messages::POISON_SOURCE;

    fn answer(status: u16, body: &serde_json::Value) -> Result<Answer> {
        Ok(Answer {
            status,
            headers: Default::default(),
            body: body.to_string().into(),
        })
    }

    /// Accepts the first messages, one request each, the bad ones refused.
    fn ledger_of(count: u64) -> Ledger {
        let ledger = Ledger::new(Messages::new(5));
        for number in 0..count {
            let batch = ledger.messages().batch(number, number..number + 1);
            ledger.sent(&batch);
            let told = if ledger.messages().is_bad(number) {
                answer(422, &json!({}))
            } else {
                answer(202, &json!({"accepted": 1, "rejected": 0}))
            };
            assert_eq!(ledger.answered(&batch, 0, &told), Verdict::Done);
        }
        ledger
    }

    fn row(ledger: &Ledger, number: u64) -> StoredRow {
        let record = ledger.messages().record(number);
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

    fn rows(ledger: &Ledger, count: u64) -> Vec<StoredRow> {
        (0..count)
            .filter(|number| !ledger.messages().is_bad(*number))
            .map(|number| row(ledger, number))
            .collect()
    }

    fn verdict(ledger: &Ledger, rows: &[StoredRow], dead: &[DeadLetter]) -> Findings {
        ledger.verdict(rows, dead, &BTreeMap::new(), &[])
    }

    #[test]
    fn what_is_stored_as_it_was_sent_is_clean() {
        let ledger = ledger_of(500);
        let findings = verdict(&ledger, &rows(&ledger, 500), &[]);
        assert!(findings.broken().is_empty(), "{:?}", findings.broken());
        assert_eq!((findings.sent, findings.unknown), (500, 0));
        assert!(findings.refused > 0 && findings.accepted + findings.refused == 500);
    }

    #[test]
    fn a_lost_a_double_an_altered_and_a_made_up_row_are_found_each_as_what_it_is() {
        let ledger = ledger_of(50);
        let good = rows(&ledger, 50);
        let mut bad = good.clone();
        bad.remove(0);
        bad.push(good[3].clone());
        bad[7].body.push('!');
        bad.push(StoredRow {
            id: Uuid::nil(),
            ..good[1].clone()
        });
        let found = verdict(&ledger, &bad, &[]);
        let counts = [&found.lost, &found.twice, &found.altered, &found.phantom].map(Vec::len);
        assert_eq!(counts, [1, 1, 1, 1], "{found:?}");
        assert!(found.lost[0].contains("accepted by ingest-0"), "{:?}", found.lost);
    }

    #[test]
    fn a_refused_message_that_is_stored_is_found() {
        let ledger = ledger_of(500);
        let bad = (0..500).find(|number| ledger.messages().is_bad(*number)).unwrap();
        let mut found = rows(&ledger, 500);
        found.push(row(&ledger, bad));
        assert_eq!(verdict(&ledger, &found, &[]).refused_and_stored.len(), 1);
    }

    #[test]
    fn a_message_that_was_never_answered_may_be_stored_once_or_not() {
        let ledger = Ledger::new(Messages::new(5));
        let batch = ledger.messages().batch(0, 1..3);
        ledger.sent(&batch);
        let verdict_of_client = ledger.answered(&batch, 1, &Err(anyhow::anyhow!("reset")));
        assert!(matches!(verdict_of_client, Verdict::Again(_)));
        let once = row(&ledger, 1);
        let found = verdict(&ledger, std::slice::from_ref(&once), &[]);
        assert!(found.broken().is_empty() && found.unknown == 2, "{found:?}");
        assert_eq!(verdict(&ledger, &[once.clone(), once], &[]).twice.len(), 1);
    }

    #[test]
    fn a_dead_letter_must_be_planted_and_what_is_planted_must_be_one() {
        let ledger = ledger_of(5);
        let poison = Messages::poison(0);
        let batch = ledger.messages().batch(9, poison..poison + 1);
        ledger.sent(&batch);
        ledger.answered(&batch, 0, &answer(202, &json!({"accepted": 1, "rejected": 0})));
        let record = ledger.messages().record(poison);
        let now = OffsetDateTime::now_utc().format(&Rfc3339).unwrap();
        let names = ["debug", "info", "warning", "error", "critical"];
        let severity = names[(record.severity_number as usize - 5) / 4];
        let letter = |id: Uuid| DeadLetter {
            body: json!({
                "id": id,
                "severity": severity,
                "source": record.stored_source(),
                "body": record.stored_body(),
                "attributes": record.stored_attributes(),
                "occurred_at": record.occurred_at.as_ref().map_or(now.as_str(), |moment| &moment.text),
                "received_at": now,
            })
            .to_string()
            .into_bytes(),
            reason: REFUSED.to_owned(),
            origin: Some((
                exchange_of(record.severity_number).to_owned(),
                record.stored_source().to_owned(),
            )),
        };
        let rows = rows(&ledger, 5);
        let good = letter(ledger.messages().id(poison));
        let found = verdict(&ledger, &rows, std::slice::from_ref(&good));
        assert!(found.broken().is_empty(), "{found:?}");
        let text = String::from_utf8(good.body.clone()).unwrap();
        for bad in [
            DeadLetter {
                reason: UNDECODABLE.to_owned(),
                ..good.clone()
            },
            DeadLetter {
                origin: Some(("warren.dead".to_owned(), record.stored_source().to_owned())),
                ..good.clone()
            },
            DeadLetter {
                body: text.replace(POISON_SOURCE, "poison.cow").into_bytes(),
                ..good.clone()
            },
        ] {
            assert_eq!(verdict(&ledger, &rows, &[bad]).altered.len(), 1);
        }
        assert_eq!(
            verdict(&ledger, &rows, &[good.clone(), good.clone()]).twice.len(),
            1
        );
        // In the queue it may wait twice: whoever keeps it knows it again.
        let waits = DeadLetter {
            origin: None,
            ..good.clone()
        };
        let found = verdict(&ledger, &rows, &[good, waits.clone(), waits]);
        assert!(found.broken().is_empty(), "{found:?}");
        assert_eq!(verdict(&ledger, &rows, &[]).lost.len(), 1);
        let innocent = [
            letter(ledger.messages().id(poison)),
            letter(ledger.messages().id(1)),
        ];
        assert_eq!(verdict(&ledger, &rows, &innocent).dead_unplanned.len(), 1);
        let silent = DeadLetter {
            reason: String::new(),
            ..letter(ledger.messages().id(poison))
        };
        assert_eq!(verdict(&ledger, &rows, &[silent]).dead_unplanned.len(), 1);
        let planted = BTreeMap::from([(b"noise".to_vec(), "warren.info")]);
        let found = ledger.verdict(&rows, &[letter(ledger.messages().id(poison))], &planted, &[]);
        assert_eq!(
            (found.dead_missing.len(), found.dead_planted),
            (1, 2),
            "{found:?}"
        );
    }

    #[test]
    fn a_message_under_a_key_may_have_any_id_and_not_two() {
        let ledger = Ledger::new(Messages::new(5));
        let batch = ledger.messages().keyed_batch(4, 0..2);
        ledger.sent(&batch);
        let bad = ledger.messages().bad(&batch);
        let told = answer(202, &json!({"accepted": 2 - bad, "rejected": bad}));
        assert_eq!(ledger.answered(&batch, 0, &told), Verdict::Done);
        let any_id = |number: u64| StoredRow {
            id: Uuid::from_u128(number.into()),
            ..row(&ledger, number)
        };
        let rows: Vec<_> = batch.numbers.iter().map(|number| any_id(*number)).collect();
        assert!(verdict(&ledger, &rows, &[]).broken().is_empty());
        let lost = verdict(&ledger, &rows[1..], &[]);
        assert_eq!(lost.lost.len(), 1, "{lost:?}");
        let again = StoredRow {
            id: Uuid::from_u128(77),
            ..rows[0].clone()
        };
        let twice = verdict(&ledger, &[&rows[..], &[again]].concat(), &[]);
        assert_eq!(twice.twice.len(), 1, "{twice:?}");
    }

    #[test]
    fn a_4xx_to_a_good_request_and_a_500_are_surprises() {
        let ledger = Ledger::new(Messages::new(5));
        let batch = ledger.messages().batch(0, 1..2);
        ledger.sent(&batch);
        for status in [422, 500, 503] {
            ledger.answered(&batch, 0, &answer(status, &json!({})));
        }
        assert_eq!(verdict(&ledger, &[], &[]).surprises.len(), 3);
    }
}
