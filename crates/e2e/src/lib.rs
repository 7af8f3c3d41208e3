//! The harness of the end-to-end tests and of the benchmark.
//!
//! It starts the real binaries against real servers, sends generated messages over HTTP, and keeps a [`Ledger`]: what
//! was sent, what was answered with 202, and, read back from the database by a connection of its own, what was
//! stored. Nothing is read through the product. What a message should look like is a function of a seed and a number
//! ([`Generator`]), so that a hundred thousand expectations need no memory.
//!
//! It shares no code with the product, not even its vocabulary: an oracle that used the product's own conversions
//! would agree with every fault in them.

pub mod bed;
pub mod command;
pub mod compare;
pub mod counting;
pub mod environment;
pub mod generate;
pub mod http;
pub mod ledger;
pub mod load;
pub mod metrics;
pub mod mix;
pub mod postgres;
pub mod process;
pub mod rabbit;
pub mod request;
pub mod sqlite;

pub use generate::{Generator, Record};
pub use ledger::{Ledger, StoredRow};
