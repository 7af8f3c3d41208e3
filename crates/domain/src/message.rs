//! The message itself.

use std::fmt;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::json::{self, without_nul};
use crate::{
    Attributes, Draft, Idempotency, MessageId, MessageLimits, Rejection, RejectionCode, Severity, Source,
    Timestamp,
};

/// One message, whole and valid: every store can hold it and give it back equal.
///
/// Outside of Rust a message is one JSON object, written by its [`Serialize`] and read by
/// [`Message::from_json`]; `docs/api.md` describes the fields.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Which message this is; sending it again means the same message.
    pub id: MessageId,
    /// How grave it is.
    pub severity: Severity,
    /// Who says it.
    pub source: Source,
    /// What is said.
    pub body: Body,
    /// The structured part.
    pub attributes: Attributes,
    /// When it happened, by the clock of whoever sent it.
    pub occurred_at: Timestamp,
    /// When Warren took it, by Warren's clock.
    pub received_at: Timestamp,
    /// What makes it recognisable when its request comes again under the same key; no store gives it back.
    pub idempotency: Option<Idempotency>,
}

impl Message {
    /// Reads a message that has been accepted before, as a queue or a file holds it.
    ///
    /// Unlike a draft it must have an `id`, or a second delivery could not be told from a second message. Without
    /// `received_at` the time in the id stands for it, without `occurred_at` the `received_at`. The limits are
    /// [`MessageLimits::CEILING`], so that lowering a setting never strands what was accepted before.
    ///
    /// # Errors
    /// A [`Rejection`] that names the field, the fault and the remedy.
    pub fn from_json(json: &[u8]) -> Result<Self, Rejection> {
        Self::accepted(Draft::from_json(json)?)
    }

    /// Reads a message as [`Message::from_json`] does, but not what it says: the body and the attributes are empty.
    ///
    /// For whoever needs no more than who, when and how grave, in lines that are known to be valid, such as those of
    /// Warren's own log: it costs a fraction, and does not notice what is wrong within the body or the attributes.
    ///
    /// # Errors
    /// A [`Rejection`] that names the field, the fault and the remedy; of what is read only.
    pub fn envelope_from_json(json: &[u8]) -> Result<Self, Rejection> {
        Self::accepted(json::envelope(json)?)
    }

    fn accepted(draft: Draft) -> Result<Self, Rejection> {
        let id = draft.id.ok_or_else(|| {
            Rejection::new(
                RejectionCode::MissingField,
                "/id",
                "no id, so a repeated delivery could not be recognised",
                "give every message a UUID of version 7",
            )
        })?;
        let received_at = draft.received_at.unwrap_or_else(|| id.timestamp());
        let idempotency = draft.idempotency;
        let draft = Draft {
            received_at: None,
            idempotency: None,
            ..draft
        };
        let message = draft.into_message(&MessageLimits::CEILING, received_at)?;
        Ok(Self {
            idempotency,
            ..message
        })
    }

    /// Appends the message as one line of JSON, newline included.
    pub fn append_json_line(&self, line: &mut Vec<u8>) {
        // Writing JSON into memory cannot fail: every key is a string, every number finite, and a Vec takes all.
        if serde_json::to_writer(&mut *line, self).is_ok() {
            line.push(b'\n');
        }
    }
}

impl Serialize for Message {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(None)?;
        object.serialize_entry("id", &self.id)?;
        object.serialize_entry("severity", &self.severity)?;
        object.serialize_entry("source", &self.source)?;
        object.serialize_entry("body", self.body.as_str())?;
        if !self.attributes.is_empty() {
            object.serialize_entry("attributes", &self.attributes)?;
        }
        object.serialize_entry("occurred_at", &self.occurred_at)?;
        object.serialize_entry("received_at", &self.received_at)?;
        if let Some(idempotency) = &self.idempotency {
            object.serialize_entry("idempotency", idempotency)?;
        }
        object.end()
    }
}

/// What a message says: any text without U+0000, of bounded length.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Body(String);

impl Body {
    /// Replaces U+0000, which PostgreSQL cannot hold, by U+FFFD; checks the length.
    ///
    /// # Errors
    /// A [`Rejection`] at `/body` when the text is over `limits.body_bytes`, measured as it is kept: what passes here
    /// passes again behind the queue.
    pub fn new(text: String, limits: &MessageLimits) -> Result<Self, Rejection> {
        let text = without_nul(text);
        if text.len() > limits.body_bytes {
            return Err(Rejection::new(
                RejectionCode::TooLarge,
                "/body",
                format!(
                    "a body of {} bytes, over the limit of {}",
                    text.len(),
                    limits.body_bytes
                ),
                "send less, or split it into several messages",
            ));
        }
        Ok(Self(text))
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Body {
    /// Shows the length only: bodies are never logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(message: &Message) -> String {
        let mut line = Vec::new();
        message.append_json_line(&mut line);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn a_message_reads_back_equal_from_its_line() {
        let json = r#"{"severity":"warn","source":"a.b","body":"naïve \"☃\" 𝄞\n","occurred_at":"2026-11-22T13:00:00.5Z",
            "attributes":{"n":1e300,"m":-0.1,"big":18446744073709551615,"s":"\u0000","deep":{"er":[null,true]}}}"#;
        let message = Draft::from_json(json.as_bytes())
            .and_then(|draft| draft.into_message(&MessageLimits::default(), Timestamp::now()))
            .unwrap();
        let keyed = Message {
            idempotency: Some(Idempotency {
                token: [0xab; 16],
                request: 1,
                digest: u64::MAX,
            }),
            ..message.clone()
        };
        for message in [message, keyed] {
            let line = line(&message);
            assert!(line.ends_with("}\n") && line.matches('\n').count() == 1);
            assert_eq!(Message::from_json(line.as_bytes()), Ok(message));
        }
    }

    #[test]
    fn an_accepted_message_needs_an_id_and_nothing_but_a_body_beside() {
        let message =
            Message::from_json(br#"{"id":"019aa0c0-0000-7000-8000-000000000001","body":""}"#).unwrap();
        assert_eq!(message.received_at, message.id.timestamp());
        assert_eq!(message.occurred_at, message.received_at);
        assert_eq!(message.severity, Severity::Info);
        let rejection = Message::from_json(br#"{"body":"x"}"#).unwrap_err();
        assert_eq!(
            (rejection.code, rejection.pointer.as_str()),
            (RejectionCode::MissingField, "/id")
        );
    }

    #[test]
    fn an_envelope_is_the_message_without_what_it_says() {
        for fields in [
            r#""body":"""#,
            r#""body":"naïve \"☃\" \ud834\udd1e\n","attributes":{"body":"no","n":[1e300,{"id":null}]}"#,
            r#""received_at":"2026-11-22T13:00:00Z","attributes":{},"severity":"WARN","body":"x""#,
            r#""occurred_at":"2026-11-22T13:00:00+01:00","body":"x","source":"a\u002eb","severity":null"#,
            r#""idempotency":"00000000000000000000000000000001/0000000000000002/0000000000000003","body":"x""#,
        ] {
            let json = format!(r#" {{{fields},"id":"019aa0c0-0000-7000-8000-000000000001"}} "#);
            let expected = Message {
                body: Body(String::new()),
                attributes: Attributes::default(),
                ..Message::from_json(json.as_bytes()).unwrap()
            };
            assert_eq!(
                Message::envelope_from_json(json.as_bytes()),
                Ok(expected),
                "{json}"
            );
        }
    }

    #[test]
    fn an_envelope_is_refused_for_what_is_read_of_it_alone() {
        let id = r#""id":"019aa0c0-0000-7000-8000-000000000001""#;
        for fields in [
            r#""body":"x""#.to_owned(),
            id.to_owned(),
            format!(r#"{id},"body":null"#),
            format!(r#"{id},"body":"x","source":"a b""#),
            format!(r#"{id},"body":"x","severity":3"#),
            format!(r#"{id},"body":"x","received_at":"now""#),
            format!(r#"{id},"body":"x","msg":"y""#),
            format!(r#"{id},"body":"x","idempotency":"1/2/3""#),
            format!(r#"{id},"body":"x","body":"y""#),
        ] {
            let json = format!("{{{fields}}}");
            let rejection = Message::from_json(json.as_bytes()).unwrap_err();
            assert_eq!(Message::envelope_from_json(json.as_bytes()), Err(rejection));
        }
        for cut in [
            format!("{{{id},\"body\":\"x"),
            format!("{{{id},\"body\":\"x\"}} {{}}"),
        ] {
            assert!(Message::envelope_from_json(cut.as_bytes()).is_err());
        }
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        for content in [r#""body":3"#, &format!(r#""body":"","attributes":{deep}"#)] {
            let json = format!("{{{id},{content}}}");
            assert!(Message::from_json(json.as_bytes()).is_err());
            assert!(Message::envelope_from_json(json.as_bytes()).is_ok());
        }
    }

    #[test]
    fn a_lowered_limit_does_not_strand_what_was_accepted() {
        let body = "x".repeat(MessageLimits::CEILING.body_bytes);
        let json = format!(r#"{{"id":"019aa0c0-0000-7000-8000-000000000001","body":"{body}"}}"#);
        assert!(Message::from_json(json.as_bytes()).is_ok());
    }

    #[test]
    fn a_body_is_measured_as_it_is_kept() {
        let limits = MessageLimits {
            body_bytes: 6,
            ..MessageLimits::default()
        };
        assert_eq!(
            Body::new("\0\0".to_owned(), &limits).unwrap().as_str(),
            "\u{fffd}\u{fffd}"
        );
        assert_eq!(
            Body::new("\0\0\0".to_owned(), &limits).unwrap_err().code,
            RejectionCode::TooLarge
        );
    }

    #[test]
    fn a_body_is_never_shown_by_debug() {
        let body = Body::new("secret".to_owned(), &MessageLimits::default()).unwrap();
        assert_eq!(format!("{body:?}"), "Body(6 bytes)");
    }
}
