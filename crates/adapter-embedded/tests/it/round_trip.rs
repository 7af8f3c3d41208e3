//! From the publisher to the store and back.

use warren_adapter_conformance::samples::{assert_same_messages, extremes, messages};
use warren_domain::SeverityCounts;
use warren_domain::ports::{ConsumerGroup, PublishError};

use crate::support::{counts, directory, drain, ids, letters, next, open, publish, stored};

#[tokio::test]
async fn a_published_message_ends_in_the_store_with_every_field_equal() {
    let directory = directory();
    let embedded = open(directory.path()).await;
    let sent = extremes();
    publish(&embedded, &sent).await;
    assert_eq!(drain(&embedded).await, sent.len());
    assert_same_messages(&stored(&embedded, &ids(&sent)).await, &sent);
    let sum: SeverityCounts = sent.iter().map(|message| message.severity).collect();
    assert_eq!(counts(&embedded).await, sum);
    embedded.health().check().await.unwrap();
    embedded.close().await;
}

#[tokio::test]
async fn a_closed_adapter_says_so_everywhere() {
    let directory = directory();
    let embedded = open(directory.path()).await;
    publish(&embedded, &messages(5)).await;
    let mut consumer = embedded.consumer(ConsumerGroup::Store);
    let out = next(&mut *consumer).await;
    embedded.close().await;
    let error = embedded.publisher().publish(messages(2), None).await.unwrap_err();
    assert_eq!(error.errors.len(), 2);
    assert!(matches!(error.errors[0].1, PublishError::Unavailable { .. }));
    assert!(consumer.next().await.is_none());
    assert!(out.ack().await.is_err());
    assert!(embedded.store().store(&messages(1)).await.is_err());
    assert!(embedded.health().check().await.is_err());
}

#[tokio::test]
async fn an_undecodable_line_becomes_a_dead_letter_and_its_neighbours_arrive() {
    let directory = directory();
    let embedded = open(directory.path()).await;
    let sent = messages(1);
    publish(&embedded, &sent).await;
    embedded.close().await;
    drop(embedded);
    let file = directory.path().join("data/queue.db");
    let damage = [
        "update log set lines = \
         cast('{\"body\":\"no id\"}' || char(10) || 'no json' || char(10) || cast(lines as text) as blob)",
        "insert into log values (77, 9, 1, 1, 'no trace', cast('nothing here' as blob))",
        "update log_totals set messages = messages + 1, bytes = bytes + 12 where severity = 9",
    ];
    crate::opening::run_sql(&file, &damage).await;

    let embedded = open(directory.path()).await;
    let mut consumer = embedded.consumer(ConsumerGroup::Store);
    let delivery = next(&mut *consumer).await;
    assert_same_messages(&delivery.messages, &sent);
    delivery.ack().await.unwrap();
    // The row without any message never shows; what follows it does.
    let more = messages(1);
    publish(&embedded, &more).await;
    let delivery = next(&mut *consumer).await;
    assert_same_messages(&delivery.messages, &more);
    delivery.ack().await.unwrap();
    let kept = letters(&embedded).await;
    let lines: Vec<_> = kept
        .iter()
        .map(|(letter, line)| (letter.facts.reason.as_str(), String::from_utf8_lossy(line)))
        .collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines.iter().all(|(reason, _)| *reason == "undecodable"));
    assert!(lines.iter().any(|(_, line)| line == "no json"));
    assert!(
        kept.iter()
            .all(|(letter, _)| letter.facts.detail.as_str().contains(' '))
    );
    embedded.close().await;
}
