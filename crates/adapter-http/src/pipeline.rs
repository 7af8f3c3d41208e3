//! `GET /v1/pipeline`: how far messages have come, and how fast.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use utoipa::ToSchema;
use warren_pipeline::flow::Flow;

use crate::groups::BySeverity;
use crate::problem::json;

/// Where the route is.
pub(crate) const PIPELINE_ROUTE: &str = "/v1/pipeline";

/// Tells the way of messages in numbers.
#[utoipa::path(
    get, path = "/v1/pipeline", operation_id = "pipeline", tag = "pipeline",
    summary = "How many messages are accepted, waiting, stored or dead, and how fast",
    description = "What programs have counted since they were started, added up; read once a second at most. What is not \
        known is `null`, and `missing` says why. Rates are means over the last ten seconds in which somebody asked.",
    responses((status = 200, description = "The stages, in the order in which messages pass them.", body = PipelineForm)),
)]
pub(crate) async fn get_pipeline(State(flow): State<Flow>) -> Response {
    json(StatusCode::OK, "application/json", &flow.report().await)
}

/// The way of messages at a moment.
#[derive(Debug, ToSchema)]
#[schema(as = Pipeline)]
#[expect(dead_code, reason = "describes what FlowReport writes by itself")]
pub(crate) struct PipelineForm {
    /// When this was so.
    #[schema(format = "date-time", example = "2026-11-25T12:00:00.000000Z")]
    at: String,
    /// `accepted`, `queued` (in this process) or `in_rabbitmq`, `stored`, `dead`.
    stages: Vec<StageForm>,
    /// Messages that were accepted, and are neither stored nor dead: in spools, waiting, or being stored.
    in_flight: InFlightForm,
    /// What is not known, or in part only, and why.
    missing: Vec<MissingForm>,
}

/// A number of messages, which is exact where both are the same.
#[derive(Debug, ToSchema)]
#[schema(as = InFlight)]
#[expect(dead_code, reason = "describes what FlowReport writes by itself")]
pub(crate) struct InFlightForm {
    /// As if each packet that waits on RabbitMQ held one message; `null` while it is not known what waits.
    at_least: Option<u64>,
    /// As if each held the most that it may; `null` where a program does not answer, too.
    at_most: Option<u64>,
}

/// A stage, with those of the members that it has.
#[derive(Debug, ToSchema)]
#[schema(as = Stage)]
#[expect(dead_code, reason = "describes what FlowReport writes by itself")]
pub(crate) struct StageForm {
    /// Its name.
    #[schema(example = "accepted")]
    stage: String,
    /// `accepted`, `stored`, `dead`: messages since the programs were started.
    total: Option<BySeverity<u64>>,
    /// `accepted`, `stored`, `dead`: messages in a second.
    per_second: Option<f64>,
    /// `accepted`: those that the broker has confirmed, at once or out of a spool.
    confirmed: Option<BySeverity<u64>>,
    /// `accepted`: messages confirmed in a second.
    confirmed_per_second: Option<f64>,
    /// `accepted`: messages that were given to the broker, which has not answered yet.
    publishing: Option<u64>,
    /// `accepted`: messages that wait in spools for the broker; `null` where no program has a spool.
    spooled: Option<u64>,
    /// `queued`, `in_rabbitmq`: packets that wait to be delivered to a worker.
    packets: Option<u64>,
    /// `queued`: the messages in them; `null` on RabbitMQ, which does not open packets.
    messages: Option<u64>,
    /// `queued`, `in_rabbitmq`: packets that were delivered to workers and are not acknowledged yet.
    unacknowledged: Option<u64>,
    /// `queued`, `in_rabbitmq`: messages that workers hold, being stored.
    held: Option<u64>,
    /// `stored`: messages that were stored already when they came.
    duplicates: Option<u64>,
    /// `dead`: dead letters of the store that wait for somebody, counted every half minute.
    letters: Option<u64>,
    /// `dead`: those of spools, which the `ingest-api` with the spool lists; `null` where no program has a spool.
    in_spools: Option<u64>,
}

/// Why something of a stage is not known.
#[derive(Debug, ToSchema)]
#[schema(as = Missing)]
#[expect(dead_code, reason = "describes what FlowReport writes by itself")]
pub(crate) struct MissingForm {
    /// The stage.
    #[schema(example = "stored")]
    stage: String,
    /// Why.
    #[schema(example = "http://worker:8081 does not answer: nothing within 1.5s")]
    reason: String,
    /// What to do about it.
    hint: String,
}
