//! The schema of every file, step by step.

mod m0001_queue;
mod m0001_store;
mod m0001_tally;
mod m0002_idempotency;
mod m0002_packets;
mod m0003_dead_letters;

use sea_orm_migration::prelude::*;

/// The schema of `queue.db`.
pub(crate) struct QueueMigrator;

impl MigratorTrait for QueueMigrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m0001_queue::Step),
            Box::new(m0002_packets::Step),
            Box::new(m0003_dead_letters::Step),
        ]
    }
}

/// The schema of `store.db`.
pub(crate) struct StoreMigrator;

impl MigratorTrait for StoreMigrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![Box::new(m0001_store::Step), Box::new(m0002_idempotency::Step)]
    }
}

/// The schema of a book of counts.
pub(crate) struct TallyMigrator;

impl MigratorTrait for TallyMigrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![Box::new(m0001_tally::Step)]
    }
}

/// Appended to every table: SQLite then refuses a value of another type, as other databases do.
const STRICT: &str = "strict";
/// For tables that are looked up by a small key only: one b-tree instead of two.
const STRICT_BY_KEY: &str = "strict, without rowid";
