//! The description of the HTTP interface, OpenAPI 3.1.

use utoipa::{OpenApi, ToSchema};

use crate::answer::{Outcome, RecordError, UnpublishedRecord};
use crate::health::{self, Readiness};
use crate::problem::ProblemDetails;
use crate::routes::{self, Version};
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

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Warren",
        description = "Takes messages in over HTTP and stores each exactly once.\n\n\
            Limits, all settings: 20 MiB a request after decompression (`http.max_request`) and on the wire \
            (`http.max_wire`), 10,000 messages a request, 256 KiB a body, 64 KiB and 32 levels of attributes. \
            Every error is a problem document (RFC 9457) that says what is wrong and how to mend it. \
            Every answer carries `x-request-id`.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
    ),
    paths(
        intake_routes::post_messages,
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
        ProblemDetails<'static>,
        Readiness,
        Version,
    )),
    tags(
        (name = "intake", description = "Messages come in here."),
        (name = "health", description = "For whoever watches over the process."),
        (name = "about", description = "What this is."),
    ),
)]
struct Description;

/// Returns the description as JSON, for a server of this version.
pub(crate) fn document(version: &str) -> String {
    let mut description = Description::openapi();
    version.clone_into(&mut description.info.version);
    // A description has string keys and finite numbers only, so writing it cannot fail.
    description.to_json().unwrap_or_default()
}
