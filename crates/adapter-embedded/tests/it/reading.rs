//! Reading beside a writer, and a file that cannot be read.

use std::time::Duration;

use warren_adapter_conformance::samples::messages;
use warren_adapter_embedded::ReaderConfig;
use warren_domain::ports::{Counts, MessageReader, Order, ReadError, Search, TimeRange};
use warren_domain::{Selection, SeveritySet};

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
