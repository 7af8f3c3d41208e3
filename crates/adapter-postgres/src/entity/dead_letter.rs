//! A row of `dead_letters`.

use sea_orm::ActiveValue::Set;
use sea_orm::FromQueryResult;
use sea_orm::entity::prelude::*;
use warren_domain::ports::{DeadLetter, DeadLetterId, KeptLetter, LetterFacts, LetterText, Revision};
use warren_domain::{Severity, Timestamp};

use super::message::timestamp;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "dead_letters")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub revision: Uuid,
    pub death: Uuid,
    pub first_at: TimeDateTimeWithTimeZone,
    pub last_at: TimeDateTimeWithTimeZone,
    pub attempts: i64,
    pub severity: Option<i16>,
    pub reason: String,
    pub detail: String,
    pub exchange: String,
    pub routing_key: String,
    pub queue: String,
    pub source: Option<String>,
    pub message_type: Option<String>,
    pub content_encoding: Option<String>,
    pub content: Vec<u8>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// The columns of a letter that is listed: all but its bytes.
pub(crate) const LISTED: [Column; 14] = [
    Column::Id,
    Column::Revision,
    Column::FirstAt,
    Column::LastAt,
    Column::Attempts,
    Column::Severity,
    Column::Reason,
    Column::Detail,
    Column::Exchange,
    Column::RoutingKey,
    Column::Queue,
    Column::Source,
    Column::MessageType,
    Column::ContentEncoding,
];

/// A letter as it is listed.
#[derive(Clone, Debug, FromQueryResult)]
pub(crate) struct Listed {
    id: Uuid,
    revision: Uuid,
    first_at: TimeDateTimeWithTimeZone,
    last_at: TimeDateTimeWithTimeZone,
    attempts: i64,
    severity: Option<i16>,
    reason: String,
    detail: String,
    exchange: String,
    routing_key: String,
    queue: String,
    source: Option<String>,
    message_type: Option<String>,
    content_encoding: Option<String>,
    bytes: i64,
}

/// A letter as it is shown: with the first of its bytes.
#[derive(Clone, Debug, FromQueryResult)]
pub(crate) struct Shown {
    #[sea_orm(nested)]
    pub(crate) listed: Listed,
    pub(crate) content: Vec<u8>,
}

impl From<Listed> for KeptLetter {
    /// A value that Warren would not have written is shown as unknown, or at the edge of what there is: a letter is
    /// there to be looked at.
    fn from(row: Listed) -> Self {
        let text = |text: Option<String>| text.map(LetterText::from);
        Self {
            facts: LetterFacts {
                id: DeadLetterId::from_uuid(row.id),
                reason: row.reason.into(),
                detail: row.detail.into(),
                exchange: row.exchange.into(),
                routing_key: row.routing_key.into(),
                queue: row.queue.into(),
                severity: row
                    .severity
                    .and_then(|number| u8::try_from(number).ok())
                    .and_then(Severity::from_number),
                source: row.source.and_then(|source| source.parse().ok()),
                message_type: text(row.message_type),
                content_encoding: text(row.content_encoding),
                attempts: u64::try_from(row.attempts).unwrap_or(0),
                first_at: timestamp(row.first_at).unwrap_or(Timestamp::MIN),
                last_at: timestamp(row.last_at).unwrap_or(Timestamp::MAX),
            },
            revision: Revision::from_uuid(row.revision),
            bytes: u64::try_from(row.bytes).unwrap_or(0),
        }
    }
}

impl Model {
    /// Returns the row as it is listed, and its bytes.
    pub(crate) fn into_letter(self) -> (KeptLetter, Vec<u8>) {
        let listed = Listed {
            id: self.id,
            revision: self.revision,
            first_at: self.first_at,
            last_at: self.last_at,
            attempts: self.attempts,
            severity: self.severity,
            reason: self.reason,
            detail: self.detail,
            exchange: self.exchange,
            routing_key: self.routing_key,
            queue: self.queue,
            source: self.source,
            message_type: self.message_type,
            content_encoding: self.content_encoding,
            bytes: i64::try_from(self.content.len()).unwrap_or(i64::MAX),
        };
        (listed.into(), self.content)
    }
}

impl ActiveModel {
    /// Makes the row of a letter.
    pub(crate) fn of(letter: &DeadLetter, revision: Revision) -> Self {
        let facts = &letter.facts;
        let text = |text: &LetterText| Set(text.as_str().to_owned());
        let optional = |text: &Option<LetterText>| Set(text.as_ref().map(|text| text.as_str().to_owned()));
        Self {
            id: Set(facts.id.as_uuid()),
            revision: Set(revision.as_uuid()),
            death: Set(letter.death.as_uuid()),
            first_at: Set(moment(facts.first_at)),
            last_at: Set(moment(facts.last_at)),
            attempts: Set(i64::try_from(facts.attempts).unwrap_or(i64::MAX)),
            severity: Set(facts.severity.map(|severity| i16::from(severity.number()))),
            reason: text(&facts.reason),
            detail: text(&facts.detail),
            exchange: text(&facts.exchange),
            routing_key: text(&facts.routing_key),
            queue: text(&facts.queue),
            source: Set(facts.source.as_ref().map(ToString::to_string)),
            message_type: optional(&facts.message_type),
            content_encoding: optional(&facts.content_encoding),
            content: Set(letter.content.clone()),
        }
    }
}

/// Returns a moment as the column has it.
pub(crate) fn moment(timestamp: Timestamp) -> TimeDateTimeWithTimeZone {
    let nanos = i128::from(timestamp.unix_micros()) * 1_000;
    TimeDateTimeWithTimeZone::from_unix_timestamp_nanos(nanos).unwrap_or(TimeDateTimeWithTimeZone::UNIX_EPOCH)
}
