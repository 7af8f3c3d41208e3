//! Tells a defect from poison: when suddenly many rows are refused, none of them becomes a dead letter.
//!
//! A row in ten thousand that the store never takes is poison, and a dead letter at once. Hundreds in a minute are a
//! constraint that somebody has added, or a defect of this program: dead-lettered, they would all have to be redriven,
//! after somebody has noticed. So the loop stops and says so, holds what it has, and goes on when the store takes what
//! it refused, or when whoever runs it decides that these are dead letters after all (`worker.breaker_refused`).

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use metrics::{Counter, Gauge, counter, gauge};
use tokio::time::Instant;
use tracing::{error, info};
use warren_domain::ports::{MessageStore, StoreError, Unhealthy};
use warren_domain::{Message, MessageId, SeverityCounts};

use crate::WorkerConfig;
use crate::metrics::{BREAKER_OPEN, BREAKER_TRIPS, STORED, count_by_severity};

/// How far back the share of refused rows is looked at.
const WINDOW: Duration = Duration::from_secs(60);

/// How fine the window is: it forgets in steps of this.
const STEP: Duration = Duration::from_secs(1);

/// How many of the refused messages are tried again, in turn, once their deliveries are given back; any of them may be
/// poison of its own.
const SAMPLES: usize = 8;

/// How many messages that were stored by being tried again are known as that; each has opened the way once.
const PROBED: usize = 64;

/// What a refused row becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    DeadLetter,
    /// Too many are refused: it is held until the store is asked again.
    Held,
}

/// Counts what the store takes and refuses, over all batches of a loop.
pub(crate) struct Breaker {
    most: u32,
    share: f64,
    state: Mutex<State>,
    open: Gauge,
    trips: Counter,
}

#[derive(Debug, Default)]
struct State {
    /// The last minute, the oldest second first.
    seconds: VecDeque<Second>,
    /// What was refused within the last minute, and when first. A message whose dead letter cannot be written is
    /// delivered and refused over and over, and tells no more than once.
    refused: HashMap<MessageId, Instant>,
    /// When the store last took any.
    taken_at: Option<Instant>,
    open: Option<Open>,
    /// What was stored by being tried again, and not by its batch yet.
    probed: VecDeque<MessageId>,
}

#[derive(Debug)]
struct Second {
    began: Instant,
    taken: u64,
}

#[derive(Debug)]
struct Open {
    since: Instant,
    /// What was refused, and in which words the last time.
    refusal: String,
    refused: usize,
    /// Some of what is held or was given back, any of it as likely as any other, to be tried again; the next one first.
    /// To store one of them is always right: its delivery is held or comes again, and finds it stored.
    samples: VecDeque<Message>,
    /// How many the samples are of.
    sampled: usize,
}

impl std::fmt::Debug for Breaker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Breaker")
            .field("most", &self.most)
            .field("share", &self.share)
            .finish_non_exhaustive()
    }
}

impl Breaker {
    pub(crate) fn new(config: &WorkerConfig) -> Self {
        let open = gauge!(BREAKER_OPEN);
        open.set(0.0);
        let trips = counter!(BREAKER_TRIPS);
        trips.increment(0);
        Self {
            most: config.breaker_refused,
            share: config.breaker_share,
            state: Mutex::default(),
            open,
            trips,
        }
    }

    /// Notes that the store has taken so many.
    pub(crate) fn taken(&self, messages: usize) {
        self.with(|state| {
            let now = state.forget_old();
            state.second(now).taken += messages as u64;
            state.taken_at = Some(now);
        });
    }

    /// Notes that the store refuses a message on its own, and decides what becomes of it.
    pub(crate) fn refused(&self, message: &Message, reason: &str) -> Fate {
        if self.most == 0 {
            return Fate::DeadLetter;
        }
        self.with(|state| {
            let now = state.forget_old();
            state.refused.entry(message.id).or_insert(now);
            if state.open.is_some() {
                return Fate::Held;
            }
            let taken: u64 = state.seconds.iter().map(|second| second.taken).sum();
            let refused = state.refused.len();
            let many = |refused: usize| refused as u64 > u64::from(self.most);
            let large = refused as f64 > self.share * (refused as f64 + taken as f64);
            if !(many(refused) && (large || many(state.in_a_row()))) {
                return Fate::DeadLetter;
            }
            error!(
                refused,
                taken,
                reason,
                "the store suddenly refuses many messages: a constraint, or a defect; none of them becomes a dead \
                 letter until it takes one again (worker.breaker_refused)"
            );
            self.open.set(1.0);
            self.trips.increment(1);
            state.open = Some(Open {
                since: now,
                refusal: reason.to_owned(),
                refused,
                samples: VecDeque::with_capacity(SAMPLES),
                sampled: 0,
            });
            Fate::Held
        })
    }

    /// Notes messages that a batch holds, for the time after it has given them back.
    pub(crate) fn holds<'a>(&self, messages: impl Iterator<Item = &'a Message>) {
        self.with(|state| {
            if let Some(open) = &mut state.open {
                messages.for_each(|message| open.sample(message));
            }
        });
    }

    /// Tries one of the refused messages again that nobody holds any more; `Ok` once the store takes it, and while
    /// nothing is refused.
    ///
    /// # Errors
    /// [`Unhealthy`]: too many are still refused, and why.
    pub(crate) async fn probe(&self, store: &dyn MessageStore) -> Result<(), Unhealthy> {
        let sample = self.with(|state| {
            let open = state.open.as_mut()?;
            open.samples.rotate_left(1);
            open.samples.back().cloned()
        });
        match sample {
            Some(sample) => self.try_again(store, &sample).await,
            None => Ok(()),
        }
    }

    /// Tries a refused message again; `Ok` once the store takes it, and while nothing is refused.
    ///
    /// # Errors
    /// [`Unhealthy`]: too many are still refused, and why.
    pub(crate) async fn try_again(
        &self,
        store: &dyn MessageStore,
        message: &Message,
    ) -> Result<(), Unhealthy> {
        if self.with(|state| state.open.is_none()) {
            return Ok(());
        }
        match store.store(std::slice::from_ref(message)).await {
            Ok(stored) => {
                count_by_severity(STORED, &stored.inserted);
                self.with(|state| {
                    if stored.inserted != SeverityCounts::default() {
                        state.probed.truncate(PROBED - 1);
                        state.probed.push_front(message.id);
                    }
                    if let Some(open) = state.open.take() {
                        let seconds = open.since.elapsed().as_secs_f64();
                        info!(seconds, "the store takes what it refused; going on");
                    }
                    // What was counted is tried again, and counts again if it is still refused.
                    state.seconds.clear();
                    state.refused.clear();
                });
                self.open.set(0.0);
                Ok(())
            }
            Err(failure) => Err(Unhealthy(self.with(|state| {
                let Some(open) = &mut state.open else {
                    return failure.to_string();
                };
                if let StoreError::Rejected { reason, .. } = &failure {
                    open.refusal.clone_from(reason);
                }
                open.why()
            }))),
        }
    }

    /// Counts, and forgets, those messages of a batch that were stored, and counted, by being tried again: that the
    /// store knows them already makes no duplicates of them.
    pub(crate) fn probed_in(&self, messages: &[Message]) -> SeverityCounts {
        self.with(|state| {
            let mut counts = SeverityCounts::default();
            state.probed.retain(|id| {
                let found = messages.iter().find(|message| message.id == *id);
                found.iter().for_each(|message| counts.add(message.severity, 1));
                found.is_none()
            });
            counts
        })
    }

    /// Says why refused rows are held.
    pub(crate) fn why(&self) -> String {
        self.with(|state| state.open.as_ref().map(Open::why).unwrap_or_default())
    }

    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    /// Forgets what is too old, and returns what time it is.
    fn forget_old(&mut self) -> Instant {
        let now = Instant::now();
        let old = |at: Instant| now.duration_since(at) >= WINDOW;
        while self.seconds.pop_front_if(|second| old(second.began)).is_some() {}
        self.refused.retain(|_, at| !old(*at));
        now
    }

    /// Returns where to count now.
    fn second(&mut self, now: Instant) -> &mut Second {
        let current = self.seconds.back();
        if current.is_none_or(|second| now.duration_since(second.began) >= STEP) {
            self.seconds.push_back(Second { began: now, taken: 0 });
        }
        let last = self.seconds.len() - 1;
        &mut self.seconds[last]
    }

    /// Counts what was refused since the store took any.
    fn in_a_row(&self) -> usize {
        let since = |at: &&Instant| self.taken_at.is_none_or(|taken_at| **at > taken_at);
        self.refused.values().filter(since).count()
    }
}

impl Open {
    /// Keeps each message with the same chance, as of all that were seen.
    fn sample(&mut self, message: &Message) {
        if self.samples.iter().any(|known| known.id == message.id) {
            return;
        }
        self.sampled += 1;
        if self.samples.len() < SAMPLES {
            self.samples.push_back(message.clone());
        } else if let Some(sample) = self.samples.get_mut(fastrand::usize(..self.sampled)) {
            *sample = message.clone();
        }
    }

    fn why(&self) -> String {
        format!(
            "the store suddenly refuses many messages, {} within a minute; the last: {}. None of them becomes a dead \
             letter; mend the store, or set worker.breaker_refused to 0 to have them dead-lettered",
            self.refused, self.refusal
        )
    }
}
