//! Reading where nothing can be written: on a standby that follows its primary by streaming.

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::task::spawn_blocking;
use tokio_postgres::Client;
use warren_adapter_conformance::dead_letters::letters;
use warren_adapter_conformance::samples::messages;
use warren_adapter_postgres::{
    PostgresConfig, PostgresDeadLetters, PostgresReader, PostgresStore, ReaderConfig, migrate,
};
use warren_domain::ports::{
    DeadLetterFilter, DeadLetters, DeadLettersError, HealthCheck, MessageReader, MessageStore, Order,
    ReadError, Search, StoreError, StoreMaintenance, TimeRange,
};
use warren_domain::{Message, Selection, SeveritySet, Timestamp};
use warren_test_servers::PrivatePostgres;

use crate::support::{connect, counts, eventually};

/// A primary and its standby, of this test's own: replay goes on while a test says when.
struct Pair {
    primary: PostgresConfig,
    standby: PostgresConfig,
    on_primary: Client,
    on_standby: Client,
    /// The standby first, so that it stops before its primary.
    servers: (PrivatePostgres, PrivatePostgres),
}

impl Pair {
    async fn start() -> Self {
        let servers = spawn_blocking(|| {
            let primary = PrivatePostgres::start().unwrap();
            (primary.start_standby().unwrap(), primary)
        });
        let servers = servers.await.unwrap();
        let (standby, primary) = (servers.0.url(), servers.1.url());
        let config = |url: &str| PostgresConfig {
            url: url.to_owned(),
            ..PostgresConfig::default()
        };
        Self {
            primary: config(&primary),
            standby: config(&standby),
            on_primary: connect(&primary).await,
            on_standby: connect(&standby).await,
            servers,
        }
    }

    /// Tells whether something holds on the standby. Where replay has ended the question itself, it is to be asked again.
    async fn standby_says(&self, condition: &str) -> bool {
        let said = self
            .on_standby
            .query_one(&format!("select {condition}"), &[])
            .await;
        said.is_ok_and(|row| row.get(0))
    }

    /// Waits until the standby has what the primary has committed so far.
    async fn replayed(&self) {
        let here = "select pg_current_wal_flush_lsn()::text";
        let here: String = self.on_primary.query_one(here, &[]).await.unwrap().get(0);
        let replayed = format!("pg_last_wal_replay_lsn() >= '{here}'");
        eventually("the standby has it", async || self.standby_says(&replayed).await).await;
    }

    /// Migrates, and stores some messages.
    async fn filled(&self) -> Vec<Message> {
        migrate(&self.primary).await.unwrap();
        let store = PostgresStore::new(self.primary.clone(), None).unwrap();
        let batch = messages(300);
        store.store(&batch).await.unwrap();
        store.close().await;
        self.replayed().await;
        batch
    }
}

/// Runs a test on a pair, and stops both servers afterwards, where that may block.
async fn with_standby(test: impl AsyncFnOnce(&Pair)) {
    let pair = Pair::start().await;
    let outcome = AssertUnwindSafe(Box::pin(test(&pair))).catch_unwind().await;
    let Pair { servers, .. } = pair;
    spawn_blocking(move || drop(servers)).await.unwrap();
    if let Err(panic) = outcome {
        resume_unwind(panic);
    }
}

fn everything() -> Search {
    Search {
        selection: Selection::of(SeveritySet::ALL),
        query: "message".parse().unwrap(),
        range: TimeRange::ALL,
        order: Order::OldestFirst,
        from: None,
    }
}

#[tokio::test]
async fn a_standby_answers_whoever_reads_with_all_that_it_has() {
    with_standby(async |pair| {
        let mut batch = pair.filled().await;
        let reader = PostgresReader::new(&pair.standby, &ReaderConfig::default()).unwrap();
        reader.check().await.unwrap();
        let store = PostgresStore::new(pair.primary.clone(), None).unwrap();
        // Before and after the maintenance has folded counts, and what comes then.
        for _ in 0..2 {
            let found = reader.find(&everything(), 1_000).await.unwrap().messages;
            let found: Vec<_> = found.into_iter().map(|stored| stored.message.id).collect();
            assert_eq!(found, batch.iter().map(|message| message.id).collect::<Vec<_>>());
            let one = batch[batch.len() - 1].id;
            assert_eq!(reader.fetch(one).await.unwrap().unwrap().message.id, one);
            assert_eq!(counts(&reader).await.total(), batch.len() as u64);
            let listed = reader.sources(TimeRange::ALL, SeveritySet::ALL).await.unwrap();
            let all: u64 = listed.sources.iter().map(|(_, counts)| counts.total()).sum();
            assert_eq!(all, batch.len() as u64);
            let more = messages(100);
            store.maintain(Timestamp::now()).await.unwrap();
            store.store(&more).await.unwrap();
            batch.extend(more);
            pair.replayed().await;
        }
        store.close().await;
        reader.close().await;
    })
    .await;
}

/// Asserts that a standby has refused something, in words that lead to the primary.
fn assert_refused<T: std::fmt::Debug>(what: &str, outcome: Result<T, StoreError>) {
    let error = outcome.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{what}: {error}");
    let said = error.to_string();
    assert!(
        said.contains("standby") && said.contains("postgres.url must lead to the primary"),
        "{what}: {said}"
    );
}

#[tokio::test]
async fn whatever_would_write_is_refused_by_a_standby_in_words_that_lead_to_its_primary() {
    with_standby(async |pair| {
        let empty = "create database empty template template0 encoding 'utf8' locale 'C'";
        pair.on_primary.batch_execute(empty).await.unwrap();
        let stored = pair.filled().await;
        let kept = PostgresDeadLetters::new(pair.primary.clone()).unwrap();
        kept.keep(&letters(3)).await.unwrap();
        kept.close().await;
        pair.replayed().await;

        let store = PostgresStore::new(pair.standby.clone(), Some(1)).unwrap();
        for size in [3, 500] {
            assert_refused("storing", store.store(&messages(size)).await);
        }
        // One that is stored already, too: nothing is told apart before it is written.
        assert_refused("storing again", store.store(&stored[..1]).await);
        assert_refused("the maintenance", store.maintain(Timestamp::now()).await);
        let unhealthy = store.check().await.unwrap_err().to_string();
        assert!(unhealthy.contains("must lead to the primary"), "{unhealthy}");
        store.close().await;

        let further = PostgresConfig {
            partitions_ahead_days: 30,
            ..pair.standby.clone()
        };
        assert_refused("making partitions", migrate(&further).await);
        let without_schema = PostgresConfig {
            url: format!("{}/empty", pair.standby.url.rsplit_once('/').unwrap().0),
            ..pair.standby.clone()
        };
        assert_refused("migrating", migrate(&without_schema).await);

        let letters_there = PostgresDeadLetters::new(pair.standby.clone()).unwrap();
        let everything = DeadLetterFilter::default();
        assert_eq!(letters_there.count(&everything).await.unwrap().total(), 3);
        let refused = letters_there.check_writable().await.unwrap_err();
        assert!(matches!(refused, DeadLettersError::ReadOnly { .. }), "{refused}");
        assert!(refused.to_string().contains("is a standby"), "{refused}");
        let refused = letters_there.keep(&letters(1)).await.unwrap_err();
        assert!(
            matches!(refused, DeadLettersError::Unavailable { .. }),
            "{refused}"
        );
        assert!(
            refused.to_string().contains("must lead to the primary"),
            "{refused}"
        );
        letters_there.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_read_that_is_in_the_way_of_what_the_primary_did_fails_for_now_and_says_what_helps() {
    with_standby(async |pair| {
        let batch = pair.filled().await;
        // Nobody who reads is waited for, and nothing is replayed but what the test has done.
        for (server, setting) in [
            (&pair.on_primary, "autovacuum = off"),
            (&pair.on_standby, "max_standby_streaming_delay = 0"),
        ] {
            server
                .batch_execute(&format!("alter system set {setting}"))
                .await
                .unwrap();
            server.batch_execute("select pg_reload_conf()").await.unwrap();
        }
        eventually("the setting is heeded", async || {
            pair.standby_says("current_setting('max_standby_streaming_delay') = '0'")
                .await
        })
        .await;
        // No limit of the reader's own ends it sooner.
        let patient = PostgresConfig {
            lock_timeout: Duration::from_secs(200),
            statement_timeout: Duration::from_secs(500),
            ..pair.standby.clone()
        };
        let limits = ReaderConfig {
            statement_timeout: Duration::from_secs(500),
            search_time: Duration::from_secs(500),
            ..ReaderConfig::default()
        };
        let reader = PostgresReader::new(&patient, &limits).unwrap();
        let search = everything();
        for searches in [true, false] {
            // What makes a partition holds this one, and whoever reads waits behind it with a lock on the table…
            let making = connect(&pair.primary.url).await;
            let lock = "begin; lock table messages_default in access exclusive mode";
            making.batch_execute(lock).await.unwrap();
            let held = "exists (select from pg_locks where relation = 'messages_default'::regclass \
                and mode = 'AccessExclusiveLock' and granted)";
            // Somebody has to commit, or the log is not sent at once.
            let commit = "select pg_logical_emit_message(true, '', '')";
            eventually("the standby holds it, too", async || {
                pair.on_primary.batch_execute(commit).await.unwrap();
                pair.standby_says(held).await
            })
            .await;
            let reading = async {
                if searches {
                    reader.find(&search, 10).await.map(|_| ())
                } else {
                    reader.fetch(batch[0].id).await.map(|_| ())
                }
            };
            // …and then a day is dropped, for which the standby needs the table for itself.
            let dropping = async {
                let waits = "exists (select from pg_stat_activity where application_name = 'warren reader' \
                    and wait_event_type = 'Lock')";
                eventually("the reader waits", async || pair.standby_says(waits).await).await;
                let lock = "begin; lock table only messages in access exclusive mode; commit";
                pair.on_primary.batch_execute(lock).await.unwrap();
            };
            let (read, ()) = tokio::join!(reading, dropping);
            let told = read.unwrap_err();
            assert!(matches!(told, ReadError::Unavailable { .. }), "{told}");
            let said = told.to_string();
            assert!(
                said.contains("40001") && said.contains("ask again") && said.contains("hot_standby_feedback"),
                "{said}"
            );
            making.batch_execute("rollback").await.unwrap();
            pair.replayed().await;
            // The same question, asked again, is answered.
            assert_eq!(reader.find(&search, 10).await.unwrap().messages.len(), 10);
            assert!(reader.fetch(batch[0].id).await.unwrap().is_some());
        }
        reader.close().await;
    })
    .await;
}
