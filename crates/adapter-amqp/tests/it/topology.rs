//! What is declared, and what happens when somebody has other ideas.

use amqprs::channel::QueueUnbindArguments;
use amqprs::{FieldTable, FieldValue};
use warren_adapter_amqp::{AmqpConfig, AmqpPublisher};
use warren_adapter_conformance::samples::{message, messages};
use warren_domain::Severity;
use warren_domain::ports::{HealthCheck, MessageConsumer, MessagePublisher, PublishError, Unpublished};

use crate::support::{Corner, Operator, eventually, healthy, next, take, unhealthy};

fn table(arguments: impl IntoIterator<Item = (&'static str, FieldValue)>) -> FieldTable {
    let mut table = FieldTable::new();
    for (name, value) in arguments {
        table.insert(name.try_into().unwrap(), value);
    }
    table
}

fn only_error(outcome: Result<(), Unpublished>) -> PublishError {
    outcome.unwrap_err().errors.remove(0).1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unroutable_message_is_reported_and_the_queue_comes_back() {
    Corner::run(|corner| async move {
        let publisher = corner.publisher();
        publisher.publish(messages(1), None).await.unwrap();
        let operator = Operator::new().await;
        operator.delete_queue(&corner.name("store")).await;
        let error = only_error(publisher.publish(messages(1), None).await);
        assert!(
            matches!(&error, PublishError::Unroutable { reason } if reason.contains(&corner.name("debug"))),
            "{error:?}"
        );
        eventually("the queue is declared again", async || {
            publisher.publish(messages(1), None).await.is_ok()
        })
        .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_messages_that_were_returned_fail() {
    Corner::run(|corner| async move {
        let publisher = corner.publisher();
        healthy(&publisher).await;
        let unbind = QueueUnbindArguments::new(&corner.name("store"), &corner.name("error"), "#");
        Operator::new().await.channel.queue_unbind(unbind).await.unwrap();
        let batch = Severity::ALL.map(|severity| message(severity, "a", "x")).to_vec();
        let errors = publisher.publish(batch, None).await.unwrap_err().errors;
        assert!(
            matches!(&errors[..], [(3, PublishError::Unroutable { .. })]),
            "{errors:?}"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_with_other_arguments_is_explained_until_it_is_gone() {
    Corner::run(|corner| async move {
        let (operator, store) = (Operator::new().await, corner.name("store"));
        let arguments = table([("x-queue-type", FieldValue::from("quorum"))]);
        operator.declare_queue(&store, arguments).await;
        let publisher = corner.publisher();
        let said = unhealthy(&publisher, "exists already").await;
        for part in [&store, "amqp.store_delivery_limit", "PRECONDITION_FAILED", "x-"] {
            assert!(said.contains(part), "{part} is missing: {said}");
        }
        let mut consumer = corner.consumer();
        let health = consumer.health();
        assert!(
            tokio::time::timeout(std::time::Duration::ZERO, consumer.next())
                .await
                .is_err()
        );
        unhealthy(&*health, &store).await;
        let error = only_error(publisher.publish(messages(1), None).await);
        assert!(
            matches!(&error, PublishError::Unavailable { reason, .. } if reason.contains(&store)),
            "{error:?}"
        );
        operator.delete_queue(&store).await;
        healthy(&publisher).await;
        healthy(&*health).await;
        publisher.publish(messages(1), None).await.unwrap();
        take(&mut consumer, 1).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_of_another_kind_is_explained() {
    Corner::run(|corner| async move {
        let (operator, exchange) = (Operator::new().await, corner.name("warning"));
        let declare = amqprs::channel::ExchangeDeclareArguments::new(&exchange, "fanout");
        operator.channel.exchange_declare(declare).await.unwrap();
        let publisher = corner.publisher();
        let said = unhealthy(&publisher, "exists already").await;
        assert!(said.contains(&exchange) && said.contains("amqp.prefix"), "{said}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_deleted_under_its_consumer_is_declared_again() {
    Corner::run(|corner| async move {
        let publisher = corner.publisher();
        publisher.publish(messages(5), None).await.unwrap();
        let mut consumer = corner.consumer();
        let lost = next(&mut consumer).await;
        let operator = Operator::new().await;
        operator.delete_queue(&corner.name("store")).await;
        eventually("the consumer declares the queue again", async || {
            operator.ready(&corner.name("store")).await.is_some()
        })
        .await;
        eventually("what was published before is given up", async || {
            publisher
                .publish(vec![message(Severity::Info, "later", "x")], None)
                .await
                .is_ok()
        })
        .await;
        loop {
            let delivery = next(&mut consumer).await;
            if delivery.messages[0].source.as_str() == "later" {
                delivery.ack().await.unwrap();
                break;
            }
        }
        assert!(
            lost.ack().await.is_err(),
            "its tag belongs to a connection that is gone"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_is_unavailable() {
    Corner::run(|corner| async move {
        let publisher = AmqpPublisher::start(AmqpConfig {
            store_max_bytes: bytesize::ByteSize::kib(4),
            ..corner.config.clone()
        })
        .unwrap();
        let mut refused = None;
        eventually("the queue is full", async || {
            let outcome = publisher.publish(messages(10), None).await;
            refused = outcome.err().map(|unpublished| unpublished.errors[0].1.clone());
            refused.is_some()
        })
        .await;
        let error = refused.unwrap();
        assert!(
            matches!(&error, PublishError::Unavailable { reason, .. } if reason.contains("full")),
            "{error:?}"
        );
        assert_eq!(publisher.check().await, Ok(()));
        Operator::new().await.take_all(&corner.name("store")).await;
        eventually("there is room again", async || {
            publisher.publish(messages(1), None).await.is_ok()
        })
        .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_cannot_be_used_are_refused_before_anything_is_opened() {
    let config = AmqpConfig {
        url: "amqps://localhost".into(),
        tls_ca_file: Some("/nowhere.pem".into()),
        ..AmqpConfig::default()
    };
    let error = AmqpPublisher::start(config).unwrap_err();
    assert!(
        error.to_string().starts_with("amqp.tls_ca_file: /nowhere.pem"),
        "{error}"
    );
}
