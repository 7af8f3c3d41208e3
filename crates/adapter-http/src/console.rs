//! The console: a page, its style and its modules, carried in the program, so that it works without a network.
//!
//! The files are served as they are written. They have no version in their names, so browsers keep them and ask each
//! time whether they are still the same.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use axum::Router;
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::header::{self, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::accept;
use crate::problem::{Kind, Problem};

/// Where the files of the page are, as the router knows it.
pub(crate) const CONSOLE_ROUTE: &str = "/console/{file}";

/// Scripts, styles and data from this server only, and nothing within the page: a message that gets into it as HTML all
/// the same can do nothing.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A file as it is written.
type File = (&'static str, &'static str);

/// Reads a file of the console into the program.
macro_rules! file {
    ($name:literal) => {
        ($name, include_str!(concat!("../console/", $name)))
    };
}

/// The page itself.
const PAGE: File = file!("index.html");

/// What the page loads.
const FILES: &[File] = &[
    file!("api.js"),
    file!("app.js"),
    file!("console.css"),
    file!("dead-letters.js"),
    file!("dom.js"),
    file!("feed.js"),
    file!("histogram.js"),
    file!("jobs.js"),
    file!("list.js"),
    file!("messages.js"),
    file!("pipeline.js"),
    file!("row.js"),
    file!("rows.js"),
    file!("search.js"),
    file!("store.js"),
    file!("tail.js"),
    file!("time.js"),
];

/// Makes the route of what the page loads.
pub(crate) fn router() -> Router {
    Router::new().route(CONSOLE_ROUTE, get(get_file))
}

/// Tells whether a page is wanted: browsers name its type.
pub(crate) fn is_wanted(headers: &HeaderMap) -> bool {
    accept::names(headers, "text/html")
}

/// Answers with the page.
pub(crate) fn page(asked: &HeaderMap) -> Response {
    let mut response = answer(PAGE, asked);
    let headers = response.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("accept"));
    response
}

async fn get_file(name: Result<Path<String>, PathRejection>, asked: HeaderMap) -> Response {
    let name = name.map(|Path(name)| name).unwrap_or_default();
    match FILES.iter().find(|(known, _)| *known == name) {
        Some(file) => answer(*file, &asked),
        None => {
            let name: String = name.chars().take(80).collect();
            let detail = format!("nothing is at /console/{name}");
            Problem::new(Kind::NotFound, detail, "the page is at /").into_response()
        }
    }
}

fn answer((name, text): File, asked: &HeaderMap) -> Response {
    let content_type = match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        _ => "text/javascript; charset=utf-8",
    };
    let tag = tag(text);
    let known = asked
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|known| matches!(known.trim(), "*") || known.trim().trim_start_matches("W/") == tag);
    let mut response = if known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        text.into_response()
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(CONTENT_SECURITY_POLICY),
    );
    if let Ok(tag) = HeaderValue::try_from(tag) {
        headers.insert(header::ETAG, tag);
    }
    response
}

/// Returns what names this very text. Every process of one version says the same, whoever of them is asked.
fn tag(text: &str) -> String {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    format!("\"{:016x}-{:x}\"", hasher.finish(), text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_folder_is_carried() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/console");
        let mut written: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".js") || name.ends_with(".css"))
            .collect();
        written.sort();
        let carried: Vec<_> = FILES.iter().map(|(name, _)| *name).collect();
        assert_eq!(carried, written);
    }
}
