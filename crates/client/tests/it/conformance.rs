//! The publisher's side of the port's contract, over HTTP: the real server, and the embedded log behind it.
//!
//! Not the whole suite: consumers are none of the publisher's business, and the server makes a span of its own.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tempfile::TempDir;
use tokio_util::task::AbortOnDropHandle;
use warren_adapter_conformance::broker::BrokerUnderTest;
use warren_adapter_embedded::{Embedded, EmbeddedConfig};
use warren_adapter_http::HttpConfig;
use warren_client::{HttpPublisher, Message, MessageId, MessagePublisher, Timestamp, Unpublished};
use warren_domain::ports::{ConsumerGroup, Delivery, GroupLag, GroupName, MessageConsumer};
use warren_domain::{Idempotency, TraceContext};
use warren_pipeline::IntakeConfig;

use crate::http::{serve, to};

/// What may change on the way of each message: when it was received, which the server says anew, and the token of its
/// key, which is the server's to give. A message that has an id needs none.
type Received = Arc<Mutex<HashMap<MessageId, (Timestamp, Option<Idempotency>)>>>;

#[derive(Debug)]
struct Noting(HttpPublisher, Received);

#[async_trait]
impl MessagePublisher for Noting {
    async fn publish(&self, messages: Vec<Message>, trace: Option<TraceContext>) -> Result<(), Unpublished> {
        let received =
            (messages.iter()).map(|message| (message.id, (message.received_at, message.idempotency)));
        self.1.lock().unwrap().extend(received);
        self.0.publish(messages, trace).await
    }
}

#[derive(Debug)]
struct Restoring(Box<dyn MessageConsumer>, Received);

#[async_trait]
impl MessageConsumer for Restoring {
    async fn next(&mut self) -> Option<Delivery> {
        let mut delivery = self.0.next().await?;
        let received = self.1.lock().unwrap();
        for message in &mut delivery.messages {
            (message.received_at, message.idempotency) = received[&message.id];
        }
        drop(received);
        Some(delivery)
    }

    async fn close(&mut self) {
        self.0.close().await;
    }
}

struct Subject {
    received: Received,
    embedded: Embedded,
    address: SocketAddr,
    _serving: AbortOnDropHandle<()>,
    _folder: TempDir,
}

async fn fresh() -> Arc<Subject> {
    let folder = tempfile::tempdir().unwrap();
    let config = EmbeddedConfig {
        path: folder.path().join("data"),
        ..EmbeddedConfig::default()
    };
    let embedded = Embedded::open(config, None).await.unwrap();
    let intake = IntakeConfig::default();
    let (address, serving) = serve(embedded.publisher(), &intake, HttpConfig::default()).await;
    Arc::new(Subject {
        received: Received::default(),
        embedded,
        address,
        _serving: serving,
        _folder: folder,
    })
}

#[async_trait]
impl BrokerUnderTest for Subject {
    fn publisher(&self) -> Arc<dyn MessagePublisher> {
        Arc::new(Noting(
            to(self.address).build().unwrap(),
            Arc::clone(&self.received),
        ))
    }

    async fn consumer(&self, group: ConsumerGroup) -> Box<dyn MessageConsumer> {
        Box::new(Restoring(
            self.embedded.consumer(group),
            Arc::clone(&self.received),
        ))
    }

    fn lag(&self, group: &GroupName) -> Arc<dyn GroupLag> {
        self.embedded.lag(group)
    }

    async fn dead_letters(&self) -> Vec<(String, Message)> {
        Vec::new()
    }

    async fn tear_down(&self) {
        self.embedded.close().await;
    }
}

warren_adapter_conformance::suite!(
    broker,
    fresh(),
    a_published_message_is_delivered_with_every_field_equal,
    a_publication_larger_than_a_packet_arrives_whole,
    publishing_nothing_succeeds,
    concurrent_publishers_lose_nothing,
    a_publish_future_that_is_dropped_disturbs_nobody,
    a_named_group_gets_its_severities_only,
    every_group_gets_its_own_copy,
);
