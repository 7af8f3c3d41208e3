//! What one process has taken and counted, and when it is done.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use warren_domain::Timestamp;
use warren_domain::ports::{Delivery, MessageConsumer, Refused, SettleError, Settlement};

/// When a process that counts is done by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Until {
    /// Once nothing has come for this long, while it could have come.
    pub idle: Option<Duration>,
    /// Once this process has counted at least so many messages. What arrived together is counted together.
    pub count: Option<u64>,
}

/// What one process has taken and counted; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Activity(Arc<watch::Sender<Progress>>);

#[derive(Clone, Copy, Debug)]
struct Progress {
    /// Messages that were delivered and are neither settled nor given back.
    held: u64,
    /// Messages that counted.
    counted: u64,
    /// When anything of this changed.
    at: Instant,
    /// Since when the process is in the group; `None` while it is not.
    consuming_since: Option<Instant>,
    /// When the newest message of the latest delivery was received.
    newest: Option<Timestamp>,
}

impl Activity {
    pub(super) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(Progress {
            held: 0,
            counted: 0,
            at: Instant::now(),
            consuming_since: None,
            newest: None,
        })))
    }

    fn change(&self, change: impl FnOnce(&mut Progress)) {
        self.0.send_modify(|progress| {
            change(progress);
            progress.at = Instant::now();
        });
    }

    pub(super) fn counted(&self, n: u64) {
        self.change(|progress| progress.counted += n);
    }

    pub(super) fn set_consuming(&self, consuming: bool) {
        self.0.send_if_modified(|progress| {
            let changes = progress.consuming_since.is_some() != consuming;
            if changes {
                progress.consuming_since = consuming.then(Instant::now);
            }
            changes
        });
    }

    /// Returns when the newest message of the latest delivery was received, by whoever wrote it.
    pub(super) fn newest(&self) -> Option<Timestamp> {
        self.0.borrow().newest
    }

    /// Waits until `until` says that it is enough; for ever if it says nothing.
    pub(super) async fn done(&self, until: Until) {
        let mut progress = self.0.subscribe();
        loop {
            let now = *progress.borrow_and_update();
            if until.count.is_some_and(|count| now.counted >= count) {
                return;
            }
            let idle_at = match (until.idle, now.consuming_since) {
                (Some(idle), Some(since)) if now.held == 0 => Some(now.at.max(since) + idle),
                _ => None,
            };
            tokio::select! {
                // The sender lives in self, so there is always another change to wait for.
                _ = progress.changed() => {}
                () = sleep_until(idle_at.unwrap_or_else(Instant::now)), if idle_at.is_some() => return,
            }
        }
    }

    /// Waits until what is held and counted leaves some of `count` to be taken.
    async fn wants_more(&self, count: Option<u64>) {
        if let Some(count) = count {
            let mut progress = self.0.subscribe();
            let wanting = progress.wait_for(|progress| progress.counted + progress.held < count);
            // The sender lives in self, so this cannot fail while self is borrowed.
            wanting.await.ok();
        }
    }
}

/// A consumer whose deliveries are watched, and that takes no more than is to be counted.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) consumer: Box<dyn MessageConsumer>,
    pub(super) activity: Activity,
    pub(super) count: Option<u64>,
}

#[async_trait]
impl MessageConsumer for Watched {
    async fn next(&mut self) -> Option<Delivery> {
        self.activity.wants_more(self.count).await;
        let delivery = self.consumer.next().await?;
        let messages = delivery.messages.len() as u64;
        let newest = delivery.messages.iter().map(|message| message.received_at).max();
        self.activity.change(|progress| {
            progress.held += messages;
            // The latest alone: one message from the future would hide every backlog behind it.
            progress.newest = newest;
        });
        let held = Held {
            activity: self.activity.clone(),
            messages,
        };
        Some(Delivery {
            settlement: Box::new(Tracked {
                settlement: delivery.settlement,
                _held: held,
            }),
            ..delivery
        })
    }

    async fn close(&mut self) {
        self.consumer.close().await;
    }
}

/// Messages that are held until this is dropped: after their settlement, or without one.
struct Held {
    activity: Activity,
    messages: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.activity.change(|progress| progress.held -= self.messages);
    }
}

struct Tracked {
    settlement: Box<dyn Settlement>,
    _held: Held,
}

impl fmt::Debug for Tracked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settlement.fmt(f)
    }
}

#[async_trait]
impl Settlement for Tracked {
    async fn settle(self: Box<Self>, refused: Vec<Refused>) -> Result<(), SettleError> {
        self.settlement.settle(refused).await
    }
}
