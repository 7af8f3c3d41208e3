//! Reading beside a writer, and a file that cannot be read.

use std::time::Duration;

use bytesize::ByteSize;
use tokio_util::sync::CancellationToken;
use warren_adapter_conformance::samples::{message, messages};
use warren_adapter_embedded::{Embedded, EmbeddedConfig, ReaderConfig};
use warren_domain::ports::{Counts, MessageReader, Order, ReadError, Search, TimeRange};
use warren_domain::{Selection, Severity, SeveritySet};

use crate::support::{directory, open};

fn everything() -> Search {
    Search {
        selection: Selection::of(SeveritySet::ALL),
        query: "message".parse().unwrap(),
        range: TimeRange::ALL,
        order: Order::NewestFirst,
        from: None,
    }
}

#[tokio::test]
async fn nobody_who_reads_waits_for_one_who_writes() {
    let directory = directory();
    let embedded = open(directory.path()).await;
    embedded.store().store(&messages(50)).await.unwrap();
    let writer = crate::opening::connect(&directory.path().join("data/store.db")).await;
    crate::opening::execute(&writer, "begin immediate").await;
    crate::opening::execute(&writer, "delete from messages").await;
    let reader = embedded.reader(&ReaderConfig::default());
    let found = tokio::time::timeout(Duration::from_secs(5), reader.find(&everything(), 100)).await;
    assert_eq!(found.unwrap().unwrap().messages.len(), 50);
    crate::opening::execute(&writer, "rollback").await;
    embedded.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_write_ahead_log_begins_anew_however_many_read_all_the_time() {
    let directory = directory();
    let config = EmbeddedConfig {
        max_bytes: ByteSize::mib(64),
        ..crate::support::config(directory.path())
    };
    let at_rest = config.max_bytes.as_u64() / 32;
    let embedded = Embedded::open(config, None).await.unwrap();
    let reader = embedded.reader(&ReaderConfig {
        connections: 6,
        ..ReaderConfig::default()
    });
    let large = "x".repeat(4 << 10);
    let batch = || -> Vec<_> {
        (0..200)
            .map(|_| message(Severity::Info, "bulk", &large))
            .collect()
    };
    embedded.store().store(&batch()).await.unwrap();
    let stop = CancellationToken::new();
    let readers: Vec<_> = (0..6)
        .map(|_| {
            let (reader, stop) = (reader.clone(), stop.clone());
            tokio::spawn(async move {
                let absent = Search {
                    query: "absent".parse().unwrap(),
                    ..everything()
                };
                while !stop.is_cancelled() {
                    reader.find(&absent, 100).await.unwrap();
                }
            })
        })
        .collect();
    for _ in 0..25 {
        embedded.store().store(&batch()).await.unwrap();
    }
    let log = directory.path().join("data/store.db-wal");
    let begun = std::time::Instant::now();
    while log.metadata().unwrap().len() > at_rest {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "{} bytes",
            log.metadata().unwrap().len()
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
        embedded.store().store(&messages(1)).await.unwrap();
    }
    assert!(readers.iter().all(|reader| !reader.is_finished()));
    stop.cancel();
    for reader in readers {
        reader.await.unwrap();
    }
    embedded.close().await;
}

/// Makes the counts take longer to be read than anybody waits.
pub(crate) const ENDLESS: [&str; 2] = [
    "alter table message_counts rename to quick_message_counts",
    "create view message_counts as
        with recursive n (n) as (select 1 union all select n + 1 from n limit 1000000000000)
        select minute, severity, source, messages from quick_message_counts, n",
];

#[tokio::test]
async fn counts_that_are_not_read_in_time_are_done_without() {
    let directory = directory();
    let embedded = open(directory.path()).await;
    embedded.store().store(&messages(50)).await.unwrap();
    crate::opening::run_sql(&directory.path().join("data/store.db"), &ENDLESS).await;
    let reader = embedded.reader(&ReaderConfig {
        statement_timeout: Duration::from_millis(100),
        ..ReaderConfig::default()
    });
    let mut search = everything();
    let mut found = 0;
    loop {
        let page = reader.find(&search, 20).await.unwrap();
        found += page.messages.len();
        let Some(next) = page.next else { break };
        search.from = Some(next);
    }
    assert_eq!(found, 50);
    embedded.close().await;
}

#[tokio::test]
async fn a_reader_that_is_closed_has_no_connection_and_its_clones_neither() {
    let directory = directory();
    let embedded = open(directory.path()).await;
    embedded.store().store(&messages(5)).await.unwrap();
    let reader = embedded.reader(&ReaderConfig::default());
    assert_eq!(reader.find(&everything(), 10).await.unwrap().messages.len(), 5);
    let other = embedded.reader(&ReaderConfig::default());
    reader.clone().close().await;
    let told = reader.find(&everything(), 10).await.unwrap_err();
    assert!(matches!(told, ReadError::Unavailable { .. }), "{told}");
    assert_eq!(other.find(&everything(), 10).await.unwrap().messages.len(), 5);
    embedded.close().await;
}

#[tokio::test]
async fn a_file_that_is_not_what_was_written_is_named() {
    let directory = directory();
    let embedded = open(directory.path()).await;
    embedded.store().store(&messages(5)).await.unwrap();
    let reader = embedded.reader(&ReaderConfig::default());
    let file = directory.path().join("data/store.db");
    crate::opening::run_sql(&file, &["update messages set attributes = 'no JSON'"]).await;
    let told = reader.find(&everything(), 10).await.unwrap_err();
    assert!(matches!(told, ReadError::Misconfigured { .. }), "{told}");
    crate::opening::run_sql(&file, &["drop table message_counts", "drop table messages"]).await;
    let wanted = Counts {
        selection: Selection::of(SeveritySet::ALL),
        range: TimeRange::ALL,
        minutes: std::num::NonZeroU32::MAX,
    };
    for told in [
        reader.find(&everything(), 10).await.unwrap_err(),
        reader.fetch(messages(1)[0].id).await.unwrap_err(),
        reader.counts(&wanted).await.unwrap_err(),
        reader
            .sources(TimeRange::ALL, SeveritySet::ALL)
            .await
            .unwrap_err(),
    ] {
        assert!(matches!(told, ReadError::Misconfigured { .. }), "{told}");
        assert!(told.to_string().contains("store.db"), "{told}");
    }
    embedded.close().await;
    let closed = reader.fetch(messages(1)[0].id).await.unwrap_err();
    assert!(matches!(closed, ReadError::Unavailable { .. }), "{closed}");
}
