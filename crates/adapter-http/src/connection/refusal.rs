//! Explains what hyper refuses by itself.
//!
//! Bytes that are no HTTP request never reach a handler: hyper answers them with a bare status line and closes. This
//! puts a problem document in the place of that answer. It is recognised by what it lacks: every answer of a handler
//! carries `x-request-id`.

use axum::http::StatusCode;
use metrics::counter;

use crate::metrics::REQUESTS;
use crate::problem::{Kind, PROBLEM_JSON, Problem};

/// hyper's own refusals are shorter than this: a status line, `connection`, `content-length` and `date`.
const LONGEST: usize = 200;

/// Returns `written` with the bare refusal at its end replaced by a problem document, if there is one.
pub(super) fn explain(written: &[u8]) -> Option<Vec<u8>> {
    if !written.ends_with(b"\r\n\r\n") {
        return None;
    }
    let tail_start = written.len().saturating_sub(LONGEST);
    let tail = &written[tail_start..];
    let begin = tail.windows(10).rposition(|window| window == b"HTTP/1.1 4")?;
    let head = std::str::from_utf8(&tail[begin..]).ok()?;
    if head.contains("x-request-id") || !head.contains("content-length: 0\r\n") {
        return None;
    }
    let status = StatusCode::from_bytes(head.as_bytes().get(9..12)?).ok()?;
    let (problem, label) = match status {
        StatusCode::BAD_REQUEST => (
            Problem::new(
                Kind::MalformedRequest,
                "the bytes are no HTTP/1.1 request: the request line, a header or the framing of the body is malformed",
                "send a request as RFC 9112 writes it, with one Content-Length or Transfer-Encoding: chunked",
            ),
            "400",
        ),
        StatusCode::URI_TOO_LONG => (
            Problem::new(
                Kind::UriTooLong,
                "the address of the request is over 64 KiB",
                "put the message into the body; only short fields belong into the query",
            ),
            "414",
        ),
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => (
            Problem::new(
                Kind::HeadersTooLarge,
                "the head of the request is over 64 KiB, or has more than 100 headers",
                "put the data into the body, under attributes",
            ),
            "431",
        ),
        _ => return None,
    };
    counter!(REQUESTS, "method" => "none", "route" => "none", "status" => label).increment(1);
    let (status_line, _) = head.split_once("\r\n")?;
    let date = head
        .lines()
        .find(|line| line.starts_with("date: "))
        .unwrap_or("date: Thu, 01 Jan 1970 00:00:00 GMT");
    let mut explained = written[..tail_start + begin].to_vec();
    explained.extend_from_slice(&write(&format!("{status_line}\r\n{date}"), &problem));
    Some(explained)
}

/// Returns the answer to a client that begins with HTTP/2, which hyper does not answer at all.
pub(super) fn http2() -> Vec<u8> {
    counter!(REQUESTS, "method" => "none", "route" => "none", "status" => "400").increment(1);
    let problem = Problem::new(
        Kind::MalformedRequest,
        "the connection begins with HTTP/2",
        "speak HTTP/1.1; a proxy in front of this server may speak HTTP/2 for it",
    );
    write("HTTP/1.1 400 Bad Request", &problem)
}

fn write(head: &str, problem: &Problem) -> Vec<u8> {
    // A document has string keys and finite numbers only, so writing it cannot fail.
    let document = serde_json::to_string(&problem.document()).unwrap_or_default();
    format!(
        "{head}\r\ncontent-type: {PROBLEM_JSON}\r\nx-content-type-options: nosniff\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{document}",
        document.len()
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BARE: &str = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\
        date: Mon, 23 Nov 2026 02:00:00 GMT\r\n\r\n";

    #[test]
    fn a_bare_refusal_becomes_a_problem_and_what_precedes_it_stays() {
        let earlier = "HTTP/1.1 202 Accepted\r\nx-request-id: a\r\ncontent-length: 2\r\n\r\n{}";
        let explained = explain(format!("{earlier}{BARE}").as_bytes()).unwrap();
        let explained = String::from_utf8(explained).unwrap();
        let refusal = explained.strip_prefix(earlier).unwrap();
        let (head, body) = refusal.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 400 Bad Request\r\n") && head.contains("2026 02:00:00"));
        assert!(head.contains(&format!("content-length: {}", body.len())));
        assert!(body.contains("urn:warren:problem:malformed-request"));
    }

    #[test]
    fn answers_of_handlers_pass_as_they_are() {
        for written in [
            "",
            "\r\n\r\n",
            "HTTP/1.1 204 No Content\r\nallow: GET\r\ndate: x\r\n\r\n",
            "HTTP/1.1 404 Not Found\r\nx-request-id: a\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 404 Not Found\r\nx-request-id: a\r\ncontent-length: 4\r\n\r\n\r\n\r\n",
        ] {
            assert_eq!(explain(written.as_bytes()), None, "{written:?}");
        }
    }
}
