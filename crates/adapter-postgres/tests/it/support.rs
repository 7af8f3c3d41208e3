//! A database for each test, and what tests do to it.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::{Client, NoTls};
use uuid::Uuid;
use warren_adapter_postgres::{PostgresConfig, PostgresReader, PostgresStore, ReaderConfig, migrate};
use warren_domain::ports::{Counts, MessageReader, TimeRange};
use warren_domain::{Message, MessageId, Selection, SeverityCounts, SeveritySet};

/// How long a test waits for something that must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The server that tests make their databases on.
#[allow(
    clippy::disallowed_methods,
    reason = "a test's server is no setting of the program"
)]
pub(crate) fn server_url() -> String {
    std::env::var("WARREN_TEST_POSTGRES_URL")
        .unwrap_or_else(|_| "postgres://postgres@127.0.0.1:5432/postgres".to_owned())
}

/// Connects as the tests' superuser.
pub(crate) async fn connect(url: &str) -> Client {
    let plain = url.split('?').next().unwrap();
    let connected = tokio_postgres::connect(plain, NoTls).await;
    let (client, connection) = connected.unwrap_or_else(|error| {
        panic!(
            "these tests need a PostgreSQL that WARREN_TEST_POSTGRES_URL names, or one at \
             postgres://postgres@127.0.0.1:5432/postgres with the right to create databases: {error:?}"
        )
    });
    tokio::spawn(connection);
    client
}

/// An empty database with a random name.
pub(crate) struct Database {
    pub(crate) name: String,
    pub(crate) url: String,
    /// For looking at it from outside, as superuser.
    pub(crate) admin: Client,
}

impl Database {
    pub(crate) async fn empty() -> Self {
        Self::encoded_as("utf8").await
    }

    pub(crate) async fn encoded_as(encoding: &str) -> Self {
        let name = format!("warren_test_{}", Uuid::now_v7().simple());
        let server = connect(&server_url()).await;
        server
            .batch_execute(&format!(
                "create database {name} template template0 encoding '{encoding}' locale 'C'"
            ))
            .await
            .unwrap();
        let url = server_url();
        let base = url.split('?').next().unwrap();
        let (before, _) = base.rsplit_once('/').unwrap();
        let url = format!("{before}/{name}");
        Self {
            admin: connect(&url).await,
            name,
            url,
        }
    }

    pub(crate) async fn migrated() -> Self {
        let database = Self::empty().await;
        migrate(&database.config()).await.unwrap();
        database
    }

    pub(crate) fn config(&self) -> PostgresConfig {
        PostgresConfig {
            url: format!("{}?sslmode=disable", self.url),
            ..PostgresConfig::default()
        }
    }

    pub(crate) fn store(&self) -> PostgresStore {
        PostgresStore::new(self.config(), None).unwrap()
    }

    pub(crate) fn reader(&self) -> PostgresReader {
        PostgresReader::new(&self.config(), &ReaderConfig::default()).unwrap()
    }

    /// Runs statements as superuser.
    pub(crate) async fn run(&self, statements: &str) {
        self.admin.batch_execute(statements).await.unwrap();
    }

    /// Has `statement` run before each row is inserted into `messages` that meets `condition`, where `new` is the row.
    pub(crate) async fn before_insert(&self, statement: &str, condition: &str) {
        let name = format!("before_{}", Uuid::now_v7().simple());
        self.run(&format!(
            "create function {name}() returns trigger language plpgsql as
                 $$ begin {statement}; return new; end $$;
             create trigger {name} before insert on messages
                 for each row when ({condition}) execute function {name}()"
        ))
        .await;
    }

    /// Returns the one number that a query yields.
    pub(crate) async fn number(&self, query: &str) -> i64 {
        self.admin.query_one(query, &[]).await.unwrap().get(0)
    }

    /// Returns the first column of what a query yields.
    pub(crate) async fn texts(&self, query: &str) -> Vec<String> {
        let rows = self.admin.query(query, &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }
}

/// Returns the messages with these ids.
pub(crate) async fn find(reader: &PostgresReader, ids: &[MessageId]) -> Vec<Message> {
    let found = reader.messages(ids).await.unwrap();
    found.into_iter().map(|stored| stored.message).collect()
}

/// Returns the counts of all time.
pub(crate) async fn counts(reader: &PostgresReader) -> SeverityCounts {
    let everything = Counts {
        selection: Selection::of(SeveritySet::ALL),
        range: TimeRange::ALL,
        minutes: NonZeroU32::MAX,
    };
    let buckets = reader.counts(&everything).await.unwrap();
    buckets
        .first()
        .map_or_else(SeverityCounts::default, |all| all.counts)
}

/// Asserts that the counts by quarters of an hour are the sums of those by minute, and that there are some.
pub(crate) async fn assert_quarters_are_exact(database: &Database) {
    let wrong = "select count(*) from (
            select to_timestamp(floor(date_part('epoch', minute) / 900) * 900) as quarter, severity, source,
                sum(count) as count
            from message_counts_minutes group by 1, 2, 3
        ) as summed full join message_counts_quarters as quarters using (quarter, severity, source)
        where summed.count is distinct from quarters.count";
    assert_eq!(
        database.number(wrong).await,
        0,
        "quarters that differ from their minutes"
    );
    assert!(
        database
            .number("select count(*) from message_counts_quarters")
            .await
            > 0
    );
}

/// Drops a database, whoever is still connected.
pub(crate) async fn drop_database(name: &str) {
    let server = connect(&server_url()).await;
    server
        .batch_execute(&format!("drop database if exists {name} with (force)"))
        .await
        .unwrap();
}

/// Runs a test on a migrated database and drops it afterwards, also when the test panics.
pub(crate) async fn with_database<F>(test: impl FnOnce(Arc<Database>) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    on(Database::migrated().await, test).await;
}

/// Runs a test on an empty database and drops it afterwards, also when the test panics.
pub(crate) async fn with_empty_database<F>(test: impl FnOnce(Arc<Database>) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    on(Database::empty().await, test).await;
}

async fn on<F>(database: Database, test: impl FnOnce(Arc<Database>) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let database = Arc::new(database);
    let outcome = tokio::spawn(test(Arc::clone(&database))).await;
    drop_database(&database.name).await;
    if let Err(failure) = outcome {
        std::panic::resume_unwind(failure.into_panic());
    }
}

/// Repeats a look until it shows what is expected, or patience ends.
pub(crate) async fn eventually<F: Future<Output = bool>>(expectation: &str, mut look: impl FnMut() -> F) {
    let begun = std::time::Instant::now();
    while !look().await {
        assert!(
            begun.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {expectation}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
