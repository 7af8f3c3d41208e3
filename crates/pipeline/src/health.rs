//! Whether the store loop is at work.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metrics::gauge;
use warren_domain::ports::{HealthCheck, Unhealthy};

use crate::metrics::PAUSED;

/// Tells whether the store loop is at work or waits for the store.
#[derive(Clone, Debug)]
pub struct WorkerHealth(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// What is told while nothing is paused.
    unpaused: Result<(), Unhealthy>,
    /// How many things wait for the store.
    paused: usize,
    /// Why the last of them does.
    reason: String,
}

impl Default for WorkerHealth {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State {
            unpaused: Err(Unhealthy("not started".to_owned())),
            paused: 0,
            reason: String::new(),
        })))
    }
}

impl WorkerHealth {
    /// Says that something waits for the store, until the guard is dropped.
    pub(crate) fn pause(&self, reason: String) -> Paused {
        let mut state = self.lock();
        state.paused += 1;
        state.reason = reason;
        gauge!(PAUSED).set(1.0);
        drop(state);
        Paused(self.clone())
    }

    /// Sets what is told while nothing is paused.
    pub(crate) fn set(&self, unpaused: Result<(), Unhealthy>) {
        self.lock().unpaused = unpaused;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait::async_trait]
impl HealthCheck for WorkerHealth {
    fn name(&self) -> &'static str {
        "store_loop"
    }

    async fn check(&self) -> Result<(), Unhealthy> {
        let state = self.lock();
        if state.paused > 0 {
            return Err(Unhealthy(state.reason.clone()));
        }
        state.unpaused.clone()
    }
}

/// Something that waits for the store; ends when it is dropped, also by a panic or an abort.
#[derive(Debug)]
pub(crate) struct Paused(WorkerHealth);

impl Paused {
    /// Says why it goes on.
    pub(crate) fn because(&self, reason: String) {
        self.0.lock().reason = reason;
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.paused -= 1;
        if state.paused == 0 {
            gauge!(PAUSED).set(0.0);
        }
    }
}
