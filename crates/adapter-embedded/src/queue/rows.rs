//! The rows of the log, as the readers of it ask for them.

use sea_orm::sqlx::sqlite::SqlitePool;
use sea_orm::sqlx::{self, AssertSqlSafe, Row as _};
use warren_domain::{Severity, SeveritySet};

use super::head::Amount;

/// How many rows one fetch brings into memory.
pub(super) const FETCH_ROWS: usize = 64;
/// How many bytes one fetch brings into memory, beyond its first row.
const FETCH_BYTES: u64 = 4 << 20;

/// A row of the log, fetched for a group.
#[derive(Debug)]
pub(crate) struct LogRow {
    pub(crate) seq: i64,
    pub(crate) severity: i64,
    pub(crate) received_at: i64,
    pub(crate) traces: String,
    pub(crate) lines: Vec<u8>,
}

/// A row of the log, without what is in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) seq: i64,
    pub(super) received_at: i64,
    pub(super) amount: Amount,
}

/// Lists the next rows of some severities, without what is in them.
pub(super) async fn find(
    log: &SqlitePool,
    severities: SeveritySet,
    after: i64,
    to: i64,
) -> Result<Vec<Found>, sqlx::Error> {
    let sql = format!(
        "select seq, received_at, messages, length(lines) from log where seq > ? and seq <= ? and {} \
         order by seq limit {FETCH_ROWS}",
        heard(severities)
    );
    sqlx::query(AssertSqlSafe(sql))
        .bind(after)
        .bind(to)
        .fetch_all(log)
        .await?
        .into_iter()
        .map(|row| {
            Ok(Found {
                seq: row.try_get(0)?,
                received_at: row.try_get(1)?,
                amount: Amount::of_row(&row, 2)?,
            })
        })
        .collect()
}

/// Returns the first row of some severities behind `after`, and when it was received.
pub(super) async fn first(
    log: &SqlitePool,
    severities: SeveritySet,
    after: i64,
    to: i64,
) -> Result<Option<(i64, i64)>, sqlx::Error> {
    let sql = format!(
        "select seq, received_at from log where seq > ? and seq <= ? and {} order by seq limit 1",
        heard(severities)
    );
    let row = sqlx::query(AssertSqlSafe(sql))
        .bind(after)
        .bind(to)
        .fetch_optional(log)
        .await?;
    row.map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).transpose()
}

/// Writes the condition that a row of the log is of one of `severities`.
pub(crate) fn heard(severities: SeveritySet) -> String {
    if severities == SeveritySet::ALL {
        return "true".to_owned();
    }
    let numbers: Vec<_> = severities
        .iter()
        .map(|severity| Severity::number(severity).to_string())
        .collect();
    format!("severity in ({})", numbers.join(","))
}

/// Takes from the front as many rows as may be in memory at once, at least one.
pub(super) fn within_bounds(rows: impl Iterator<Item = (i64, u64)>) -> Vec<i64> {
    let mut sum = 0;
    let mut taken = Vec::new();
    for (seq, bytes) in rows.take(FETCH_ROWS) {
        sum += bytes;
        if sum > FETCH_BYTES && !taken.is_empty() {
            break;
        }
        taken.push(seq);
    }
    taken
}

/// Brings rows into memory.
pub(super) async fn read(log: &SqlitePool, seqs: &[i64]) -> Result<Vec<LogRow>, sqlx::Error> {
    if seqs.is_empty() {
        return Ok(Vec::new());
    }
    let list = serde_json::to_string(seqs).map_err(|error| sqlx::Error::Encode(error.into()))?;
    sqlx::query(
        "select seq, severity, received_at, traces, lines from log \
         where seq in (select value from json_each(?)) order by seq",
    )
    .bind(list)
    .fetch_all(log)
    .await?
    .into_iter()
    .map(|row| {
        Ok(LogRow {
            seq: row.try_get(0)?,
            severity: row.try_get(1)?,
            received_at: row.try_get(2)?,
            traces: row.try_get(3)?,
            lines: row.try_get(4)?,
        })
    })
    .collect()
}
