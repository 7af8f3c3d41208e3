//! The spool of this process, if it is asked for.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use warren_adapter_embedded::{SpoolConfig, SpoolQueue};
use warren_domain::ports::MessagePublisher;
use warren_pipeline::dead_letters::{DeadLetterJobs, watch_dead_letters};
use warren_pipeline::{Spool, SpoolPorts};
use warren_process::shutdown::drain;

/// How long before the deadline draining ends, so that closing the files and the connection has some of it left.
const TO_CLOSE: Duration = Duration::from_secs(2);

/// How much of that closing the files leaves.
const TO_DISCONNECT: Duration = Duration::from_secs(1);

/// A spool, the files it is made of, and its dead letters.
pub(crate) struct Spooling {
    files: SpoolQueue,
    spool: Spool,
    jobs: DeadLetterJobs,
    _watching: DropGuard,
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
        let letters = files.dead_letters();
        // Redriven past the spool: whether the broker takes it now is told to whoever asked for it.
        let jobs = DeadLetterJobs::new(letters.clone(), broker.clone());
        let watching = CancellationToken::new();
        tokio::spawn(watch_dead_letters(letters, watching.clone()));
        let spool = Spool::start(broker, ports).await;
        Ok(Some(Self {
            files,
            spool,
            jobs,
            _watching: watching.drop_guard(),
        }))
    }

    /// Returns what works with the dead letters of the spool.
    pub(crate) fn jobs(&self) -> DeadLetterJobs {
        self.jobs.clone()
    }

    pub(crate) fn spool(&self) -> Spool {
        self.spool.clone()
    }

    /// Drains what the broker takes, and closes the files, which keep the rest; ends a little before `deadline`.
    pub(crate) async fn stop(self, deadline: Instant) {
        let left = |spare| deadline.saturating_duration_since(Instant::now() + spare);
        self.jobs.close(left(TO_CLOSE)).await;
        self.spool.stop(left(TO_CLOSE)).await;
        drain("closing the spool", left(TO_DISCONNECT), self.files.close()).await;
    }
}
