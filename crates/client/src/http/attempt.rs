//! One request.

use std::error::Error as _;
use std::time::{Duration, SystemTime};

use reqwest::Response;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use tokio::time::timeout;
use warren_domain::TraceContext;
use warren_domain::ports::PublishError;

use super::HttpPublisher;
use super::answer::{Verdict, read};

/// The most bytes of an answer that are read: with per-message outcomes a million messages stay below it.
const MAX_ANSWER: usize = 128 << 20;
/// What an answer has to keep to for each message sent, beside a few KiB: its outcome is some 100 bytes.
const ANSWER_PER_MESSAGE: usize = 128;
/// A few KiB and 100 faults of some KiB each.
const ANSWER_BASE: usize = 1 << 20;

/// The longest pause that a server is granted: a slip of its clock must not silence a logger for days.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

impl HttpPublisher {
    /// Sends the lines at `places` in one request and reads what the answer means.
    pub(super) async fn attempt(
        &self,
        lines: &[Vec<u8>],
        places: &[usize],
        trace: Option<TraceContext>,
        time: Duration,
    ) -> Verdict {
        let mut body = Vec::with_capacity(places.iter().map(|place| lines[*place].len()).sum());
        for place in places {
            body.extend_from_slice(&lines[*place]);
        }
        let (body, encoding) = self.encoder.encode(body);
        let mut request = self
            .client
            .post(self.endpoint.clone())
            .header(CONTENT_TYPE, "application/x-ndjson")
            .body(body);
        if let Some(encoding) = encoding {
            request = request.header(CONTENT_ENCODING, encoding);
        }
        if let Some(trace) = trace {
            request = request.header("traceparent", trace.to_string());
        }
        let asked = async {
            let response = request.send().await?;
            let (status, headers) = (response.status(), response.headers().clone());
            let most = (ANSWER_BASE + places.len() * ANSWER_PER_MESSAGE).min(MAX_ANSWER);
            Ok::<_, reqwest::Error>((status, headers, bounded(response, most).await?))
        };
        match timeout(time, asked).await {
            Ok(Ok((status, headers, body))) => read(
                status,
                places.len(),
                body.as_deref(),
                retry_after(&headers),
                &self.endpoint,
            ),
            Ok(Err(error)) => again(format!("{}: {}", self.endpoint, reason(error))),
            Err(_) => again(format!("{} did not answer within {time:?}", self.endpoint)),
        }
    }
}

fn again(reason: String) -> Verdict {
    Verdict::Again {
        error: PublishError::unavailable(reason),
        retry_after: None,
    }
}

/// Reads a body; `None` when it is longer than `most`.
async fn bounded(mut response: Response, most: usize) -> Result<Option<Vec<u8>>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > most {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}

/// Says what happened in the words of whoever noticed: `Connection refused` rather than `error sending request`.
fn reason(error: reqwest::Error) -> String {
    let error = error.without_url();
    let what = if error.is_connect() {
        "cannot connect"
    } else if error.is_timeout() {
        "took too long"
    } else {
        "the connection was lost"
    };
    let mut root: &dyn std::error::Error = &error;
    while let Some(source) = root.source() {
        root = source;
    }
    let root = root.to_string();
    if error.source().is_none() {
        return what.to_owned();
    }
    format!("{what} ({root})")
}

/// Reads `Retry-After`: seconds, or a date.
///
/// <https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3>
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match value.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(value)
            .ok()?
            .duration_since(SystemTime::now())
            .unwrap_or_default(),
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(value: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, value.parse().unwrap());
        retry_after(&headers)
    }

    #[test]
    fn retry_after_is_read_in_both_forms_and_never_lasts_for_days() {
        assert_eq!(waits("7"), Some(Duration::from_secs(7)));
        assert_eq!(waits("999999999"), Some(MAX_RETRY_AFTER));
        assert_eq!(waits("soon"), None);
        assert_eq!(waits("-1"), None);
        let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(90));
        let wait = waits(&date).unwrap();
        assert!((80..=90).contains(&wait.as_secs()), "{wait:?}");
        assert_eq!(waits("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }
}
