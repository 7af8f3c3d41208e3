//! Where what is published now can be watched.

use std::fmt;

use async_trait::async_trait;

use super::Unhealthy;
use crate::{Message, SeverityCounts};

/// Lets somebody watch what is published, without taking it from anybody.
#[async_trait]
pub trait LiveMessages: fmt::Debug + Send + Sync + 'static {
    /// Begins to listen to every message, whatever its severity and source.
    ///
    /// Each call listens for itself. Nobody who publishes, stores or counts waits for a listener, however slow it is.
    ///
    /// # Errors
    /// It cannot begin now; the reason is for people. The same call may succeed later.
    async fn listen(&self) -> Result<Box<dyn LiveStream>, Unhealthy>;
}

/// What one listener hears.
#[async_trait]
pub trait LiveStream: fmt::Debug + Send + 'static {
    /// Waits for what is next. Cancel safe. `None`: it has ended and says nothing more.
    async fn next(&mut self) -> Option<LiveEvent>;

    /// Passes over the messages that have come here and were not taken, without reading them. What else there is to say is
    /// still said, also what happened between them. Returns how many they were, by the severities that they were published
    /// under: exactly, as long as every line that was published is a message.
    ///
    /// For one that cannot take all of them: it costs far less than taking them.
    fn pass_over(&mut self) -> SeverityCounts;

    /// Ends it in order; waits a few seconds at most. Dropping it does the same without waiting.
    async fn close(self: Box<Self>);
}

/// What a [`LiveStream`] has to say, in the order in which it happened.
#[derive(Clone, Debug, PartialEq)]
pub enum LiveEvent {
    /// It listens: every message whose publication is confirmed from now on comes, or is said to be missed. Comes first,
    /// and again after [`LiveEvent::Lost`]; what was published between the two is not known, nor whether anything was.
    Listening,
    /// A message. One that is published again comes again.
    Message(Box<Message>),
    /// Messages that were published here are missing, because nobody took them in time.
    Missed {
        /// Exactly how many, by the severities that they were published under; `None`: not known.
        messages: Option<SeverityCounts>,
    },
    /// It does not listen, or no more; it tries again by itself.
    Lost {
        /// Why, for people.
        reason: String,
    },
}
