//! What reading takes of PostgreSQL, and what becomes of a search when PostgreSQL is slow.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_postgres::Client;
use warren_adapter_conformance::samples::messages;
use warren_adapter_postgres::{PostgresConfig, PostgresReader, ReaderConfig};
use warren_domain::ports::{MessageReader, MessageStore, Order, ReadError, Search, TimeRange};
use warren_domain::{Message, Selection, SeveritySet};

use crate::support::{Database, connect, eventually, with_database};

fn asking(query: &str) -> Search {
    Search {
        selection: Selection::of(SeveritySet::ALL),
        query: query.parse().unwrap(),
        range: TimeRange::ALL,
        order: Order::NewestFirst,
        from: None,
    }
}

async fn store(database: &Database, count: usize) -> Vec<Message> {
    let (store, batch) = (database.store(), messages(count));
    store.store(&batch).await.unwrap();
    store.close().await;
    batch
}

/// Locks the table until what is returned is dropped: somebody else, as statistics do not change within a transaction.
async fn lock(database: &Database) -> Client {
    let client = connect(&database.url).await;
    let locking = client.batch_execute("begin; lock table messages in access exclusive mode");
    locking.await.unwrap();
    client
}

/// How many statements of readers PostgreSQL is at.
const BUSY: &str = "select count(*) from pg_stat_activity \
    where datname = current_database() and application_name = 'warren reader' and state = 'active'";

#[tokio::test]
async fn a_search_that_nobody_waits_for_is_ended_in_the_server() {
    with_database(|database| async move {
        store(&database, 10).await;
        let config = PostgresConfig {
            lock_timeout: Duration::from_secs(20),
            statement_timeout: Duration::from_secs(60),
            ..database.config()
        };
        let limits = ReaderConfig {
            connections: 1,
            statement_timeout: Duration::from_secs(60),
            ..ReaderConfig::default()
        };
        let reader = Arc::new(PostgresReader::new(&config, &limits).unwrap());
        let locking = lock(&database).await;
        let begun = Instant::now();
        for _ in 0..3 {
            let searching = Arc::clone(&reader);
            let search = tokio::spawn(async move { searching.find(&asking(""), 10).await });
            eventually("the search waits", async || database.number(BUSY).await == 1).await;
            search.abort();
            eventually("it was ended", async || database.number(BUSY).await == 0).await;
        }
        assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
        drop(locking);
        assert_eq!(reader.find(&asking(""), 100).await.unwrap().messages.len(), 10);
        reader.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_lock_on_the_table_is_waited_for_and_no_longer_than_is_said() {
    with_database(|database| async move {
        store(&database, 10).await;
        let limits = ReaderConfig {
            statement_timeout: Duration::from_millis(600),
            ..ReaderConfig::default()
        };
        let reader = PostgresReader::new(&database.config(), &limits).unwrap();
        let locking = lock(&database).await;
        let begun = Instant::now();
        let error = reader.find(&asking(""), 10).await.unwrap_err();
        assert!(matches!(error, ReadError::Unavailable { .. }), "{error}");
        assert!(error.to_string().contains("lock"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
        drop(locking);
        assert_eq!(reader.find(&asking(""), 100).await.unwrap().messages.len(), 10);
        reader.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_search_too_slow_for_a_statement_gets_on_in_smaller_steps_and_misses_nothing() {
    with_database(|database| async move {
        let batch = store(&database, 400).await;
        // Some 2 ms a row.
        database
            .run(
                "alter table messages rename to quick_messages;
                 create function slowly(uuid) returns boolean language plpgsql volatile cost 1000000
                     as $$ begin perform pg_sleep(0.002); return true; end $$;
                 create view messages as select * from quick_messages where slowly(id)",
            )
            .await;
        let limits = ReaderConfig {
            search_time: Duration::from_millis(300),
            statement_timeout: Duration::from_millis(300),
            ..ReaderConfig::default()
        };
        let reader = PostgresReader::new(&database.config(), &limits).unwrap();
        let (mut search, mut found, mut refused, mut pages) = (asking("-absent"), Vec::new(), 0, 0);
        loop {
            let begun = Instant::now();
            match reader.find(&search, 1_000).await {
                Ok(page) => {
                    pages += 1;
                    found.extend(page.messages.into_iter().map(|stored| stored.message.id));
                    let Some(next) = page.next else { break };
                    search.from = Some(next);
                }
                Err(error) => {
                    assert!(matches!(error, ReadError::Unavailable { .. }), "{error}");
                    assert!(error.to_string().contains("57014"), "{error}");
                    refused += 1;
                    assert!(refused < 8, "it goes on with the same size");
                }
            }
            assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
        }
        assert!(pages > 1, "some of it was found before the time was over");
        found.reverse();
        assert_eq!(found, batch.iter().map(|message| message.id).collect::<Vec<_>>());
        reader.close().await;
    })
    .await;
}

#[tokio::test]
async fn readers_that_use_up_their_connections_wait_in_turn_and_no_longer_than_is_said() {
    with_database(|database| async move {
        store(&database, 10).await;
        let config = PostgresConfig {
            acquire_timeout: Duration::from_millis(300),
            ..database.config()
        };
        let limits = ReaderConfig {
            connections: 1,
            ..ReaderConfig::default()
        };
        let reader = Arc::new(PostgresReader::new(&config, &limits).unwrap());
        let reading = (0..20).map(|_| {
            let reader = Arc::clone(&reader);
            tokio::spawn(async move { reader.find(&asking("message"), 100).await })
        });
        for search in reading.collect::<Vec<_>>() {
            assert_eq!(search.await.unwrap().unwrap().messages.len(), 10);
        }
        let locking = lock(&database).await;
        let held = Arc::clone(&reader);
        let held = tokio::spawn(async move { held.find(&asking(""), 1).await });
        eventually("the search waits", async || database.number(BUSY).await == 1).await;
        let error = reader.find(&asking(""), 10).await.unwrap_err();
        assert!(error.to_string().contains("no connection was free"), "{error}");
        drop(locking);
        held.await.unwrap().unwrap();
        reader.close().await;
    })
    .await;
}
