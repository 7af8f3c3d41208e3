//! The messages table: where messages rest.
//!
//! - [`insert`]: batches in, each message once.
//! - [`retention`]: what is too old goes.
//! - [`read`]: a look at what is there, by sea-orm.

mod insert;
pub(crate) mod read;
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
    _directory: Arc<Directory>,
}

impl Store {
    pub(crate) const fn new(
        database: Arc<Database>,
        queue: Arc<Queue>,
        space: Arc<Space>,
        store_timeout: Duration,
        retention_days: Option<u32>,
        directory: Arc<Directory>,
    ) -> Self {
        Self {
            database,
            queue,
            space,
            store_timeout,
            retention_days,
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
        self.shrink().await.map_err(|error| self.error(error))?;
        self.measure().await.map_err(|error| self.error(error))?;
        self.queue.tend().await;
        Ok(Maintained {
            prepared: Vec::new(),
            removed: removed.into_iter().collect(),
        })
    }
}
