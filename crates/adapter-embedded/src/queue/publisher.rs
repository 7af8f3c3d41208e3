//! The way into the log.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;
use warren_domain::ports::{MessagePublisher, PublishError, Unpublished};
use warren_domain::{Message, TraceContext};

use super::packet::{Packet, pack};
use super::{Command, Publication, Queue};

/// Publishes into the log: returns once a commit with the messages is on the disk.
///
/// Waits at most `publish_timeout`. All messages of a call share one commit and one fate.
#[derive(Debug)]
pub(crate) struct Publisher(pub(crate) Arc<Queue>);

#[async_trait]
impl MessagePublisher for Publisher {
    async fn publish(&self, messages: Vec<Message>, trace: Option<TraceContext>) -> Result<(), Unpublished> {
        let count = messages.len();
        if count == 0 {
            return Ok(());
        }
        let deadline = self.0.limits.publish_timeout;
        let packets = pack(messages, trace, self.0.limits.packet);
        timeout(deadline, self.commit(packets))
            .await
            .unwrap_or_else(|_| {
                Err(PublishError::unavailable(format!(
                    "the messages were not on the disk within {} of {deadline:?}",
                    self.0.limits.section.publish_timeout()
                )))
            })
            .map_err(|error| Unpublished::all(count, &error))
    }
}

impl Publisher {
    async fn commit(&self, packets: Vec<Packet>) -> Result<(), PublishError> {
        let queue = &self.0;
        let messages = packets.iter().map(|packet| packet.messages).sum();
        let bytes = packets.iter().map(|packet| packet.lines.len()).sum();
        let pending = [
            reserve(&queue.pending_messages, messages, queue.limits.pending_messages).await?,
            reserve(&queue.pending_bytes, bytes, queue.limits.pending_bytes).await?,
        ];
        let (reply, outcome) = oneshot::channel();
        let publication = Publication {
            packets,
            bytes: bytes as u64,
            reply,
            _pending: pending,
        };
        queue
            .commands
            .send(Command::Publish(publication))
            .await
            .map_err(|_| closed())?;
        outcome.await.map_err(|_| closed())?
    }
}

/// Waits for `wanted` permits; whoever wants more than there are waits for all of them.
async fn reserve(
    permits: &Arc<Semaphore>,
    wanted: usize,
    all: u32,
) -> Result<OwnedSemaphorePermit, PublishError> {
    let wanted = u32::try_from(wanted).unwrap_or(u32::MAX).min(all);
    Arc::clone(permits)
        .acquire_many_owned(wanted)
        .await
        .map_err(|_| closed())
}

fn closed() -> PublishError {
    PublishError::unavailable("the embedded queue is closed")
}
