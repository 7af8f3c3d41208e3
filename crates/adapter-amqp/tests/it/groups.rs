//! Groups that come and go, select, and lag behind.

use std::time::Duration;

use tokio::time::timeout;
use warren_adapter_amqp::{AmqpConfig, AmqpConsumer, AmqpQueues, RemovalError, remove_topology};
use warren_adapter_conformance::samples::{message, messages};
use warren_domain::ports::{
    ConsumerGroup, GroupLag, GroupQueue, GroupQueues, Lag, MessageConsumer, MessagePublisher, NamedGroup,
    StartAt, Unacknowledged,
};
use warren_domain::{Selection, Severity};

use crate::proxy::Proxy;
use crate::support::{
    Corner, Operator, eventually, healthy, listeners, listeners_to, next, selection, take, unhealthy,
};

/// Makes a member of `group` that is connected, and has nothing to deliver.
async fn member(config: &AmqpConfig, group: ConsumerGroup) -> AmqpConsumer {
    let mut consumer = AmqpConsumer::new(config.clone(), group).unwrap();
    let health = consumer.health();
    assert!(timeout(Duration::from_millis(1), consumer.next()).await.is_err());
    healthy(&*health).await;
    consumer
}

async fn sources(consumer: &mut AmqpConsumer, count: usize) -> Vec<String> {
    let taken = take(consumer, count).await;
    let mut sources: Vec<_> = taken
        .iter()
        .map(|message| message.source.as_str().to_owned())
        .collect();
    sources.sort_unstable();
    sources
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_comes_back_for_less_hears_less() {
    Corner::run(|corner| async move {
        let group = |severities: &[Severity]| {
            let group = listeners(severities.iter().copied());
            AmqpConsumer::new(corner.config.clone(), group).unwrap()
        };
        let publisher = corner.publisher();
        for heard in [&Severity::ALL[..], &[Severity::Critical]] {
            let mut consumer = group(heard);
            let health = consumer.health();
            // Nothing comes yet; the first call makes the group exist.
            let first = tokio::time::timeout(Duration::from_millis(1), consumer.next()).await;
            assert!(first.is_err());
            healthy(&*health).await;
            let sent = messages(5);
            publisher.publish(sent, None).await.unwrap();
            let mut severities: Vec<_> = take(&mut consumer, heard.len())
                .await
                .iter()
                .map(|message| message.severity)
                .collect();
            severities.sort_unstable();
            assert_eq!(severities, heard);
            consumer.close().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_comes_back_for_a_pattern_hears_no_other_source() {
    Corner::run(|corner| async move {
        let publisher = corner.publisher();
        let all = Severity::ALL;
        for (patterns, heard) in [
            (&[][..], &["billing", "billing.api", "shop.api"][..]),
            (&["billing.#"], &["billing", "billing.api"]),
            // What only an older pattern selects may still come; nothing tells that it is bound.
            (&["*.api", "billing.api"], &["billing", "billing.api", "shop.api"]),
        ] {
            let group = listeners_to(selection(all, patterns), StartAt::Oldest);
            let mut consumer = member(&corner.config, group).await;
            let sent = ["billing", "billing.api", "shop.api"];
            let sent = sent.map(|source| message(Severity::Error, source, "x")).to_vec();
            publisher.publish(sent, None).await.unwrap();
            assert_eq!(sources(&mut consumer, heard.len()).await, heard, "{patterns:?}");
            consumer.close().await;
        }
        assert_eq!(
            Operator::new().await.ready(&corner.name("group.listeners")).await,
            Some(0)
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_begins_with_the_next_message_drops_what_waits_once() {
    Corner::run(|corner| async move {
        let proxy = Proxy::new().await;
        let (publisher, operator) = (corner.publisher(), Operator::new().await);
        let queue = corner.name("group.listeners");
        let everything = || selection(Severity::ALL, &[]);
        let mut first = member(&corner.config, listeners_to(everything(), StartAt::Oldest)).await;
        first.close().await;
        publisher
            .publish(vec![message(Severity::Info, "waits", "x")], None)
            .await
            .unwrap();
        operator.await_ready(&queue, 1).await;

        let group = listeners_to(everything(), StartAt::New);
        let mut consumer = member(&corner.at(&proxy.authority()), group).await;
        let health = consumer.health();
        assert_eq!(operator.ready(&queue).await, Some(0));
        // What comes while the connection is gone is kept for the next one.
        proxy.refuse();
        proxy.cut();
        unhealthy(&*health, "").await;
        publisher
            .publish(vec![message(Severity::Info, "later", "x")], None)
            .await
            .unwrap();
        proxy.heal();
        assert_eq!(sources(&mut consumer, 1).await, ["later"]);
    })
    .await;
}

async fn packets(lag: &dyn GroupLag, packets: u64, held: u64) {
    eventually(&format!("{packets} packets wait, {held} are held"), async || {
        let expected = Lag {
            packets,
            messages: None,
            oldest: None,
            unacknowledged: Unacknowledged {
                packets: held,
                messages: None,
            },
        };
        lag.lag().await == Ok(expected)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lag_is_what_waits_in_the_queue_beside_what_is_held() {
    Corner::run(|corner| async move {
        let config = AmqpConfig {
            prefetch: 2,
            ..corner.config.clone()
        };
        let unasked = AmqpConsumer::new(config.clone(), listeners(Severity::ALL)).unwrap();
        assert!(unasked.lag().lag().await.is_err(), "it has no connection yet");
        let mut consumer = member(&config, listeners(Severity::ALL)).await;
        let lag = consumer.lag();
        packets(&*lag, 0, 0).await;
        let publisher = corner.publisher();
        for _ in 0..5 {
            publisher
                .publish(vec![message(Severity::Info, "s", "x")], None)
                .await
                .unwrap();
        }
        packets(&*lag, 3, 2).await;
        take(&mut consumer, 5).await;
        packets(&*lag, 0, 0).await;
        consumer.close().await;
        drop(consumer);
        eventually("a closed consumer cannot tell", async || lag.lag().await.is_err()).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_that_was_delivered_is_held_however_little_of_it_was_read() {
    Corner::run(|corner| async move {
        let config = AmqpConfig {
            prefetch: 200,
            ..corner.config.clone()
        };
        let mut consumer = member(&config, listeners(Severity::ALL)).await;
        let publisher = corner.publisher();
        for _ in 0..150 {
            publisher
                .publish(vec![message(Severity::Info, "s", "x")], None)
                .await
                .unwrap();
        }
        let lag = consumer.lag();
        // Far fewer are read ahead.
        packets(&*lag, 0, 150).await;
        next(&mut consumer).await.ack().await.unwrap();
        packets(&*lag, 0, 149).await;
        consumer.close().await;
        Operator::new()
            .await
            .await_ready(&corner.name("group.listeners"), 149)
            .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lag_that_cannot_be_told_is_refused_in_time_with_the_reason() {
    Corner::run(|corner| async move {
        let proxy = Proxy::new().await;
        let config = corner.at(&proxy.authority());
        let consumer = member(&config, listeners(Severity::ALL)).await;
        let lag = consumer.lag();
        packets(&*lag, 0, 0).await;
        proxy.mute_broker();
        let refused = timeout(Duration::from_secs(3), lag.lag())
            .await
            .expect("it answers in time");
        assert!(refused.unwrap_err().0.contains("did not say within 2 s"));
        proxy.heal();
        packets(&*lag, 0, 0).await;
        proxy.refuse();
        proxy.cut();
        eventually("it says that there is no connection", async || {
            lag.lag().await.is_err_and(|fault| fault.0.contains("connect"))
        })
        .await;
        proxy.heal();
        packets(&*lag, 0, 0).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asking_after_a_queue_that_is_gone_disturbs_no_delivery() {
    Corner::run(|corner| async move {
        let (publisher, operator) = (corner.publisher(), Operator::new().await);
        let queue = corner.name("group.listeners");
        let mut consumer = member(&corner.config, listeners(Severity::ALL)).await;
        let lag = consumer.lag();
        operator.delete_queue(&queue).await;
        // The deletion ends the consumer's connection by itself; whatever is asked meanwhile only gets an answer.
        for _ in 0..50 {
            lag.lag().await.ok();
        }
        packets(&*lag, 0, 0).await;
        publisher
            .publish(vec![message(Severity::Info, "s", "x")], None)
            .await
            .unwrap();
        take(&mut consumer, 1).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_of_a_prefix_is_removed_whatever_it_holds_and_twice() {
    let corner = Corner::new();
    let (publisher, operator) = (corner.publisher(), Operator::new().await);
    let group = NamedGroup {
        name: "billing".parse().unwrap(),
        selection: Selection::of([Severity::Error].into_iter().collect()),
        start: StartAt::Oldest,
    };
    let mut consumer = member(&corner.config, ConsumerGroup::Named(group.clone())).await;
    publisher.publish(messages(50), None).await.unwrap();
    next(&mut consumer).await.ack().await.unwrap();
    let ended = consumer.ended();
    consumer.close().await;
    drop(consumer);
    ended.await;
    publisher.close().await;
    for _ in 0..2 {
        remove_topology(&corner.config, std::slice::from_ref(&group.name))
            .await
            .unwrap();
        for queue in ["store", "dead", "group.billing"] {
            assert_eq!(operator.ready(&corner.name(queue)).await, None, "{queue}");
        }
        for exchange in Severity::ALL.map(Severity::as_str).into_iter().chain(["dead"]) {
            assert!(!operator.has_exchange(&corner.name(exchange)).await, "{exchange}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removing_says_what_is_the_matter() {
    let nowhere = AmqpConfig {
        url: "amqp://127.0.0.1:1,amqp://127.0.0.1:2".into(),
        ..AmqpConfig::default()
    };
    let error = remove_topology(&nowhere, &[]).await.unwrap_err();
    assert!(
        matches!(&error, RemovalError::Unavailable { reason, .. } if reason.contains("127.0.0.1:")),
        "{error}"
    );
    let wrong = AmqpConfig {
        prefix: String::new(),
        ..AmqpConfig::default()
    };
    let error = remove_topology(&wrong, &[]).await.unwrap_err();
    assert!(matches!(error, RemovalError::Config(_)), "{error}");
}

/// What is seen of the group of `listeners` from outside.
async fn seen(queues: &AmqpQueues) -> Option<GroupQueue> {
    let groups = ["nobody", "listeners"].map(|name| name.parse().unwrap());
    let seen = queues.look(&groups).await.unwrap();
    assert_eq!((seen.len(), seen[0]), (2, None));
    seen[1]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_is_looked_at_from_outside_and_is_not_kept_alive_by_it() {
    Corner::run(|corner| async move {
        let config = AmqpConfig {
            group_expires: Duration::from_secs(2),
            ..corner.config.clone()
        };
        let mut consumer = member(&config, listeners(Severity::ALL)).await;
        let queues = AmqpQueues::new(config).unwrap();
        let queue = |packets, members| Some(GroupQueue { packets, members });
        eventually("the member is seen", async || seen(&queues).await == queue(0, 1)).await;
        let publisher = corner.publisher();
        publisher.publish(messages(1), None).await.unwrap();
        next(&mut consumer).await.ack().await.unwrap();
        consumer.close().await;
        drop(consumer);
        publisher.publish(messages(1), None).await.unwrap();
        eventually("what waits is seen", async || seen(&queues).await == queue(1, 0)).await;
        eventually("it has expired", async || seen(&queues).await.is_none()).await;
        queues.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_was_cut_off_or_hung_is_asked_again_when_it_is_back() {
    Corner::run(|corner| async move {
        let mut consumer = member(&corner.config, listeners(Severity::ALL)).await;
        let proxy = Proxy::new().await;
        let queues = AmqpQueues::new(corner.at(&proxy.authority())).unwrap();
        assert!(seen(&queues).await.is_some());
        let name = ["listeners".parse().unwrap()];
        for hangs in [false, true] {
            if hangs {
                proxy.hang();
            } else {
                proxy.refuse();
                proxy.cut();
            }
            eventually("it is away", async || queues.look(&name).await.is_err()).await;
            proxy.heal();
            eventually("it is back", async || queues.look(&name).await.is_ok()).await;
        }
        queues.close().await;
        consumer.close().await;
    })
    .await;
}
