//! Being in a consumer group, again and again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio_util::task::TaskTracker;
use warren_domain::ports::{
    Cause, ConsumerGroup, GroupLag, HealthCheck, Lag, MessageConsumer, NamedGroup, StartAt, Unhealthy,
};

use crate::config::{AmqpConfig, DeadLetterStrategy};
use crate::consumer::AmqpConsumer;
use crate::error::ConfigError;

/// Makes the consumers of one group, one after the other, and tells how the latest is.
///
/// Only the first of them begins with the next message where the group says so: those after it go on where it was.
#[derive(Debug)]
pub struct AmqpSubscription {
    config: AmqpConfig,
    group: ConsumerGroup,
    begun: AtomicBool,
    latest: Arc<Latest>,
    /// Every consumer that was made and has not ended.
    working: TaskTracker,
}

impl AmqpSubscription {
    /// Checks the settings; connects to nothing.
    ///
    /// # Errors
    /// As [`AmqpConsumer::new`].
    pub fn new(config: AmqpConfig, group: ConsumerGroup) -> Result<Self, ConfigError> {
        let unused = AmqpConsumer::new(config.clone(), group.clone())?;
        if matches!(group, ConsumerGroup::Store)
            && config.store_dead_letter_strategy == DeadLetterStrategy::AtMostOnce
        {
            tracing::warn!(
                "amqp.store_dead_letter_strategy is at-most-once: a packet at its delivery limit is dropped while the \
                 queue of the dead letters cannot take it, although it was accepted"
            );
        }
        Ok(Self {
            config,
            group,
            begun: AtomicBool::new(false),
            latest: Arc::new(Latest(Mutex::new((unused.health(), unused.lag())))),
            working: TaskTracker::new(),
        })
    }

    /// Returns the health of whichever consumer is the latest.
    pub fn health(&self) -> Arc<dyn HealthCheck> {
        Arc::clone(&self.latest) as Arc<dyn HealthCheck>
    }

    /// Returns what tells what waits for the group, over the connection of whichever consumer is the latest.
    pub fn lag(&self) -> Arc<dyn GroupLag> {
        Arc::clone(&self.latest) as Arc<dyn GroupLag>
    }

    /// Returns what can wait until every consumer has ended, and the broker has its acknowledgements.
    pub fn working(&self) -> TaskTracker {
        self.working.clone()
    }

    /// Makes the next consumer.
    ///
    /// # Errors
    /// As [`AmqpConsumer::new`]: a file that the settings name may be gone by now.
    pub fn consumer(&self) -> Result<Box<dyn MessageConsumer>, Cause> {
        let consumer =
            AmqpConsumer::new(self.config.clone(), self.next_group()).map_err(|e| Arc::new(e) as Cause)?;
        self.begun.store(true, Ordering::Relaxed);
        *self.latest.0.lock().unwrap_or_else(PoisonError::into_inner) = (consumer.health(), consumer.lag());
        self.working.spawn(consumer.ended());
        Ok(Box::new(consumer))
    }

    fn next_group(&self) -> ConsumerGroup {
        let goes_on = self.begun.load(Ordering::Relaxed);
        match &self.group {
            ConsumerGroup::Named(group) if goes_on => ConsumerGroup::Named(NamedGroup {
                start: StartAt::Oldest,
                ..group.clone()
            }),
            group => group.clone(),
        }
    }
}

#[derive(Debug)]
struct Latest(Mutex<(Arc<dyn HealthCheck>, Arc<dyn GroupLag>)>);

impl Latest {
    fn current(&self) -> (Arc<dyn HealthCheck>, Arc<dyn GroupLag>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl HealthCheck for Latest {
    fn name(&self) -> &'static str {
        self.current().0.name()
    }

    async fn check(&self) -> Result<(), Unhealthy> {
        self.current().0.check().await
    }
}

#[async_trait]
impl GroupLag for Latest {
    async fn lag(&self) -> Result<Lag, Unhealthy> {
        self.current().1.lag().await
    }
}
