//! What Warren needs of the world, each need a trait whose documentation is its contract.
//!
//! A type is an adapter when it passes the port's suite in `adapter-conformance`, not when it compiles.

mod buckets;
mod consumer;
mod dead_letters;
mod health;
mod live;
mod publisher;
mod reader;
mod store;
mod tally;

pub use buckets::Buckets;
pub use consumer::{
    ConsumerGroup, DeadLetterReason, Delivery, GroupLag, GroupName, GroupQueue, GroupQueues,
    InvalidGroupName, Lag, MessageConsumer, NamedGroup, Refused, SettleError, Settlement, StartAt,
    Unacknowledged,
};
pub use dead_letters::{
    DeadDelivery, DeadLetter, DeadLetterConsumer, DeadLetterCounts, DeadLetterFilter, DeadLetterId,
    DeadLetterPlace, DeadLetters, DeadLettersError, DeadSettlement, Death, InvalidDeadLetterId,
    InvalidDeadLetterPlace, InvalidRevision, InvalidSourceBranch, KeptLetter, LetterFacts, LetterText,
    MOST_LISTED, Revision, SourceBranch,
};
pub use health::{HealthCheck, Unhealthy};
pub use live::{LiveEvent, LiveMessages, LiveStream};
pub use publisher::{MessagePublisher, PublishError, Unpublished};
pub use reader::{
    Bucket, Counts, Found, InvalidPlace, InvalidTimeRange, MOST_BUCKETS, MOST_FOUND, MOST_FOUND_BYTES,
    MOST_PATTERNS, MOST_SOURCES, MessageReader, Order, Place, ReadError, Search, Sources, StoredMessage,
    TimeRange,
};
pub use store::{Maintained, MessageStore, StoreError, StoreMaintenance, Stored};
pub use tally::{Countable, Counted, Tally, TallyBook, TallyError};

use std::error::Error;
use std::sync::Arc;

/// The technology's own error, kept as the source of a port's error.
///
/// Shared, because one lost connection is the cause of many messages' failures.
pub type Cause = Arc<dyn Error + Send + Sync>;
