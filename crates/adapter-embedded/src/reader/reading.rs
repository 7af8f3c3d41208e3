//! A connection that somebody reads on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use sea_orm::sqlx::pool::PoolConnection;
use sea_orm::sqlx::sqlite::SqliteRow;
use sea_orm::sqlx::{self, Sqlite};
use tokio::task::yield_now;
use tokio::time::timeout;

use super::failure::Failure;
use super::statements::Statement;
use super::watch::Watch;
use crate::database::Database;

/// After how many rows another task may have the thread: a row may be large, and takes its time to be read.
const BREATH: usize = 8;

/// How much longer than its time a statement is waited for. SQLite ends it by itself unless it waits for the disk, or for a
/// lock, and so does not get to ask whether to go on.
const GRACE: Duration = Duration::from_secs(1);

/// A connection that somebody reads on. Dropped, it ends what is under way.
pub(super) struct Reading {
    store: Arc<Database>,
    /// Dropped before the connection: nobody else gets that one while something is under way.
    watch: Watch,
    /// None once a statement was not ended in time.
    connection: Option<PoolConnection<Sqlite>>,
    limit: Duration,
}

impl Reading {
    /// Reads on a connection, with statements that may take so long.
    pub(super) async fn on(
        store: Arc<Database>,
        mut connection: PoolConnection<Sqlite>,
        limit: Duration,
    ) -> Result<Self, Failure> {
        let watch = timeout(limit + GRACE, Watch::over(&mut connection)).await;
        let Ok(watch) = watch else {
            set_aside(&store, connection);
            return Err(Failure::Stuck);
        };
        Ok(Self {
            store,
            watch: watch?,
            connection: Some(connection),
            limit,
        })
    }

    /// Runs one statement that has few rows.
    pub(super) async fn rows(&mut self, statement: &Statement) -> Result<Vec<SqliteRow>, Failure> {
        let mut rows = Vec::new();
        self.each(statement, |row| {
            rows.push(row);
            Ok(true)
        })
        .await?;
        Ok(rows)
    }

    /// Runs one statement, and hands over its rows one by one, until one of them is the last that is wanted.
    ///
    /// Whoever asks waits a second longer than the statement may take, and then no more, whatever SQLite waits for.
    pub(super) async fn each(
        &mut self,
        statement: &Statement,
        take: impl FnMut(SqliteRow) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        match timeout(self.limit + GRACE, self.run(statement, take)).await {
            Ok(ended) => ended,
            Err(_) => {
                if let Some(connection) = self.connection.take() {
                    set_aside(&self.store, connection);
                }
                Err(Failure::Stuck)
            }
        }
    }

    async fn run(
        &mut self,
        statement: &Statement,
        mut take: impl FnMut(SqliteRow) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        let connection = self.connection.as_mut().ok_or(Failure::Stuck)?;
        let asked = Instant::now();
        let _turn = self.store.gate().pass(self.limit / 2).await;
        let limit = self.watch.allow(self.limit.saturating_sub(asked.elapsed()));
        let mut rows = statement.query().fetch(&mut **connection);
        let mut count = 0_usize;
        while let Some(row) = rows.try_next().await? {
            if !take(row)? {
                drop((rows, limit));
                // Waits until SQLite has let go of it.
                self.watch = Watch::over(connection).await?;
                break;
            }
            count += 1;
            if count.is_multiple_of(BREATH) {
                yield_now().await;
            }
        }
        Ok(())
    }
}

/// Keeps a connection from everybody until SQLite has let go of it, and says meanwhile that it is stuck. As many can be as
/// there are connections: nobody gets another one for it.
fn set_aside(store: &Database, mut connection: PoolConnection<Sqlite>) {
    let stuck = store.stuck().note();
    tokio::spawn(async move {
        let free: Result<_, sqlx::Error> = connection.lock_handle().await.map(drop);
        if let Err(error) = free {
            tracing::debug!(%error, "a connection that was stuck has ended");
        }
        drop((connection, stuck));
    });
}
