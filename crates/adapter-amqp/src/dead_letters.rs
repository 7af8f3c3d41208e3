//! Dead letters, as they are written.
//!
//! A dead letter holds the very bytes that could not be stored, in an AMQP message of its own whose headers say why,
//! so that it can be looked at and sent on its way again without this program.

use amqprs::{BasicProperties, FieldTable, FieldValue};
use warren_domain::Timestamp;
use warren_domain::ports::DeadLetterReason;

use crate::declaration::insert;
use crate::packet;

/// The most lines of one packet that become dead letters of their own; the rest share one. A packet of another
/// program may hold millions of lines that are no messages.
pub(crate) const MAX_LETTERS: usize = 1_000;

/// What kind of fault it is, such as `undecodable`.
pub(crate) const REASON: &str = "x-warren-reason";
/// What is wrong, for people.
pub(crate) const DETAIL: &str = "x-warren-detail";
/// Which delivery it was that failed.
pub(crate) const ATTEMPT: &str = "x-warren-attempt";
/// When Warren first had it, RFC 3339.
pub(crate) const FIRST_SEEN: &str = "x-warren-first-seen";
/// When it became a dead letter, RFC 3339.
pub(crate) const DIED_AT: &str = "x-warren-died-at";
/// The exchange it came through.
pub(crate) const EXCHANGE: &str = "x-warren-exchange";
/// The routing key it came with.
pub(crate) const ROUTING_KEY: &str = "x-warren-routing-key";
/// The queue of the consumer group that gave it up.
pub(crate) const QUEUE: &str = "x-warren-queue";

/// The longest detail, in bytes: all headers together stay far below the frame size, beyond which the broker closes
/// the connection.
const MAX_DETAIL: usize = 1_024;

/// The reason of whatever cannot be read.
pub(crate) fn undecodable(detail: impl Into<String>) -> DeadLetterReason {
    DeadLetterReason {
        code: "undecodable",
        detail: detail.into(),
    }
}

/// Where a packet came from, and how often.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    pub(crate) queue: String,
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
    pub(crate) attempt: u32,
    /// When it was published, or else when it came here.
    pub(crate) first_seen: Timestamp,
}

/// The envelope of a dead letter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Letter {
    /// The routing key of the original, so that whoever listens to dead letters can choose.
    pub(crate) routing_key: String,
    origin: Origin,
    code: &'static str,
    detail: String,
    died_at: Timestamp,
    message_type: Option<String>,
    content_type: Option<String>,
    content_encoding: Option<String>,
}

impl Letter {
    /// Makes the envelope of lines that could not be used.
    pub(crate) fn of_lines(origin: &Origin, first_seen: Timestamp, reason: &DeadLetterReason) -> Self {
        let origin = Origin {
            first_seen,
            ..origin.clone()
        };
        Self {
            routing_key: origin.routing_key.clone(),
            code: reason.code,
            detail: bounded(&reason.detail),
            died_at: Timestamp::now(),
            message_type: Some(packet::PACKET_TYPE.to_owned()),
            content_type: Some(packet::CONTENT_TYPE.to_owned()),
            content_encoding: None,
            origin,
        }
    }

    /// Makes the envelope of a whole packet that could not be used; it keeps saying what it says it is.
    pub(crate) fn of_packet(
        origin: &Origin,
        properties: &BasicProperties,
        reason: &DeadLetterReason,
    ) -> Self {
        Self {
            message_type: properties.message_type().cloned(),
            content_type: properties.content_type().cloned(),
            content_encoding: properties.content_encoding().cloned(),
            ..Self::of_lines(origin, origin.first_seen, reason)
        }
    }

    /// Returns the kind of fault, for metrics.
    pub(crate) fn code(&self) -> &'static str {
        self.code
    }

    pub(crate) fn properties(&self, message_id: &str) -> BasicProperties {
        let mut headers = FieldTable::new();
        let Origin {
            queue,
            exchange,
            routing_key,
            attempt,
            first_seen,
        } = &self.origin;
        for (name, value) in [
            (REASON, self.code),
            (DETAIL, &self.detail),
            (FIRST_SEEN, &first_seen.to_string()),
            (DIED_AT, &self.died_at.to_string()),
            (EXCHANGE, exchange),
            (ROUTING_KEY, routing_key),
            (QUEUE, queue),
        ] {
            insert(&mut headers, name, FieldValue::from(value));
        }
        insert(&mut headers, ATTEMPT, FieldValue::l((*attempt).into()));
        let mut properties = packet::stamped(message_id, headers);
        // What the original does not say, its letter does not say either: sent on its way again it is the same packet.
        if let Some(message_type) = &self.message_type {
            properties.with_message_type(message_type);
        }
        if let Some(content_type) = &self.content_type {
            properties.with_content_type(content_type);
        }
        if let Some(encoding) = &self.content_encoding {
            properties.with_content_encoding(encoding);
        }
        properties
    }
}

/// Returns the first [`MAX_DETAIL`] bytes, less where a character would be cut.
fn bounded(detail: &str) -> String {
    detail[..detail.floor_char_boundary(MAX_DETAIL)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin() -> Origin {
        Origin {
            queue: "q".repeat(255),
            exchange: "e".repeat(255),
            routing_key: "r".repeat(255),
            attempt: u32::MAX,
            first_seen: Timestamp::MAX,
        }
    }

    #[test]
    fn a_letter_says_of_itself_what_its_packet_did() {
        let letter = |packet: &BasicProperties| {
            let letter = Letter::of_packet(&origin(), packet, &undecodable("why"));
            letter.properties("id")
        };
        let silent = letter(&BasicProperties::default());
        assert_eq!(silent.message_type(), None);
        assert_eq!(silent.content_type(), None);
        assert_eq!(silent.content_encoding(), None);
        let zipped = BasicProperties::default()
            .with_message_type("warren.v2")
            .with_content_type("application/x-ndjson")
            .with_content_encoding("gzip")
            .finish();
        let kept = letter(&zipped);
        assert_eq!(kept.message_type(), zipped.message_type());
        assert_eq!(kept.content_type(), zipped.content_type());
        assert_eq!(kept.content_encoding(), zipped.content_encoding());
    }

    #[test]
    fn the_headers_are_bounded() {
        let origin = origin();
        let letter = Letter::of_lines(&origin, Timestamp::MIN, &undecodable("é".repeat(100_000)));
        assert!(letter.detail.len() <= MAX_DETAIL && letter.detail.ends_with('é'));
        let properties = letter.properties("id");
        let headers = properties.headers().unwrap().as_ref();
        let size: usize = headers
            .iter()
            .map(|(name, value)| name.to_string().len() + value.to_string().len() + 8)
            .sum();
        assert!(size < 8 << 10, "{size}");
        assert_eq!(headers.len(), 8);
    }
}
