//! The way back of a dead letter into the queue.

use std::sync::OnceLock;

use async_trait::async_trait;
use warren_adapter_amqp::{AmqpConfig, AmqpPublisher, ConfigError};
use warren_domain::ports::{MessagePublisher, PublishError, Unpublished};
use warren_domain::{Message, TraceContext};

/// A publisher that connects when it is first asked to: most workers never redrive anything.
#[derive(Debug)]
pub(crate) struct RedrivingPublisher {
    config: AmqpConfig,
    started: OnceLock<Result<AmqpPublisher, ConfigError>>,
}

impl RedrivingPublisher {
    pub(crate) const fn new(config: AmqpConfig) -> Self {
        Self {
            config,
            started: OnceLock::new(),
        }
    }
}

#[async_trait]
impl MessagePublisher for RedrivingPublisher {
    async fn publish(&self, messages: Vec<Message>, trace: Option<TraceContext>) -> Result<(), Unpublished> {
        let started = self
            .started
            .get_or_init(|| AmqpPublisher::start(self.config.clone()));
        match started {
            Ok(publisher) => publisher.publish(messages, trace).await,
            // The settings were checked when the program began; a file that they name may be gone since.
            Err(error) => {
                let error = PublishError::unavailable(error.to_string());
                Err(Unpublished::all(messages.len(), &error))
            }
        }
    }
}
