//! What a restart finds.

use std::collections::HashSet;

use warren_adapter_conformance::samples::{assert_same_messages, messages};
use warren_domain::ports::{ConsumerGroup, DeadLetterId, DeadLetterReason};

use crate::support::{directory, eventually, letters, next, open, publish, take};

#[tokio::test]
async fn what_was_not_acknowledged_comes_again_after_a_restart_without_an_end() {
    let directory = directory();
    let sent = messages(200);
    {
        let embedded = open(directory.path()).await;
        for message in &sent {
            publish(&embedded, std::slice::from_ref(message)).await;
        }
        let mut consumer = embedded.consumer(ConsumerGroup::Store);
        let mut out = Vec::new();
        for _ in 0..50 {
            out.push(next(&mut *consumer).await);
        }
    }
    let embedded = open(directory.path()).await;
    let mut consumer = embedded.consumer(ConsumerGroup::Store);
    let first = next(&mut *consumer).await;
    assert!(first.redelivered && first.attempt > 1);
    let mut again = first.messages.clone();
    first.ack().await.unwrap();
    again.extend(take(&mut *consumer, sent.len() - 1).await);
    assert_same_messages(&again, &sent);
    embedded.close().await;
}

#[tokio::test]
async fn after_an_orderly_end_only_what_was_out_counts_as_redelivered() {
    let directory = directory();
    let sent = messages(3);
    let embedded = open(directory.path()).await;
    for message in &sent {
        publish(&embedded, std::slice::from_ref(message)).await;
    }
    let mut consumer = embedded.consumer(ConsumerGroup::Store);
    next(&mut *consumer).await.ack().await.unwrap();
    drop(next(&mut *consumer).await);
    embedded.close().await;
    drop((consumer, embedded));

    let embedded = open(directory.path()).await;
    let mut consumer = embedded.consumer(ConsumerGroup::Store);
    let second = next(&mut *consumer).await;
    assert_same_messages(&second.messages, &sent[1..2]);
    assert!(second.redelivered);
    let third = next(&mut *consumer).await;
    assert_same_messages(&third.messages, &sent[2..]);
    assert!(!third.redelivered && third.attempt == 1);
    second.ack().await.unwrap();
    third.ack().await.unwrap();
    embedded.close().await;
}

#[tokio::test]
async fn rows_settled_out_of_order_hold_the_cursor_until_the_first_is_settled() {
    let directory = directory();
    let sent = messages(10);
    let embedded = open(directory.path()).await;
    for message in &sent {
        publish(&embedded, std::slice::from_ref(message)).await;
    }
    let mut consumer = embedded.consumer(ConsumerGroup::Store);
    let mut out = Vec::new();
    for _ in &sent {
        out.push(next(&mut *consumer).await);
    }
    // All but the fourth, from the back.
    let kept = out.remove(3);
    for delivery in out.into_iter().rev() {
        delivery.ack().await.unwrap();
    }
    embedded.close().await;
    drop((consumer, kept, embedded));

    // The fourth was not settled, so it and everything behind it may come again; nothing before it does.
    let embedded = open(directory.path()).await;
    let mut consumer = embedded.consumer(ConsumerGroup::Store);
    let again = take(&mut *consumer, 7).await;
    assert_same_messages(&again, &sent[3..]);
    let more = messages(1);
    publish(&embedded, &more).await;
    assert_same_messages(&take(&mut *consumer, 1).await, &more);
    embedded.close().await;
}

#[tokio::test]
async fn a_dead_letter_is_kept_once_even_if_its_row_comes_again() {
    let directory = directory();
    let embedded = open(directory.path()).await;
    let sent = messages(2);
    for message in &sent {
        publish(&embedded, std::slice::from_ref(message)).await;
    }
    embedded.close().await;
    drop(embedded);
    for _ in 0..2 {
        // The first row stays out, so the second, though settled, comes again after the restart.
        let embedded = open(directory.path()).await;
        let mut consumer = embedded.consumer(ConsumerGroup::Store);
        let first = next(&mut *consumer).await;
        let second = next(&mut *consumer).await;
        assert_same_messages(&second.messages, &sent[1..]);
        let reason = DeadLetterReason {
            code: "refused_by_store",
            detail: "no".to_owned(),
        };
        second.dead_letter(reason).await.unwrap();
        let kept = letters(&embedded).await;
        assert_eq!(kept.len(), 1);
        let facts = &kept[0].0.facts;
        assert_eq!(facts.id, DeadLetterId::of_message(sent[1].id));
        assert_eq!(facts.source.as_ref(), Some(&sent[1].source));
        assert_eq!(facts.severity, Some(sent[1].severity));
        assert_eq!(facts.attempts, 1, "the same death, seen twice");
        embedded.close().await;
        drop(first);
    }
}

#[tokio::test]
async fn what_every_group_has_passed_is_dropped_from_the_log() {
    let directory = directory();
    let embedded = open(directory.path()).await;
    let file = directory.path().join("data/queue.db");
    publish(&embedded, &messages(2_000)).await;
    let mut consumer = embedded.consumer(ConsumerGroup::Store);
    let taken = take(&mut *consumer, 2_000).await;
    let distinct: HashSet<_> = taken.iter().map(|message| message.id).collect();
    assert_eq!(distinct.len(), 2_000);
    eventually("the log is empty", async || {
        crate::opening::count(&file, "select count(*) from log").await == 0
    })
    .await;
    embedded.close().await;
}
