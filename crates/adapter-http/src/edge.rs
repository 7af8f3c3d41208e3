//! What every request passes: its id, its span, its numbers, and the net that catches a panic.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::HttpBody as _;
use axum::extract::{MatchedPath, Request};
use axum::http::header::{CACHE_CONTROL, CONNECTION, HOST, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use metrics::{Counter, Histogram, counter, histogram};
use tower::{Layer, Service};
use tracing::{Instrument, debug_span, error, field};

use crate::console::CONSOLE_ROUTE;
use crate::dead_letters::DEAD_LETTER_ROUTES;
use crate::hosts::Hosts;
use crate::messages::QUERY_ROUTES;
use crate::metrics::{PANICS, REQUEST_SECONDS, REQUESTS};
use crate::pipeline::PIPELINE_ROUTE;
use crate::problem::{Kind, Problem};
use crate::routes::{COMMON_ROUTES, DOCS_ROUTES, GROUPS_ROUTE, MESSAGES_ROUTE};
use crate::tail::TAIL_ROUTE;

pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Marks an answer to a request whose body was read to its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BodyRead;

/// Wraps every route in an [`Edge`]. One layer instead of a stack of them: each costs a boxed future a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct EdgeLayer {
    numbers: Arc<Numbers>,
    hosts: Hosts,
}

impl EdgeLayer {
    pub(crate) fn new(hosts: Hosts) -> Self {
        Self {
            numbers: Arc::default(),
            hosts,
        }
    }
}

impl<S> Layer<S> for EdgeLayer {
    type Service = Edge<S>;

    fn layer(&self, inner: S) -> Edge<S> {
        Edge {
            inner,
            numbers: Arc::clone(&self.numbers),
            hosts: self.hosts.clone(),
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Edge<S> {
    inner: S,
    numbers: Arc<Numbers>,
    hosts: Hosts,
}

impl<S> Service<Request> for Edge<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let started = Instant::now();
        let method = known(&METHODS, request.method().as_str());
        let route = request
            .extensions()
            .get::<MatchedPath>()
            .map_or(NO_ROUTE, |path| known(&ROUTES, path.as_str()));
        let id = request_id(request.headers());
        let has_body = !request.body().is_end_stream();
        let reads = matches!(*request.method(), Method::GET | Method::HEAD)
            && request.uri().path().starts_with("/v1/");
        // Nothing is made of the span unless somebody listens at this level.
        let span = debug_span!(
            "request",
            method = METHODS[method],
            path = request.uri().path(),
            id = id.to_str().unwrap_or_default(),
            trace_id = field::Empty,
            span_id = field::Empty,
        );
        let numbers = Arc::clone(&self.numbers);
        let answer = match without_host(&request).or_else(|| self.hosts.refusal(ROUTES[route], &request)) {
            Some(problem) => Err(problem),
            None => Ok(AssertUnwindSafe(self.inner.call(request))
                .catch_unwind()
                .instrument(span)),
        };
        Box::pin(async move {
            let mut response = match answer {
                Ok(answer) => match answer.await {
                    Ok(response) => response?,
                    // What it said is in the log already, by the panic hook.
                    Err(_) => panicked(ROUTES[route], &id),
                },
                Err(problem) => problem.into_response(),
            };
            let unread = has_body && response.extensions().get::<BodyRead>().is_none();
            let headers = response.headers_mut();
            headers.insert(X_REQUEST_ID, id);
            headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
            if reads {
                // What was read once may be read by nobody else later.
                headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            }
            if unread {
                // What is left of the body would be taken for the next request.
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            numbers.count(method, route, response.status(), started.elapsed());
            Ok(response)
        })
    }
}

fn panicked(route: &'static str, id: &HeaderValue) -> Response {
    counter!(PANICS).increment(1);
    error!(
        route,
        request_id = id.to_str().unwrap_or_default(),
        "a request handler panicked"
    );
    Problem::new(
        Kind::Internal,
        "the program met a fault of its own while it answered",
        "it is unknown whether the messages are stored: send them again with the same ids; \
         give the x-request-id to whoever runs this server",
    )
    .into_response()
}

/// Returns the client's own request id if it is short and plain, else a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    if let Some(given) = headers.get(&X_REQUEST_ID) {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(byte);
        if (1..=128).contains(&given.len()) && given.as_bytes().iter().all(plain) {
            return given.clone();
        }
    }
    let mut id = [0; 32];
    let mut bits = fastrand::u128(..);
    for digit in &mut id {
        *digit = b"0123456789abcdef"[(bits & 15) as usize];
        bits >>= 4;
    }
    HeaderValue::from_bytes(&id).unwrap_or(HeaderValue::from_static("none"))
}

/// The methods that are counted by name; what a client makes up is the last.
const METHODS: [&str; 8] = [
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "other",
];
/// The routes that are counted by name, as the router knows them; none at all is the last but one.
pub(crate) const ROUTES: [&str; 25] = [
    MESSAGES_ROUTE,
    QUERY_ROUTES[1],
    QUERY_ROUTES[2],
    QUERY_ROUTES[3],
    CONSOLE_ROUTE,
    TAIL_ROUTE,
    GROUPS_ROUTE,
    PIPELINE_ROUTE,
    DOCS_ROUTES[0],
    DOCS_ROUTES[1],
    DOCS_ROUTES[2],
    DOCS_ROUTES[3],
    COMMON_ROUTES[0],
    COMMON_ROUTES[1],
    COMMON_ROUTES[2],
    COMMON_ROUTES[3],
    COMMON_ROUTES[4],
    DEAD_LETTER_ROUTES[0],
    DEAD_LETTER_ROUTES[1],
    DEAD_LETTER_ROUTES[2],
    DEAD_LETTER_ROUTES[3],
    DEAD_LETTER_ROUTES[4],
    DEAD_LETTER_ROUTES[5],
    NONE,
    OTHER,
];
/// What stands for no route at all.
pub(crate) const NONE: &str = "none";
/// What stands for a route that [`ROUTES`] lacks.
pub(crate) const OTHER: &str = "other";
const NO_ROUTE: usize = ROUTES.len() - 2;
/// The statuses that this server gives.
const STATUSES: [&str; 16] = [
    "200", "202", "204", "303", "304", "400", "404", "405", "408", "409", "413", "415", "421", "422", "500",
    "503",
];
/// The place in [`Numbers`] of any other status.
const OTHER_STATUS: usize = STATUSES.len();

/// Returns the place of `name`, else the last.
fn known(names: &[&'static str], name: &str) -> usize {
    names
        .iter()
        .position(|known| *known == name)
        .unwrap_or(names.len() - 1)
}

/// The numbers of all requests, each looked up when it is first needed: a look-up costs more than the count.
#[derive(Debug)]
struct Numbers {
    /// By method, route and status.
    requests: Box<[OnceLock<Counter>]>,
    /// By route.
    seconds: [OnceLock<Histogram>; ROUTES.len()],
}

impl Default for Numbers {
    fn default() -> Self {
        let all = METHODS.len() * ROUTES.len() * (STATUSES.len() + 1);
        Self {
            requests: (0..all).map(|_| OnceLock::new()).collect(),
            seconds: [const { OnceLock::new() }; ROUTES.len()],
        }
    }
}

impl Numbers {
    fn count(&self, method: usize, route: usize, status: StatusCode, took: Duration) {
        let status = STATUSES
            .iter()
            .position(|known| *known == status.as_str())
            .unwrap_or(OTHER_STATUS);
        let place = (method * ROUTES.len() + route) * (STATUSES.len() + 1) + status;
        let status = STATUSES.get(status).copied().unwrap_or("other");
        self.requests[place]
            .get_or_init(|| {
                counter!(REQUESTS, "method" => METHODS[method], "route" => ROUTES[route], "status" => status)
            })
            .increment(1);
        self.seconds[route]
            .get_or_init(|| histogram!(REQUEST_SECONDS, "route" => ROUTES[route]))
            .record(took.as_secs_f64());
    }
}

/// Says what is wrong with the `Host` of a request: without exactly one, a proxy and this server may take it for
/// another's (RFC 9112 §3.2).
fn without_host(request: &Request) -> Option<Problem> {
    let hosts = request.headers().get_all(HOST).iter().take(2).count();
    let detail = match hosts {
        0 if request.version() >= Version::HTTP_11 => "the request has no Host header",
        0 | 1 => return None,
        _ => "the request has more than one Host header",
    };
    Some(Problem::new(
        Kind::MalformedRequest,
        detail,
        "send one Host header, with the name and port that the request goes to",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_for(given: &str) -> HeaderValue {
        let mut headers = HeaderMap::new();
        headers.insert(X_REQUEST_ID, HeaderValue::from_str(given).unwrap());
        request_id(&headers)
    }

    #[test]
    fn a_plain_request_id_is_kept_and_any_other_replaced() {
        assert_eq!(id_for("abc-1.2:3"), "abc-1.2:3");
        for given in ["", "a b", "<script>", &"x".repeat(129)] {
            let id = id_for(given);
            assert!(id.len() == 32 && id != given, "{given:?}");
        }
        assert_eq!(request_id(&HeaderMap::new()).len(), 32);
    }

    #[tokio::test]
    async fn a_panic_becomes_a_problem_and_the_next_request_is_served() {
        use axum::body::{Body, to_bytes};
        use tower::ServiceExt;

        async fn handler(request: Request) -> &'static str {
            assert!(request.uri().query().is_none(), "as told");
            "fine"
        }
        let router = axum::Router::new()
            .route("/", axum::routing::get(handler))
            .layer(EdgeLayer::default());
        let get = |uri| Request::get(uri).header(HOST, "w").body(Body::empty()).unwrap();
        let response = router.clone().oneshot(get("/?panic")).await.unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(response.headers().contains_key(&X_REQUEST_ID));
        let body = to_bytes(response.into_body(), 10_000).await.unwrap();
        assert!(String::from_utf8_lossy(&body).contains("urn:warren:problem:internal"));
        assert_eq!(router.oneshot(get("/")).await.unwrap().status(), StatusCode::OK);
    }
}
