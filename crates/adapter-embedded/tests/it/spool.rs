//! The queue alone: what a program puts by while its broker is away.

use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use warren_adapter_conformance::samples::{message, messages};
use warren_adapter_embedded::{Embedded, OpenError, SpoolConfig, SpoolQueue};
use warren_domain::ports::{DeadLetterId, DeadLetterReason, MessagePublisher, PublishError, Refused};
use warren_domain::{Message, MessageId, Severity};

use crate::support::{config, directory, eventually, ids, letters_in, next, take};

fn path(directory: &Path) -> PathBuf {
    directory.join("spool")
}

async fn open(directory: &Path) -> SpoolQueue {
    SpoolQueue::open(&path(directory), &SpoolConfig::default())
        .await
        .unwrap()
}

async fn publish(spool: &SpoolQueue, messages: &[Message]) {
    spool.publisher().publish(messages.to_vec(), None).await.unwrap();
}

async fn left(spool: &SpoolQueue) -> u64 {
    spool.lag().lag().await.unwrap().messages.unwrap()
}

#[tokio::test]
async fn what_is_put_by_comes_out_in_order_also_after_a_crash_and_only_once_it_is_acknowledged() {
    let directory = directory();
    // Of one severity: a packet holds messages of one, and the order is that of packets.
    let all: Vec<_> = (0..30)
        .map(|n| message(Severity::Info, "order", &n.to_string()))
        .collect();
    let spool = open(directory.path()).await;
    for part in all.chunks(10) {
        publish(&spool, part).await;
    }
    let mut consumer = spool.consumer();
    let taken = take(&mut *consumer, 10).await;
    // Out and never acknowledged.
    drop(next(&mut *consumer).await);
    drop((consumer, spool));

    let spool = open(directory.path()).await;
    let mut consumer = spool.consumer();
    let mut came: Vec<MessageId> = Vec::new();
    while !all
        .iter()
        .all(|message| came.contains(&message.id) || taken.contains(message))
    {
        let delivery = next(&mut *consumer).await;
        came.extend(ids(&delivery.messages));
        delivery.ack().await.unwrap();
    }
    let expected = ids(&all);
    // What was acknowledged just before a crash may come again; nothing is missing and nothing out of order.
    assert!(expected.ends_with(&came), "{came:?}");
    spool.close().await;
    drop((consumer, spool));
    assert_eq!(left(&open(directory.path()).await).await, 0);
}

#[tokio::test]
async fn a_full_spool_refuses_by_name_and_takes_messages_again_once_some_are_acknowledged() {
    let directory = directory();
    let config = SpoolConfig {
        max_bytes: ByteSize::mib(4),
        ..SpoolConfig::default()
    };
    let spool = SpoolQueue::open(&path(directory.path()), &config).await.unwrap();
    let bulk: Vec<_> = (0..10)
        .map(|_| message(Severity::Info, "bulk", &"x".repeat(20_000)))
        .collect();
    let mut put_by = 0;
    let reason = loop {
        match spool.publisher().publish(bulk.clone(), None).await {
            Ok(()) => put_by += bulk.len(),
            Err(refused) => match &refused.errors[0].1 {
                PublishError::Unavailable { reason, .. } => break reason.clone(),
                other => panic!("{other}"),
            },
        }
        assert!(put_by < 1_000, "never full");
    };
    assert!(reason.contains("spool.max_bytes of 4"), "{reason}");
    assert!(
        spool
            .health()
            .check()
            .await
            .unwrap_err()
            .to_string()
            .contains("spool.max_bytes")
    );
    // More than half of the room is for messages, not for their copies in a store that it does not have.
    assert!(put_by * 20_000 > 2 << 20, "full after {put_by}");
    let size: u64 = std::fs::read_dir(path(directory.path()))
        .unwrap()
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum();
    assert!(size <= ByteSize::mib(4).as_u64(), "{size}");

    take(&mut *spool.consumer(), put_by).await;
    eventually("room in the spool", async || {
        spool.publisher().publish(bulk.clone(), None).await.is_ok()
    })
    .await;
    eventually("a spool that is well", async || {
        spool.health().check().await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_dead_letter_of_the_spool_can_be_read_and_removed_while_the_spool_is_at_work() {
    let directory = directory();
    let spool = open(directory.path()).await;
    let dead = message(Severity::Error, "shop.web", "too large");
    publish(&spool, std::slice::from_ref(&dead)).await;
    let reason = DeadLetterReason {
        code: "refused_by_broker",
        detail: "larger than the broker takes".to_owned(),
    };
    let refused = Refused { index: 0, reason };
    let delivery = next(&mut *spool.consumer()).await;
    delivery.ack_except(vec![refused]).await.unwrap();
    assert_eq!(left(&spool).await, 0);

    let letters = spool.dead_letters();
    let kept = letters_in(&*letters).await;
    let [(letter, _)] = &kept[..] else {
        panic!("{kept:?}");
    };
    assert_eq!(letter.facts.id, DeadLetterId::of_message(dead.id));
    assert_eq!(letter.facts.reason.as_str(), "refused_by_broker");
    publish(&spool, &messages(1)).await;
    letters
        .remove(&[(letter.facts.id, letter.revision)])
        .await
        .unwrap();
    assert_eq!(letters_in(&*letters).await.len(), 0);
    assert_eq!(left(&spool).await, 1);
}

#[tokio::test]
async fn a_second_process_and_another_kind_of_directory_are_told_apart() {
    let directory = directory();
    let spool = open(directory.path()).await;
    let error = SpoolQueue::open(&path(directory.path()), &SpoolConfig::default())
        .await
        .unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }));
    assert!(error.to_string().contains("spool.path"), "{error}");
    publish(&spool, &messages(3)).await;
    drop(spool);

    // The queue of the program that does everything is another file, so neither drains the other.
    let embedded = Embedded::open(
        warren_adapter_embedded::EmbeddedConfig {
            path: path(directory.path()),
            ..config(directory.path())
        },
        None,
    )
    .await
    .unwrap();
    assert_eq!(crate::support::drain(&embedded).await, 0);
    embedded.close().await;
    drop(embedded);
    assert_eq!(left(&open(directory.path()).await).await, 3);
}
