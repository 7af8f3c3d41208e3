//! Problem details (RFC 9457): the one place where a fault becomes a status.

use std::borrow::Cow;

use axum::http::header::{ACCEPT_ENCODING, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::answer::Outcome;

/// The media type of every answer that is an error.
pub(crate) const PROBLEM_JSON: &str = "application/problem+json";

/// What kind of fault a request met. The names in [`Kind::code`] are part of the HTTP interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The bytes are no HTTP request.
    MalformedRequest,
    /// Nothing to take.
    EmptyRequest,
    /// Neither JSON, NDJSON nor text, or not to its end.
    MalformedBody,
    /// The body does not decompress.
    MalformedEncoding,
    /// A query parameter that nobody knows, or with an impossible value.
    InvalidQuery,
    /// A parameter of a request for dead letters or messages that nobody knows, or with an impossible value.
    InvalidParameter,
    /// More of what is stored than can be read at once.
    TooMuch,
    /// A header of the interface with an impossible value.
    InvalidHeader,
    NotFound,
    /// A host that the server does not go by.
    ForeignHost,
    MethodNotAllowed,
    /// Another job over dead letters is under way.
    JobUnderWay,
    /// The body came too slowly.
    SlowBody,
    TooLarge,
    UriTooLong,
    UnsupportedMediaType,
    UnsupportedEncoding,
    /// Well-formed, but every message of it is invalid.
    InvalidMessages,
    HeadersTooLarge,
    /// A fault of this program.
    Internal,
    /// No room for the request now.
    Overloaded,
    /// The broker is away, blocked, full or slow.
    Unavailable,
    /// Where the dead letters are kept does not answer.
    LettersUnavailable,
    /// The dead letters can only be looked at here.
    LettersReadOnly,
    /// Where the messages are stored does not answer.
    StoreUnavailable,
    /// What is published cannot be watched.
    TailUnavailable,
}

impl Kind {
    const fn status(self) -> StatusCode {
        match self {
            Self::MalformedRequest
            | Self::EmptyRequest
            | Self::MalformedBody
            | Self::MalformedEncoding
            | Self::InvalidQuery
            | Self::InvalidParameter
            | Self::TooMuch
            | Self::InvalidHeader => StatusCode::BAD_REQUEST,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::ForeignHost => StatusCode::MISDIRECTED_REQUEST,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::JobUnderWay | Self::LettersReadOnly => StatusCode::CONFLICT,
            Self::SlowBody => StatusCode::REQUEST_TIMEOUT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UriTooLong => StatusCode::URI_TOO_LONG,
            Self::UnsupportedMediaType | Self::UnsupportedEncoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::InvalidMessages => StatusCode::UNPROCESSABLE_ENTITY,
            Self::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Overloaded
            | Self::Unavailable
            | Self::LettersUnavailable
            | Self::StoreUnavailable
            | Self::TailUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    const fn code(self) -> &'static str {
        match self {
            Self::MalformedRequest => "urn:warren:problem:malformed-request",
            Self::EmptyRequest => "urn:warren:problem:empty-request",
            Self::MalformedBody => "urn:warren:problem:malformed-body",
            Self::MalformedEncoding => "urn:warren:problem:malformed-encoding",
            Self::InvalidQuery => "urn:warren:problem:invalid-query",
            Self::InvalidParameter => "urn:warren:problem:invalid-parameter",
            Self::TooMuch => "urn:warren:problem:too-much",
            Self::InvalidHeader => "urn:warren:problem:invalid-header",
            Self::NotFound => "urn:warren:problem:not-found",
            Self::ForeignHost => "urn:warren:problem:foreign-host",
            Self::MethodNotAllowed => "urn:warren:problem:method-not-allowed",
            Self::JobUnderWay => "urn:warren:problem:job-under-way",
            Self::SlowBody => "urn:warren:problem:slow-body",
            Self::TooLarge => "urn:warren:problem:too-large",
            Self::UriTooLong => "urn:warren:problem:uri-too-long",
            Self::UnsupportedMediaType => "urn:warren:problem:unsupported-media-type",
            Self::UnsupportedEncoding => "urn:warren:problem:unsupported-encoding",
            Self::InvalidMessages => "urn:warren:problem:invalid-messages",
            Self::HeadersTooLarge => "urn:warren:problem:headers-too-large",
            Self::Internal => "urn:warren:problem:internal",
            Self::Overloaded => "urn:warren:problem:overloaded",
            Self::Unavailable => "urn:warren:problem:unavailable",
            Self::LettersUnavailable => "urn:warren:problem:dead-letters-unavailable",
            Self::LettersReadOnly => "urn:warren:problem:dead-letters-read-only",
            Self::StoreUnavailable => "urn:warren:problem:store-unavailable",
            Self::TailUnavailable => "urn:warren:problem:tail-unavailable",
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::MalformedRequest => "Not an HTTP request",
            Self::EmptyRequest => "Nothing to take",
            Self::MalformedBody => "The body cannot be read",
            Self::MalformedEncoding => "The body does not decompress",
            Self::InvalidQuery => "Invalid query",
            Self::InvalidParameter => "Invalid parameter",
            Self::TooMuch => "Too much is asked for",
            Self::InvalidHeader => "Invalid header",
            Self::NotFound => "Not found",
            Self::ForeignHost => "Not a host of this server",
            Self::MethodNotAllowed => "Method not allowed",
            Self::JobUnderWay => "Another job is under way",
            Self::SlowBody => "The body came too slowly",
            Self::TooLarge => "Over a limit",
            Self::UriTooLong => "The address is too long",
            Self::UnsupportedMediaType => "Unsupported content type",
            Self::UnsupportedEncoding => "Unsupported content encoding",
            Self::InvalidMessages => "No valid message",
            Self::HeadersTooLarge => "Too many or too large headers",
            Self::Internal => "Internal error",
            Self::Overloaded => "Overloaded",
            Self::Unavailable => "Messages cannot be taken now",
            Self::LettersUnavailable => "Dead letters cannot be reached now",
            Self::LettersReadOnly => "Dead letters can only be looked at here",
            Self::StoreUnavailable => "Messages cannot be read now",
            Self::TailUnavailable => "Messages cannot be watched now",
        }
    }
}

/// Which parameter is at fault, for programs that point at it.
#[derive(Debug, Serialize)]
pub(crate) struct Fault {
    pub(crate) parameter: Cow<'static, str>,
    /// Where in it, in characters from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) column: Option<usize>,
    /// Over how many characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) length: Option<usize>,
}

impl Fault {
    pub(crate) fn of(parameter: impl Into<Cow<'static, str>>) -> Self {
        Self {
            parameter: parameter.into(),
            column: None,
            length: None,
        }
    }
}

/// Why a request was not answered as it wished: what is wrong, and how to mend it.
#[derive(Debug)]
pub(crate) struct Problem {
    kind: Kind,
    detail: Cow<'static, str>,
    hint: Cow<'static, str>,
    fault: Option<Box<Fault>>,
    outcome: Option<Box<Outcome>>,
}

impl Problem {
    pub(crate) fn new(
        kind: Kind,
        detail: impl Into<Cow<'static, str>>,
        hint: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            kind,
            detail: detail.into(),
            hint: hint.into(),
            fault: None,
            outcome: None,
        }
    }

    /// Says how to mend it in other words.
    pub(crate) fn with_hint(mut self, hint: &'static str) -> Self {
        self.hint = hint.into();
        self
    }

    /// Adds which parameter is at fault.
    pub(crate) fn at(mut self, fault: Fault) -> Self {
        self.fault = Some(Box::new(fault));
        self
    }

    /// Adds what became of each record.
    pub(crate) fn with_outcome(mut self, outcome: Outcome) -> Self {
        self.outcome = Some(Box::new(outcome));
        self
    }

    #[cfg(test)]
    pub(crate) const fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns the document as the client sees it.
    pub(crate) fn document(&self) -> ProblemDetails<'_> {
        ProblemDetails {
            r#type: self.kind.code(),
            title: self.kind.title(),
            status: self.kind.status().as_u16(),
            detail: &self.detail,
            hint: &self.hint,
            fault: self.fault.as_deref(),
            outcome: self.outcome.as_deref(),
        }
    }
}

/// A problem as the client sees it; `openapi::ProblemForm` describes it.
#[derive(Debug, Serialize)]
pub(crate) struct ProblemDetails<'p> {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: &'p str,
    hint: &'p str,
    #[serde(flatten)]
    fault: Option<&'p Fault>,
    #[serde(flatten)]
    outcome: Option<&'p Outcome>,
}

#[cfg(test)]
impl ProblemDetails<'_> {
    pub(crate) const fn detail(&self) -> &str {
        self.detail
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.kind.status();
        let mut response = json(status, PROBLEM_JSON, &self.document());
        let headers = response.headers_mut();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, retry_after());
        }
        if self.kind == Kind::UnsupportedEncoding {
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip, deflate, zstd"));
        }
        if self.kind == Kind::UnsupportedMediaType {
            headers.insert(
                HeaderName::from_static("accept-post"),
                HeaderValue::from_static("application/json, application/x-ndjson, text/plain"),
            );
        }
        response
    }
}

/// Draws a wait of 1 to 5 seconds, so that refused clients do not come back at the same moment.
fn retry_after() -> HeaderValue {
    HeaderValue::from(fastrand::u16(1..=5))
}

/// Writes `document` as the body of an answer.
pub(crate) fn json(status: StatusCode, content_type: &'static str, document: &impl Serialize) -> Response {
    // Documents have string keys and finite numbers only, so writing them into memory cannot fail.
    let mut bytes = Vec::with_capacity(256);
    let status = match serde_json::to_writer(&mut bytes, document) {
        Ok(()) => status,
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let mut response = Response::new(bytes.into());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_written_as_rfc_9457_says() {
        let problem = Problem::new(Kind::TooLarge, "too much", "send less");
        let document = serde_json::to_value(problem.document()).unwrap();
        assert_eq!(
            document,
            serde_json::json!({
                "type": "urn:warren:problem:too-large",
                "title": "Over a limit",
                "status": 413,
                "detail": "too much",
                "hint": "send less",
            })
        );
    }

    #[test]
    fn only_an_answer_of_ours_to_wait_says_how_long() {
        let response = Problem::new(Kind::Overloaded, "d", "h").into_response();
        let wait: u16 = response.headers()[RETRY_AFTER].to_str().unwrap().parse().unwrap();
        assert!((1..=5).contains(&wait));
        let response = Problem::new(Kind::TooLarge, "d", "h").into_response();
        assert!(!response.headers().contains_key(RETRY_AFTER));
        assert_eq!(response.headers()[CONTENT_TYPE], PROBLEM_JSON);
    }
}
