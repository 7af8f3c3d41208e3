//! What happens when there is no room, or no time.

use std::time::Duration;

use bytesize::ByteSize;
use tokio::task::JoinSet;
use warren_adapter_conformance::samples::{message, message_made_at, messages};
use warren_adapter_embedded::{Embedded, EmbeddedConfig};
use warren_domain::ports::{PublishError, StoreError};
use warren_domain::{Message, Severity, Timestamp};

use crate::support::{PATIENCE, config, counts, directory, drain, eventually, ids, open, publish, stored};

fn small(directory: &std::path::Path) -> EmbeddedConfig {
    EmbeddedConfig {
        max_bytes: ByteSize::mib(32),
        ..config(directory)
    }
}

fn bulk() -> Vec<Message> {
    let body = "x".repeat(20_000);
    (0..20).map(|_| message(Severity::Info, "bulk", &body)).collect()
}

async fn publish_until_full(embedded: &Embedded) -> (usize, String) {
    let mut published = 0;
    loop {
        match embedded.publisher().publish(bulk(), None).await {
            Ok(()) => published += 20,
            Err(refused) => match &refused.errors[0].1 {
                PublishError::Unavailable { reason, .. } => return (published, reason.clone()),
                other => panic!("{other}"),
            },
        }
        assert!(published < 10_000, "never full");
    }
}

fn size_of(directory: &std::path::Path) -> u64 {
    std::fs::read_dir(directory.join("data"))
        .unwrap()
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum()
}

fn assert_within_limit(directory: &std::path::Path) {
    let size = size_of(directory);
    assert!(
        size <= ByteSize::mib(32).as_u64(),
        "{size} bytes in the directory"
    );
}

#[tokio::test]
async fn a_full_directory_refuses_by_name_and_takes_messages_again_once_there_is_room() {
    let directory = directory();
    let embedded = Embedded::open(small(directory.path()), Some(1)).await.unwrap();
    let (published, reason) = publish_until_full(&embedded).await;
    assert!(published >= 200, "full after {published}");
    assert!(reason.contains("embedded.max_bytes of 32.0 MiB"), "{reason}");
    let unhealthy = embedded.health().check().await.unwrap_err();
    assert!(unhealthy.0.contains("embedded.max_bytes"), "{unhealthy}");
    // Whoever empties the queue is not kept from it.
    embedded.store_health().check().await.unwrap();

    // Everything that was taken finds its room in the store, within the limit.
    assert_eq!(drain(&embedded).await, published);
    assert_within_limit(directory.path());
    let (more, _) = publish_until_full(&embedded).await;
    assert_eq!(drain(&embedded).await, more);
    assert_within_limit(directory.path());

    // Two days later all of it is outdated.
    let later = Timestamp::now().unix_micros() + 2 * 86_400_000_000;
    let later = Timestamp::from_unix_micros(later).unwrap();
    let maintained = embedded.maintenance().maintain(later).await.unwrap();
    assert!(
        maintained.removed[0].contains(&(published + more).to_string()),
        "{maintained:?}"
    );
    assert_eq!(counts(&embedded).await.total(), 0);
    eventually("there is room again", async || {
        embedded.publisher().publish(bulk(), None).await.is_ok()
    })
    .await;
    eventually("it is healthy again", async || {
        embedded.health().check().await.is_ok()
    })
    .await;
    eventually("free pages are given back", async || {
        size_of(directory.path()) < ByteSize::mib(24).as_u64()
    })
    .await;
    embedded.close().await;
}

#[tokio::test]
async fn a_forgotten_group_does_not_fill_the_directory() {
    let directory = directory();
    let embedded = Embedded::open(small(directory.path()), None).await.unwrap();
    let mut forgotten = embedded.consumer(crate::support::named("forgotten", Severity::ALL));
    assert!(
        tokio::time::timeout(Duration::from_millis(300), forgotten.next())
            .await
            .is_err()
    );
    let (published, _) = publish_until_full(&embedded).await;
    assert_eq!(drain(&embedded).await, published);
    eventually("there is room again", async || {
        embedded.publisher().publish(bulk(), None).await.is_ok()
    })
    .await;
    embedded.close().await;
}

#[tokio::test]
async fn retention_removes_what_is_older_and_nothing_else() {
    let directory = directory();
    let embedded = Embedded::open(config(directory.path()), Some(7)).await.unwrap();
    let now = Timestamp::now();
    let day = 86_400_000_000;
    let at =
        |days: i64| message_made_at(Timestamp::from_unix_micros(now.unix_micros() - days * day).unwrap());
    let (old, young) = ([at(8), at(400)], [at(0), at(6)]);
    let store = embedded.store();
    store.store(&[old.as_slice(), &young].concat()).await.unwrap();
    let maintenance = embedded.maintenance();
    let maintained = maintenance.maintain(now).await.unwrap();
    assert!(maintained.removed[0].starts_with("2 messages"), "{maintained:?}");
    assert!(maintenance.maintain(now).await.unwrap().removed.is_empty());
    assert!(stored(&embedded, &ids(&old)).await.is_empty());
    assert_eq!(stored(&embedded, &ids(&young)).await.len(), 2);
    assert_eq!(counts(&embedded).await.total(), 2);
    embedded.close().await;
}

#[tokio::test]
async fn publishing_ends_in_time_when_the_file_is_locked_and_recovers_by_itself() {
    let directory = directory();
    let limits = EmbeddedConfig {
        publish_timeout: Duration::from_millis(300),
        ..config(directory.path())
    };
    let embedded = Embedded::open(limits, None).await.unwrap();
    let file = directory.path().join("data/queue.db");
    let locker = crate::opening::connect(&file).await;
    crate::opening::execute(&locker, "begin immediate").await;
    let began = std::time::Instant::now();
    let refused = embedded.publisher().publish(messages(3), None).await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(3));
    assert_eq!(refused.errors.len(), 3);
    let PublishError::Unavailable { reason, .. } = &refused.errors[0].1 else {
        panic!("{refused:?}");
    };
    assert!(reason.contains("embedded.publish_timeout"), "{reason}");
    crate::opening::execute(&locker, "rollback").await;
    eventually("it publishes again", async || {
        embedded.publisher().publish(messages(1), None).await.is_ok()
    })
    .await;
    embedded.close().await;
}

#[tokio::test]
async fn a_commit_that_failed_is_forgotten_once_the_file_takes_another_though_nobody_publishes() {
    let directory = directory();
    let limits = EmbeddedConfig {
        publish_timeout: Duration::from_millis(100),
        ..config(directory.path())
    };
    let embedded = Embedded::open(limits, None).await.unwrap();
    let locker = crate::opening::connect(&directory.path().join("data/queue.db")).await;
    crate::opening::execute(&locker, "begin immediate").await;
    embedded.publisher().publish(messages(1), None).await.unwrap_err();
    // SQLite waits some seconds for the lock.
    eventually("the commit fails", async || {
        let said = embedded.health().check().await;
        said.is_err_and(|fault| fault.0.contains("cannot be written"))
    })
    .await;
    crate::opening::execute(&locker, "rollback").await;
    eventually("it is healthy", async || embedded.health().check().await.is_ok()).await;
    embedded.close().await;
}

#[tokio::test]
async fn more_callers_than_may_wait_take_turns() {
    let directory = directory();
    let limits = EmbeddedConfig {
        pending_max_bytes: ByteSize::kib(64),
        pending_max_messages: 10,
        publish_timeout: PATIENCE,
        ..config(directory.path())
    };
    let embedded = Embedded::open(limits, None).await.unwrap();
    let mut callers = JoinSet::new();
    for n in 0..100 {
        let publisher = embedded.publisher();
        callers.spawn(async move { publisher.publish(messages(n % 30 + 1), None).await });
    }
    while let Some(outcome) = callers.join_next().await {
        outcome.unwrap().unwrap();
    }
    embedded.close().await;
}

#[tokio::test]
async fn a_row_that_the_table_refuses_is_told_from_a_store_that_is_not_there() {
    let directory = directory();
    let embedded = open(directory.path()).await;
    let file = directory.path().join("data/store.db");
    let other = crate::opening::connect(&file).await;
    crate::opening::execute(
        &other,
        "create trigger poison before insert on messages when new.body = 'poison' \
         begin select raise(abort, 'poison'); end",
    )
    .await;
    let store = embedded.store();
    let mut batch = messages(10);
    batch.push(message(Severity::Info, "a", "poison"));
    assert!(matches!(
        store.store(&batch).await,
        Err(StoreError::Rejected { .. })
    ));
    let found = stored(&embedded, &ids(&batch)).await;
    assert!(found.is_empty(), "all or nothing");
    batch.pop();
    store.store(&batch).await.unwrap();

    crate::opening::execute(&other, "alter table messages rename to elsewhere").await;
    let error = store.store(&messages(1)).await.unwrap_err();
    assert!(matches!(error, StoreError::Misconfigured { .. }), "{error:?}");
    assert!(embedded.health().check().await.is_err());
    publish(&embedded, &messages(1)).await;
    embedded.close().await;
}
