//! The queue of the dead letters is read whatever lies in it.

use std::time::Duration;

use amqprs::{BasicProperties, FieldTable, FieldValue};
use tokio::time::timeout;
use warren_adapter_amqp::{AmqpConfig, AmqpConsumer, AmqpDeadLetters};
use warren_adapter_conformance::samples::message;
use warren_domain::ports::{
    DeadDelivery, DeadLetterConsumer, DeadLetterId, DeadLetterReason, MessageConsumer, MessagePublisher,
};
use warren_domain::{MessageId, Severity};

use crate::proxy::Proxy;
use crate::raw::publish_poison;
use crate::support::{Corner, Operator, PATIENCE, healthy, next};

async fn delivery(consumer: &mut AmqpDeadLetters) -> DeadDelivery {
    timeout(PATIENCE, consumer.next())
        .await
        .expect("letters are delivered")
        .expect("the consumer is open")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_of_ours_comes_with_its_reason_and_is_gone_once_it_is_acknowledged() {
    Corner::run(|corner| async move {
        let publisher = corner.publisher();
        let sent = vec![message(Severity::Error, "shop.web", "x")];
        publisher.publish(sent.clone(), None).await.unwrap();
        let reason = DeadLetterReason {
            code: "refused_by_store",
            detail: "no room".to_owned(),
        };
        next(&mut corner.consumer())
            .await
            .dead_letter(reason)
            .await
            .unwrap();
        let mut consumer = AmqpDeadLetters::new(corner.config.clone()).unwrap();
        let DeadDelivery { letters, settlement } = delivery(&mut consumer).await;
        let [letter] = &letters[..] else {
            panic!("{} letters", letters.len());
        };
        let facts = &letter.facts;
        assert_eq!(facts.id, DeadLetterId::of_message(sent[0].id));
        assert_eq!(facts.reason.as_str(), "refused_by_store");
        assert_eq!(facts.detail.as_str(), "no room");
        assert_eq!(facts.exchange.as_str(), corner.name("error"));
        assert_eq!(facts.queue.as_str(), corner.name("store"));
        assert_eq!(facts.first_at, sent[0].received_at);
        assert!(facts.last_at >= facts.first_at);
        assert_eq!((facts.severity, facts.attempts), (Some(Severity::Error), 1));
        let mut line = Vec::new();
        sent[0].append_json_line(&mut line);
        assert_eq!(letter.content, line.trim_ascii_end());
        settlement.acknowledge().await.unwrap();
        consumer.close().await;
        Operator::new().await.assert_empty(&corner.name("dead")).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_that_kills_every_other_consumer_does_not_stop_this_one() {
    Corner::run(|corner| async move {
        healthy(&corner.publisher()).await;
        let operator = Operator::new().await;
        let (first, last) = (MessageId::generate(), MessageId::generate());
        let line = |id: MessageId| format!("{{\"id\":\"{id}\",\"body\":\"x\"}}");
        let dead = corner.name("dead");
        operator
            .publish(&dead, BasicProperties::default(), line(first))
            .await;
        publish_poison(&dead, "\u{0}not json").await;
        operator
            .publish(&dead, BasicProperties::default(), line(last))
            .await;
        operator.await_ready(&dead, 3).await;
        let mut consumer = AmqpDeadLetters::new(corner.config.clone()).unwrap();
        let mut contents = Vec::new();
        while contents.len() < 3 {
            let DeadDelivery { letters, settlement } = delivery(&mut consumer).await;
            contents.extend(letters.into_iter().map(|letter| letter.content));
            settlement.acknowledge().await.unwrap();
        }
        let expected = [
            line(first).into_bytes(),
            b"\0not json".to_vec(),
            line(last).into_bytes(),
        ];
        assert_eq!(contents, expected);
        consumer.close().await;
        operator.assert_empty(&dead).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_broker_gives_up_is_a_letter_a_message_with_the_broker_s_reason() {
    Corner::run(|corner| async move {
        let publisher = corner.publisher();
        let sent: Vec<_> = (0..3)
            .map(|n| message(Severity::Info, "s", &n.to_string()))
            .collect();
        publisher.publish(sent.clone(), None).await.unwrap();
        let mut consumer: AmqpConsumer = corner.consumer();
        let operator = Operator::new().await;
        let dropping = async {
            while operator.ready(&corner.name("dead")).await != Some(1) {
                if let Ok(Some(delivery)) = timeout(Duration::from_millis(200), consumer.next()).await {
                    drop(delivery);
                }
            }
        };
        timeout(PATIENCE, dropping).await.expect("the broker gives it up");
        let mut letters = AmqpDeadLetters::new(corner.config.clone()).unwrap();
        let delivery = delivery(&mut letters).await;
        let found: Vec<_> = delivery.letters.iter().map(|letter| letter.facts.id).collect();
        let expected: Vec<_> = sent
            .iter()
            .map(|message| DeadLetterId::of_message(message.id))
            .collect();
        assert_eq!(found, expected);
        for letter in &delivery.letters {
            let facts = &letter.facts;
            assert_eq!(facts.reason.as_str(), "delivery_limit");
            assert_eq!(facts.queue.as_str(), corner.name("store"));
            assert_eq!(facts.exchange.as_str(), corner.name("info"));
            assert_eq!(facts.routing_key.as_str(), "s");
            assert!(facts.attempts >= 1, "{facts:?}");
        }
        letters.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_acknowledged_comes_again() {
    Corner::run(|corner| async move {
        healthy(&corner.publisher()).await;
        let operator = Operator::new().await;
        let dead = corner.name("dead");
        for n in 0..250 {
            let properties = BasicProperties::default()
                .with_message_id(&n.to_string())
                .finish();
            operator.publish(&dead, properties, n.to_string()).await;
        }
        operator.await_ready(&dead, 250).await;
        let mut consumer = AmqpDeadLetters::new(corner.config.clone()).unwrap();
        // Dropped, and then cut off with a delivery in hand: all of it is still there.
        drop(delivery(&mut consumer).await);
        drop(consumer);
        let proxy = Proxy::new().await;
        let mut consumer = AmqpDeadLetters::new(corner.at(&proxy.authority())).unwrap();
        let held = delivery(&mut consumer).await;
        proxy.cut();
        let again = delivery(&mut consumer).await;
        assert!(
            held.settlement.acknowledge().await.is_err(),
            "the connection it came on is gone"
        );
        let mut seen: Vec<_> = again.letters.into_iter().map(|letter| letter.content).collect();
        again.settlement.acknowledge().await.unwrap();
        while seen.len() < 250 {
            let DeadDelivery { letters, settlement } = delivery(&mut consumer).await;
            seen.extend(letters.into_iter().map(|letter| letter.content));
            settlement.acknowledge().await.unwrap();
        }
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 250);
        consumer.close().await;
        operator.assert_empty(&dead).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_waits_for_a_queue_that_is_not_there_and_survives_its_deletion() {
    Corner::run(|corner| async move {
        let mut consumer = AmqpDeadLetters::new(corner.config.clone()).unwrap();
        let health = consumer.health();
        assert!(
            timeout(Duration::from_millis(500), consumer.next())
                .await
                .is_err()
        );
        assert!(health.check().await.is_err());
        let publisher = corner.publisher();
        healthy(&publisher).await;
        let operator = Operator::new().await;
        let dead = corner.name("dead");
        for _ in 0..2 {
            // What is published before the queue is bound again reaches nobody.
            let delivered = loop {
                operator.publish(&dead, BasicProperties::default(), "x").await;
                match timeout(Duration::from_secs(1), consumer.next()).await {
                    Ok(delivered) => break delivered.expect("the consumer is open"),
                    Err(_) => continue,
                }
            };
            assert_eq!(delivered.letters[0].content, b"x");
            delivered.settlement.acknowledge().await.unwrap();
            health.check().await.unwrap();
            operator.delete_queue(&dead).await;
        }
        consumer.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_letter_and_every_kind_of_header_are_read() {
    Corner::run(|corner| async move {
        healthy(&corner.publisher()).await;
        let operator = Operator::new().await;
        let dead = corner.name("dead");
        let mut headers = FieldTable::new();
        for (name, value) in [
            ("text", FieldValue::from("x".repeat(10_000))),
            ("yes", FieldValue::t(true)),
            ("long", FieldValue::l(-1)),
            ("double", FieldValue::d(0.5)),
            ("nothing", FieldValue::V),
            ("x-warren-reason", FieldValue::from("odd")),
        ] {
            headers.insert(name.try_into().unwrap(), value);
        }
        let large = b"\0\xff".repeat(5 << 20);
        let properties = BasicProperties::default().with_headers(headers).finish();
        operator.publish(&dead, properties, large.clone()).await;
        let config = AmqpConfig {
            heartbeat: Duration::from_secs(2),
            ..corner.config.clone()
        };
        let mut consumer = AmqpDeadLetters::new(config).unwrap();
        let held = delivery(&mut consumer).await;
        assert_eq!(held.letters[0].facts.reason.as_str(), "odd");
        assert!(held.letters[0].content == large);
        // Heartbeats keep the connection while the letter is held.
        tokio::time::sleep(Duration::from_secs(7)).await;
        held.settlement.acknowledge().await.unwrap();
        consumer.close().await;
        operator.assert_empty(&dead).await;
    })
    .await;
}
