//! The file of a book: what a commit reads and writes.

use std::sync::Arc;

use sea_orm::sqlx::sqlite::SqliteConnection;
use sea_orm::sqlx::{self, Row};
use warren_domain::ports::{Countable, Counted, Tally};
use warren_domain::{Severity, Timestamp};

use super::window::Window;
use crate::database::Database;
use crate::transaction::Transaction;

const ID_BYTES: usize = 16;
/// How many rows are read in one exchange.
const ROWS: i64 = 4_096;

/// Why the file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(super) enum BookError {
    #[error("{0}")]
    Sql(Arc<sqlx::Error>),
    /// Its tables contradict each other.
    #[error("its counts and its ids do not belong together")]
    Damaged,
}

impl From<sqlx::Error> for BookError {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(Arc::new(error))
    }
}

/// A book as this process knows it.
#[derive(Debug)]
pub(super) struct Book {
    pub(super) database: Arc<Database>,
    window: Window,
}

impl Book {
    /// Reads the window out of the file.
    pub(super) async fn load(database: Arc<Database>, window: usize) -> Result<Self, BookError> {
        let mut book = Self {
            database,
            window: Window::new(window),
        };
        let connection = book.database.read_pool().acquire().await?;
        let mut transaction = Transaction::begin_reading(connection).await?;
        let tally = read_tally(transaction.connection()).await?;
        book.catch_up(transaction.connection(), tally.counts.total())
            .await?;
        transaction.rollback().await?;
        Ok(book)
    }

    /// Counts every batch in one transaction; returns what became of each.
    ///
    /// Not cancel safe, but harmless: what a dropped future leaves in the window is forgotten by the next call.
    pub(super) async fn count(&mut self, batches: &[Vec<Countable>]) -> Result<Vec<Counted>, BookError> {
        self.window.roll_back();
        let mut transaction = Transaction::begin(self.database.writer().await?).await?;
        let connection = transaction.connection();
        let mut tally = read_tally(connection).await?;
        // What other processes have counted since is part of the window.
        self.catch_up(connection, tally.counts.total()).await?;
        let mut outcomes: Vec<_> = batches.iter().map(|batch| self.sort(batch)).collect();
        let now = Timestamp::now();
        for outcome in &outcomes {
            tally.counts += outcome.counted;
            tally.duplicates += outcome.duplicates;
            for (severity, _) in outcome.counted.iter().filter(|(_, n)| *n > 0) {
                let last = &mut tally.last_counted[severity.index()];
                *last = (*last).max(Some(now));
            }
        }
        self.write(connection, &tally).await?;
        transaction.commit().await?;
        self.window.commit();
        for outcome in &mut outcomes {
            outcome.tally = tally;
        }
        Ok(outcomes)
    }

    fn sort(&mut self, batch: &[Countable]) -> Counted {
        let mut outcome = Counted::default();
        for message in batch {
            let counts = if self.window.insert(message.identity) {
                &mut outcome.counted
            } else {
                &mut outcome.duplicates
            };
            counts.add(message.severity, 1);
        }
        outcome
    }

    async fn write(&self, connection: &mut SqliteConnection, tally: &Tally) -> Result<(), BookError> {
        let ids: Vec<_> = self.window.tentative().flat_map(u128::to_be_bytes).collect();
        let last = tally.counts.total();
        let totals =
            "insert or replace into totals values (?,?,?,?),(?,?,?,?),(?,?,?,?),(?,?,?,?),(?,?,?,?);";
        let mut query = if ids.is_empty() {
            sqlx::query(totals)
        } else {
            // One exchange; a row goes once every id of it is beyond the window.
            sqlx::query(
                "insert into counted values (?,?); delete from counted where last <= ?; \
                 insert or replace into totals values (?,?,?,?),(?,?,?,?),(?,?,?,?),(?,?,?,?),(?,?,?,?);",
            )
            .bind(last as i64)
            .bind(ids)
            .bind(last.saturating_sub(self.window.limit() as u64) as i64)
        };
        for severity in Severity::ALL {
            query = query
                .bind(i64::from(severity.number()))
                .bind(tally.counts.get(severity) as i64)
                .bind(tally.duplicates.get(severity) as i64)
                .bind(tally.last_counted[severity.index()].map(Timestamp::unix_micros));
        }
        query.execute(connection).await?;
        Ok(())
    }

    /// Takes what others have counted since, up to the message numbered `last`.
    async fn catch_up(&mut self, connection: &mut SqliteConnection, last: u64) -> Result<(), BookError> {
        while self.window.committed() != last {
            // A book that is behind what was read of it before is another one, such as an older copy.
            let known = if self.window.committed() > last {
                0
            } else {
                self.window.committed()
            };
            let beyond = known.max(last.saturating_sub(self.window.limit() as u64));
            let rows = sqlx::query("select last, ids from counted where last > ? order by last limit ?")
                .bind(beyond as i64)
                .bind(ROWS)
                .fetch_all(&mut *connection)
                .await?;
            if rows.is_empty() {
                return Err(BookError::Damaged);
            }
            for row in rows {
                let (to, ids) = (row.try_get::<i64, _>(0)? as u64, row.try_get::<&[u8], _>(1)?);
                let (ids, rest) = ids.as_chunks::<ID_BYTES>();
                if ids.is_empty() || !rest.is_empty() || ids.len() as u64 > to || to > last {
                    return Err(BookError::Damaged);
                }
                self.window
                    .follow(to, ids.iter().map(|id| u128::from_be_bytes(*id)));
            }
        }
        Ok(())
    }
}

/// Reads the counts.
pub(super) async fn read_tally(connection: &mut SqliteConnection) -> Result<Tally, BookError> {
    let rows =
        sqlx::query("select severity, messages, duplicates, last_counted from totals order by severity")
            .fetch_all(connection)
            .await?;
    let mut tally = Tally::default();
    for row in &rows {
        let severity = u8::try_from(row.try_get::<i64, _>(0)?)
            .ok()
            .and_then(Severity::from_number)
            .ok_or(BookError::Damaged)?;
        let number = |column: usize| -> Result<u64, BookError> {
            u64::try_from(row.try_get::<i64, _>(column)?).map_err(|_| BookError::Damaged)
        };
        tally.counts.add(severity, number(1)?);
        tally.duplicates.add(severity, number(2)?);
        let last: Option<i64> = row.try_get(3)?;
        tally.last_counted[severity.index()] = last.and_then(Timestamp::from_unix_micros);
    }
    if rows.len() == Severity::ALL.len() {
        Ok(tally)
    } else {
        Err(BookError::Damaged)
    }
}
