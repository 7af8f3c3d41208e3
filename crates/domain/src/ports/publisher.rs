//! The way of a message to whoever keeps it until it is stored.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use super::Cause;
use crate::{Message, TraceContext};

/// Hands messages to a broker that takes responsibility for them.
#[async_trait]
pub trait MessagePublisher: fmt::Debug + Send + Sync + 'static {
    /// Returns once the broker has taken responsibility for every message, or has not.
    ///
    /// `Ok`: every message survives a crash of this process and of one broker node, and reaches every consumer
    /// group that exists and listens to its severity, at least once. It never waits longer than the adapter's
    /// documented deadline: a broker that hangs becomes [`PublishError::Unavailable`]. An empty `messages` is `Ok`.
    ///
    /// `trace` is the request the messages came with; it travels along and reaches [`super::Delivery::traces`].
    ///
    /// Dropping the future is safe and cancels nothing: the messages may still be published.
    ///
    /// # Errors
    /// Names each message that is not known to be durable, with the verdict; every other one is durable.
    /// After [`PublishError::Unavailable`] a message *may* have been taken: publish it again under the same id.
    async fn publish(&self, messages: Vec<Message>, trace: Option<TraceContext>) -> Result<(), Unpublished>;
}

#[async_trait]
impl<P: MessagePublisher + ?Sized> MessagePublisher for Arc<P> {
    async fn publish(&self, messages: Vec<Message>, trace: Option<TraceContext>) -> Result<(), Unpublished> {
        (**self).publish(messages, trace).await
    }
}

/// The messages of a call that are not known to be durable.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{} messages were not published", errors.len())]
pub struct Unpublished {
    /// The place of each such message in the call and what is to be done with it, by ascending place, at least one.
    pub errors: Vec<(usize, PublishError)>,
}

impl Unpublished {
    /// Says the same of every message of a call of `count`.
    pub fn all(count: usize, error: &PublishError) -> Self {
        Self {
            errors: (0..count).map(|index| (index, error.clone())).collect(),
        }
    }
}

/// Why a message was not published; each variant is a decision of the caller.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PublishError {
    /// Try again later with the same id: the broker is away, blocked, full or too slow. It may have the message.
    #[error("the broker cannot take messages now: {reason}")]
    Unavailable {
        /// What is the matter, for people.
        reason: String,
        /// The technology's error, where there is one.
        #[source]
        cause: Option<Cause>,
    },
    /// Nobody listens where the message was sent: the topology is broken, and trying again does not mend it.
    #[error("the broker has no queue for the message: {reason}")]
    Unroutable {
        /// Which exchange and key, for people.
        reason: String,
    },
    /// This message will never be taken.
    #[error("the broker refuses the message: {reason}")]
    Refused {
        /// What is wrong with it, for people.
        reason: String,
    },
}

impl PublishError {
    /// Makes [`PublishError::Unavailable`] without a technology's error behind it.
    pub fn unavailable(reason: impl Into<String>) -> Self {
        Self::Unavailable {
            reason: reason.into(),
            cause: None,
        }
    }
}
