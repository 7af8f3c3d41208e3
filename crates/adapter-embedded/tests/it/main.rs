//! The embedded adapter on real files.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

mod conformance;
mod groups;
mod hostile;
mod kill;
mod letters;
mod limits;
mod opening;
mod reading;
mod reopening;
mod round_trip;
mod selecting;
mod spool;
mod support;
mod tally;
