//! What a group selects, where it begins, and how far behind it is.

use std::time::Duration;

use tokio::time::timeout;
use warren_adapter_conformance::samples::{assert_same_messages, message, messages};
use warren_adapter_embedded::Embedded;
use warren_domain::ports::{ConsumerGroup, Lag, NamedGroup, StartAt, Unacknowledged};
use warren_domain::{Message, Selection, Severity, Timestamp};

use crate::support::{directory, drain, eventually, named, next, open, publish, take};

fn billing(severities: &[Severity], sources: &[&str], start: StartAt) -> ConsumerGroup {
    ConsumerGroup::Named(NamedGroup {
        name: "billing".parse().unwrap(),
        selection: Selection {
            severities: severities.iter().copied().collect(),
            sources: sources.iter().map(|pattern| pattern.parse().unwrap()).collect(),
        },
        start,
    })
}

/// Publishes each message in a row of its own.
async fn publish_apart(embedded: &Embedded, messages: &[Message]) {
    for message in messages {
        publish(embedded, std::slice::from_ref(message)).await;
    }
}

async fn lag(embedded: &Embedded) -> Lag {
    embedded.lag(&"billing".parse().unwrap()).lag().await.unwrap()
}

fn counts(lag: Lag) -> (u64, Option<u64>) {
    (lag.packets, lag.messages)
}

fn held(packets: u64, messages: u64) -> Unacknowledged {
    Unacknowledged {
        packets,
        messages: Some(messages),
    }
}

#[tokio::test]
async fn a_new_group_begins_at_the_oldest_message_of_the_log_or_behind_its_last() {
    let directory = directory();
    let embedded = open(directory.path()).await;
    let (stored, waiting, later) = (messages(10), messages(10), messages(10));
    publish_apart(&embedded, &stored).await;
    assert_eq!(drain(&embedded).await, 10);
    let file = directory.path().join("data/queue.db");
    eventually("what is stored has left the log", async || {
        crate::opening::count(&file, "select count(*) from log").await == 0
    })
    .await;
    publish_apart(&embedded, &waiting).await;
    let mut oldest = embedded.consumer(named("oldest", Severity::ALL));
    let mut new = embedded.consumer(billing(&Severity::ALL, &[], StartAt::New));
    assert!(timeout(Duration::from_millis(300), new.next()).await.is_err());
    assert_same_messages(&take(&mut *oldest, 10).await, &waiting);
    publish_apart(&embedded, &later).await;
    assert_same_messages(&take(&mut *oldest, 10).await, &later);
    assert_same_messages(&take(&mut *new, 10).await, &later);
    assert_eq!(counts(lag(&embedded).await), (0, Some(0)));
    embedded.close().await;
}

#[tokio::test]
async fn a_member_that_begins_with_the_next_message_leaves_the_others_what_they_hold() {
    let directory = directory();
    let embedded = open(directory.path()).await;
    let group = |start| billing(&[Severity::Info], &[], start);
    let info = |body: &str| message(Severity::Info, "a", body);
    let mut first = embedded.consumer(group(StartAt::Oldest));
    let sent: Vec<_> = (0..5).map(|n| info(&n.to_string())).collect();
    publish_apart(&embedded, &sent).await;
    let (held, given_back) = (next(&mut *first).await, next(&mut *first).await);
    drop(given_back);

    let mut second = embedded.consumer(group(StartAt::New));
    assert!(timeout(Duration::from_millis(300), second.next()).await.is_err());
    assert_eq!(counts(lag(&embedded).await), (0, Some(0)));
    drop(held);
    let again = next(&mut *second).await;
    assert_same_messages(&again.messages, &sent[..1]);
    again.ack().await.unwrap();
    let more = info("more");
    publish(&embedded, std::slice::from_ref(&more)).await;
    assert_same_messages(&take(&mut *second, 1).await, &[more]);
    // The log keeps nothing of what was dropped.
    assert_eq!(drain(&embedded).await, 6);
    let file = directory.path().join("data/queue.db");
    eventually("the log is empty", async || {
        crate::opening::count(&file, "select count(*) from log").await == 0
    })
    .await;
    embedded.close().await;
}

#[tokio::test]
async fn a_group_hears_the_sources_it_selects_and_changes_its_mind_only_without_members() {
    let directory = directory();
    let embedded = open(directory.path()).await;
    let send = async |sources: &[&str]| {
        let messages: Vec<_> = sources
            .iter()
            .map(|source| message(Severity::Error, source, "x"))
            .collect();
        publish(&embedded, &messages).await;
        messages
    };
    let group = |sources: &[&str]| billing(&[Severity::Error], sources, StartAt::Oldest);
    let mut first = embedded.consumer(group(&["billing.#", "*.web"]));
    let sent = send(&["billing", "shop", "billing.api", "shop.web"]).await;
    let expected = [&sent[..1], &sent[2..]].concat();
    assert_same_messages(&take(&mut *first, 3).await, &expected);

    // While it has members, the first one's selection holds; the same in another order is the same.
    let mut second = embedded.consumer(group(&["shop"]));
    let mut third = embedded.consumer(group(&["*.web", "billing.#"]));
    for member in [&mut second, &mut third] {
        assert!(timeout(Duration::from_millis(100), member.next()).await.is_err());
    }
    first.close().await;
    third.close().await;
    let sent = send(&["shop", "billing"]).await;
    assert_same_messages(&take(&mut *second, 1).await, &sent[1..]);
    second.close().await;

    // What came while nobody was there is selected by whoever comes back.
    let sent = send(&["billing", "shop", "till"]).await;
    let mut back = embedded.consumer(group(&["shop", "till"]));
    assert_same_messages(&take(&mut *back, 2).await, &sent[1..]);
    embedded.close().await;
    drop((first, second, third, back, embedded));

    let embedded = open(directory.path()).await;
    let sent = message(Severity::Error, "anything", "x");
    let mut back = embedded.consumer(group(&[]));
    publish(&embedded, std::slice::from_ref(&sent)).await;
    assert_same_messages(&take(&mut *back, 1).await, &[sent]);
    embedded.close().await;
}

#[tokio::test]
async fn a_group_that_comes_back_for_other_severities_knows_what_waits_for_it() {
    let directory = directory();
    let embedded = open(directory.path()).await;
    let mut group = embedded.consumer(billing(&[Severity::Info, Severity::Error], &[], StartAt::Oldest));
    publish_apart(&embedded, &messages(10)).await;
    take(&mut *group, 4).await;
    group.close().await;
    let waiting = messages(20);
    publish_apart(&embedded, &waiting).await;
    assert_eq!(counts(lag(&embedded).await), (8, Some(8)));
    let mut group = embedded.consumer(billing(
        &[Severity::Error, Severity::Critical],
        &[],
        StartAt::Oldest,
    ));
    // The store has taken nothing yet, so the log still holds what is critical.
    let first = next(&mut *group).await;
    let left = lag(&embedded).await;
    assert_eq!(left.messages, Some(left.packets));
    drop(first);
    let mut taken = Vec::new();
    while counts(lag(&embedded).await) != (0, Some(0)) {
        taken.extend(take(&mut *group, 1).await);
    }
    for message in waiting {
        let selected = [Severity::Error, Severity::Critical].contains(&message.severity);
        assert_eq!(taken.iter().any(|taken| taken.id == message.id), selected);
    }
    assert!(taken.iter().all(|message| message.severity >= Severity::Error));
    embedded.close().await;
}

#[tokio::test]
async fn the_lag_is_exact_in_messages_and_age_before_while_and_after_they_are_consumed() {
    let directory = directory();
    let embedded = open(directory.path()).await;
    let unknown = embedded.lag(&"billing".parse().unwrap()).lag().await.unwrap_err();
    assert!(unknown.0.contains("billing"), "{unknown}");
    let began = Timestamp::now();
    let group = || billing(&[Severity::Info], &[], StartAt::Oldest);
    let mut consumer = embedded.consumer(group());
    assert!(
        timeout(Duration::from_millis(100), consumer.next())
            .await
            .is_err()
    );
    assert_eq!(
        lag(&embedded).await,
        Lag {
            packets: 0,
            messages: Some(0),
            oldest: None,
            unacknowledged: held(0, 0)
        }
    );

    let info = |count: usize| {
        (0..count)
            .map(|n| message(Severity::Info, "a", &n.to_string()))
            .collect::<Vec<_>>()
    };
    publish(&embedded, &info(3)).await;
    let between = Timestamp::now();
    publish(&embedded, &info(2)).await;
    publish(&embedded, &[message(Severity::Error, "a", "not for it")]).await;
    let said = lag(&embedded).await;
    assert_eq!(counts(said), (2, Some(5)));
    let oldest = said.oldest.unwrap();
    assert!(oldest >= began && oldest <= between);
    assert_eq!(said.unacknowledged, held(0, 0));
    // What is out does not wait.
    let delivery = next(&mut *consumer).await;
    let said = lag(&embedded).await;
    assert_eq!((counts(said), said.unacknowledged), ((1, Some(2)), held(1, 3)));
    assert!(said.oldest.unwrap() >= between);
    drop(delivery);
    let said = lag(&embedded).await;
    assert_eq!((counts(said), said.unacknowledged), ((2, Some(5)), held(0, 0)));
    assert_eq!(said.oldest, Some(oldest));
    embedded.close().await;
    drop((consumer, embedded));

    let embedded = open(directory.path()).await;
    let said = lag(&embedded).await;
    assert_eq!((counts(said), said.oldest), ((2, Some(5)), Some(oldest)));
    let mut consumer = embedded.consumer(group());
    take(&mut *consumer, 5).await;
    assert_eq!(
        lag(&embedded).await,
        Lag {
            packets: 0,
            messages: Some(0),
            oldest: None,
            unacknowledged: held(0, 0)
        }
    );
    embedded.close().await;
    let closed = embedded.lag(&"billing".parse().unwrap()).lag().await;
    assert!(closed.is_err());
}

#[tokio::test]
async fn the_lag_of_a_group_with_patterns_counts_packets_only() {
    let directory = directory();
    let embedded = open(directory.path()).await;
    let group = billing(&Severity::ALL, &["billing"], StartAt::Oldest);
    let mut consumer = embedded.consumer(group);
    assert!(
        timeout(Duration::from_millis(100), consumer.next())
            .await
            .is_err()
    );
    let sent = ["shop", "billing"].map(|source| message(Severity::Info, source, "x"));
    publish_apart(&embedded, &sent).await;
    assert_eq!(counts(lag(&embedded).await), (2, None));
    assert_same_messages(&take(&mut *consumer, 1).await, &sent[1..]);
    eventually("nothing waits", async || {
        counts(lag(&embedded).await) == (0, None)
    })
    .await;
    embedded.close().await;
}

#[tokio::test]
async fn a_queue_of_an_earlier_version_knows_how_many_packets_wait() {
    let directory = directory();
    let embedded = open(directory.path()).await;
    let group = || billing(&[Severity::Info, Severity::Critical], &[], StartAt::Oldest);
    let mut consumer = embedded.consumer(group());
    publish_apart(&embedded, &messages(20)).await;
    take(&mut *consumer, 3).await;
    embedded.close().await;
    drop((consumer, embedded));
    let file = directory.path().join("data/queue.db");
    let older = [
        "alter table log_totals drop column packets",
        "alter table groups drop column passed_packets",
        "delete from seaql_migrations where version = 'm0002_packets'",
    ];
    crate::opening::run_sql(&file, &older).await;

    let embedded = open(directory.path()).await;
    assert_eq!(counts(lag(&embedded).await), (5, Some(5)));
    let mut consumer = embedded.consumer(group());
    take(&mut *consumer, 5).await;
    publish_apart(&embedded, &messages(5)).await;
    assert_eq!(counts(lag(&embedded).await), (2, Some(2)));
    embedded.close().await;
}
