//! `POST /v1/messages`.

use std::sync::Arc;
use std::thread::available_parallelism;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};
use axum::response::{IntoResponse, Response};
use metrics::{Histogram, counter, histogram};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};
use tracing::{Span, debug};
use warren_domain::ports::PublishError;
use warren_domain::{IdempotencyKey, Severity, TraceContext};
use warren_pipeline::{Intake, IntakeConfig, Prepared, Receipt};

use crate::answer::{Outcome, answer};
use crate::body::{self, Limits, no_permit, reserved_for};
use crate::budget::{Budget, NoPermit, Permit, SMALL};
use crate::config::HttpConfig;
use crate::decode::{self, Coding, DECODERS, Decoders};
use crate::edge::BodyRead;
use crate::metrics::{REFUSED, REQUEST_BYTES};
use crate::openapi::{MessagesForm, ProblemForm, limits};
use crate::pressure::Gravest;
use crate::problem::{Kind, Problem};
use crate::query::{Query, excerpt};
use crate::records::{Form, Records};
use crate::sift;

/// Bodies over this size are read apart from the runtime, in bytes: some milliseconds of work.
const HEAVY_BYTES: usize = 256 << 10;
/// Requests of more records than this are read apart from the runtime, however short they are.
const HEAVY_RECORDS: usize = 1_000;
/// The same while some severities are refused, in bytes: very many requests come then, and those that are refused must
/// not wait behind those that are read.
const HEAVY_BYTES_PRESSED: usize = 4 << 10;

/// The gravest severity in a request, so that it can be refused before its body is read.
const WARREN_SEVERITY: HeaderName = HeaderName::from_static("warren-severity");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The intake over HTTP: what `POST /v1/messages` needs.
#[derive(Clone, Debug)]
pub struct IntakeRoutes {
    shared: Arc<Shared>,
    http: HttpConfig,
    config: IntakeConfig,
}

#[derive(Debug)]
pub(crate) struct Shared {
    intake: Intake,
    limits: Limits,
    max_messages: usize,
    budget: Arc<Budget>,
    decoders: Arc<Semaphore>,
    /// As many requests are read apart from the runtime at once as there are processors.
    readers: Arc<Semaphore>,
    request_timeout: std::time::Duration,
    wire_bytes: Histogram,
    decoded_bytes: Histogram,
}

impl IntakeRoutes {
    /// Makes the route that hands records to `intake`.
    ///
    /// Make it after the metrics recorder is installed: it keeps handles of numbers.
    pub fn new(intake: Intake, http: &HttpConfig, config: &IntakeConfig) -> Self {
        let shared = Shared {
            intake,
            limits: Limits::new(http),
            max_messages: config.max_messages,
            budget: Budget::new(http),
            decoders: Arc::new(Semaphore::new(DECODERS)),
            readers: Arc::new(Semaphore::new(available_parallelism().map_or(1, usize::from))),
            request_timeout: http.request_timeout,
            wire_bytes: histogram!(REQUEST_BYTES, "stage" => "wire"),
            decoded_bytes: histogram!(REQUEST_BYTES, "stage" => "decoded"),
        };
        Self {
            shared: Arc::new(shared),
            http: http.clone(),
            config: config.clone(),
        }
    }

    /// Returns the limits of this intake, for its description.
    pub(crate) fn limits(&self) -> String {
        limits(&self.http, &self.config)
    }

    /// Returns what this intake's requests share, and its numbers.
    pub(crate) fn budget(&self) -> Arc<Budget> {
        Arc::clone(&self.shared.budget)
    }

    pub(crate) fn into_shared(self) -> Arc<Shared> {
        self.shared
    }
}

/// What the head of a request says about its body.
struct Asked {
    key: Option<IdempotencyKey>,
    query: Query,
    form: Form,
    coding: Coding,
    trace: Option<TraceContext>,
    /// The gravest severity in the request, where it says so.
    gravest: Option<Severity>,
}

/// Takes messages in; answers once each of them is durable, or why not.
#[utoipa::path(
    post,
    path = "/v1/messages",
    operation_id = "postMessages",
    tag = "intake",
    summary = "Take messages in",
    description = "Takes one JSON object, a JSON array, objects one a line (NDJSON), or one message of plain text. \
        The answer comes once every accepted message is durable. One bad record never spoils its neighbours. \
        A `4xx` means surely not stored; a reset, a timeout or a `5xx` means unknown: send again with the same ids, or \
        the whole request under the same `Idempotency-Key`.",
    params(
        ("ids" = Option<bool>, Query, description = "Name the ids of the accepted messages in the answer."),
        ("severity" = Option<String>, Query, description = "Plain text only: the message's severity.",
            example = "error"),
        ("source" = Option<String>, Query, description = "Plain text only: the message's source.", example = "shop"),
        ("id" = Option<String>, Query, description = "Plain text only: the message's id, a UUID of version 7."),
        ("occurred_at" = Option<String>, Query, description = "Plain text only: when it happened, RFC 3339."),
        ("content-encoding" = Option<String>, Header, description = "`gzip`, `deflate` or `zstd`, in any letter case.",
            example = "gzip"),
        ("idempotency-key" = Option<String>, Header, description = "Names this request, in 1 to 255 bytes: however \
            often, where and in whatever form it comes, for at least 24 hours its records without an `id` are stored \
            once. Other content under the same key is stored, and counted as a conflict.",
            example = "5f3c1a52-order-4711"),
        ("warren-severity" = Option<String>, Header, description = "The gravest severity in the request. A server that is \
            too busy for it refuses the request before its body is sent; one that does not say is read and sorted.",
            example = "error"),
        ("traceparent" = Option<String>, Header, description = "W3C trace context; it travels with the messages.",
            example = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("x-request-id" = Option<String>, Header, description = "Comes back in the answer."),
    ),
    request_body(
        content(
            (MessagesForm = "application/json", examples(
                ("object" = (summary = "One message", value = json!({
                    "severity": "error", "source": "billing.api", "body": "card declined",
                    "attributes": {"order": 42}, "occurred_at": "2026-11-22T13:00:00.123Z",
                    "id": "019aa0c0-0000-7000-8000-000000000001"}))),
                ("array" = (summary = "Several messages", value = json!([
                    {"body": "started"}, {"severity": "warning", "body": "slow"}]))),
            )),
            (String = "application/x-ndjson",
                example = "{\"body\":\"started\"}\n{\"severity\":\"warning\",\"body\":\"slow\"}\n"),
            (String = "text/plain", example = "card declined"),
        ),
    ),
    responses(
        (status = 202, description = "At least one message is durable, and none may be lost.", body = Outcome),
        (status = 400, description = "Not a request that can be read, or nothing in it.", body = ProblemForm,
            content_type = "application/problem+json"),
        (status = 408, description = "The body came too slowly.", body = ProblemForm,
            content_type = "application/problem+json"),
        (status = 413, description = "Over a limit, which is named.", body = ProblemForm,
            content_type = "application/problem+json"),
        (status = 415, description = "An unknown content type or content encoding.", body = ProblemForm,
            content_type = "application/problem+json"),
        (status = 422, description = "Every message is invalid; `errors` says why.", body = ProblemForm,
            content_type = "application/problem+json"),
        (status = 500, description = "A fault of the server.", body = ProblemForm,
            content_type = "application/problem+json"),
        (status = 503, description = "Overload, or the broker cannot take messages now; `unpublished` names the \
            messages to send again.", body = ProblemForm, content_type = "application/problem+json",
            headers(("retry-after" = u16, description = "How many seconds to wait."))),
    ),
)]
pub(crate) async fn post_messages(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, mut body) = request.into_parts();
    let asked = match ask(&parts) {
        Ok(asked) => asked,
        Err(problem) => return problem.into_response(),
    };
    let large = body::declared_length(&parts.headers).is_some_and(|length| length > SMALL as u64);
    let gravest = asked.gravest.map_or(
        if large { Gravest::Large } else { Gravest::Small },
        Gravest::Declared,
    );
    let mut permit = match Budget::admit(Arc::clone(&shared.budget), gravest).await {
        Ok(permit) => permit,
        Err(reason) => return refuse(no_permit(reason), &parts.headers, &mut body).await,
    };
    let reading = body::read(
        &parts.headers,
        &mut body,
        asked.coding,
        &shared.limits,
        &mut permit,
    );
    let wire = match reading.await {
        Ok(wire) => wire,
        Err(problem) => {
            // What it held is for others now, not for the rest of its own body.
            drop(permit);
            return refuse(problem, &parts.headers, &mut body).await;
        }
    };
    let mut response = match shared.take(asked, wire, permit).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    };
    response.extensions_mut().insert(BodyRead);
    response
}

/// Refuses a request whose body was not read to its end.
async fn refuse(problem: Problem, headers: &HeaderMap, body: &mut Body) -> Response {
    let mut response = problem.into_response();
    if body::drop_small(headers, body).await {
        response.extensions_mut().insert(BodyRead);
    }
    response
}

/// Reads the head, so that what can be refused is refused before the body comes.
fn ask(parts: &Parts) -> Result<Asked, Problem> {
    let key = key_of(&parts.headers)?;
    let query = Query::parse(parts.uri.query())?;
    let form = Form::of(&parts.headers)?;
    let coding = decode::coding(&parts.headers)?;
    let gravest = gravest(&parts.headers, form, &query)?;
    Ok(Asked {
        key,
        query,
        form,
        coding,
        gravest,
        trace: trace_of(&parts.headers),
    })
}

/// Reads the key of the request: the bytes of the header as they are, 1 to 255, whatever they are.
fn key_of(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, Problem> {
    let invalid = |fault: String| {
        Problem::new(
            Kind::InvalidHeader,
            format!("Idempotency-Key {fault}"),
            "send it once, with 1 to 255 bytes that name this request and no other, such as a UUID; or leave it out",
        )
    };
    let mut values = headers.get_all(IDEMPOTENCY_KEY).into_iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(invalid("is given more than once".to_owned()));
    }
    IdempotencyKey::new(value.as_bytes())
        .map(Some)
        .map_err(|fault| invalid(format!("has {fault}")))
}

/// Returns the gravest severity in a request, where it says so: a plain text in its query, any other in a header.
fn gravest(headers: &HeaderMap, form: Form, query: &Query) -> Result<Option<Severity>, Problem> {
    if form == Form::Text {
        // What is no severity is told later, as a fault of the message.
        let given = query.fields.iter().find(|(field, _)| *field == "severity");
        return Ok(given.map_or(Some(Severity::Info), |(_, given)| given.parse().ok()));
    }
    let invalid = |fault: String| {
        Problem::new(
            Kind::InvalidHeader,
            format!("Warren-Severity {fault}"),
            "send it once, with the gravest severity in the request: debug, info, warning, error or critical; \
             or leave it out",
        )
    };
    let mut values = headers.get_all(WARREN_SEVERITY).into_iter();
    let Some(given) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(invalid("is given more than once".to_owned()));
    }
    let given = String::from_utf8_lossy(given.as_bytes());
    given
        .parse()
        .map(Some)
        .map_err(|_| invalid(format!("is {:?}, which names no severity", excerpt(&given))))
}

/// Makes a span of the caller's trace; a `traceparent` that is none is ignored, as its specification asks.
fn trace_of(headers: &HeaderMap) -> Option<TraceContext> {
    let mut values = headers.get_all("traceparent").into_iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return None;
    };
    let parent: TraceContext = value.to_str().ok()?.parse().ok()?;
    let span = Span::current();
    let trace = parent.child(fastrand::u64(1..));
    if !span.is_disabled() {
        span.record("trace_id", trace.trace_id());
        span.record("span_id", trace.span_id());
    }
    Some(trace)
}

impl Shared {
    async fn take(&self, asked: Asked, wire: bytes::Bytes, mut permit: Permit) -> Result<Response, Problem> {
        let Asked {
            key,
            query,
            form,
            coding,
            trace,
            ..
        } = asked;
        let deadline = Instant::now() + self.request_timeout;
        self.wire_bytes.record(wire.len() as f64);
        let decoders = Decoders {
            all: &self.decoders,
            deadline,
        };
        let body = decode::decode(coding, wire, &self.limits, decoders, &mut permit).await?;
        self.decoded_bytes.record(body.len() as f64);

        let lowest = permit.lowest_taken();
        if form != Form::Text && lowest > Severity::Debug {
            let below = if body.len() > HEAVY_BYTES {
                let body = body.clone();
                self.apart(deadline, move || sift::all_below(&body, lowest))
                    .await?
            } else {
                sift::all_below(&body, lowest)
            };
            if below {
                return Err(no_permit(NoPermit::Reserved(lowest)));
            }
        }
        let (ids, most, keyed) = (query.ids, self.max_messages, key.is_some());
        let records = if body.len() > HEAVY_BYTES {
            self.apart(deadline, move || Records::split(form, body, &query, most))
                .await??
        } else {
            Records::split(form, body, &query, most)?
        };
        permit.grow_to(records.charge()).await.map_err(no_permit)?;

        let pressed = lowest > Severity::Debug;
        let heavy = if pressed { HEAVY_BYTES_PRESSED } else { HEAVY_BYTES };
        let mut prepared = if records.bytes() > heavy || records.count() > HEAVY_RECORDS {
            let intake = self.intake.clone();
            self.apart(deadline, move || {
                intake.prepare(records.into_drafts(), key.as_ref())
            })
            .await?
        } else {
            self.intake.prepare(records.into_drafts(), key.as_ref())
        };
        let lowest = permit.lowest_taken();
        if lowest > Severity::Debug {
            prepared.refuse_below(lowest, &PublishError::unavailable(reserved_for(lowest)));
        }
        let receipt = self.publish(prepared, trace, permit, keyed, deadline).await?;
        Ok(answer(receipt, ids, keyed))
    }

    /// Runs `work` where it holds up no other request; a panic in it goes on here.
    async fn apart<T: Send + 'static>(
        &self,
        deadline: Instant,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let slot = timeout_at(deadline, Arc::clone(&self.readers).acquire_owned()).await;
        // Nobody closes the semaphore.
        let Ok(Ok(slot)) = slot else {
            counter!(REFUSED, "reason" => "read").increment(1);
            return Err(body::overloaded("too many requests are being read at once"));
        };
        let working = spawn_blocking(move || {
            // Held until the work is over, also when nobody waits for it any more.
            let _slot = slot;
            work()
        });
        match working.await {
            Ok(done) => Ok(done),
            Err(failed) => match failed.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Only a runtime that is being torn down cancels blocking work, and then nothing is polled again.
                Err(_) => std::future::pending().await,
            },
        }
    }

    /// Publishes; the permit is given back once the messages are answered for, even if nobody waits any more.
    async fn publish(
        &self,
        prepared: Prepared,
        trace: Option<TraceContext>,
        permit: Permit,
        keyed: bool,
        deadline: Instant,
    ) -> Result<Receipt, Problem> {
        let publishing = self.intake.publish(prepared, trace, permit);
        timeout_at(deadline, publishing).await.map_err(|_| {
            counter!(REFUSED, "reason" => "request_timeout").increment(1);
            debug!("a request was not answered for within http.request_timeout");
            Problem::new(
                Kind::Unavailable,
                format!("no answer within {:?} (http.request_timeout)", self.request_timeout),
                if keyed {
                    "it is unknown whether the messages are stored: wait as long as Retry-After says and send the \
                     whole request again under the same Idempotency-Key"
                } else {
                    "it is unknown whether the messages are stored: wait as long as Retry-After says and send them \
                     again with the same ids"
                },
            )
        })
    }
}
