//! SQLite through sea-orm: a durable queue with consumer groups, and a store; no server.
//!
//! One directory, two files: `queue.db` holds a log of packed messages with a cursor for each consumer group, and the
//! dead letters; `store.db` holds the messages table. Both run with a write-ahead log and `synchronous = full`, which
//! is asserted when they are opened, so what is committed survives a crash of the process and of the machine.
//!
//! Beside them, and independent of them, a file for each consumer group that counts: its book ([`EmbeddedTally`]), which
//! the members of the group on one machine share.
//!
//! The queue alone, in a directory of its own, is a spool ([`SpoolQueue`]): what a program puts by while a broker is away.
//!
//! # What it is not
//!
//! One process, no clustering, no replica: a lost disk loses its messages. A second process on the same directory is
//! refused; a book may have many.

mod config;
mod database;
mod directory;
mod embedded;
mod entity;
mod error;
mod health;
mod log_gate;
mod metrics;
mod queue;
mod reader;
mod schema;
mod section;
mod space;
mod spool;
mod store;
mod stuck;
mod sync;
mod tally;
mod transaction;

pub use self::metrics::describe_metrics;
pub use config::{EmbeddedConfig, ReaderConfig, SpoolConfig};
pub use embedded::Embedded;
pub use error::OpenError;
pub use reader::EmbeddedReader;
pub use spool::SpoolQueue;
pub use tally::EmbeddedTally;
