//! `GET /v1/groups`: what the consumer groups of this process have counted.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use tokio::sync::watch;
use utoipa::ToSchema;
use warren_pipeline::tally::GroupReport;

use crate::problem::json;

/// What each group of this process has counted.
#[derive(Debug, Serialize)]
struct Groups {
    groups: Vec<GroupReport>,
}

/// Tells what each consumer group has counted, how fast, and what waits for it.
#[utoipa::path(
    get, path = "/v1/groups", operation_id = "groups", tag = "groups", summary = "What the consumer groups have counted",
    responses((status = 200, description = "One member for each group that this process counts for.", body = GroupsForm)),
)]
pub(crate) async fn get_groups(State(groups): State<Arc<[watch::Receiver<GroupReport>]>>) -> Response {
    let groups = groups.iter().map(|reports| reports.borrow().clone()).collect();
    json(StatusCode::OK, "application/json", &Groups { groups })
}

/// What each consumer group of this process has counted.
#[derive(Debug, ToSchema)]
#[schema(as = Groups)]
#[expect(dead_code, reason = "describes what GroupReport writes by itself")]
pub(crate) struct GroupsForm {
    groups: Vec<GroupForm>,
}

/// What a consumer group has counted at a moment.
#[derive(Debug, ToSchema)]
#[schema(as = Group)]
#[expect(dead_code, reason = "describes what GroupReport writes by itself")]
pub(crate) struct GroupForm {
    /// Its name.
    #[schema(example = "error")]
    group: String,
    /// `connecting`, `consuming` or `stopped`.
    #[schema(example = "consuming")]
    state: String,
    /// When this was so.
    #[schema(format = "date-time", example = "2026-11-25T12:00:00.000000Z")]
    at: String,
    /// Messages that were counted, each once, by severity.
    received: BySeverity<u64>,
    /// Their sum.
    total: u64,
    /// Messages that came again and were not counted again.
    duplicates: u64,
    /// Messages counted in a second, a mean over the last five.
    per_second: BySeverity<f64>,
    /// When a message of each severity was last counted; `null` if never.
    last_seen: BySeverity<Option<String>>,
    /// What waits for the group; `null` while that is not known.
    lag: Option<LagForm>,
}

/// A value for each severity.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "describes what GroupReport writes by itself")]
pub(crate) struct BySeverity<T> {
    debug: T,
    info: T,
    warning: T,
    error: T,
    critical: T,
}

/// What waits for a group, not counting what its members hold.
#[derive(Debug, ToSchema)]
#[schema(as = Lag)]
#[expect(dead_code, reason = "describes what GroupReport writes by itself")]
pub(crate) struct LagForm {
    /// Packets that are ready to be delivered.
    packets: u64,
    /// The messages in them, where that is known.
    messages: Option<u64>,
    /// How old the oldest is, 0 when nothing waits; `null` where that is not known.
    oldest_seconds: Option<f64>,
}
