//! `/openapi.json`, and `/docs`: Swagger UI, carried in the program, so that it works without a network.

use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use bytes::Bytes;
use utoipa_swagger_ui::{Config, serve};

use crate::problem::{Kind, Problem};

/// Scripts and data from this server only. Swagger UI writes style attributes and inline images.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
    img-src 'self' data:; font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

/// Makes the routes that show `document`, OpenAPI as JSON.
pub(crate) fn router(document: String) -> Router {
    let document = Bytes::from(document);
    // Without "none" the page would ask a validator on the internet about the document.
    let config = Config::from("/openapi.json")
        .validator_url("none")
        .try_it_out_enabled(true);
    let config = Arc::new(config);
    let page = get(page).with_state(Arc::clone(&config));
    Router::new()
        .route("/openapi.json", get(openapi).with_state(document))
        .route("/docs", get(docs))
        .route("/docs/", page)
        .route("/docs/{*file}", get(file).with_state(config))
}

/// Describes this interface for programs.
#[utoipa::path(
    get, path = "/openapi.json", operation_id = "openapi", tag = "about", summary = "This description",
    responses((status = 200, description = "OpenAPI 3.1.", body = Object, content_type = "application/json")),
)]
pub(crate) async fn openapi(State(document): State<Bytes>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], document).into_response()
}

/// Leads to the page that describes this interface for people.
#[utoipa::path(
    get, path = "/docs", operation_id = "docs", tag = "about", summary = "This description for people",
    responses((status = 303, description = "The page is at `/docs/`; it works without a network.")),
)]
pub(crate) async fn docs() -> Redirect {
    Redirect::to("/docs/")
}

async fn page(State(config): State<Arc<Config<'static>>>) -> Response {
    serve_file("", config)
}

async fn file(
    file: Result<Path<String>, PathRejection>,
    State(config): State<Arc<Config<'static>>>,
) -> Response {
    match file {
        Ok(Path(file)) => serve_file(&file, config),
        Err(_) => missing("").into_response(),
    }
}

fn missing(path: &str) -> Problem {
    let path: String = path.chars().take(80).collect();
    Problem::new(
        Kind::NotFound,
        format!("nothing is at /docs/{path}"),
        "the page is at /docs/",
    )
}

fn serve_file(path: &str, config: Arc<Config<'static>>) -> Response {
    match serve(path, config) {
        Ok(Some(file)) => {
            let Ok(content_type) = HeaderValue::from_str(&file.content_type) else {
                return missing(path).into_response();
            };
            let headers: [(HeaderName, HeaderValue); 4] = [
                (header::CONTENT_TYPE, content_type),
                (
                    header::CONTENT_SECURITY_POLICY,
                    HeaderValue::from_static(CONTENT_SECURITY_POLICY),
                ),
                (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
                (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
            ];
            (headers, Bytes::from(file.bytes.into_owned())).into_response()
        }
        Ok(None) => missing(path).into_response(),
        Err(_) => Problem::new(Kind::Internal, "the page is broken", "read /openapi.json").into_response(),
    }
}
