//! The publishing port over HTTP: to `ingest-api`, or to `warren`.

mod answer;
mod attempt;
mod builder;
mod encode;
mod endpoint;

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use reqwest::Url;
use tokio::time::{Instant, sleep};
use warren_domain::ports::{MessagePublisher, PublishError, Unpublished};
use warren_domain::{Message, TraceContext};

use crate::backoff::Backoff;
use answer::Verdict;
use encode::Encoder;

pub use builder::{Compression, HttpPublisherBuilder, HttpPublisherError};

/// Publishes over HTTP: `POST <base>/v1/messages` to an `ingest-api` or a `warren`, as NDJSON.
///
/// A call is split by the server's limits, compressed, and lasts no longer than
/// [`deadline`](HttpPublisherBuilder::deadline). Within it everything that another attempt may mend is repeated with the
/// same ids, so that the store keeps each message once however often it was sent: lost and refused connections,
/// timeouts, 408, 425, 429, 500, 502, 503 and 504. `Retry-After` is honoured in both of its forms, also by later calls.
///
/// | Answer | Verdict |
/// | --- | --- |
/// | 202 | published, but for the records that it names: *refused* |
/// | 413 | sent again in halves; a single message is *refused* |
/// | 422 | *refused* |
/// | 503 and the like, no answer, when the deadline is near | *unavailable*, or *unroutable*; with a per-message outcome only those that it names |
/// | 401, 403, 404, 405, 407, 411, 415, 421, 431, redirections, answers that are not Warren's | *unavailable* at once: an operator can mend it, and no message is at fault |
/// | any other 4xx | *refused* |
///
/// TLS is rustls on ring, with the system's authorities. `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` are
/// honoured, except for servers on this machine.
/// Credentials in the URL become an `Authorization` header and are never shown.
pub struct HttpPublisher {
    client: reqwest::Client,
    endpoint: Url,
    encoder: Encoder,
    limits: RequestLimits,
    request_timeout: Duration,
    deadline: Duration,
    retry_min: Duration,
    retry_max: Duration,
    /// Until when the server wants to be left alone.
    not_before: Mutex<Option<Instant>>,
}

/// How much goes into one request.
#[derive(Clone, Copy, Debug)]
struct RequestLimits {
    messages: usize,
    bytes: usize,
}

impl HttpPublisher {
    /// Begins to set up a publisher to the server at `base`, such as `http://127.0.0.1:8080`.
    pub fn builder(base: impl Into<String>) -> HttpPublisherBuilder {
        HttpPublisherBuilder::new(base.into())
    }

    /// Returns where it publishes to.
    pub fn endpoint(&self) -> &str {
        self.endpoint.as_str()
    }

    fn leave_alone_until(&self) -> Option<Instant> {
        *self.not_before.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave_alone_for(&self, time: Option<Duration>) {
        let Some(time) = time else { return };
        let until = Instant::now() + time;
        let mut not_before = self.not_before.lock().unwrap_or_else(PoisonError::into_inner);
        *not_before = Some(not_before.map_or(until, |before| before.max(until)));
    }
}

impl fmt::Debug for HttpPublisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpPublisher")
            .field("endpoint", &self.endpoint.as_str())
            .field("limits", &self.limits)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl MessagePublisher for HttpPublisher {
    async fn publish(&self, messages: Vec<Message>, trace: Option<TraceContext>) -> Result<(), Unpublished> {
        let deadline = Instant::now() + self.deadline;
        let lines: Vec<Vec<u8>> = messages.iter().map(encode::line).collect();
        drop(messages);
        let mut verdicts: Vec<Option<PublishError>> = vec![None; lines.len()];
        // The parts of the call that are still to be sent; a part that is too large comes back as two.
        let mut parts = split(&lines, self.limits);
        parts.reverse();
        while let Some(part) = parts.pop() {
            let too_large = self.deliver(&lines, part, &mut verdicts, trace, deadline).await;
            if !too_large.is_empty() {
                let (first, rest) = too_large.split_at(too_large.len() / 2);
                parts.extend([rest.to_vec(), first.to_vec()]);
            }
        }
        let errors: Vec<_> = verdicts
            .into_iter()
            .enumerate()
            .filter_map(|(place, verdict)| verdict.map(|verdict| (place, verdict)))
            .collect();
        if errors.is_empty() {
            Ok(())
        } else {
            Err(Unpublished { errors })
        }
    }
}

impl HttpPublisher {
    /// Sends the messages at `places` until each has a verdict; returns those that are too much for one request.
    async fn deliver(
        &self,
        lines: &[Vec<u8>],
        mut places: Vec<usize>,
        verdicts: &mut [Option<PublishError>],
        trace: Option<TraceContext>,
        deadline: Instant,
    ) -> Vec<usize> {
        let mut backoff = Backoff::new(self.retry_min, self.retry_max);
        // Why each of `places` is to be sent again; empty before the first attempt.
        let mut reasons: Vec<PublishError> = Vec::new();
        while !places.is_empty() {
            let mut pause = if reasons.is_empty() {
                Duration::ZERO
            } else {
                backoff.pause()
            };
            let now = Instant::now();
            if let Some(until) = self.leave_alone_until() {
                pause = pause.max(until.saturating_duration_since(now));
            }
            if now + pause >= deadline {
                let reason = || {
                    let endpoint = &self.endpoint;
                    PublishError::unavailable(format!(
                        "{endpoint} asked to be left alone for {pause:.0?} more"
                    ))
                };
                reasons.resize_with(places.len(), reason);
                for (place, reason) in places.into_iter().zip(reasons) {
                    verdicts[place] = Some(reason);
                }
                return Vec::new();
            }
            sleep(pause).await;
            let left = deadline.saturating_duration_since(Instant::now());
            let outcomes = match self
                .attempt(lines, &places, trace, left.min(self.request_timeout))
                .await
            {
                Verdict::TooLarge(_) if places.len() > 1 => return places,
                Verdict::TooLarge(reason) => vec![Some(PublishError::Refused { reason })],
                Verdict::All(error) => {
                    for place in places {
                        verdicts[place] = Some(error.clone());
                    }
                    return Vec::new();
                }
                Verdict::Again { error, retry_after } => {
                    self.leave_alone_for(retry_after);
                    vec![Some(error); places.len()]
                }
                Verdict::Each {
                    outcomes,
                    retry_after,
                } => {
                    self.leave_alone_for(retry_after);
                    outcomes
                }
            };
            let sent = places.len();
            reasons.clear();
            let mut again = Vec::new();
            for (place, outcome) in places.into_iter().zip(outcomes) {
                match outcome {
                    None => {}
                    Some(error @ PublishError::Refused { .. }) => verdicts[place] = Some(error),
                    Some(error) => {
                        again.push(place);
                        reasons.push(error);
                    }
                }
            }
            if again.len() < sent {
                backoff.reset();
            }
            places = again;
        }
        Vec::new()
    }
}

/// Cuts a call into parts within the limits; a single message over them is a part of its own.
fn split(lines: &[Vec<u8>], limits: RequestLimits) -> Vec<Vec<usize>> {
    let mut parts = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (place, line) in lines.iter().enumerate() {
        let full = place - start >= limits.messages || bytes + line.len() > limits.bytes;
        if full && place > start {
            parts.push((start..place).collect());
            (start, bytes) = (place, 0);
        }
        bytes += line.len();
    }
    if start < lines.len() {
        parts.push((start..lines.len()).collect());
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_cut_by_messages_and_by_bytes() {
        let lines: Vec<_> = [3, 3, 3, 9, 1, 1, 1, 1].map(|length| vec![b'x'; length]).into();
        let limits = |messages, bytes| RequestLimits { messages, bytes };
        let lengths = |limits| split(&lines, limits).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(lengths(limits(100, 100)), [8]);
        assert_eq!(lengths(limits(3, 100)), [3, 3, 2]);
        assert_eq!(lengths(limits(100, 6)), [2, 1, 1, 4]);
        assert!(split(&[], limits(1, 1)).is_empty());
    }
}
