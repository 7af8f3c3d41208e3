//! How many requests read at once, and how much of their answers is held.
//!
//! Whoever reads must not hold up whoever sends, nor one who reads slowly all the others: statements keep processors busy,
//! and answers may be large. So a few requests read at once, a few more wait for a moment, and what was answered and not
//! yet taken by its client is bounded in bytes and in time. A small answer needs no room: a connection may hold as much for
//! itself.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use metrics::{Gauge, counter, gauge};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::HttpConfig;
use crate::metrics::{ANSWER_BYTES, READS, READS_WAITING, REFUSED};
use crate::problem::{Kind, Problem};

/// How long a request waits for its turn, and an answer for its room: a little longer than a search takes that is not
/// held up by the store.
const PATIENCE: Duration = Duration::from_secs(3);

/// How many requests may wait for each that reads.
const WAITING: usize = 16;

/// How many answers may wait for room, having given their turns back.
const READY: usize = 4;

/// The largest answer that needs no room, in bytes.
const SMALL: usize = 64 << 10;

/// How many bytes of an answer are handed to the connection at a time, which buffers a few of these.
const PIECE: usize = 32 << 10;

/// The room of a server for large answers, until their clients have taken them.
#[derive(Debug)]
pub(crate) struct Room {
    /// All of it; a larger answer takes it alone.
    kib: u32,
    free: Arc<Semaphore>,
    waiting: Semaphore,
    /// How long a client may take.
    time: Duration,
    held: Gauge,
}

impl Room {
    pub(crate) fn of(config: &HttpConfig) -> Arc<Self> {
        let kib = u32::try_from(config.max_answer_bytes.as_u64() >> 10).unwrap_or(u32::MAX);
        let kib = kib.clamp(1, u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX));
        Arc::new(Self {
            kib,
            free: Arc::new(Semaphore::new(kib as usize)),
            waiting: Semaphore::new(READY),
            time: config.answer_timeout,
            held: gauge!(ANSWER_BYTES),
        })
    }

    /// Waits for the room that so many bytes need, for [`PATIENCE`] at most; `None`: there is none.
    async fn take(&self, bytes: usize) -> Option<Held> {
        let kib = u32::try_from(bytes.div_ceil(1_024)).map_or(self.kib, |kib| kib.min(self.kib));
        let free = || Arc::clone(&self.free);
        let permit = match free().try_acquire_many_owned(kib) {
            Ok(permit) => permit,
            Err(_) => {
                let _waiting = self.waiting.try_acquire().ok()?;
                // Nobody closes the semaphore.
                timeout(PATIENCE, free().acquire_many_owned(kib))
                    .await
                    .ok()?
                    .ok()?
            }
        };
        Some(Held {
            _permit: permit,
            _shown: Shown::new(self.held.clone(), bytes as f64),
        })
    }
}

/// The room of one answer, until it is dropped.
#[derive(Debug)]
struct Held {
    _permit: OwnedSemaphorePermit,
    _shown: Shown,
}

/// Marks an answer that has room, and how long it may keep it: whoever has not taken it by then is cut off.
#[derive(Clone, Debug)]
pub(crate) struct TakeWithin {
    held: Weak<Held>,
    pub(crate) time: Duration,
}

impl TakeWithin {
    /// Tells whether some of the answer is still to be handed over.
    pub(crate) fn is_held(&self) -> bool {
        self.held.strong_count() > 0
    }
}

/// A share of a gauge, until it is dropped.
#[derive(Debug)]
struct Shown {
    gauge: Gauge,
    share: f64,
}

impl Shown {
    fn new(gauge: Gauge, share: f64) -> Self {
        gauge.increment(share);
        Self { gauge, share }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.gauge.decrement(self.share);
    }
}

/// Lets a few requests read at once.
#[derive(Debug)]
pub(crate) struct Turns {
    /// What is read, for people.
    what: &'static str,
    at_once: usize,
    hint: &'static str,
    reading: Arc<Semaphore>,
    waiting: Semaphore,
    room: Arc<Room>,
    read: Gauge,
    wait: Gauge,
}

/// The right to read, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    _permit: OwnedSemaphorePermit,
    _shown: Shown,
}

impl Turns {
    /// Makes turns to read messages for so many at once.
    pub(crate) fn for_messages(at_once: usize, room: Arc<Room>) -> Self {
        let hint =
            "wait as long as Retry-After says and ask again; a shorter range of time is searched sooner";
        Self::new("messages", at_once, hint, room)
    }

    /// Makes turns to read dead letters: for one at a time, as where they are kept has few connections, of which some work.
    pub(crate) fn for_dead_letters(room: Arc<Room>) -> Self {
        let hint = "wait as long as Retry-After says and ask again";
        Self::new("dead letters", 1, hint, room)
    }

    fn new(what: &'static str, at_once: usize, hint: &'static str, room: Arc<Room>) -> Self {
        let at_once = at_once.max(1);
        let label = what.replace(' ', "_");
        Self {
            what,
            at_once,
            hint,
            reading: Arc::new(Semaphore::new(at_once)),
            waiting: Semaphore::new(at_once.saturating_mul(WAITING).min(Semaphore::MAX_PERMITS)),
            room,
            read: gauge!(READS, "of" => label.clone()),
            wait: gauge!(READS_WAITING, "of" => label),
        }
    }

    /// Waits for a turn, for [`PATIENCE`] at most.
    pub(crate) async fn take(&self) -> Result<Turn, Problem> {
        let permit = self.permit().await.ok_or_else(|| {
            counter!(REFUSED, "reason" => "reading").increment(1);
            let (what, at_once) = (self.what, self.at_once);
            let detail =
                format!("{what} are read by as many requests as may at once, {at_once}, and too many wait");
            Problem::new(Kind::Overloaded, detail, self.hint)
        })?;
        Ok(Turn {
            _permit: permit,
            _shown: Shown::new(self.read.clone(), 1.0),
        })
    }

    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        let reading = || Arc::clone(&self.reading);
        if let Ok(permit) = reading().try_acquire_owned() {
            return Some(permit);
        }
        let _waiting = self.waiting.try_acquire().ok()?;
        let _shown = Shown::new(self.wait.clone(), 1.0);
        // Nobody closes the semaphore.
        timeout(PATIENCE, reading().acquire_owned()).await.ok()?.ok()
    }

    /// Writes an answer, gives the turn back, and waits until there is room for it.
    pub(crate) async fn answer<T>(&self, document: T, turn: Turn) -> Result<Response, Problem>
    where
        T: Serialize + Send + 'static,
    {
        self.answer_with(move || document, turn).await
    }

    /// Makes an answer and writes it, away from those who answer others.
    pub(crate) async fn answer_with<T, F>(&self, make: F, turn: Turn) -> Result<Response, Problem>
    where
        T: Serialize,
        F: FnOnce() -> T + Send + 'static,
    {
        // Some milliseconds of work, and held by its turn until it is over, also when nobody waits for it any more.
        let working = spawn_blocking(move || {
            let written = serde_json::to_vec(&make());
            drop(turn);
            written
        });
        let bytes = match working.await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) => return Err(unwritable(&error)),
            Err(error) => return Err(unwritable(&error)),
        };
        let mut response = if bytes.len() <= SMALL {
            Response::new(bytes.into())
        } else {
            self.held(bytes).await?
        };
        *response.status_mut() = StatusCode::OK;
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(response)
    }

    async fn held(&self, bytes: Vec<u8>) -> Result<Response, Problem> {
        let held = self.room.take(bytes.len()).await.ok_or_else(|| {
            counter!(REFUSED, "reason" => "room").increment(1);
            Problem::new(
                Kind::Overloaded,
                "too much was answered that its clients have not taken yet (http.max_answer_bytes)",
                "wait as long as Retry-After says and ask again, for fewer messages",
            )
        })?;
        let held = Arc::new(held);
        let within = TakeWithin {
            held: Arc::downgrade(&held),
            time: self.room.time,
        };
        let mut response = Response::new(Body::new(Pieces {
            rest: bytes.into(),
            _held: held,
        }));
        response.extensions_mut().insert(within);
        Ok(response)
    }
}

fn unwritable(error: &dyn std::error::Error) -> Problem {
    tracing::error!(%error, "an answer cannot be written");
    Problem::new(
        Kind::Internal,
        "the answer cannot be written",
        "whoever runs this server has to act",
    )
}

/// A body that is handed over piece by piece: the connection copies what it is handed, and would copy all at once.
#[derive(Debug)]
struct Pieces {
    rest: Bytes,
    /// Until the last piece is gone.
    _held: Arc<Held>,
}

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let length = self.rest.len().min(PIECE);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}
