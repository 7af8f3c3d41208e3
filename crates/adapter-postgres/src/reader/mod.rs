//! Finds messages again, over tokio-postgres, on connections of its own.
//!
//! # Why it holds no writer up
//!
//! Rows have no index that only a search would use. [`Walk`] says how they are found all the same: counts first, and then
//! a bounded number of rows with each statement, through the primary key and the partitions. Statements are ended by
//! PostgreSQL after `reader.statement_timeout`, a search after `reader.search_time`, whatever it has found by then. What is
//! counted and what is looked at comes from different statements, and needs no common snapshot: rows and their counts are
//! committed together, so whatever was stored before the counts were read is in both.
//!
//! # Why not through sea-orm
//!
//! A future that is dropped must end its statement in the server. That takes a cancel request, which tokio-postgres makes
//! and sqlx does not; and sqlx stalls on statements of more than a segment (see `store`), which a search with some terms
//! is. Statements are planned anew each time, with the values they are run with: then PostgreSQL knows which partitions
//! they need. Rows become messages by the entity.

mod statements;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tokio_postgres::{NoTls, Row};
use tokio_postgres_rustls::MakeRustlsConnect;
use warren_domain::ports::{
    Bucket, Cause, Counts, Found, MOST_FOUND, MOST_FOUND_BYTES, MOST_SOURCES, MessageReader, ReadError,
    Search, Sources, StoreError, StoredMessage, TimeRange,
};
use warren_domain::search::{Meaning, MinuteCount, Step, Walk};
use warren_domain::{MessageId, Severity, SeverityCounts, SeveritySet, Source, Timestamp};

use self::statements::Statement;
use crate::config::{ConfigError, PostgresConfig, ReaderConfig, SessionLimits};
use crate::entity::message::{Model, timestamp};
use crate::error::{Failure, misconfigured};
use crate::pool::{Lease, Pool, Pooled};
use crate::session::{Connector, ReadSession};

/// How long ending a statement that nobody waits for may take.
const CANCEL: Duration = Duration::from_secs(2);

/// PostgreSQL ended the statement: its time was over.
const TIMED_OUT: &str = "57014";

/// Finds stored messages in PostgreSQL.
///
/// A call takes at most `postgres.acquire_timeout` + `postgres.connect_timeout` + `reader.search_time` +
/// `reader.statement_timeout` + 1 s. It needs the right to select from `warren_migrations`, `messages`,
/// `message_counts_folded`, `message_counts_quarters` and `message_count_deltas`, and a standby will do.
#[derive(Debug)]
pub struct PostgresReader {
    connector: Connector,
    pool: Pool<ReadSession>,
    search_time: Duration,
    statement_timeout: Duration,
    /// How often searches have to begin with smaller steps, because others were not done in time.
    slowness: AtomicU32,
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
        Ok(Self {
            pool: Pool::new(connector.clone(), config, limits, reader.connections),
            connector,
            search_time: reader.search_time,
            statement_timeout: reader.statement_timeout,
            slowness: AtomicU32::new(0),
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
            for row in self.ask(&Statement::fetch(ids)).await? {
                messages.push(self.message(&row).map_err(read_error)?);
            }
        }
        messages.sort_unstable_by_key(|stored| stored.message.id);
        messages.dedup_by_key(|stored| stored.message.id);
        Ok(messages)
    }

    async fn reading(&self) -> Result<Reading<'_>, ReadError> {
        let lease = self.pool.acquire().await.map_err(read_error)?;
        Ok(Reading {
            lease: Some(lease),
            connector: &self.connector,
        })
    }

    /// Runs one statement on a connection of its own.
    async fn ask(&self, statement: &Statement<'_>) -> Result<Vec<Row>, ReadError> {
        let reading = self.reading().await?;
        let outcome = reading.rows(statement).await;
        reading.done(outcome.as_ref().err());
        outcome.map_err(|failure| self.error(failure))
    }

    /// Runs a statement whose time depends on how much was asked for.
    async fn count(&self, statement: &Statement<'_>) -> Result<Vec<Row>, ReadError> {
        let reading = self.reading().await?;
        let outcome = reading.rows(statement).await;
        reading.done(outcome.as_ref().err());
        outcome.map_err(|failure| match failure.state() {
            Some(TIMED_OUT) => ReadError::TooMuch {
                reason: format!(
                    "PostgreSQL cannot count it within reader.statement_timeout of {:?}; ask for less time",
                    self.statement_timeout
                ),
            },
            _ => self.error(failure),
        })
    }

    fn error(&self, failure: Failure) -> ReadError {
        read_error(failure.into_store_error(self.connector.place()))
    }

    /// Reads a row of [`statements::COLUMNS`].
    fn message(&self, row: &Row) -> Result<StoredMessage, StoreError> {
        let foreign = |cause: Option<Cause>| {
            misconfigured(self.connector.place(), "a row of messages is not Warren's", cause)
        };
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

    /// Does one step of a search.
    async fn step(&self, reading: &Reading<'_>, walk: &mut Walk, page: &mut Page<'_>) -> Result<(), Failure> {
        let began = Instant::now();
        let order = page.search.order;
        match walk.next() {
            Step::End => {}
            Step::Count { minutes, most } => {
                let leaping = std::mem::replace(&mut page.leaping, true);
                let counting = Statement::walk_counts(page.meaning, order, &minutes, most, leaping);
                let (mut counts, mut through) = (Vec::new(), None);
                for row in reading.rows(&counting).await? {
                    let (minute, stored, meant): (i64, i64, i64) =
                        (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
                    through = row.try_get(3)?;
                    if meant > 0 {
                        counts.push(MinuteCount {
                            minute,
                            stored: stored.unsigned_abs(),
                            meant: meant.unsigned_abs(),
                        });
                    }
                }
                walk.counted(counts, through);
            }
            Step::Look {
                mut ids,
                most,
                passing,
            } => {
                if let Some(passing) = passing
                    && let [row] = &reading.rows(&Statement::edge(ids, order, passing)).await?[..]
                {
                    ids = ids.through(order, row.try_get(0)?);
                }
                let most_bytes = MOST_FOUND_BYTES.saturating_sub(page.bytes);
                let looking = Statement::look(page.meaning, ids, order, most, most_bytes);
                let rows = reading.rows(&looking).await?;
                let looked = began.elapsed();
                let full = rows.len() == most;
                let (mut last, mut bytes, before) = (None, 0, page.found.messages.len());
                for row in &rows {
                    last = Some(row.try_get(0)?);
                    bytes = usize::try_from(row.try_get::<_, i64>(8)?).unwrap_or(usize::MAX);
                    let stored = self.message(row)?;
                    if page.search.means(&stored.message) {
                        page.found.messages.push(stored);
                    }
                }
                let cut = full || bytes >= most_bytes;
                page.bytes = page.bytes.saturating_add(bytes);
                let found = page.found.messages.len() - before;
                walk.looked(ids, found, last.filter(|_| cut), looked);
            }
        }
        Ok(())
    }

    /// Plans smaller steps for searches that come later, or larger ones again.
    fn learn(&self, timed_out: bool) {
        // Each is an eighth of the one before.
        const MOST: u32 = 6;
        let before = self.slowness.load(Ordering::Relaxed);
        let now = if timed_out {
            (before + 1).min(MOST)
        } else {
            before.saturating_sub(1)
        };
        self.slowness.store(now, Ordering::Relaxed);
    }
}

/// What a search is about, and what it has found.
#[derive(Debug)]
struct Page<'s> {
    search: &'s Search,
    meaning: &'s Meaning<'s>,
    found: Found,
    /// How long the bodies are.
    bytes: usize,
    /// Whether what is nearest was counted and was not enough.
    leaping: bool,
}

#[async_trait]
impl MessageReader for PostgresReader {
    async fn find(&self, search: &Search, limit: usize) -> Result<Found, ReadError> {
        search.check()?;
        let meaning = Meaning::of(search);
        let mut walk = Walk::new(&meaning, search.order, limit.clamp(1, MOST_FOUND));
        let mut page = Page {
            search,
            meaning: &meaning,
            found: Found::default(),
            bytes: 0,
            leaping: false,
        };
        for _ in 0..self.slowness.load(Ordering::Relaxed) {
            walk.slow_down();
        }
        let mut timed_out = false;
        if walk.next() != Step::End {
            let reading = self.reading().await?;
            let deadline = Instant::now() + self.search_time;
            while walk.next() != Step::End && page.bytes < MOST_FOUND_BYTES {
                let is_late = || Instant::now() >= deadline;
                match self.step(&reading, &mut walk, &mut page).await {
                    Ok(()) if is_late() && walk.has_moved() => break,
                    Ok(()) => {}
                    Err(failure) => {
                        let slow = failure.state() == Some(TIMED_OUT);
                        timed_out |= slow;
                        if slow && !is_late() && walk.slow_down() {
                            continue;
                        }
                        if slow && walk.has_moved() {
                            break;
                        }
                        if slow {
                            self.learn(true);
                        }
                        reading.done(Some(&failure));
                        return Err(self.error(failure));
                    }
                }
            }
            reading.done(None);
            self.learn(timed_out);
        }
        page.found.next = walk.place();
        Ok(page.found)
    }

    async fn fetch(&self, id: MessageId) -> Result<Option<StoredMessage>, ReadError> {
        Ok(self.messages(&[id]).await?.pop())
    }

    async fn counts(&self, wanted: &Counts) -> Result<Vec<Bucket>, ReadError> {
        wanted.check()?;
        let mut buckets: Vec<Bucket> = Vec::new();
        for row in self.count(&Statement::counts(wanted)).await? {
            let (bucket, severity, count) = (column(&row, 0)?, column(&row, 1)?, column(&row, 2)?);
            let start = Timestamp::from_unix_micros(bucket * i64::from(wanted.minutes.get()) * 60_000_000);
            let (Some(start), Some(severity)) = (start, severity_of(severity)) else {
                continue;
            };
            if buckets.last().is_none_or(|last| last.start != start) {
                let counts = SeverityCounts::default();
                buckets.push(Bucket { start, counts });
            }
            if let Some(last) = buckets.last_mut() {
                last.counts.add(severity, count.unsigned_abs());
            }
        }
        Ok(buckets)
    }

    async fn sources(&self, range: TimeRange, severities: SeveritySet) -> Result<Sources, ReadError> {
        let mut listed = Sources::default();
        if severities.is_empty() {
            return Ok(listed);
        }
        for row in self.count(&Statement::sources(range, severities)).await? {
            let name: String = row.try_get(0).map_err(|error| self.error(error.into()))?;
            let mut counts = SeverityCounts::default();
            for (place, severity) in Severity::ALL.into_iter().enumerate() {
                counts.add(severity, column(&row, place + 1)?.unsigned_abs());
            }
            // Whatever else wrote it: no message can have it.
            if let Ok(source) = name.parse::<Source>() {
                listed.sources.push((source, counts));
            }
        }
        listed.more = listed.sources.len() > MOST_SOURCES;
        listed.sources.truncate(MOST_SOURCES);
        Ok(listed)
    }
}

/// Reads a number of a row that was summed up.
fn column(row: &Row, place: usize) -> Result<i64, ReadError> {
    row.try_get(place).map_err(|error| ReadError::Misconfigured {
        reason: "PostgreSQL counts otherwise than Warren asks it to".to_owned(),
        cause: Some(Arc::new(error)),
    })
}

fn severity_of(number: i64) -> Option<Severity> {
    u8::try_from(number).ok().and_then(Severity::from_number)
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

/// A connection that somebody reads on. Dropped before it is done, it ends in the server what is under way.
struct Reading<'p> {
    lease: Option<Lease<'p, ReadSession>>,
    connector: &'p Connector,
}

impl Reading<'_> {
    async fn rows(&self, statement: &Statement<'_>) -> Result<Vec<Row>, Failure> {
        let Some(session) = self.lease.as_deref() else {
            return Ok(Vec::new());
        };
        let parameters = statement.parameters();
        session
            .within(async {
                Ok(session
                    .client()
                    .query_typed(statement.text(), &parameters)
                    .await?)
            })
            .await
    }

    /// Gives the connection back, if nothing is under way on it.
    fn done(mut self, failure: Option<&Failure>) {
        if failure.is_none_or(|failure| failure.state().is_some())
            && let Some(lease) = self.lease.take()
        {
            lease.give_back();
        }
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        let Some((session, permit)) = self.lease.take().map(Lease::keep) else {
            return;
        };
        // Outside a runtime nothing can be asked for; the statement ends with its time.
        if !session.is_closed()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(cancel(session, permit, self.connector.clone()));
        }
    }
}

/// Ends what is under way on a connection, and then the connection; whoever waits for one waits for that.
async fn cancel(session: ReadSession, permit: OwnedSemaphorePermit, connector: Connector) {
    let token = session.client().cancel_token();
    let cancelling = async {
        match &connector.tls.client {
            Some(tls) => token.cancel_query(MakeRustlsConnect::new(tls.clone())).await,
            None => token.cancel_query(NoTls).await,
        }
    };
    match timeout(CANCEL, cancelling).await {
        Ok(Ok(())) => Pooled::close(session).await,
        Ok(Err(error)) => {
            let error = &error as &dyn std::error::Error;
            tracing::debug!(error, "PostgreSQL was not told that nobody waits for a statement");
        }
        Err(_) => tracing::debug!("PostgreSQL did not take in time that nobody waits for a statement"),
    }
    drop(permit);
}
