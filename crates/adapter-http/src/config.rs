//! The settings of an HTTP server.

use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use crate::hosts;

/// Settings of the HTTP server, section `http`.
///
/// The waits form a ladder: what a client is made to wait for is bounded by `permit_wait`, then by the body
/// timeouts, then by `request_timeout`, which is longer than any deadline of a publisher.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// Where to listen: `address:port` or `name:port`; port 0 takes any free one. Default `127.0.0.1:8080`.
    pub listen: String,
    /// The host names by which reading, the console and dead letters may be asked for, beside addresses and `localhost`. A
    /// request for another one is answered 421, when the server listens on the loopback or any name is listed: a page of
    /// another site could read messages through a name of its own that leads here. Default: none.
    pub hosts: Vec<String>,
    /// The largest request body after decompression, in bytes; a larger one is answered 413. Default 20 MiB, at most
    /// four fifths of `max_in_flight_bytes`.
    pub max_request: ByteSize,
    /// The largest request body as it comes over the wire, in bytes; a larger one is answered 413. Default 20 MiB, at
    /// most four fifths of `max_in_flight_bytes`.
    pub max_wire: ByteSize,
    /// How many connections are open at once; further ones wait in the kernel's queue. Default 4,096.
    pub max_connections: usize,
    /// How long a new connection may stay silent before its first byte. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub first_request_timeout: Duration,
    /// How long the head of a request may take from its first byte to its last. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub header_timeout: Duration,
    /// How long a connection may stay silent between two requests, or take nothing of an answer. Default 60 s.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// The longest pause within a request body; then 408. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub body_chunk_timeout: Duration,
    /// How long a whole request body may take to arrive; then 408. Default 30 s.
    #[serde(with = "humantime_serde")]
    pub body_timeout: Duration,
    /// How long the answer to a complete request may take; then 503. Default 15 s, longer than the publisher's own
    /// deadline, so that the publisher's reason is the one that is told.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// How long a client may take for an answer of more than 64 KiB that was read from the store; then it is cut off.
    /// Default 30 s.
    #[serde(with = "humantime_serde")]
    pub answer_timeout: Duration,
    /// How many bytes of answers of more than 64 KiB are held at once until their clients have taken them; one that finds
    /// no room waits for 3 s, then 503. Larger ones are alone. Default 64 MiB.
    pub max_answer_bytes: ByteSize,
    /// How many bytes of request bodies are held at once, from before the first is read until the last of their
    /// messages is confirmed. Default 40 MiB.
    ///
    /// The process holds up to four times as much: the text three times over (as messages, packed, and in the broker
    /// client) and what the messages take beside it. A fifth is kept for bodies of up to 64 KiB, so that large
    /// requests cannot shut out small ones. A body of very many short records or small values is charged more than
    /// its length.
    pub max_in_flight_bytes: ByteSize,
    /// How many requests are in flight at once, from their head to their answer; a further one waits for `permit_wait`,
    /// then 503. Default 2,048.
    ///
    /// Of this, and of the bytes of small bodies, the last half is reserved by severity: the fuller it is, the graver a
    /// message has to be.
    pub max_in_flight_requests: usize,
    /// How long a request waits for its share of `max_in_flight_bytes` and `max_in_flight_requests`; then 503. Default
    /// 20 ms: waiting longer only serves clients that have given up.
    #[serde(with = "humantime_serde")]
    pub permit_wait: Duration,
    /// How long a stopping server goes on accepting connections after it has become not ready, so that balancers
    /// notice first; 0 turns it off. Default 500 ms.
    #[serde(with = "humantime_serde")]
    pub drain_delay: Duration,
    /// How long a stopping server finishes the requests it has, after `drain_delay`, before it cuts them off.
    /// Default 10 s.
    #[serde(with = "humantime_serde")]
    pub drain_timeout: Duration,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".to_owned(),
            hosts: Vec::new(),
            max_request: ByteSize::mib(20),
            max_wire: ByteSize::mib(20),
            max_connections: 4_096,
            first_request_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(60),
            body_chunk_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(15),
            answer_timeout: Duration::from_secs(30),
            max_answer_bytes: ByteSize::mib(64),
            max_in_flight_bytes: ByteSize::mib(40),
            max_in_flight_requests: 2_048,
            permit_wait: Duration::from_millis(20),
            drain_delay: Duration::from_millis(500),
            drain_timeout: Duration::from_secs(10),
        }
    }
}

impl HttpConfig {
    /// Lists what the types alone do not forbid: the setting, and what is wrong with it and what to do.
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        if let Err(problem) = host_and_port(&self.listen) {
            problems.push(("listen", problem));
        }
        if let Some(problem) = self.hosts.iter().find_map(|host| hosts::problem(host)) {
            problems.push(("hosts", problem));
        }
        let (_, largest) = self.pools();
        for (key, size) in [("max_request", self.max_request), ("max_wire", self.max_wire)] {
            if size.as_u64() == 0 || size.as_u64() > largest as u64 {
                let most = ByteSize(largest as u64);
                problems.push((
                    key,
                    format!("is {size}; use 1 byte to {most}, four fifths of max_in_flight_bytes"),
                ));
            }
        }
        if !(1..=1_000_000).contains(&self.max_connections) {
            problems.push((
                "max_connections",
                format!("is {}; use 1 to 1000000", self.max_connections),
            ));
        }
        if !(1..=1_000_000).contains(&self.max_in_flight_requests) {
            problems.push((
                "max_in_flight_requests",
                format!("is {}; use 1 to 1000000", self.max_in_flight_requests),
            ));
        }
        for (key, size) in [
            ("max_in_flight_bytes", self.max_in_flight_bytes),
            ("max_answer_bytes", self.max_answer_bytes),
        ] {
            if !(MIN_IN_FLIGHT..=MAX_IN_FLIGHT).contains(&size.as_u64()) {
                problems.push((key, format!("is {size}; use 1 MiB to 4 GiB")));
            }
        }
        for (key, wait) in [
            ("first_request_timeout", self.first_request_timeout),
            ("header_timeout", self.header_timeout),
            ("idle_timeout", self.idle_timeout),
            ("body_chunk_timeout", self.body_chunk_timeout),
            ("body_timeout", self.body_timeout),
            ("request_timeout", self.request_timeout),
            ("answer_timeout", self.answer_timeout),
        ] {
            if wait < Duration::from_millis(10) || wait > Duration::from_secs(3_600) {
                problems.push((key, format!("is {wait:?}; use 10ms to 1h")));
            }
        }
        for (key, wait) in [
            ("permit_wait", self.permit_wait),
            ("drain_delay", self.drain_delay),
            ("drain_timeout", self.drain_timeout),
        ] {
            if wait > Duration::from_secs(3_600) {
                problems.push((key, format!("is {wait:?}; use at most 1h")));
            }
        }
        problems
    }

    /// Tells what is wrong when requests may not last longer than publishing, whose limit is the setting `key`.
    ///
    /// A server that gave up before its publisher would tell every client that an outcome is unknown which is about to
    /// be known.
    pub fn impatience(&self, key: &str, publishing: Duration) -> Option<(&'static str, String)> {
        let wait = self.request_timeout;
        (wait <= publishing).then(|| {
            let problem = format!(
                "is {wait:?}, not longer than {key}, which is {publishing:?}; raise it, or shorten the other"
            );
            ("request_timeout", problem)
        })
    }

    /// Splits `max_in_flight_bytes` into what small bodies have for themselves, and what the others share.
    pub(crate) fn pools(&self) -> (usize, usize) {
        let all = self
            .max_in_flight_bytes
            .as_u64()
            .clamp(MIN_IN_FLIGHT, MAX_IN_FLIGHT);
        let small = all / 5;
        (small as usize, (all - small) as usize)
    }
}

const MIN_IN_FLIGHT: u64 = 1 << 20;
/// Permits are counted in 32 bits.
const MAX_IN_FLIGHT: u64 = 4 << 30;

/// Splits `name:port`, or says what is wrong with it.
pub(crate) fn host_and_port(listen: &str) -> Result<(&str, u16), String> {
    let wrong = || format!("is {listen:?}; write it as address:port, such as 127.0.0.1:8080 or [::]:8080");
    let (host, port) = listen.rsplit_once(':').ok_or_else(wrong)?;
    let unbracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if unbracketed.is_none() && host.contains(':') {
        return Err(wrong());
    }
    let host = unbracketed.unwrap_or(host);
    if host.is_empty() || host.contains(char::is_whitespace) {
        return Err(wrong());
    }
    Ok((host, port.parse().map_err(|_| wrong())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_without_problems() {
        assert_eq!(HttpConfig::default().problems(), []);
    }

    #[test]
    fn every_impossible_setting_is_named() {
        let config = HttpConfig {
            listen: "localhost".to_owned(),
            hosts: vec!["http://warren.example.org".to_owned()],
            max_request: HttpConfig::default().max_in_flight_bytes,
            max_wire: ByteSize(0),
            max_connections: 0,
            max_in_flight_requests: 0,
            max_answer_bytes: ByteSize::gib(5),
            answer_timeout: Duration::ZERO,
            idle_timeout: Duration::ZERO,
            drain_timeout: Duration::from_secs(100_000),
            ..HttpConfig::default()
        };
        let keys: Vec<_> = config.problems().into_iter().map(|(key, _)| key).collect();
        assert_eq!(
            keys,
            [
                "listen",
                "hosts",
                "max_request",
                "max_wire",
                "max_connections",
                "max_in_flight_requests",
                "max_answer_bytes",
                "idle_timeout",
                "answer_timeout",
                "drain_timeout"
            ]
        );
    }

    #[test]
    fn addresses_are_told_from_what_is_none() {
        for (listen, expected) in [
            ("127.0.0.1:0", Ok(("127.0.0.1", 0))),
            ("localhost:80", Ok(("localhost", 80))),
            ("[::1]:8080", Ok(("::1", 8080))),
        ] {
            assert_eq!(host_and_port(listen), expected);
        }
        for listen in [
            "",
            ":80",
            "::1:80",
            "host",
            "host:",
            "host:port",
            "host:65536",
            "a b:1",
        ] {
            assert!(host_and_port(listen).is_err(), "{listen:?}");
        }
    }
}
