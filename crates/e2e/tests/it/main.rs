//! The promises, proved from outside: the real programs, real servers, and a ledger.
#![allow(missing_docs, clippy::unwrap_used)]

mod complete;
