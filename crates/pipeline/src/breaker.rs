//! Tells a defect from poison: when suddenly many rows are refused, none of them becomes a dead letter.
//!
//! A row in ten thousand that the store never takes is poison, and a dead letter at once. Hundreds in a minute are a
//! constraint that somebody has added, or a defect of this program: dead-lettered, they would all have to be redriven,
//! after somebody has noticed. So the loop stops and says so, holds what it has, and goes on when the store takes what
//! it refused, or when whoever runs it decides that these are dead letters after all (`worker.breaker_refused`).

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use metrics::{Counter, Gauge, counter, gauge};
use tokio::time::Instant;
use tracing::{error, info};
use warren_domain::ports::{MessageStore, StoreError, Unhealthy};
use warren_domain::{Message, SeverityCounts};

use crate::WorkerConfig;
use crate::metrics::{BREAKER_OPEN, BREAKER_TRIPS, DUPLICATES, STORED, count_by_delivery, count_by_severity};

/// How far back the share of refused rows is looked at.
const WINDOW: Duration = Duration::from_secs(60);

/// How fine the window is: it forgets in steps of this.
const STEP: Duration = Duration::from_secs(1);

/// How many of the refused messages are tried again, in turn: one of them may be poison of its own.
const SAMPLES: usize = 8;

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
    /// How many were refused since the store took any.
    in_a_row: u32,
    open: Option<Open>,
}

#[derive(Debug)]
struct Second {
    began: Instant,
    taken: u64,
    refused: u64,
}

#[derive(Debug)]
struct Open {
    since: Instant,
    /// What was refused, and in which words the last time.
    refusal: String,
    refused: u64,
    /// Some of it, to be tried again; the next one first. To store one of them is always right: its delivery is
    /// held or comes again, and finds it stored.
    samples: VecDeque<Message>,
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
            state.now().taken += messages as u64;
            state.in_a_row = 0;
        });
    }

    /// Notes that the store refuses a message on its own, and decides what becomes of it.
    pub(crate) fn refused(&self, message: &Message, reason: &str) -> Fate {
        if self.most == 0 {
            return Fate::DeadLetter;
        }
        self.with(|state| {
            state.now().refused += 1;
            state.in_a_row = state.in_a_row.saturating_add(1);
            if let Some(open) = &mut state.open {
                open.sample(message);
                return Fate::Held;
            }
            let taken: u64 = state.seconds.iter().map(|second| second.taken).sum();
            let refused: u64 = state.seconds.iter().map(|second| second.refused).sum();
            let many = refused > u64::from(self.most) && refused as f64 > self.share * (refused + taken) as f64;
            if !many && state.in_a_row <= self.most {
                return Fate::DeadLetter;
            }
            let refused = refused.max(u64::from(state.in_a_row));
            error!(
                refused,
                taken,
                reason,
                "the store suddenly refuses many messages: a constraint, or a defect; none of them becomes a dead \
                 letter until it takes one again (worker.breaker_refused)"
            );
            self.open.set(1.0);
            self.trips.increment(1);
            let mut open = Open {
                since: Instant::now(),
                refusal: reason.to_owned(),
                refused,
                samples: VecDeque::with_capacity(SAMPLES),
            };
            open.sample(message);
            state.open = Some(open);
            Fate::Held
        })
    }

    /// Tries one of the refused messages again, if too many were; `Ok` once the store takes it, and while nothing is held.
    ///
    /// # Errors
    /// [`Unhealthy`]: refused rows are still held, and why.
    pub(crate) async fn probe(&self, store: &dyn MessageStore) -> Result<(), Unhealthy> {
        let sample = self.with(|state| {
            let open = state.open.as_mut()?;
            open.samples.rotate_left(1);
            open.samples.back().cloned()
        });
        let Some(sample) = sample else { return Ok(()) };
        let outcome = store.store(std::slice::from_ref(&sample)).await;
        match outcome {
            Ok(stored) => {
                count_by_severity(STORED, &stored.inserted);
                count_by_delivery(DUPLICATES, &SeverityCounts::default(), &stored.duplicates);
                self.with(|state| {
                    if let Some(open) = state.open.take() {
                        let seconds = open.since.elapsed().as_secs_f64();
                        info!(seconds, "the store takes what it refused; going on");
                    }
                    // What was counted is tried again, and counts again if it is still refused.
                    (state.in_a_row, state.seconds) = (0, VecDeque::new());
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

    /// Says why refused rows are held.
    pub(crate) fn why(&self) -> String {
        self.with(|state| state.open.as_ref().map(Open::why).unwrap_or_default())
    }

    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    /// Returns where to count now, and forgets what is too old.
    fn now(&mut self) -> &mut Second {
        let now = Instant::now();
        let old = |second: &mut Second| now.duration_since(second.began) >= WINDOW;
        while self.seconds.pop_front_if(old).is_some() {}
        let current = self.seconds.back();
        if current.is_none_or(|second| now.duration_since(second.began) >= STEP) {
            self.seconds.push_back(Second {
                began: now,
                taken: 0,
                refused: 0,
            });
        }
        let last = self.seconds.len() - 1;
        &mut self.seconds[last]
    }
}

impl Open {
    fn sample(&mut self, message: &Message) {
        if self.samples.len() < SAMPLES && self.samples.iter().all(|known| known.id != message.id) {
            self.samples.push_back(message.clone());
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
