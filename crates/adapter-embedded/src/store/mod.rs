//! The messages table: where messages rest.
//!
//! - [`insert`]: batches in, each message once; each batch one [`Transaction`](crate::transaction::Transaction).
//! - [`claims`]: what came under the key of a request is stored once, whatever its id.
//! - [`retention`]: what is too old goes.

mod claims;
mod insert;
mod retention;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::timeout;
use warren_domain::ports::{Maintained, MessageStore, StoreError, StoreMaintenance, Stored};
use warren_domain::{Message, Timestamp};

use crate::database::Database;
use crate::directory::Directory;
use crate::error::store_error;
use crate::queue::Queue;
use crate::space::Space;

/// Stores messages in `store.db`.
///
/// Batches are written one after another: SQLite has one writer. `embedded.max_bytes` never stops it, for the room
/// was reserved when the messages were queued; only a full disk does.
#[derive(Debug)]
pub(crate) struct Store {
    database: Arc<Database>,
    queue: Arc<Queue>,
    space: Arc<Space>,
    store_timeout: Duration,
    retention_days: Option<u32>,
    idempotency_keep: Duration,
    _directory: Arc<Directory>,
}

impl Store {
    pub(crate) const fn new(
        database: Arc<Database>,
        queue: Arc<Queue>,
        space: Arc<Space>,
        store_timeout: Duration,
        retention_days: Option<u32>,
        idempotency_keep: Duration,
        directory: Arc<Directory>,
    ) -> Self {
        Self {
            database,
            queue,
            space,
            store_timeout,
            retention_days,
            idempotency_keep,
            _directory: directory,
        }
    }

    fn error(&self, error: sea_orm::sqlx::Error) -> StoreError {
        store_error(error, self.database.path())
    }

    /// Measures what the store takes on the disk.
    pub(crate) async fn measure(&self) -> Result<(), sea_orm::sqlx::Error> {
        let mut connection = self.database.read_pool().acquire().await?;
        let footprint = self.database.footprint(&mut connection).await?;
        self.space.set_store(footprint);
        Ok(())
    }

    /// Lets the write-ahead log begin anew when those who read have kept it from that.
    pub(crate) async fn tend_log(&self) -> Result<(), sea_orm::sqlx::Error> {
        if self.space.is_store_log_large() {
            self.database.begin_log_anew().await?;
        }
        Ok(())
    }
}

#[async_trait]
impl MessageStore for Store {
    async fn store(&self, batch: &[Message]) -> Result<Stored, StoreError> {
        if batch.is_empty() {
            return Ok(Stored::default());
        }
        timeout(self.store_timeout, self.insert(batch))
            .await
            .unwrap_or_else(|_| {
                Err(StoreError::Unavailable {
                    reason: format!(
                        "{} did not take the batch within embedded.store_timeout of {:?}; check the disk",
                        self.database.path().display(),
                        self.store_timeout
                    ),
                    cause: None,
                })
            })
    }
}

#[async_trait]
impl StoreMaintenance for Store {
    async fn maintain(&self, now: Timestamp) -> Result<Maintained, StoreError> {
        let removed = self.remove_outdated(now).await?;
        self.forget_tokens(now).await?;
        self.shrink().await.map_err(|error| self.error(error))?;
        self.measure().await.map_err(|error| self.error(error))?;
        self.queue.tend().await;
        Ok(Maintained {
            prepared: Vec::new(),
            removed: removed.into_iter().collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use sea_orm::sqlx::{self, AssertSqlSafe};
    use warren_adapter_conformance::samples::{message, messages};
    use warren_domain::Severity;

    use super::*;
    use crate::schema::StoreMigrator;

    async fn database(directory: &std::path::Path) -> Database {
        Database::open::<StoreMigrator>(directory.join("store.db"), 1 << 20, "embedded.path")
            .await
            .unwrap()
    }

    async fn run(database: &Database, sql: &'static str) {
        sqlx::query(AssertSqlSafe(sql))
            .execute(&mut *database.writer().await.unwrap())
            .await
            .unwrap();
    }

    /// As SQLite does when a write or a commit finds the disk full.
    #[tokio::test]
    async fn a_transaction_that_sqlite_ends_by_itself_spares_the_next_one() {
        let directory = tempfile::tempdir().unwrap();
        let database = database(directory.path()).await;
        let batch = messages(10);
        let batch: Vec<_> = batch.iter().collect();
        run(
            &database,
            "create trigger ending before insert on messages begin select raise(rollback, 'ended'); end",
        )
        .await;
        for _ in 0..3 {
            let error = insert::insert_all(&database, &batch).await.unwrap_err();
            assert!(error.to_string().contains("ended"), "{error}");
        }
        run(&database, "drop trigger ending").await;
        assert!(insert::insert_all(&database, &batch).await.unwrap().is_some());
        assert!(insert::insert_all(&database, &batch).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_full_disk_fails_a_batch_and_spares_the_next_one() {
        let directory = tempfile::tempdir().unwrap();
        let database = database(directory.path()).await;
        let large: Vec<_> = (0..300)
            .map(|_| message(Severity::Info, "bulk", &"x".repeat(5_000)))
            .collect();
        let large: Vec<_> = large.iter().collect();
        for _ in 0..3 {
            // The limit belongs to the connection, so it ends with one that is taken out of use.
            run(&database, "pragma max_page_count = 40").await;
            let error = insert::insert_all(&database, &large).await.unwrap_err();
            assert!(
                matches!(store_error(error, database.path()), StoreError::Unavailable { reason, .. }
                    if reason.contains("is full"))
            );
        }
        run(&database, "pragma max_page_count = 1000000").await;
        assert!(insert::insert_all(&database, &large).await.unwrap().is_some());
        assert!(insert::insert_all(&database, &large).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_future_dropped_in_the_middle_leaves_no_transaction_open() {
        let directory = tempfile::tempdir().unwrap();
        let database = database(directory.path()).await;
        let batch = messages(2_000);
        let batch: Vec<_> = batch.iter().collect();
        for polls in 0..12 {
            let mut storing = Box::pin(insert::insert_all(&database, &batch));
            for _ in 0..polls {
                if timeout(Duration::from_micros(50), &mut storing).await.is_ok() {
                    return;
                }
            }
            drop(storing);
            insert::insert_all(&database, &batch[..10]).await.unwrap();
        }
    }
}
