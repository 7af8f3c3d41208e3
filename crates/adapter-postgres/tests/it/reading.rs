//! What reading takes of PostgreSQL, and what becomes of a search when PostgreSQL is slow.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio_postgres::Client;
use warren_adapter_conformance::samples::{message_made_at, messages};
use warren_adapter_postgres::{PostgresConfig, PostgresReader, ReaderConfig};
use warren_domain::ports::{HealthCheck, MessageReader, MessageStore, Order, ReadError, Search, TimeRange};
use warren_domain::{Message, MessageId, Selection, SeveritySet, Timestamp};

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

/// Returns a reader that waits for locks longer than a test takes, and for connections as long as is usual.
fn patient_reader(database: &Database, connections: usize) -> PostgresReader {
    patient_reader_of(&database.config(), connections)
}

fn patient_reader_of(config: &PostgresConfig, connections: usize) -> PostgresReader {
    let config = PostgresConfig {
        lock_timeout: Duration::from_secs(20),
        statement_timeout: Duration::from_secs(60),
        ..config.clone()
    };
    let limits = ReaderConfig {
        connections,
        search_time: Duration::from_secs(240),
        statement_timeout: Duration::from_secs(60),
    };
    PostgresReader::new(&config, &limits).unwrap()
}

/// How many statements of readers PostgreSQL is at.
const BUSY: &str = "select count(*) from pg_stat_activity \
    where datname = current_database() and application_name = 'warren reader' and state = 'active'";

#[tokio::test]
async fn a_search_that_nobody_waits_for_is_ended_in_the_server() {
    with_database(|database| async move {
        store(&database, 10).await;
        let reader = Arc::new(patient_reader(&database, 1));
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

/// Makes each row of a table take so many seconds to be read.
pub(crate) async fn slow_down(database: &Database, table: &str, seconds: f64) {
    database
        .run(&format!(
            "alter table {table} rename to quick_{table};
             create function slowly() returns boolean language plpgsql volatile cost 1000000
                 as $$ begin perform pg_sleep({seconds}); return true; end $$;
             create view {table} as select * from quick_{table} where slowly()"
        ))
        .await;
}

/// Turns every page of a search; none may be refused.
async fn found(reader: &PostgresReader, query: &str) -> (Vec<MessageId>, usize) {
    let (mut search, mut found, mut pages) = (asking(query), Vec::new(), 0);
    loop {
        let page = reader.find(&search, 1_000).await.unwrap();
        pages += 1;
        found.extend(page.messages.into_iter().map(|stored| stored.message.id));
        let Some(next) = page.next else { break };
        search.from = Some(next);
    }
    found.reverse();
    (found, pages)
}

#[tokio::test]
async fn a_search_too_slow_for_a_statement_gets_on_in_smaller_steps_and_misses_nothing() {
    with_database(|database| async move {
        let batch = store(&database, 200).await;
        // A step has half a second, all of them take four.
        slow_down(&database, "messages", 0.01).await;
        let reader = database.reader();
        let (found, pages) = found(&reader, "-absent").await;
        assert!(pages > 1, "some of it was found before the time was over");
        assert_eq!(found, batch.iter().map(|message| message.id).collect::<Vec<_>>());
        reader.close().await;
    })
    .await;
}

#[tokio::test]
async fn counts_that_are_not_read_in_time_are_done_without() {
    with_database(|database| async move {
        let minute = 60_000_000;
        let now = Timestamp::now().unix_micros();
        let time = |n: i64| Timestamp::from_unix_micros(now - n * minute).unwrap();
        let mut batch: Vec<_> = (0..200).map(|n| message_made_at(time(n))).collect();
        let store = database.store();
        store.store(&batch).await.unwrap();
        store.close().await;
        batch.reverse();
        slow_down(&database, "message_count_deltas", 0.02).await;
        let reader = database.reader();
        for query in ["", "made", "source:clock"] {
            let (found, _) = found(&reader, query).await;
            assert_eq!(found, batch.iter().map(|message| message.id).collect::<Vec<_>>());
        }
        assert_eq!(found(&reader, "absent").await.0, []);
        reader.close().await;
    })
    .await;
}

#[tokio::test]
async fn what_is_near_is_found_with_few_counts_however_many_there_are() {
    with_database(|database| async move {
        database
            .run(
                "insert into message_counts_minutes
                 select now() - n * interval '1 minute', 9, 'many', 1 from generate_series(1, 60000) as n;
                 insert into message_minutes (minute, stored) select minute, count from message_counts_minutes",
            )
            .await;
        store(&database, 5).await;
        // Who means some sources needs their counts, and who means everything those of whole minutes.
        for (query, table) in [("", "message_minutes"), ("source:#", "message_counts_minutes")] {
            let reader = database.reader();
            assert_eq!(reader.find(&asking(query), 5).await.unwrap().messages.len(), 5);
            // What it has read is told when it has gone.
            reader.close().await;
            let key = format!("from pg_stat_user_indexes where indexrelname = '{table}_pkey'");
            let (scanned, read) = (
                format!("select idx_scan {key}"),
                format!("select idx_tup_read {key}"),
            );
            eventually("it is told", async || database.number(&scanned).await > 0).await;
            let read = database.number(&read).await;
            assert!((1..10_000).contains(&read), "{read} counts of {table}");
        }
    })
    .await;
}

#[tokio::test]
async fn rows_that_move_into_a_new_partition_while_somebody_looks_are_found() {
    with_database(|database| async move {
        // Long before the partitions that there are.
        let day = "2001-02-03T04:05:06Z".parse().unwrap();
        let batch: Vec<_> = (0..20).map(|_| message_made_at(day)).collect();
        let store = database.store();
        store.store(&batch).await.unwrap();
        store.close().await;
        let reader = Arc::new(patient_reader(&database, 2));
        // As the maintenance makes it.
        let (from, to) = ("00e47199-1000-0000-0000-000000000000", "00e476bf-6c00-0000-0000-000000000000");
        let making = connect(&database.url).await;
        making
            .batch_execute(&format!(
                "begin;
                 create table messages_20010203 (like messages including all);
                 lock table messages_default in access exclusive mode;
                 with moved as (delete from messages_default where id >= '{from}' and id < '{to}' returning *)
                     insert into messages_20010203 select * from moved"
            ))
            .await
            .unwrap();
        let (searching, fetching) = (Arc::clone(&reader), Arc::clone(&reader));
        let sought = batch[7].id;
        let search = tokio::spawn(async move { searching.find(&asking("made"), 100).await });
        let fetch = tokio::spawn(async move { fetching.fetch(sought).await });
        let waiting = "select count(*) from pg_stat_activity where datname = current_database() \
            and application_name = 'warren reader' and wait_event_type = 'Lock'";
        eventually("both wait", async || database.number(waiting).await == 2).await;
        making
            .batch_execute(&format!(
                "alter table messages attach partition messages_20010203 for values from ('{from}') to ('{to}');
                 commit"
            ))
            .await
            .unwrap();
        assert_eq!(search.await.unwrap().unwrap().messages.len(), 20);
        assert!(fetch.await.unwrap().unwrap().is_some());
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
        let reader = Arc::new(patient_reader_of(&config, 1));
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
        // To be busy is not to be ill.
        reader.check().await.unwrap();
        drop(locking);
        held.await.unwrap().unwrap();
        reader.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_database_that_is_away_is_noticed_while_all_connections_are_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = PostgresConfig {
        url: format!("postgres://nobody@{}/none", listener.local_addr().unwrap()),
        connect_timeout: Duration::from_secs(30),
        ..PostgresConfig::default()
    };
    let reader = Arc::new(patient_reader_of(&config, 1));
    let find = |reader: &Arc<PostgresReader>| {
        let reader = Arc::clone(reader);
        tokio::spawn(async move { reader.find(&asking(""), 1).await })
    };
    // Nobody has failed yet.
    let first = find(&reader);
    let (connection, _) = listener.accept().await.unwrap();
    reader.check().await.unwrap();
    drop(connection);
    first.await.unwrap().unwrap_err();
    // Somebody has, and the next one gets no answer either.
    let second = find(&reader);
    let _silent = listener.accept().await.unwrap();
    reader.check().await.unwrap_err();
    second.abort();
}
