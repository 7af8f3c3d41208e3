//! A database of its own for each test, read by a plain connection.

use std::pin::pin;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::TryStreamExt as _;
use time::OffsetDateTime;
use tokio_postgres::{Client, NoTls};

use crate::ledger::{Ledger, Report, StoredRow};

/// A database that exists for one test.
#[derive(Debug)]
pub struct TestDatabase {
    server: String,
    name: String,
}

/// Opens a connection that ends when the client is dropped.
///
/// # Errors
/// The server does not answer; the message says how to point the tests to another one.
pub async fn connect(url: &str) -> Result<Client> {
    let connecting = tokio::time::timeout(Duration::from_secs(10), tokio_postgres::connect(url, NoTls));
    let (client, connection) = connecting
        .await
        .context("PostgreSQL does not answer")?
        .context("cannot connect to PostgreSQL; start one, or set WARREN_TEST_POSTGRES_URL")?;
    tokio::spawn(connection);
    Ok(client)
}

impl TestDatabase {
    /// Makes an empty database on the server at `url`, whose user must be allowed to.
    ///
    /// # Errors
    /// The server does not answer, or refuses.
    pub async fn create(url: &str) -> Result<Self> {
        let name = format!("warren_e2e_{:012x}", fastrand::u64(..1 << 48));
        connect(url)
            .await?
            .batch_execute(&format!("create database {name}"))
            .await?;
        Ok(Self {
            server: url.to_owned(),
            name,
        })
    }

    /// Returns the URL of the database.
    pub fn url(&self) -> String {
        with_database(&self.server, &self.name)
    }

    /// Opens a connection to the database.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn connect(&self) -> Result<Client> {
        connect(&self.url()).await
    }

    /// Counts the messages.
    ///
    /// # Errors
    /// The server does not answer, or the table is not there.
    pub async fn count(&self) -> Result<u64> {
        let row = self
            .connect()
            .await?
            .query_one("select count(*) from messages", &[])
            .await?;
        Ok(u64::try_from(row.get::<_, i64>(0))?)
    }

    /// Compares every row with the ledger.
    ///
    /// # Errors
    /// The rows cannot be read; what they should be is in the report.
    pub async fn check(&self, ledger: &Ledger) -> Result<Report> {
        let mut rows = Vec::new();
        // Large bodies first into memory, then compared: the ledger is locked while it compares.
        self.each_row(|row| rows.push(row)).await?;
        let mut check = ledger.check();
        for row in &rows {
            check.row(row);
        }
        Ok(check.finish())
    }

    /// Reads every message.
    ///
    /// # Errors
    /// The server does not answer, or a column is of another type.
    pub async fn each_row(&self, mut each: impl FnMut(StoredRow)) -> Result<()> {
        let client = self.connect().await?;
        let sql = "select id, severity, source, body, attributes, occurred_at, received_at, stored_at from messages";
        let rows = client
            .query_raw(sql, std::iter::empty::<i32>())
            .await
            .context("cannot read the messages")?;
        let mut rows = pin!(rows);
        while let Some(row) = rows.try_next().await? {
            let stored_at: OffsetDateTime = row.try_get(7)?;
            let received_at: OffsetDateTime = row.try_get(6)?;
            ensure!(
                stored_at >= received_at - Duration::from_secs(5),
                "stored before it was received"
            );
            each(StoredRow {
                id: row.try_get(0)?,
                severity: row.try_get(1)?,
                source: row.try_get(2)?,
                body: row.try_get(3)?,
                attributes: row.try_get(4)?,
                occurred_at: micros(row.try_get(5)?),
                received_at: micros(received_at),
            });
        }
        Ok(())
    }

    /// Removes the database, whoever is connected to it.
    ///
    /// # Errors
    /// The server does not answer, or refuses.
    pub async fn drop(self) -> Result<()> {
        let sql = format!("drop database if exists {} with (force)", self.name);
        connect(&self.server)
            .await?
            .batch_execute(&sql)
            .await
            .context("cannot drop the test's database")
    }
}

fn micros(moment: OffsetDateTime) -> i64 {
    i64::try_from(moment.unix_timestamp_nanos() / 1_000).unwrap_or(i64::MAX)
}

/// Replaces the database in a URL.
fn with_database(url: &str, name: &str) -> String {
    let (address, parameters) = url.split_once('?').map_or((url, None), |(a, p)| (a, Some(p)));
    let host = address.find("://").map_or(0, |at| at + 3);
    let end = address[host..].find('/').map_or(address.len(), |at| host + at);
    let parameters = parameters
        .map(|parameters| format!("?{parameters}"))
        .unwrap_or_default();
    format!("{}/{name}{parameters}", &address[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_of_a_url_is_replaced() {
        for (url, expected) in [
            ("postgres://u:p@h:1/old", "postgres://u:p@h:1/new"),
            ("postgres://u@h", "postgres://u@h/new"),
            (
                "postgres://u@h:1/old?sslmode=disable",
                "postgres://u@h:1/new?sslmode=disable",
            ),
        ] {
            assert_eq!(with_database(url, "new"), expected);
        }
    }
}
