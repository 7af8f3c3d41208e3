//! A lean load generator: keep-alive HTTP/1.1 by hand, one thread, requests made beforehand.
//!
//! It shares the machine's few cores with what it measures, so it does nothing but write a request, read an answer
//! and look at the clock.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{sleep, timeout};

use crate::statistics::Waits;

/// How long one answer may take before the measurement is given up.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);

/// A load to be put on a server.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) address: SocketAddr,
    /// Whole requests, headers and all; each connection goes round its own share of them.
    pub(crate) requests: Vec<Bytes>,
    /// Messages in each request.
    pub(crate) messages: u64,
    pub(crate) connections: usize,
    pub(crate) duration: Duration,
    pub(crate) most_messages: u64,
    pub(crate) pace: Pace,
}

/// When the next request is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// As soon as the connection has its answer.
    Closed,
    /// So many a second, whether answers come or not; waits count from when a request was due.
    Open(f64),
}

/// What came of a load.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// Messages answered with 202.
    pub(crate) accepted: u64,
    /// Requests answered with 503.
    pub(crate) refused: u64,
    /// From the first request to the last answer.
    pub(crate) elapsed: Duration,
    /// From when a request was due to its answer.
    pub(crate) waits: Waits,
}

impl Load {
    /// Puts the load on from a thread of its own.
    ///
    /// # Errors
    /// A connection broke, an answer took longer than 30 s, or was neither 202 nor 503.
    pub(crate) async fn run(self) -> Result<Outcome> {
        let (done, outcome) = tokio::sync::oneshot::channel();
        std::thread::Builder::new()
            .name("load".to_owned())
            .spawn(move || {
                let outcome = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .context("no runtime for the load")
                    .and_then(|runtime| LocalSet::new().block_on(&runtime, self.run_here()));
                // Nobody waits any more when the measurement was given up.
                drop(done.send(outcome));
            })?;
        outcome.await.context("the load ended without a result")?
    }

    async fn run_here(self) -> Result<Outcome> {
        let mut connections = Vec::with_capacity(self.connections);
        for _ in 0..self.connections {
            connections.push(Connection::open(self.address).await?);
        }
        let shared = Rc::new(Shared {
            outcome: RefCell::default(),
            sent: Cell::new(0),
            start: Instant::now(),
        });
        let mut tasks = JoinSet::new();
        for (number, connection) in connections.into_iter().enumerate() {
            let (load, shared) = (self.clone(), Rc::clone(&shared));
            tasks.spawn_local(async move { load.send(number, connection, &shared).await });
        }
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        let mut outcome = shared.outcome.take();
        outcome.elapsed = shared.start.elapsed();
        Ok(outcome)
    }

    async fn send(&self, number: usize, mut connection: Connection, shared: &Rc<Shared>) -> Result<()> {
        let mine: Vec<_> = self.requests.iter().skip(number % self.requests.len()).collect();
        for request in mine.iter().cycle() {
            let Some(due) = self.next_due(shared).await else {
                break;
            };
            let status = timeout(ANSWER_DEADLINE, connection.exchange(request))
                .await
                .context("no answer")??;
            shared.note(due.elapsed(), status, self.messages)?;
            if status == 503 {
                sleep(Duration::from_millis(100)).await;
                // A request that is refused before its body was read costs the connection.
                connection = Connection::open(self.address).await?;
            }
        }
        Ok(())
    }

    /// Waits until the next request is due; `None` when the load is over.
    async fn next_due(&self, shared: &Shared) -> Option<Instant> {
        let place = shared.sent.get();
        if place * self.messages >= self.most_messages {
            return None;
        }
        let due = match self.pace {
            Pace::Closed => Instant::now(),
            Pace::Open(rate) => shared.start + Duration::from_secs_f64(place as f64 / rate),
        };
        if due.duration_since(shared.start) > self.duration {
            return None;
        }
        shared.sent.set(place + 1);
        let now = Instant::now();
        if due <= now {
            return Some(due);
        }
        // Timers fire up to a millisecond late. That is this program's delay and nobody's answer: the request is
        // due when the timer has fired. One that waited for a free connection keeps its time.
        sleep(due - now).await;
        Some(Instant::now())
    }
}

struct Shared {
    outcome: RefCell<Outcome>,
    sent: Cell<u64>,
    start: Instant,
}

impl Shared {
    fn note(&self, wait: Duration, status: u16, messages: u64) -> Result<()> {
        let mut outcome = self.outcome.borrow_mut();
        outcome.waits.add(wait);
        match status {
            202 => outcome.accepted += messages,
            503 => outcome.refused += 1,
            other => bail!("the intake answered {other}"),
        }
        Ok(())
    }
}

/// A keep-alive connection that knows as much HTTP as the intake's answers need.
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)
            .await
            .with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: Vec::with_capacity(4096),
        })
    }

    async fn exchange(&mut self, request: &[u8]) -> Result<u16> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        loop {
            let read = self.stream.read_buf(&mut self.buffer).await?;
            ensure!(read > 0, "the server closed the connection");
            if let Some((status, length)) = answer(&self.buffer)? {
                ensure!(self.buffer.len() <= length, "more than one answer to one request");
                if self.buffer.len() == length {
                    return Ok(status);
                }
            }
        }
    }
}

/// Reads the head of an answer: its status, and the length of head and body; `None` while the head is not whole.
fn answer(bytes: &[u8]) -> Result<Option<(u16, usize)>> {
    let Some(head) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = std::str::from_utf8(&bytes[..head]).context("a head that is no text")?;
    let status = text
        .get(9..12)
        .and_then(|status| status.parse().ok())
        .context("no status")?;
    let length: usize = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok())
        .context("an answer without content-length")?;
    Ok(Some((status, head + 4 + length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_when_its_body_is() {
        let whole = b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\nx: y\r\n\r\n{}";
        assert_eq!(answer(whole).unwrap(), Some((202, whole.len())));
        assert_eq!(answer(&whole[..20]).unwrap(), None);
        assert!(answer(b"HTTP/1.1 202 Accepted\r\n\r\n").is_err());
    }
}
