//! What a consumer group has counted.

use std::fmt;

use async_trait::async_trait;

use super::Cause;
use crate::{Message, Severity, SeverityCounts, Timestamp};

/// Keeps the count of a consumer group, so that each message counts once whatever dies in between.
///
/// A book belongs to one group. Its members on one machine share it; it survives all of them.
#[async_trait]
pub trait TallyBook: fmt::Debug + Send + Sync + 'static {
    /// Counts each message of `batch` whose identity is not among the last ones counted, and remembers them.
    ///
    /// All or nothing and durable on `Ok`; concurrent calls, also of other processes, count each identity once. How many
    /// are remembered is the adapter's documented window: one that comes again beyond it counts again. An empty
    /// batch is `Ok`. Dropping the future is safe: the batch is then counted whole or not at all.
    ///
    /// # Errors
    /// [`TallyError`]; none of the batch is counted as far as is known, and the same call may be repeated.
    async fn count(&self, batch: &[Countable]) -> Result<Counted, TallyError>;

    /// Returns everything counted so far, by this process and others.
    ///
    /// # Errors
    /// [`TallyError`].
    async fn tally(&self) -> Result<Tally, TallyError>;
}

/// What counting needs of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Countable {
    /// Who it is: its id; of a record that came under the key of a request its token, for it may come again under
    /// another id.
    pub identity: u128,
    /// What it counts as.
    pub severity: Severity,
}

impl From<&Message> for Countable {
    fn from(message: &Message) -> Self {
        Self {
            identity: message.idempotency.map_or_else(
                || message.id.as_uuid().as_u128(),
                |idempotency| u128::from_be_bytes(idempotency.token),
            ),
            severity: message.severity,
        }
    }
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Messages that counted.
    pub counted: SeverityCounts,
    /// Messages that had been counted before, or came twice in the batch.
    pub duplicates: SeverityCounts,
    /// Everything the group has counted, this batch included.
    pub tally: Tally,
}

/// What a consumer group has counted from its beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Messages, each once.
    pub counts: SeverityCounts,
    /// Messages that came again and were not counted again.
    pub duplicates: SeverityCounts,
    /// When a message of each severity was last counted, lowest severity first.
    pub last_counted: [Option<Timestamp>; 5],
}

/// The book cannot be written or read now; wait and repeat.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the counts cannot be kept now: {reason}")]
pub struct TallyError {
    /// What is the matter and what to do, for people.
    pub reason: String,
    /// The technology's error, where there is one.
    #[source]
    pub cause: Option<Cause>,
}
