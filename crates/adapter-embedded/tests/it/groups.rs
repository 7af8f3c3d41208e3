//! Consumer groups side by side.

use std::time::Duration;

use bytesize::ByteSize;
use tokio::time::timeout;
use warren_adapter_conformance::samples::{assert_same_messages, extremes, message, messages};
use warren_adapter_embedded::{Embedded, EmbeddedConfig};
use warren_domain::ports::{ConsumerGroup, DeadLetterReason, NamedGroup};
use warren_domain::{Message, Severity};

use crate::support::{
    config, directory, drain, envelope, eventually, letters, named, next, open, publish, take,
};

fn of(severity: Severity, sent: &[Message]) -> Vec<Message> {
    let chosen = sent.iter().filter(|message| message.severity == severity);
    chosen.cloned().collect()
}

#[tokio::test]
async fn each_group_goes_at_its_own_pace_and_goes_on_after_a_restart() {
    let directory = directory();
    let embedded = open(directory.path()).await;
    let mut critical = embedded.consumer(named("critical", [Severity::Critical]));
    // A group hears what is published once it has asked for the first time.
    assert!(
        timeout(Duration::from_millis(300), critical.next())
            .await
            .is_err()
    );
    let (first, second) = (messages(50), messages(50));
    publish(&embedded, &first).await;
    assert_same_messages(&take(&mut *critical, 10).await, &of(Severity::Critical, &first));
    publish(&embedded, &second).await;
    assert_eq!(drain(&embedded).await, 100);
    embedded.close().await;
    drop((critical, embedded));

    let embedded = open(directory.path()).await;
    let mut critical = embedded.consumer(named("critical", [Severity::Critical]));
    assert_same_messages(&take(&mut *critical, 10).await, &of(Severity::Critical, &second));
    assert_eq!(drain(&embedded).await, 0);
    embedded.close().await;
}

#[tokio::test]
async fn members_of_one_group_share_its_messages() {
    let directory = directory();
    let embedded = open(directory.path()).await;
    let sent = messages(400);
    for chunk in sent.chunks(2) {
        publish(&embedded, chunk).await;
    }
    let mut members = [
        embedded.consumer(ConsumerGroup::Store),
        embedded.consumer(ConsumerGroup::Store),
    ];
    let mut taken = Vec::new();
    let mut turn = 0;
    while taken.len() < sent.len() {
        let mut delivery = next(&mut *members[turn % 2]).await;
        taken.append(&mut delivery.messages);
        delivery.ack().await.unwrap();
        turn += 1;
    }
    assert_same_messages(&taken, &sent);
    embedded.close().await;
}

#[tokio::test]
async fn a_member_that_leaves_gives_its_rows_to_the_others() {
    let directory = directory();
    let embedded = open(directory.path()).await;
    let mut staying = embedded.consumer(ConsumerGroup::Store);
    let mut leaving = embedded.consumer(ConsumerGroup::Store);
    let sent = messages(1);
    publish(&embedded, &sent).await;
    let out = next(&mut *leaving).await;
    let waiting = tokio::spawn(async move {
        let delivery = next(&mut *staying).await;
        let (messages, attempt) = (delivery.messages.clone(), delivery.attempt);
        delivery.ack().await.unwrap();
        (messages, attempt)
    });
    leaving.close().await;
    assert!(leaving.next().await.is_none());
    drop(out);
    let (messages, attempt) = waiting.await.unwrap();
    assert_same_messages(&messages, &sent);
    assert_eq!(attempt, 2);
    embedded.close().await;
}

#[tokio::test]
async fn no_more_than_the_prefetch_is_out() {
    let directory = directory();
    let limits = EmbeddedConfig {
        prefetch: 3,
        ..config(directory.path())
    };
    let embedded = Embedded::open(limits, None).await.unwrap();
    for message in messages(10) {
        publish(&embedded, &[message]).await;
    }
    let mut consumer = embedded.consumer(ConsumerGroup::Store);
    let mut out = Vec::new();
    for _ in 0..3 {
        out.push(next(&mut *consumer).await);
    }
    assert!(
        timeout(Duration::from_millis(300), consumer.next())
            .await
            .is_err()
    );
    out.pop().unwrap().ack().await.unwrap();
    out.push(next(&mut *consumer).await);
    assert_eq!(out.last().unwrap().attempt, 1, "waiting for room is no delivery");
    embedded.close().await;
}

#[tokio::test]
async fn a_delivery_over_the_prefetched_bytes_is_let_through_alone() {
    let directory = directory();
    let limits = EmbeddedConfig {
        prefetch_max_bytes: ByteSize::kib(64),
        ..config(directory.path())
    };
    let embedded = Embedded::open(limits, None).await.unwrap();
    let large = message(Severity::Info, "a", &"x".repeat(200_000));
    publish(&embedded, std::slice::from_ref(&large)).await;
    publish(&embedded, &messages(1)).await;
    let mut consumer = embedded.consumer(ConsumerGroup::Store);
    let first = next(&mut *consumer).await;
    assert_same_messages(&first.messages, &[large]);
    assert!(
        timeout(Duration::from_millis(300), consumer.next())
            .await
            .is_err()
    );
    first.ack().await.unwrap();
    next(&mut *consumer).await.ack().await.unwrap();
    embedded.close().await;
}

#[tokio::test]
async fn a_forgotten_group_loses_its_oldest_messages_and_holds_up_nobody() {
    let directory = directory();
    let limits = EmbeddedConfig {
        group_max_bytes: ByteSize::mib(1),
        ..config(directory.path())
    };
    let embedded = Embedded::open(limits, None).await.unwrap();
    let mut forgotten = embedded.consumer(named("forgotten", Severity::ALL));
    assert!(
        timeout(Duration::from_millis(300), forgotten.next())
            .await
            .is_err()
    );
    forgotten.close().await;
    let body = "x".repeat(10_000);
    let mut last = Vec::new();
    for _ in 0..50 {
        last = (0..20).map(|_| message(Severity::Info, "a", &body)).collect();
        publish(&embedded, &last).await;
    }
    assert_eq!(drain(&embedded).await, 1_000);
    let file = directory.path().join("data/queue.db");
    eventually("the log is within the group's bound", async || {
        crate::opening::count(&file, "select ifnull(sum(length(lines)), 0) from log").await < 1_100_000
    })
    .await;
    let mut back = embedded.consumer(named("forgotten", Severity::ALL));
    let mut heard = Vec::new();
    while !last
        .iter()
        .all(|message| heard.iter().any(|heard: &Message| heard.id == message.id))
    {
        heard.extend(take(&mut *back, 1).await);
    }
    assert!(heard.len() < 200, "{}", heard.len());
    embedded.close().await;
}

#[tokio::test]
async fn a_group_that_nobody_attends_expires() {
    let directory = directory();
    let embedded = open(directory.path()).await;
    let mut group = embedded.consumer(named("g", Severity::ALL));
    assert!(timeout(Duration::from_millis(300), group.next()).await.is_err());
    embedded.close().await;
    drop((group, embedded));
    let file = directory.path().join("data/queue.db");
    crate::opening::run_sql(&file, &["update groups set attended_at = 0 where name = 'g'"]).await;

    let embedded = open(directory.path()).await;
    eventually("the group is gone", async || {
        crate::opening::count(&file, "select count(*) from groups where name = 'g'").await == 0
    })
    .await;
    embedded.close().await;
}

#[tokio::test]
async fn a_counting_member_is_delivered_envelopes_and_what_it_refuses_is_kept_whole() {
    let directory = directory();
    let embedded = open(directory.path()).await;
    let [all, ..] = NamedGroup::shipped();
    let mut counting = embedded.counting_consumer(all);
    let sent = extremes();
    publish(&embedded, &sent).await;
    let envelopes: Vec<_> = sent.iter().map(envelope).collect();
    assert_same_messages(&take(&mut *counting, sent.len()).await, &envelopes);

    let again = message(Severity::Error, "a", "said in full");
    publish(&embedded, std::slice::from_ref(&again)).await;
    let reason = DeadLetterReason {
        code: "refused_by_store",
        detail: "a test".to_owned(),
    };
    next(&mut *counting).await.dead_letter(reason).await.unwrap();
    let kept = letters(&embedded).await;
    let mut line = Vec::new();
    again.append_json_line(&mut line);
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].1, line.trim_ascii_end());
    assert_eq!(kept[0].0.facts.source.as_ref(), Some(&again.source));
    embedded.close().await;
}

#[tokio::test]
async fn a_counting_member_keeps_an_undecodable_line_as_any_other_does() {
    let directory = directory();
    let embedded = open(directory.path()).await;
    let sent = messages(1);
    publish(&embedded, &sent).await;
    embedded.close().await;
    drop(embedded);
    let file = directory.path().join("data/queue.db");
    let damage = "update log set lines = \
                  cast('no json' || char(10) || '[]' || char(10) || cast(lines as text) as blob)";
    crate::opening::run_sql(&file, &[damage]).await;

    let embedded = open(directory.path()).await;
    let [all, ..] = NamedGroup::shipped();
    let mut counting = embedded.counting_consumer(all.clone());
    assert_same_messages(&take(&mut *counting, 1).await, &[envelope(&sent[0])]);
    let mut whole = embedded.consumer(ConsumerGroup::Store);
    assert_same_messages(&take(&mut *whole, 1).await, &sent);
    // Given up by the group and by the way into the store: one letter, which has died twice.
    let kept = letters(&embedded).await;
    let mut lines: Vec<_> = kept.iter().map(|(_, line)| &line[..]).collect();
    lines.sort_unstable();
    assert_eq!(lines, [&b"[]"[..], b"no json"]);
    for (letter, _) in &kept {
        let facts = &letter.facts;
        assert_eq!((facts.reason.as_str(), facts.attempts), ("undecodable", 2));
        assert_eq!(facts.queue.as_str(), "store");
    }
    embedded.close().await;
}
