#![allow(missing_docs, clippy::unwrap_used)]

mod backlog;
mod breaker;
mod dead_letters;
mod intake;
mod maintenance;
#[cfg(feature = "planted-bugs")]
mod planted;
mod recorder;
mod spool;
mod store_loop;
mod tail;
mod tail_store;
mod tally;
mod troubles;
