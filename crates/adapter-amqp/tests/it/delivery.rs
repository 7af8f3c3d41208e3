//! What is published arrives, packed, and is acknowledged as one.

use std::collections::HashSet;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;
use warren_adapter_amqp::{AmqpConfig, AmqpConsumer, AmqpPublisher};
use warren_adapter_conformance::samples::{message, messages};
use warren_domain::ports::{MessageConsumer, MessagePublisher};
use warren_domain::{MessageId, Severity, TraceContext};

use crate::support::{Corner, Operator, PATIENCE, header, healthy, next, take};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_of_one_address_is_packed() {
    Corner::run(|corner| async move {
        let publisher = corner.publisher();
        let sent: Vec<_> = (0..1_001)
            .map(|n| message(Severity::Error, "shop", &n.to_string()))
            .collect();
        publisher.publish(sent.clone(), None).await.unwrap();
        publisher.close().await;
        let packets = Operator::new().await.take_all(&corner.name("store")).await;
        let counts: Vec<_> = packets
            .iter()
            .map(|(properties, _)| header(properties, "warren-count").unwrap())
            .collect();
        assert_eq!(counts, ["500", "500", "1"]);
        let ids: HashSet<_> = packets
            .iter()
            .map(|(properties, _)| properties.message_id())
            .collect();
        assert_eq!(ids.len(), 3);
        let (properties, body) = &packets[2];
        assert_eq!(properties.content_type().unwrap(), "application/x-ndjson");
        assert_eq!(properties.message_type().unwrap(), "warren.v1");
        assert_eq!(properties.delivery_mode(), Some(2));
        let mut line = Vec::new();
        sent[1_000].append_json_line(&mut line);
        assert_eq!(*body, line);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packing_can_be_turned_off() {
    Corner::run(|corner| async move {
        let publisher = AmqpPublisher::start(AmqpConfig {
            packet_max_messages: 1,
            ..corner.config.clone()
        })
        .unwrap();
        publisher.publish(messages(30), None).await.unwrap();
        publisher.close().await;
        Operator::new().await.await_ready(&corner.name("store"), 30).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_gather_in_the_pause_after_a_round_that_was_shared() {
    Corner::run(|corner| async move {
        let publisher = AmqpPublisher::start(AmqpConfig {
            round_pause: Duration::from_millis(100),
            ..corner.config.clone()
        })
        .unwrap();
        healthy(&publisher).await;
        let publisher = std::sync::Arc::new(publisher);
        let mut calls = JoinSet::new();
        for n in 0..100 {
            let publisher = std::sync::Arc::clone(&publisher);
            let messages = vec![message(Severity::Info, "a", &n.to_string())];
            calls.spawn(async move { publisher.publish(messages, None).await.unwrap() });
            // Some at once, which share a round; the others one by one, each of which would have a packet of its own.
            if n > 20 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        calls.join_all().await;
        publisher.close().await;
        let packets = Operator::new().await.take_all(&corner.name("store")).await;
        assert!(packets.len() <= 15, "100 calls took {} packets", packets.len());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_wait_together_share_packets_and_each_keeps_its_trace() {
    Corner::run(|corner| async move {
        let publisher = std::sync::Arc::new(corner.publisher());
        healthy(&*publisher).await;
        let mut calls = JoinSet::new();
        for n in 1..=200_u64 {
            let publisher = std::sync::Arc::clone(&publisher);
            let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
            let trace = trace.parse::<TraceContext>().unwrap().child(n);
            calls.spawn(async move {
                let messages = vec![message(Severity::Info, "a", "x")];
                publisher.publish(messages, Some(trace)).await.unwrap();
                trace
            });
        }
        let sent: HashSet<_> = calls.join_all().await.into_iter().collect();
        let mut consumer = corner.consumer();
        let (mut packets, mut count, mut traces) = (0, 0, HashSet::new());
        while count < 200 {
            let delivery = next(&mut consumer).await;
            packets += 1;
            count += delivery.messages.len();
            traces.extend(delivery.traces.iter().copied());
            delivery.ack().await.unwrap();
        }
        assert!(packets <= 100, "200 concurrent calls took {packets} packets");
        // A packet carries 64 traces at most.
        assert!(traces.is_subset(&sent) && traces.len() >= sent.len().min(64));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_publishers_at_once_lose_nothing() {
    Corner::run(|corner| async move {
        let mut publishers = JoinSet::new();
        for _ in 0..16 {
            let publisher = corner.publisher();
            publishers.spawn(async move {
                let mut sent = Vec::new();
                for n in 0..20 {
                    let batch = messages(1 + n * 7 % 50);
                    publisher.publish(batch.clone(), None).await.unwrap();
                    sent.extend(batch.into_iter().map(|message| message.id));
                }
                publisher.close().await;
                sent
            });
        }
        let sent: HashSet<MessageId> = publishers.join_all().await.into_iter().flatten().collect();
        let mut consumer = corner.consumer();
        let taken = take(&mut consumer, sent.len()).await;
        let taken: HashSet<_> = taken.into_iter().map(|message| message.id).collect();
        assert_eq!(taken, sent);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_acknowledged_leaves_the_queue_and_what_was_read_ahead_goes_back() {
    Corner::run(|corner| async move {
        let publisher = corner.publisher();
        for n in 0..100 {
            let batch = vec![message(Severity::Info, &format!("s{n}"), "x")];
            publisher.publish(batch, None).await.unwrap();
        }
        let mut consumer = corner.consumer();
        let mut held = Vec::new();
        for _ in 0..60 {
            held.push(next(&mut consumer).await);
        }
        for delivery in held {
            delivery.ack().await.unwrap();
        }
        consumer.close().await;
        assert!(consumer.next().await.is_none());
        Operator::new().await.await_ready(&corner.name("store"), 40).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_closed_consumer_gives_back_does_not_come_to_it_again() {
    Corner::run(|corner| async move {
        let publisher = corner.publisher();
        for n in 0..60 {
            let batch = vec![message(Severity::Info, &format!("s{n}"), "x")];
            publisher.publish(batch, None).await.unwrap();
        }
        let mut consumer = corner.consumer();
        next(&mut consumer).await.ack().await.unwrap();
        consumer.close().await;
        Operator::new().await.await_ready(&corner.name("store"), 59).await;
        let mut consumer = corner.consumer();
        for _ in 0..59 {
            let delivery = next(&mut consumer).await;
            assert!(delivery.attempt <= 2, "attempt {}", delivery.attempt);
            delivery.ack().await.unwrap();
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_can_be_acknowledged_after_its_consumer_is_gone() {
    Corner::run(|corner| async move {
        corner.publisher().publish(messages(1), None).await.unwrap();
        let mut consumer = corner.consumer();
        let delivery = next(&mut consumer).await;
        let ended = consumer.ended();
        let mut ended = std::pin::pin!(ended);
        consumer.close().await;
        drop(consumer);
        assert!(futures_util::poll!(&mut ended).is_pending(), "a delivery is held");
        delivery.ack().await.unwrap();
        timeout(PATIENCE, ended).await.expect("the consumer has ended");
        // Unsettled, it would have come back when its connection closed.
        let operator = Operator::new().await;
        assert_eq!(operator.ready(&corner.name("store")).await, Some(0));
        let unasked = corner.consumer();
        let ended = unasked.ended();
        drop(unasked);
        ended.await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_that_is_dropped_comes_again_to_the_same_consumer() {
    Corner::run(|corner| async move {
        let sent = messages(1);
        corner.publisher().publish(sent.clone(), None).await.unwrap();
        let mut consumer = corner.consumer();
        for attempt in 1..=3 {
            let delivery = next(&mut consumer).await;
            assert_eq!((delivery.attempt, delivery.redelivered), (attempt, attempt > 1));
            assert_eq!(delivery.messages, sent);
            drop(delivery);
        }
        take(&mut consumer, 1).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledgements_behind_a_gap_do_not_wait_for_it() {
    Corner::run(|corner| async move {
        let config = AmqpConfig {
            prefetch: 2,
            ..corner.config.clone()
        };
        let mut consumer = AmqpConsumer::new(config, warren_domain::ports::ConsumerGroup::Store).unwrap();
        let publisher = corner.publisher();
        for n in 0..10 {
            let batch = vec![message(Severity::Info, &format!("s{n}"), "x")];
            publisher.publish(batch, None).await.unwrap();
        }
        let held = next(&mut consumer).await;
        take(&mut consumer, 9).await;
        held.ack().await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_does_nothing_before_it_is_asked() {
    Corner::run(|corner| async move {
        let publisher = corner.publisher();
        publisher.publish(messages(1), None).await.unwrap();
        let mut consumer = corner.consumer();
        assert!(consumer.health().check().await.is_err());
        Operator::new().await.await_ready(&corner.name("store"), 1).await;
        consumer.close().await;
        assert!(consumer.next().await.is_none());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_publisher_refuses_and_has_sent_all_before() {
    Corner::run(|corner| async move {
        let publisher = std::sync::Arc::new(corner.publisher());
        healthy(&*publisher).await;
        let mut calls = JoinSet::new();
        for batch in (0..20).map(|_| messages(100)) {
            let publisher = std::sync::Arc::clone(&publisher);
            calls.spawn(async move { publisher.publish(batch, None).await });
        }
        tokio::task::yield_now().await;
        publisher.close().await;
        let taken = calls
            .join_all()
            .await
            .iter()
            .filter(|outcome| outcome.is_ok())
            .count();
        let mut consumer = corner.consumer();
        if taken > 0 {
            take(&mut consumer, taken * 100).await;
        }
        assert!(publisher.publish(messages(1), None).await.is_err());
    })
    .await;
}
