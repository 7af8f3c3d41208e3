//! Finds messages again, on connections of its own.
//!
//! Readers of a write-ahead log hold no writer up, but one thing: the log cannot begin anew while somebody reads what is
//! in it. So statements are short, each is a transaction of its own, and waits when the log is about to begin anew
//! ([`crate::log_gate`]). [`Searcher`] finds rows with few of them: counts first, and then a bounded number of rows with
//! each. SQLite asks every few microseconds whether to go on ([`watch`]), and does not once the time of a statement is
//! over, or the future is dropped that waits for it.
//!
//! What SQLite is asked may find more than what is meant; each message is looked at again.

mod failure;
mod reading;
mod statements;
mod steps;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sea_orm::sqlx::sqlite::{SqlitePool, SqliteRow};
use sea_orm::sqlx::{self, Row};
use warren_domain::ports::{
    Bucket, Buckets, Counts, Found, MOST_FOUND, MessageReader, ReadError, Search, Sources, StoredMessage,
    TimeRange,
};
use warren_domain::search::{Meaning, Searcher};
use warren_domain::{Message, MessageId, Severity, SeverityCounts, SeveritySet, Source, Timestamp};

use self::failure::Failure;
use self::reading::Reading;
use self::statements::Statement;
use self::steps::Steps;
use crate::config::ReaderConfig;
use crate::database::Database;
use crate::entity::message::{Model, NotAMessage};

/// Finds stored messages in `store.db`.
///
/// A call waits for a connection, at most `reader.statement_timeout`. A search then takes at most its time and three of its
/// steps ([`Searcher::find`]), anything else `reader.statement_timeout`; one second more where SQLite itself waits for the
/// disk, or for a lock, and cannot be told that the time is over. Such a read keeps its connection until it ends, so there
/// are `reader.connections` of them at most.
#[derive(Clone, Debug)]
pub struct EmbeddedReader {
    store: Arc<Database>,
    pool: SqlitePool,
    config: ReaderConfig,
    searcher: Arc<Searcher>,
}

impl EmbeddedReader {
    pub(crate) fn new(store: Arc<Database>, config: ReaderConfig) -> Self {
        let searcher = Searcher::new(config.search_time, config.statement_timeout);
        Self {
            pool: store.pool_of_readers(config.connections, config.statement_timeout),
            store,
            config,
            searcher: Arc::new(searcher),
        }
    }

    /// Stops taking calls, lets statements under way finish, and closes every connection; of clones, too.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Returns those of the messages with these ids that are stored, by ascending id.
    ///
    /// # Errors
    /// As [`MessageReader::fetch`].
    pub async fn messages(&self, ids: &[MessageId]) -> Result<Vec<StoredMessage>, ReadError> {
        let mut messages = Vec::new();
        for ids in ids.chunks(MOST_FOUND) {
            let mut reading = self.reading(self.config.statement_timeout).await?;
            let rows = reading.rows(&Statement::fetch(ids)).await;
            for row in rows.map_err(|failure| self.error(failure))? {
                messages.push(stored_message(&row).map_err(|failure| self.error(failure))?);
            }
        }
        messages.sort_unstable_by_key(|stored| stored.message.id);
        messages.dedup_by_key(|stored| stored.message.id);
        Ok(messages)
    }

    /// Takes a connection for statements that may take so long.
    async fn reading(&self, limit: Duration) -> Result<Reading, ReadError> {
        let connection = (self.pool.acquire().await).map_err(|error| match error {
            sqlx::Error::PoolTimedOut => ReadError::Unavailable {
                reason: self.busy(),
                cause: None,
            },
            other => self.error(other),
        })?;
        let reading = Reading::on(Arc::clone(&self.store), connection, limit).await;
        reading.map_err(|failure| self.error(failure))
    }

    /// Says why there was no connection in time.
    fn busy(&self) -> String {
        let (all, path) = (self.config.connections, self.store.path().display());
        let waited = self.config.statement_timeout;
        match self.store.stuck().told() {
            None => format!("all {all} connections that read {path} have been busy for {waited:?}"),
            Some((stuck, since)) => format!(
                "no connection that reads {path} was free within {waited:?}: {stuck} of {all} are stuck, since \
                 {since:.0?}; its disk hangs, or another program has locked the file"
            ),
        }
    }

    fn error(&self, failure: impl Into<Failure>) -> ReadError {
        failure.into().into_read_error(self.store.path())
    }

    /// Runs a statement whose time depends on how long a range is asked for.
    async fn count(
        &self,
        statement: &Statement,
        range: TimeRange,
        mut take: impl FnMut(SqliteRow) -> Result<(), sqlx::Error> + Send,
    ) -> Result<(), ReadError> {
        let limit = self.config.statement_timeout;
        let mut reading = self.reading(limit).await?;
        let taken = reading.each(statement, |row| {
            take(row)?;
            Ok(true)
        });
        taken.await.map_err(|failure| {
            if failure.is_slow() {
                let path = self.store.path().display();
                let reason = format!("{path} is not counted within reader.statement_timeout of {limit:?}");
                ReadError::slow_counts(range, reason)
            } else {
                self.error(failure)
            }
        })
    }
}

#[async_trait]
impl MessageReader for EmbeddedReader {
    async fn find(&self, search: &Search, limit: usize) -> Result<Found, ReadError> {
        search.check()?;
        let meaning = Meaning::of(search);
        if meaning.is_nothing() {
            return Ok(Found::default());
        }
        let mut steps = Steps {
            reading: self.reading(self.searcher.step_time()).await?,
            meaning: &meaning,
            order: search.order,
        };
        let found = self.searcher.find(search, &meaning, limit, &mut steps).await;
        found.map_err(|failure| self.error(failure))
    }

    async fn fetch(&self, id: MessageId) -> Result<Option<StoredMessage>, ReadError> {
        Ok(self.messages(&[id]).await?.pop())
    }

    async fn counts(&self, wanted: &Counts) -> Result<Vec<Bucket>, ReadError> {
        wanted.check()?;
        let mut buckets = Buckets::of(wanted);
        if wanted.selection.severities.is_empty() {
            return Ok(buckets.into_vec());
        }
        let take = |row: SqliteRow| -> Result<(), sqlx::Error> {
            // What was asked for may be more than what is meant.
            let source: String = row.try_get(2)?;
            if (source.parse()).is_ok_and(|source: Source| wanted.selection.matches_source(&source)) {
                buckets.add(row.try_get(0)?, row.try_get(1)?, row.try_get(3)?);
            }
            Ok(())
        };
        self.count(&Statement::counts(wanted), wanted.range, take).await?;
        Ok(buckets.into_vec())
    }

    async fn sources(&self, range: TimeRange, severities: SeveritySet) -> Result<Sources, ReadError> {
        let mut sources = Vec::new();
        if severities.is_empty() {
            return Ok(Sources::default());
        }
        let take = |row: SqliteRow| -> Result<(), sqlx::Error> {
            let mut counts = SeverityCounts::default();
            for (place, severity) in Severity::ALL.into_iter().enumerate() {
                counts.add(severity, row.try_get::<i64, _>(place + 1)?.unsigned_abs());
            }
            // Whatever else wrote it: no message can have it.
            if let Ok(source) = row.try_get::<String, _>(0)?.parse::<Source>() {
                sources.push((source, counts));
            }
            Ok(())
        };
        self.count(&Statement::sources(range, severities), range, take)
            .await?;
        Ok(Sources::listed(sources))
    }
}

/// Reads a row of [`statements::COLUMNS`].
fn stored_message(row: &SqliteRow) -> Result<StoredMessage, Failure> {
    let attributes: String = row.try_get(4)?;
    let stored_at = row.try_get(7)?;
    let model = Model {
        id: row.try_get(0)?,
        severity: row.try_get(1)?,
        source: row.try_get(2)?,
        body: row.try_get(3)?,
        attributes: serde_json::from_str(&attributes)
            .map_err(|_| Failure::Foreign(NotAMessage::Field("attributes")))?,
        occurred_at: row.try_get(5)?,
        received_at: row.try_get(6)?,
        stored_at,
    };
    Ok(StoredMessage {
        message: Message::try_from(model).map_err(Failure::Foreign)?,
        stored_at: Timestamp::from_unix_micros(stored_at)
            .ok_or(Failure::Foreign(NotAMessage::Field("stored_at")))?,
    })
}
