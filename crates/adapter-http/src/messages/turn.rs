//! How many requests read at once, and how much of their answers is held.
//!
//! Whoever reads must not hold up whoever sends: statements keep processors busy, and answers may be large. So a few
//! requests read at once, a few more wait for a moment, and what was answered and not yet taken by its client is
//! bounded in bytes.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::problem::{Kind, Problem};

/// How long a request waits for its turn, and an answer for its room: a little longer than a search takes that is not
/// held up by the store.
const PATIENCE: Duration = Duration::from_secs(3);

/// How many requests may wait for each that reads.
const WAITING: usize = 16;

/// How many KiB of answers are held at once until their clients have taken them. A larger one is alone.
const ROOM_KIB: u32 = 64 << 10;

/// How many bytes of an answer are handed to the connection at a time, which buffers a few of these.
const PIECE: usize = 32 << 10;

/// Lets a few requests read at once.
#[derive(Debug)]
pub(super) struct Turns {
    at_once: usize,
    reading: Arc<Semaphore>,
    waiting: Semaphore,
    room: Arc<Semaphore>,
}

/// The right to read, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    _permit: OwnedSemaphorePermit,
}

impl Turns {
    pub(super) fn new(at_once: usize) -> Self {
        let at_once = at_once.max(1);
        Self {
            at_once,
            reading: Arc::new(Semaphore::new(at_once)),
            waiting: Semaphore::new(at_once.saturating_mul(WAITING).min(Semaphore::MAX_PERMITS)),
            room: Arc::new(Semaphore::new(ROOM_KIB as usize)),
        }
    }

    /// Waits for a turn, for [`PATIENCE`] at most.
    pub(super) async fn take(&self) -> Result<Turn, Problem> {
        let busy = || {
            Problem::new(
                Kind::Overloaded,
                format!(
                    "{} requests read messages, as many as may at once (reader.connections), and too many wait",
                    self.at_once
                ),
                "wait as long as Retry-After says and ask again; a shorter range of time is searched sooner",
            )
        };
        let _waiting = self.waiting.try_acquire().map_err(|_| busy())?;
        let turn = timeout(PATIENCE, Arc::clone(&self.reading).acquire_owned()).await;
        // Nobody closes the semaphore.
        turn.ok()
            .and_then(Result::ok)
            .map(|permit| Turn { _permit: permit })
            .ok_or_else(busy)
    }

    /// Writes an answer, and gives the turn back once there is room for it.
    pub(super) async fn answer<T>(&self, document: T, turn: Turn) -> Result<Response, Problem>
    where
        T: Serialize + Send + 'static,
    {
        // Some milliseconds of work, and held by its turn until it is over, also when nobody waits for it any more.
        let working = spawn_blocking(move || (serde_json::to_vec(&document), turn));
        let (bytes, turn) = match working.await {
            Ok((Ok(bytes), turn)) => (bytes, turn),
            Ok((Err(error), _)) => return Err(unwritable(&error)),
            Err(error) => return Err(unwritable(&error)),
        };
        let kib = u32::try_from(bytes.len() / 1024 + 1).map_or(ROOM_KIB, |kib| kib.min(ROOM_KIB));
        let room = timeout(PATIENCE, Arc::clone(&self.room).acquire_many_owned(kib)).await;
        let room = room.ok().and_then(Result::ok).ok_or_else(|| {
            Problem::new(
                Kind::Overloaded,
                "too much was answered that its clients have not taken yet",
                "wait as long as Retry-After says and ask again, for fewer messages",
            )
        })?;
        drop(turn);
        let pieces = Pieces {
            rest: bytes.into(),
            _room: room,
        };
        let mut response = Response::new(Body::new(pieces));
        *response.status_mut() = StatusCode::OK;
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
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
    /// Held until the last piece is gone.
    _room: OwnedSemaphorePermit,
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
