//! The logger itself.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use warren_domain::{Severity, Source};

use crate::builder::LoggerBuilder;
use crate::entry::Entry;
use crate::own_thread;
use crate::queue::{Phase, Queue};
use crate::shared::Shared;
use crate::stats::{CloseReport, Stats};

/// Logs messages: one call for each severity.
///
/// Cloning is cheap, and the clones share one queue and one sender; each may have a source and attributes of its own.
/// A call only puts the message into the queue: it waits for nobody, unless the queue is full and the policy is
/// [`WhenFull::Wait`](crate::WhenFull::Wait).
///
/// [`close`](Logger::close) it at the end of the program. Dropping the last clone sends what is left, too, but waits for
/// that only a moment ([`LoggerBuilder::drop_wait`]) and tells nobody what became of it. As long as the publisher is
/// unavailable after that, the sender's thread stays and publishes again.
#[derive(Clone, Debug)]
pub struct Logger {
    handle: Arc<Handle>,
    source: Source,
    attributes: Arc<Map<String, Value>>,
}

impl Logger {
    /// Begins to set up a logger.
    pub fn builder() -> LoggerBuilder {
        LoggerBuilder::default()
    }

    pub(crate) fn new(
        shared: Arc<Shared>,
        source: Source,
        attributes: Map<String, Value>,
        drop_wait: Duration,
    ) -> Self {
        Self {
            handle: Arc::new(Handle { shared, drop_wait }),
            source,
            attributes: Arc::new(attributes),
        }
    }

    /// Says something of use while looking for a fault.
    pub fn debug(&self, body: impl Into<String>) -> Entry {
        self.log(Severity::Debug, body)
    }

    /// Says something about the ordinary course of things.
    pub fn info(&self, body: impl Into<String>) -> Entry {
        self.log(Severity::Info, body)
    }

    /// Says that something is not wrong yet.
    pub fn warning(&self, body: impl Into<String>) -> Entry {
        self.log(Severity::Warning, body)
    }

    /// Says that something failed.
    pub fn error(&self, body: impl Into<String>) -> Entry {
        self.log(Severity::Error, body)
    }

    /// Says that somebody has to act now.
    pub fn critical(&self, body: impl Into<String>) -> Entry {
        self.log(Severity::Critical, body)
    }

    /// Says something of a severity that is known at run time only.
    pub fn log(&self, severity: Severity, body: impl Into<String>) -> Entry {
        Entry::new(
            &self.handle.shared,
            severity,
            &self.source,
            &self.attributes,
            body.into(),
        )
    }

    /// Returns a logger that speaks for another source, over the same queue.
    ///
    /// ```
    /// # fn shop(logger: warren_client::Logger) -> Result<(), warren_client::InvalidSource> {
    /// let billing = logger.with_source("billing.api".parse()?);
    /// billing.info("invoice sent").attribute("order", 42);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn with_source(&self, source: Source) -> Self {
        Self {
            source,
            ..self.clone()
        }
    }

    /// Returns a logger that adds an attribute to each of its messages, over the same queue.
    #[must_use]
    pub fn with_attribute(&self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        let mut attributes = Map::clone(&self.attributes);
        attributes.insert(key.into(), value.into());
        Self {
            attributes: Arc::new(attributes),
            ..self.clone()
        }
    }

    /// Returns who says the messages of this logger.
    pub const fn source(&self) -> &Source {
        &self.source
    }

    /// Waits until every message that was taken in before this call is published, or counted as failed or dropped.
    ///
    /// # Errors
    /// [`FlushTimeout`] when `timeout` is over before that; the messages stay on their way.
    pub async fn flush(&self, timeout: Duration) -> Result<(), FlushTimeout> {
        let shared = &self.handle.shared;
        let mark = shared.queue().mark();
        let flushed = shared.wait(timeout, |queue| queue.has_passed(mark)).await;
        self.flushed(flushed)
    }

    /// As [`Logger::flush`], on this thread.
    ///
    /// # Errors
    /// As [`Logger::flush`].
    pub fn flush_blocking(&self, timeout: Duration) -> Result<(), FlushTimeout> {
        let shared = &self.handle.shared;
        let mark = shared.queue().mark();
        self.flushed(shared.wait_blocking(timeout, |queue| queue.has_passed(mark)))
    }

    fn flushed(&self, flushed: bool) -> Result<(), FlushTimeout> {
        if flushed {
            return Ok(());
        }
        let stats = self.stats();
        Err(FlushTimeout {
            waiting: stats.waiting.total(),
            trouble: stats.trouble,
        })
    }

    /// Takes no more messages, publishes what it has, and ends the sender and the publisher; of every clone.
    ///
    /// What is not published when `timeout` is over is given up and counted, so that the report's numbers are final.
    /// Callers that wait for room get [`NotLogged::Closed`](crate::NotLogged::Closed). Closing again reports the same.
    pub async fn close(&self, timeout: Duration) -> CloseReport {
        let shared = &self.handle.shared;
        shared.begin_close();
        if !shared.wait(timeout, has_ended).await {
            shared.abandon();
        }
        report(shared)
    }

    /// As [`Logger::close`], on this thread.
    pub fn close_blocking(&self, timeout: Duration) -> CloseReport {
        let shared = &self.handle.shared;
        shared.begin_close();
        if !shared.wait_blocking(timeout, has_ended) {
            shared.abandon();
        }
        report(shared)
    }

    /// Returns what became of every message so far.
    pub fn stats(&self) -> Stats {
        self.handle.shared.queue().stats()
    }
}

fn has_ended(queue: &mut Queue) -> bool {
    queue.phase() == Phase::Finished
}

fn report(shared: &Shared) -> CloseReport {
    let queue = shared.queue();
    CloseReport {
        stats: queue.stats(),
        abandoned: queue.abandoned(),
    }
}

/// What ends with the last clone.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    drop_wait: Duration,
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.shared.queue().phase() != Phase::Open {
            return;
        }
        self.shared.begin_close();
        // A publisher may hold a logger by mistake, and the sender cannot wait for itself.
        if own_thread::is_marked() || self.drop_wait.is_zero() {
            return;
        }
        if !self.shared.wait_blocking(self.drop_wait, has_ended) {
            let stats = self.shared.queue().stats();
            tracing::warn!(
                messages = stats.waiting.total(),
                trouble = stats.trouble,
                "a logger was dropped before everything was published; close it to wait longer"
            );
        }
    }
}

/// Not everything was published in time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{waiting} messages are still waiting{}", reason(trouble.as_ref()))]
pub struct FlushTimeout {
    /// How many are on their way now, those logged since included.
    pub waiting: u64,
    /// Why messages are being repeated, if they are.
    pub trouble: Option<String>,
}

fn reason(trouble: Option<&String>) -> String {
    trouble.map_or_else(String::new, |trouble| format!(": {trouble}"))
}
