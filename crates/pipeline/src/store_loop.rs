//! Gets what the broker delivers into the store.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use metrics::{Gauge, counter, gauge, histogram};
use tokio_util::sync::CancellationToken;
use tracing::{Span, info_span};
use warren_domain::ports::{Cause, HealthCheck, MessageConsumer, MessageStore, Refused, Unhealthy};
use warren_domain::{Severity, Timestamp};

use crate::WorkerConfig;
use crate::breaker::Breaker;
use crate::consume_loop::{ConsumeLoop, Effect};
use crate::gather::{Batch, Dead};
use crate::health::WorkerHealth;
use crate::metrics::{BATCH_MESSAGES, DEAD, DELAY_SECONDS, HELD, PAUSED, UNSETTLED, count_by_delivery};
use crate::outage::{GaveUp, Outage};
use crate::write::write;

/// Gets what the broker delivers into the store: gathers, stores, then acknowledges.
///
/// It consumes only while the store answers: a worker that took deliveries and died, over and over, would spend the
/// delivery limit of good messages.
pub struct StoreLoop(ConsumeLoop<Storing>);

impl fmt::Debug for StoreLoop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StoreLoop").field(&self.0).finish()
    }
}

impl StoreLoop {
    /// Makes a loop that consumes from what `subscribe` returns once `store_health` is well.
    ///
    /// `subscribe` is called again whenever consuming begins anew; when it fails, it is called again after a while.
    pub fn new(
        subscribe: impl Fn() -> Result<Box<dyn MessageConsumer>, Cause> + Send + Sync + 'static,
        store: Arc<dyn MessageStore>,
        store_health: Arc<dyn HealthCheck>,
        config: WorkerConfig,
    ) -> Self {
        let health = WorkerHealth::new("store_loop", gauge!(PAUSED));
        let storing = Storing {
            store,
            store_health,
            breaker: Breaker::new(&config),
        };
        Self(ConsumeLoop::new(subscribe, storing, config, health))
    }

    /// Returns what tells whether the loop is at work.
    pub fn health(&self) -> WorkerHealth {
        self.0.health()
    }

    /// Runs until `stop` is cancelled; then finishes what it holds, at most `drain_timeout`, and gives the rest back.
    pub async fn run(self, stop: CancellationToken) {
        self.0.run(stop).await;
    }
}

#[derive(Debug)]
struct Storing {
    store: Arc<dyn MessageStore>,
    store_health: Arc<dyn HealthCheck>,
    breaker: Breaker,
}

#[async_trait]
impl Effect for Storing {
    const NEEDS: &'static str = "the store";

    async fn ready(&self) -> Result<(), Unhealthy> {
        self.store_health.check().await?;
        // To consume what would only be refused and given back again costs a delivery of everything that is held.
        self.breaker.probe(&*self.store).await
    }

    fn span(&self, messages: usize, links: &str) -> Span {
        info_span!("store_batch", messages, links)
    }

    async fn apply(&self, batch: &Batch, outage: Outage) -> Result<Vec<Refused>, GaveUp> {
        let messages = &batch.messages;
        histogram!(BATCH_MESSAGES).record(messages.len() as f64);
        let refused = write(&*self.store, &self.breaker, batch, outage).await?;
        if let Some(oldest) = messages.iter().map(|message| message.received_at).min() {
            histogram!(DELAY_SECONDS).record(age(oldest).as_secs_f64());
        }
        Ok(refused)
    }

    fn held(&self, severity: Severity) -> Gauge {
        gauge!(HELD, "severity" => severity.as_str())
    }

    fn dead_lettered(&self, dead: &Dead) {
        count_by_delivery(DEAD, &dead.first, &dead.again);
    }

    fn unsettled(&self, deliveries: usize) {
        counter!(UNSETTLED).increment(deliveries as u64);
    }
}

fn age(moment: Timestamp) -> Duration {
    let micros = Timestamp::now()
        .unix_micros()
        .saturating_sub(moment.unix_micros());
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}
