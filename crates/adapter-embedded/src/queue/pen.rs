//! The connection that writes the log, for as long as its disk does.

use std::sync::Arc;

use sea_orm::sqlx::pool::PoolConnection;
use sea_orm::sqlx::sqlite::SqliteConnection;
use sea_orm::sqlx::{self, Sqlite};

use crate::database::Database;
use crate::error::fault;
use crate::health::Condition;

/// The one connection that writes; it is out of reach once a write or a sync has failed.
///
/// What the kernel holds of a file after that is not what is on the disk, and a second sync that succeeds proves
/// nothing. So nothing more is written, not even by SQLite itself, which moves the write-ahead log into the file when
/// its last connection closes: this one is left open for the rest of the process.
pub(super) struct Pen {
    connection: Option<PoolConnection<Sqlite>>,
    database: Arc<Database>,
    condition: Arc<Condition>,
}

impl Pen {
    pub(super) const fn new(
        connection: PoolConnection<Sqlite>,
        database: Arc<Database>,
        condition: Arc<Condition>,
    ) -> Self {
        Self {
            connection: Some(connection),
            database,
            condition,
        }
    }

    /// Returns the connection.
    ///
    /// # Errors
    /// Nothing may be written any more.
    pub(super) fn get(&mut self) -> Result<&mut SqliteConnection, sqlx::Error> {
        if let Some(reason) = self.condition.broken() {
            return Err(sqlx::Error::Protocol(reason));
        }
        // Taken by dropping it alone.
        self.connection
            .as_deref_mut()
            .ok_or_else(|| sqlx::Error::Protocol("the connection is closed".to_owned()))
    }

    /// Looks whether an error of work other than a commit says that the disk is broken.
    pub(super) fn heed(&self, error: &sqlx::Error) {
        self.condition.heed(fault(error), error, self.database.path());
    }
}

impl Drop for Pen {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take()
            && self.condition.broken().is_some()
        {
            self.database.abandon(connection);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use sea_orm::sqlx::error::ErrorKind;
    use tokio_util::sync::CancellationToken;
    use warren_adapter_conformance::samples::messages;
    use warren_domain::ports::{ConsumerGroup, MessageConsumer, MessagePublisher, NamedGroup, StartAt};
    use warren_domain::{Selection, Severity};

    use super::*;
    use crate::config::EmbeddedConfig;
    use crate::directory::Directory;
    use crate::error::Fault;
    use crate::queue::Queue;
    use crate::queue::consumer::{Consumer, Reading};
    use crate::queue::publisher::Publisher;
    use crate::schema::QueueMigrator;
    use crate::section::Section;
    use crate::space::Space;

    fn group(name: &str) -> ConsumerGroup {
        ConsumerGroup::Named(NamedGroup {
            name: name.parse().unwrap(),
            selection: Selection::of(Severity::ALL.into_iter().collect()),
            start: StartAt::Oldest,
        })
    }

    fn contents(directory: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
        let files = std::fs::read_dir(directory).unwrap();
        let mut files: Vec<_> = files
            .map(|file| file.unwrap().path())
            // What connections tell each other is no part of the data, and is made anew by the first.
            .filter(|path| !path.to_string_lossy().ends_with("-shm"))
            .map(|path| (path.clone(), std::fs::read(path).unwrap()))
            .collect();
        files.sort();
        files
    }

    #[tokio::test]
    async fn after_a_failed_sync_the_file_stays_as_it_is_to_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let config = EmbeddedConfig {
            path: directory.path().join("data"),
            group_expiry: Duration::ZERO,
            ..EmbeddedConfig::default()
        };
        let section = Section::Embedded;
        let held = Directory::hold(&config.path, section.place()).await.unwrap();
        let held = Arc::new(held);
        let file = held.file("queue.db");
        let database = Database::open::<QueueMigrator>(file, 1 << 20, section.place())
            .await
            .unwrap();
        let database = Arc::new(database);
        let condition = Arc::new(Condition::default());
        let stop = CancellationToken::new();
        let (queue, writer) = Queue::start(
            &config,
            section,
            Arc::clone(&database),
            Arc::new(Space::new(section, config.max_bytes, 1 << 20)),
            Arc::clone(&condition),
            held,
            stop.clone(),
        )
        .await
        .unwrap();
        let publisher = Publisher(Arc::clone(&queue));
        publisher.publish(messages(10), None).await.unwrap();
        let mut consumer = Consumer::new(Arc::clone(&queue), ConsumerGroup::Store, Reading::Whole);
        let delivery = consumer.next().await.unwrap();
        // Nobody attends it from now on, so it has expired.
        let mut leaving = Consumer::new(Arc::clone(&queue), group("leaving"), Reading::Whole);
        drop(leaving.next().await.unwrap());
        drop(leaving);

        let failed = Arc::new(sqlx::Error::Protocol("as if it were EIO".to_owned()));
        condition.commit_failed(Fault::DiskBroken, failed, database.path().to_owned());
        let before = contents(&config.path);
        assert!(
            before
                .iter()
                .any(|(path, bytes)| path.ends_with("queue.db-wal") && !bytes.is_empty())
        );

        delivery.ack().await.unwrap();
        publisher.publish(messages(1), None).await.unwrap_err();
        let mut joining = Consumer::new(Arc::clone(&queue), group("joining"), Reading::Whole);
        let joined = tokio::time::timeout(Duration::from_millis(100), joining.next()).await;
        assert!(!matches!(joined, Ok(Some(_))), "a group was made");
        queue.tend().await;
        drop((joining, consumer));
        stop.cancel();
        writer.await.unwrap();
        database.close().await.unwrap();
        drop((publisher, queue, database));
        // sqlx closes what is dropped on threads of its own.
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(contents(&config.path) == before, "something was written");
    }

    #[derive(Debug, thiserror::Error)]
    #[error("disk I/O error")]
    struct FailedSync;

    impl sqlx::error::DatabaseError for FailedSync {
        fn message(&self) -> &'static str {
            "disk I/O error"
        }

        /// <https://sqlite.org/rescode.html#ioerr_fsync>
        fn code(&self) -> Option<std::borrow::Cow<'_, str>> {
            Some("1034".into())
        }

        fn kind(&self) -> ErrorKind {
            ErrorKind::Other
        }

        fn as_error(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
            self
        }

        fn as_error_mut(&mut self) -> &mut (dyn std::error::Error + Send + Sync + 'static) {
            self
        }

        fn into_error(self: Box<Self>) -> Box<dyn std::error::Error + Send + Sync + 'static> {
            self
        }
    }

    #[test]
    fn a_sync_that_fails_outside_a_commit_is_the_end_of_writing_too() {
        let condition = Condition::default();
        let failed = sqlx::Error::Database(Box::new(FailedSync));
        condition.heed(Fault::Passing, &failed, Path::new("queue.db"));
        assert_eq!(condition.broken(), None);
        condition.heed(fault(&failed), &failed, Path::new("queue.db"));
        assert!(
            condition
                .broken()
                .is_some_and(|reason| reason.contains("restart"))
        );
    }
}
