//! Stored messages in memory, found as a test tells.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use warren_domain::ports::{
    Bucket, Counts, Found, MOST_FOUND, MOST_FOUND_BYTES, MOST_SOURCES, MessageReader, MessageStore, Order,
    Place, ReadError, Search, Sources, StoreError, Stored, StoredMessage, TimeRange,
};
use warren_domain::{Message, MessageId, SeverityCounts, SeveritySet, Source, Timestamp};

use crate::calls::{Calls, UnderWay};

/// Stores and finds messages in memory; passes the suite of the reader's port when nothing fails or is held.
///
/// Clones share everything but their haste.
#[derive(Clone, Debug)]
pub struct ScriptedReader {
    shared: Arc<Shared>,
    /// How many messages a search looks at before it ends.
    haste: usize,
}

#[derive(Debug, Default)]
struct Shared {
    rows: Mutex<BTreeMap<MessageId, StoredMessage>>,
    failures: Mutex<VecDeque<ReadError>>,
    calls: Calls,
}

impl Default for ScriptedReader {
    fn default() -> Self {
        Self {
            shared: Arc::default(),
            haste: usize::MAX,
        }
    }
}

impl ScriptedReader {
    /// Makes a store with nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns one over the same messages whose searches end once they have looked at so many.
    #[must_use]
    pub fn hasty(&self, haste: usize) -> Self {
        Self {
            haste,
            ..self.clone()
        }
    }

    /// Lets the next calls fail, one with each of these.
    pub fn fail(&self, failures: impl IntoIterator<Item = ReadError>) {
        lock(&self.shared.failures).extend(failures);
    }

    /// Lets calls wait from now on, or lets them go on.
    pub fn hold(&self, held: bool) {
        self.shared.calls.hold(held);
    }

    /// Waits until exactly so many calls are under way.
    pub async fn is_read_by(&self, calls: usize) {
        self.shared.calls.are(calls).await;
    }

    async fn begin(&self) -> Result<UnderWay<'_>, ReadError> {
        let under_way = self.shared.calls.begin().await;
        match lock(&self.shared.failures).pop_front() {
            None => Ok(under_way),
            Some(failure) => Err(failure),
        }
    }

    fn rows(&self) -> MutexGuard<'_, BTreeMap<MessageId, StoredMessage>> {
        lock(&self.shared.rows)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn minute(message: &Message) -> i64 {
    message.id.timestamp().unix_micros() / 60_000_000
}

fn lies_ahead(search: &Search, id: MessageId) -> bool {
    let place = Place::behind(id);
    search.from.is_none_or(|from| match search.order {
        Order::NewestFirst => place < from,
        Order::OldestFirst => place > from,
    })
}

#[async_trait]
impl MessageReader for ScriptedReader {
    async fn find(&self, search: &Search, limit: usize) -> Result<Found, ReadError> {
        let _under_way = self.begin().await?;
        search.check()?;
        let limit = limit.clamp(1, MOST_FOUND);
        let rows = self.rows();
        let mut ahead: Vec<_> = rows
            .values()
            .filter(|row| lies_ahead(search, row.message.id))
            .collect();
        if search.order == Order::NewestFirst {
            ahead.reverse();
        }
        let (mut found, mut bytes) = (Found::default(), 0);
        let mut reached = None;
        for (looked_at, row) in ahead.into_iter().enumerate() {
            if looked_at == self.haste || found.messages.len() == limit || bytes >= MOST_FOUND_BYTES {
                found.next = reached;
                break;
            }
            reached = Some(Place::behind(row.message.id));
            if search.means(&row.message) {
                bytes += row.bytes();
                found.messages.push(row.clone());
            }
        }
        Ok(found)
    }

    async fn fetch(&self, id: MessageId) -> Result<Option<StoredMessage>, ReadError> {
        let _under_way = self.begin().await?;
        Ok(self.rows().get(&id).cloned())
    }

    async fn counts(&self, wanted: &Counts) -> Result<Vec<Bucket>, ReadError> {
        let _under_way = self.begin().await?;
        wanted.check()?;
        let (minutes, width) = (wanted.range.minutes(), i64::from(wanted.minutes.get()));
        let mut buckets: BTreeMap<i64, SeverityCounts> = BTreeMap::new();
        for message in self.rows().values().map(|row| &row.message) {
            if minutes.contains(&minute(message)) && wanted.selection.matches(message) {
                let counts = buckets.entry(minute(message) / width).or_default();
                counts.add(message.severity, 1);
            }
        }
        let bucket = |(bucket, counts): (i64, SeverityCounts)| Bucket {
            start: Timestamp::from_unix_micros(bucket * width * 60_000_000).unwrap_or(Timestamp::MAX),
            counts,
        };
        Ok(buckets.into_iter().map(bucket).collect())
    }

    async fn sources(&self, range: TimeRange, severities: SeveritySet) -> Result<Sources, ReadError> {
        let _under_way = self.begin().await?;
        let mut sources: BTreeMap<Source, SeverityCounts> = BTreeMap::new();
        for message in self.rows().values().map(|row| &row.message) {
            if range.minutes().contains(&minute(message)) && severities.contains(message.severity) {
                let counts = sources.entry(message.source.clone()).or_default();
                counts.add(message.severity, 1);
            }
        }
        let more = sources.len() > MOST_SOURCES;
        Ok(Sources {
            sources: sources.into_iter().take(MOST_SOURCES).collect(),
            more,
        })
    }
}

#[async_trait]
impl MessageStore for ScriptedReader {
    async fn store(&self, batch: &[Message]) -> Result<Stored, StoreError> {
        let mut stored = Stored::default();
        let mut rows = self.rows();
        for message in batch {
            if rows.contains_key(&message.id) {
                stored.duplicates.add(message.severity, 1);
                continue;
            }
            stored.inserted.add(message.severity, 1);
            let row = StoredMessage {
                message: message.clone(),
                stored_at: Timestamp::now(),
            };
            rows.insert(message.id, row);
        }
        Ok(stored)
    }
}
