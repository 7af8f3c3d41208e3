//! Live tails as the port for watching asks for them.

use async_trait::async_trait;
use warren_domain::ports::{LiveEvent, LiveMessages, LiveStream, Unhealthy};
use warren_domain::{Selection, SeverityCounts, SeveritySet};

use crate::config::AmqpConfig;
use crate::error::ConfigError;
use crate::status::chain;
use crate::tail::{AmqpTail, TailEvent};

/// Watches what is published, each listener with an [`AmqpTail`] of its own.
///
/// A listener that is slow to take what comes loses the oldest, and hears how many; only what RabbitMQ had to drop
/// before it could send it is not counted. What cannot be read is no message, and is left out.
#[derive(Clone, Debug)]
pub struct AmqpLive {
    config: AmqpConfig,
}

impl AmqpLive {
    /// Makes it; nothing is connected before somebody listens.
    ///
    /// # Errors
    /// [`ConfigError`] when the settings cannot be used.
    pub fn new(config: AmqpConfig) -> Result<Self, ConfigError> {
        let config = config.checked()?;
        Ok(Self { config })
    }
}

#[async_trait]
impl LiveMessages for AmqpLive {
    async fn listen(&self) -> Result<Box<dyn LiveStream>, Unhealthy> {
        let everything = Selection::of(SeveritySet::ALL);
        let tail =
            AmqpTail::start(self.config.clone(), everything).map_err(|error| Unhealthy(chain(&error)))?;
        Ok(Box::new(Listener(tail)))
    }
}

#[derive(Debug)]
struct Listener(AmqpTail);

#[async_trait]
impl LiveStream for Listener {
    async fn next(&mut self) -> Option<LiveEvent> {
        loop {
            return Some(match self.0.next().await? {
                TailEvent::Listening | TailEvent::Reconnected => LiveEvent::Listening,
                TailEvent::Message(message) => LiveEvent::Message(message),
                TailEvent::Missed { messages } => LiveEvent::Missed {
                    messages: Some(messages),
                },
                TailEvent::Overrun => LiveEvent::Missed { messages: None },
                TailEvent::Disconnected { reason } => LiveEvent::Lost { reason },
                TailEvent::Undecodable { lines, reason } => {
                    tracing::debug!(lines, reason, "a live tail leaves out what is no message");
                    continue;
                }
            });
        }
    }

    fn pass_over(&mut self) -> SeverityCounts {
        self.0.pass_over()
    }

    async fn close(self: Box<Self>) {
        self.0.close().await;
    }
}
