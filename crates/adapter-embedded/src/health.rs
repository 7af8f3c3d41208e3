//! Whether the embedded adapter would do its part now.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use sea_orm::sqlx;
use tokio::time::{Instant, timeout};
use warren_domain::ports::{HealthCheck, PublishError, Unhealthy};

use crate::database::Database;
use crate::error::{Fault, chain, explain};
use crate::sync::lock;

/// A commit that takes longer is told to operators: the disk hangs.
const SLOW_COMMIT: Duration = Duration::from_secs(2);
const PROBE_TIMEOUT: Duration = Duration::from_millis(1_500);

/// What the queue's writer knows of its own state.
#[derive(Debug, Default)]
pub(crate) struct Condition(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The disk failed a write: what it holds is uncertain until the files are opened anew.
    broken: Option<String>,
    trouble: Option<String>,
    full: Option<String>,
    committing_since: Option<Instant>,
    stopped: bool,
}

impl Condition {
    pub(crate) fn commit_begins(&self) {
        lock(&self.0).committing_since = Some(Instant::now());
    }

    pub(crate) fn commit_succeeded(&self) {
        let mut state = lock(&self.0);
        state.committing_since = None;
        state.trouble = None;
    }

    /// Notes a failed commit, says so once, and makes the callers' error of it.
    pub(crate) fn commit_failed(&self, fault: Fault, error: Arc<sqlx::Error>, path: PathBuf) -> PublishError {
        let reason = explain(fault, &path);
        let mut state = lock(&self.0);
        state.committing_since = None;
        if state.trouble.is_none() {
            tracing::error!(error = chain(&*error), path = %path.display(), "{reason}");
        }
        state.trouble = Some(reason.clone());
        if fault == Fault::DiskBroken {
            state.broken = Some(reason.clone());
        }
        PublishError::Unavailable {
            reason,
            cause: Some(error),
        }
    }

    /// Notes an error of other work than a commit: a disk that fails then has failed, too.
    pub(crate) fn heed(&self, fault: Fault, error: &sqlx::Error, path: &Path) {
        let mut state = lock(&self.0);
        if fault == Fault::DiskBroken && state.broken.is_none() {
            let reason = explain(fault, path);
            tracing::error!(error = chain(error), path = %path.display(), "{reason}");
            state.broken = Some(reason);
        }
    }

    /// Tells whether the last commit failed.
    pub(crate) fn is_troubled(&self) -> bool {
        lock(&self.0).trouble.is_some()
    }

    /// Tells why nothing may be written any more, if so.
    pub(crate) fn broken(&self) -> Option<String> {
        lock(&self.0).broken.clone()
    }

    /// Notes that messages were refused for want of room, and says so once.
    pub(crate) fn set_full(&self, reason: String) {
        let mut state = lock(&self.0);
        if state.full.is_none() {
            tracing::warn!("messages are refused: {reason}");
        }
        state.full = Some(reason);
    }

    pub(crate) fn set_room(&self) {
        if lock(&self.0).full.take().is_some() {
            tracing::info!("there is room again; messages are taken");
        }
    }

    /// Says that the writer has ended, in order or by a panic, once the guard is dropped.
    pub(crate) fn stopped_on_drop(self: &Arc<Self>) -> impl Drop + use<> {
        struct Guard(Arc<Condition>);
        impl Drop for Guard {
            fn drop(&mut self) {
                lock(&self.0.0).stopped = true;
            }
        }
        Guard(Arc::clone(self))
    }

    fn verdict(&self) -> Result<(), String> {
        let state = lock(&self.0);
        if state.stopped {
            return Err("it is closed".to_owned());
        }
        if let Some(reason) = [&state.broken, &state.trouble, &state.full]
            .into_iter()
            .flatten()
            .next()
        {
            return Err(reason.clone());
        }
        match state.committing_since {
            Some(since) if since.elapsed() > SLOW_COMMIT => Err(format!(
                "a commit has been going on for {:?}; check the disk",
                since.elapsed()
            )),
            _ => Ok(()),
        }
    }
}

/// Answers for queue and store together: they live and die with one directory.
#[derive(Debug)]
pub(crate) struct EmbeddedHealth {
    pub(crate) condition: Arc<Condition>,
    pub(crate) store: Arc<StoreHealth>,
}

#[async_trait]
impl HealthCheck for EmbeddedHealth {
    fn name(&self) -> &'static str {
        "embedded"
    }

    async fn check(&self) -> Result<(), Unhealthy> {
        self.condition.verdict().map_err(Unhealthy)?;
        self.store.reads()?;
        self.store.check().await
    }
}

/// Answers for a spool.
#[derive(Debug)]
pub(crate) struct SpoolHealth(pub(crate) Arc<Condition>);

#[async_trait]
impl HealthCheck for SpoolHealth {
    fn name(&self) -> &'static str {
        "spool"
    }

    async fn check(&self) -> Result<(), Unhealthy> {
        self.0.verdict().map_err(Unhealthy)
    }
}

/// Answers for the store alone: a queue that is full is no reason not to empty it.
#[derive(Debug)]
pub(crate) struct StoreHealth(pub(crate) Arc<Database>);

impl StoreHealth {
    /// Tells whether those who look for messages get an answer. That is no reason not to store any.
    fn reads(&self) -> Result<(), Unhealthy> {
        match self.0.stuck().told() {
            None => Ok(()),
            Some((reads, since)) => Err(Unhealthy(format!(
                "{reads} reads of {} are stuck, since {since:.0?}; check the disk, and which other programs have the \
                 file open",
                self.0.path().display()
            ))),
        }
    }
}

#[async_trait]
impl HealthCheck for StoreHealth {
    fn name(&self) -> &'static str {
        "embedded_store"
    }

    async fn check(&self) -> Result<(), Unhealthy> {
        let path = self.0.path().display();
        let probe = sqlx::query("select 1 from messages limit 1").fetch_optional(self.0.read_pool());
        match timeout(PROBE_TIMEOUT, probe).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(Unhealthy(format!("{path} cannot be read: {}", chain(&error)))),
            Err(_) => Err(Unhealthy(format!(
                "{path} did not answer within {PROBE_TIMEOUT:?}; check the disk"
            ))),
        }
    }
}
