//! What Warren needs of the world, each need a trait whose documentation is its contract.
//!
//! A type is an adapter when it passes the port's suite in `adapter-conformance`, not when it compiles.

mod consumer;
mod health;
mod publisher;
mod store;

pub use consumer::{
    ConsumerGroup, DeadLetterReason, Delivery, GroupName, InvalidGroupName, MessageConsumer, Refused,
    SettleError, Settlement,
};
pub use health::{HealthCheck, Unhealthy};
pub use publisher::{MessagePublisher, PublishError, Unpublished};
pub use store::{Maintained, MessageStore, StoreError, StoreMaintenance, Stored};

use std::error::Error;
use std::sync::Arc;

/// The technology's own error, kept as the source of a port's error.
///
/// Shared, because one lost connection is the cause of many messages' failures.
pub type Cause = Arc<dyn Error + Send + Sync>;
