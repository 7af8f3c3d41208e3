//! Reads a request body: under the budget, within the limits, not for ever.

use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, EXPECT};
use bytes::Bytes;
use bytesize::ByteSize;
use http_body_util::BodyExt;
use metrics::counter;
use tokio::time::{Instant, timeout_at};
use warren_domain::Severity;

use crate::budget::{NoPermit, Permit, SMALL};
use crate::config::HttpConfig;
use crate::decode::Coding;
use crate::metrics::REFUSED;
use crate::problem::{Kind, Problem};

/// How often a body that does not come is looked at.
const TICK: Duration = Duration::from_secs(1);
/// What a body has to bring each second while others go without, in bytes.
const PRESSED_RATE: u64 = 64 << 10;
/// Up to this size, in bytes, a body that came in one piece is copied out of the buffer it was read into.
const COPIED: usize = 16 << 10;
/// How much a body of unknown length is given at a time, in bytes: hundreds that say nothing more are no pressure.
const STEP: usize = 16 << 10;
/// How much a body of known length is given at a time once it has turned out to be slow, in bytes.
const KNOWN_STEP: usize = 1 << 20;

/// How long the body of a refused request has to come, so that its connection can be kept.
const DROP_TIME: Duration = Duration::from_millis(25);

/// What a body may cost.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub(crate) max_request: usize,
    max_wire: usize,
    chunk_timeout: Duration,
    body_timeout: Duration,
}

impl Limits {
    pub(crate) fn new(config: &HttpConfig) -> Self {
        let bytes = |size: ByteSize| usize::try_from(size.as_u64()).unwrap_or(usize::MAX);
        Self {
            max_request: bytes(config.max_request),
            max_wire: bytes(config.max_wire),
            chunk_timeout: config.body_chunk_timeout,
            body_timeout: config.body_timeout,
        }
    }

    /// Says that a body is over the limit that holds after decompression.
    pub(crate) fn over_decoded(&self) -> Problem {
        over("after decompression", "http.max_request", self.max_request)
    }

    /// Checks the length of the wire bytes, known or so far.
    fn check_wire(&self, length: u64, coding: Coding) -> Result<(), Problem> {
        if coding == Coding::Identity && self.max_request <= self.max_wire && length > self.max_request as u64
        {
            return Err(over("", "http.max_request", self.max_request));
        }
        if length > self.max_wire as u64 {
            return Err(over("on the wire", "http.max_wire", self.max_wire));
        }
        if coding == Coding::Identity && length > self.max_request as u64 {
            return Err(over("", "http.max_request", self.max_request));
        }
        Ok(())
    }
}

fn over(where_: &str, setting: &str, limit: usize) -> Problem {
    let size = ByteSize(limit as u64);
    let where_ = if where_.is_empty() {
        String::new()
    } else {
        format!(" {where_}")
    };
    Problem::new(
        Kind::TooLarge,
        format!("the body is over {limit} bytes ({size}){where_}, the limit {setting}"),
        "send it in several smaller requests; nothing of this one is stored",
    )
}

pub(crate) fn overloaded(detail: &'static str) -> Problem {
    Problem::new(
        Kind::Overloaded,
        detail,
        "wait as long as Retry-After says and send the request again; nothing of it is stored",
    )
}

/// Says for which severities the room is reserved that is left.
pub(crate) const fn reserved_for(lowest: Severity) -> &'static str {
    match lowest {
        Severity::Debug => "the server has no room",
        Severity::Info => {
            "the server is too busy for debug messages: the room left is for info and graver ones"
        }
        Severity::Warning => {
            "the server is too busy for this: the room left is for warning and graver messages"
        }
        Severity::Error => {
            "the server is too busy for this: the room left is for error and critical messages"
        }
        Severity::Critical => "the server is too busy for this: the room left is for critical messages",
    }
}

/// Returns how long the body will be on the wire, where the head says so.
pub(crate) fn declared_length(headers: &HeaderMap) -> Option<u64> {
    // hyper has checked the header already: it frames the body.
    let length = headers.get(CONTENT_LENGTH)?;
    length.to_str().ok()?.parse().ok()
}

/// Says why there is no room for a request.
pub(crate) fn no_permit(reason: NoPermit) -> Problem {
    match reason {
        NoPermit::Exhausted => {
            counter!(REFUSED, "reason" => "budget").increment(1);
            overloaded("the requests at hand fill http.max_in_flight_bytes")
        }
        NoPermit::TooMany => {
            counter!(REFUSED, "reason" => "requests").increment(1);
            overloaded("as many requests are at hand as http.max_in_flight_requests says")
        }
        NoPermit::Reserved(lowest) => {
            counter!(REFUSED, "reason" => "severity").increment(1);
            overloaded(reserved_for(lowest))
        }
        NoPermit::OverAll(bytes) => Problem::new(
            Kind::TooLarge,
            format!(
                "the request needs more memory than {bytes} bytes of text would, the limit set by \
                 http.max_in_flight_bytes: it has very many small values in its attributes"
            ),
            "send it in several smaller requests; nothing of this one is stored",
        ),
    }
}

/// Drops the body of a refused request if it is small and at hand, and tells whether it is over.
///
/// Otherwise the connection has to be closed, and a client that is refused would come back with a new one: under
/// overload that costs both sides more than dropping some kilobytes. Nothing of it is kept. Who waits to be asked for the
/// body is not asked.
pub(crate) async fn drop_small(headers: &HeaderMap, body: &mut Body) -> bool {
    let small = declared_length(headers).is_some_and(|length| length <= SMALL as u64);
    if !small || headers.contains_key(EXPECT) {
        return false;
    }
    let dropping = async {
        loop {
            match body.frame().await {
                Some(Ok(_)) => {}
                Some(Err(_)) => return false,
                None => return true,
            }
        }
    };
    timeout_at(Instant::now() + DROP_TIME, dropping)
        .await
        .unwrap_or(false)
}

/// Reads the whole body as it comes over the wire.
///
/// The permit is taken before the first byte is read, by `Content-Length` where there is one, else step by step. Who
/// announces much and has not sent it within a second gives back what it does not need yet: large bodies that grew
/// side by side from the start would keep each other from their ends.
pub(crate) async fn read(
    headers: &HeaderMap,
    body: &mut Body,
    coding: Coding,
    limits: &Limits,
    permit: &mut Permit,
) -> Result<Bytes, Problem> {
    let declared = declared_length(headers);
    if let Some(declared) = declared {
        limits.check_wire(declared, coding)?;
    }
    // Checked above to be within a limit that is a usize.
    let (most, step) = declared.map_or((limits.max_wire, STEP), |declared| {
        (declared as usize, KNOWN_STEP)
    });
    let mut room = declared.map_or(step, |_| most);
    permit.grow_to(room).await.map_err(no_permit)?;

    let started = Instant::now();
    let mut read = Read::Nothing;
    let mut last = started;
    loop {
        let patience = (last + limits.chunk_timeout).min(started + limits.body_timeout);
        let frame = match timeout_at(patience.min(Instant::now() + TICK), body.frame()).await {
            Ok(frame) => frame,
            Err(_) if Instant::now() >= patience => return Err(too_slow(limits, started)),
            Err(_) => {
                give_way(read.len(), started, permit)?;
                room = (read.len() + 1).next_multiple_of(step).min(room);
                permit.shrink_to(room);
                continue;
            }
        };
        let Some(frame) = frame else {
            return Ok(read.into_bytes());
        };
        let frame = frame.map_err(|_| {
            Problem::new(
                Kind::MalformedBody,
                format!("the body broke off after {} bytes", read.len()),
                "send as many bytes as Content-Length says, or well-formed chunks to the last",
            )
        })?;
        // Trailers are of no use here.
        if let Ok(data) = frame.into_data() {
            last = Instant::now();
            let length = read.len() + data.len();
            limits.check_wire(length as u64, coding)?;
            if length > room {
                room = length.next_multiple_of(step).min(most);
                permit.grow_to(room).await.map_err(no_permit)?;
            }
            read.push(data, length.next_multiple_of(step).min(most));
            give_way(length, started, permit)?;
            if room == most && last - started > TICK {
                room = length.next_multiple_of(step).min(most);
                permit.shrink_to(room);
            }
        }
    }
}

fn too_slow(limits: &Limits, started: Instant) -> Problem {
    counter!(REFUSED, "reason" => "slow_body").increment(1);
    let limit = if started.elapsed() >= limits.body_timeout {
        format!(
            "the body took longer than {:?} (http.body_timeout)",
            limits.body_timeout
        )
    } else {
        format!(
            "no byte of the body came for {:?} (http.body_chunk_timeout)",
            limits.chunk_timeout
        )
    };
    Problem::new(
        Kind::SlowBody,
        limit,
        "send the whole body at once; nothing of this request is stored",
    )
}

/// Gives a slow body up when others go without the memory that is reserved for it.
fn give_way(read: usize, started: Instant, permit: &Permit) -> Result<(), Problem> {
    let seconds = started.elapsed().as_secs();
    if seconds == 0 || read as u64 >= seconds * PRESSED_RATE || !permit.is_pressed() {
        return Ok(());
    }
    counter!(REFUSED, "reason" => "slow_body").increment(1);
    Err(overloaded(
        "the body came slower than 64 KiB a second while others waited for memory",
    ))
}

/// What was read so far: most bodies are one chunk, which stays as it is unless it is small.
enum Read {
    Nothing,
    One(Bytes),
    Many(Vec<u8>),
}

impl Read {
    fn len(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::One(chunk) => chunk.len(),
            Self::Many(bytes) => bytes.len(),
        }
    }

    /// Adds `data`, with a capacity of `room` bytes for all of it.
    fn push(&mut self, data: Bytes, room: usize) {
        *self = match std::mem::replace(self, Self::Nothing) {
            // As a slice it would keep hyper's buffer, which is far larger, and make hyper allocate another one.
            Self::Nothing if data.len() <= COPIED => Self::One(Bytes::copy_from_slice(&data)),
            Self::Nothing => Self::One(data),
            Self::One(first) => {
                let mut bytes = Vec::with_capacity(room);
                bytes.extend_from_slice(&first);
                bytes.extend_from_slice(&data);
                Self::Many(bytes)
            }
            Self::Many(mut bytes) => {
                // By itself it would double.
                bytes.reserve_exact(room.saturating_sub(bytes.len()));
                bytes.extend_from_slice(&data);
                Self::Many(bytes)
            }
        };
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::Nothing => Bytes::new(),
            Self::One(chunk) => chunk,
            Self::Many(bytes) => bytes.into(),
        }
    }
}
