//! The module that applications log through.

mod backoff;
mod builder;
mod entry;
#[cfg(feature = "http")]
mod http;
#[cfg(feature = "layer")]
mod layer;
mod logger;
mod own_thread;
mod queue;
mod sender;
mod shared;
mod stats;

pub use builder::{LoggerBuilder, StartError, WhenFull};
pub use entry::{Entry, NotLogged};
#[cfg(feature = "http")]
pub use http::{Compression, HttpPublisher, HttpPublisherBuilder, HttpPublisherError};
#[cfg(feature = "layer")]
pub use layer::WarrenLayer;
pub use logger::{FlushTimeout, Logger};
pub use stats::{CloseReport, Stats};
pub use warren_domain::ports::{MessagePublisher, PublishError, Unpublished};
pub use warren_domain::source::InvalidSource;
pub use warren_domain::{
    Message, MessageId, MessageLimits, Rejection, Severity, SeverityCounts, Source, Timestamp,
};
