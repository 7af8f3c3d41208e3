//! What this process counts, for its own account of the way of messages.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::Instant;
use warren_pipeline::flow::{CounterSource, Counters, Counting, Page};
use warren_process::telemetry::metrics::Metrics;

/// The counters of this process.
#[derive(Clone, Debug)]
pub(crate) struct OwnCounters(Metrics);

impl OwnCounters {
    pub(crate) fn of(metrics: &Metrics) -> Self {
        Self(metrics.clone())
    }
}

#[async_trait]
impl CounterSource for OwnCounters {
    async fn counters(&self) -> Arc<Counters> {
        let this = Counting {
            program: "warren".to_owned(),
            page: Page::parse(&self.0.render()),
        };
        Arc::new(Counters {
            at: Instant::now(),
            counting: vec![this],
            silent: Vec::new(),
        })
    }
}
