//! `GET /v1/tail`: what is published now, for as long as somebody looks.

mod asked;
mod form;

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use tokio::time::timeout;
use warren_pipeline::tail::{Hub, NotReading, Reader};

use crate::HttpConfig;
use crate::connection::Endless;
use crate::openapi::ProblemForm;
use crate::problem::{Kind, Problem};

use asked::Watch;
use form::Form;

/// Where the route is.
pub(crate) const TAIL_ROUTE: &str = "/v1/tail";

/// How often something is said when there is nothing to say: less than proxies wait, of which some wait 30 s.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What a server needs to show what is published now.
#[derive(Clone, Debug)]
pub struct TailRoutes {
    hub: Hub,
    keep_alive: Duration,
}

impl TailRoutes {
    /// Makes the route; the hub is closed when the server begins to stop.
    pub fn new(hub: Hub, config: &HttpConfig) -> Self {
        Self {
            hub,
            // A connection on which nothing was sent for so long is cut as idle.
            keep_alive: KEEP_ALIVE.min(config.idle_timeout / 3),
        }
    }

    /// Ends every tail.
    pub(crate) fn close(&self) {
        self.hub.close();
    }
}

/// Shows what is published now.
#[utoipa::path(
    get, path = "/v1/tail", operation_id = "tail", tag = "messages",
    summary = "What is published now, as it comes",
    description = "Server-sent events, or with `Accept: application/x-ndjson` one JSON object a line; it ends when the \
        server does, with an event `end`. Events are `message`, as `GET /v1/messages` shows it but for `stored_at`, and \
        `gap`: `missed` messages that were wanted are missing here, of `skipped` that went by, `null` where that is not \
        known; search for them between `from` and `until`. Whoever comes back with the id of the last event goes on \
        behind it, without a hole or a double: with what this process keeps, else with what is stored, else with a gap. A \
        reader that \
        is too slow loses the oldest, and gets a gap; so does one that wants more than its share of what all may be sent, and \
        everyone where more is published than is read.",
    params(
        ("severity" = Option<String>, Query, description = "Only these severities.", example = "warning+"),
        ("source" = Option<String>, Query, description = "Only these sources, separated by commas.",
            example = "billing.#"),
        ("q" = Option<String>, Query, description = "What else has to hold, as with `GET /v1/messages`.",
            example = "declined order=42"),
        ("last_event_id" = Option<String>, Query, description = "The id of the last event that came, for those who cannot \
            send the header."),
        ("Last-Event-ID" = Option<String>, Header, description = "The same, as browsers send it by themselves."),
    ),
    responses(
        (status = 200, description = "Events without an end.", content((String = "text/event-stream"),
            (String = "application/x-ndjson"))),
        (status = 400, description = "A parameter that is wrong, by name.", body = ProblemForm,
            content_type = "application/problem+json"),
        (status = 503, description = "As many read as may, the broker cannot be listened to, or the server stops.",
            body = ProblemForm, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn get_tail(
    State(TailRoutes { hub, keep_alive }): State<TailRoutes>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Watch { wanted, from, form } = Watch::parse(uri.query(), &headers)?;
    let reader = hub.read(wanted, from).await?;
    let telling = Telling {
        reader,
        form,
        keep_alive,
        step: Step::Begin,
    };
    let parts = stream::unfold(telling, async |mut telling| {
        let bytes = telling.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(bytes)), telling))
    });
    let mut response = Response::new(Body::from_stream(parts));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, form.content_type());
    // nginx gathers an answer otherwise.
    headers.insert(
        HeaderName::from_static("x-accel-buffering"),
        HeaderValue::from_static("no"),
    );
    response.extensions_mut().insert(Endless);
    Ok(response)
}

impl From<NotReading> for Problem {
    fn from(error: NotReading) -> Self {
        let (kind, hint) = match &error {
            NotReading::Full { .. } => (
                Kind::Overloaded,
                "wait as long as Retry-After says, or raise tail.max_readers",
            ),
            NotReading::Unavailable { .. } => (
                Kind::TailUnavailable,
                "wait as long as Retry-After says and connect again",
            ),
            NotReading::Closed => (Kind::TailUnavailable, "connect again; another server may answer"),
        };
        Self::new(kind, error.to_string(), hint)
    }
}

/// An answer under way. It reads only when the last part of it has gone out, so that whoever is slow to take it holds no
/// more than that.
struct Telling {
    reader: Reader,
    form: Form,
    keep_alive: Duration,
    step: Step,
}

#[derive(Clone, Copy)]
enum Step {
    Begin,
    Go,
    Ended,
}

impl Telling {
    async fn next(&mut self) -> Option<Vec<u8>> {
        match self.step {
            Step::Begin => {
                self.step = Step::Go;
                return Some(self.form.begin(self.reader.cursor()));
            }
            Step::Go => {}
            Step::Ended => return None,
        }
        Some(match timeout(self.keep_alive, self.reader.next()).await {
            Ok(Some(told)) => {
                let bytes = self.form.tell(&told);
                self.reader.sent(bytes.len());
                bytes
            }
            Ok(None) => {
                self.step = Step::Ended;
                self.form.end()
            }
            Err(_) => self.form.keep_alive(self.reader.cursor()),
        })
    }
}
