//! A look at what is stored, through sea-orm.

use std::sync::Arc;

use sea_orm::{ColumnTrait, EntityTrait, FromQueryResult, QueryFilter, QueryOrder, QuerySelect};
use warren_domain::ports::{Cause, StoreError};
use warren_domain::{Message, MessageId, Severity, SeverityCounts, Timestamp};

use crate::database::Database;
use crate::entity::{dead_letter, message, message_count};
use crate::error::{from_orm, store_error};

/// How many ids one statement asks for.
const IDS: usize = 1_000;

/// Reads what the embedded adapter keeps.
#[derive(Clone, Debug)]
pub struct EmbeddedReader {
    pub(crate) queue: Arc<Database>,
    pub(crate) store: Arc<Database>,
}

/// Something nobody could store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The consumer group that refused it; `*store` is the way into the store.
    pub group: String,
    /// What kind of fault: `undecodable`, `refused_by_store`.
    pub reason: String,
    /// What is wrong, for people.
    pub detail: String,
    /// Which delivery was refused, from 1.
    pub attempt: u32,
    /// When it was queued.
    pub first_seen: Timestamp,
    /// When it was given up.
    pub died_at: Timestamp,
    /// The severity it was queued under.
    pub severity: Severity,
    /// Who said it; unknown of a line that could not be read.
    pub source: Option<String>,
    /// The line as it was queued.
    pub line: Vec<u8>,
}

#[derive(Debug, FromQueryResult)]
struct Sum {
    severity: i16,
    messages: i64,
}

impl EmbeddedReader {
    /// Returns the stored messages among `ids`, in the order of their ids.
    ///
    /// # Errors
    /// As [`warren_domain::ports::MessageStore::store`], without [`StoreError::Rejected`].
    pub async fn messages(&self, ids: &[MessageId]) -> Result<Vec<Message>, StoreError> {
        let mut ids: Vec<_> = ids.iter().map(|id| id.as_uuid()).collect();
        ids.sort_unstable();
        ids.dedup();
        let mut messages = Vec::new();
        for ids in ids.chunks(IDS) {
            let rows = message::Entity::find()
                .filter(message::Column::Id.is_in(ids.iter().copied()))
                .order_by_asc(message::Column::Id)
                .all(self.store.readers())
                .await
                .map_err(|error| failed(error, &self.store))?;
            for row in rows {
                messages.push(Message::try_from(row).map_err(|error| unreadable(error, &self.store))?);
            }
        }
        Ok(messages)
    }

    /// Returns how many messages are stored, from the counts that charts are drawn from.
    ///
    /// # Errors
    /// As [`EmbeddedReader::messages`].
    pub async fn counts(&self) -> Result<SeverityCounts, StoreError> {
        let sums = message_count::Entity::find()
            .select_only()
            .column(message_count::Column::Severity)
            .column_as(message_count::Column::Messages.sum(), "messages")
            .group_by(message_count::Column::Severity)
            .into_model::<Sum>()
            .all(self.store.readers())
            .await
            .map_err(|error| failed(error, &self.store))?;
        let mut counts = SeverityCounts::default();
        for sum in sums {
            if let Some(severity) = severity(sum.severity) {
                counts.add(severity, sum.messages.unsigned_abs());
            }
        }
        Ok(counts)
    }

    /// Returns the oldest dead letters, at most `limit`.
    ///
    /// # Errors
    /// As [`EmbeddedReader::messages`].
    pub async fn dead_letters(&self, limit: u64) -> Result<Vec<DeadLetter>, StoreError> {
        let rows = dead_letter::Entity::find()
            .order_by_asc(dead_letter::Column::Id)
            .limit(limit)
            .all(self.queue.readers())
            .await
            .map_err(|error| failed(error, &self.queue))?;
        rows.into_iter()
            .map(|row| {
                DeadLetter::try_from(row)
                    .map_err(|field| unreadable(message::NotAMessage::Field(field), &self.queue))
            })
            .collect()
    }
}

impl TryFrom<dead_letter::Model> for DeadLetter {
    type Error = &'static str;

    fn try_from(row: dead_letter::Model) -> Result<Self, &'static str> {
        Ok(Self {
            group: row.group,
            reason: row.reason,
            detail: row.detail,
            attempt: u32::try_from(row.attempt).map_err(|_| "attempt")?,
            first_seen: Timestamp::from_unix_micros(row.first_seen).ok_or("first_seen")?,
            died_at: Timestamp::from_unix_micros(row.died_at).ok_or("died_at")?,
            severity: severity(row.severity).ok_or("severity")?,
            source: row.source,
            line: row.line,
        })
    }
}

fn severity(number: i16) -> Option<Severity> {
    u8::try_from(number).ok().and_then(Severity::from_number)
}

fn failed(error: sea_orm::DbErr, database: &Database) -> StoreError {
    match Arc::try_unwrap(from_orm(error)) {
        Ok(error) => store_error(error, database.path()),
        Err(shared) => StoreError::Unavailable {
            reason: format!("{} cannot be read", database.path().display()),
            cause: Some(shared),
        },
    }
}

fn unreadable(error: message::NotAMessage, database: &Database) -> StoreError {
    let cause: Cause = Arc::new(error);
    StoreError::Misconfigured {
        reason: format!(
            "{} holds a row that this program has not written",
            database.path().display()
        ),
        cause: Some(cause),
    }
}
