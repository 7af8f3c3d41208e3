//! The numbers of the HTTP server.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

pub(crate) const REQUESTS: &str = "warren_http_requests_total";
pub(crate) const REQUEST_SECONDS: &str = "warren_http_request_seconds";
pub(crate) const REQUEST_BYTES: &str = "warren_http_request_bytes";
pub(crate) const IN_FLIGHT_BYTES: &str = "warren_http_in_flight_bytes";
pub(crate) const CONNECTIONS: &str = "warren_http_connections";
pub(crate) const CONNECTIONS_CUT: &str = "warren_http_connections_cut_total";
pub(crate) const READS: &str = "warren_http_reads";
pub(crate) const READS_WAITING: &str = "warren_http_reads_waiting";
pub(crate) const READS_FAILED: &str = "warren_http_reads_failed_total";
pub(crate) const ANSWER_BYTES: &str = "warren_http_answer_bytes";
pub(crate) const IN_FLIGHT_REQUESTS: &str = "warren_http_in_flight_requests";
pub(crate) const LEVEL: &str = "warren_http_refused_severities";
pub(crate) const REFUSED: &str = "warren_http_refused_total";
pub(crate) const PANICS: &str = "warren_http_panics_total";

/// Registers the help texts and units of everything this crate counts.
pub fn describe_metrics() {
    describe_counter!(
        REQUESTS,
        Unit::Count,
        "Requests answered, by method, route and status"
    );
    describe_histogram!(
        REQUEST_SECONDS,
        Unit::Seconds,
        "Time from a request's head to its answer, by route"
    );
    describe_histogram!(
        REQUEST_BYTES,
        Unit::Bytes,
        "Size of a request body, by stage: wire (as it came) or decoded (decompressed)"
    );
    describe_gauge!(
        IN_FLIGHT_BYTES,
        Unit::Bytes,
        "Bytes of request bodies held now, of http.max_in_flight_bytes; the process holds up to four copies"
    );
    describe_gauge!(
        IN_FLIGHT_REQUESTS,
        Unit::Count,
        "Requests to the intake between their head and their answer, of http.max_in_flight_requests"
    );
    describe_gauge!(
        READS,
        Unit::Count,
        "Requests that read what is stored now, of: messages (reader.connections) or dead_letters (one)"
    );
    describe_gauge!(
        READS_WAITING,
        Unit::Count,
        "Requests that wait for their turn to read now, of: messages or dead_letters"
    );
    describe_counter!(
        READS_FAILED,
        Unit::Count,
        "Reads that the store did not answer, of: messages (those of tails that come back are not counted) or dead_letters; kind: unavailable (it is away or slow), misconfigured \
         (an operator must act), too_much (the client has to ask for less) or read_only (jobs over dead letters)"
    );
    describe_gauge!(
        ANSWER_BYTES,
        Unit::Bytes,
        "Bytes of answers over 64 KiB that their clients have not taken yet, of http.max_answer_bytes"
    );
    describe_gauge!(
        LEVEL,
        Unit::Count,
        "How many severities are refused now for want of room, from debug up: 0 to 4"
    );
    describe_gauge!(
        CONNECTIONS,
        Unit::Count,
        "Connections open now, of http.max_connections"
    );
    describe_counter!(
        CONNECTIONS_CUT,
        Unit::Count,
        "Connections closed by the server, by reason (first_request, header, idle, drain; answer: a large answer was \
         not taken within http.answer_timeout; hung_up: the client had gone before it had its answer)"
    );
    describe_counter!(
        REFUSED,
        Unit::Count,
        "Requests refused for the sake of others, by reason (budget, requests, severity, slow_body, request_timeout, decode, \
         read; reading, room: too many read, or have not taken their answers)"
    );
    describe_counter!(PANICS, Unit::Count, "Panics caught while answering a request");
}
