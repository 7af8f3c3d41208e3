//! Cut, hung and absent connections.

use std::time::Duration;

use bytesize::ByteSize;
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout};
use warren_adapter_amqp::{AmqpConfig, AmqpConsumer, AmqpPublisher};
use warren_adapter_conformance::samples::{message, messages};
use warren_domain::ports::{
    ConsumerGroup, DeadLetterReason, MessageConsumer, MessagePublisher, PublishError, SettleError,
};
use warren_domain::{Body, Message, MessageLimits, Severity};

use crate::proxy::Proxy;
use crate::support::{Corner, Operator, PATIENCE, eventually, healthy, next, take, unhealthy};

const DEADLINE: Duration = Duration::from_secs(2);

/// What a call may take beyond its deadline on a loaded machine.
const SLACK: Duration = Duration::from_secs(1);

fn impatient(config: AmqpConfig) -> AmqpConfig {
    AmqpConfig {
        publish_timeout: DEADLINE,
        connect_timeout: Duration::from_secs(1),
        ..config
    }
}

async fn publish_fails_in_time(publisher: &AmqpPublisher) -> Duration {
    let start = Instant::now();
    let errors = publisher.publish(messages(3), None).await.unwrap_err().errors;
    assert_eq!(errors.len(), 3);
    let unavailable = |error: &PublishError| matches!(error, PublishError::Unavailable { .. });
    assert!(errors.iter().all(|(_, error)| unavailable(error)), "{errors:?}");
    assert!(start.elapsed() < DEADLINE + SLACK, "took {:?}", start.elapsed());
    start.elapsed()
}

async fn publish_recovers(publisher: &AmqpPublisher) {
    eventually("publishing recovers", async || {
        publisher.publish(messages(1), None).await.is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_hangs_is_unavailable_in_time_and_nothing_leaks() {
    Corner::run(|corner| async move {
        let proxy = Proxy::new().await;
        let publisher = AmqpPublisher::start(impatient(corner.at(&proxy.authority()))).unwrap();
        publisher.publish(messages(1), None).await.unwrap();
        for _ in 0..3 {
            proxy.hang();
            publish_fails_in_time(&publisher).await;
            proxy.heal();
            publish_recovers(&publisher).await;
            eventually("the old connections are gone", async || proxy.live() == 1).await;
        }
        publisher.close().await;
        eventually("the last connection is gone", async || proxy.live() == 0).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_a_socket_holds_does_not_wait_longer_when_the_broker_hangs() {
    Corner::run(|corner| async move {
        let proxy = Proxy::new().await;
        let config = AmqpConfig {
            max_pending_bytes: bytesize::ByteSize::mib(8),
            ..impatient(corner.at(&proxy.authority()))
        };
        let publisher = std::sync::Arc::new(AmqpPublisher::start(config).unwrap());
        healthy(&*publisher).await;
        proxy.hang();
        let body = "x".repeat(200_000);
        let calls: Vec<_> = (0..100)
            .map(|_| {
                let (publisher, body) = (std::sync::Arc::clone(&publisher), body.clone());
                tokio::spawn(async move {
                    let big = warren_adapter_conformance::samples::message(
                        warren_domain::Severity::Info,
                        "big",
                        &body,
                    );
                    let start = Instant::now();
                    assert!(publisher.publish(vec![big], None).await.is_err());
                    start.elapsed()
                })
            })
            .collect();
        for call in calls {
            assert!(call.await.unwrap() < DEADLINE + SLACK);
        }
        proxy.heal();
        publish_recovers(&publisher).await;
        eventually("the old connections are gone", async || proxy.live() == 1).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_cannot_be_reached_is_refused_at_once_after_the_first_deadline() {
    Corner::run(|corner| async move {
        let proxy = Proxy::new().await;
        let publisher = AmqpPublisher::start(impatient(corner.at(&proxy.authority()))).unwrap();
        healthy(&publisher).await;
        proxy.refuse();
        proxy.hang();
        publish_fails_in_time(&publisher).await;
        eventually("calls are refused at once", async || {
            publish_fails_in_time(&publisher).await < Duration::from_millis(100)
        })
        .await;
        proxy.heal();
        publish_recovers(&publisher).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_takes_no_messages_lets_few_calls_wait_after_the_first_deadline() {
    const CALLERS: usize = 40;
    Corner::run(|corner| async move {
        let proxy = Proxy::new().await;
        let publisher = AmqpPublisher::start(impatient(corner.at(&proxy.authority()))).unwrap();
        let publisher = std::sync::Arc::new(publisher);
        healthy(&*publisher).await;
        proxy.take_no_messages();
        publish_fails_in_time(&publisher).await;
        eventually("calls are refused at once", async || {
            publish_fails_in_time(&publisher).await < Duration::from_millis(100)
        })
        .await;
        let (seen, done) = (proxy.held(), tokio_util::sync::CancellationToken::new());
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| {
                let (publisher, done) = (std::sync::Arc::clone(&publisher), done.clone());
                tokio::spawn(async move {
                    let mut waited = 0;
                    while !done.is_cancelled() {
                        let took = publish_fails_in_time(&publisher).await;
                        waited += usize::from(took > Duration::from_millis(500));
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                    waited
                })
            })
            .collect();
        // Every connection shows anew that messages are not taken.
        eventually("three connections are given up", async || {
            proxy.held() >= seen + 3
        })
        .await;
        done.cancel();
        let mut waited = 0;
        for caller in callers {
            waited += caller.await.unwrap();
        }
        let connections = proxy.held() - seen + 1;
        assert!(
            (1..=2 * connections).contains(&waited),
            "{waited} calls waited for {connections} connections"
        );
        proxy.heal();
        publish_recovers(&publisher).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_packet_that_was_returned_on_a_lost_connection_is_judged_by_the_next_one() {
    Corner::run(|corner| async move {
        let proxy = Proxy::new().await;
        let publisher = AmqpPublisher::start(corner.at(&proxy.authority())).unwrap();
        healthy(&publisher).await;
        let (operator, store) = (Operator::new().await, corner.name("store"));
        proxy.hold_confirms();
        operator.delete_queue(&store).await;
        let sent = messages(1);
        let call = tokio::spawn({
            let sent = sent.clone();
            async move { (publisher.publish(sent, None).await, publisher) }
        });
        // The return has gone through before that.
        eventually("the confirm is held back", async || proxy.held() > 0).await;
        proxy.cut();
        proxy.heal();
        let (outcome, publisher) = timeout(PATIENCE, call).await.unwrap().unwrap();
        outcome.unwrap();
        publisher.close().await;
        operator.await_ready(&store, 1).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_between_publish_and_confirm_is_mended_within_the_call() {
    Corner::run(|corner| async move {
        let proxy = Proxy::new().await;
        let publisher = AmqpPublisher::start(corner.at(&proxy.authority())).unwrap();
        healthy(&publisher).await;
        let (operator, store) = (Operator::new().await, corner.name("store"));
        proxy.mute_broker();
        let sent = messages(1);
        let call = tokio::spawn({
            let sent = sent.clone();
            async move {
                let outcome = publisher.publish(sent, None).await;
                (outcome, publisher)
            }
        });
        operator.await_ready(&store, 1).await;
        proxy.cut();
        proxy.heal();
        let (outcome, publisher) = timeout(PATIENCE, call).await.unwrap().unwrap();
        outcome.unwrap();
        publisher.close().await;
        let packets = operator.take_all(&store).await;
        let ids: Vec<_> = packets
            .iter()
            .map(|(properties, _)| properties.message_id())
            .collect();
        assert_eq!(ids.len(), 2, "the confirm was lost, so it was published twice");
        assert_eq!(ids[0], ids[1]);
        assert_eq!(packets[0].1, packets[1].1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cuts_under_load_lose_nothing_that_was_confirmed() {
    Corner::run(|corner| async move {
        let proxy = Proxy::new().await;
        let publisher = AmqpPublisher::start(corner.at(&proxy.authority())).unwrap();
        let publisher = std::sync::Arc::new(publisher);
        healthy(&*publisher).await;
        let calls: Vec<_> = (0..16)
            .map(|_| {
                let publisher = std::sync::Arc::clone(&publisher);
                tokio::spawn(async move {
                    let mut confirmed = Vec::new();
                    for _ in 0..100 {
                        let batch = messages(20);
                        if publisher.publish(batch.clone(), None).await.is_ok() {
                            confirmed.extend(batch.into_iter().map(|message| message.id));
                        }
                    }
                    confirmed
                })
            })
            .collect();
        for _ in 0..10 {
            let seen = proxy.opened();
            proxy.cut();
            eventually("connected again", async || proxy.opened() > seen).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let mut awaited = std::collections::HashSet::new();
        for call in calls {
            awaited.extend(call.await.unwrap());
        }
        assert!(awaited.len() > 10_000, "only {} were confirmed", awaited.len());
        let mut consumer = corner.consumer();
        while !awaited.is_empty() {
            for message in take(&mut consumer, 1).await {
                awaited.remove(&message.id);
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_away_at_the_start_is_found_when_it_comes() {
    Corner::run(|corner| async move {
        let address = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            listener.local_addr().unwrap()
        };
        let config = impatient(corner.at(&address.to_string()));
        let publisher = AmqpPublisher::start(config.clone()).unwrap();
        let mut consumer = AmqpConsumer::new(config, ConsumerGroup::Store).unwrap();
        let health = consumer.health();
        assert!(timeout(Duration::ZERO, consumer.next()).await.is_err());
        publish_fails_in_time(&publisher).await;
        let said = unhealthy(&publisher, "cannot connect").await;
        assert!(said.contains(&address.to_string()), "{said}");
        unhealthy(&*health, "cannot connect").await;
        let _proxy = Proxy::on(TcpListener::bind(address).await.unwrap());
        publish_recovers(&publisher).await;
        take(&mut consumer, 1).await;
        healthy(&*health).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_address_is_tried_when_one_does_not_answer() {
    Corner::run(|corner| async move {
        let proxy = Proxy::new().await;
        let urls = format!(
            "amqp://127.0.0.1:1,{},amqp://127.0.0.1:2",
            serde_json::to_value(corner.at(&proxy.authority()).url,)
                .unwrap()
                .as_str()
                .unwrap()
        );
        let publisher = AmqpPublisher::start(AmqpConfig {
            url: urls.into(),
            ..corner.config.clone()
        })
        .unwrap();
        publisher.publish(messages(1), None).await.unwrap();
        assert_eq!(proxy.live(), 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lets_us_in_and_does_not_work_is_left_for_another() {
    Corner::run(|corner| async move {
        let nodes = [Proxy::new().await, Proxy::new().await];
        let crate::support::Address { user, path, .. } = crate::support::address();
        let urls = nodes
            .iter()
            .map(|node| format!("amqp://{user}@{}/{path}", node.authority()));
        let config = AmqpConfig {
            url: urls.collect::<Vec<_>>().join(",").into(),
            ..corner.config.clone()
        };
        let chosen = async || {
            let mut chosen = None;
            eventually("a node is chosen", async || {
                chosen = nodes.iter().position(|node| node.live() == 1);
                chosen.is_some()
            })
            .await;
            &nodes[chosen.unwrap()]
        };

        let publisher = AmqpPublisher::start(config.clone()).unwrap();
        healthy(&publisher).await;
        let node = chosen().await;
        node.refuse_work();
        node.cut();
        publish_recovers(&publisher).await;
        assert_eq!(node.live(), 0);
        node.heal();
        publisher.close().await;
        eventually("the publisher has left", async || {
            nodes.iter().all(|node| node.live() == 0)
        })
        .await;

        let mut consumer = AmqpConsumer::new(config, ConsumerGroup::Store).unwrap();
        take(&mut consumer, 1).await;
        let node = chosen().await;
        node.refuse_work();
        node.cut();
        corner.publisher().publish(messages(1), None).await.unwrap();
        take(&mut consumer, 1).await;
        assert_eq!(node.live(), 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_credentials_are_said_without_the_password() {
    Corner::run(|corner| async move {
        let authority = crate::support::address().authority;
        let publisher = AmqpPublisher::start(AmqpConfig {
            url: format!("amqp://nobody:hunter2@{authority}").into(),
            // RabbitMQ answers three seconds late, so that guessing takes time.
            connect_timeout: Duration::from_secs(15),
            ..corner.config.clone()
        })
        .unwrap();
        let said = unhealthy(&publisher, "password").await;
        assert!(!said.contains("hunter2") && said.contains(&authority), "{said}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_of_a_lost_connection_cannot_be_settled_and_comes_again() {
    Corner::run(|corner| async move {
        let proxy = Proxy::new().await;
        corner.publisher().publish(messages(1), None).await.unwrap();
        let config = corner.at(&proxy.authority());
        let mut consumer = AmqpConsumer::new(config, ConsumerGroup::Store).unwrap();
        let first = next(&mut consumer).await;
        proxy.cut();
        let again = next(&mut consumer).await;
        assert_eq!((again.attempt, again.redelivered), (2, true));
        assert_eq!(again.messages, first.messages);
        assert!(matches!(first.ack().await, Err(SettleError::ConnectionLost)));
        again.ack().await.unwrap();
        consumer.close().await;
        Operator::new().await.await_ready(&corner.name("store"), 0).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_for_a_broker_that_takes_none_cost_the_deadline_once_and_not_each() {
    Corner::run(|corner| async move {
        let proxy = Proxy::new().await;
        let publisher = corner.publisher();
        let config = AmqpConfig {
            packet_max_messages: 1,
            ..impatient(corner.at(&proxy.authority()))
        };
        let mut consumer = AmqpConsumer::new(config, ConsumerGroup::Store).unwrap();
        let reason = || DeadLetterReason {
            code: "refused_by_store",
            detail: String::new(),
        };
        for _ in 0..4 {
            publisher.publish(messages(1), None).await.unwrap();
        }
        // The first letter opens the connection for letters.
        let warm_up = next(&mut consumer).await;
        warm_up.dead_letter(reason()).await.unwrap();
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(next(&mut consumer).await);
        }
        proxy.refuse();
        proxy.hang();
        let mut took = Vec::new();
        for delivery in held {
            let start = Instant::now();
            let settled = delivery.dead_letter(reason()).await;
            assert!(
                matches!(settled, Err(SettleError::Unavailable { .. })),
                "{settled:?}"
            );
            took.push(start.elapsed());
        }
        assert!(took[0] < DEADLINE + SLACK, "{took:?}");
        assert!(took[2] < Duration::from_millis(100), "{took:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_notices_a_broker_that_hangs() {
    Corner::run(|corner| async move {
        let proxy = Proxy::new().await;
        let config = AmqpConfig {
            heartbeat: Duration::from_secs(2),
            ..impatient(corner.at(&proxy.authority()))
        };
        corner.publisher().publish(messages(1), None).await.unwrap();
        let mut consumer = AmqpConsumer::new(config, ConsumerGroup::Store).unwrap();
        let health = consumer.health();
        let held = next(&mut consumer).await;
        proxy.hang();
        unhealthy(&*health, "").await;
        proxy.heal();
        healthy(&*health).await;
        let again = next(&mut consumer).await;
        assert_eq!(again.messages, held.messages);
        again.ack().await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_without_deliveries_survives_every_cut() {
    Corner::run(|corner| async move {
        let proxy = Proxy::new().await;
        let config = corner.at(&proxy.authority());
        let mut consumer = AmqpConsumer::new(config, ConsumerGroup::Store).unwrap();
        let health = consumer.health();
        assert!(timeout(Duration::ZERO, consumer.next()).await.is_err());
        for _ in 0..30 {
            healthy(&*health).await;
            let seen = proxy.opened();
            proxy.cut();
            eventually("connected again", async || proxy.opened() > seen).await;
        }
        let sent = messages(1);
        corner.publisher().publish(sent.clone(), None).await.unwrap();
        assert_eq!(take(&mut consumer, 1).await, sent);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_rabbitmq_will_never_take_is_refused_and_its_neighbours_are_stored() {
    Corner::run_alone(|corner| async move {
        let publisher = AmqpPublisher::start(AmqpConfig {
            publish_timeout: PATIENCE,
            max_pending_bytes: ByteSize::gib(1),
            ..corner.config.clone()
        });
        let publisher = publisher.unwrap();
        healthy(&publisher).await;
        // The largest `max_message_size` that RabbitMQ has by itself is 128 MiB.
        let limits = MessageLimits {
            body_bytes: 129 << 20,
            ..MessageLimits::CEILING
        };
        let huge = Message {
            body: Body::new("x".repeat(129 << 20), &limits).unwrap(),
            ..message(Severity::Error, "default", "")
        };
        let neighbours = messages(50);
        let (refused, stored) = tokio::join!(
            publisher.publish(vec![huge], None),
            publisher.publish(neighbours.clone(), None)
        );
        stored.unwrap();
        let refused = refused.unwrap_err().errors;
        let [(0, PublishError::Refused { reason })] = &refused[..] else {
            panic!("{refused:?}");
        };
        assert!(reason.contains("size"), "{reason}");
        publisher.publish(messages(1), None).await.unwrap();
    })
    .await;
}
