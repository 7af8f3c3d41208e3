//! Every route, put together.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use tracing::warn;
use utoipa::ToSchema;
use warren_pipeline::dead_letters::DeadLetterJobs;
use warren_pipeline::flow::Flow;

use crate::budget::Budget;
use crate::console::{self, CONSOLE_ROUTE};
use crate::dead_letters::{self, DEAD_LETTER_ROUTES};
use crate::docs;
use crate::edge::EdgeLayer;
use crate::groups::{GroupRoutes, get_groups};
use crate::health::{Health, livez, readyz};
use crate::hosts::Hosts;
use crate::intake_routes::{IntakeRoutes, post_messages};
use crate::messages::{QUERY_ROUTES, QueryRoutes};
use crate::openapi::{self, Offered};
use crate::pipeline::{PIPELINE_ROUTE, get_pipeline};
use crate::problem::{Kind, Problem, json};
use crate::query::excerpt;
use crate::reading::Room;
use crate::tail::{TAIL_ROUTE, TailRoutes, get_tail};

/// What a server answers: always health, metrics and version, the intake where there is one.
#[derive(Clone, Debug)]
pub struct Routes {
    /// The program's name in `/` and `/version`, such as `ingest-api`.
    pub service: &'static str,
    /// The program's version in `/version`.
    pub version: &'static str,
    /// What `/readyz` answers from.
    pub health: Health,
    /// What `/metrics` shows; whoever installed the recorder also runs its upkeep.
    pub metrics: PrometheusHandle,
    /// `POST /v1/messages` and its documentation.
    pub intake: Option<IntakeRoutes>,
    /// The consumer groups that are known here, for `GET /v1/groups`; without them there is no such route.
    pub groups: Option<GroupRoutes>,
    /// The way of messages in numbers, for `GET /v1/pipeline`; without it there is no such route.
    pub pipeline: Option<Flow>,
    /// The dead letters that this process can work with, for `/v1/dead-letters`; without any there is no such route.
    pub dead_letters: Option<DeadLetterJobs>,
    /// What finds stored messages, for `GET /v1/messages`, counts and sources, and with them the console at `/`; without
    /// it there is none of that.
    pub query: Option<QueryRoutes>,
    /// What lets people watch what is published, at `GET /v1/tail`; without it there is no such route.
    pub tail: Option<TailRoutes>,
}

/// Where messages go in, and where they are found again.
pub(crate) const MESSAGES_ROUTE: &str = "/v1/messages";
/// Where the interface is described, as the router knows it.
pub(crate) const DOCS_ROUTES: [&str; 4] = ["/openapi.json", "/docs", "/docs/", "/docs/{*file}"];
/// Where a server tells what consumer groups have counted.
pub(crate) const GROUPS_ROUTE: &str = "/v1/groups";
/// Every route of any server, as the router knows it.
pub(crate) const COMMON_ROUTES: [&str; 5] = ["/", "/livez", "/readyz", "/metrics", "/version"];

impl Routes {
    /// Makes what every server answers, and nothing besides: the base that a program adds its own to.
    pub const fn bare(
        service: &'static str,
        version: &'static str,
        health: Health,
        metrics: PrometheusHandle,
    ) -> Self {
        Self {
            service,
            version,
            health,
            metrics,
            intake: None,
            groups: None,
            pipeline: None,
            dead_letters: None,
            query: None,
            tail: None,
        }
    }

    /// Makes the router, to be served by [`Server`](crate::Server), for requests to these hosts; large
    /// answers have this room.
    pub(crate) fn router(self, hosts: Hosts, room: Arc<Room>) -> Router {
        let reads = self.query.is_some()
            || self.tail.is_some()
            || self.groups.is_some()
            || self.pipeline.is_some()
            || self.dead_letters.is_some();
        if reads && hosts.are_open() {
            warn!(
                "whoever reaches this server may read here, pages of other sites in a browser that does, too, as every \
                 host name is allowed; list those it is meant to be asked by in http.hosts, if only localhost"
            );
        }
        let offered = Offered {
            intake: self.intake.as_ref().map(IntakeRoutes::limits),
            messages: self.query.is_some(),
            tail: self.tail.is_some(),
            groups: self.groups.is_some(),
            pipeline: self.pipeline.is_some(),
            dead_letters: self.dead_letters.is_some(),
        };
        let elsewhere = self.query.as_ref().and_then(QueryRoutes::intake);
        let about = About {
            service: self.service,
            version: self.version,
            intake: match &offered.intake {
                Some(_) => Some(MESSAGES_ROUTE.into()),
                None => elsewhere.map(|address| address.as_str().into()),
            },
            console: offered.messages,
        };
        let mut router = Router::new()
            .route("/", get(root).with_state(about.clone()))
            .route("/version", get(version).with_state(about))
            .route("/livez", get(livez))
            .route("/readyz", get(readyz).with_state(self.health))
            .route(
                "/metrics",
                get(metrics).with_state(Shown {
                    handle: self.metrics,
                    budget: self.intake.as_ref().map(IntakeRoutes::budget),
                }),
            );
        let mut paths = COMMON_ROUTES.to_vec();
        if let Some(groups) = self.groups {
            router = router.route(GROUPS_ROUTE, get(get_groups).with_state(Arc::new(groups)));
            paths.push(GROUPS_ROUTE);
        }
        if let Some(flow) = self.pipeline {
            router = router.route(PIPELINE_ROUTE, get(get_pipeline).with_state(flow));
            paths.push(PIPELINE_ROUTE);
        }
        if let Some(tail) = self.tail {
            router = router.route(TAIL_ROUTE, get(get_tail).with_state(tail));
            paths.push(TAIL_ROUTE);
        }
        if let Some(jobs) = self.dead_letters {
            router = router.merge(dead_letters::router(jobs, Arc::clone(&room)));
            paths.extend(DEAD_LETTER_ROUTES);
        }
        router = router.merge(docs::router(openapi::document(self.version, &offered)));
        paths.extend(DOCS_ROUTES);
        if offered.intake.is_some() || offered.messages {
            paths.push(MESSAGES_ROUTE);
        }
        if let Some(query) = self.query {
            router = router.merge(query.router(room)).merge(console::router());
            paths.extend(&QUERY_ROUTES[1..]);
            paths.push(CONSOLE_ROUTE);
        }
        if let Some(intake) = self.intake {
            let intake = post(post_messages).with_state(intake.into_shared());
            router = router.route(MESSAGES_ROUTE, intake);
        }
        let paths: Arc<[&'static str]> = paths.into();
        router
            .fallback(move |request: Request| std::future::ready(not_found(&request, &paths)))
            .method_not_allowed_fallback(method_not_allowed)
            .layer(EdgeLayer::new(hosts))
    }
}

#[derive(Clone, Debug)]
pub(crate) struct About {
    service: &'static str,
    version: &'static str,
    /// Where messages are posted to: a path of this server, or a URL of another.
    intake: Option<Arc<str>>,
    console: bool,
}

/// Shows the console to whoever asks for a page, where there is one, and says to others in a few lines what this is.
#[utoipa::path(
    get, path = "/", operation_id = "root", tag = "about", summary = "What is this?",
    responses(
        (status = 200, description = "A few lines for people; where messages can be read and `Accept` names `text/html`, \
            as browsers have it, the console.", content((String = "text/plain"), (String = "text/html"))),
    ),
)]
pub(crate) async fn root(State(about): State<About>, request: Request) -> Response {
    if about.console && console::is_wanted(request.headers()) {
        return console::page(request.headers());
    }
    let mut response = welcome(&about, &request).into_response();
    if about.console {
        let headers = response.headers_mut();
        headers.insert(header::VARY, HeaderValue::from_static("accept"));
    }
    response
}

fn welcome(about: &About, request: &Request) -> String {
    let About {
        service,
        version,
        intake,
        console,
    } = about;
    let mut text = format!("{service} {version}\n\n");
    if intake.is_some() || *console {
        let host = request
            .headers()
            .get(header::HOST)
            .and_then(|host| host.to_str().ok())
            .filter(|host| {
                // Shown as it was sent, so only what can be a host.
                host.len() <= 255
                    && host
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || b".:-[]".contains(&byte))
            });
        let host = host.unwrap_or("127.0.0.1:8080");
        if let Some(intake) = intake {
            let server = if intake.starts_with('/') {
                format!("http://{host}")
            } else {
                String::new()
            };
            text.push_str(&format!(
                "Send a message:    curl {server}{intake} -d '{{\"severity\":\"info\",\"body\":\"hello\"}}'\n"
            ));
        }
        if *console {
            text.push_str(&format!(
                "Find messages:     curl 'http://{host}/v1/messages?q=hello&limit=10'\n\
                 Console:           http://{host}/ in a browser\n"
            ));
        }
        text.push_str(&format!("Documentation:     http://{host}/docs/\n"));
    }
    text.push_str("Also here:         /livez /readyz /metrics /version /docs/\n");
    text
}

/// Which program answers.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Version {
    /// The program's name.
    #[schema(example = "ingest-api")]
    service: &'static str,
    /// The program's version.
    #[schema(example = "0.1.0")]
    version: &'static str,
    /// Where messages are posted to: a path of this server, or the address of another; `null` where that is not known.
    #[schema(example = "/v1/messages")]
    intake: Option<String>,
}

/// Says which program answers.
#[utoipa::path(
    get, path = "/version", operation_id = "version", tag = "about", summary = "Which program is this?",
    responses((status = 200, description = "Name and version, and where messages are sent to.", body = Version)),
)]
pub(crate) async fn version(State(about): State<About>) -> Response {
    json(
        StatusCode::OK,
        "application/json",
        &Version {
            service: about.service,
            version: about.version,
            intake: about.intake.as_deref().map(str::to_owned),
        },
    )
}

/// The numbers, and what brings those up to date that only requests change otherwise.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    handle: PrometheusHandle,
    budget: Option<Arc<Budget>>,
}

/// Shows the numbers in the text format of Prometheus.
#[utoipa::path(
    get, path = "/metrics", operation_id = "metrics", tag = "health", summary = "The numbers, for Prometheus",
    responses((status = 200, description = "Prometheus text format 0.0.4.", body = String)),
)]
pub(crate) async fn metrics(State(shown): State<Shown>) -> Response {
    if let Some(budget) = &shown.budget {
        budget.settle();
    }
    let mut response = shown.handle.render().into_response();
    let content_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

/// Answers a method that a path does not have; axum adds `Allow` to either answer.
async fn method_not_allowed(request: Request) -> Response {
    if request.method() == Method::OPTIONS {
        return StatusCode::NO_CONTENT.into_response();
    }
    Problem::new(
        Kind::MethodNotAllowed,
        format!(
            "{} does not take {}",
            excerpt(request.uri().path()),
            excerpt(request.method().as_str())
        ),
        "use one of the methods that Allow names",
    )
    .into_response()
}

fn not_found(request: &Request, paths: &[&'static str]) -> Response {
    let path = request.uri().path();
    if request.method() == Method::OPTIONS && path == "*" {
        let allow = HeaderValue::from_static("GET,HEAD,POST,OPTIONS");
        return (StatusCode::NO_CONTENT, [(header::ALLOW, allow)]).into_response();
    }
    let hint = match meant(path, paths) {
        Some(near) => format!("did you mean {near}?"),
        None => {
            let known: Vec<_> = paths.iter().filter(|path| !path.contains('{')).copied().collect();
            format!("the paths here are {}", known.join(" "))
        }
    };
    Problem::new(Kind::NotFound, format!("nothing is at {}", excerpt(path)), hint).into_response()
}

/// Guesses which path was meant: by its last word, which other programs put under other prefixes, else by likeness.
fn meant(path: &str, paths: &[&'static str]) -> Option<&'static str> {
    // Likeness costs the product of the lengths.
    if path.len() > 80 {
        return None;
    }
    let lower = path.to_ascii_lowercase();
    let last = lower.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let known = match last {
        "messages" | "message" | "logs" | "log" | "events" | "event" | "ingest" | "publish" | "search"
        | "query" => MESSAGES_ROUTE,
        "health" | "healthz" | "healthcheck" | "live" | "liveness" | "ping" => "/livez",
        "ready" | "readiness" | "status" => "/readyz",
        "swagger" | "swagger-ui" | "doc" | "redoc" | "help" => "/docs",
        "openapi" | "openapi.yaml" | "swagger.json" | "api-docs" => "/openapi.json",
        "prometheus" | "stats" => "/metrics",
        "pipeline" | "flow" => PIPELINE_ROUTE,
        "dead" | "dead-letters" | "deadletters" | "dead_letters" | "dlq" => DEAD_LETTER_ROUTES[0],
        "counts" | "count" | "histogram" if paths.contains(&QUERY_ROUTES[2]) => QUERY_ROUTES[2],
        "group" | "groups" | "tally" | "counts" => GROUPS_ROUTE,
        _ => "",
    };
    if let Some(found) = paths.iter().find(|path| **path == known) {
        return Some(found);
    }
    let likeness = |known: &str| strsim::normalized_damerau_levenshtein(&lower, known);
    paths
        .iter()
        .filter(|path| !path.contains('{'))
        .map(|path| (likeness(path), *path))
        .filter(|(likeness, _)| *likeness > 0.6)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, path)| path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_path_is_guessed() {
        let mut all: Vec<_> = COMMON_ROUTES.into_iter().chain(DOCS_ROUTES).collect();
        all.push(MESSAGES_ROUTE);
        for (path, near) in [
            ("/messages", Some("/v1/messages")),
            ("/v1/messages/", Some("/v1/messages")),
            ("/api/v1/message", Some("/v1/messages")),
            ("/v1/mesages", Some("/v1/messages")),
            ("/healthz", Some("/livez")),
            ("/LIVEZ", Some("/livez")),
            ("/ready", Some("/readyz")),
            ("/metric", Some("/metrics")),
            ("/swagger", Some("/docs")),
            ("/groups", None),
            ("/favicon.ico", None),
            ("*", None),
        ] {
            assert_eq!(meant(path, &all), near, "{path}");
        }
        assert_eq!(meant("/messages", &COMMON_ROUTES), None);
        assert_eq!(meant("/groups", &[GROUPS_ROUTE]), Some(GROUPS_ROUTE));
        let reading = [GROUPS_ROUTE, QUERY_ROUTES[2], QUERY_ROUTES[3]];
        assert_eq!(meant("/counts", &reading), Some("/v1/counts"));
        assert_eq!(meant("/sources", &reading), Some("/v1/sources"));
    }
}
