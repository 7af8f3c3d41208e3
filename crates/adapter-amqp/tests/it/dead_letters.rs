//! What cannot be read or stored is kept with its reason.

use std::collections::HashSet;
use std::time::Duration;

use amqprs::BasicProperties;
use tokio::time::timeout;
use warren_adapter_amqp::{AmqpConfig, AmqpConsumer, AmqpPublisher, DeadLetterStrategy};
use warren_adapter_conformance::samples::message;
use warren_domain::ports::{ConsumerGroup, DeadLetterReason, MessageConsumer, MessagePublisher, Refused};
use warren_domain::{MessageId, Severity};

use crate::proxy::Proxy;
use crate::raw::{self, publish_poison};
use crate::support::{Corner, Operator, PATIENCE, header, healthy, next};

fn line(body: &str) -> String {
    format!("{{\"id\":\"{}\",\"body\":\"{body}\"}}", MessageId::generate())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_line_is_a_dead_letter_and_its_neighbours_are_delivered() {
    Corner::run(|corner| async move {
        healthy(&corner.publisher()).await;
        let operator = Operator::new().await;
        let body = format!("{}\r\n{{\"body\":1}}\n\n{}\nnot json", line("a"), line("b"));
        let exchange = corner.name("error");
        operator
            .publish(&exchange, BasicProperties::default(), body)
            .await;
        let mut consumer = corner.consumer();
        let delivery = next(&mut consumer).await;
        let bodies: Vec<_> = delivery
            .messages
            .iter()
            .map(|message| message.body.as_str())
            .collect();
        assert_eq!(bodies, ["a", "b"]);
        delivery.ack().await.unwrap();
        let letters = operator.take_all(&corner.name("dead")).await;
        let bodies: Vec<_> = letters
            .iter()
            .map(|(_, body)| String::from_utf8_lossy(body))
            .collect();
        assert_eq!(bodies, ["{\"body\":1}", "not json"]);
        let (properties, _) = &letters[0];
        let said = |name| header(properties, name).unwrap();
        assert_eq!(said("x-warren-reason"), "undecodable");
        assert!(said("x-warren-detail").contains("/body"));
        assert_eq!(said("x-warren-attempt"), "1");
        assert_eq!(said("x-warren-exchange"), exchange);
        assert_eq!(said("x-warren-routing-key"), "raw.source");
        assert_eq!(said("x-warren-queue"), corner.name("store"));
        assert!(said("x-warren-first-seen").ends_with('Z'));
        assert_eq!(properties.delivery_mode(), Some(2));
        consumer.close().await;
        operator.await_ready(&corner.name("store"), 0).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_packet_without_a_message_never_surfaces_and_is_kept_whole() {
    Corner::run(|corner| async move {
        healthy(&corner.publisher()).await;
        let operator = Operator::new().await;
        let typed = |kind: &str| BasicProperties::default().with_message_type(kind).finish();
        let packets = [
            (BasicProperties::default(), b"\x00\xff\xfe garbage\n\x80".to_vec()),
            (BasicProperties::default(), Vec::new()),
            (typed("warren.v2"), line("from the future").into_bytes()),
            (BasicProperties::default(), line("good").into_bytes()),
        ];
        for (properties, body) in packets.clone() {
            operator.publish(&corner.name("info"), properties, body).await;
        }
        let mut consumer = corner.consumer();
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.messages[0].body.as_str(), "good");
        delivery.ack().await.unwrap();
        operator.await_ready(&corner.name("dead"), 3).await;
        let mut letters = operator.take_all(&corner.name("dead")).await;
        letters.sort_by_key(|(properties, _)| header(properties, "x-warren-detail"));
        let mut kept: Vec<_> = letters.iter().map(|(_, body)| body.clone()).collect();
        kept.sort_unstable();
        let mut sent: Vec<_> = packets[..3].iter().map(|(_, body)| body.clone()).collect();
        sent.sort_unstable();
        assert_eq!(kept, sent);
        for (properties, _) in &letters {
            assert_eq!(header(properties, "x-warren-reason").unwrap(), "undecodable");
        }
        let future = letters
            .iter()
            .find(|(properties, _)| properties.message_type().is_some_and(|kind| kind == "warren.v2"));
        let detail = header(&future.unwrap().0, "x-warren-detail").unwrap();
        assert!(detail.contains("warren.v2"), "{detail}");
        consumer.close().await;
        operator.await_ready(&corner.name("store"), 0).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_message_is_kept_byte_by_byte() {
    Corner::run(|corner| async move {
        let publisher = corner.publisher();
        let sent: Vec<_> = (0..3)
            .map(|n| message(Severity::Info, "s", &n.to_string()))
            .collect();
        publisher.publish(sent.clone(), None).await.unwrap();
        let mut consumer = corner.consumer();
        let delivery = next(&mut consumer).await;
        let refused = Refused {
            index: 1,
            reason: DeadLetterReason {
                code: "refused_by_store",
                detail: "é".repeat(5_000),
            },
        };
        delivery.ack_except(vec![refused]).await.unwrap();
        let letters = Operator::new().await.take_all(&corner.name("dead")).await;
        let [(properties, body)] = &letters[..] else {
            panic!("{} letters", letters.len());
        };
        let mut line = Vec::new();
        sent[1].append_json_line(&mut line);
        line.pop();
        assert_eq!(*body, line);
        assert_eq!(header(properties, "x-warren-reason").unwrap(), "refused_by_store");
        assert!(header(properties, "x-warren-detail").unwrap().len() <= 1_024);
        assert_eq!(
            header(properties, "x-warren-first-seen").unwrap(),
            sent[1].received_at.to_string()
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_whose_dead_letters_cannot_be_kept_comes_again() {
    Corner::run(|corner| async move {
        let publisher = corner.publisher();
        let sent = vec![message(Severity::Info, "s", "x")];
        publisher.publish(sent.clone(), None).await.unwrap();
        let operator = Operator::new().await;
        let mut consumer = corner.consumer();
        let reason = DeadLetterReason {
            code: "refused_by_store",
            detail: String::new(),
        };
        // The first letter opens the connection for letters; then their queue goes.
        let warm_up = next(&mut consumer).await;
        warm_up.dead_letter(reason.clone()).await.unwrap();
        publisher.publish(sent.clone(), None).await.unwrap();
        let delivery = next(&mut consumer).await;
        operator.delete_queue(&corner.name("dead")).await;
        assert!(delivery.dead_letter(reason.clone()).await.is_err());
        let again = next(&mut consumer).await;
        assert_eq!((again.attempt, &again.messages), (2, &sent));
        // The queue of dead letters is declared again, because a letter came back.
        let mut kept = again.dead_letter(reason.clone()).await;
        while kept.is_err() {
            kept = next(&mut consumer).await.dead_letter(reason.clone()).await;
        }
        operator.await_ready(&corner.name("dead"), 1).await;
    })
    .await;
}

/// How many good packets there are beside the one that kills connections.
const GOOD: usize = 1_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_packet_that_kills_connections_becomes_a_dead_letter_alone() {
    Corner::run(|corner| async move {
        let config = AmqpConfig {
            store_dead_letter_strategy: DeadLetterStrategy::AtLeastOnce,
            reconnect_max: Duration::from_millis(50),
            packet_max_messages: 1,
            // All of them are out when connections begin to die, most of them before the one that kills.
            prefetch: 1_000,
            ..corner.config.clone()
        };
        let publisher = AmqpPublisher::start(config.clone()).unwrap();
        let packets = |count: usize| {
            (0..count)
                .map(|_| message(Severity::Info, "good", "good"))
                .collect()
        };
        publisher.publish(packets(900), None).await.unwrap();
        publish_poison(&corner.name("info"), &line("never read")).await;
        publisher.publish(packets(GOOD - 900), None).await.unwrap();
        let proxy = Proxy::new().await;
        let through = AmqpConfig {
            url: corner.at(&proxy.authority()).url,
            ..config.clone()
        };
        let mut consumer = AmqpConsumer::new(through, ConsumerGroup::Store).unwrap();
        let operator = Operator::new().await;
        let mut seen = HashSet::new();
        // An acknowledgement may die with its connection; then the packet comes again. Connections end after the
        // poison too, when the whole prefetch is let through again.
        let surviving = async {
            while seen.len() < GOOD || operator.ready(&corner.name("dead")).await != Some(1) {
                let waiting = Duration::from_millis(500);
                while let Ok(delivery) = timeout(waiting, consumer.next()).await {
                    let delivery = delivery.expect("the consumer is open");
                    seen.extend(delivery.messages.iter().map(|message| message.id));
                    delivery.ack().await.ok();
                }
            }
        };
        let survived = timeout(4 * PATIENCE, surviving).await;
        survived.expect("the poison becomes a dead letter and everything else is delivered");
        consumer.close().await;
        operator.await_ready(&corner.name("store"), 0).await;
        // The limit allows so many deliveries after the first. One connection ends the quarantine, and one the test.
        let limit = usize::try_from(config.store_delivery_limit).unwrap();
        let others = proxy.opened() - (limit + 1);
        assert!(others <= 2, "{others} connections more than died of it");
        assert_eq!(
            (seen.len(), operator.ready(&corner.name("dead")).await),
            (GOOD, Some(1))
        );
        // What is kept is the poison and nothing else: only it is out of reach of this client.
        let body = raw::take(&corner.name("dead")).await;
        assert!(body.contains("never read"), "{body}");
    })
    .await;
}
