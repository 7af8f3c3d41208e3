#![allow(missing_docs, clippy::unwrap_used)]

mod intake;
mod maintenance;
mod recorder;
mod store_loop;
mod tally;
mod troubles;
