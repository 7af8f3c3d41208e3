//! A transaction on the one connection that writes a file.

use sea_orm::sqlx::pool::PoolConnection;
use sea_orm::sqlx::sqlite::SqliteConnection;
use sea_orm::sqlx::{self, Sqlite};

/// A transaction; whatever ends it otherwise than by commit or rollback takes the connection out of use.
///
/// After some errors (a full disk, a failed write) SQLite has ended the transaction by itself, after others it has
/// not, and a future dropped in the middle leaves it open. sqlx counts transactions of its own, and its count is
/// wrong for good after the first kind: every later one would fail on the only connection there is. A new connection
/// is in a known state, and costs a millisecond.
#[derive(Debug)]
pub(crate) struct Transaction {
    connection: PoolConnection<Sqlite>,
    ended: bool,
}

impl Transaction {
    /// Takes the write lock at once, not in the middle, where it could not be waited for.
    pub(crate) async fn begin(connection: PoolConnection<Sqlite>) -> Result<Self, sqlx::Error> {
        let mut transaction = Self {
            connection,
            ended: false,
        };
        transaction.run("begin immediate").await?;
        Ok(transaction)
    }

    pub(crate) fn connection(&mut self) -> &mut SqliteConnection {
        &mut self.connection
    }

    pub(crate) async fn commit(mut self) -> Result<(), sqlx::Error> {
        self.run("commit").await?;
        self.ended = true;
        Ok(())
    }

    pub(crate) async fn rollback(mut self) -> Result<(), sqlx::Error> {
        self.run("rollback").await?;
        self.ended = true;
        Ok(())
    }

    async fn run(&mut self, sql: &'static str) -> Result<(), sqlx::Error> {
        sqlx::query(sql).execute(&mut *self.connection).await.map(drop)
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if !self.ended {
            // The pool's place stays taken until it is closed, so there is never a second writer.
            self.connection.close_on_drop();
        }
    }
}
