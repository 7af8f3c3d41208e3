//! What is known of a consumer group while the program runs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use sea_orm::sqlx;
use sea_orm::sqlx::sqlite::SqlitePool;
use tokio::sync::watch;
use warren_domain::{Selection, SeveritySet, Timestamp};

use super::head::{Amount, Head};
use super::rows::{FETCH_ROWS, LogRow, find, first, read, within_bounds};
use crate::sync::lock;

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
    selection: Selection,
    state: Mutex<State>,
    /// Held while rows are fetched, so that two members do not fetch the same.
    fetching: tokio::sync::Mutex<()>,
    /// Changes when a row comes back.
    returns: watch::Sender<()>,
}

/// Being in a group; ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Membership {
    pub(crate) group: Arc<Group>,
    /// Changes when a row comes back.
    pub(crate) returns: watch::Receiver<()>,
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.group.leave(Timestamp::now().unix_micros());
    }
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
    /// The first row behind `scanned` when it was last looked for, and when it was received.
    first_unscanned: Option<(i64, i64)>,
    /// The position differs from what the file says.
    dirty: bool,
    members: usize,
    attended_at: i64,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    before: Amount,
    amount: Amount,
    received_at: i64,
    deliveries: u32,
}

impl Group {
    pub(crate) fn new(name: String, selection: Selection, at: Position, attended_at: i64) -> Self {
        Self {
            name,
            selection,
            state: Mutex::new(State {
                scanned: at.cursor,
                taken: at.passed,
                ready: VecDeque::new(),
                returned: BTreeSet::new(),
                open: BTreeMap::new(),
                old_to: at.delivered_to,
                delivered_to: at.delivered_to,
                first_unscanned: None,
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
        self.selection.severities
    }

    pub(crate) const fn selection(&self) -> &Selection {
        &self.selection
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
        head.offered_to(self.selection.severities) - self.position().passed
    }

    /// Returns what waits to be delivered, and what is out: delivered, and neither settled nor given back.
    pub(crate) fn waiting_and_out(&self, head: &Head) -> (Amount, Amount) {
        let state = lock(&self.state);
        let fetched: Amount = state.fetched().map(|(_, open)| open.amount).sum();
        let open: Amount = state.open.values().map(|open| open.amount).sum();
        let mut waiting = head.offered_to(self.selection.severities) - state.taken;
        waiting += fetched;
        (waiting, open - fetched)
    }

    /// Returns when the oldest row that waits to be delivered was received, in microseconds.
    pub(crate) async fn oldest(&self, log: &SqlitePool, head: &Head) -> Result<Option<i64>, sqlx::Error> {
        let scanned = {
            let state = lock(&self.state);
            // Whatever is fetched is older than what is not.
            if let Some((_, open)) = state.fetched().min_by_key(|(seq, _)| *seq) {
                return Ok(Some(open.received_at));
            }
            if state.taken == head.offered_to(self.selection.severities) {
                return Ok(None);
            }
            if let Some((_, received_at)) = state.first_unscanned.filter(|(seq, _)| *seq > state.scanned) {
                return Ok(Some(received_at));
            }
            state.scanned
        };
        // Where the group hears little of a long log this reads all of it; so what it finds is kept.
        let Some((seq, received_at)) = first(log, self.severities(), scanned, head.seq).await? else {
            return Ok(None);
        };
        lock(&self.state).first_unscanned = Some((seq, received_at));
        Ok(Some(received_at))
    }

    /// Drops what waits up to `head`; what is out stays with whoever has it. Returns how many messages that was.
    ///
    /// While something is out that is older, a crash forgets it, and what was dropped comes after all.
    pub(crate) fn skip_waiting(&self, head: &Head) -> u64 {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        let offered = head.offered_to(self.selection.severities);
        let mut dropped = (offered - state.taken).messages;
        let fetched = state.ready.drain(..).map(|row| row.seq);
        for seq in fetched.chain(std::mem::take(&mut state.returned)) {
            dropped += state.open.remove(&seq).map_or(0, |open| open.amount.messages);
        }
        if head.seq > state.scanned {
            state.scanned = head.seq;
            state.taken = offered;
        }
        state.dirty = true;
        dropped
    }

    /// Takes a new member in.
    pub(crate) fn join(self: &Arc<Self>, now: i64) -> Membership {
        let mut state = lock(&self.state);
        state.members += 1;
        state.attended_at = now;
        state.dirty = true;
        drop(state);
        Membership {
            group: Arc::clone(self),
            returns: self.returns.subscribe(),
        }
    }

    /// Ends a membership; what nobody was given yet is fetched again by whoever comes.
    fn leave(&self, now: i64) {
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
                if state.taken == head.offered_to(self.selection.severities) {
                    state.scanned = state.scanned.max(head.seq);
                    return Ok(false);
                }
                Ok(state.scanned)
            } else {
                Err(within_bounds(state.returned.iter().map(|seq| {
                    (*seq, state.open.get(seq).map_or(0, |open| open.amount.bytes))
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
        let found = find(log, self.severities(), after, head.seq).await?;
        let seqs = within_bounds(found.iter().map(|row| (row.seq, row.amount.bytes)));
        let rows = read(log, &seqs).await?;
        let mut state = lock(&self.state);
        if state.scanned != after {
            // Rows were dropped meanwhile; what is left is found again.
            return Ok(true);
        }
        let ends = found.len() < FETCH_ROWS && seqs.len() == found.len();
        for row in found.iter().take(seqs.len()) {
            let open = Open {
                before: state.taken,
                amount: row.amount,
                received_at: row.received_at,
                deliveries: 0,
            };
            state.open.insert(row.seq, open);
            state.taken += row.amount;
            state.scanned = row.seq;
        }
        // Another member may have scanned to a later head.
        if ends && head.seq >= state.scanned {
            state.scanned = state.scanned.max(head.seq);
            state.taken = head.offered_to(self.selection.severities);
        }
        state.ready.extend(rows);
        Ok(!state.ready.is_empty())
    }
}

impl State {
    /// Iterates over the rows that were fetched and are not out, in no order.
    fn fetched(&self) -> impl Iterator<Item = (i64, &Open)> {
        let ready = self.ready.iter().map(|row| row.seq);
        let seqs = ready.chain(self.returned.iter().copied());
        // One that is not open any more was dropped.
        seqs.filter_map(|seq| Some((seq, self.open.get(&seq)?)))
    }

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
