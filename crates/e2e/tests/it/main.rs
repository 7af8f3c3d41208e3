//! The promises, proved from outside: the real programs, real servers, and a ledger.
#![allow(missing_docs, clippy::unwrap_used)]

mod audit;
mod benchmark;
mod command_line;
mod complete;
mod consumers;
mod dead_letters;
mod hostile;
mod hostile_filters;
#[path = "../../../adapter-http/tests/it/hostile_requests/mod.rs"]
#[allow(dead_code)]
mod hostile_requests;
mod idempotency;
mod ids;
mod interop;
mod kill;
mod memory;
mod operator;
mod overview;
mod python;
mod reading;
mod refusals;
mod restart;
mod scenarios;
mod spool;
mod stop;
mod trace;
mod watching;

use tokio::sync::{Mutex, MutexGuard};

/// Waits until no other test with a heavy load runs: two at once would only wait for each other's processor time.
async fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::const_new(());
    ALONE.lock().await
}
