//! Stored messages and their counts as clients see them.

use serde::{Serialize, Serializer};
use utoipa::ToSchema;
use warren_domain::ports::{Bucket, Counts, Found, Place, Sources, StoredMessage};
use warren_domain::{
    Attributes, Body, BySeverity, Message, MessageId, Severity, SeverityCounts, Source, Timestamp,
};

/// A message as it is stored.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = StoredMessage)]
pub(crate) struct MessageView {
    /// Which one it is, a UUID of version 7.
    #[schema(value_type = String, format = "uuid")]
    id: MessageId,
    /// How grave it is.
    #[schema(value_type = String, example = "error")]
    severity: Severity,
    /// Who says it.
    #[schema(value_type = String, example = "billing.api")]
    source: Source,
    /// What it says.
    #[schema(value_type = String, example = "card declined")]
    #[serde(serialize_with = "text")]
    body: Body,
    /// Structured data; `{}` where there is none.
    #[schema(value_type = Object)]
    attributes: Attributes,
    /// When it happened.
    #[schema(value_type = String, format = "date-time")]
    occurred_at: Timestamp,
    /// When it was taken in.
    #[schema(value_type = String, format = "date-time")]
    received_at: Timestamp,
    /// When it was stored, by the store's clock.
    #[schema(value_type = String, format = "date-time")]
    stored_at: Timestamp,
}

/// Writes what a message says, which no type shows by itself: bodies are never logged.
pub(crate) fn text<S: Serializer>(body: &Body, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(body.as_str())
}

impl From<StoredMessage> for MessageView {
    fn from(StoredMessage { message, stored_at }: StoredMessage) -> Self {
        let Message {
            id,
            severity,
            source,
            body,
            attributes,
            occurred_at,
            received_at,
            // Says nothing to whoever did not send it.
            idempotency: _,
        } = message;
        Self {
            id,
            severity,
            source,
            body,
            attributes,
            occurred_at,
            received_at,
            stored_at,
        }
    }
}

pub(super) fn views(found: Vec<StoredMessage>) -> Vec<MessageView> {
    found.into_iter().map(MessageView::from).collect()
}

/// A page of what was found.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = MessagePage)]
pub(crate) struct MessagePage {
    /// The messages in the order that was asked for. There may be fewer than `limit`, or none, and still more to come.
    messages: Vec<MessageView>,
    /// What `after` of the next page is; `null` where there is nothing more.
    #[schema(format = "uuid")]
    next: Option<String>,
    /// Whether everything was looked at: `next` is `null` then.
    complete: bool,
    /// To which time everything was looked at, where there is more.
    #[schema(value_type = Option<String>, format = "date-time")]
    reached: Option<Timestamp>,
}

impl From<Found> for MessagePage {
    fn from(Found { messages, next }: Found) -> Self {
        Self {
            messages: views(messages),
            complete: next.is_none(),
            reached: next.map(time_of),
            next: next.map(|place| place.to_string()),
        }
    }
}

/// Returns the time in the first 48 bits of a place, milliseconds since 1970, as in the id of a message.
fn time_of(place: Place) -> Timestamp {
    let millis = place.as_uuid().as_u128() >> 80;
    i64::try_from(millis * 1_000)
        .ok()
        .and_then(Timestamp::from_unix_micros)
        .unwrap_or(Timestamp::MAX)
}

/// A message, and what lies beside it in time.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = MessageWithNeighbours)]
pub(crate) struct WholeMessage {
    /// The message.
    pub(super) message: MessageView,
    /// What was taken after it, the nearest first; as many as were asked for, fewer where they are very large.
    pub(super) newer: Vec<MessageView>,
    /// What was taken before it, the nearest first; likewise.
    pub(super) older: Vec<MessageView>,
}

/// How many messages there are, by time and severity.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = MessageCounts)]
pub(crate) struct CountsPage {
    /// How wide a bucket is.
    #[schema(example = 5)]
    bucket_minutes: u32,
    /// Where the range begins that was asked for.
    #[schema(value_type = String, format = "date-time")]
    from: Timestamp,
    /// Where it ends. Whole minutes are counted, those included that it begins and ends in.
    #[schema(value_type = String, format = "date-time")]
    until: Timestamp,
    /// The buckets that have any, the oldest first.
    buckets: Vec<BucketView>,
}

/// The counts of a stretch of time.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = MessageCountsBucket)]
pub(crate) struct BucketView {
    /// Where it begins: at a multiple of its width since 1970.
    #[schema(value_type = String, format = "date-time")]
    start: Timestamp,
    /// The messages by severity.
    #[schema(value_type = crate::groups::BySeverity<u64>)]
    counts: BySeverity<u64>,
}

impl CountsPage {
    pub(super) fn of(wanted: &Counts, buckets: Vec<Bucket>) -> Self {
        let view = |bucket: Bucket| BucketView {
            start: bucket.start,
            counts: bucket.counts.into(),
        };
        Self {
            bucket_minutes: wanted.minutes.get(),
            from: wanted.range.from(),
            until: wanted.range.until(),
            buckets: buckets.into_iter().map(view).collect(),
        }
    }
}

/// The sources of a stretch of time.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = MessageSources)]
pub(crate) struct SourcesPage {
    /// By name.
    sources: Vec<SourceView>,
    /// Whether there are more than were listed.
    more: bool,
}

/// A source and what it has said.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = MessageSource)]
pub(crate) struct SourceView {
    /// Its name.
    #[schema(value_type = String, example = "billing.api")]
    source: Source,
    /// The messages by severity.
    #[schema(value_type = crate::groups::BySeverity<u64>)]
    counts: BySeverity<u64>,
}

impl From<Sources> for SourcesPage {
    fn from(Sources { sources, more }: Sources) -> Self {
        let view = |(source, counts): (Source, SeverityCounts)| SourceView {
            source,
            counts: counts.into(),
        };
        Self {
            sources: sources.into_iter().map(view).collect(),
            more,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_a_search_has_come_is_told_as_a_time_whatever_the_place() {
        for (place, time) in [
            (
                "019aa0c0-0000-7000-8000-000000000001",
                "2025-11-20T10:12:08.832000Z",
            ),
            (
                "00000000-0000-0000-0000-000000000000",
                "1970-01-01T00:00:00.000000Z",
            ),
            (
                "ffffffff-ffff-ffff-ffff-ffffffffffff",
                "2261-12-31T23:59:59.999999Z",
            ),
        ] {
            assert_eq!(time_of(place.parse().unwrap()).to_string(), time);
        }
    }
}
