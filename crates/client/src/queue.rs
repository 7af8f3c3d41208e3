//! What a logger holds, and the books over it: plain data under one lock, without waits.

use std::collections::VecDeque;
use std::mem::size_of;

use serde_json::{Map, Value};
use warren_domain::ports::PublishError;
use warren_domain::{Message, Severity, SeverityCounts};

use crate::builder::WhenFull;
use crate::stats::Stats;

/// A message on its way.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) message: Message,
    /// Bytes of memory, roughly.
    weight: usize,
    /// Which flushes wait for it.
    epoch: u64,
}

impl Held {
    pub(crate) fn new(message: Message, most: usize) -> Self {
        // Whatever its weight, a message fits into an empty queue.
        let weight = weight(&message).min(most);
        Self {
            message,
            weight,
            epoch: 0,
        }
    }

    fn severity(&self) -> Severity {
        self.message.severity
    }
}

/// What became of an offer.
#[derive(Debug)]
pub(crate) enum Offer {
    Taken,
    /// Taken, and what was dropped for it was the last that a flush waited for: those who wait are to be told.
    TakenAndFlushed,
    /// Its severity is among the lowest, and there is no room.
    Dropped,
    Closed,
    /// There is no room now, and the policy is to wait.
    NoRoom(Box<Held>),
}

/// How far a logger is on its way to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Open,
    /// Takes nothing more, sends what it has.
    Closing,
    /// Has given up what it had left.
    Abandoned,
    /// The sender is gone.
    Finished,
}

/// How much is held at most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

#[derive(Debug, Default)]
struct Lane {
    waiting: VecDeque<Held>,
    bytes: usize,
    in_flight: u64,
}

#[derive(Debug)]
pub(crate) struct Queue {
    bounds: Bounds,
    when_full: WhenFull,
    /// One for each severity, lowest first.
    lanes: [Lane; 5],
    /// Waiting and in flight.
    held: usize,
    held_bytes: usize,
    /// How many messages of each epoch are on their way, from `first_epoch` on; never empty.
    epochs: VecDeque<u64>,
    first_epoch: u64,
    phase: Phase,
    published: SeverityCounts,
    dropped: SeverityCounts,
    rejected: SeverityCounts,
    failed: SeverityCounts,
    abandoned: SeverityCounts,
    last_failure: Option<String>,
    trouble: Option<String>,
}

impl Queue {
    pub(crate) fn new(bounds: Bounds, when_full: WhenFull) -> Self {
        Self {
            bounds,
            when_full,
            lanes: Default::default(),
            held: 0,
            held_bytes: 0,
            epochs: VecDeque::from([0]),
            first_epoch: 0,
            phase: Phase::Open,
            published: SeverityCounts::default(),
            dropped: SeverityCounts::default(),
            rejected: SeverityCounts::default(),
            failed: SeverityCounts::default(),
            abandoned: SeverityCounts::default(),
            last_failure: None,
            trouble: None,
        }
    }

    pub(crate) const fn phase(&self) -> Phase {
        self.phase
    }

    /// Goes on to a later phase; there is no way back.
    pub(crate) fn enter(&mut self, phase: Phase) {
        self.phase = self.phase.max(phase);
    }

    pub(crate) fn reject(&mut self, severity: Severity) {
        self.rejected.add(severity, 1);
    }

    pub(crate) fn drop_one(&mut self, severity: Severity) {
        self.dropped.add(severity, 1);
    }

    /// Takes a message in if there is room for it, or makes room by the policy; counts it unless it is to wait.
    pub(crate) fn offer(&mut self, held: Held) -> Offer {
        let severity = held.severity();
        if self.phase > Phase::Open {
            self.drop_one(severity);
            return Offer::Closed;
        }
        let first_epoch = self.first_epoch;
        match self.when_full {
            WhenFull::Wait => {
                if !self.fits(&held) {
                    return Offer::NoRoom(Box::new(held));
                }
            }
            WhenFull::DropLowest => {
                if !self.fits(&held) && !self.make_room(&held) {
                    self.drop_one(severity);
                    return Offer::Dropped;
                }
            }
        }
        self.push(held);
        if self.first_epoch == first_epoch {
            Offer::Taken
        } else {
            Offer::TakenAndFlushed
        }
    }

    fn fits(&self, held: &Held) -> bool {
        self.held < self.bounds.messages && self.held_bytes + held.weight <= self.bounds.bytes
    }

    fn push(&mut self, mut held: Held) {
        held.epoch = self.first_epoch + self.epochs.len() as u64 - 1;
        if let Some(open) = self.epochs.back_mut() {
            *open += 1;
        }
        self.held += 1;
        self.held_bytes += held.weight;
        let lane = &mut self.lanes[held.severity().index()];
        lane.bytes += held.weight;
        lane.waiting.push_back(held);
    }

    /// Drops less grave messages for `newcomer`, the lowest severity first, the latest of it first, because the
    /// beginning of a trouble says most about it. Drops nothing if that would not be enough.
    ///
    /// A message that was handed to the publisher is never dropped: it may have arrived.
    fn make_room(&mut self, newcomer: &Held) -> bool {
        let below = &self.lanes[..newcomer.severity().index()];
        let (count, bytes) = below.iter().fold((0, 0), |(count, bytes), lane| {
            (count + lane.waiting.len(), bytes + lane.bytes)
        });
        let room = self.held - count < self.bounds.messages
            && self.held_bytes - bytes + newcomer.weight <= self.bounds.bytes;
        while room && !self.fits(newcomer) {
            let lowest = self.lanes.iter_mut().find(|lane| !lane.waiting.is_empty());
            let Some((lane, held)) = lowest.and_then(|lane| lane.waiting.pop_back().map(|held| (lane, held)))
            else {
                return false;
            };
            lane.bytes -= held.weight;
            self.drop_one(held.severity());
            self.release(&held);
        }
        room
    }

    /// Takes the gravest of what waits, in order, up to so many messages and bytes, but at least one.
    pub(crate) fn take(&mut self, most: Bounds) -> Vec<Held> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        for lane in self.lanes.iter_mut().rev() {
            while let Some(next) = lane.waiting.front() {
                let full = batch.len() >= most.messages || bytes + next.weight > most.bytes;
                if full && !batch.is_empty() {
                    return batch;
                }
                let Some(held) = lane.waiting.pop_front() else {
                    break;
                };
                lane.bytes -= held.weight;
                lane.in_flight += 1;
                bytes += held.weight;
                batch.push(held);
            }
        }
        batch
    }

    /// Counts what became of a batch; returns what is to be repeated.
    ///
    /// `verdict` says for each place why it was not published. After [`Queue::abandon`] nothing is counted any more.
    pub(crate) fn settle(
        &mut self,
        batch: Vec<Held>,
        mut verdict: impl FnMut(usize) -> Option<PublishError>,
        mut again: impl FnMut(&PublishError) -> bool,
    ) -> Vec<Held> {
        if self.phase >= Phase::Abandoned {
            return Vec::new();
        }
        let mut repeated = Vec::new();
        let mut published = false;
        let mut trouble = None;
        for (place, held) in batch.into_iter().enumerate() {
            let severity = held.severity();
            match verdict(place) {
                Some(error) if again(&error) => {
                    trouble = Some(error);
                    repeated.push(held);
                    continue;
                }
                Some(error) => {
                    self.failed.add(severity, 1);
                    self.last_failure = Some(error.to_string());
                }
                None => {
                    published = true;
                    self.published.add(severity, 1);
                }
            }
            self.lanes[severity.index()].in_flight -= 1;
            self.release(&held);
        }
        if let Some(error) = trouble {
            self.trouble = Some(error.to_string());
        } else if published {
            self.trouble = None;
        }
        repeated
    }

    /// Gives up everything on its way: what was never handed over counts as dropped, what was as failed.
    pub(crate) fn abandon(&mut self) {
        if self.phase >= Phase::Abandoned {
            return;
        }
        self.enter(Phase::Abandoned);
        for (severity, lane) in Severity::ALL.into_iter().zip(&mut self.lanes) {
            let never_sent = lane.waiting.len() as u64;
            self.dropped.add(severity, never_sent);
            self.failed.add(severity, lane.in_flight);
            self.abandoned.add(severity, never_sent + lane.in_flight);
            if lane.in_flight > 0 {
                let why = self
                    .trouble
                    .as_deref()
                    .unwrap_or("the publisher has not answered");
                self.last_failure = Some(format!("not confirmed before the logger was closed: {why}"));
            }
            *lane = Lane::default();
        }
        (self.held, self.held_bytes) = (0, 0);
        self.first_epoch += self.epochs.len() as u64;
        self.epochs = VecDeque::from([0]);
    }

    fn release(&mut self, held: &Held) {
        self.held -= 1;
        self.held_bytes -= held.weight;
        if let Some(open) = held
            .epoch
            .checked_sub(self.first_epoch)
            .and_then(|place| self.epochs.get_mut(place as usize))
        {
            *open -= 1;
        }
        while self.epochs.len() > 1 && self.epochs.front() == Some(&0) {
            self.epochs.pop_front();
            self.first_epoch += 1;
        }
    }

    /// Returns a mark that [`Queue::has_passed`] once everything held now is answered for.
    pub(crate) fn mark(&mut self) -> u64 {
        // A new epoch only where the open one holds something: there are never more epochs than messages.
        if self.epochs.back() != Some(&0) {
            self.epochs.push_back(0);
        }
        self.first_epoch + self.epochs.len() as u64 - 1
    }

    pub(crate) fn has_passed(&self, mark: u64) -> bool {
        self.first_epoch >= mark
    }

    /// Tells whether nothing is on its way.
    pub(crate) const fn is_empty(&self) -> bool {
        self.held == 0
    }

    pub(crate) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    pub(crate) const fn abandoned(&self) -> SeverityCounts {
        self.abandoned
    }

    pub(crate) fn stats(&self) -> Stats {
        let mut waiting = SeverityCounts::default();
        for (severity, lane) in Severity::ALL.into_iter().zip(&self.lanes) {
            waiting.add(severity, lane.waiting.len() as u64 + lane.in_flight);
        }
        let mut accepted = waiting;
        accepted += self.published;
        accepted += self.failed;
        Stats {
            accepted,
            published: self.published,
            dropped: self.dropped,
            rejected: self.rejected,
            failed: self.failed,
            waiting,
            last_failure: self.last_failure.clone(),
            trouble: self.trouble.clone(),
        }
    }
}

/// How much memory a message takes, roughly.
fn weight(message: &Message) -> usize {
    size_of::<Held>()
        + message.body.as_str().len()
        + message.source.as_str().len()
        + map_weight(message.attributes.as_map())
}

fn map_weight(map: &Map<String, Value>) -> usize {
    // A node of the map, a string, a value.
    const ENTRY: usize = 2 * size_of::<String>() + size_of::<Value>();
    // The first leaf has room for eleven of them, however few there are.
    const LEAF: usize = 11 * (size_of::<String>() + size_of::<Value>()) + 2 * size_of::<usize>();
    let leaf = if map.is_empty() { 0 } else { LEAF };
    let entries: usize = map
        .iter()
        .map(|(key, value)| ENTRY + key.capacity() + value_weight(value))
        .sum();
    leaf + entries
}

fn value_weight(value: &Value) -> usize {
    match value {
        Value::String(text) => text.capacity(),
        Value::Array(items) => {
            items.capacity() * size_of::<Value>() + items.iter().map(value_weight).sum::<usize>()
        }
        Value::Object(map) => map_weight(map),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
