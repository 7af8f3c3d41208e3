//! Where messages rest.

use std::fmt;

use async_trait::async_trait;

use super::Cause;
use crate::{Message, SeverityCounts, Timestamp};

/// Stores messages so that they survive a crash of this process and of the store.
#[async_trait]
pub trait MessageStore: fmt::Debug + Send + Sync + 'static {
    /// Stores every message of `batch` that is not stored yet.
    ///
    /// All or nothing: after an error none of the batch is visible. Repeating a batch is an ordinary outcome, not an
    /// error, because the broker delivers again whenever an acknowledgement is lost; the first message stored
    /// under an id wins, also within one batch. So does the first one under a token ([`Message::idempotency`]), whatever
    /// the ids, for as long as the adapter's documented setting says; a message that is not stored leaves no trace of its
    /// token. It never waits longer than the adapter's documented
    /// timeouts. Dropping the future is safe: the batch is then stored whole or not at all.
    ///
    /// # Errors
    /// - [`StoreError::Unavailable`]: the same call may succeed later; wait and repeat it. It may have happened.
    /// - [`StoreError::Misconfigured`]: no message's fault, and no wait mends it; stop, be not ready, say so.
    /// - [`StoreError::Rejected`]: the store will never take at least one of these messages; split the batch to
    ///   find it, dead-letter it, go on.
    async fn store(&self, batch: &[Message]) -> Result<Stored, StoreError>;
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Messages that are now stored and were not before.
    pub inserted: SeverityCounts,
    /// Messages that were stored already, or came twice in the batch.
    pub duplicates: SeverityCounts,
    /// How many of the duplicates were found by their token, whatever their id.
    pub repeated: u64,
    /// How many of the messages now stored came under the key of a request that was known with other content.
    pub conflicting: u64,
}

/// Why a batch was not stored; each variant is a decision of the caller.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// Wait and repeat.
    #[error("the store cannot take messages now: {reason}")]
    Unavailable {
        /// What is the matter, for people.
        reason: String,
        /// The technology's error, where there is one.
        #[source]
        cause: Option<Cause>,
    },
    /// Stop and say so: schema, rights or name are wrong.
    #[error("the store is not set up for this program: {reason}")]
    Misconfigured {
        /// What is wrong and what to do, for people.
        reason: String,
        /// The technology's error, where there is one.
        #[source]
        cause: Option<Cause>,
    },
    /// At least one message of the batch can never be stored.
    #[error("the store refuses a message: {reason}")]
    Rejected {
        /// What is wrong, for people.
        reason: String,
        /// The technology's error, where there is one.
        #[source]
        cause: Option<Cause>,
    },
}

/// Keeps a store fit for the days to come.
#[async_trait]
pub trait StoreMaintenance: fmt::Debug + Send + Sync + 'static {
    /// Prepares room for the messages of the coming days and removes those whose time is over.
    ///
    /// Meant to be called every few minutes, by any number of processes at once; doing it twice changes nothing.
    ///
    /// # Errors
    /// As [`MessageStore::store`], without [`StoreError::Rejected`].
    async fn maintain(&self, now: Timestamp) -> Result<Maintained, StoreError>;
}

/// What a round of maintenance did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Maintained {
    /// What was prepared, by the store's own names (a partition, say).
    pub prepared: Vec<String>,
    /// What was removed, by the store's own names.
    pub removed: Vec<String>,
}
