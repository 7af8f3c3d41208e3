//! What nobody could store.

use sea_orm::FromQueryResult;
use sea_orm::Value;
use sea_orm::entity::prelude::*;
use warren_domain::ports::{DeadLetter, DeadLetterId, KeptLetter, LetterFacts, LetterText, Revision};
use warren_domain::{Severity, Timestamp};

use super::dead_letter_before;
use crate::queue::dead_letter::{DeadLine, Origin};
use crate::queue::known_as;
use crate::section::Section;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "dead_letters")]
pub(crate) struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) id: Uuid,
    pub(crate) revision: Uuid,
    /// The deaths that are known, 16 bytes each, the last one first.
    pub(crate) death: Vec<u8>,
    pub(crate) first_at: i64,
    pub(crate) last_at: i64,
    pub(crate) attempts: i64,
    pub(crate) severity: Option<i16>,
    pub(crate) reason: String,
    pub(crate) detail: String,
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
    pub(crate) queue: String,
    pub(crate) source: Option<String>,
    pub(crate) message_type: Option<String>,
    pub(crate) content_encoding: Option<String>,
    pub(crate) content: Vec<u8>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// Keeps a letter, or another death of one that is kept; its values are those of [`Model::into_values`].
pub(crate) const KEEP: &str = "insert into dead_letters values (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?) \
    on conflict (id) do update set revision = excluded.revision, \
    death = substr(cast(excluded.death || death as blob), 1, 16 * 128), reason = excluded.reason, \
    detail = excluded.detail, queue = excluded.queue, attempts = attempts + excluded.attempts, \
    last_at = max(last_at, excluded.last_at) where instr(death, excluded.death) = 0";

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
    first_at: i64,
    last_at: i64,
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
                first_at: Timestamp::from_unix_micros(row.first_at).unwrap_or(Timestamp::MIN),
                last_at: Timestamp::from_unix_micros(row.last_at).unwrap_or(Timestamp::MAX),
            },
            revision: Revision::from_uuid(row.revision),
            bytes: u64::try_from(row.bytes).unwrap_or(0),
        }
    }
}

impl Model {
    /// Makes the row of a letter.
    pub(crate) fn of(letter: &DeadLetter, revision: Revision) -> Self {
        let facts = &letter.facts;
        let text = |text: &LetterText| text.as_str().to_owned();
        Self {
            id: facts.id.as_uuid(),
            revision: revision.as_uuid(),
            death: letter.death.as_uuid().as_bytes().to_vec(),
            first_at: facts.first_at.unix_micros(),
            last_at: facts.last_at.unix_micros(),
            attempts: i64::try_from(facts.attempts).unwrap_or(i64::MAX),
            severity: facts.severity.map(|severity| severity.number().into()),
            reason: text(&facts.reason),
            detail: text(&facts.detail),
            exchange: text(&facts.exchange),
            routing_key: text(&facts.routing_key),
            queue: text(&facts.queue),
            source: facts.source.as_ref().map(ToString::to_string),
            message_type: facts.message_type.as_ref().map(text),
            content_encoding: facts.content_encoding.as_ref().map(text),
            content: letter.content.clone(),
        }
    }

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

    /// Returns what [`KEEP`] binds, in its order.
    pub(crate) fn into_values(self) -> [Value; 16] {
        [
            self.id.into(),
            self.revision.into(),
            self.death.into(),
            self.first_at.into(),
            self.last_at.into(),
            self.attempts.into(),
            self.severity.into(),
            self.reason.into(),
            self.detail.into(),
            self.exchange.into(),
            self.routing_key.into(),
            self.queue.into(),
            self.source.into(),
            self.message_type.into(),
            self.content_encoding.into(),
            self.content.into(),
        ]
    }
}

impl From<dead_letter_before::Model> for Model {
    fn from(row: dead_letter_before::Model) -> Self {
        let origin = Origin {
            // There were no spools yet.
            queue: known_as(&row.group, Section::Embedded).to_owned(),
            group: row.group,
            seq: row.seq,
            severity: row.severity.into(),
            received_at: row.first_seen,
            attempt: u32::try_from(row.attempt).unwrap_or(1),
        };
        let line = DeadLine {
            place: usize::try_from(row.place).unwrap_or(0),
            code: row.reason,
            detail: row.detail,
            line: row.line,
        };
        let died_at = Timestamp::from_unix_micros(row.died_at).unwrap_or_else(Timestamp::now);
        Self::of(&line.letter(&origin, died_at), Revision::generate())
    }
}
