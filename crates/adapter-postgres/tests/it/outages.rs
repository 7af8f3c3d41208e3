//! What a store says, and how soon, when PostgreSQL does not do its part; and that it recovers by itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use warren_adapter_conformance::dead_letters::letter;
use warren_adapter_conformance::samples::{message, messages};
use warren_adapter_postgres::{
    PostgresConfig, PostgresDeadLetters, PostgresReader, PostgresStore, ReaderConfig, migrate,
};
use warren_domain::ports::{
    DeadLetterFilter, DeadLetters, DeadLettersError, HealthCheck, MessageReader, MessageStore, ReadError,
    StoreError, StoreMaintenance,
};
use warren_domain::{Severity, Timestamp};

use crate::proxy::{Network, Proxy};
use crate::support::{Database, eventually, with_database};

/// Limits short enough for a test.
fn impatient(config: PostgresConfig) -> PostgresConfig {
    PostgresConfig {
        connect_timeout: Duration::from_millis(700),
        acquire_timeout: Duration::from_millis(700),
        statement_timeout: Duration::from_millis(600),
        lock_timeout: Duration::from_millis(300),
        ..config
    }
}

fn through(proxy: &Proxy, database: &Database) -> PostgresStore {
    let config = PostgresConfig {
        url: proxy.url(database),
        ..database.config()
    };
    PostgresStore::new(impatient(config), None).unwrap()
}

fn assert_unavailable<T: std::fmt::Debug>(outcome: Result<T, StoreError>) {
    let error = outcome.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
}

async fn rows(database: &Database) -> i64 {
    database.number("select count(*) from messages").await
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable_at_once_and_found_when_it_comes() {
    with_database(|database| async move {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let config = PostgresConfig {
            url: format!("postgres://warren:hunter2@127.0.0.1:{port}/warren"),
            ..PostgresConfig::default()
        };
        let store = PostgresStore::new(config.clone(), None).unwrap();
        for _ in 0..3 {
            let begun = Instant::now();
            let error = store.store(&messages(3)).await.unwrap_err();
            assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
            assert!(
                error.to_string().contains(&format!("127.0.0.1:{port}")),
                "{error}"
            );
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
            assert!(begun.elapsed() < Duration::from_secs(2));
        }
        assert!(store.check().await.is_err());
        assert_unavailable(store.maintain(Timestamp::now()).await);
        assert_unavailable(migrate(&config).await);

        let proxy = Proxy::start().await;
        proxy.set(Network::Down);
        let store = through(&proxy, &database);
        assert_unavailable(store.store(&messages(3)).await);
        proxy.set(Network::Up);
        store.store(&messages(3)).await.unwrap();
        store.check().await.unwrap();
        store.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_connection_cut_between_batches_is_replaced() {
    with_database(|database| async move {
        let proxy = Proxy::start().await;
        let store = through(&proxy, &database);
        store.store(&messages(500)).await.unwrap();
        proxy.set(Network::Down);
        assert_unavailable(store.store(&messages(500)).await);
        proxy.set(Network::Up);
        store.store(&messages(500)).await.unwrap();
        assert_eq!(rows(&database).await, 1_000);
        store.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_network_that_swallows_everything_is_unavailable_in_time_and_left_behind() {
    with_database(|database| async move {
        let proxy = Proxy::start().await;
        let store = through(&proxy, &database);
        store.store(&messages(500)).await.unwrap();
        proxy.set(Network::Silent);
        for size in [5, 500] {
            let begun = Instant::now();
            assert_unavailable(store.store(&messages(size)).await);
            // The client's own limit is a second over the statement's.
            assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
        }
        let begun = Instant::now();
        assert!(store.check().await.is_err());
        assert!(begun.elapsed() < Duration::from_secs(2));
        proxy.set(Network::Up);
        store.store(&messages(500)).await.unwrap();
        store.check().await.unwrap();
        assert_eq!(rows(&database).await, 1_000);
        store.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_batch_whose_answer_was_lost_is_stored_once_when_it_is_repeated() {
    with_database(|database| async move {
        let proxy = Proxy::start().await;
        let store = through(&proxy, &database);
        store.store(&messages(1)).await.unwrap();
        proxy.set(Network::Mute);
        // One statement that is its own transaction: it commits, and nobody hears of it.
        let batch = messages(50);
        assert_unavailable(store.store(&batch).await);
        eventually("the batch is stored", || async { rows(&database).await == 51 }).await;
        proxy.set(Network::Up);
        let stored = store.store(&batch).await.unwrap();
        assert_eq!((stored.inserted.total(), stored.duplicates.total()), (0, 50));
        assert_eq!(rows(&database).await, 51);
        store.close().await;
    })
    .await;
}

#[tokio::test]
async fn waiting_batches_do_not_run_over_a_server_that_is_away() {
    with_database(|database| async move {
        let proxy = Proxy::start().await;
        proxy.set(Network::Down);
        let store = through(&proxy, &database);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(2) {
            assert_unavailable(store.store(&messages(3)).await);
        }
        // Up to 50 ms, 100, 200, 400, 800, then a second; each at least half of it.
        assert!((2..=12).contains(&proxy.connections()), "{}", proxy.connections());
    })
    .await;
}

#[tokio::test]
async fn a_locked_table_is_unavailable_in_time_and_the_connections_stay() {
    with_database(|database| async move {
        let store = PostgresStore::new(impatient(database.config()), None).unwrap();
        store.store(&messages(3)).await.unwrap();
        database.run("begin; lock table messages").await;
        for size in [3, 500] {
            let begun = Instant::now();
            assert_unavailable(store.store(&messages(size)).await);
            assert!(begun.elapsed() < Duration::from_secs(3));
        }
        let unhealthy = store.check().await.unwrap_err().to_string();
        assert!(
            unhealthy.contains("lock"),
            "a look is not fooled by a server that answers: {unhealthy}"
        );
        database.run("rollback").await;
        store.check().await.unwrap();
        assert_eq!(rows(&database).await, 3, "looking leaves nothing");
        store.store(&messages(500)).await.unwrap();
        assert_eq!(rows(&database).await, 503);
        store.close().await;
    })
    .await;
}

#[tokio::test]
async fn nobody_takes_an_answer_to_a_copy_that_could_not_begin_for_its_own() {
    with_database(|database| async move {
        let config = PostgresConfig {
            write_connections: 1,
            lock_timeout: Duration::from_millis(100),
            ..database.config()
        };
        let store = PostgresStore::new(config, None).unwrap();
        for round in 0..12 {
            database.run("begin; lock table messages").await;
            for _ in 0..2 {
                assert_unavailable(store.store(&messages(500)).await);
                let unhealthy = store.check().await.unwrap_err().to_string();
                assert!(unhealthy.contains("lock"), "{unhealthy}");
            }
            database.run("rollback").await;
            store.store(&messages(500)).await.unwrap();
            assert_eq!(rows(&database).await, 500 * (round + 1));
        }
        store.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_statement_that_takes_too_long_is_unavailable() {
    with_database(|database| async move {
        database
            .before_insert("perform pg_sleep(30)", "new.body = 'slow'")
            .await;
        let store = PostgresStore::new(impatient(database.config()), None).unwrap();
        let begun = Instant::now();
        assert_unavailable(store.store(&[message(Severity::Info, "a", "slow")]).await);
        assert!(begun.elapsed() < Duration::from_secs(3));
        store.store(&messages(3)).await.unwrap();
        store.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_batch_that_needs_longer_than_a_statement_may_is_stored_in_parts() {
    with_database(|database| async move {
        database.before_insert("perform pg_sleep(0.001)", "true").await;
        let config = PostgresConfig {
            statement_timeout: Duration::from_secs(2),
            lock_timeout: Duration::from_secs(1),
            ..database.config()
        };
        let store = PostgresStore::new(config, None).unwrap();
        let batch = messages(2_500);
        let stored = store.store(&batch).await.unwrap();
        assert_eq!(stored.inserted.total(), 2_500);
        let counted = "select sum(count)::bigint from message_counts";
        assert_eq!(
            (rows(&database).await, database.number(counted).await),
            (2_500, 2_500)
        );
        store.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_batch_that_always_runs_into_the_statement_timeout_is_repeated_in_smaller_statements() {
    with_database(|database| async move {
        database.before_insert("perform pg_sleep(0.01)", "true").await;
        let config = PostgresConfig {
            statement_timeout: Duration::from_secs(1),
            lock_timeout: Duration::from_millis(300),
            ..database.config()
        };
        let store = PostgresStore::new(config, None).unwrap();
        let batch = messages(400);
        // 400 rows need 4 seconds, 200 need 2, 100 a little more than the one there is.
        let mut timeouts = 0;
        while let Err(error) = store.store(&batch).await {
            assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
            assert!(error.to_string().contains("57014"), "{error}");
            timeouts += 1;
            assert!(timeouts < 6, "it goes on with the same size");
        }
        assert_eq!(rows(&database).await, 400);
        // The next batch begins where this one has ended.
        store.store(&messages(400)).await.unwrap();
        store.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_reader_gives_up_on_a_server_that_has_gone_silent() {
    with_database(|database| async move {
        let proxy = Proxy::start().await;
        let config = impatient(PostgresConfig {
            url: proxy.url(&database),
            ..database.config()
        });
        let limits = ReaderConfig {
            statement_timeout: Duration::from_millis(600),
            ..ReaderConfig::default()
        };
        let reader = PostgresReader::new(&config, &limits).unwrap();
        let sought = messages(1)[0].id;
        assert_eq!(reader.fetch(sought).await.unwrap(), None);
        proxy.set(Network::Silent);
        let begun = Instant::now();
        for _ in 0..2 {
            let error = reader.fetch(sought).await.unwrap_err();
            assert!(matches!(error, ReadError::Unavailable { .. }), "{error}");
        }
        proxy.set(Network::Up);
        reader.fetch(sought).await.unwrap();
        reader.close().await;
        assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
    })
    .await;
}

#[tokio::test]
async fn a_server_that_takes_no_writes_is_unavailable_until_it_does() {
    with_database(|database| async move {
        let read_only = |on: &str| {
            format!(
                "alter database {} set default_transaction_read_only = {on}",
                database.name
            )
        };
        database.run(&read_only("on")).await;
        let store = database.store();
        for size in [3, 500] {
            assert_unavailable(store.store(&messages(size)).await);
        }
        let unhealthy = store.check().await.unwrap_err().to_string();
        assert!(unhealthy.contains("standby"), "{unhealthy}");
        database
            .run(&format!(
                "set default_transaction_read_only = off; {}",
                read_only("off")
            ))
            .await;
        store.store(&messages(500)).await.unwrap();
        store.check().await.unwrap();
        store.close().await;
    })
    .await;
}

#[tokio::test]
async fn dead_letters_that_can_only_be_looked_at_say_so_before_anybody_publishes_them() {
    with_database(|database| async move {
        let letters = PostgresDeadLetters::new(database.config()).unwrap();
        letters.keep(&[letter(b"x", 1)]).await.unwrap();
        letters.check_writable().await.unwrap();
        letters.close().await;
        let read_only = format!(
            "alter database {} set default_transaction_read_only = on",
            database.name
        );
        database.run(&read_only).await;
        let letters = PostgresDeadLetters::new(database.config()).unwrap();
        let everything = DeadLetterFilter::default();
        assert_eq!(letters.count(&everything).await.unwrap().total(), 1);
        let refused = letters.check_writable().await.unwrap_err();
        assert!(matches!(refused, DeadLettersError::ReadOnly { .. }), "{refused}");
        assert!(refused.to_string().contains("postgres.url"), "{refused}");
        letters.close().await;
    })
    .await;
}

#[tokio::test]
async fn sessions_that_an_operator_ends_are_replaced() {
    with_database(|database| async move {
        let store = database.store();
        store.store(&messages(3)).await.unwrap();
        database
            .run(
                "select pg_terminate_backend(pid) from pg_stat_activity \
                 where datname = current_database() and application_name = 'warren'",
            )
            .await;
        // The first may meet the corpse; the one after it must not.
        if store.store(&messages(3)).await.is_err() {
            store.store(&messages(3)).await.unwrap();
        }
        store.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_batch_whose_caller_gave_up_is_stored_whole_or_not_at_all() {
    with_database(|database| async move {
        let store = Arc::new(database.store());
        store.store(&messages(500)).await.unwrap();
        for patience in 0..40 {
            let batch = messages(500);
            let given_up = tokio::time::timeout(Duration::from_millis(patience), store.store(&batch)).await;
            let all = rows(&database).await;
            if given_up.is_ok() {
                assert_eq!(all % 500, 0);
            }
        }
        eventually("every session is idle or gone", || async {
            let busy = "select count(*) from pg_stat_activity where datname = current_database() \
                        and application_name = 'warren' and state <> 'idle'";
            database.number(busy).await == 0
        })
        .await;
        assert_eq!(rows(&database).await % 500, 0, "no part of a batch");
        let counted = database
            .number("select sum(count)::bigint from message_counts")
            .await;
        assert_eq!(counted, rows(&database).await);
        // The connections that were left in the middle of something are gone, and others take their place.
        store.store(&messages(500)).await.unwrap();
        store.close().await;
        eventually("no session is left", || async {
            let sessions = "select count(*) from pg_stat_activity where datname = current_database() \
                            and application_name = 'warren'";
            database.number(sessions).await == 0
        })
        .await;
        assert_unavailable(store.store(&messages(3)).await);
    })
    .await;
}

#[tokio::test]
async fn more_batches_than_connections_wait_their_turn() {
    with_database(|database| async move {
        let store = Arc::new(database.store());
        let batches = (0..12).map(|_| {
            let store = Arc::clone(&store);
            async move { store.store(&messages(300)).await.unwrap() }
        });
        futures_util::future::join_all(batches).await;
        assert_eq!(rows(&database).await, 12 * 300);
        let sessions = "select count(*) from pg_stat_activity where datname = current_database() \
                        and application_name = 'warren'";
        assert_eq!(database.number(sessions).await, 2);
        store.close().await;
    })
    .await;
}

#[tokio::test]
async fn who_goes_silent_while_keeping_letters_holds_nobody_up_for_long() {
    with_database(|database| async move {
        let proxy = Proxy::start().await;
        let config = PostgresConfig {
            idle_in_transaction_session_timeout: Duration::from_millis(500),
            ..database.config()
        };
        let through = PostgresConfig {
            url: proxy.url(&database),
            ..config.clone()
        };
        let silent = PostgresDeadLetters::new(through).unwrap();
        let other = PostgresDeadLetters::new(config).unwrap();
        let kept = [letter(b"x", 1)];
        silent.count(&DeadLetterFilter::default()).await.unwrap();
        database.run("begin; lock table dead_letters in share mode").await;
        let keeping = tokio::spawn(async move { silent.keep(&kept).await });
        let waits = "select count(*) from pg_locks where not granted and relation = 'dead_letters'::regclass";
        eventually("the letter waits for the table", async || {
            database.number(waits).await == 1
        })
        .await;
        proxy.set(Network::Silent);
        database.run("commit").await;
        // The row is written and not committed, and whoever wrote it says nothing any more.
        other.keep(&[letter(b"x", 2)]).await.unwrap();
        assert!(keeping.await.unwrap().is_err());
        other.close().await;
    })
    .await;
}

#[tokio::test]
async fn connections_that_gave_no_answer_are_left_behind_by_the_dead_letters() {
    with_database(|database| async move {
        let proxy = Proxy::start().await;
        let config = PostgresConfig {
            url: proxy.url(&database),
            connect_timeout: Duration::from_millis(700),
            acquire_timeout: Duration::from_millis(700),
            statement_timeout: Duration::from_secs(2),
            lock_timeout: Duration::from_millis(1_900),
            ..database.config()
        };
        let letters = PostgresDeadLetters::new(config).unwrap();
        let (all, again) = (DeadLetterFilter::default(), [letter(b"x", 2)]);
        letters.keep(&[letter(b"x", 1)]).await.unwrap();
        database
            .run("begin; lock table dead_letters in access exclusive mode")
            .await;
        let silence = async {
            let waits =
                "select count(*) from pg_locks where not granted and relation = 'dead_letters'::regclass";
            eventually("every connection is in use", async || {
                database.number(waits).await == 2
            })
            .await;
            proxy.set(Network::Silent);
            database.run("commit").await;
        };
        let (counted, kept, ()) = tokio::join!(letters.count(&all), letters.keep(&again), silence);
        assert!(counted.is_err() && kept.is_err());
        proxy.set(Network::Up);
        eventually("the letters are there again", async || {
            letters.keep(&[letter(b"x", 3)]).await.is_ok()
        })
        .await;
        assert_eq!(letters.count(&all).await.unwrap().total(), 1);
        letters.close().await;
    })
    .await;
}
