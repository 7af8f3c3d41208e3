//! Live tails: what comes, what is missed, and that nothing is left behind.

use std::time::Duration;

use amqprs::BasicProperties;
use tokio::time::timeout;
use warren_adapter_amqp::{AmqpConfig, AmqpTail, TailEvent};
use warren_adapter_conformance::samples::{message, messages};
use warren_domain::ports::MessagePublisher;
use warren_domain::{Message, MessageId, Selection, Severity, SeveritySet};

use crate::proxy::Proxy;
use crate::raw::publish_poison;
use crate::support::{Corner, Operator, PATIENCE, eventually, healthy, selection};

async fn next(tail: &mut AmqpTail) -> TailEvent {
    let event = timeout(PATIENCE, tail.next()).await.expect("something comes");
    event.expect("the tail is open")
}

/// Starts a tail, and waits until it listens.
async fn listening(config: &AmqpConfig, selection: Selection) -> AmqpTail {
    let mut tail = AmqpTail::start(config.clone(), selection).unwrap();
    assert_eq!(next(&mut tail).await, TailEvent::Listening);
    tail
}

async fn heard(tail: &mut AmqpTail, count: usize) -> Vec<Message> {
    let mut heard = Vec::new();
    while heard.len() < count {
        match next(tail).await {
            TailEvent::Message(message) => heard.push(*message),
            other => panic!("{other:?}"),
        }
    }
    heard
}

fn everything() -> Selection {
    Selection::of(SeveritySet::ALL)
}

fn one(source: &str) -> Vec<Message> {
    vec![message(Severity::Error, source, "x")]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tail_shows_what_is_published_from_now_on() {
    Corner::run(|corner| async move {
        let publisher = corner.publisher();
        publisher.publish(one("before"), None).await.unwrap();
        let mut tail = listening(&corner.config, everything()).await;
        let sent: Vec<_> = (0..1_500)
            .map(|n| message(Severity::Info, "shop", &n.to_string()))
            .collect();
        publisher.publish(sent.clone(), None).await.unwrap();
        assert_eq!(heard(&mut tail, sent.len()).await, sent);
        assert_eq!(tail.received(), 1_500);
        tail.health().check().await.unwrap();
        // It has taken nothing from anybody.
        Operator::new().await.await_ready(&corner.name("store"), 4).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tail_works_before_anything_else_ran_and_declares_the_exchanges_only() {
    Corner::run(|corner| async move {
        let mut tail = listening(&corner.config, selection([Severity::Error], &[])).await;
        let operator = Operator::new().await;
        assert_eq!(operator.ready(&corner.name("store")).await, None);
        corner.publisher().publish(one("shop"), None).await.unwrap();
        heard(&mut tail, 1).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tail_shows_what_it_selects_whatever_the_routing_key_says() {
    Corner::run(|corner| async move {
        let (publisher, operator) = (corner.publisher(), Operator::new().await);
        healthy(&publisher).await;
        let selected = selection([Severity::Error, Severity::Critical], &["billing.#", "raw.*"]);
        let mut tail = listening(&corner.config, selected.clone()).await;
        let mut sent = messages(100);
        publisher.publish(sent.clone(), None).await.unwrap();
        // Somebody else's packet, whose routing key is raw.source and whose lines say otherwise.
        let line = |severity: &str, source: &str| {
            let id = MessageId::generate();
            format!(
                "{{\"id\":\"{id}\",\"severity\":\"{severity}\",\"source\":\"{source}\",\"body\":\"x\"}}\n"
            )
        };
        let body = [
            line("info", "raw.a"),
            line("error", "shop"),
            "no message\n\n{}\n".to_owned(),
            line("error", "raw.a"),
        ];
        let error = corner.name("error");
        operator
            .publish(&error, BasicProperties::default(), body.concat())
            .await;
        let later = BasicProperties::default().with_message_type("warren.v9").finish();
        operator.publish(&error, later, "a\nb").await;
        sent.retain(|message| selected.matches(message));
        assert!(!sent.is_empty());
        let mut seen = heard(&mut tail, sent.len() + 1).await;
        assert_eq!(seen.pop().unwrap().source.as_str(), "raw.a");
        seen.sort_by_key(|message| message.id);
        sent.sort_by_key(|message| message.id);
        assert_eq!(seen, sent);
        for expected in [2, 2] {
            let TailEvent::Undecodable { lines, reason } = next(&mut tail).await else {
                panic!("not told");
            };
            assert_eq!(lines, expected, "{reason}");
        }
        // A tail is nobody's way to the dead letters.
        operator.await_ready(&corner.name("dead"), 0).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_reads_slowly_is_told_exactly_how_much_was_missed_and_where() {
    Corner::run(|corner| async move {
        let publisher = corner.publisher();
        let mut tail = listening(&corner.config, everything()).await;
        let sent: Vec<_> = (0..25_000)
            .map(|n| message(Severity::Info, "shop", &n.to_string()))
            .collect();
        for chunk in sent.chunks(5_000) {
            publisher.publish(chunk.to_vec(), None).await.unwrap();
        }
        eventually("everything has come", async || tail.received() == 25_000).await;
        let TailEvent::Missed { messages } = next(&mut tail).await else {
            panic!("not told");
        };
        let missed = usize::try_from(messages.total()).unwrap();
        // Whole packets are dropped, and each counts for one message more.
        assert!((15_000..16_500).contains(&missed), "{missed}");
        assert_eq!(messages.get(Severity::Info), messages.total());
        assert_eq!(heard(&mut tail, 25_000 - missed).await, sent[missed..]);
        let more = one("more");
        publisher.publish(more.clone(), None).await.unwrap();
        assert_eq!(heard(&mut tail, 1).await, more);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_rabbitmq_itself_drops_is_told() {
    Corner::run(|corner| async move {
        let proxy = Proxy::new().await;
        let publisher = corner.publisher();
        healthy(&publisher).await;
        let mut tail = listening(&corner.at(&proxy.authority()), everything()).await;
        proxy.mute_broker();
        // More than the 16 MiB of the queue and the 64 packets on their way can hold.
        let body = "x".repeat(250_000);
        let sent: Vec<_> = (0..180).map(|_| message(Severity::Info, "bulk", &body)).collect();
        for chunk in sent.chunks(20) {
            publisher.publish(chunk.to_vec(), None).await.unwrap();
        }
        proxy.heal();
        publisher.publish(one("last"), None).await.unwrap();
        let (mut came, mut missed, mut overrun, mut last) = (0, 0, false, false);
        while !overrun || !last {
            match next(&mut tail).await {
                TailEvent::Message(message) if message.source.as_str() == "last" => last = true,
                TailEvent::Message(_) => came += 1,
                TailEvent::Missed { messages } => missed += messages.total(),
                TailEvent::Overrun => overrun = true,
                other => panic!("{other:?}"),
            }
        }
        assert!(
            came + missed < 180,
            "nothing was dropped: {came} came, {missed} missed"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_connection_is_told_and_opened_again() {
    Corner::run(|corner| async move {
        let proxy = Proxy::new().await;
        let publisher = corner.publisher();
        healthy(&publisher).await;
        let mut tail = listening(&corner.at(&proxy.authority()), everything()).await;
        proxy.refuse();
        proxy.cut();
        let TailEvent::Disconnected { .. } = next(&mut tail).await else {
            panic!("not told");
        };
        publisher.publish(one("meanwhile"), None).await.unwrap();
        let health = tail.health();
        eventually("attempts fail", async || {
            health
                .check()
                .await
                .is_err_and(|fault| fault.0.contains("connect"))
        })
        .await;
        proxy.heal();
        loop {
            match next(&mut tail).await {
                TailEvent::Reconnected => break,
                TailEvent::Disconnected { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        publisher.publish(one("after"), None).await.unwrap();
        assert_eq!(heard(&mut tail, 1).await[0].source.as_str(), "after");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_packet_that_kills_the_connection_is_over_with_it() {
    Corner::run(|corner| async move {
        let publisher = corner.publisher();
        healthy(&publisher).await;
        let mut tail = listening(&corner.config, everything()).await;
        publish_poison(&corner.name("info"), "{}").await;
        assert!(matches!(next(&mut tail).await, TailEvent::Disconnected { .. }));
        assert_eq!(next(&mut tail).await, TailEvent::Reconnected);
        publisher.publish(one("after"), None).await.unwrap();
        heard(&mut tail, 1).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_tail_is_left_on_the_broker() {
    Corner::run(|corner| async move {
        let (proxy, operator) = (Proxy::new().await, Operator::new().await);
        // The exchange is unbound from every queue only once the queues are gone.
        let unused = async || {
            let exchange = corner.name("error");
            let delete = amqprs::channel::ExchangeDeleteArguments::new(&exchange)
                .if_unused(true)
                .finish();
            let channel = operator.connection.open_channel(None).await.unwrap();
            channel.exchange_delete(delete).await.is_ok()
        };
        let config = corner.at(&proxy.authority());
        let tail = listening(&config, selection([Severity::Error], &[])).await;
        assert!(!unused().await, "the tail is bound");
        tail.close().await;
        assert!(unused().await, "a closed tail has left its queue");
        assert_eq!(proxy.live(), 0);
        drop(listening(&config, selection([Severity::Error], &[])).await);
        eventually("the queue of a dropped tail is gone", unused).await;
        eventually("its connection is gone", async || proxy.live() == 0).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tail_that_cannot_connect_says_so_once_and_ends_when_it_is_closed() {
    let nowhere = AmqpConfig {
        url: "amqp://127.0.0.1:1".into(),
        reconnect_max: Duration::from_millis(100),
        ..AmqpConfig::default()
    };
    let mut tail = AmqpTail::start(nowhere, everything()).unwrap();
    let TailEvent::Disconnected { reason } = next(&mut tail).await else {
        panic!("not told");
    };
    assert!(reason.contains("127.0.0.1:1"), "{reason}");
    let quiet = timeout(Duration::from_millis(500), tail.next()).await;
    assert!(quiet.is_err(), "the same reason is no news");
    timeout(PATIENCE, tail.close()).await.unwrap();
}
