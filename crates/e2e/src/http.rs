//! A light HTTP/1.1 client: one connection, one request at a time, nothing hidden.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::SendRequest;
use hyper::header::HeaderMap;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::request::Request;

/// What a server answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The header fields.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

impl Answer {
    /// Returns the value of a header field, if it is there and text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Returns how long the server asks to wait before the next try.
    pub fn retry_after(&self) -> Option<Duration> {
        self.header("retry-after")?.parse().ok().map(Duration::from_secs)
    }

    /// Reads the body as JSON.
    ///
    /// # Errors
    /// It is none; the message shows its beginning.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body)
            .with_context(|| format!("status {}, and no JSON: {}", self.status, self.text_start()))
    }

    /// Returns the beginning of the body, for a message.
    pub fn text_start(&self) -> String {
        String::from_utf8_lossy(&self.body[..self.body.len().min(500)]).into_owned()
    }
}

/// A connection that is opened when it is needed and again when it broke.
#[derive(Debug)]
pub struct Client {
    address: SocketAddr,
    deadline: Duration,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Client {
    /// Makes a client of the server at `address`; an exchange longer than 30 s is an error.
    pub const fn new(address: SocketAddr) -> Self {
        Self {
            address,
            deadline: Duration::from_secs(30),
            sender: None,
        }
    }

    /// Changes how long an exchange may take.
    #[must_use]
    pub const fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Closes the connection, if one is open.
    pub fn close(&mut self) {
        self.sender = None;
    }

    /// Sends a request and waits for the whole answer.
    ///
    /// # Errors
    /// No whole answer came: whether the request had an effect is unknown. The next call opens a new connection.
    pub async fn send(&mut self, request: &Request) -> Result<Answer> {
        let exchange = timeout(self.deadline, self.exchange(request)).await;
        let answer = exchange
            .context("no answer within the deadline")
            .and_then(|answer| answer);
        if answer.is_err() {
            self.sender = None;
        }
        answer
    }

    async fn exchange(&mut self, request: &Request) -> Result<Answer> {
        let mut sender = match self.open_connection().await {
            Some(sender) => sender,
            None => connect(self.address).await?,
        };
        let mut message = hyper::Request::builder()
            .method(request.method)
            .uri(&request.target)
            .header("host", self.address.to_string());
        for (name, value) in &request.headers {
            message = message.header(*name, value);
        }
        let message = message
            .body(Full::new(request.body.clone()))
            .context("not a request")?;
        let (head, body) = sender
            .send_request(message)
            .await
            .context("no answer")?
            .into_parts();
        let body = body.collect().await.context("the answer broke off")?.to_bytes();
        self.sender = Some(sender);
        Ok(Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            body,
        })
    }

    /// Takes the connection of the last exchange, if the server has not closed it since.
    async fn open_connection(&mut self) -> Option<SendRequest<Full<Bytes>>> {
        let mut sender = self.sender.take()?;
        sender.ready().await.is_ok().then_some(sender)
    }
}

async fn connect(address: SocketAddr) -> Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(address)
        .await
        .with_context(|| format!("cannot connect to {address}"))?;
    stream.set_nodelay(true)?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the connection: when the sender is dropped, or the server hangs up. Its error reaches the sender.
    tokio::spawn(connection);
    Ok(sender)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    async fn serve(answers: &'static [&'static str]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 4096];
                assert!(stream.read(&mut request).await.unwrap() > 0);
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        address
    }

    #[tokio::test]
    async fn a_connection_cut_before_the_answer_is_an_error_and_the_next_request_opens_another() {
        let address = serve(&[
            "",
            "HTTP/1.1 503 X\r\nretry-after: 2\r\ncontent-length: 2\r\n\r\n{}",
        ])
        .await;
        let mut client = Client::new(address);
        assert!(client.send(&Request::post("{}")).await.is_err());
        let answer = client.send(&Request::post("{}")).await.unwrap();
        assert_eq!(
            (answer.status, answer.retry_after()),
            (503, Some(Duration::from_secs(2)))
        );
        assert_eq!(answer.json().unwrap(), serde_json::json!({}));
    }

    #[tokio::test]
    async fn half_an_answer_is_no_answer() {
        let address = serve(&["HTTP/1.1 202 Accepted\r\ncontent-length: 100\r\n\r\n{"]).await;
        assert!(Client::new(address).send(&Request::post("{}")).await.is_err());
    }
}
