//! `GET /v1/groups`: what consumer groups have counted, in this process or elsewhere.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use tokio::sync::watch;
use utoipa::ToSchema;
use warren_pipeline::tally::{GroupReport, GroupWatch};

use crate::problem::json;

/// Where it is known what consumer groups have counted.
#[derive(Clone, Debug)]
pub enum GroupRoutes {
    /// In this process, which counts for them.
    Own(Vec<watch::Receiver<GroupReport>>),
    /// Elsewhere, as far as it can be known from here.
    Watched(GroupWatch),
}

/// What each group of this process has counted.
#[derive(Debug, Serialize)]
struct Groups {
    groups: Vec<GroupReport>,
}

/// Tells what each consumer group has counted, how fast, and what waits for it.
#[utoipa::path(
    get, path = "/v1/groups", operation_id = "groups", tag = "groups", summary = "What the consumer groups have counted",
    description = "Of groups that count in other processes, what is not known is `null`, and `missing` says why.",
    responses((status = 200, description = "One member for each group that is known.", body = GroupsForm)),
)]
pub(crate) async fn get_groups(State(groups): State<Arc<GroupRoutes>>) -> Response {
    match &*groups {
        GroupRoutes::Own(groups) => {
            let groups = groups.iter().map(|reports| reports.borrow().clone()).collect();
            json(StatusCode::OK, "application/json", &Groups { groups })
        }
        GroupRoutes::Watched(watch) => json(StatusCode::OK, "application/json", &watch.report().await),
    }
}

/// What each consumer group has counted.
#[derive(Debug, ToSchema)]
#[schema(as = Groups)]
#[expect(dead_code, reason = "describes what GroupReport writes by itself")]
pub(crate) struct GroupsForm {
    groups: Vec<GroupForm>,
    /// Of groups that count elsewhere: why something is not known.
    missing: Option<Vec<String>>,
}

/// What a consumer group has counted at a moment.
#[derive(Debug, ToSchema)]
#[schema(as = Group)]
#[expect(dead_code, reason = "describes what GroupReport writes by itself")]
pub(crate) struct GroupForm {
    /// Its name.
    #[schema(example = "error")]
    group: String,
    /// `connecting`, `consuming` or `stopped`; elsewhere `consuming`, `unattended` (no member), `absent` (no queue either) or
    /// `unknown`.
    #[schema(example = "consuming")]
    state: String,
    /// When this was so.
    #[schema(format = "date-time", example = "2026-11-25T12:00:00.000000Z")]
    at: String,
    /// Messages that were counted, each once, by severity.
    received: Option<BySeverity<u64>>,
    /// Their sum.
    total: Option<u64>,
    /// Messages that came again and were not counted again.
    duplicates: Option<u64>,
    /// Messages counted in a second, a mean over the last five; elsewhere over the last ten in which somebody asked.
    per_second: Option<BySeverity<f64>>,
    /// When a message of each severity was last counted, `null` if never; not known elsewhere.
    last_seen: Option<BySeverity<Option<String>>>,
    /// What waits for the group; `null` while that is not known.
    lag: Option<LagForm>,
    /// What was delivered to members of the group and is not acknowledged yet; `null` while that is not known, or not of all
    /// members.
    unacknowledged: Option<UnacknowledgedForm>,
    /// Elsewhere: how many consume from its queue.
    members: Option<u64>,
}

/// A value for each severity.
#[derive(Debug, ToSchema)]
#[expect(
    dead_code,
    reason = "describes what warren_domain::BySeverity writes by itself"
)]
pub(crate) struct BySeverity<T> {
    debug: T,
    info: T,
    warning: T,
    error: T,
    critical: T,
}

/// What was delivered for a group and is not acknowledged yet.
#[derive(Debug, ToSchema)]
#[schema(as = Unacknowledged)]
#[expect(dead_code, reason = "describes what GroupReport writes by itself")]
pub(crate) struct UnacknowledgedForm {
    /// Packets; on RabbitMQ a packet is an AMQP message.
    packets: u64,
    /// The messages in them, where that is known.
    messages: Option<u64>,
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
