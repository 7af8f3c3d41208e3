//! Whether messages can be taken, by the broker or by the spool.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use warren_domain::ports::{HealthCheck, Unhealthy};

use super::{Spool, Way, lock};

/// What is said of a spool that nobody drains any more.
const ENDED: &str =
    "the spool has failed, see the log: nothing is put by, and what is in it waits for a restart";

/// Answers in the broker's name: well while the broker or the spool takes messages.
#[derive(Debug)]
pub struct SpoolHealth {
    broker: Arc<dyn HealthCheck>,
    spool: Spool,
    remark: Mutex<Option<String>>,
}

impl SpoolHealth {
    /// Makes the health of a process that has `spool` in front of `broker`.
    pub fn new(broker: Arc<dyn HealthCheck>, spool: Spool) -> Self {
        Self {
            broker,
            spool,
            remark: Mutex::default(),
        }
    }
}

#[async_trait]
impl HealthCheck for SpoolHealth {
    fn name(&self) -> &'static str {
        self.broker.name()
    }

    async fn check(&self) -> Result<(), Unhealthy> {
        let (broker, spool) = (self.broker.check().await, self.spool.0.health.check().await);
        let way = self.spool.0.ways.now();
        // A connection that stands says nothing of a broker that refuses all it is handed; the drain knows.
        let broker = broker.and_then(|()| match &way {
            Way::ThroughSpool { broker: Some(reason) } => Err(Unhealthy(reason.clone())),
            _ => Ok(()),
        });
        let remark = match (broker, spool) {
            (Err(broker), _) if way == Way::StraightAlone => {
                return Err(Unhealthy(format!("{broker}; nor can the spool: {ENDED}")));
            }
            (Ok(()), _) if way == Way::StraightAlone => Some(ENDED.to_owned()),
            (Err(broker), Ok(())) => Some(format!("{broker}; messages are spooled")),
            (Err(broker), Err(spool)) => {
                return Err(Unhealthy(format!("{broker}; nor can the spool: {spool}")));
            }
            (Ok(()), Err(spool)) => Some(format!("the spool would take nothing: {spool}")),
            (Ok(()), Ok(())) if way != Way::Straight => Some("what was spooled is drained".to_owned()),
            (Ok(()), Ok(())) => None,
        };
        *lock(&self.remark) = remark;
        Ok(())
    }

    fn remark(&self) -> Option<String> {
        lock(&self.remark).clone()
    }
}
