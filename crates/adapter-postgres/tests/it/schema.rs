//! Migrations, and what is said to a program of another version.

use std::time::{Duration, Instant};

use warren_adapter_conformance::samples::{message_made_at, messages};
use warren_adapter_postgres::{PostgresConfig, migrate};
use warren_domain::Timestamp;
use warren_domain::ports::{
    HealthCheck, MessageReader, MessageStore, ReadError, StoreError, StoreMaintenance,
};

use crate::support::{
    Database, assert_quarters_are_exact, connect, drop_database, with_database, with_empty_database,
};

async fn assert_misconfigured(database: &Database, said: &str) {
    let store = database.store();
    let told = [
        store.store(&messages(3)).await.unwrap_err(),
        store.maintain(Timestamp::now()).await.unwrap_err(),
    ];
    let reader = database.reader();
    let unread = reader.fetch(messages(1)[0].id).await.unwrap_err();
    assert!(matches!(unread, ReadError::Misconfigured { .. }), "{unread}");
    assert!(unread.to_string().contains(said), "{unread}");
    for error in told {
        assert!(matches!(error, StoreError::Misconfigured { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains(said) && text.contains("store-worker migrate"),
            "{text}"
        );
    }
    let unhealthy = store.check().await.unwrap_err().to_string();
    assert!(unhealthy.contains(said), "{unhealthy}");
    store.close().await;
}

#[tokio::test]
async fn a_database_without_a_schema_is_refused_with_the_command_to_run() {
    with_empty_database(|database| async move {
        assert_misconfigured(&database, "no schema").await;
        // Running it is all there is to do.
        let report = migrate(&database.config()).await.unwrap();
        assert_eq!(
            (report.before, report.applied.len(), report.partitions.len()),
            (None, 7, 9)
        );
        let store = database.store();
        store.store(&messages(3)).await.unwrap();
        store.check().await.unwrap();
        store.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_schema_that_lacks_a_migration_is_refused_with_the_version_that_is_needed() {
    with_database(|database| async move {
        // What a program finds that knows one migration more than the database.
        database
            .run("delete from warren_migrations where version = 'm0007_minutes'")
            .await;
        assert_misconfigured(&database, "m0007_minutes").await;
    })
    .await;
}

#[tokio::test]
async fn a_newer_schema_is_refused_by_the_store_and_by_migrate() {
    with_database(|database| async move {
        database
            .run("insert into warren_migrations (version, applied_at) values ('m9999_later', 0)")
            .await;
        assert_misconfigured(&database, "m9999_later").await;
        let error = migrate(&database.config()).await.unwrap_err();
        assert!(matches!(error, StoreError::Misconfigured { .. }), "{error}");
        assert!(error.to_string().contains("m9999_later"), "{error}");
    })
    .await;
}

#[tokio::test]
async fn a_database_that_cannot_hold_every_text_is_refused() {
    let database = Database::encoded_as("latin1").await;
    let name = database.name.clone();
    let outcomes = [
        migrate(&database.config()).await.map(|_| ()),
        database.store().store(&messages(3)).await.map(|_| ()),
    ];
    drop_database(&name).await;
    for outcome in outcomes {
        let error = outcome.unwrap_err();
        assert!(matches!(error, StoreError::Misconfigured { .. }), "{error}");
        assert!(error.to_string().contains("UTF8"), "{error}");
    }
}

#[tokio::test]
async fn migrating_twice_changes_nothing() {
    with_database(|database| async move {
        let store = database.store();
        store.store(&messages(5)).await.unwrap();
        let report = migrate(&database.config()).await.unwrap();
        assert_eq!(report.before.as_deref(), Some("m0007_minutes"));
        assert_eq!((report.applied, report.partitions), (Vec::new(), Vec::new()));
        assert_eq!(database.number("select count(*) from messages").await, 5);
        store.close().await;
    })
    .await;
}

/// Takes the last migration back, with what was stored since.
async fn take_back_the_quarters(database: &Database) {
    database
        .run(
            "drop table message_counts_quarters;
             alter index message_counts_minutes_pkey rename to message_counts_folded_pkey;
             alter table message_counts_minutes rename to message_counts_folded;
             delete from warren_migrations where version = 'm0005_count_quarters'",
        )
        .await;
}

#[tokio::test]
async fn what_was_folded_before_there_were_quarters_is_in_them_after_the_migration() {
    with_database(|database| async move {
        let store = database.store();
        store.store(&messages(50)).await.unwrap();
        store.maintain(Timestamp::now()).await.unwrap();
        take_back_the_quarters(&database).await;
        let report = migrate(&database.config()).await.unwrap();
        assert_eq!(report.applied, ["m0005_count_quarters"]);
        assert_quarters_are_exact(&database).await;
        store.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_worker_that_knows_no_quarters_folds_nothing_past_them() {
    with_database(|database| async move {
        let store = database.store();
        store.store(&messages(50)).await.unwrap();
        // What such a worker does once it has the lock, having looked at the schema before.
        let folding =
            "with gone as (delete from message_count_deltas returning minute, severity, source, count)
            insert into message_counts_folded as folded (minute, severity, source, count)
            select minute, severity, source, sum(count) from gone group by 1, 2, 3
            on conflict (minute, severity, source) do update set count = folded.count + excluded.count";
        let refused = database.admin.batch_execute(folding).await.unwrap_err();
        assert_eq!(refused.code().map(|code| code.code()), Some("42P01"), "{refused}");
        store.maintain(Timestamp::now()).await.unwrap();
        assert_quarters_are_exact(&database).await;
        store.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_migration_that_the_maintenance_holds_up_says_so() {
    with_database(|database| async move {
        take_back_the_quarters(&database).await;
        // The lock of a round that takes long.
        let lock = i64::from_be_bytes([0, b'w', b'a', b'r', b'r', b'e', b'n', 2]);
        database.run(&format!("select pg_advisory_lock({lock})")).await;
        let config = PostgresConfig {
            migrate_timeout: Duration::from_millis(300),
            ..database.config()
        };
        let error = migrate(&config).await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("maintenance") && text.contains("store-worker"),
            "{text}"
        );
        database.run(&format!("select pg_advisory_unlock({lock})")).await;
        // And what holds a table is not called the maintenance.
        let holding = connect(&database.url).await;
        let locking = "begin; lock table message_counts_folded in access exclusive mode";
        holding.batch_execute(locking).await.unwrap();
        let text = migrate(&config).await.unwrap_err().to_string();
        assert!(text.contains("lock") && !text.contains("maintenance"), "{text}");
        drop(holding);
        migrate(&database.config()).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn what_was_stored_before_there_were_filters_gets_them_after_the_migration() {
    with_database(|database| async move {
        let store = database.store();
        let hour_ago = Timestamp::now().unix_micros() - 3_600_000_000;
        let hour_ago = Timestamp::from_unix_micros(hour_ago).unwrap();
        let messages: Vec<_> = (0..200).map(|_| message_made_at(hour_ago)).collect();
        store.store(&messages).await.unwrap();
        store.maintain(Timestamp::now()).await.unwrap();
        database
            .run(
                "drop table message_words, message_minutes;
                 delete from warren_migrations where version in ('m0006_words', 'm0007_minutes')",
            )
            .await;
        let report = migrate(&database.config()).await.unwrap();
        assert_eq!(report.applied, ["m0006_words", "m0007_minutes"]);
        store.maintain(Timestamp::now()).await.unwrap();
        assert_eq!(database.number("select count(*) from message_words").await, 1);
        store.close().await;
    })
    .await;
}

#[tokio::test]
async fn filters_that_were_right_before_minutes_were_counted_are_not_made_again() {
    with_database(|database| async move {
        let store = database.store();
        for hours in [1, 2] {
            let then = Timestamp::now().unix_micros() - hours * 3_600_000_000;
            let then = Timestamp::from_unix_micros(then).unwrap();
            let messages: Vec<_> = (0..200).map(|_| message_made_at(then)).collect();
            store.store(&messages).await.unwrap();
        }
        store.maintain(Timestamp::now()).await.unwrap();
        // As it was: the newer minute is due, and the older one is not.
        database
            .run(
                "create table message_words_due (minute timestamptz primary key);
                 insert into message_words_due select max(minute) from message_minutes;
                 drop table message_minutes;
                 delete from warren_migrations where version = 'm0007_minutes'",
            )
            .await;
        let report = migrate(&database.config()).await.unwrap();
        assert_eq!(report.applied, ["m0007_minutes"]);
        let minutes = "select concat_ws(' ', stored, indexed) from message_minutes order by minute";
        assert_eq!(database.texts(minutes).await, ["200 200", "200"]);
        // What the folding of the release before wants to note its minutes in.
        let due = database
            .admin
            .batch_execute("insert into message_words_due select now()")
            .await;
        assert_eq!(due.unwrap_err().code().map(|code| code.code()), Some("42P01"));
        store.maintain(Timestamp::now()).await.unwrap();
        assert_eq!(database.texts(minutes).await, ["200 200", "200 200"]);
        store.close().await;
    })
    .await;
}

#[tokio::test]
async fn of_several_migrations_at_once_one_works_and_the_others_wait() {
    with_empty_database(|database| async move {
        let config = database.config();
        let reports = futures_util::future::join_all((0..5).map(|_| migrate(&config))).await;
        let applied: usize = reports
            .into_iter()
            .map(|report| report.unwrap().applied.len())
            .sum();
        assert_eq!(applied, 7);
        assert_eq!(database.number("select count(*) from warren_migrations").await, 7);
    })
    .await;
}

#[tokio::test]
async fn a_migration_waits_for_another_one_no_longer_than_it_is_told() {
    with_empty_database(|database| async move {
        // The lock of a migration that hangs.
        let lock = i64::from_be_bytes([0, b'w', b'a', b'r', b'r', b'e', b'n', 1]);
        database.run(&format!("select pg_advisory_lock({lock})")).await;
        let config = PostgresConfig {
            migrate_timeout: Duration::from_millis(300),
            ..database.config()
        };
        let begun = Instant::now();
        let error = migrate(&config).await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
        assert!(error.to_string().contains("another migration"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(5));
        database.run(&format!("select pg_advisory_unlock({lock})")).await;
        migrate(&config).await.unwrap();
    })
    .await;
}
