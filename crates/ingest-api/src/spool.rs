//! The spool of this process, if it is asked for.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use warren_adapter_embedded::{SpoolConfig, SpoolQueue};
use warren_domain::ports::MessagePublisher;
use warren_pipeline::{Spool, SpoolPorts};

/// A spool, and the files it is made of.
pub(crate) struct Spooling {
    files: SpoolQueue,
    spool: Spool,
}

impl Spooling {
    /// Opens the spool that `config` names, if it names one, and begins to drain it to `broker`.
    ///
    /// One that cannot be opened ends the program: to run without it would be to promise less than was asked for, and
    /// to leave behind what may wait in it.
    pub(crate) async fn start(
        config: &SpoolConfig,
        broker: Arc<dyn MessagePublisher>,
    ) -> anyhow::Result<Option<Self>> {
        let Some(path) = &config.path else {
            return Ok(None);
        };
        let files = SpoolQueue::open(path, config)
            .await
            .context("the spool cannot be opened")?;
        let ports = SpoolPorts {
            publisher: files.publisher(),
            consumer: files.consumer(),
            lag: files.lag(),
            health: files.health(),
        };
        let spool = Spool::start(broker, ports).await;
        Ok(Some(Self { files, spool }))
    }

    pub(crate) fn spool(&self) -> Spool {
        self.spool.clone()
    }

    /// Drains what the broker takes within `patience`, and closes the files; they keep the rest.
    pub(crate) async fn stop(self, patience: Duration) {
        self.spool.stop(patience).await;
        self.files.close().await;
    }
}
