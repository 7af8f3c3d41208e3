//! A client that sends exactly the bytes it is given.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longer than any wait of the server under test.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("no JSON: {} {}", self.head, self.text()))
    }
}

/// Bytes that came in, cut into answers.
#[derive(Debug, Default)]
struct Answers {
    ahead: Vec<u8>,
    /// Whether the answers are to HEAD, which announce a body and have none.
    bodiless: bool,
}

impl Answers {
    fn next(&mut self) -> Option<Answer> {
        let end = self.ahead.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        let head = String::from_utf8(self.ahead[..end].to_vec()).unwrap();
        let mut answer = Answer {
            status: head[9..12].parse().unwrap(),
            head,
            body: Vec::new(),
        };
        let announced = answer
            .header("content-length")
            .map_or(0, |length| length.parse().unwrap());
        let length = if self.bodiless { 0 } else { announced };
        answer.body = self.ahead.get(end..end + length)?.to_vec();
        self.ahead.drain(..end + length);
        Some(answer)
    }

    /// Reads one answer; `None` when the connection is closed before one begins.
    async fn read(&mut self, reader: &mut (impl AsyncRead + Unpin)) -> Option<Answer> {
        loop {
            if let Some(answer) = self.next() {
                return Some(answer);
            }
            let read = timeout(PATIENCE, reader.read_buf(&mut self.ahead))
                .await
                .expect("the server answers");
            // A reset is a close that was not waited for.
            if !read.is_ok_and(|length| length > 0) {
                assert!(
                    self.ahead.is_empty(),
                    "half an answer: {}",
                    String::from_utf8_lossy(&self.ahead)
                );
                return None;
            }
        }
    }
}

/// A connection, and the bytes that were read ahead.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) stream: TcpStream,
    answers: Answers,
}

impl Wire {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = timeout(PATIENCE, TcpStream::connect(address))
            .await
            .unwrap()
            .unwrap();
        Self {
            stream,
            answers: Answers::default(),
        }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        timeout(PATIENCE, self.stream.write_all(bytes))
            .await
            .expect("the server reads")
            .unwrap();
    }

    pub(crate) async fn shut(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// Reads one answer, an interim one too; `None` when the connection is closed before one begins.
    pub(crate) async fn answer(&mut self) -> Option<Answer> {
        self.answers.read(&mut self.stream).await
    }

    /// Tells whether the server closes the connection within `wait`, with nothing more said.
    pub(crate) async fn closes_within(&mut self, wait: Duration) -> bool {
        let mut said = Vec::new();
        let closed = timeout(wait, self.stream.read_to_end(&mut said)).await;
        closed.is_ok() && said.is_empty()
    }
}

/// Sends `request` on a connection of its own and returns the answer.
///
/// Sending and reading go on at the same time: a server may answer and close before it has read everything.
pub(crate) async fn exchange(address: SocketAddr, request: &[u8], shut: bool) -> Option<Answer> {
    let mut answers = Answers {
        bodiless: request.starts_with(b"HEAD "),
        ..Answers::default()
    };
    let (mut reader, mut writer) = Wire::connect(address).await.stream.into_split();
    let request = request.to_vec();
    let sending = tokio::spawn(async move {
        let sent = writer.write_all(&request).await;
        if shut && sent.is_ok() {
            // A server that has closed already needs no telling.
            drop(writer.shutdown().await);
        }
        writer
    });
    let answer = answers.read(&mut reader).await;
    drop(sending);
    answer
}
