//! What is committed, handed on in memory to whoever watches.
//!
//! Not read back from the log: the log drops what every group has passed, so whoever follows it would have to hold that
//! up, or miss what the store was faster to take. A feed costs the writer a copy of the lines, and only while somebody
//! watches.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use warren_domain::ports::{LiveEvent, LiveMessages, LiveStream, Unhealthy};
use warren_domain::{Message, Severity, SeverityCounts};

use super::packet::Packet;
use super::{Command, Queue, STORE_GROUP};
use crate::sync::lock;

/// How many bytes of lines wait for a listener, beyond the last packet.
const MOST_BYTES: usize = 16 << 20;
/// How long the writer may take to notice a listener: longer than any commit that ends well.
const PATIENCE: Duration = Duration::from_secs(5);

/// The lines of one row.
#[derive(Debug)]
struct News {
    severity: Severity,
    messages: u64,
    lines: Vec<u8>,
}

/// Everybody who watches.
#[derive(Debug, Default)]
pub(crate) struct Feeds(Mutex<Vec<Weak<Feed>>>);

/// What waits for one who watches.
#[derive(Debug, Default)]
struct Feed {
    waiting: Mutex<Waiting>,
    more: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    news: VecDeque<Arc<News>>,
    bytes: usize,
    /// Messages dropped from the front.
    missed: SeverityCounts,
}

/// What is about to be committed, for those who watch.
#[derive(Debug, Default)]
pub(super) struct Fresh(Vec<Arc<News>>);

impl Feeds {
    /// Copies rows that are about to be written, if anybody watches.
    pub(super) fn news(&self, rows: &[Packet]) -> Fresh {
        let mut feeds = lock(&self.0);
        feeds.retain(|feed| feed.strong_count() > 0);
        if feeds.is_empty() {
            return Fresh::default();
        }
        let news = |row: &Packet| {
            Arc::new(News {
                severity: row.severity,
                messages: row.messages as u64,
                lines: row.lines.clone(),
            })
        };
        Fresh(rows.iter().map(news).collect())
    }

    /// Hands on what is committed.
    pub(super) fn spread(&self, Fresh(news): Fresh) {
        if news.is_empty() {
            return;
        }
        for feed in lock(&self.0).iter().filter_map(Weak::upgrade) {
            lock(&feed.waiting).push(&news);
            feed.more.notify_one();
        }
    }

    fn join(&self) -> Arc<Feed> {
        let feed = Arc::new(Feed::default());
        lock(&self.0).push(Arc::downgrade(&feed));
        feed
    }
}

impl Waiting {
    fn push(&mut self, news: &[Arc<News>]) {
        self.bytes += news.iter().map(|news| news.lines.len()).sum::<usize>();
        self.news.extend(news.iter().cloned());
        while self.bytes > MOST_BYTES
            && self.news.len() > 1
            && let Some(dropped) = self.news.pop_front()
        {
            self.bytes -= dropped.lines.len();
            self.missed.add(dropped.severity, dropped.messages);
        }
    }

    fn pop(&mut self) -> Option<Arc<News>> {
        let news = self.news.pop_front()?;
        self.bytes -= news.lines.len();
        Some(news)
    }

    /// Drops everything; returns how many messages that were, those included that were dropped before.
    fn pass_over(&mut self) -> SeverityCounts {
        let mut passed = std::mem::take(&mut self.missed);
        for news in self.news.drain(..) {
            passed.add(news.severity, news.messages);
        }
        self.bytes = 0;
        passed
    }
}

/// Lets somebody watch what is committed to the log.
pub(crate) struct QueueLive(pub(crate) Arc<Queue>);

impl fmt::Debug for QueueLive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueLive").finish_non_exhaustive()
    }
}

#[async_trait]
impl LiveMessages for QueueLive {
    async fn listen(&self) -> Result<Box<dyn LiveStream>, Unhealthy> {
        let feed = self.0.feeds.join();
        // A commit that was under way when the feed began is not copied for it. Commands are answered between commits, so
        // whatever is confirmed after this answer is.
        let (reply, noticed) = oneshot::channel();
        let name = STORE_GROUP.to_owned();
        let asking = async {
            let asked = self.0.commands.send(Command::Find { name, reply }).await;
            asked.is_ok() && noticed.await.is_ok()
        };
        match timeout(PATIENCE, asking).await {
            Ok(true) => {}
            Ok(false) => return Err(Unhealthy("the embedded queue is closed".to_owned())),
            Err(_) => {
                return Err(Unhealthy(format!(
                    "the embedded queue has committed nothing for {PATIENCE:?}"
                )));
            }
        }
        Ok(Box::new(Listener {
            feed,
            ready: VecDeque::from([LiveEvent::Listening]),
            closed: self.0.closing.clone(),
        }))
    }
}

struct Listener {
    feed: Arc<Feed>,
    /// What was taken from the feed and is still to be said.
    ready: VecDeque<LiveEvent>,
    closed: CancellationToken,
}

impl Listener {
    /// Takes what waits; tells whether there was anything.
    fn take(&mut self) -> bool {
        let (missed, news) = {
            let mut waiting = lock(&self.feed.waiting);
            (std::mem::take(&mut waiting.missed), waiting.pop())
        };
        self.missed(missed);
        let Some(news) = news else {
            return missed.total() > 0;
        };
        let mut unreadable = SeverityCounts::default();
        for line in news.lines.split_inclusive(|byte| *byte == b'\n') {
            match Message::from_json(line) {
                Ok(message) => self.ready.push_back(LiveEvent::Message(Box::new(message))),
                // Lines that this program has written; nothing else is known to write any.
                Err(_) => unreadable.add(news.severity, 1),
            }
        }
        self.missed(unreadable);
        true
    }

    fn missed(&mut self, messages: SeverityCounts) {
        if messages.total() > 0 {
            self.ready.push_back(LiveEvent::Missed {
                messages: Some(messages),
            });
        }
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("ready", &self.ready.len())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl LiveStream for Listener {
    async fn next(&mut self) -> Option<LiveEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.take() {
                continue;
            }
            // News since the look leave their permit.
            tokio::select! {
                biased;
                () = self.closed.cancelled() => return None,
                () = self.feed.more.notified() => {}
            }
        }
    }

    fn pass_over(&mut self) -> SeverityCounts {
        let mut passed = lock(&self.feed.waiting).pass_over();
        self.ready.retain(|event| match event {
            LiveEvent::Message(message) => {
                passed.add(message.severity, 1);
                false
            }
            _ => true,
        });
        passed
    }

    async fn close(self: Box<Self>) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn news(messages: u64, bytes: usize) -> Arc<News> {
        Arc::new(News {
            severity: Severity::Warning,
            messages,
            lines: vec![b'x'; bytes],
        })
    }

    #[test]
    fn what_nobody_takes_is_dropped_from_the_front_and_counted() {
        let mut waiting = Waiting::default();
        let missed = |waiting: &Waiting| waiting.missed.get(Severity::Warning);
        waiting.push(&[news(1, MOST_BYTES / 2), news(2, MOST_BYTES / 2)]);
        assert_eq!((missed(&waiting), waiting.news.len()), (0, 2));
        waiting.push(&[news(4, 1)]);
        assert_eq!((missed(&waiting), waiting.news.len()), (1, 2));
        // The last is kept, whatever its size.
        waiting.push(&[news(8, MOST_BYTES + 1)]);
        assert_eq!((missed(&waiting), waiting.news.len()), (7, 1));
        waiting.push(&[news(16, 1)]);
        assert_eq!(waiting.pop().map(|news| news.messages), Some(16));
        waiting.push(&[news(32, 1)]);
        let passed = waiting.pass_over();
        assert_eq!((passed.get(Severity::Warning), passed.total()), (47, 47));
        assert_eq!((waiting.bytes, waiting.news.len()), (0, 0));
    }
}
