//! What every request passes: its id, its span, its numbers, and the net that catches a panic.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::HttpBody as _;
use axum::extract::{MatchedPath, Request};
use axum::http::header::{CONNECTION, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use metrics::{counter, histogram};
use tower::{Layer, Service};
use tracing::{Instrument, debug_span, error, field};

use crate::metrics::{PANICS, REQUEST_SECONDS, REQUESTS};
use crate::problem::{Kind, Problem};
use crate::routes::route_name;

pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Marks an answer to a request whose body was read to its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BodyRead;

/// Wraps every route in an [`Edge`]. One layer instead of a stack of them: each costs a boxed future a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EdgeLayer;

impl<S> Layer<S> for EdgeLayer {
    type Service = Edge<S>;

    fn layer(&self, inner: S) -> Edge<S> {
        Edge { inner }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Edge<S> {
    inner: S,
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
        let method = method_name(request.method());
        let route = request
            .extensions()
            .get::<MatchedPath>()
            .map_or("none", |path| route_name(path.as_str()));
        let id = request_id(request.headers());
        let has_body = !request.body().is_end_stream();
        // Nothing is made of the span unless somebody listens at this level.
        let span = debug_span!(
            "request",
            method,
            path = request.uri().path(),
            id = id.to_str().unwrap_or_default(),
            trace_id = field::Empty,
            span_id = field::Empty,
        );
        let answer = AssertUnwindSafe(self.inner.call(request))
            .catch_unwind()
            .instrument(span);
        Box::pin(async move {
            let mut response = match answer.await {
                Ok(response) => response?,
                // What it said is in the log already, by the panic hook.
                Err(_) => panicked(route, &id),
            };
            let unread = has_body && response.extensions().get::<BodyRead>().is_none();
            let headers = response.headers_mut();
            headers.insert(X_REQUEST_ID, id);
            headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
            if unread {
                // What is left of the body would be taken for the next request.
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            counter!(REQUESTS, "method" => method, "route" => route, "status" => status_name(response.status()))
                .increment(1);
            histogram!(REQUEST_SECONDS, "route" => route).record(started.elapsed().as_secs_f64());
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
    let id = format!("{:032x}", fastrand::u128(..));
    HeaderValue::from_str(&id).unwrap_or(HeaderValue::from_static("none"))
}

/// Returns a method's name for a metric; the names that a client makes up are one.
fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// Returns a status for a metric, without allocating for those that this server gives.
const fn status_name(status: StatusCode) -> &'static str {
    match status.as_u16() {
        200 => "200",
        202 => "202",
        204 => "204",
        303 => "303",
        400 => "400",
        404 => "404",
        405 => "405",
        408 => "408",
        413 => "413",
        415 => "415",
        422 => "422",
        500 => "500",
        503 => "503",
        _ => "other",
    }
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
            .layer(EdgeLayer);
        let get = |uri| Request::get(uri).body(Body::empty()).unwrap();
        let response = router.clone().oneshot(get("/?panic")).await.unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(response.headers().contains_key(&X_REQUEST_ID));
        let body = to_bytes(response.into_body(), 10_000).await.unwrap();
        assert!(String::from_utf8_lossy(&body).contains("urn:warren:problem:internal"));
        assert_eq!(router.oneshot(get("/")).await.unwrap().status(), StatusCode::OK);
    }
}
