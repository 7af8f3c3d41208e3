//! A message as a client sends it, before Warren has taken it.

use serde_json::{Map, Value};

use crate::{
    Attributes, Body, Idempotency, Message, MessageId, MessageLimits, Rejection, RejectionCode, Severity,
    Source, Timestamp, json,
};

/// A message as a client sends it: every field but the body may be absent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Draft {
    /// The client's own id; absent, Warren makes one and a repeated request makes another.
    pub id: Option<MessageId>,
    /// Absent: [`Severity::Info`].
    pub severity: Option<Severity>,
    /// Absent: [`Source::default`].
    pub source: Option<Source>,
    /// The one required field.
    pub body: Option<String>,
    /// Absent: none.
    pub attributes: Option<Map<String, Value>>,
    /// Absent: the time of arrival.
    pub occurred_at: Option<Timestamp>,
    /// Present only in a message that was accepted before; a client's draft with it is refused.
    pub received_at: Option<Timestamp>,
    /// Present only in a message that was accepted before; a client's draft with it is refused.
    pub idempotency: Option<Idempotency>,
}

impl Draft {
    /// Reads one JSON object.
    ///
    /// Strict where a silent choice would lose something: unknown fields, a key given twice and values of another
    /// type are refused. A field that is `null` counts as absent.
    ///
    /// # Errors
    /// A [`Rejection`] that names the first fault found.
    pub fn from_json(json: &[u8]) -> Result<Self, Rejection> {
        json::draft(json)
    }

    /// Makes the message: checks it against `limits`, gives it an id where it has none.
    ///
    /// # Errors
    /// A [`Rejection`] that names the field, the fault and the remedy.
    pub fn into_message(self, limits: &MessageLimits, received_at: Timestamp) -> Result<Message, Rejection> {
        if self.received_at.is_some() {
            return Err(Rejection::new(
                RejectionCode::ReadOnlyField,
                "/received_at",
                "received_at is set by Warren",
                "leave it out; the time of the event itself is occurred_at",
            ));
        }
        if self.idempotency.is_some() {
            return Err(Rejection::new(
                RejectionCode::ReadOnlyField,
                "/idempotency",
                "idempotency is set by Warren",
                "leave it out; send the key of the request as the header Idempotency-Key",
            ));
        }
        let body = self.body.ok_or_else(|| {
            Rejection::new(
                RejectionCode::MissingField,
                "/body",
                "no body",
                "add what the message says as a string: {\"body\":\"…\"}",
            )
        })?;
        Ok(Message {
            id: self.id.unwrap_or_else(MessageId::generate),
            severity: self.severity.unwrap_or(Severity::Info),
            source: self.source.unwrap_or_default(),
            body: Body::new(body, limits)?,
            attributes: self
                .attributes
                .map_or_else(|| Ok(Attributes::default()), |map| Attributes::new(map, limits))?,
            occurred_at: self.occurred_at.unwrap_or(received_at),
            received_at,
            idempotency: None,
        })
    }
}
