//! One SQLite file: opened, checked, migrated.
//!
//! sqlx gives every connection a thread of its own and talks to it through channels, so no runtime thread ever
//! blocks on the disk, and one exchange costs some 30 µs: hot paths send several statements in one.
//!
//! Each file has **one** writing connection, owned by whoever writes, and a few that only read. Thus `SQLITE_BUSY`
//! cannot come from within this process.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sea_orm::sqlx::pool::PoolConnection;
use sea_orm::sqlx::sqlite::{
    SqliteAutoVacuum, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool,
    SqlitePoolOptions, SqliteSynchronous,
};
use sea_orm::sqlx::{self, AssertSqlSafe, ConnectOptions, Row, Sqlite};
use sea_orm::{DatabaseConnection, SqlxSqliteConnector};
use sea_orm_migration::{MigratorTrait, SchemaManager};
#[cfg(feature = "planted-bugs")]
use warren_planted::{Bug, planted};

use crate::error::{Fault, OpenError, fault, from_orm, result_code};
use crate::log_gate::LogGate;
use crate::space::Footprint;
use crate::stuck::Stuck;
use crate::sync::lock;

/// Marks a file as ours: "Wrrn".
const APPLICATION_ID: i64 = 0x5772_726e;
const PAGE_BYTES: u32 = 8192;
/// How long a statement waits for a lock that another program (a backup, say) holds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// What differs from file to file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    /// How large the write-ahead log may be when it is at rest; at half of it, or sooner, its pages are moved into the
    /// file. A large transaction makes it larger for a moment.
    pub(crate) wal_bytes: u64,
    /// How many connections read.
    pub(crate) readers: u32,
    /// How many KiB of pages each connection keeps.
    pub(crate) cache_kib: u32,
    /// The setting that names the directory, for errors.
    pub(crate) place: &'static str,
}

/// One SQLite file.
#[derive(Debug)]
pub(crate) struct Database {
    path: PathBuf,
    wal: PathBuf,
    writer: DatabaseConnection,
    readers: DatabaseConnection,
    /// How to open one more connection that only reads.
    reading: SqliteConnectOptions,
    /// Those that were made for somebody.
    lent: Mutex<Vec<SqlitePool>>,
    /// What these pass before each statement.
    gate: LogGate,
    /// Those of their statements that have not ended in time.
    stuck: Stuck,
    place: &'static str,
    abandoned: AtomicBool,
}

impl Database {
    /// Opens or makes a file of the data directory that `place` names; see [`Layout::wal_bytes`].
    pub(crate) async fn open<M: MigratorTrait>(
        path: PathBuf,
        wal_bytes: u64,
        place: &'static str,
    ) -> Result<Self, OpenError> {
        let layout = Layout {
            wal_bytes,
            readers: 4,
            cache_kib: 8 << 10,
            place,
        };
        Self::open_with::<M>(path, layout).await
    }

    /// Opens or makes the file, asserts that commits are durable, and brings its schema up to date.
    pub(crate) async fn open_with<M: MigratorTrait>(
        path: PathBuf,
        layout: Layout,
    ) -> Result<Self, OpenError> {
        let place = layout.place;
        let fail = |error: sqlx::Error| open_error(&path, place, error);
        let options = options(&path, &layout);
        #[cfg(feature = "planted-bugs")]
        let options = match planted(Bug::FsyncSkipped) {
            true => options.synchronous(SqliteSynchronous::Off),
            false => options,
        };
        let writer = pool(1, options.clone().create_if_missing(true))
            .await
            .map_err(fail)?;
        let mut connection = writer.acquire().await.map_err(fail)?;
        claim(&path, place, &mut connection).await?;
        assert_durable(&path, place, &mut connection).await?;
        drop(connection);

        let writer = SqlxSqliteConnector::from_sqlx_sqlite_pool(writer);
        migrate::<M>(&path, place, &writer).await?;

        let reading = reading(&path, &layout);
        let readers = pool(layout.readers, reading.clone()).await.map_err(fail)?;
        let mut wal = path.clone().into_os_string();
        wal.push("-wal");
        Ok(Self {
            writer,
            readers: SqlxSqliteConnector::from_sqlx_sqlite_pool(readers),
            reading,
            lent: Mutex::default(),
            gate: LogGate::default(),
            stuck: Stuck::default(),
            wal: wal.into(),
            place,
            path,
            abandoned: AtomicBool::new(false),
        })
    }

    /// Makes the error of a file that does not open.
    pub(crate) fn refusal(&self, error: sqlx::Error) -> OpenError {
        open_error(&self.path, self.place, error)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for the connection that writes.
    pub(crate) async fn writer(&self) -> Result<PoolConnection<Sqlite>, sqlx::Error> {
        self.writer.get_sqlite_connection_pool().acquire().await
    }

    /// Returns connections that only read, for sea-orm.
    pub(crate) fn readers(&self) -> &DatabaseConnection {
        &self.readers
    }

    /// Returns connections that only read, for statements of our own.
    pub(crate) fn read_pool(&self) -> &SqlitePool {
        self.readers.get_sqlite_connection_pool()
    }

    /// Returns what somebody passes before each statement who may read for long.
    pub(crate) const fn gate(&self) -> &LogGate {
        &self.gate
    }

    /// Returns what reads have not ended in time, and have not ended yet.
    pub(crate) const fn stuck(&self) -> &Stuck {
        &self.stuck
    }

    /// Moves the write-ahead log into the file while nobody reads who may read for long, so that it begins anew with the
    /// next commit, and gets back to its size at rest; puts that off when somebody reads for too long.
    pub(crate) async fn begin_log_anew(&self) -> Result<(), sqlx::Error> {
        match self.gate.close().await {
            Some(_closed) => checkpoint(&mut *self.writer().await?).await,
            None => Ok(()),
        }
    }

    /// Makes connections that only read, for somebody who may keep them busy for long.
    ///
    /// They are opened at once, in the background: while a disk hangs, whoever needs one would begin to open it again and
    /// again, and leave a thread behind each time.
    pub(crate) fn pool_of_readers(&self, connections: u32, acquire_timeout: Duration) -> SqlitePool {
        let pool = pool_options(connections)
            .min_connections(connections)
            .acquire_timeout(acquire_timeout)
            .connect_lazy_with(self.reading.clone());
        lock(&self.lent).push(pool.clone());
        pool
    }

    async fn close_readers(&self) -> Result<(), sqlx::Error> {
        let lent = std::mem::take(&mut *lock(&self.lent));
        for pool in lent {
            pool.close().await;
        }
        self.readers.close_by_ref().await.map_err(unshare)
    }

    /// Measures what the file takes on the disk.
    pub(crate) async fn footprint(
        &self,
        connection: &mut SqliteConnection,
    ) -> Result<Footprint, sqlx::Error> {
        let row = sqlx::query(
            "select page_count, freelist_count, page_size \
             from pragma_page_count, pragma_freelist_count, pragma_page_size",
        )
        .fetch_one(connection)
        .await?;
        let number = |index: usize| row.try_get::<i64, _>(index).map(i64::unsigned_abs);
        let (pages, free, page) = (number(0)?, number(1)?, number(2)?);
        Ok(Footprint {
            used: pages.saturating_sub(free) * page,
            free: free * page,
            wal: std::fs::metadata(&self.wal).map_or(0, |file| file.len()),
        })
    }

    /// Closes a file that other processes may have open; the last of them moves the write-ahead log into it.
    pub(crate) async fn leave(&self) -> Result<(), sqlx::Error> {
        self.close_readers().await?;
        self.writer.close_by_ref().await.map_err(unshare)
    }

    /// Leaves the writing connection open for the rest of the process, so that nothing writes the file any more: SQLite
    /// itself would when the last one is closed.
    pub(crate) fn abandon(&self, writer: PoolConnection<Sqlite>) {
        self.abandoned.store(true, Ordering::Relaxed);
        std::mem::forget(writer);
    }

    /// Moves the write-ahead log into the file, and closes it; leaves one alone that is abandoned.
    pub(crate) async fn close(&self) -> Result<(), sqlx::Error> {
        if self.abandoned.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.close_readers().await?;
        let mut connection = self.writer().await?;
        sqlx::query("pragma wal_checkpoint(truncate)")
            .execute(&mut *connection)
            .await?;
        drop(connection);
        self.writer.close_by_ref().await.map_err(unshare)
    }
}

/// Gives back up to `pages` free pages to the file system; returns whether more are free.
pub(crate) async fn shrink(connection: &mut SqliteConnection, pages: u32) -> Result<bool, sqlx::Error> {
    let sql = format!("pragma incremental_vacuum({pages})");
    sqlx::query(AssertSqlSafe(sql)).execute(&mut *connection).await?;
    let row = sqlx::query("select freelist_count from pragma_freelist_count")
        .fetch_one(connection)
        .await?;
    Ok(row.try_get::<i64, _>(0)? > 0)
}

/// Moves the write-ahead log into the file, as far as nobody reads it: only then does a shrunk file end earlier.
pub(crate) async fn checkpoint(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    sqlx::query("pragma wal_checkpoint(passive)")
        .execute(connection)
        .await
        .map(drop)
}

fn unshare(error: sea_orm::DbErr) -> sqlx::Error {
    let error = from_orm(error);
    Arc::try_unwrap(error).unwrap_or_else(|shared| sqlx::Error::Protocol(shared.to_string()))
}

fn options(path: &Path, layout: &Layout) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .page_size(PAGE_BYTES)
        .auto_vacuum(SqliteAutoVacuum::Incremental)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY_TIMEOUT)
        .pragma(
            "wal_autocheckpoint",
            (layout.wal_bytes / 2 / u64::from(PAGE_BYTES)).to_string(),
        )
        .pragma("journal_size_limit", layout.wal_bytes.to_string())
        .pragma("cache_size", format!("-{}", layout.cache_kib))
        .pragma("trusted_schema", "off")
        .disable_statement_logging()
}

/// Says nothing of the file itself, unlike [`options`]: whoever asks for its journal waits until nobody writes.
fn reading(path: &Path, layout: &Layout) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(BUSY_TIMEOUT)
        .pragma("cache_size", format!("-{}", layout.cache_kib))
        .pragma("trusted_schema", "off")
        .pragma("query_only", "on")
        .disable_statement_logging()
}

async fn pool(connections: u32, options: SqliteConnectOptions) -> Result<SqlitePool, sqlx::Error> {
    pool_options(connections).connect_with(options).await
}

fn pool_options(connections: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .min_connections(1)
        .acquire_timeout(Duration::from_secs(30))
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
}

/// Makes an empty file ours; refuses one of another program.
async fn claim(path: &Path, place: &'static str, connection: &mut SqliteConnection) -> Result<(), OpenError> {
    let fail = |error| open_error(path, place, error);
    let row =
        sqlx::query("select application_id, (select count(*) from sqlite_schema) from pragma_application_id")
            .fetch_one(&mut *connection)
            .await
            .map_err(fail)?;
    let id: i64 = row.try_get(0).map_err(fail)?;
    let tables: i64 = row.try_get(1).map_err(fail)?;
    match (id, tables) {
        (APPLICATION_ID, _) => Ok(()),
        (0, 0) => {
            let sql = format!("pragma application_id = {APPLICATION_ID}");
            sqlx::query(AssertSqlSafe(sql))
                .execute(connection)
                .await
                .map(drop)
                .map_err(fail)
        }
        _ => Err(OpenError::Foreign {
            path: path.to_owned(),
            what: "a database of another program",
            place,
            source: None,
        }),
    }
}

/// sqlx asks for WAL and FULL; a file system without shared memory or locks may answer with something else.
async fn assert_durable(
    path: &Path,
    place: &'static str,
    connection: &mut SqliteConnection,
) -> Result<(), OpenError> {
    let fail = |error| open_error(path, place, error);
    let row = sqlx::query("select journal_mode, synchronous from pragma_journal_mode, pragma_synchronous")
        .fetch_one(connection)
        .await
        .map_err(fail)?;
    let journal: String = row.try_get(0).map_err(fail)?;
    let synchronous: i64 = row.try_get(1).map_err(fail)?;
    let refuse = |setting, found, needed| OpenError::NotDurable {
        path: path.to_owned(),
        setting,
        found,
        needed,
        place,
    };
    if !journal.eq_ignore_ascii_case("wal") {
        return Err(refuse("journal_mode", journal, "wal"));
    }
    #[cfg(feature = "planted-bugs")]
    let synchronous = if planted(Bug::FsyncSkipped) {
        2
    } else {
        synchronous
    };
    if synchronous < 2 {
        return Err(refuse("synchronous", synchronous.to_string(), "2 (full)"));
    }
    Ok(())
}

/// Applies what is missing of the schema; refuses a schema that is ahead.
async fn migrate<M: MigratorTrait>(
    path: &Path,
    place: &'static str,
    writer: &DatabaseConnection,
) -> Result<(), OpenError> {
    let fail = |error: sea_orm::DbErr| open_error(path, place, unshare(error));
    let known: Vec<_> = M::migrations()
        .iter()
        .map(|step| step.name().to_owned())
        .collect();
    let applied = if SchemaManager::new(writer)
        .has_table("seaql_migrations")
        .await
        .map_err(fail)?
    {
        M::get_migration_models(writer).await.map_err(fail)?
    } else {
        Vec::new()
    };
    if let Some(unknown) = applied.iter().find(|step| !known.contains(&step.version)) {
        return Err(OpenError::Newer {
            path: path.to_owned(),
            version: unknown.version.clone(),
        });
    }
    if applied.len() < known.len() {
        M::up(writer, None).await.map_err(fail)?;
    }
    Ok(())
}

fn open_error(path: &Path, place: &'static str, error: sqlx::Error) -> OpenError {
    let (path, code) = (path.to_owned(), result_code(&error).map(|code| code & 0xff));
    let source = Arc::new(error);
    let foreign = |what| OpenError::Foreign {
        path: path.clone(),
        what,
        place,
        source: Some(source.clone()),
    };
    match code {
        Some(26) => foreign("not a database"),
        Some(11) => foreign("a damaged database"),
        Some(8 | 14 | 3 | 23) => OpenError::Directory {
            path,
            what: "the file cannot be opened for writing",
            place,
            source: std::io::Error::other(source),
        },
        _ if fault(&source) == Fault::DiskFull => OpenError::Directory {
            path,
            what: "its disk is full",
            place,
            source: std::io::Error::other(source),
        },
        _ => OpenError::Database { path, source },
    }
}
