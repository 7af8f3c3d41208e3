//! Being in the store's consumer group, again and again.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio_util::task::TaskTracker;
use warren_adapter_amqp::{AmqpConfig, AmqpConsumer, ConfigError};
use warren_domain::ports::{Cause, ConsumerGroup, HealthCheck, MessageConsumer, Unhealthy};

/// Makes the consumers of the store loop, one after the other, and tells how the latest is.
#[derive(Debug)]
pub(crate) struct Subscription {
    config: AmqpConfig,
    latest: Arc<Latest>,
    /// Every consumer that was made and has not ended.
    working: TaskTracker,
}

impl Subscription {
    /// Checks the settings; connects to nothing.
    pub(crate) fn new(config: AmqpConfig) -> Result<Self, ConfigError> {
        let unused = AmqpConsumer::new(config.clone(), ConsumerGroup::Store)?;
        Ok(Self {
            config,
            latest: Arc::new(Latest(Mutex::new(unused.health()))),
            working: TaskTracker::new(),
        })
    }

    /// Returns the health of whichever consumer is the latest.
    pub(crate) fn health(&self) -> Arc<dyn HealthCheck> {
        Arc::clone(&self.latest) as Arc<dyn HealthCheck>
    }

    /// Returns what can wait until every consumer has ended, and the broker has its acknowledgements.
    pub(crate) fn working(&self) -> TaskTracker {
        self.working.clone()
    }

    /// Makes the next consumer.
    pub(crate) fn consumer(&self) -> Result<Box<dyn MessageConsumer>, Cause> {
        let consumer =
            AmqpConsumer::new(self.config.clone(), ConsumerGroup::Store).map_err(|e| Arc::new(e) as Cause)?;
        *self.latest.0.lock().unwrap_or_else(PoisonError::into_inner) = consumer.health();
        self.working.spawn(consumer.ended());
        Ok(Box::new(consumer))
    }
}

#[derive(Debug)]
struct Latest(Mutex<Arc<dyn HealthCheck>>);

impl Latest {
    fn current(&self) -> Arc<dyn HealthCheck> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl HealthCheck for Latest {
    fn name(&self) -> &'static str {
        self.current().name()
    }

    async fn check(&self) -> Result<(), Unhealthy> {
        self.current().check().await
    }
}
