//! Slow and silent clients are cut off, each by the limit it is over, while others are served.

use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use warren_adapter_http::HttpConfig;

use crate::hostile_requests::post;
use crate::server::{TestServer, config};
use crate::wire::{PATIENCE, Wire};

fn impatient() -> HttpConfig {
    HttpConfig {
        first_request_timeout: Duration::from_millis(600),
        header_timeout: Duration::from_millis(300),
        idle_timeout: Duration::from_millis(1_200),
        body_chunk_timeout: Duration::from_millis(300),
        body_timeout: Duration::from_millis(900),
        ..config()
    }
}

/// Waits for the close and returns how long it took.
async fn closed_after(mut wire: Wire) -> Duration {
    let started = Instant::now();
    assert!(wire.closes_within(PATIENCE).await, "something was said");
    started.elapsed()
}

fn about(waited: Duration, limit: u64) -> bool {
    // The clocks of both sides begin a little apart, and the machine is shared.
    (limit - 50..limit + 2_000).contains(&(waited.as_millis() as u64))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_says_nothing_is_closed() {
    let server = TestServer::with(impatient(), []).await;
    let waited = closed_after(Wire::connect(server.address).await).await;
    assert!(about(waited, 600), "{waited:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_in_drips_is_closed_counted_from_its_first_byte() {
    let server = TestServer::with(impatient(), []).await;
    let started = Instant::now();
    let (mut reader, mut writer) = Wire::connect(server.address).await.stream.into_split();
    let dripping = tokio::spawn(async move {
        for byte in b"GET /livez HTTP/1.1\r\nhost: warren\r\nx: ".iter().cycle() {
            if writer.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let mut said = Vec::new();
    let closed = tokio::io::AsyncReadExt::read_to_end(&mut reader, &mut said);
    // A reset is a close, too: the last drips may come after it.
    drop(tokio::time::timeout(PATIENCE, closed).await.expect("closed"));
    dripping.abort();
    assert!(about(started.elapsed(), 300), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_may_be_silent_longer_than_a_head_may_take() {
    let server = TestServer::with(impatient(), []).await;
    let mut wire = Wire::connect(server.address).await;
    for _ in 0..3 {
        wire.send(&post("/v1/messages", &[], br#"{"body":"x"}"#)).await;
        assert_eq!(wire.answer().await.unwrap().status, 202);
        // Longer than a head may take, shorter than a connection may be silent.
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    wire.send(b"GET /livez HT").await;
    let waited = closed_after(wire).await;
    assert!(about(waited, 300), "a slow second request: {waited:?}");

    let mut wire = Wire::connect(server.address).await;
    wire.send(&post("/v1/messages", &[], br#"{"body":"x"}"#)).await;
    assert_eq!(wire.answer().await.unwrap().status, 202);
    let waited = closed_after(wire).await;
    assert!(about(waited, 1_200), "a silent one: {waited:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stops_is_answered_408_and_so_is_one_in_drips() {
    let server = TestServer::with(impatient(), []).await;
    let head = b"POST /v1/messages HTTP/1.1\r\nhost: warren\r\ncontent-length: 1000\r\n\r\n{";
    let mut wire = Wire::connect(server.address).await;
    wire.send(head).await;
    let answer = wire.answer().await.unwrap();
    assert_eq!((answer.status, answer.header("connection")), (408, Some("close")));
    assert!(
        answer.text().contains("http.body_chunk_timeout"),
        "{}",
        answer.text()
    );

    let mut wire = Wire::connect(server.address).await;
    let started = Instant::now();
    wire.send(head).await;
    while started.elapsed() < Duration::from_millis(850) {
        wire.send(b" ").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let answer = wire.answer().await.unwrap();
    assert_eq!(answer.status, 408);
    assert!(answer.text().contains("http.body_timeout"), "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_slow_clients_do_not_keep_others_from_being_served() {
    let server = TestServer::start().await;
    let mut slow = Vec::new();
    for number in 0..400 {
        let mut wire = Wire::connect(server.address).await;
        let begun: &[u8] = match number % 4 {
            0 => b"",
            1 => b"POST /v1/messages HTTP/1.1\r\nhos",
            2 => b"POST /v1/messages HTTP/1.1\r\nhost: w\r\ncontent-length: 1000000\r\n\r\n{",
            _ => b"POST /v1/messages HTTP/1.1\r\nhost: w\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{\r\n",
        };
        wire.send(begun).await;
        slow.push(wire);
    }
    let mut slowest = Duration::ZERO;
    for _ in 0..200 {
        let started = Instant::now();
        assert_eq!(server.post(r#"{"body":"good"}"#).await.status, 202);
        slowest = slowest.max(started.elapsed());
    }
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    drop(slow);
}
