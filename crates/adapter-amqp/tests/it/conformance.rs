//! The contract that every broker keeps.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use warren_adapter_amqp::{AmqpConfig, AmqpConsumer, AmqpLive, AmqpPublisher, AmqpQueues};
use warren_adapter_conformance::broker::BrokerUnderTest;
use warren_adapter_conformance::group_queues::GroupQueuesUnderTest;
use warren_adapter_conformance::live::LiveUnderTest;
use warren_adapter_conformance::{broker_suite, group_queues_suite, live_suite};
use warren_domain::Message;
use warren_domain::ports::{
    ConsumerGroup, GroupLag, GroupName, GroupQueues, LiveMessages, MessageConsumer, MessagePublisher,
};

use crate::support::{Corner, Operator, header};

/// Small enough to be reached by a test.
const PREFETCH: u16 = 16;

struct RabbitMq {
    corner: Arc<Corner>,
    publisher: Arc<AmqpPublisher>,
    queues: Arc<AmqpQueues>,
    lags: Mutex<HashMap<GroupName, Arc<dyn GroupLag>>>,
}

impl RabbitMq {
    async fn fresh() -> Arc<Self> {
        let corner = Corner::new();
        let publisher = Arc::new(corner.publisher());
        Arc::new(Self {
            queues: Arc::new(AmqpQueues::new(corner.config.clone()).unwrap()),
            corner,
            publisher,
            lags: Mutex::default(),
        })
    }
}

#[async_trait]
impl BrokerUnderTest for RabbitMq {
    fn publisher(&self) -> Arc<dyn MessagePublisher> {
        Arc::clone(&self.publisher) as _
    }

    async fn consumer(&self, group: ConsumerGroup) -> Box<dyn MessageConsumer> {
        let name = match &group {
            ConsumerGroup::Store => None,
            ConsumerGroup::Named(group) => Some(group.name.clone()),
        };
        let config = AmqpConfig {
            prefetch: PREFETCH,
            ..self.corner.config.clone()
        };
        let consumer = AmqpConsumer::new(config, group).unwrap();
        if let Some(name) = name {
            self.lags.lock().unwrap().insert(name, consumer.lag());
        }
        Box::new(consumer)
    }

    fn lag(&self, group: &GroupName) -> Arc<dyn GroupLag> {
        Arc::clone(&self.lags.lock().unwrap()[group])
    }

    fn prefetch(&self) -> Option<usize> {
        Some(PREFETCH.into())
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
        self.queues.close().await;
        self.corner.tear_down().await;
    }
}

#[async_trait]
impl LiveUnderTest for RabbitMq {
    fn publisher(&self) -> Arc<dyn MessagePublisher> {
        Arc::clone(&self.publisher) as _
    }

    fn live(&self) -> Arc<dyn LiveMessages> {
        Arc::new(AmqpLive::new(self.corner.config.clone()).unwrap())
    }

    async fn tear_down(&self) {
        BrokerUnderTest::tear_down(self).await;
    }
}

impl GroupQueuesUnderTest for RabbitMq {
    fn queues(&self) -> Arc<dyn GroupQueues> {
        Arc::clone(&self.queues) as _
    }
}

broker_suite!(RabbitMq::fresh());
live_suite!(RabbitMq::fresh());
group_queues_suite!(RabbitMq::fresh());
