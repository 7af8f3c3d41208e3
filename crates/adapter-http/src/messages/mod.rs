//! What is stored, found again: `GET /v1/messages`, one of them with its neighbours, counts, sources.
//!
//! Whoever reaches the server may read all of it, as with every route here.

mod asked;
mod times;
mod view;

use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::Uri;
use axum::response::Response;
use axum::routing::get;
use warren_domain::ports::{MessageReader, Order, Place, ReadError, Search, TimeRange};
use warren_domain::{MessageId, Query, Selection, SeveritySet, Timestamp};

use crate::intake_address::IntakeAddress;
use crate::openapi::ProblemForm;
use crate::problem::{Kind, Problem};
use crate::reading::{Room, Turns};
use crate::routes::MESSAGES_ROUTE;
use crate::trouble::Trouble;

use asked::Listing;
pub(crate) use asked::{Given, wrong};
pub(crate) use times::moment;
pub(crate) use view::{CountsPage, MessagePage, SourcesPage, WholeMessage, text};

/// Where the routes are, as the router knows them.
pub(crate) const QUERY_ROUTES: [&str; 4] = [MESSAGES_ROUTE, "/v1/messages/{id}", "/v1/counts", "/v1/sources"];

/// Stored messages over HTTP, and the console that shows them.
#[derive(Clone, Debug)]
pub struct QueryRoutes {
    reader: Arc<dyn MessageReader>,
    at_once: usize,
    intake: Option<IntakeAddress>,
}

impl QueryRoutes {
    /// Makes the routes that find messages with `reader`, for at most `at_once` requests at once: as many as it has
    /// connections. Further ones wait for three seconds at most, and are then answered 503.
    pub fn new(reader: Arc<dyn MessageReader>, at_once: usize) -> Self {
        Self {
            reader,
            at_once,
            intake: None,
        }
    }

    /// Tells, and has the console tell, where messages are sent to; for a server that takes none itself.
    #[must_use]
    pub fn with_intake_at(mut self, address: Option<IntakeAddress>) -> Self {
        self.intake = address;
        self
    }

    /// Returns where messages are sent to, where that is known.
    pub(crate) const fn intake(&self) -> Option<&IntakeAddress> {
        self.intake.as_ref()
    }

    /// Makes the router; large answers have this room.
    pub(crate) fn router(self, room: Arc<Room>) -> Router {
        let [messages, message, counts, sources] = QUERY_ROUTES;
        let reading = Reading {
            reader: self.reader,
            turns: Turns::for_messages(self.at_once, room),
            trouble: Trouble::with::<ReadError>(),
        };
        Router::new()
            .route(messages, get(get_messages))
            .route(message, get(get_message))
            .route(counts, get(get_counts))
            .route(sources, get(get_sources))
            .with_state(Arc::new(reading))
    }
}

/// What the routes answer from.
#[derive(Debug)]
pub(crate) struct Reading {
    reader: Arc<dyn MessageReader>,
    turns: Turns,
    trouble: Trouble,
}

impl Reading {
    async fn list(&self, query: Option<&str>) -> Result<Response, Problem> {
        let Listing { search, limit } = Listing::parse(query, Timestamp::now())?;
        let turn = self.turns.take().await?;
        let found = self.trouble.heed(self.reader.find(&search, limit).await)?;
        self.turns.answer(MessagePage::from(found), turn).await
    }

    async fn show(&self, id: &str, query: Option<&str>) -> Result<Response, Problem> {
        let (id, neighbours) = asked::one(id, query)?;
        let turn = self.turns.take().await?;
        let stored = self.trouble.heed(self.reader.fetch(id).await)?.ok_or_else(|| {
            Problem::new(
                Kind::NotFound,
                format!("no message {id} is stored"),
                "it may be on its way still, be a dead letter, or be older than what is kept",
            )
        })?;
        let shown = WholeMessage {
            message: stored.into(),
            newer: self.beside(id, Order::OldestFirst, neighbours).await?,
            older: self.beside(id, Order::NewestFirst, neighbours).await?,
        };
        self.turns.answer(shown, turn).await
    }

    /// Finds what lies behind a message in an order.
    async fn beside(
        &self,
        id: MessageId,
        order: Order,
        limit: usize,
    ) -> Result<Vec<view::MessageView>, Problem> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let beside = Search {
            selection: Selection::of(SeveritySet::ALL),
            query: Query::default(),
            range: TimeRange::ALL,
            order,
            from: Some(Place::behind(id)),
        };
        let found = self.trouble.heed(self.reader.find(&beside, limit).await)?;
        Ok(view::views(found.messages))
    }

    async fn count(&self, query: Option<&str>) -> Result<Response, Problem> {
        let wanted = asked::counts(query, Timestamp::now())?;
        let turn = self.turns.take().await?;
        let buckets = self.trouble.heed(self.reader.counts(&wanted).await)?;
        self.turns.answer(CountsPage::of(&wanted, buckets), turn).await
    }

    async fn sources(&self, query: Option<&str>) -> Result<Response, Problem> {
        let (range, severities) = asked::sources(query, Timestamp::now())?;
        let turn = self.turns.take().await?;
        let sources = self.trouble.heed(self.reader.sources(range, severities).await)?;
        self.turns.answer(SourcesPage::from(sources), turn).await
    }
}

/// Finds messages, page by page.
#[utoipa::path(
    get, path = "/v1/messages", operation_id = "findMessages", tag = "messages",
    summary = "Find stored messages",
    description = "Finds what every parameter means. A page may be short, or empty, and have a `next` all the same: every \
        search ends in time, having looked as far as `reached`. Whoever goes on with `after` misses nothing and meets \
        nothing twice. Times are those in the ids: when a message was taken, unless its sender chose the id.",
    params(
        ("severity" = Option<String>, Query, description = "Only these severities, such as `error,critical` or \
            `warning+`.", example = "warning+"),
        ("source" = Option<String>, Query, description = "Only these sources, separated by commas; `*` stands for one \
            segment, `#` for any number of them.", example = "billing.#"),
        ("q" = Option<String>, Query, description = "Words and `\"phrases\"` of the body, `key=value` of the attributes, \
            `severity>=error`, `source:billing.*`, `id:…`; `-` before a term asks for its opposite. All have to hold.",
            example = "declined order=42 -refund"),
        ("from" = Option<String>, Query, description = "Only from this time on: RFC 3339, or before now: `-15m`, `-1h`, \
            `-7d`.", example = "-1h"),
        ("until" = Option<String>, Query, description = "Only before this time, likewise, or `now`."),
        ("order" = Option<String>, Query, description = "`newest` first, which it is if absent, or `oldest`."),
        ("limit" = Option<usize>, Query, description = "At most so many, 1 to 1000; 100 if absent."),
        ("after" = Option<String>, Query, description = "The `next` of the page before, or the id of a message."),
    ),
    responses(
        (status = 200, description = "A page of messages.", body = MessagePage),
        (status = 400, description = "A parameter that is wrong, by name; of `q` also the column.", body = ProblemForm,
            content_type = "application/problem+json"),
        (status = 503, description = "The store does not answer, or too many read at once.", body = ProblemForm,
            content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn get_messages(State(routes): State<Arc<Reading>>, uri: Uri) -> Result<Response, Problem> {
    routes.list(uri.query()).await
}

/// Shows one message, and what lies beside it.
#[utoipa::path(
    get, path = "/v1/messages/{id}", operation_id = "message", tag = "messages",
    summary = "One message, with its neighbours in time",
    params(
        ("id" = String, Path, description = "The message's id."),
        ("neighbours" = Option<usize>, Query, description = "So many on either side, 0 to 50; none if absent."),
    ),
    responses(
        (status = 200, description = "The message.", body = WholeMessage),
        (status = 400, description = "Not an id, or a parameter that is wrong.", body = ProblemForm,
            content_type = "application/problem+json"),
        (status = 404, description = "It is not stored.", body = ProblemForm,
            content_type = "application/problem+json"),
        (status = 503, description = "The store does not answer, or too many read at once.", body = ProblemForm,
            content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn get_message(
    State(routes): State<Arc<Reading>>,
    id: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Result<Response, Problem> {
    let Path(id) = id.map_err(|rejected| asked::wrong("id", "", rejected.body_text()))?;
    routes.show(&id, uri.query()).await
}

/// Counts messages by time and severity.
#[utoipa::path(
    get, path = "/v1/counts", operation_id = "countMessages", tag = "messages",
    summary = "How many messages, by time and severity",
    description = "From counts that are kept by the minute, so it costs little whatever is stored. Empty buckets are left out.",
    params(
        ("severity" = Option<String>, Query, description = "Only these severities.", example = "warning+"),
        ("source" = Option<String>, Query, description = "Only these sources, separated by commas.",
            example = "billing.#"),
        ("from" = Option<String>, Query, description = "From this time on; an hour before the end if absent."),
        ("until" = Option<String>, Query, description = "Before this time; now if absent."),
        ("bucket" = Option<String>, Query, description = "How wide a bucket is, such as `1m`, `1h` or `1d`; if absent, \
            so that there are 60 to 120 of them.", example = "5m"),
    ),
    responses(
        (status = 200, description = "The counts.", body = CountsPage),
        (status = 400, description = "A parameter that is wrong, by name, or too much at once.", body = ProblemForm,
            content_type = "application/problem+json"),
        (status = 503, description = "The store does not answer, or too many read at once.", body = ProblemForm,
            content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn get_counts(State(routes): State<Arc<Reading>>, uri: Uri) -> Result<Response, Problem> {
    routes.count(uri.query()).await
}

/// Lists sources.
#[utoipa::path(
    get, path = "/v1/sources", operation_id = "messageSources", tag = "messages",
    summary = "The sources, and how many messages each has said",
    params(
        ("from" = Option<String>, Query, description = "Only from this time on.", example = "-1d"),
        ("until" = Option<String>, Query, description = "Only before this time."),
        ("severity" = Option<String>, Query, description = "Only these severities.", example = "error+"),
    ),
    responses(
        (status = 200, description = "At most 1000 sources, by name.", body = SourcesPage),
        (status = 400, description = "A parameter that is wrong, by name, or too long a time.", body = ProblemForm,
            content_type = "application/problem+json"),
        (status = 503, description = "The store does not answer, or too many read at once.", body = ProblemForm,
            content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn get_sources(State(routes): State<Arc<Reading>>, uri: Uri) -> Result<Response, Problem> {
    routes.sources(uri.query()).await
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        let (kind, hint) = match &error {
            ReadError::Unavailable { .. } => (
                Kind::StoreUnavailable,
                "wait as long as Retry-After says and ask again",
            ),
            ReadError::Misconfigured { .. } => {
                (Kind::StoreUnavailable, "whoever runs this server has to act")
            }
            ReadError::TooMuch { .. } => (Kind::TooMuch, "ask for less time, or for fewer sources"),
        };
        tracing::debug!(error = %error, cause = ?std::error::Error::source(&error), "messages cannot be read");
        Self::new(kind, error.to_string(), hint)
    }
}
