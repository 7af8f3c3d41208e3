//! Finds messages again, on connections of its own.
//!
//! Readers of a write-ahead log hold no writer up, but one thing: the log cannot begin anew while somebody reads what is
//! in it. So statements are short. [`Walk`] says how to find rows with few of them: counts first, and then a bounded number
//! of rows with each. SQLite asks every few microseconds whether to go on ([`Watch`]), and does not once the time of a
//! statement is over, or the future is dropped that waits for it.
//!
//! What SQLite is asked may find more than what is meant; each message is looked at again.

mod statements;
mod watch;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::TryStreamExt;
use sea_orm::sqlx::pool::PoolConnection;
use sea_orm::sqlx::sqlite::{SqlitePool, SqliteRow};
use sea_orm::sqlx::{self, Row, Sqlite};
use warren_domain::ports::{
    Bucket, Cause, Counts, Found, MOST_FOUND, MOST_FOUND_BYTES, MOST_SOURCES, MessageReader, ReadError,
    Search, Sources, StoredMessage, TimeRange,
};
use warren_domain::search::{Meaning, MinuteCount, Step, Walk};
use warren_domain::{Message, MessageId, Severity, SeverityCounts, SeveritySet, Source, Timestamp};

use self::statements::Statement;
use self::watch::Watch;
use crate::config::ReaderConfig;
use crate::database::Database;
use crate::entity::message::{Model, NotAMessage};
use crate::error::{Fault, fault, result_code};

/// Finds stored messages in `store.db`.
///
/// A call takes at most `reader.search_time` and two times `reader.statement_timeout`: one of them is how long it waits for a
/// connection.
#[derive(Clone, Debug)]
pub struct EmbeddedReader {
    store: Arc<Database>,
    pool: SqlitePool,
    config: ReaderConfig,
    /// How often searches have to begin with smaller steps, because others were not done in time.
    slowness: Arc<AtomicU32>,
}

/// Why a step of a search failed.
enum Failure {
    Sqlite(sqlx::Error),
    /// A row that this program has not written.
    Foreign(NotAMessage),
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl Failure {
    /// Tells whether the time of the statement was over.
    fn is_slow(&self) -> bool {
        const INTERRUPTED: i32 = 9;
        matches!(self, Self::Sqlite(error) if result_code(error) == Some(INTERRUPTED))
    }
}

impl EmbeddedReader {
    pub(crate) fn new(store: Arc<Database>, config: ReaderConfig) -> Self {
        Self {
            pool: store.pool_of_readers(config.connections, config.statement_timeout),
            store,
            config,
            slowness: Arc::default(),
        }
    }

    /// Returns those of the messages with these ids that are stored, by ascending id.
    ///
    /// # Errors
    /// As [`MessageReader::fetch`].
    pub async fn messages(&self, ids: &[MessageId]) -> Result<Vec<StoredMessage>, ReadError> {
        let mut messages = Vec::new();
        for ids in ids.chunks(MOST_FOUND) {
            let rows = self.reading().await?.rows(&Statement::fetch(ids)).await;
            for row in rows.map_err(|failure| self.error(failure))? {
                messages.push(stored_message(&row).map_err(|failure| self.error(failure))?);
            }
        }
        messages.sort_unstable_by_key(|stored| stored.message.id);
        messages.dedup_by_key(|stored| stored.message.id);
        Ok(messages)
    }

    async fn reading(&self) -> Result<Reading, ReadError> {
        let mut connection = (self.pool.acquire().await).map_err(|error| match error {
            sqlx::Error::PoolTimedOut => ReadError::Unavailable {
                reason: format!(
                    "all {} connections that read {} have been busy for {:?}",
                    self.config.connections,
                    self.store.path().display(),
                    self.config.statement_timeout
                ),
                cause: None,
            },
            other => self.error(other.into()),
        })?;
        let watch = Watch::over(&mut connection).await;
        Ok(Reading {
            watch: watch.map_err(|error| self.error(error.into()))?,
            connection,
            limit: self.config.statement_timeout,
        })
    }

    fn error(&self, failure: Failure) -> ReadError {
        read_error(failure, self.store.path())
    }

    /// Runs a statement whose time depends on how much was asked for.
    async fn count(&self, statement: &Statement) -> Result<Vec<SqliteRow>, ReadError> {
        let rows = self.reading().await?.rows(statement).await;
        rows.map_err(|failure| {
            if failure.is_slow() {
                let limit = self.config.statement_timeout;
                ReadError::TooMuch {
                    reason: format!(
                        "{} is not counted within reader.statement_timeout of {limit:?}; ask for less time",
                        self.store.path().display()
                    ),
                }
            } else {
                self.error(failure)
            }
        })
    }

    /// Does one step of a search.
    async fn step(&self, reading: &mut Reading, walk: &mut Walk, page: &mut Page<'_>) -> Result<(), Failure> {
        let began = Instant::now();
        let order = page.search.order;
        match walk.next() {
            Step::End => {}
            Step::Count { minutes, most } => {
                let counting = Statement::walk_counts(page.meaning, order, &minutes, most);
                let (mut counts, mut through) = (Vec::new(), None);
                for row in reading.rows(&counting).await? {
                    let (stored, meant): (i64, i64) = (row.try_get(1)?, row.try_get(2)?);
                    through = row.try_get(3)?;
                    if meant > 0 {
                        counts.push(MinuteCount {
                            minute: row.try_get(0)?,
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
                let looking = Statement::look(page.meaning, ids, order, most);
                let (mut last, mut rows, mut found) = (None, 0, 0);
                let limit = reading.watch.allow(reading.limit);
                let mut stream = looking.query().fetch(&mut *reading.connection);
                while page.bytes < MOST_FOUND_BYTES
                    && let Some(row) = stream.try_next().await?
                {
                    let stored = stored_message(&row)?;
                    (last, rows) = (Some(stored.message.id.as_uuid()), rows + 1);
                    page.bytes += stored.message.body.as_str().len();
                    if page.search.means(&stored.message) {
                        page.found.messages.push(stored);
                        found += 1;
                    }
                }
                drop((stream, limit));
                let cut = rows == most || page.bytes >= MOST_FOUND_BYTES;
                walk.looked(ids, found, last.filter(|_| cut), began.elapsed());
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
}

#[async_trait]
impl MessageReader for EmbeddedReader {
    async fn find(&self, search: &Search, limit: usize) -> Result<Found, ReadError> {
        search.check()?;
        let meaning = Meaning::of(search);
        let mut walk = Walk::new(&meaning, search.order, limit.clamp(1, MOST_FOUND));
        let mut page = Page {
            search,
            meaning: &meaning,
            found: Found::default(),
            bytes: 0,
        };
        for _ in 0..self.slowness.load(Ordering::Relaxed) {
            walk.slow_down();
        }
        let mut timed_out = false;
        if walk.next() != Step::End {
            let mut reading = self.reading().await?;
            let deadline = Instant::now() + self.config.search_time;
            while walk.next() != Step::End && page.bytes < MOST_FOUND_BYTES {
                let is_late = || Instant::now() >= deadline;
                match self.step(&mut reading, &mut walk, &mut page).await {
                    Ok(()) if is_late() && walk.has_moved() => break,
                    Ok(()) => {}
                    Err(failure) => {
                        let slow = failure.is_slow();
                        timed_out |= slow;
                        if slow && !is_late() && walk.slow_down() {
                            continue;
                        }
                        if slow && walk.has_moved() {
                            break;
                        }
                        self.learn(slow);
                        return Err(self.error(failure));
                    }
                }
            }
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
        if wanted.selection.severities.is_empty() {
            return Ok(buckets);
        }
        let width = i64::from(wanted.minutes.get());
        for row in self.count(&Statement::counts(wanted)).await? {
            let read = || -> Result<_, sqlx::Error> {
                let source: String = row.try_get(2)?;
                Ok((
                    row.try_get::<i64, _>(0)?,
                    row.try_get::<i64, _>(1)?,
                    source,
                    row.try_get::<i64, _>(3)?,
                ))
            };
            let (bucket, severity, source, count) = read().map_err(|error| self.error(error.into()))?;
            let start = Timestamp::from_unix_micros(bucket * width * 60_000_000);
            let (Some(start), Some(severity), Ok(source)) =
                (start, severity_of(severity), source.parse::<Source>())
            else {
                continue;
            };
            // What was asked for may be more than what is meant.
            if !wanted.selection.matches_source(&source) {
                continue;
            }
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
            let read = || -> Result<_, sqlx::Error> {
                let mut counts = SeverityCounts::default();
                for (place, severity) in Severity::ALL.into_iter().enumerate() {
                    counts.add(severity, row.try_get::<i64, _>(place + 1)?.unsigned_abs());
                }
                Ok((row.try_get::<String, _>(0)?, counts))
            };
            let (name, counts) = read().map_err(|error| self.error(error.into()))?;
            if let Ok(source) = name.parse::<Source>() {
                listed.sources.push((source, counts));
            }
        }
        listed.more = listed.sources.len() > MOST_SOURCES;
        listed.sources.truncate(MOST_SOURCES);
        Ok(listed)
    }
}

fn severity_of(number: i64) -> Option<Severity> {
    u8::try_from(number).ok().and_then(Severity::from_number)
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

fn read_error(failure: Failure, path: &Path) -> ReadError {
    let path = path.display();
    let slow = failure.is_slow();
    let error = match failure {
        Failure::Foreign(foreign) => {
            let cause: Cause = Arc::new(foreign);
            return ReadError::Misconfigured {
                reason: format!("{path} holds a row that this program has not written"),
                cause: Some(cause),
            };
        }
        Failure::Sqlite(error) => error,
    };
    let fault = fault(&error);
    let cause: Option<Cause> = Some(Arc::new(error));
    match fault {
        Fault::Passing if slow => ReadError::Unavailable {
            reason: format!("{path} was not read within reader.statement_timeout"),
            cause,
        },
        Fault::Passing | Fault::DiskFull | Fault::DiskBroken => ReadError::Unavailable {
            reason: format!("{path} cannot be read at the moment"),
            cause,
        },
        Fault::Broken | Fault::Value => ReadError::Misconfigured {
            reason: format!(
                "{path} is not what this program wrote; check its rights, or restore it from a backup"
            ),
            cause,
        },
    }
}

/// A connection that somebody reads on. Dropped, it ends what is under way.
struct Reading {
    // Dropped first: nobody else gets the connection while something is under way.
    watch: Watch,
    connection: PoolConnection<Sqlite>,
    limit: Duration,
}

impl Reading {
    async fn rows(&mut self, statement: &Statement) -> Result<Vec<SqliteRow>, Failure> {
        let _limit = self.watch.allow(self.limit);
        Ok(statement.query().fetch_all(&mut *self.connection).await?)
    }
}
