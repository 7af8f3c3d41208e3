//! Several statements sent to SQLite in one exchange.

use sea_orm::sqlx::sqlite::{SqliteArguments, SqliteConnection};
use sea_orm::sqlx::{self, Arguments, AssertSqlSafe, Encode, Sqlite, Type};

/// A transaction written down and then run in one exchange with the connection's thread.
///
/// One exchange costs some 30 µs, a commit some 300 µs: `begin`, `insert`, `update`, `delete` and `commit` sent one
/// by one made 2,500 commits a second where a script made 3,400. SQLite compiles each text once; the number of
/// different texts is kept small by whoever writes them.
#[derive(Debug)]
pub(crate) struct Script {
    sql: String,
    values: SqliteArguments,
    statements: usize,
}

/// A longer script is compiled for the occasion: its text will hardly come again.
const KEPT_STATEMENTS: usize = 12;

impl Script {
    pub(crate) fn begin() -> Self {
        Self {
            // Immediate: the write lock is taken at once, not in the middle, where it could not be waited for.
            sql: "begin immediate;".to_owned(),
            values: SqliteArguments::default(),
            statements: 0,
        }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.statements == 0
    }

    /// Appends a statement; its values follow by [`Script::bind`], one for each `?`.
    pub(crate) fn statement(&mut self, sql: &str) -> &mut Self {
        self.sql.push_str(sql);
        self.sql.push(';');
        self.statements += 1;
        self
    }

    pub(crate) fn bind<'v, T>(&mut self, value: T) -> Result<&mut Self, sqlx::Error>
    where
        T: Encode<'v, Sqlite> + Type<Sqlite>,
    {
        self.values.add(value).map_err(sqlx::Error::Encode)?;
        Ok(self)
    }

    /// Runs all of it as [`Script::commit`] does; returns how many rows its statements have returned.
    pub(crate) async fn commit_returning(
        self,
        connection: &mut SqliteConnection,
    ) -> Result<u64, sqlx::Error> {
        self.run(connection).await
    }

    /// Runs all of it; after an error nothing of it has happened.
    ///
    /// Not cancel safe: a future dropped in the middle leaves the transaction open on the connection.
    pub(crate) async fn commit(self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        self.run(connection).await.map(drop)
    }

    async fn run(mut self, connection: &mut SqliteConnection) -> Result<u64, sqlx::Error> {
        self.sql.push_str("commit");
        let outcome = sqlx::query_with(AssertSqlSafe(self.sql), self.values)
            .persistent(self.statements <= KEPT_STATEMENTS)
            .fetch_all(&mut *connection)
            .await;
        match outcome {
            Ok(rows) => Ok(rows.len() as u64),
            Err(error) => {
                // Some errors end the transaction by themselves; then there is nothing to roll back.
                if let Err(rollback) = sqlx::query("rollback").execute(connection).await {
                    tracing::debug!(%rollback, "nothing to roll back");
                }
                Err(error)
            }
        }
    }
}
