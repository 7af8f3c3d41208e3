//! What is known of a consumer group while the program runs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Mutex;

use sea_orm::sqlx::sqlite::SqlitePool;
use sea_orm::sqlx::{self, AssertSqlSafe, Row as _};
use tokio::sync::watch;
use warren_domain::{Severity, SeveritySet};

use super::head::{Amount, Head};
use crate::sync::lock;

/// How many rows one fetch brings into memory.
const FETCH_ROWS: usize = 64;
/// How many bytes one fetch brings into memory, beyond its first row.
const FETCH_BYTES: u64 = 4 << 20;

/// A row of the log, fetched for a group.
#[derive(Debug)]
pub(crate) struct LogRow {
    pub(crate) seq: i64,
    pub(crate) severity: i64,
    pub(crate) received_at: i64,
    pub(crate) traces: String,
    pub(crate) lines: Vec<u8>,
}

/// How often a row was delivered before, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Delivered {
    pub(crate) attempt: u32,
    pub(crate) redelivered: bool,
}

/// Where a group stands: what its row in `groups` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    /// Every row up to here is settled, or of no interest to the group.
    pub(crate) cursor: i64,
    /// What the rows of the group's severities up to there held.
    pub(crate) passed: Amount,
    /// Rows up to here may have been delivered.
    pub(crate) delivered_to: i64,
}

/// A consumer group: its members share it, and with it the rows that are fetched, out and come back.
#[derive(Debug)]
pub(crate) struct Group {
    name: String,
    severities: SeveritySet,
    state: Mutex<State>,
    /// Held while rows are fetched, so that two members do not fetch the same.
    fetching: tokio::sync::Mutex<()>,
    /// Changes when a row comes back.
    returns: watch::Sender<()>,
}

#[derive(Debug)]
struct State {
    /// Every row up to here was fetched, or is of no interest.
    scanned: i64,
    /// What the rows fetched so far held, from the beginning of the group.
    taken: Amount,
    /// Fetched, not yet delivered.
    ready: VecDeque<LogRow>,
    /// To be fetched again.
    returned: BTreeSet<i64>,
    /// Fetched and not settled: the first of them holds the cursor.
    open: BTreeMap<i64, Open>,
    /// Rows up to here may have been delivered by an earlier process.
    old_to: i64,
    delivered_to: i64,
    /// The position differs from what the file says.
    dirty: bool,
    members: usize,
    attended_at: i64,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    before: Amount,
    bytes: u64,
    deliveries: u32,
}

impl Group {
    pub(crate) fn new(name: String, severities: SeveritySet, at: Position, attended_at: i64) -> Self {
        Self {
            name,
            severities,
            state: Mutex::new(State {
                scanned: at.cursor,
                taken: at.passed,
                ready: VecDeque::new(),
                returned: BTreeSet::new(),
                open: BTreeMap::new(),
                old_to: at.delivered_to,
                delivered_to: at.delivered_to,
                dirty: false,
                members: 0,
                attended_at,
            }),
            fetching: tokio::sync::Mutex::new(()),
            returns: watch::Sender::new(()),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) const fn severities(&self) -> SeveritySet {
        self.severities
    }

    pub(crate) fn returns(&self) -> watch::Receiver<()> {
        self.returns.subscribe()
    }

    pub(crate) fn position(&self) -> Position {
        lock(&self.state).position()
    }

    /// Returns the position once `settled` are settled too, and whether it differs from what the file says; from
    /// now on it is taken not to.
    pub(crate) fn take_position(&self, settled: &BTreeSet<i64>) -> (Position, bool) {
        let mut state = lock(&self.state);
        (state.position_without(settled), std::mem::take(&mut state.dirty))
    }

    pub(crate) fn set_dirty(&self) {
        lock(&self.state).dirty = true;
    }

    /// Returns what is offered to the group and not settled, rows out among it.
    pub(crate) fn lag(&self, head: &Head) -> Amount {
        head.offered_to(self.severities) - self.position().passed
    }

    pub(crate) fn join(&self, now: i64) {
        let mut state = lock(&self.state);
        state.members += 1;
        state.attended_at = now;
        state.dirty = true;
    }

    /// Ends a membership; what nobody was given yet is fetched again by whoever comes.
    pub(crate) fn leave(&self, now: i64) {
        let mut state = lock(&self.state);
        state.members -= 1;
        state.attended_at = now;
        state.dirty = true;
        let waiting: Vec<_> = state.ready.drain(..).map(|row| row.seq).collect();
        state.returned.extend(waiting);
        drop(state);
        self.returns.send_replace(());
    }

    /// Returns when the group last had a member: `now`, where it has one.
    pub(crate) fn attended_at(&self, now: i64) -> i64 {
        let state = lock(&self.state);
        if state.members > 0 { now } else { state.attended_at }
    }

    pub(crate) fn has_members(&self) -> bool {
        lock(&self.state).members > 0
    }

    /// Has the attendance written down when what the file says is older than `stale` microseconds.
    pub(crate) fn note_attendance(&self, now: i64, stale: i64) {
        let mut state = lock(&self.state);
        if state.members > 0 && now - state.attended_at > stale {
            state.attended_at = now;
            state.dirty = true;
        }
    }

    /// Tells which row is next, and how many bytes it holds.
    pub(crate) fn peek(&self) -> Option<(i64, usize)> {
        let mut state = lock(&self.state);
        loop {
            let row = state.ready.front()?;
            let (seq, size) = (row.seq, row.lines.len());
            if state.open.contains_key(&seq) {
                return Some((seq, size));
            }
            // Dropped while it was fetched.
            state.ready.pop_front();
        }
    }

    /// Takes the row `seq` if it is still next; it is then out until it is settled or given back.
    pub(crate) fn take(&self, seq: i64) -> Option<(LogRow, Delivered)> {
        let mut state = lock(&self.state);
        let row = state.ready.pop_front_if(|row| row.seq == seq)?;
        let old = seq <= state.old_to;
        state.delivered_to = state.delivered_to.max(seq);
        let open = state.open.get_mut(&seq)?;
        open.deliveries += 1;
        let attempt = open.deliveries + u32::from(old);
        let delivered = Delivered {
            attempt,
            redelivered: attempt > 1,
        };
        Some((row, delivered))
    }

    /// Takes a row off those that are out.
    pub(crate) fn settle(&self, seq: i64) {
        let mut state = lock(&self.state);
        state.dirty = true;
        state.open.remove(&seq);
    }

    /// Takes a row off those that are out, whose position is kept already.
    pub(crate) fn buried(&self, seq: i64) {
        lock(&self.state).open.remove(&seq);
    }

    /// Has a row that is out delivered again.
    pub(crate) fn give_back(&self, seq: i64) {
        let mut state = lock(&self.state);
        if state.open.contains_key(&seq) {
            state.returned.insert(seq);
            drop(state);
            self.returns.send_replace(());
        }
    }

    /// Drops everything up to `cursor`, where `passed` had been offered; returns how many messages that was.
    pub(crate) fn skip_to(&self, cursor: i64, passed: Amount) -> u64 {
        let mut state = lock(&self.state);
        let dropped = passed.messages.saturating_sub(state.position().passed.messages);
        state.open.retain(|seq, _| *seq > cursor);
        state.ready.retain(|row| row.seq > cursor);
        state.returned.retain(|seq| *seq > cursor);
        if cursor > state.scanned {
            state.scanned = cursor;
            state.taken = passed;
        }
        state.dirty = true;
        dropped
    }

    /// Brings rows into memory until some are ready; `false`: there are none up to `head`.
    ///
    /// Cancel safe: a row counts as fetched only once it is here.
    pub(crate) async fn fetch(&self, log: &SqlitePool, head: &Head) -> Result<bool, sqlx::Error> {
        let _fetching = self.fetching.lock().await;
        let after = {
            let mut state = lock(&self.state);
            if !state.ready.is_empty() {
                return Ok(true);
            }
            if state.returned.is_empty() {
                if state.taken == head.offered_to(self.severities) {
                    state.scanned = state.scanned.max(head.seq);
                    return Ok(false);
                }
                Ok(state.scanned)
            } else {
                Err(within_bounds(state.returned.iter().map(|seq| {
                    (*seq, state.open.get(seq).map_or(0, |open| open.bytes))
                })))
            }
        };
        match after {
            Err(returned) => {
                let rows = read(log, &returned).await?;
                let mut state = lock(&self.state);
                for seq in returned {
                    state.returned.remove(&seq);
                }
                state.ready.extend(rows);
                Ok(!state.ready.is_empty())
            }
            Ok(after) => self.scan(log, head, after).await,
        }
    }

    async fn scan(&self, log: &SqlitePool, head: &Head, after: i64) -> Result<bool, sqlx::Error> {
        let found = self.find(log, after, head.seq).await?;
        let seqs = within_bounds(found.iter().map(|(seq, amount)| (*seq, amount.bytes)));
        let rows = read(log, &seqs).await?;
        let mut state = lock(&self.state);
        if state.scanned != after {
            // Rows were dropped meanwhile; what is left is found again.
            return Ok(true);
        }
        let ends = found.len() < FETCH_ROWS && seqs.len() == found.len();
        for (seq, amount) in found.iter().take(seqs.len()) {
            let open = Open {
                before: state.taken,
                bytes: amount.bytes,
                deliveries: 0,
            };
            state.open.insert(*seq, open);
            state.taken += *amount;
            state.scanned = *seq;
        }
        if ends {
            state.scanned = state.scanned.max(head.seq);
            state.taken = head.offered_to(self.severities);
        }
        state.ready.extend(rows);
        Ok(!state.ready.is_empty())
    }

    /// Lists the group's next rows without what is in them.
    async fn find(&self, log: &SqlitePool, after: i64, to: i64) -> Result<Vec<(i64, Amount)>, sqlx::Error> {
        let sql = format!(
            "select seq, messages, length(lines) from log where seq > ? and seq <= ? and {} order by seq \
             limit {FETCH_ROWS}",
            heard(self.severities)
        );
        sqlx::query(AssertSqlSafe(sql))
            .bind(after)
            .bind(to)
            .fetch_all(log)
            .await?
            .into_iter()
            .map(|row| Ok((row.try_get(0)?, Amount::read(&row, 1)?)))
            .collect()
    }
}

impl State {
    fn position(&self) -> Position {
        self.position_without(&BTreeSet::new())
    }

    fn position_without(&self, settled: &BTreeSet<i64>) -> Position {
        let first = self.open.iter().find(|(seq, _)| !settled.contains(seq));
        let (cursor, passed) = match first {
            Some((seq, open)) => (seq - 1, open.before),
            None => (self.scanned, self.taken),
        };
        Position {
            cursor,
            passed,
            delivered_to: self.delivered_to,
        }
    }
}

/// Writes the condition that a row of the log is of one of `severities`.
pub(crate) fn heard(severities: SeveritySet) -> String {
    if severities == SeveritySet::ALL {
        return "true".to_owned();
    }
    let numbers: Vec<_> = severities
        .iter()
        .map(|severity| Severity::number(severity).to_string())
        .collect();
    format!("severity in ({})", numbers.join(","))
}

/// Takes from the front as many rows as may be in memory at once, at least one.
fn within_bounds(rows: impl Iterator<Item = (i64, u64)>) -> Vec<i64> {
    let mut sum = 0;
    let mut taken = Vec::new();
    for (seq, bytes) in rows.take(FETCH_ROWS) {
        sum += bytes;
        if sum > FETCH_BYTES && !taken.is_empty() {
            break;
        }
        taken.push(seq);
    }
    taken
}

async fn read(log: &SqlitePool, seqs: &[i64]) -> Result<Vec<LogRow>, sqlx::Error> {
    if seqs.is_empty() {
        return Ok(Vec::new());
    }
    let list = serde_json::to_string(seqs).map_err(|error| sqlx::Error::Encode(error.into()))?;
    sqlx::query(
        "select seq, severity, received_at, traces, lines from log \
         where seq in (select value from json_each(?)) order by seq",
    )
    .bind(list)
    .fetch_all(log)
    .await?
    .into_iter()
    .map(|row| {
        Ok(LogRow {
            seq: row.try_get(0)?,
            severity: row.try_get(1)?,
            received_at: row.try_get(2)?,
            traces: row.try_get(3)?,
            lines: row.try_get(4)?,
        })
    })
    .collect()
}
