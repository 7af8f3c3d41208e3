//! The module that applications log through.
//!
//! A [`Logger`] has one call for each severity. It puts the message into a bounded queue and returns; a sender on a thread
//! of its own publishes what waits, in batches, through any [`MessagePublisher`]: straight into RabbitMQ (each message to
//! the exchange of its severity, confirmed), over HTTP ([`HttpPublisher`]), or into the embedded log. The application's
//! code is the same over all three.
//!
//! ```no_run
//! use std::time::Duration;
//! use warren_client::{HttpPublisher, Logger};
//!
//! # async fn shop() -> Result<(), Box<dyn std::error::Error>> {
//! let publisher = HttpPublisher::builder("http://127.0.0.1:8080").build()?;
//! let logger = Logger::builder().source("shop").start(publisher)?;
//!
//! logger.info("shop opened");
//! logger.error("card declined").attribute("order", 42);
//!
//! let report = logger.close(Duration::from_secs(10)).await;
//! println!("{report}"); // published 2 (info 1, error 1)
//! # Ok(())
//! # }
//! ```
//!
//! # Through `tracing`
//!
//! A service that logs through `tracing` already needs three lines: a publisher, a logger, a [`WarrenLayer`].
//!
//! ```no_run
//! use tracing_subscriber::{layer::SubscriberExt, util::SubscriberInitExt};
//! use warren_client::{HttpPublisher, Logger, WarrenLayer};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let publisher = HttpPublisher::builder("http://127.0.0.1:8080").build()?;
//! let logger = Logger::builder().source("shop").start(publisher)?;
//! tracing_subscriber::registry().with(WarrenLayer::new(logger.clone())).init();
//!
//! tracing::warn!(article = "A-17", left = 3, "stock is low");
//!
//! // At the end of the program: a global subscriber is never dropped.
//! logger.close_blocking(std::time::Duration::from_secs(10));
//! # Ok(())
//! # }
//! ```
//!
//! # Straight to RabbitMQ
//!
//! A publisher with tasks of its own is made by [`start_with`](LoggerBuilder::start_with), so that they live on the
//! sender's thread and nothing that the application does can hold them up:
//!
//! ```no_run
//! use warren_adapter_amqp::{AmqpConfig, AmqpPublisher};
//! use warren_client::Logger;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = AmqpConfig::default();
//! let logger = Logger::builder()
//!     .source("shop")
//!     .start_with(|| async { AmqpPublisher::start(config) })?;
//! # Ok(())
//! # }
//! ```
//!
//! # What is promised
//!
//! - **At least once to the broker, once in the store.** The id is made at the call. What the publisher cannot say to be
//!   durable is published again under the same id, for ever, with growing random pauses; the store keeps an id once.
//! - **Bounded memory.** [`max_messages`](LoggerBuilder::max_messages) and [`max_bytes`](LoggerBuilder::max_bytes) hold for
//!   everything that waits or is being published. What happens beyond them is the application's choice: [`WhenFull`].
//! - **Exact numbers.** [`Logger::stats`] adds up at any moment, by severity: every call is accepted, dropped or rejected;
//!   everything accepted is published, failed or waiting. What counts as dropped was surely never sent.
//! - **No surprises in the caller.** Nothing panics. Nothing waits but calls on a full logger under [`WhenFull::Wait`], and
//!   these can be made from inside and outside of any runtime.
//!
//! What is not promised: order (graver messages overtake, and ids tell the order of the calls), and anything about what is
//! in memory when the process is killed.
//!
//! # Features
//!
//! Both are on by default: `http` brings [`HttpPublisher`] (reqwest, rustls on ring), `layer` brings [`WarrenLayer`].

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

/// Compiles what `docs/logging-module.md` shows.
#[cfg(all(doctest, feature = "http", feature = "layer"))]
#[doc = include_str!("../../../docs/logging-module.md")]
struct LoggingModuleGuide;
