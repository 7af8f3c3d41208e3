//! What is to be known about reading the broker's queue of dead letters.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use warren_domain::ports::{HealthCheck, Unhealthy};

/// The health of whoever reads the queue of dead letters, as a remark.
///
/// A worker that stores what comes in does its part: not ready, it would be taken for one that does not. The letters it
/// cannot read wait in the broker.
#[derive(Debug)]
pub(crate) struct DeadLetterQueue {
    reader: Arc<dyn HealthCheck>,
    amiss: Mutex<Option<String>>,
}

impl DeadLetterQueue {
    pub(crate) fn new(reader: Arc<dyn HealthCheck>) -> Self {
        Self {
            reader,
            amiss: Mutex::default(),
        }
    }
}

#[async_trait]
impl HealthCheck for DeadLetterQueue {
    fn name(&self) -> &'static str {
        "dead_letter_queue"
    }

    async fn check(&self) -> Result<(), Unhealthy> {
        let amiss = self.reader.check().await.err();
        let amiss = amiss.map(|unhealthy| format!("dead letters wait in RabbitMQ: {unhealthy}"));
        *self.amiss.lock().unwrap_or_else(PoisonError::into_inner) = amiss;
        Ok(())
    }

    fn remark(&self) -> Option<String> {
        self.amiss.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
