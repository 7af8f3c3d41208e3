//! A folder of its own for each test of the embedded mode, read by a plain connection.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqliteRow};
use sea_orm::sqlx::{AssertSqlSafe, Connection as _, Row as _, SqliteConnection, query};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::ledger::{Ledger, Report, StoredRow};
use crate::process::Service;

/// How long stored messages may stay behind accepted ones; slow machines need it, and no verdict depends on it.
const CATCH_UP: Duration = Duration::from_secs(180);

/// The data folder of one embedded process, removed when it is dropped.
#[derive(Debug)]
pub struct DataFolder {
    folder: TempDir,
}

impl DataFolder {
    /// Makes an empty folder.
    ///
    /// # Errors
    /// There is no room for temporary files.
    pub fn create() -> Result<Self> {
        Self::create_in(&std::env::temp_dir())
    }

    /// Makes an empty folder in another one, for whoever cares which disk it is on.
    ///
    /// # Errors
    /// There is no room for it.
    pub fn create_in(parent: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("warren-e2e-")
            .tempdir_in(parent)
            .with_context(|| format!("no temporary folder in {}", parent.display()))?;
        Ok(Self { folder })
    }

    /// Prepares the process over this folder.
    ///
    /// # Errors
    /// It is not built.
    pub fn warren(&self) -> Result<Service> {
        let path = self.folder.path().join("data");
        let path = path.to_str().context("the folder's name is not UTF-8")?;
        Ok(Service::new("warren")?
            .argument("serve")
            .setting("WARREN_EMBEDDED__PATH", path))
    }

    /// Returns a file of the folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join("data").join(name)
    }

    /// Runs a statement on a file, beside the process.
    ///
    /// # Errors
    /// The file is not there, or SQLite refuses the statement.
    pub async fn change(&self, file: &str, sql: &str) -> Result<()> {
        change(&self.file(file), sql).await
    }

    async fn open(&self, name: &str) -> Result<SqliteConnection> {
        open(&self.file(name)).await
    }

    /// Counts the rows of a table.
    async fn rows(&self, file: &str, table: &'static str) -> Result<u64> {
        rows(&self.file(file), table).await
    }

    /// Has SQLite look through a whole file, and returns what it says: `ok`, or what is broken.
    ///
    /// # Errors
    /// The file is not there or cannot be read.
    pub async fn integrity(&self, file: &str) -> Result<String> {
        let mut connection = self.open(file).await?;
        let row = query("pragma integrity_check").fetch_one(&mut connection).await?;
        connection.close().await?;
        Ok(row.try_get(0)?)
    }

    /// Counts the dead letters.
    ///
    /// # Errors
    /// The file is not there or cannot be read.
    pub async fn dead(&self) -> Result<u64> {
        self.rows("queue.db", "dead_letters").await
    }

    /// Counts the messages, also while the process runs.
    ///
    /// # Errors
    /// The file is not there or cannot be read.
    pub async fn count(&self) -> Result<u64> {
        self.rows("store.db", "messages").await
    }

    /// Waits until at least as many rows are stored as were accepted; the process must run.
    ///
    /// # Errors
    /// It does not come to that; the message has the difference.
    pub async fn wait_stored(&self, ledger: &Ledger) -> Result<()> {
        let deadline = Instant::now() + CATCH_UP;
        loop {
            let (stored, accepted) = (self.count().await?, ledger.tally().accepted);
            if stored >= accepted {
                return Ok(());
            }
            if Instant::now() > deadline {
                let report = self.check(ledger).await?;
                anyhow::bail!("{stored} rows for {accepted} accepted messages after {CATCH_UP:?}\n{report}");
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// Waits until everything is stored, stops the process politely, and compares every row.
    ///
    /// # Errors
    /// A message is missing or a dead letter, or the process does not stop.
    pub async fn settle(&self, ledger: &Ledger, warren: &mut Service) -> Result<Report> {
        self.wait_stored(ledger).await?;
        warren.stop(Duration::from_secs(30)).await?;
        let dead = self.rows("queue.db", "dead_letters").await?;
        ensure!(dead == 0, "{dead} messages became dead letters");
        self.check(ledger).await
    }

    /// Compares every row with the ledger.
    ///
    /// # Errors
    /// The rows cannot be read; what they should be is in the report.
    pub async fn check(&self, ledger: &Ledger) -> Result<Report> {
        let rows = self.read().await?;
        let mut check = ledger.check();
        for row in &rows {
            check.row(row);
        }
        Ok(check.finish())
    }

    /// Reads every message.
    ///
    /// # Errors
    /// The file cannot be read, or a column is of another type.
    pub async fn read(&self) -> Result<Vec<StoredRow>> {
        let mut connection = self.open("store.db").await?;
        let sql = "select id, severity, source, body, attributes, occurred_at, received_at, stored_at from messages";
        let rows = query(sql)
            .fetch_all(&mut connection)
            .await
            .context("cannot read the messages")?;
        connection.close().await?;
        rows.iter().map(stored_row).collect()
    }
}

/// Runs a statement on a file that lies anywhere, such as a book, beside the process that has it.
///
/// # Errors
/// It is not there, or SQLite refuses the statement.
pub async fn change(file: &Path, sql: &str) -> Result<()> {
    let options = SqliteConnectOptions::new().filename(file).busy_timeout(CATCH_UP);
    let mut connection = SqliteConnection::connect_with(&options).await?;
    query(AssertSqlSafe(sql.to_owned()))
        .execute(&mut connection)
        .await
        .with_context(|| format!("cannot run {sql:?} on {}", file.display()))?;
    connection.close().await?;
    Ok(())
}

async fn open(file: &Path) -> Result<SqliteConnection> {
    let options = SqliteConnectOptions::new()
        .filename(file)
        .read_only(true)
        .busy_timeout(CATCH_UP);
    SqliteConnection::connect_with(&options)
        .await
        .with_context(|| format!("cannot read {}", file.display()))
}

async fn rows(file: &Path, table: &'static str) -> Result<u64> {
    let mut connection = open(file).await?;
    let sql = match table {
        "messages" => "select count(*) from messages",
        _ => "select count(*) from dead_letters",
    };
    let row = query(sql).fetch_one(&mut connection).await?;
    connection.close().await?;
    Ok(u64::try_from(row.try_get::<i64, _>(0)?)?)
}

/// Counts the dead letters of a file that lies anywhere, such as a spool's.
///
/// # Errors
/// It is not there or cannot be read.
pub async fn dead_letters_in(file: &Path) -> Result<u64> {
    rows(file, "dead_letters").await
}

fn stored_row(row: &SqliteRow) -> Result<StoredRow> {
    let received_at: i64 = row.try_get(6)?;
    let stored_at: i64 = row.try_get(7)?;
    ensure!(
        stored_at >= received_at - 5_000_000,
        "stored before it was received"
    );
    Ok(StoredRow {
        id: Uuid::from_slice(row.try_get::<&[u8], _>(0)?)?,
        severity: row.try_get(1)?,
        source: row.try_get(2)?,
        body: row.try_get(3)?,
        attributes: serde_json::from_str(row.try_get(4)?)?,
        occurred_at: row.try_get(5)?,
        received_at,
    })
}
