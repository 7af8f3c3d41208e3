//! How far a consumer group is behind.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::oneshot;
use tokio::time::timeout;
use warren_domain::Timestamp;
use warren_domain::ports::{GroupLag, Lag, Unacknowledged, Unhealthy};

use super::{Command, Queue};
use crate::error::chain;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Tells how far a group is behind.
pub(crate) struct QueueLag {
    pub(crate) queue: Arc<Queue>,
    pub(crate) group: String,
}

impl fmt::Debug for QueueLag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueLag")
            .field("group", &self.group)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl GroupLag for QueueLag {
    async fn lag(&self) -> Result<Lag, Unhealthy> {
        timeout(PATIENCE, self.ask()).await.unwrap_or_else(|_| {
            Err(Unhealthy(format!(
                "the queue did not say within {PATIENCE:?} what waits for the group"
            )))
        })
    }
}

impl QueueLag {
    async fn ask(&self) -> Result<Lag, Unhealthy> {
        let closed = || Unhealthy("the embedded queue is closed".to_owned());
        let (reply, group) = oneshot::channel();
        let name = self.group.clone();
        let command = Command::Find { name, reply };
        self.queue.commands.send(command).await.map_err(|_| closed())?;
        let group = group.await.map_err(|_| closed())?.ok_or_else(|| {
            let name = &self.group;
            Unhealthy(format!("no consumer has begun in the group {name} yet"))
        })?;
        let head = *self.queue.head.borrow();
        let (waiting, out) = group.waiting_and_out(&head);
        let oldest = group.oldest(self.queue.database.read_pool(), &head).await;
        let oldest = oldest.map_err(|error| Unhealthy(chain(&error)))?;
        // Which messages of a row a pattern selects shows only when the row is opened.
        let exact = |messages| group.selection().sources.is_empty().then_some(messages);
        Ok(Lag {
            packets: waiting.packets,
            messages: exact(waiting.messages),
            oldest: oldest.and_then(Timestamp::from_unix_micros),
            unacknowledged: Unacknowledged {
                packets: out.packets,
                messages: exact(out.messages),
            },
        })
    }
}
