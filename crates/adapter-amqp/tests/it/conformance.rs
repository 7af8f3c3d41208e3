//! The contract that every broker keeps.

use std::sync::Arc;

use async_trait::async_trait;
use warren_adapter_amqp::{AmqpConsumer, AmqpPublisher};
use warren_adapter_conformance::broker::BrokerUnderTest;
use warren_adapter_conformance::broker_suite;
use warren_domain::Message;
use warren_domain::ports::{ConsumerGroup, MessageConsumer, MessagePublisher};

use crate::support::{Corner, Operator, header};

struct RabbitMq {
    corner: Arc<Corner>,
    publisher: Arc<AmqpPublisher>,
}

impl RabbitMq {
    async fn fresh() -> Arc<Self> {
        let corner = Corner::new();
        let publisher = Arc::new(corner.publisher());
        Arc::new(Self { corner, publisher })
    }
}

#[async_trait]
impl BrokerUnderTest for RabbitMq {
    fn publisher(&self) -> Arc<dyn MessagePublisher> {
        Arc::clone(&self.publisher) as _
    }

    async fn consumer(&self, group: ConsumerGroup) -> Box<dyn MessageConsumer> {
        Box::new(AmqpConsumer::new(self.corner.config.clone(), group).unwrap())
    }

    async fn dead_letters(&self) -> Vec<(String, Message)> {
        let taken = Operator::new().await.take_all(&self.corner.name("dead")).await;
        taken
            .into_iter()
            .map(|(properties, body)| {
                let code = header(&properties, "x-warren-reason").unwrap();
                (code, Message::from_json(&body).unwrap())
            })
            .collect()
    }

    async fn tear_down(&self) {
        self.publisher.close().await;
        self.corner.tear_down().await;
    }
}

broker_suite!(RabbitMq::fresh());
