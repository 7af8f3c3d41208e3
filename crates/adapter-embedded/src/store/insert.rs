//! Batches into the store: set-based, idempotent, counted.
//!
//! A batch is one transaction of multi-row inserts, which is what a duplicate-free batch costs anyway. When SQLite
//! inserts fewer rows than it was given, some were stored before; only then is it asked which.

use std::collections::{BTreeMap, HashSet};
use std::sync::LazyLock;
use std::time::Instant;

use metrics::histogram;
use sea_orm::sqlx::sqlite::SqliteConnection;
use sea_orm::sqlx::{self, Row};
use uuid::Uuid;
use warren_domain::ports::{StoreError, Stored};
use warren_domain::{Message, MessageId, SeverityCounts, Timestamp};

use super::Store;
use super::claims::{Claimed, claim};
use crate::database::Database;
use crate::metrics::{COMMIT_MESSAGES, COMMIT_SECONDS};
use crate::transaction::Transaction;

/// What a row takes beside its text: id, times, the entry in the index.
const ROW_BYTES: usize = 100;
const COLUMNS: usize = 8;
const COUNT_COLUMNS: usize = 4;

/// Numbers of rows for which a statement is kept: few texts to compile, few exchanges for any batch.
const STEPS: [usize; 5] = [256, 64, 16, 4, 1];

static INSERTS: LazyLock<[String; 5]> = LazyLock::new(|| {
    STEPS.map(|rows| {
        format!(
            "insert into messages values {} on conflict do nothing",
            placeholders(rows, COLUMNS)
        )
    })
});

static COUNTS: LazyLock<[String; 5]> = LazyLock::new(|| {
    STEPS.map(|rows| {
        format!(
            "insert into message_counts values {} on conflict (minute, severity, source) \
             do update set messages = messages + excluded.messages",
            placeholders(rows, COUNT_COLUMNS)
        )
    })
});

fn placeholders(rows: usize, columns: usize) -> String {
    let row = format!("({})", vec!["?"; columns].join(","));
    vec![row.as_str(); rows].join(",")
}

/// Cuts `items` into pieces for which there is a statement.
fn pieces<'i, 's, T>(
    mut items: &'i [T],
    statements: &'s [String; 5],
) -> impl Iterator<Item = (&'i [T], &'s str)> {
    std::iter::from_fn(move || {
        let place = STEPS.iter().position(|rows| *rows <= items.len())?;
        let (piece, rest) = items.split_at(STEPS[place]);
        items = rest;
        Some((piece, statements[place].as_str()))
    })
}

/// What a transaction stored.
#[derive(Debug)]
pub(super) struct Inserted {
    severities: SeverityCounts,
    /// How many messages there are.
    messages: usize,
    /// About what they take in the file.
    bytes: u64,
    /// How many were not stored because their token was taken.
    repeated: u64,
    /// How many are stored under a key that was known with other content.
    conflicting: u64,
}

impl Inserted {
    fn of(claimed: &Claimed<'_, '_>, messages: &[&Message], bytes: u64) -> Self {
        Self {
            severities: messages.iter().map(|message| message.severity).collect(),
            messages: messages.len(),
            bytes: bytes + claimed.bytes,
            repeated: claimed.repeated,
            conflicting: claimed.conflicting,
        }
    }
}

impl Store {
    pub(super) async fn insert(&self, batch: &[Message]) -> Result<Stored, StoreError> {
        let fail = |error| self.error(error);
        let began = Instant::now();
        let first = first_of_each_id(batch);
        let new = match insert_all(&self.database, &first).await.map_err(fail)? {
            Some(inserted) => inserted,
            None => insert_new(&self.database, &first).await.map_err(fail)?,
        };
        histogram!(COMMIT_SECONDS, "file" => "store").record(began.elapsed());
        histogram!(COMMIT_MESSAGES, "file" => "store").record(new.messages as f64);

        self.space.add_store(new.bytes);
        let inserted = new.severities;
        let all: SeverityCounts = batch.iter().map(|message| message.severity).collect();
        let mut duplicates = SeverityCounts::default();
        for ((severity, all), (_, inserted)) in all.iter().zip(inserted.iter()) {
            duplicates.add(severity, all - inserted);
        }
        Ok(Stored {
            inserted,
            duplicates,
            repeated: new.repeated,
            conflicting: new.conflicting,
        })
    }
}

/// Returns the first message under each id, sorted by id: neighbours in the index are then written together.
fn first_of_each_id(batch: &[Message]) -> Vec<&Message> {
    let mut first: Vec<_> = batch.iter().collect();
    // Stable, so the first of those with one id stays first.
    first.sort_by_key(|message| message.id);
    first.dedup_by_key(|message| message.id);
    first
}

/// Stores all of `messages` whose token is free, or nothing; `None` if some were stored before.
pub(super) async fn insert_all(
    database: &Database,
    messages: &[&Message],
) -> Result<Option<Inserted>, sqlx::Error> {
    let mut transaction = Transaction::begin(database.writer().await?).await?;
    let claimed = claim(transaction.connection(), messages).await?;
    let Some(bytes) = write(transaction.connection(), &claimed.messages).await? else {
        transaction.rollback().await?;
        return Ok(None);
    };
    transaction.commit().await?;
    Ok(Some(Inserted::of(&claimed, &claimed.messages, bytes)))
}

/// Stores those of `messages` whose token is free and that are not stored yet.
async fn insert_new(database: &Database, messages: &[&Message]) -> Result<Inserted, sqlx::Error> {
    let mut transaction = Transaction::begin(database.writer().await?).await?;
    let claimed = claim(transaction.connection(), messages).await?;
    let stored = stored_among(transaction.connection(), &claimed.messages).await?;
    let new: Vec<_> = claimed
        .messages
        .iter()
        .copied()
        .filter(|message| !stored.contains(&message.id.as_uuid()))
        .collect();
    let Some(bytes) = write(transaction.connection(), &new).await? else {
        // Nobody else writes while the transaction is open, so the file contradicts itself.
        return Err(sqlx::Error::Protocol(
            "the index of messages does not match its table; run `pragma integrity_check`".to_owned(),
        ));
    };
    transaction.commit().await?;
    Ok(Inserted::of(&claimed, &new, bytes))
}

async fn stored_among(
    connection: &mut SqliteConnection,
    messages: &[&Message],
) -> Result<HashSet<Uuid>, sqlx::Error> {
    let ids: Vec<_> = messages
        .iter()
        .map(|message| message.id.as_uuid().simple().to_string())
        .collect();
    let ids = serde_json::to_string(&ids).map_err(|error| sqlx::Error::Encode(error.into()))?;
    sqlx::query("select id from messages where id in (select unhex(value) from json_each(?))")
        .bind(ids)
        .fetch_all(connection)
        .await?
        .iter()
        .map(|row| row.try_get(0))
        .collect()
}

/// Inserts the rows and counts them; returns about what they take in the file.
///
/// `None`: some were there, and nothing of this may be committed.
async fn write(connection: &mut SqliteConnection, messages: &[&Message]) -> Result<Option<u64>, sqlx::Error> {
    let now = Timestamp::now().unix_micros();
    let mut bytes = 0;
    for (piece, sql) in pieces(messages, &INSERTS) {
        let mut insert = sqlx::query(sql);
        for message in piece {
            let attributes = serde_json::to_string(&message.attributes)
                .map_err(|error| sqlx::Error::Encode(error.into()))?;
            bytes +=
                ROW_BYTES + message.source.as_str().len() + message.body.as_str().len() + attributes.len();
            insert = insert
                .bind(message.id.as_uuid())
                .bind(i64::from(message.severity.number()))
                .bind(message.source.as_str())
                .bind(message.body.as_str())
                .bind(attributes)
                .bind(message.occurred_at.unix_micros())
                .bind(message.received_at.unix_micros())
                .bind(now);
        }
        let inserted = insert.execute(&mut *connection).await?.rows_affected();
        if inserted < piece.len() as u64 {
            return Ok(None);
        }
    }
    for (piece, sql) in pieces(&counts(messages), &COUNTS) {
        let mut upsert = sqlx::query(sql);
        for ((minute, severity, source), messages) in piece {
            upsert = upsert.bind(minute).bind(severity).bind(*source).bind(messages);
        }
        upsert.execute(&mut *connection).await?;
    }
    Ok(Some(bytes as u64))
}

type Count<'m> = ((i64, i64, &'m str), i64);

fn counts<'m>(messages: &[&'m Message]) -> Vec<Count<'m>> {
    let mut counts = BTreeMap::new();
    for message in messages {
        let key = (
            minute(message.id),
            i64::from(message.severity.number()),
            message.source.as_str(),
        );
        *counts.entry(key).or_insert(0) += 1;
    }
    counts.into_iter().collect()
}

/// Returns the minute the id was made in: the clock that the table is sorted and pruned by.
pub(super) const fn minute(id: MessageId) -> i64 {
    id.timestamp().unix_micros() / 60_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_rows_is_cut_into_pieces_that_have_a_statement() {
        for count in [0, 1, 3, 4, 255, 256, 257, 1_000] {
            let items: Vec<_> = (0..count).collect();
            let cut: Vec<_> = pieces(&items, &INSERTS).collect();
            assert!(
                cut.iter()
                    .all(|(piece, sql)| sql.matches('(').count() == piece.len())
            );
            assert!(cut.len() <= count / 256 + 12);
            assert_eq!(
                cut.into_iter()
                    .flat_map(|(piece, _)| piece.to_vec())
                    .collect::<Vec<_>>(),
                items
            );
        }
    }
}
