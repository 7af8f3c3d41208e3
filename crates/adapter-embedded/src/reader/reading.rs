//! A connection that somebody reads on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use sea_orm::sqlx::pool::PoolConnection;
use sea_orm::sqlx::sqlite::SqliteRow;
use sea_orm::sqlx::{self, Sqlite};
use tokio::task::yield_now;

use super::statements::Statement;
use super::watch::Watch;
use crate::database::Database;

/// After how many rows another task may have the thread: a row may be large, and takes its time to be read.
const BREATH: usize = 8;

/// A connection that somebody reads on. Dropped, it ends what is under way.
pub(super) struct Reading {
    store: Arc<Database>,
    /// Dropped before the connection: nobody else gets that one while something is under way.
    watch: Watch,
    connection: PoolConnection<Sqlite>,
    limit: Duration,
}

impl Reading {
    /// Reads on a connection, with statements that may take so long.
    pub(super) async fn on(
        store: Arc<Database>,
        mut connection: PoolConnection<Sqlite>,
        limit: Duration,
    ) -> Result<Self, sqlx::Error> {
        Ok(Self {
            store,
            watch: Watch::over(&mut connection).await?,
            connection,
            limit,
        })
    }

    /// Runs one statement that has few rows.
    pub(super) async fn rows(&mut self, statement: &Statement) -> Result<Vec<SqliteRow>, sqlx::Error> {
        let mut rows = Vec::new();
        self.each(statement, |row| {
            rows.push(row);
            Ok::<_, sqlx::Error>(true)
        })
        .await?;
        Ok(rows)
    }

    /// Runs one statement, and hands over its rows one by one, until one of them is the last that is wanted.
    pub(super) async fn each<E: From<sqlx::Error>>(
        &mut self,
        statement: &Statement,
        mut take: impl FnMut(SqliteRow) -> Result<bool, E>,
    ) -> Result<(), E> {
        let asked = Instant::now();
        let _turn = self.store.gate().pass(self.limit / 2).await;
        let limit = self.watch.allow(self.limit.saturating_sub(asked.elapsed()));
        let mut rows = statement.query().fetch(&mut *self.connection);
        let mut count = 0_usize;
        while let Some(row) = rows.try_next().await? {
            if !take(row)? {
                drop((rows, limit));
                // Waits until SQLite has let go of it.
                self.watch = Watch::over(&mut self.connection).await?;
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
