//! A row of `messages`.

use sea_orm::entity::prelude::*;
use serde_json::Value;
use warren_domain::{Attributes, Body, Message, MessageId, MessageLimits, Rejection, Severity, Timestamp};

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "messages")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub occurred_at: TimeDateTimeWithTimeZone,
    pub received_at: TimeDateTimeWithTimeZone,
    pub stored_at: TimeDateTimeWithTimeZone,
    pub severity: i16,
    pub source: String,
    pub body: String,
    #[sea_orm(column_type = "JsonBinary")]
    pub attributes: Json,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// A row that no message of ours could have become.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("the {column} of {id} is not what Warren writes")]
pub(crate) struct ForeignRow {
    id: Uuid,
    column: &'static str,
    #[source]
    fault: Option<Rejection>,
}

impl Model {
    /// Reads the row as the message it was written from.
    pub(crate) fn into_message(self) -> Result<Message, ForeignRow> {
        let row = self;
        let id = row.id;
        let foreign = |column| {
            move || ForeignRow {
                id,
                column,
                fault: None,
            }
        };
        let rejected = |column| {
            move |fault| ForeignRow {
                id,
                column,
                fault: Some(fault),
            }
        };
        let severity = u8::try_from(row.severity).ok().and_then(Severity::from_number);
        let Value::Object(attributes) = row.attributes else {
            return Err(foreign("attributes")());
        };
        Ok(Message {
            id: MessageId::try_from(id).map_err(|_| foreign("id")())?,
            severity: severity.ok_or_else(foreign("severity"))?,
            source: row.source.parse().map_err(|_| foreign("source")())?,
            body: Body::new(row.body, &MessageLimits::CEILING).map_err(rejected("body"))?,
            attributes: Attributes::new(attributes, &MessageLimits::CEILING)
                .map_err(rejected("attributes"))?,
            occurred_at: timestamp(row.occurred_at).ok_or_else(foreign("occurred_at"))?,
            received_at: timestamp(row.received_at).ok_or_else(foreign("received_at"))?,
            idempotency: None,
        })
    }
}

pub(crate) fn timestamp(moment: TimeDateTimeWithTimeZone) -> Option<Timestamp> {
    let micros = moment.unix_timestamp_nanos().div_euclid(1_000);
    i64::try_from(micros).ok().and_then(Timestamp::from_unix_micros)
}
