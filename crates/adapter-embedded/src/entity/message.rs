//! A stored message.

use sea_orm::entity::prelude::*;
use warren_domain::{
    Attributes, Body, Message, MessageId, MessageLimits, Rejection, Severity, Source, Timestamp,
};

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "messages")]
pub(crate) struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) id: Uuid,
    pub(crate) severity: i16,
    pub(crate) source: String,
    pub(crate) body: String,
    pub(crate) attributes: Json,
    pub(crate) occurred_at: i64,
    pub(crate) received_at: i64,
    pub(crate) stored_at: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// A row that this program has not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotAMessage {
    #[error("the {0} of a stored message is out of range")]
    Field(&'static str),
    #[error(transparent)]
    Rejected(#[from] Rejection),
}

impl TryFrom<Model> for Message {
    type Error = NotAMessage;

    fn try_from(row: Model) -> Result<Self, NotAMessage> {
        let limits = &MessageLimits::CEILING;
        let field = |name| move || NotAMessage::Field(name);
        let time = |micros, name| Timestamp::from_unix_micros(micros).ok_or_else(field(name));
        let Json::Object(attributes) = row.attributes else {
            return Err(NotAMessage::Field("attributes"));
        };
        Ok(Self {
            id: MessageId::try_from(row.id).map_err(|_| NotAMessage::Field("id"))?,
            severity: u8::try_from(row.severity)
                .ok()
                .and_then(Severity::from_number)
                .ok_or_else(field("severity"))?,
            source: row
                .source
                .parse::<Source>()
                .map_err(|_| NotAMessage::Field("source"))?,
            body: Body::new(row.body, limits)?,
            attributes: Attributes::new(attributes, limits)?,
            occurred_at: time(row.occurred_at, "occurred_at")?,
            received_at: time(row.received_at, "received_at")?,
            idempotency: None,
        })
    }
}
