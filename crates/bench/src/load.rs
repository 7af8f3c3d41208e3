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
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::own_thread::on_own_thread;
use crate::statistics::Waits;

/// How long one answer may take before the measurement is given up.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);

/// How long a connection waits after a refusal; far less than Retry-After asks for, so that a limit shows as such.
const AFTER_REFUSAL: Duration = Duration::from_millis(100);

/// A load to be put on a server.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) address: SocketAddr,
    /// Whole requests, headers and all; each connection goes round them, and begins at another one.
    pub(crate) requests: Vec<Bytes>,
    /// Messages in each request.
    pub(crate) messages: u64,
    pub(crate) connections: usize,
    pub(crate) duration: Duration,
    pub(crate) most_messages: u64,
    pub(crate) pace: Pace,
    /// Whether its thread goes before others on its cores.
    pub(crate) goes_first: bool,
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
    /// Requests answered with 503, or cut off before their end.
    pub(crate) refused: u64,
    /// From the first request to the last answer.
    pub(crate) elapsed: Duration,
    /// From when a request was due to its answer of 202.
    pub(crate) waits: Waits,
}

impl Load {
    /// Puts the load on from a thread of its own.
    ///
    /// # Errors
    /// No connection can be opened, an answer took longer than 30 s, or was neither 202 nor 503.
    pub(crate) async fn run(self) -> Result<Outcome> {
        on_own_thread("load", self.goes_first, || self.run_here()).await
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
        let place = number % self.requests.len();
        for request in self.requests.iter().cycle().skip(place) {
            let Some(due) = self.next_due(shared).await else {
                break;
            };
            let answer = timeout(ANSWER_DEADLINE, connection.exchange(request))
                .await
                .context("no answer")?;
            shared.note(due.elapsed(), &answer, self.messages)?;
            if !answer.as_ref().is_ok_and(|answer| answer.keeps_open) {
                connection = Connection::open(self.address).await?;
            }
            if !answer.is_ok_and(|answer| answer.status == 202) {
                sleep(AFTER_REFUSAL).await;
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
    fn note(&self, wait: Duration, answer: &Result<Answer>, messages: u64) -> Result<()> {
        let mut outcome = self.outcome.borrow_mut();
        match answer.as_ref().map(|answer| answer.status) {
            Ok(202) => {
                outcome.waits.add(wait);
                outcome.accepted += messages;
            }
            // An overloaded server answers before it has read the body, and closes: the answer may be lost with it.
            Ok(503) | Err(_) => outcome.refused += 1,
            Ok(other) => bail!("the intake answered {other}"),
        }
        Ok(())
    }
}

/// A keep-alive connection that knows as much HTTP as the intake's answers need.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)
            .await
            .with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: Vec::with_capacity(4096),
        })
    }

    pub(crate) async fn exchange(&mut self, request: &[u8]) -> Result<Answer> {
        // A refusal may come, and the connection close, before the request is written: the answer counts.
        let written = self.stream.write_all(request).await;
        self.buffer.clear();
        loop {
            let read = self.stream.read_buf(&mut self.buffer).await?;
            if read == 0 {
                written?;
                bail!("the server closed the connection");
            }
            if let Some(answer) = answer(&self.buffer)? {
                ensure!(
                    self.buffer.len() <= answer.length,
                    "more than one answer to one request"
                );
                if self.buffer.len() == answer.length {
                    return Ok(answer);
                }
            }
        }
    }
}

/// The head of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Bytes of head and body.
    length: usize,
    pub(crate) keeps_open: bool,
}

/// Reads the head of an answer; `None` while it is not whole.
fn answer(bytes: &[u8]) -> Result<Option<Answer>> {
    let Some(head) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = std::str::from_utf8(&bytes[..head]).context("a head that is no text")?;
    let status = text
        .get(9..12)
        .and_then(|status| status.parse().ok())
        .context("no status")?;
    let field = |name: &str| {
        let mut fields = text.lines().filter_map(|line| line.split_once(':'));
        fields
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
    };
    let length = field("content-length").and_then(|length| length.parse::<usize>().ok());
    let length = head + 4 + length.context("an answer without content-length")?;
    let keeps_open = !field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    Ok(Some(Answer {
        status,
        length,
        keeps_open,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_when_its_body_is() {
        let whole = b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\nx: y\r\n\r\n{}";
        let read = Answer {
            status: 202,
            length: whole.len(),
            keeps_open: true,
        };
        assert_eq!(answer(whole).unwrap(), Some(read));
        assert_eq!(answer(&whole[..20]).unwrap(), None);
        assert!(answer(b"HTTP/1.1 202 Accepted\r\n\r\n").is_err());
        let closing = b"HTTP/1.1 503 X\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        assert!(answer(closing).unwrap().is_some_and(|answer| !answer.keeps_open));
    }
}
