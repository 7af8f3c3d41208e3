//! What can go wrong with SQLite, sorted by what the caller is to do.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use sea_orm::{DbErr, RuntimeErr, sqlx};
use warren_domain::ports::{Cause, StoreError};

/// Why a data directory, or a book of counts, could not be opened. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory cannot be made, read or written.
    #[error("the data directory {path} cannot be used: {what}; let {place} name a directory that this user may write", path = path.display())]
    Directory {
        /// The directory, or the file in it.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// The setting that names the place.
        place: &'static str,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// Another process has it open.
    #[error("the data directory {path} is in use by another process; stop that one, or let {place} name another directory", path = path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The setting that names it.
        place: &'static str,
    },
    /// A file in it is not what its name says.
    #[error("{path} is {what}; move it away, restore it from a backup, or let {place} name another directory", path = path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        what: &'static str,
        /// The setting that names the place.
        place: &'static str,
        /// SQLite's answer, where there is one.
        #[source]
        source: Option<Cause>,
    },
    /// A later version of Warren has written it.
    #[error("{path} was written by a later version of Warren (its schema has {version}); run that version or a later one", path = path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// The first step of its schema that this version does not know.
        version: String,
    },
    /// The file system cannot do what durability needs.
    #[error("{path}: {setting} is {found} and not {needed}, so a crash could lose messages; let {place} name a directory on a local disk", path = path.display())]
    NotDurable {
        /// The file.
        path: PathBuf,
        /// The setting of SQLite.
        setting: &'static str,
        /// What SQLite made of it.
        found: String,
        /// What it has to be.
        needed: &'static str,
        /// The setting that names the place.
        place: &'static str,
    },
    /// Anything else that SQLite says.
    #[error("{path} cannot be opened", path = path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// SQLite's answer.
        #[source]
        source: Cause,
    },
}

/// What a failed statement means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// No room on the disk.
    DiskFull,
    /// The disk did not take a write or an fsync: what is in memory and what is on disk may differ.
    DiskBroken,
    /// May work later.
    Passing,
    /// No wait mends it: rights, schema, a damaged file.
    Broken,
    /// One of the values.
    Value,
}

/// Sorts SQLite's result codes (<https://www.sqlite.org/rescode.html>); the text never decides.
pub(crate) fn fault(error: &sqlx::Error) -> Fault {
    let Some(code) = result_code(error) else {
        return match error {
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::ColumnNotFound(_) | sqlx::Error::Decode(_) => {
                Fault::Broken
            }
            _ => Fault::Passing,
        };
    };
    const IOERR_WRITE: i32 = 778;
    const IOERR_FSYNC: i32 = 1034;
    const IOERR_DIR_FSYNC: i32 = 1290;
    match (code & 0xff, code) {
        (13, _) => Fault::DiskFull,
        (10, IOERR_WRITE | IOERR_FSYNC | IOERR_DIR_FSYNC) => Fault::DiskBroken,
        // busy, locked, out of memory, interrupted, other I/O, cannot open (out of file descriptors), protocol
        (5 | 6 | 7 | 9 | 10 | 14 | 15, _) => Fault::Passing,
        // too big, constraint, mismatch
        (18..=20, _) => Fault::Value,
        _ => Fault::Broken,
    }
}

/// Returns SQLite's extended result code.
pub(crate) fn result_code(error: &sqlx::Error) -> Option<i32> {
    error.as_database_error()?.code()?.parse().ok()
}

/// Unwraps sea-orm's error, which for SQLite carries sqlx's.
pub(crate) fn from_orm(error: DbErr) -> Arc<sqlx::Error> {
    match error {
        DbErr::Conn(RuntimeErr::SqlxError(error))
        | DbErr::Exec(RuntimeErr::SqlxError(error))
        | DbErr::Query(RuntimeErr::SqlxError(error)) => error,
        other => Arc::new(sqlx::Error::Protocol(chain(&other))),
    }
}

/// Writes an error and its sources in one line.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        // sqlx and sea-orm repeat their source.
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = error.source();
    }
    text
}

/// Says in words what a fault means for whoever runs the program.
pub(crate) fn explain(fault: Fault, path: &std::path::Path) -> String {
    let path = path.display();
    match fault {
        Fault::DiskFull => format!("the disk of {path} is full; make room on it"),
        Fault::DiskBroken => {
            format!("the disk of {path} failed to write; check the disk, then restart the program")
        }
        Fault::Passing => format!("{path} cannot be written at the moment"),
        Fault::Broken => {
            format!("{path} is not what this program wrote; check its rights, or restore it from a backup")
        }
        Fault::Value => format!("{path} does not take one of the values"),
    }
}

/// Makes the port's error of a failed statement on the store.
pub(crate) fn store_error(error: sqlx::Error, path: &std::path::Path) -> StoreError {
    let fault = fault(&error);
    let reason = match (fault, error.as_database_error()) {
        // Which constraint: SQLite names columns here, and shows no value of a row.
        (Fault::Value, Some(said)) => format!("SQLite does not take one of the values: {}", said.message()),
        _ => explain(fault, path),
    };
    let cause: Option<Cause> = Some(Arc::new(error));
    match fault {
        Fault::DiskFull | Fault::DiskBroken | Fault::Passing => StoreError::Unavailable { reason, cause },
        Fault::Broken => StoreError::Misconfigured { reason, cause },
        Fault::Value => StoreError::Rejected { reason, cause },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
    use sea_orm::sqlx::{AssertSqlSafe, ConnectOptions, Executor};

    async fn run(connection: &mut SqliteConnection, sql: &'static str) -> Result<(), sqlx::Error> {
        connection.execute(AssertSqlSafe(sql)).await.map(drop)
    }

    #[tokio::test]
    async fn what_sqlite_answers_is_sorted_by_its_code() {
        let directory = tempfile::tempdir().unwrap();
        let options = SqliteConnectOptions::new()
            .filename(directory.path().join("a.db"))
            .busy_timeout(std::time::Duration::ZERO)
            .create_if_missing(true);
        let mut connection = options.connect().await.unwrap();
        for sql in [
            "pragma max_page_count = 8",
            "create table t (a integer primary key, b blob not null) strict",
        ] {
            run(&mut connection, sql).await.unwrap();
        }
        for (sql, expected) in [
            ("insert into t values (1, zeroblob(1000000))", Fault::DiskFull),
            ("insert into t values (1, zeroblob(2000000000))", Fault::Value),
            ("insert into t values (1, null)", Fault::Value),
            ("insert into t values ('a', x'00')", Fault::Value),
            ("insert into elsewhere values (1)", Fault::Broken),
            (
                "pragma query_only = on; insert into t values (1, x'00')",
                Fault::Broken,
            ),
        ] {
            let error = run(&mut connection, sql).await.unwrap_err();
            assert_eq!(fault(&error), expected, "{sql}: {error}");
        }
        let mut other = options.connect().await.unwrap();
        run(&mut other, "begin immediate").await.unwrap();
        let error = run(&mut connection, "pragma query_only = off; begin immediate")
            .await
            .unwrap_err();
        assert_eq!(fault(&error), Fault::Passing, "{error}");
    }

    #[tokio::test]
    async fn a_refusal_says_which_constraint() {
        let mut connection = SqliteConnectOptions::new().connect().await.unwrap();
        let table = "create table t (a text check (a <> 'secret'), b text not null)";
        run(&mut connection, table).await.unwrap();
        let refused = async |connection: &mut SqliteConnection, sql| {
            let error = run(connection, sql).await.unwrap_err();
            match store_error(error, std::path::Path::new("/data/store.db")) {
                StoreError::Rejected { reason, .. } => reason,
                other => panic!("{other}"),
            }
        };
        let reason = refused(&mut connection, "insert into t values ('secret', '')").await;
        assert!(
            reason.ends_with("CHECK constraint failed: a <> 'secret'"),
            "{reason}"
        );
        let reason = refused(&mut connection, "insert into t values ('secret value', null)").await;
        assert_eq!(
            reason,
            "SQLite does not take one of the values: NOT NULL constraint failed: t.b"
        );
    }

    #[test]
    fn every_fault_is_explained_with_the_file() {
        for fault in [
            Fault::DiskFull,
            Fault::DiskBroken,
            Fault::Passing,
            Fault::Broken,
            Fault::Value,
        ] {
            assert!(explain(fault, std::path::Path::new("/data/queue.db")).contains("/data/queue.db"));
        }
    }
}
