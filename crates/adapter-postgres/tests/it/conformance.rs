//! The contract of a message store.

use std::sync::Arc;

use async_trait::async_trait;
use warren_adapter_conformance::dead_letters::DeadLettersUnderTest;
use warren_adapter_conformance::store::StoreUnderTest;
use warren_adapter_postgres::{PostgresDeadLetters, PostgresReader, PostgresStore};
use warren_domain::ports::{DeadLetters, MessageStore, StoreMaintenance};
use warren_domain::{Message, MessageId, SeverityCounts, Timestamp};

use crate::support::{Database, drop_database};

struct Postgres {
    database: Database,
    store: Arc<PostgresStore>,
    reader: PostgresReader,
}

impl Postgres {
    async fn fresh() -> Arc<Self> {
        let database = Database::migrated().await;
        Arc::new(Self {
            store: Arc::new(database.store()),
            reader: database.reader().await,
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
        let found = self.reader.find(ids).await.unwrap();
        assert!(i64::try_from(found.len()).unwrap() <= rows);
        found
    }

    async fn counts(&self) -> SeverityCounts {
        self.reader.counts(Timestamp::MIN, Timestamp::MAX).await.unwrap()
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
        self.store.close().await;
        drop_database(&self.database.name).await;
    }
}

warren_adapter_conformance::store_suite!(Postgres::fresh());

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
