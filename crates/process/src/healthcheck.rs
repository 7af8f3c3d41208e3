//! The `healthcheck` subcommand: asks the running process whether it is ready, or alive.
//!
//! Container images without a shell have no `curl`, so the binary itself is the health check.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::telemetry::escape::Escaped;

/// Bytes of an answer that are read: of one to a health check the beginning says enough, and no other answer that a
/// program of Warren gives to another is larger.
const MAX_ANSWER_BYTES: u64 = 256 << 10;

/// What a process can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Whether it answers at all (`/livez`): who restarts what does not must ask this, because no restart brings back
    /// a broker that is away.
    Live,
    /// Whether it can do its work, its dependencies with it (`/readyz`).
    Ready,
}

impl Question {
    const fn path(self) -> &'static str {
        match self {
            Self::Live => "/livez",
            Self::Ready => "/readyz",
        }
    }

    /// Returns the state that is asked for, as an adjective.
    const fn state(self) -> &'static str {
        match self {
            Self::Live => "alive",
            Self::Ready => "ready",
        }
    }
}

/// What a process answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: String,
}

/// Nothing usable answered.
#[derive(Debug, thiserror::Error)]
#[error("{address} does not answer: {reason}")]
pub struct NoAnswer {
    /// Where was asked.
    pub address: SocketAddr,
    /// What went wrong, in words.
    pub reason: String,
}

/// Why a process is not ready, or not alive, fit to be printed.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    /// Nothing usable answered.
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
    /// The process said no.
    #[error("not {}, status {status}: {reason}", question.state())]
    Refused {
        /// What it was asked.
        question: Question,
        /// The HTTP status.
        status: u16,
        /// The body of the answer, control characters escaped.
        reason: String,
    },
}

/// Asks the process that listens on `listen`, and waits for `timeout` at most.
///
/// An unspecified address (`0.0.0.0`, `[::]`) is asked on the loopback.
///
/// # Errors
/// [`NotReady`] for everything but a 200.
pub async fn ask(listen: SocketAddr, question: Question, timeout: Duration) -> Result<(), NotReady> {
    match get(listen, question.path(), timeout).await? {
        Answer { status: 200, .. } => Ok(()),
        Answer { status, body } => Err(NotReady::Refused {
            question,
            status,
            reason: Escaped(body.trim()).to_string(),
        }),
    }
}

/// Asks the process that listens on `listen` for `path`, and waits for `timeout` at most.
///
/// Good for the short answers of a program of Warren, of which 256 KiB at most are read. An unspecified address
/// (`0.0.0.0`, `[::]`) is asked on the loopback.
///
/// # Errors
/// [`NoAnswer`] when nothing that speaks HTTP answers in time.
pub async fn get(listen: SocketAddr, path: &str, timeout: Duration) -> Result<Answer, NoAnswer> {
    let address = reachable(listen);
    let no_answer = |reason: String| NoAnswer { address, reason };
    let answer = match tokio::time::timeout(timeout, exchange(address, path)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(no_answer(error.to_string())),
        Err(_) => return Err(no_answer(format!("nothing within {timeout:?}"))),
    };
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1))
        .and_then(|code| code.parse().ok());
    match status {
        Some(status) => Ok(Answer {
            status,
            body: body.to_owned(),
        }),
        None => Err(no_answer("what answers there does not speak HTTP".to_owned())),
    }
}

/// Asks as [`ask`] does, and tells the result on standard output or error: the body of the subcommand.
pub async fn run(listen: SocketAddr, question: Question, timeout: Duration) -> crate::exit::Exit {
    match ask(listen, question, timeout).await {
        Ok(()) => {
            println!("{}", question.state());
            crate::exit::Exit::Clean
        }
        Err(reason) => {
            eprintln!("{reason}");
            crate::exit::Exit::Failure
        }
    }
}

fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

async fn exchange(address: SocketAddr, path: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: warren-healthcheck\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer).await?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(5);

    async fn answers(answer: &'static str) -> SocketAddr {
        answers_to("/readyz", answer).await
    }

    async fn answers_to(path: &'static str, answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let read = stream.read(&mut request).await.unwrap();
            let line = format!("GET {path} HTTP/1.1\r\n");
            assert!(request[..read].starts_with(line.as_bytes()));
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        address
    }

    #[tokio::test]
    async fn a_ready_process_is_ready() {
        let address = answers("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        ask(address, Question::Ready, TIMEOUT).await.unwrap();
    }

    #[tokio::test]
    async fn a_process_that_waits_for_its_broker_is_alive_all_the_same() {
        let address = answers_to("/livez", "HTTP/1.1 200 OK\r\n\r\n").await;
        ask(address, Question::Live, TIMEOUT).await.unwrap();
    }

    #[tokio::test]
    async fn the_reason_of_a_process_that_is_not_ready_is_told() {
        let address = answers("HTTP/1.1 503 Service Unavailable\r\n\r\n{\"rabbitmq\":\"away\u{1b}\"}").await;
        let error = ask(address, Question::Ready, TIMEOUT).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "not ready, status 503: {\"rabbitmq\":\"away\\u{1b}\"}"
        );
    }

    #[tokio::test]
    async fn an_answer_comes_with_its_status_and_its_body() {
        let address = answers_to("/v1/groups", "HTTP/1.1 404 Not Found\r\n\r\nno groups").await;
        let answer = get(address, "/v1/groups", TIMEOUT).await.unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (404, "no groups"));
    }

    #[tokio::test]
    async fn a_process_that_is_away_or_silent_is_told_apart_from_one_that_says_no() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let error = ask(address, Question::Ready, Duration::from_millis(50))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("nothing within 50ms"), "{error}");
        drop(listener);
        let error = ask(address, Question::Ready, TIMEOUT).await.unwrap_err();
        assert!(error.to_string().contains("does not answer"), "{error}");
    }

    #[tokio::test]
    async fn something_that_speaks_no_http_is_no_answer() {
        let address = answers("AMQP\u{0}\u{0}\u{9}\u{1}").await;
        let error = ask(address, Question::Ready, TIMEOUT).await.unwrap_err();
        assert!(error.to_string().contains("does not speak HTTP"), "{error}");
    }

    #[test]
    fn an_unspecified_address_is_asked_on_the_loopback() {
        assert_eq!(
            reachable("0.0.0.0:80".parse().unwrap()),
            "127.0.0.1:80".parse().unwrap()
        );
        assert_eq!(reachable("[::]:80".parse().unwrap()), "[::1]:80".parse().unwrap());
        assert_eq!(
            reachable("10.0.0.1:80".parse().unwrap()),
            "10.0.0.1:80".parse().unwrap()
        );
    }
}
