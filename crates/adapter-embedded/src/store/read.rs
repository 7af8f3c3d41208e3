//! A look at what is stored, through sea-orm.

use std::sync::Arc;

use sea_orm::{ColumnTrait, EntityTrait, FromQueryResult, QueryFilter, QueryOrder, QuerySelect};
use warren_domain::ports::{Cause, StoreError};
use warren_domain::{Message, MessageId, Severity, SeverityCounts};

use crate::database::Database;
use crate::entity::{message, message_count};
use crate::error::{from_orm, store_error};

/// How many ids one statement asks for.
const IDS: usize = 1_000;

/// Reads what the embedded adapter keeps.
#[derive(Clone, Debug)]
pub struct EmbeddedReader {
    pub(crate) store: Arc<Database>,
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
