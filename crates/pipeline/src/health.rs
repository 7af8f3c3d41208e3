//! Whether a loop is at work.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metrics::Gauge;
use warren_domain::ports::{HealthCheck, Unhealthy};

/// Tells whether a loop is at work or waits for what it needs.
#[derive(Clone)]
pub struct WorkerHealth(Arc<Shared>);

struct Shared {
    name: &'static str,
    /// 1 while something is paused.
    gauge: Gauge,
    state: Mutex<State>,
}

impl fmt::Debug for WorkerHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerHealth")
            .field("name", &self.0.name)
            .field("state", &self.0.state)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct State {
    /// What is told while nothing is paused.
    unpaused: Result<(), Unhealthy>,
    /// How many things wait for what the loop needs.
    paused: usize,
    /// Why the last of them does.
    reason: String,
}

impl WorkerHealth {
    pub(crate) fn new(name: &'static str, gauge: Gauge) -> Self {
        let state = State {
            unpaused: Err(Unhealthy("not started".to_owned())),
            paused: 0,
            reason: String::new(),
        };
        Self(Arc::new(Shared {
            name,
            gauge,
            state: Mutex::new(state),
        }))
    }

    /// Says that something waits, until the guard is dropped.
    pub(crate) fn pause(&self, reason: String) -> Paused {
        let mut state = self.lock();
        state.paused += 1;
        state.reason = reason;
        self.0.gauge.set(1.0);
        drop(state);
        Paused(self.clone())
    }

    /// Sets what is told while nothing is paused.
    pub(crate) fn set(&self, unpaused: Result<(), Unhealthy>) {
        self.lock().unpaused = unpaused;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait::async_trait]
impl HealthCheck for WorkerHealth {
    fn name(&self) -> &'static str {
        self.0.name
    }

    async fn check(&self) -> Result<(), Unhealthy> {
        let state = self.lock();
        if state.paused > 0 {
            return Err(Unhealthy(state.reason.clone()));
        }
        state.unpaused.clone()
    }
}

/// Something that waits; ends when it is dropped, also by a panic or an abort.
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
            self.0.0.gauge.set(0.0);
        }
    }
}
