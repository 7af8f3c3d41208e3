//! The contract of a message store.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use warren_adapter_conformance::dead_letters::DeadLettersUnderTest;
use warren_adapter_conformance::reader::ReaderUnderTest;
use warren_adapter_conformance::store::StoreUnderTest;
use warren_adapter_postgres::{PostgresDeadLetters, PostgresReader, PostgresStore, ReaderConfig};
use warren_domain::ports::{DeadLetters, MessageReader, MessageStore, StoreMaintenance};
use warren_domain::{Message, MessageId, SeverityCounts, Timestamp};

use crate::reading::slow_down;
use crate::support::{Database, counts, drop_database, find};

struct Postgres {
    database: Database,
    store: Arc<PostgresStore>,
    reader: Arc<PostgresReader>,
    hasty: Arc<PostgresReader>,
}

impl Postgres {
    async fn fresh() -> Arc<Self> {
        let database = Database::migrated().await;
        let hasty = ReaderConfig {
            search_time: Duration::from_millis(1),
            ..ReaderConfig::default()
        };
        Arc::new(Self {
            store: Arc::new(database.store()),
            reader: Arc::new(database.reader()),
            hasty: Arc::new(PostgresReader::new(&database.config(), &hasty).unwrap()),
            database,
        })
    }
}

#[async_trait]
impl StoreUnderTest for Postgres {
    fn store(&self) -> Arc<dyn MessageStore> {
        Arc::clone(&self.store) as _
    }

    async fn find(&self, ids: &[MessageId]) -> Vec<Message> {
        let rows = self.database.number("select count(*) from messages").await;
        let found = find(&self.reader, ids).await;
        assert!(i64::try_from(found.len()).unwrap() <= rows);
        found
    }

    async fn counts(&self) -> SeverityCounts {
        counts(&self.reader).await
    }

    async fn refuse(&self, id: MessageId) -> bool {
        let this = format!("new.id = '{id}'");
        self.database
            .before_insert("raise exception 'refused, as a test asks'", &this)
            .await;
        true
    }

    async fn forget(&self, now: Timestamp) -> bool {
        self.store.maintain(now).await.unwrap();
        true
    }

    async fn tear_down(&self) {
        self.reader.close().await;
        self.store.close().await;
        drop_database(&self.database.name).await;
    }
}

#[async_trait]
impl ReaderUnderTest for Postgres {
    fn store(&self) -> Arc<dyn MessageStore> {
        Arc::clone(&self.store) as _
    }

    fn reader(&self) -> Arc<dyn MessageReader> {
        Arc::clone(&self.reader) as _
    }

    fn hasty_reader(&self) -> Arc<dyn MessageReader> {
        Arc::clone(&self.hasty) as _
    }

    async fn reader_of_slow_counts(&self) -> Option<Arc<dyn MessageReader>> {
        slow_down(&self.database, "message_count_deltas", 0.02).await;
        let limits = ReaderConfig {
            statement_timeout: Duration::from_millis(100),
            ..ReaderConfig::default()
        };
        Some(Arc::new(
            PostgresReader::new(&self.database.config(), &limits).unwrap(),
        ))
    }

    async fn maintain(&self) {
        self.store.maintain(Timestamp::now()).await.unwrap();
    }

    async fn tear_down(&self) {
        self.hasty.close().await;
        StoreUnderTest::tear_down(self).await;
    }
}

warren_adapter_conformance::store_suite!(Postgres::fresh());

mod reader {
    warren_adapter_conformance::reader_suite!(super::Postgres::fresh());
}

struct Letters {
    database: Database,
    letters: Arc<PostgresDeadLetters>,
}

impl Letters {
    async fn fresh() -> Arc<Self> {
        let database = Database::migrated().await;
        Arc::new(Self {
            letters: Arc::new(PostgresDeadLetters::new(database.config()).unwrap()),
            database,
        })
    }
}

#[async_trait]
impl DeadLettersUnderTest for Letters {
    fn letters(&self) -> Arc<dyn DeadLetters> {
        Arc::clone(&self.letters) as _
    }

    async fn tear_down(&self) {
        self.letters.close().await;
        drop_database(&self.database.name).await;
    }
}

warren_adapter_conformance::dead_letters_suite!(Letters::fresh());
