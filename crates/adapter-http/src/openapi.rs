//! The description of the HTTP interface, OpenAPI 3.1.

use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::{ContentBuilder, Ref, Response, ResponseBuilder};
use utoipa::{OpenApi, ToSchema};
use warren_pipeline::IntakeConfig;

use crate::HttpConfig;
use crate::answer::{Outcome, RecordError, UnpublishedRecord};
use crate::dead_letters::{
    self, DEAD_LETTER_ROUTES, DryRun, JobForm, JobsForm, LetterPage, WholeLetter, WishForm,
};
use crate::groups::{self, GroupForm, GroupsForm, LagForm, UnacknowledgedForm};
use crate::health::{self, Readiness};
use crate::messages::{self, CountsPage, MessagePage, QUERY_ROUTES, SourcesPage, WholeMessage};
use crate::pipeline::{self, InFlightForm, MissingForm, PIPELINE_ROUTE, PipelineForm, StageForm};
use crate::problem::PROBLEM_JSON;
use crate::routes::{self, GROUPS_ROUTE, MESSAGES_ROUTE, Version};
use crate::tail::{self, TAIL_ROUTE};
use crate::{docs, intake_routes};

/// What stands in the body of a request: one message or several.
#[derive(Debug, ToSchema)]
#[schema(as = Messages)]
#[serde(untagged)]
#[expect(dead_code, reason = "describes what Draft reads by itself")]
pub(crate) enum MessagesForm {
    /// One message.
    One(MessageForm),
    /// Several messages, at most `intake.max_messages` (10,000).
    Several(Vec<MessageForm>),
}

/// One message. Only `body` is required; a field that is `null` counts as absent, an unknown one is refused.
#[derive(Debug, ToSchema)]
#[schema(as = Message)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes what Draft reads by itself")]
pub(crate) struct MessageForm {
    /// What the message says, at most `intake.max_body` (256 KiB) of UTF-8. U+0000 becomes U+FFFD.
    #[schema(example = "card declined")]
    body: String,
    /// `debug`, `info`, `warning`, `error` or `critical`, or an alias (`warn`, `err`, `fatal`, …) in any letter case.
    #[schema(default = "info", example = "error")]
    severity: Option<String>,
    /// Who says it: segments of letters, digits, `_` and `-` joined by dots, at most 200 bytes.
    #[schema(
        default = "default",
        max_length = 200,
        pattern = r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$",
        example = "billing.api"
    )]
    source: Option<String>,
    /// Structured data, at most `intake.max_attributes` (64 KiB) as compact JSON and `intake.max_attribute_levels`
    /// (32) levels deep.
    attributes: Option<serde_json::Map<String, serde_json::Value>>,
    /// When it happened, 1970 to 2261, kept to the microsecond; the time of arrival if absent.
    #[schema(format = "date-time", example = "2026-11-22T13:00:00.123Z")]
    occurred_at: Option<String>,
    /// A UUID of version 7. A message sent again under its id is stored once; without an id it is stored again.
    #[schema(format = "uuid", example = "019aa0c0-0000-7000-8000-000000000001")]
    id: Option<String>,
}

/// Problem details as RFC 9457 defines them, with a `hint` that says how to mend the fault.
///
/// Where records were looked at, the members of the ordinary answer say what became of each.
#[derive(Debug, ToSchema)]
#[schema(as = Problem)]
#[expect(dead_code, reason = "describes what Problem writes by itself")]
pub(crate) struct ProblemForm {
    /// What kind of problem, for programs.
    #[schema(example = "urn:warren:problem:malformed-body")]
    r#type: String,
    /// The kind, for people.
    #[schema(example = "The body cannot be read")]
    title: String,
    /// The HTTP status.
    #[schema(example = 400)]
    status: u16,
    /// What is wrong with this request, and where.
    #[schema(example = "neither JSON nor NDJSON: at byte 0 stands 'h'")]
    detail: String,
    /// How to mend it.
    #[schema(example = "send JSON, or say Content-Type: text/plain for one message of plain text")]
    hint: String,
    /// Of a request for messages: which parameter is wrong.
    #[schema(example = "q")]
    parameter: Option<String>,
    /// Where in its value the fault begins, in characters from 1.
    column: Option<usize>,
    /// How many characters it spans.
    length: Option<usize>,
    /// How many messages are durable now.
    accepted: Option<usize>,
    /// How many records are surely not stored.
    rejected: Option<usize>,
    /// The ids of the accepted messages, as in an ordinary answer.
    ids: Option<Vec<String>>,
    /// What is wrong with each record that was not accepted; at most 100 of them.
    errors: Option<Vec<RecordError>>,
    /// How many faults are left out of `errors`.
    errors_omitted: Option<usize>,
    /// Every message that is valid but not known to be durable: send it again under this id.
    unpublished: Option<Vec<UnpublishedRecord>>,
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Warren",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
    ),
    paths(
        intake_routes::post_messages,
        messages::get_messages,
        messages::get_message,
        messages::get_counts,
        messages::get_sources,
        tail::get_tail,
        groups::get_groups,
        pipeline::get_pipeline,
        dead_letters::get_dead_letters,
        dead_letters::get_dead_letter,
        dead_letters::post_redrive,
        dead_letters::post_purge,
        dead_letters::get_jobs,
        dead_letters::get_job,
        dead_letters::delete_job,
        health::livez,
        health::readyz,
        routes::metrics,
        routes::version,
        routes::root,
        docs::openapi,
        docs::docs,
    ),
    components(schemas(
        MessagesForm,
        MessageForm,
        Outcome,
        RecordError,
        UnpublishedRecord,
        ProblemForm,
        Readiness,
        Version,
        GroupsForm,
        GroupForm,
        LagForm,
        UnacknowledgedForm,
        PipelineForm,
        StageForm,
        InFlightForm,
        MissingForm,
        MessagePage,
        WholeMessage,
        CountsPage,
        SourcesPage,
        LetterPage,
        WholeLetter,
        WishForm,
        DryRun,
        JobForm,
        JobsForm,
    )),
    tags(
        (name = "intake", description = "Messages come in here."),
        (name = "messages", description = "What is stored, found again."),
        (name = "groups", description = "What consumer groups have counted."),
        (name = "pipeline", description = "The way of messages in numbers."),
        (name = "dead letters", description = "What nobody could store: look at it, redrive it, purge it."),
        (name = "health", description = "For whoever watches over the process."),
        (name = "about", description = "What this is."),
    ),
)]
struct Description;

/// What a server has beside health and version.
#[derive(Clone, Debug, Default)]
pub(crate) struct Offered {
    /// The intake, described by its limits.
    pub(crate) intake: Option<String>,
    pub(crate) messages: bool,
    pub(crate) tail: bool,
    pub(crate) groups: bool,
    pub(crate) pipeline: bool,
    pub(crate) dead_letters: bool,
}

/// Returns the description as JSON, for a server of this version that has this.
pub(crate) fn document(version: &str, offered: &Offered) -> String {
    let mut description = Description::openapi();
    let paths = &mut description.paths.paths;
    let mut away = Vec::new();
    if !offered.groups {
        away.push(GROUPS_ROUTE);
    }
    if !offered.pipeline {
        away.push(PIPELINE_ROUTE);
    }
    if !offered.dead_letters {
        away.extend(DEAD_LETTER_ROUTES);
    }
    if !offered.tail {
        away.push(TAIL_ROUTE);
    }
    if !offered.messages {
        away.extend(&QUERY_ROUTES[1..]);
    }
    if !offered.messages && offered.intake.is_none() {
        away.push(MESSAGES_ROUTE);
    }
    for route in away {
        paths.remove(route);
    }
    if let Some(messages) = paths.get_mut(MESSAGES_ROUTE) {
        messages.post = messages.post.take().filter(|_| offered.intake.is_some());
        messages.get = messages.get.take().filter(|_| offered.messages);
    }
    for (path, item) in paths.iter_mut().filter(|(path, _)| path.starts_with("/v1/")) {
        let takes_in = (path == MESSAGES_ROUTE).then(|| item.post.take()).flatten();
        operations(item).for_each(describe_common_faults);
        item.post = item.post.take().or(takes_in);
    }
    version.clone_into(&mut description.info.version);
    let limits = offered.intake.as_deref().unwrap_or_default();
    description.info.description = Some(format!(
        "Takes messages in over HTTP, stores each exactly once, and finds them again.\n\n\
         {limits}\
         Every error is a problem document (RFC 9457) that says what is wrong and how to mend it. Every answer of a \
         route carries `x-request-id`."
    ));
    // A description has string keys and finite numbers only, so writing it cannot fail.
    description.to_json().unwrap_or_default()
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let PathItem {
        get, post, delete, ..
    } = item;
    [get, post, delete].into_iter().flatten()
}

/// Adds what every route may answer that is not for taking messages in.
fn describe_common_faults(operation: &mut Operation) {
    let fault = |description: &str| -> Response {
        let problem = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem")));
        ResponseBuilder::new()
            .description(description)
            .content(PROBLEM_JSON, problem.build())
            .build()
    };
    let responses = &mut operation.responses.responses;
    for (status, description) in [
        (
            "421",
            "The `Host` is none that the server goes by, where that is checked.",
        ),
        ("500", "A fault of the program."),
    ] {
        responses
            .entry(status.to_owned())
            .or_insert_with(|| fault(description).into());
    }
}

/// Writes the limits of an intake, as a paragraph of the description.
pub(crate) fn limits(http: &HttpConfig, intake: &IntakeConfig) -> String {
    format!(
        "The limits of this server: a request of {} after decompression (`http.max_request`) and {} on the wire \
         (`http.max_wire`), {} messages a request (`intake.max_messages`), a body of {} (`intake.max_body`), attributes \
         of {} (`intake.max_attributes`) and {} levels (`intake.max_attribute_levels`).\n\n",
        http.max_request,
        http.max_wire,
        intake.max_messages,
        intake.max_body,
        intake.max_attributes,
        intake.max_attribute_levels,
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::{Value, json};

    use super::*;
    use crate::console::CONSOLE_ROUTE;
    use crate::edge::{NONE, OTHER, ROUTES};
    use crate::routes::DOCS_ROUTES;

    fn whole() -> Value {
        let all = Offered {
            intake: Some(String::new()),
            messages: true,
            tail: true,
            groups: true,
            pipeline: true,
            dead_letters: true,
        };
        serde_json::from_str(&document("1.2.3", &all)).unwrap()
    }

    #[test]
    fn every_route_is_described_but_the_files_of_pages() {
        let description = whole();
        let described: BTreeSet<_> = description["paths"].as_object().unwrap().keys().collect();
        let files = [DOCS_ROUTES[2], DOCS_ROUTES[3], CONSOLE_ROUTE];
        let routes: BTreeSet<_> = ROUTES
            .into_iter()
            .filter(|route| !files.contains(route) && ![NONE, OTHER].contains(route))
            .map(str::to_owned)
            .collect();
        assert_eq!(described, routes.iter().collect());
    }

    #[test]
    fn whoever_reads_is_told_of_a_foreign_host_and_of_faults_of_the_program() {
        let description = whole();
        for (path, item) in description["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let told = |status: &str| operation["responses"].get(status).is_some();
                let takes_in = path == MESSAGES_ROUTE && method == "post";
                let of_interface = path.starts_with("/v1/");
                assert_eq!(told("421"), of_interface && !takes_in, "{method} {path}");
                assert_eq!(told("500"), of_interface, "{method} {path}");
            }
        }
    }

    #[test]
    fn what_is_wished_of_dead_letters_is_described_as_it_is_read() {
        let description = whole();
        let schemas = &description["components"]["schemas"];
        let wish = &schemas["DeadLetterWish"];
        for flag in ["dry_run", "all"] {
            assert_eq!(wish["properties"][flag]["type"], json!("boolean"), "null is none");
        }
        assert_eq!(wish.get("required"), None);
        let reasons = schemas["DeadLetterReasons"]["oneOf"].as_array().unwrap();
        let types: Vec<_> = reasons.iter().map(|reasons| &reasons["type"]).collect();
        assert_eq!(types, [&json!("string"), &json!("array")]);
    }
}
