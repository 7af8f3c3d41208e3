//! Finds messages again, over tokio-postgres, on connections of its own.
//!
//! # Why it holds no writer up
//!
//! Rows have no index that only a search would use. [`Searcher`] finds them all the same: counts first, and then a bounded
//! number of rows with each statement, through the primary key and the partitions. Statements are ended by PostgreSQL after
//! their time, a search after `reader.search_time`, whatever it has found by then. What is counted and what is looked at
//! comes from different statements, and needs no common snapshot: rows and their counts are committed together, so whatever
//! was stored before the counts were read is in both.
//!
//! # Why not through sea-orm
//!
//! A future that is dropped must end its statement in the server. That takes a cancel request, which tokio-postgres makes
//! and sqlx does not; and sqlx stalls on statements of more than a segment (see `store`), which a search with some terms
//! is. Statements are planned anew each time, with the values they are run with: then PostgreSQL knows which partitions
//! they need. Rows become messages by the entity.

mod health;
mod reading;
mod statements;
mod steps;
mod words;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;
use warren_domain::ports::{
    Bucket, Buckets, Cause, Counts, Found, MOST_FOUND, MessageReader, ReadError, Search, Sources, StoreError,
    StoredMessage, TimeRange,
};
use warren_domain::search::{Meaning, Searcher};
use warren_domain::{MessageId, Severity, SeverityCounts, SeveritySet, Source};

use self::reading::{Beginning, Reading};
use self::statements::Statement;
use self::steps::{Steps, TIMED_OUT};
use self::words::{WordIndex, Words};
use crate::config::{ConfigError, PostgresConfig, ReaderConfig, SessionLimits};
use crate::entity::message::{Model, timestamp};
use crate::error::{Failure, misconfigured};
use crate::metrics::failed;
use crate::pool::Pool;
use crate::session::{Connector, ReadSession};

/// Finds stored messages in PostgreSQL.
///
/// A call waits for a connection, at most `postgres.acquire_timeout` + `postgres.connect_timeout`. A search then takes at
/// most its time and three of its steps, as [`Searcher::find`] says, one more if the filters of words cannot be read, and four waits for a
/// lock, `postgres.lock_timeout` or half of `reader.statement_timeout` each; anything else takes `reader.statement_timeout`.
/// Where the server has gone silent it is `reader.statement_timeout` + 1 s more. It needs the right to select from
/// `warren_migrations`, `messages`, `messages_default`, `message_minutes`, `message_counts_minutes`, `message_counts_quarters`,
/// `message_count_deltas` and `message_words`, and a standby will do.
#[derive(Debug)]
pub struct PostgresReader {
    connector: Connector,
    pool: Pool<ReadSession>,
    searcher: Searcher,
    statement_timeout: Duration,
    word_index: WordIndex,
    one: Beginning,
    step: Beginning,
}

impl PostgresReader {
    /// Checks the settings and reads certificates; connects when it is first asked for something.
    ///
    /// # Errors
    /// Every setting that cannot be used.
    pub fn new(config: &PostgresConfig, reader: &ReaderConfig) -> Result<Self, ConfigError> {
        let connector = Connector::new(config)?;
        let problems = reader.problems();
        if !problems.is_empty() {
            return Err(ConfigError {
                section: "reader",
                problems,
            });
        }
        let limits = SessionLimits::reading(config, reader);
        let searcher = Searcher::new(reader.search_time, reader.statement_timeout);
        let step_time = searcher.step_time();
        Ok(Self {
            pool: Pool::new(connector.clone(), config, limits, reader.connections),
            connector,
            searcher,
            statement_timeout: reader.statement_timeout,
            word_index: WordIndex::new(config.word_index),
            one: Beginning::plain(),
            step: Beginning::of_step(step_time),
        })
    }

    /// Stops taking calls, lets those under way finish, and closes every connection.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Returns those of the messages with these ids that are stored, by ascending id.
    ///
    /// # Errors
    /// As [`MessageReader::fetch`].
    pub async fn messages(&self, ids: &[MessageId]) -> Result<Vec<StoredMessage>, ReadError> {
        // As many as a page: their bodies come in one answer.
        let mut messages = Vec::new();
        for ids in ids.chunks(MOST_FOUND) {
            let reading = self.reading().await?;
            let rows = reading.rows_after(&self.one, &Statement::fetch(ids)).await;
            reading.done(rows.as_ref().err());
            for row in rows.map_err(|failure| self.error(failure))? {
                let message = stored_message(&row, self.connector.place());
                messages.push(message.map_err(|failure| self.error(failure))?);
            }
        }
        messages.sort_unstable_by_key(|stored| stored.message.id);
        messages.dedup_by_key(|stored| stored.message.id);
        Ok(messages)
    }

    async fn reading(&self) -> Result<Reading<'_>, ReadError> {
        let lease = self.pool.acquire().await.map_err(failed_read)?;
        Ok(Reading::on(lease, &self.connector))
    }

    /// Runs one statement that reads counts.
    async fn ask(&self, statement: &Statement<'_>) -> Result<Result<Vec<Row>, Failure>, ReadError> {
        let reading = self.reading().await?;
        let outcome = reading.rows(statement).await;
        reading.done(outcome.as_ref().err());
        Ok(outcome)
    }

    /// Runs a statement whose time depends on how long a range is asked for.
    async fn count(&self, statement: &Statement<'_>, range: TimeRange) -> Result<Vec<Row>, ReadError> {
        self.ask(statement)
            .await?
            .map_err(|failure| match failure.state() {
                Some(TIMED_OUT) => {
                    let limit = self.statement_timeout;
                    let reason =
                        format!("PostgreSQL cannot count it within reader.statement_timeout of {limit:?}");
                    // In the numbers it is what it is to whoever asks for little.
                    drop(self.error(failure));
                    ReadError::slow_counts(range, reason)
                }
                _ => self.error(failure),
            })
    }

    fn error(&self, failure: Failure) -> ReadError {
        failed_read(failure.into_store_error(self.connector.place()))
    }
}

#[async_trait]
impl MessageReader for PostgresReader {
    async fn find(&self, search: &Search, limit: usize) -> Result<Found, ReadError> {
        search.check()?;
        let meaning = Meaning::of(search);
        if meaning.is_nothing() {
            return Ok(Found::default());
        }
        let reading = self.reading().await?;
        let mut steps = Steps {
            reading: &reading,
            beginning: &self.step,
            meaning: &meaning,
            words: Words::of(&meaning, &self.word_index),
            order: search.order,
            place: self.connector.place(),
        };
        let found = self.searcher.find(search, &meaning, limit, &mut steps).await;
        reading.done(found.as_ref().err());
        found.map_err(|failure| self.error(failure))
    }

    async fn fetch(&self, id: MessageId) -> Result<Option<StoredMessage>, ReadError> {
        Ok(self.messages(&[id]).await?.pop())
    }

    async fn counts(&self, wanted: &Counts) -> Result<Vec<Bucket>, ReadError> {
        wanted.check()?;
        let mut buckets = Buckets::of(wanted);
        for row in self.count(&Statement::counts(wanted), wanted.range).await? {
            buckets.add(column(&row, 0)?, column(&row, 1)?, column(&row, 2)?);
        }
        Ok(buckets.into_vec())
    }

    async fn sources(&self, range: TimeRange, severities: SeveritySet) -> Result<Sources, ReadError> {
        if severities.is_empty() {
            return Ok(Sources::default());
        }
        let mut sources = Vec::new();
        for row in self.count(&Statement::sources(range, severities), range).await? {
            let mut counts = SeverityCounts::default();
            for (place, severity) in Severity::ALL.into_iter().enumerate() {
                let count: i64 = column(&row, place + 1)?;
                counts.add(severity, count.unsigned_abs());
            }
            // Whatever else wrote it: no message can have it.
            if let Ok(source) = column::<String>(&row, 0)?.parse::<Source>() {
                sources.push((source, counts));
            }
        }
        Ok(Sources::listed(sources))
    }
}

/// Reads a column of a row that was summed up.
fn column<'r, T: FromSql<'r>>(row: &'r Row, place: usize) -> Result<T, ReadError> {
    row.try_get(place).map_err(|error| ReadError::Misconfigured {
        reason: "PostgreSQL counts otherwise than Warren asks it to".to_owned(),
        cause: Some(Arc::new(error)),
    })
}

/// Reads a row of [`statements::COLUMNS`].
fn stored_message(row: &Row, place: &str) -> Result<StoredMessage, Failure> {
    let foreign = |cause: Option<Cause>| misconfigured(place, "a row of messages is not Warren's", cause);
    let read = |row: &Row| -> Result<Model, tokio_postgres::Error> {
        Ok(Model {
            id: row.try_get(0)?,
            severity: row.try_get(1)?,
            source: row.try_get(2)?,
            body: row.try_get(3)?,
            attributes: row.try_get(4)?,
            occurred_at: row.try_get(5)?,
            received_at: row.try_get(6)?,
            stored_at: row.try_get(7)?,
        })
    };
    let model = read(row).map_err(|error| foreign(Some(Arc::new(error))))?;
    Ok(StoredMessage {
        stored_at: timestamp(model.stored_at).ok_or_else(|| foreign(None))?,
        message: (model.into_message()).map_err(|error| foreign(Some(Arc::new(error))))?,
    })
}

/// Counts a failed call, and says what it means to whoever reads.
fn failed_read(error: StoreError) -> ReadError {
    read_error(failed(error))
}

fn read_error(error: StoreError) -> ReadError {
    match error {
        StoreError::Unavailable { reason, cause } => ReadError::Unavailable { reason, cause },
        // Values that are no message's: of this program's own statements.
        StoreError::Misconfigured { reason, cause } | StoreError::Rejected { reason, cause } => {
            ReadError::Misconfigured { reason, cause }
        }
    }
}
