//! Another program of Warren, asked over HTTP.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::time::{Instant, timeout_at};

use crate::healthcheck::{self, Answer};

/// A program of Warren and where it listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Host and port.
    place: String,
}

impl Peer {
    /// Reads `http://host:port`, or `host:port`; what follows behind a slash is left out.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(url: &str) -> Result<Self, String> {
        let place = url.strip_prefix("http://").unwrap_or(url);
        let place = place.split_once('/').map_or(place, |(place, _)| place);
        let named = place
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        if url.starts_with("https://") || !named || place.contains(['@', ' ']) {
            return Err(format!(
                "`{}` is no address to ask for metrics; write it as http://127.0.0.1:8080, without TLS and without a \
                 user",
                crate::settings::mask("peer.url", url)
            ));
        }
        Ok(Self {
            place: place.to_owned(),
        })
    }

    /// Names the program that listens on `http.listen`.
    #[must_use]
    pub fn listening(listen: &str) -> Self {
        Self {
            place: listen.to_owned(),
        }
    }

    /// Returns host and port.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Asks for the numbers that it shows, the whole of `/metrics`; takes `timeout` at most, which the addresses that its name
    /// stands for share.
    ///
    /// # Errors
    /// Why there are none, in a sentence that names the program.
    pub async fn metrics(&self, timeout: Duration) -> Result<String, String> {
        let deadline = Instant::now() + timeout;
        let late = || self.silent(format!("nothing within {timeout:?}"));
        let addresses: Vec<_> = match timeout_at(deadline, lookup_host(&self.place)).await {
            Ok(addresses) => addresses.map_err(|error| self.silent(error))?.collect(),
            Err(_) => return Err(late()),
        };
        match first_answer(&addresses, deadline).await {
            Ok(answer) => self.page(answer),
            Err(_) if Instant::now() >= deadline => Err(late()),
            Err(reason) => Err(self.silent(reason)),
        }
    }

    fn page(&self, answer: Answer) -> Result<String, String> {
        let Answer { status, body } = answer;
        if status != 200 {
            return Err(format!("{self} answers {status} when it is asked for /metrics"));
        }
        let mut lines = body.lines();
        if !body.ends_with('\n') || !lines.any(|line| line.starts_with("process_start_time_seconds ")) {
            return Err(format!(
                "what {self} answers at /metrics is not of a program of Warren, or not whole"
            ));
        }
        Ok(body)
    }

    fn silent(&self, reason: impl fmt::Display) -> String {
        format!("{self} does not answer: {reason}")
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.place)
    }
}

/// Asks one address after the other until one answers. One that says nothing does not take the time of those behind it.
async fn first_answer(addresses: &[SocketAddr], deadline: Instant) -> Result<Answer, String> {
    let mut silent = "the name stands for no address".to_owned();
    for (tried, address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        match healthcheck::get(*address, "/metrics", share).await {
            Ok(answer) => return Ok(answer),
            Err(error) => silent = error.reason,
        }
    }
    Err(silent)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn a_program_is_named_by_its_url_or_its_address() {
        for url in [
            "http://127.0.0.1:8080",
            "127.0.0.1:8080",
            "http://127.0.0.1:8080/metrics",
        ] {
            assert_eq!(Peer::parse(url).unwrap().place(), "127.0.0.1:8080");
        }
        for wrong in ["https://a:1", "a", "http://a/metrics", "", ":80", "a:port"] {
            assert!(Peer::parse(wrong).unwrap_err().contains("http://127.0.0.1:8080"));
        }
        let told = Peer::parse("http://user:hunter2@a:1").unwrap_err();
        assert!(!told.contains("hunter2"), "{told}");
    }

    async fn answers(answer: &'static str) -> Peer {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let place = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let read = stream.read(&mut request).await.unwrap();
            assert!(request[..read].starts_with(b"GET /metrics "));
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        Peer::parse(&place).unwrap()
    }

    #[tokio::test]
    async fn only_a_whole_page_of_a_program_of_warren_is_taken() {
        const LONG: Duration = Duration::from_secs(30);
        let page = "HTTP/1.1 200 OK\r\n\r\nprocess_start_time_seconds 1\na_total 3\n";
        let told = answers(page).await.metrics(LONG).await;
        assert_eq!(told.unwrap(), "process_start_time_seconds 1\na_total 3\n");
        for (answer, expected) in [
            (
                "HTTP/1.1 200 OK\r\n\r\nprocess_start_time_seconds 1\na_tot",
                "not whole",
            ),
            (
                "HTTP/1.1 200 OK\r\n\r\ngo_goroutines 3\n",
                "not of a program of Warren",
            ),
            ("HTTP/1.1 404 Not Found\r\n\r\n", "answers 404"),
        ] {
            let told = answers(answer).await.metrics(LONG).await.unwrap_err();
            assert!(told.contains(expected), "{told}");
        }
    }

    #[tokio::test]
    async fn a_program_that_says_nothing_is_waited_for_no_longer_than_is_said() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = Peer::parse(&listener.local_addr().unwrap().to_string()).unwrap();
        let told = peer.metrics(Duration::from_millis(50)).await.unwrap_err();
        assert!(told.contains("nothing within 50ms"), "{told}");
    }

    #[tokio::test]
    async fn an_address_that_says_nothing_leaves_time_for_the_others() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let page = "HTTP/1.1 200 OK\r\n\r\nprocess_start_time_seconds 1\n";
        let answering = answers(page).await.place().parse().unwrap();
        let addresses = [silent.local_addr().unwrap(), answering];
        let deadline = Instant::now() + Duration::from_secs(6);
        let answer = first_answer(&addresses, deadline).await.unwrap();
        assert_eq!(answer.body, "process_start_time_seconds 1\n");
        let told = first_answer(&[], deadline).await.unwrap_err();
        assert!(told.contains("no address"), "{told}");
    }
}
