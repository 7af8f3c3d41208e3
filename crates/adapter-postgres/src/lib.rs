//! PostgreSQL through sea-orm and tokio-postgres: migrations, partitions, store.
//!
//! [`migrate`] brings a database to the schema that this crate knows; [`PostgresStore`] writes to it, keeps its
//! partitions, and says whether it is well; [`PostgresReader`] finds messages again; [`PostgresDeadLetters`] keeps what
//! could not be stored. Everything else is private.
//!
//! `messages` is partitioned by UTC day *through the id*, whose first 48 bits are milliseconds: the primary key holds over
//! all partitions, and so does idempotency, a message delivered again after midnight included; a time range is an id
//! range; and retention drops tables instead of deleting rows. `store` says which way rows take and why, `error` what
//! each failure means to the caller, `counts` how charts avoid scanning messages.

mod claims;
mod config;
mod copy;
mod counts;
mod dead_letters;
mod entity;
mod error;
mod maintenance;
mod metrics;
mod migration;
mod orm;
mod partitions;
mod pool;
mod reader;
mod row;
mod session;
mod store;
mod target;
mod tls;
mod unnest;
mod words;

pub use config::{ConfigError, PostgresConfig, ReaderConfig};
pub use dead_letters::PostgresDeadLetters;
pub use error::ServerFault;
pub use metrics::describe_metrics;
pub use migration::{MigrationReport, migrate};
pub use reader::PostgresReader;
pub use store::PostgresStore;
