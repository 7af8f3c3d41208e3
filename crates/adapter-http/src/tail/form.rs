//! What a tail says, as events or as lines.

use axum::http::HeaderValue;
use serde::Serialize;
use warren_domain::{Attributes, Body, Message, MessageId, Severity, Source, Timestamp};
use warren_pipeline::tail::{Cursor, Gap, Told, What};

use crate::messages::text;

/// How long a browser waits before it connects again, milliseconds.
const RETRY: u32 = 2_000;

/// How many bytes stand around a message at most, and how many a gap takes, mostly.
const FRAME: usize = 32;
const GAP: usize = 512;

/// How a tail is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Server-sent events, as the HTML standard describes them.
    Events,
    /// One JSON object a line.
    Lines,
}

impl Form {
    pub(super) const fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Events => "text/event-stream",
            Self::Lines => "application/x-ndjson",
        })
    }

    /// Begins; whoever is cut off before the first message can come back, too.
    pub(super) fn begin(self, cursor: Cursor) -> Vec<u8> {
        match self {
            Self::Events => format!("retry: {RETRY}\nid: {cursor}\n\n").into(),
            Self::Lines => self.keep_alive(cursor),
        }
    }

    /// Says that there is nothing to say. The place moves on all the same, where others got messages.
    pub(super) fn keep_alive(self, cursor: Cursor) -> Vec<u8> {
        match self {
            // An event without data is not dispatched, but its id counts.
            Self::Events => format!(": keep-alive\nid: {cursor}\n\n").into(),
            Self::Lines => format!("{{\"keep_alive\":true,\"cursor\":\"{cursor}\"}}\n").into(),
        }
    }

    /// Writes what a reader is told.
    pub(super) fn tell(self, told: &[Told]) -> Vec<u8> {
        let most = |told: &Told| match &told.what {
            What::Message(heard) => heard.cursor_text().len() + heard.shown(shown).len() + FRAME,
            What::Gap(_) => GAP,
        };
        let mut bytes = Vec::with_capacity(told.iter().map(most).sum());
        for told in told {
            self.tell_one(told, &mut bytes);
        }
        bytes
    }

    fn tell_one(self, told: &Told, bytes: &mut Vec<u8>) {
        let (name, data): (&[u8], _) = match &told.what {
            What::Message(heard) => (b"message", heard.shown(shown)),
            What::Gap(gap) => (b"gap", &*json(&GapView::from(*gap))),
        };
        let cursor = told.cursor_text();
        let cursor = cursor.as_bytes();
        let parts: [&[u8]; 7] = match self {
            Self::Events => [b"id: ", cursor, b"\nevent: ", name, b"\ndata: ", data, b"\n\n"],
            Self::Lines => [b"{\"cursor\":\"", cursor, b"\",\"", name, b"\":", data, b"}\n"],
        };
        for part in parts {
            bytes.extend_from_slice(part);
        }
    }

    /// Ends because the server does.
    pub(super) fn end(self) -> Vec<u8> {
        match self {
            Self::Events => b"event: end\ndata: {\"reason\":\"shutting_down\"}\n\n".to_vec(),
            Self::Lines => b"{\"end\":{\"reason\":\"shutting_down\"}}\n".to_vec(),
        }
    }
}

/// A message as `GET /v1/messages` shows it, without when it was stored: it may not be yet.
#[derive(Serialize)]
struct MessageView<'m> {
    id: MessageId,
    severity: Severity,
    source: &'m Source,
    #[serde(serialize_with = "text")]
    body: &'m Body,
    attributes: &'m Attributes,
    occurred_at: Timestamp,
    received_at: Timestamp,
}

fn shown(message: &Message) -> Vec<u8> {
    json(&MessageView {
        id: message.id,
        severity: message.severity,
        source: &message.source,
        body: &message.body,
        attributes: &message.attributes,
        occurred_at: message.occurred_at,
        received_at: message.received_at,
    })
}

#[derive(Serialize)]
struct GapView {
    missed: Option<u64>,
    skipped: Option<u64>,
    from: Timestamp,
    until: Timestamp,
    reason: &'static str,
}

impl From<Gap> for GapView {
    fn from(gap: Gap) -> Self {
        Self {
            missed: gap.missed,
            skipped: gap.skipped,
            from: gap.from,
            until: gap.until,
            reason: gap.reason.as_str(),
        }
    }
}

/// Writes JSON on one line.
fn json(value: &impl Serialize) -> Vec<u8> {
    // String keys and finite numbers only, so writing into memory cannot fail.
    serde_json::to_vec(value).unwrap_or_default()
}
