//! Roles, logins and databases that are not what they should be.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use uuid::Uuid;
use warren_adapter_conformance::dead_letters;
use warren_adapter_conformance::samples::{message_made_at, messages};
use warren_adapter_postgres::{
    PostgresConfig, PostgresDeadLetters, PostgresReader, PostgresStore, ReaderConfig, migrate,
};
use warren_domain::ports::{
    DeadLetterFilter, DeadLetters, DeadLettersError, HealthCheck, MessageReader, MessageStore, Order,
    ReadError, Search, StoreError, StoreMaintenance, TimeRange,
};
use warren_domain::{Selection, SeveritySet, Timestamp};

use crate::support::{Database, counts, find, with_database};

fn assert_misconfigured<T: std::fmt::Debug>(outcome: Result<T, StoreError>) -> String {
    let error = outcome.unwrap_err();
    assert!(matches!(error, StoreError::Misconfigured { .. }), "{error}");
    assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    error.to_string()
}

/// Runs a test as a role that may log in and nothing else.
async fn as_stranger(database: &Database, test: impl AsyncFnOnce(&str, PostgresConfig)) {
    let role = format!("warren_test_{}", Uuid::now_v7().simple());
    database
        .run(&format!("create role {role} login password 'hunter2'"))
        .await;
    let (_, place) = database.url.rsplit_once('@').unwrap();
    let config = PostgresConfig {
        url: format!("postgres://{role}:hunter2@{place}"),
        ..database.config()
    };
    let outcome = AssertUnwindSafe(test(&role, config)).catch_unwind().await;
    database
        .run(&format!("drop owned by {role} cascade; drop role {role}"))
        .await;
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

#[tokio::test]
async fn a_role_without_rights_is_told_so_and_the_documented_ones_suffice() {
    with_database(|database| async move {
        as_stranger(&database, async |role, config| {
            let store = PostgresStore::new(config.clone(), None).unwrap();
            assert_misconfigured(store.store(&messages(3)).await);
            database.run(&format!("grant select on warren_migrations to {role}")).await;
            for size in [3, 500] {
                let told = assert_misconfigured(store.store(&messages(size)).await);
                assert!(told.contains("42501") && told.contains("grant"), "{told}");
            }
            let told = store.check().await.unwrap_err().to_string();
            assert!(told.contains("grant"), "{told}");

            database
                .run(&format!(
                    "grant select, insert on messages, idempotency_keys to {role}; grant insert on message_count_deltas to {role}"
                ))
                .await;
            for size in [3, 500] {
                let batch = messages(size);
                store.store(&batch).await.unwrap();
                store.store(&batch).await.unwrap();
            }
            store.check().await.unwrap();
            // Letters wait in the broker until their rights are there, and messages do not.
            let letters = PostgresDeadLetters::new(config.clone()).unwrap();
            let batch = dead_letters::letters(3);
            let told = letters.keep(&batch).await.unwrap_err();
            assert!(matches!(told, DeadLettersError::Misconfigured { .. }), "{told}");
            assert!(told.to_string().contains("42501"), "{told}");
            database
                .run(&format!("grant select, insert, update, delete on dead_letters to {role}"))
                .await;
            for _ in 0..2 {
                letters.keep(&batch).await.unwrap();
            }
            let kept = letters.list(&DeadLetterFilter::default(), None, 10).await.unwrap();
            let seen: Vec<_> = kept.iter().map(|kept| (kept.facts.id, kept.revision)).collect();
            assert_eq!(letters.remove(&seen).await.unwrap(), 3);
            letters.close().await;
            // Tables are made and dropped by who owns them: `store-worker migrate`, or a worker with more rights.
            let later = Timestamp::from_unix_micros(Timestamp::now().unix_micros() + 86_400_000_000 * 100).unwrap();
            assert_misconfigured(store.maintain(later).await);
            assert_misconfigured(migrate(&PostgresConfig { partitions_ahead_days: 20, ..config }).await);
            store.close().await;
        })
        .await;
    })
    .await;
}

/// Returns the statement that the reference has for whoever reads messages.
fn documented_grant(role: &str) -> String {
    let reference = include_str!("../../../../docs/configuration.md");
    let grants = |line: &&str| line.starts_with("grant select on warren_migrations, messages");
    let documented = reference.lines().find(grants).unwrap();
    documented.replace(" to reader;", &format!(" to {role}"))
}

#[test]
fn the_role_that_compose_makes_has_the_documented_rights() {
    let rights = |text: &'static str| -> Vec<_> {
        let lines = text.lines().filter(|line| line.starts_with("grant "));
        lines.filter(|line| line.ends_with(" to reader;")).collect()
    };
    let documented = rights(include_str!("../../../../docs/configuration.md"));
    assert_eq!(documented.len(), 3);
    assert_eq!(rights(include_str!("../../../../deploy/reader.sql")), documented);
}

#[tokio::test]
async fn whoever_reads_needs_no_right_to_write_and_could_not_use_one() {
    with_database(|database| async move {
        let store = database.store();
        let batch = messages(20);
        store.store(&batch).await.unwrap();
        as_stranger(&database, async |role, config| {
            let reader = PostgresReader::new(&config, &ReaderConfig::default()).unwrap();
            let error = reader.fetch(batch[0].id).await.unwrap_err();
            assert!(matches!(error, ReadError::Misconfigured { .. }), "{error}");
            assert!(error.to_string().contains("42501"), "{error}");
            let told = reader.check().await.unwrap_err().to_string();
            assert!(told.contains("42501"), "{told}");
            database.run(&documented_grant(role)).await;
            reader.check().await.unwrap();
            assert_eq!(find(&reader, &[batch[0].id]).await.len(), 1);
            let all = SeveritySet::ALL;
            assert_eq!(counts(&reader).await.total(), 20);
            assert_eq!(
                reader.sources(TimeRange::ALL, all).await.unwrap().sources.len(),
                4
            );
            let search = Search {
                selection: Selection::of(all),
                query: "message source:#".parse().unwrap(),
                range: TimeRange::ALL,
                order: Order::NewestFirst,
                from: None,
            };
            assert_eq!(reader.find(&search, 100).await.unwrap().messages.len(), 20);
            reader.close().await;
        })
        .await;
        store.close().await;
    })
    .await;
}

#[tokio::test]
async fn without_the_right_to_filters_searches_do_without_and_the_health_check_says_so() {
    with_database(|database| async move {
        let store = database.store();
        let hour_ago = Timestamp::from_unix_micros(Timestamp::now().unix_micros() - 3_600_000_000).unwrap();
        let batch: Vec<_> = (0..100).map(|_| message_made_at(hour_ago)).collect();
        store.store(&batch).await.unwrap();
        store.maintain(Timestamp::now()).await.unwrap();
        assert_eq!(database.number("select count(*) from message_words").await, 1);
        as_stranger(&database, async |role, config| {
            let grant = documented_grant(role).replace(", message_words to", " to");
            database.run(&grant).await;
            let reader = PostgresReader::new(&config, &ReaderConfig::default()).unwrap();
            let search = |query: &str| Search {
                selection: Selection::of(SeveritySet::ALL),
                query: query.parse().unwrap(),
                range: TimeRange::ALL,
                order: Order::NewestFirst,
                from: None,
            };
            let (all, none) = (search("then"), search("kangaroo"));
            for (search, expected) in [(&all, 100), (&none, 0), (&all, 100)] {
                assert_eq!(reader.find(search, 200).await.unwrap().messages.len(), expected);
            }
            let told = reader.check().await.unwrap_err().to_string();
            assert!(told.contains("42501"), "{told}");
            // Whoever does without the index needs no right to it.
            let off = PostgresConfig {
                word_index: false,
                ..config
            };
            let plain = PostgresReader::new(&off, &ReaderConfig::default()).unwrap();
            plain.check().await.unwrap();
            assert_eq!(plain.find(&all, 200).await.unwrap().messages.len(), 100);
            for reader in [reader, plain] {
                reader.close().await;
            }
        })
        .await;
        store.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_database_or_a_role_that_does_not_exist_is_named() {
    with_database(|database| async move {
        let (before, _) = database.url.rsplit_once('/').unwrap();
        let (_, place) = database.url.rsplit_once('@').unwrap();
        for (url, state) in [
            (format!("{before}/warren_test_nowhere?sslmode=disable"), "3D000"),
            (
                format!("postgres://warren_test_nobody:hunter2@{place}?sslmode=disable"),
                "28",
            ),
        ] {
            let config = PostgresConfig {
                url,
                ..PostgresConfig::default()
            };
            let store = PostgresStore::new(config.clone(), None).unwrap();
            let told = assert_misconfigured(store.store(&messages(3)).await);
            assert!(told.contains(&format!("SQLSTATE {state}")), "{told}");
            assert!(told.contains("postgres.url"), "{told}");
            assert_misconfigured(migrate(&config).await);
        }
    })
    .await;
}

#[tokio::test]
async fn a_missing_column_is_no_fault_of_the_message() {
    with_database(|database| async move {
        let store = database.store();
        store.store(&messages(3)).await.unwrap();
        database
            .run("alter table messages rename column body to text")
            .await;
        for size in [3, 500] {
            let told = assert_misconfigured(store.store(&messages(size)).await);
            assert!(told.contains("store-worker migrate"), "{told}");
        }
        database
            .run("alter table messages rename column text to body")
            .await;
        store.store(&messages(3)).await.unwrap();
        store.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_column_that_warren_does_not_fill_is_no_fault_of_the_message() {
    with_database(|database| async move {
        let store = database.store();
        store.store(&messages(3)).await.unwrap();
        database
            .run("delete from messages; alter table messages add column tenant text not null")
            .await;
        for size in [3, 500] {
            let told = assert_misconfigured(store.store(&messages(size)).await);
            assert!(told.contains("default"), "{told}");
        }
        assert!(store.check().await.is_err());
        database
            .run("alter table messages alter column tenant set default 'nobody'")
            .await;
        store.store(&messages(500)).await.unwrap();
        store.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_server_without_a_connection_to_spare_is_unavailable_until_it_has_one() {
    with_database(|database| async move {
        as_stranger(&database, async |role, config| {
            let name = &database.name;
            database
                .run(&format!(
                    "grant select on warren_migrations to {role};
                     alter database {name} connection limit 0"
                ))
                .await;
            let store = PostgresStore::new(config, None).unwrap();
            let error = store.store(&messages(3)).await.unwrap_err();
            assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
            assert!(error.to_string().contains("53300"), "{error}");
            database
                .run(&format!("alter database {name} connection limit -1"))
                .await;
            // It comes in, and meets the next thing that is missing.
            let error = store.store(&messages(3)).await.unwrap_err();
            assert!(error.to_string().contains("42501"), "{error}");
            store.close().await;
        })
        .await;
    })
    .await;
}
