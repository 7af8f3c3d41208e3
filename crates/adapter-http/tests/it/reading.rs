//! Those who read keep nobody else from reading, however slowly they take what they asked for.

use std::time::Duration;

use bytesize::ByteSize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};
use warren_adapter_conformance::dead_letters::letter;
use warren_adapter_conformance::samples::message;
use warren_adapter_http::HttpConfig;
use warren_domain::Severity;
use warren_domain::ports::{DeadLetters as _, MessageStore as _};

use crate::hostile_requests::post;
use crate::server::{Numbers, READERS, TestServer, config};
use crate::wire::{Answer, PATIENCE, Wire};

const LARGE: &str = "/v1/messages?limit=100";

/// A server with a page of 8 MiB, more than the kernel keeps of what nobody reads, and room for one such answer.
async fn narrow(answer_timeout: Duration) -> TestServer {
    let config = HttpConfig {
        max_answer_bytes: ByteSize::mib(1),
        answer_timeout,
        ..config()
    };
    let server = TestServer::with(config, []).await;
    let body = "x".repeat(200 << 10);
    let batch: Vec<_> = (0..60).map(|_| message(Severity::Info, "large", &body)).collect();
    server.reader.store(&batch).await.unwrap();
    server
}

/// A client that asks, and reads no more than that an answer has begun.
async fn takes_nothing(server: &TestServer, path: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    // Else its kernel takes all of it.
    socket.set_recv_buffer_size(8 << 10).unwrap();
    let mut stream = socket.connect(server.address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: w\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut status = [0; 12];
    let reading = stream.read_exact(&mut status);
    timeout(PATIENCE, reading).await.expect("an answer").unwrap();
    assert_eq!(&status, b"HTTP/1.1 200");
    stream
}

fn assert_overloaded(answer: &Answer) {
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert_eq!(answer.json()["type"], "urn:warren:problem:overloaded");
    assert!(answer.header("retry-after").is_some());
}

#[tokio::test]
async fn a_large_answer_that_is_not_taken_refuses_other_large_ones_and_no_small_one() {
    let numbers = Numbers::new();
    let server = narrow(Duration::from_secs(600)).await;
    let slow = takes_nothing(&server, LARGE).await;
    assert!(numbers.value("warren_http_answer_bytes") > 7e6);
    // As many as may read at once, with answers that wait for room; they have given their turns back.
    let mut waiting = Vec::new();
    for _ in 0..READERS {
        let mut wire = Wire::connect(server.address).await;
        wire.send(format!("GET {LARGE} HTTP/1.1\r\nhost: w\r\n\r\n").as_bytes())
            .await;
        waiting.push(wire);
    }
    for path in ["/v1/counts", "/v1/messages?limit=0", "/v1/sources"] {
        let expected = if path.ends_with('0') { 400 } else { 200 };
        assert_eq!(server.get(path).await.status, expected, "{path}");
    }
    for mut wire in waiting {
        assert_overloaded(&wire.answer().await.unwrap());
    }
    let refused = numbers.value("warren_http_refused_total{reason=\"room\"}");
    assert!((refused - READERS as f64).abs() < 0.5, "{refused}");
    // With its client it goes.
    drop(slow);
    let leaving = async {
        while numbers.value("warren_http_answer_bytes") > 0.0 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, leaving).await.expect("the room is free");
    assert_eq!(server.get(LARGE).await.status, 200);
}

#[tokio::test]
async fn whoever_does_not_take_a_large_answer_in_time_is_cut_off() {
    let numbers = Numbers::new();
    let server = narrow(Duration::from_millis(300)).await;
    let mut slow = takes_nothing(&server, LARGE).await;
    let cut = "warren_http_connections_cut_total{reason=\"answer\"}";
    let cutting = async {
        while numbers.value(cut) < 1.0 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, cutting).await.expect("it is cut off");
    assert!(numbers.value("warren_http_answer_bytes") < 1.0);
    let mut rest = Vec::new();
    // A reset, or what the kernel had.
    drop(
        timeout(PATIENCE, slow.read_to_end(&mut rest))
            .await
            .expect("closed"),
    );
    assert!(rest.len() < 7_000_000, "{}", rest.len());
    // A connection that has taken its answer is not timed by it.
    let mut kept = Wire::connect(server.address).await;
    for _ in 0..2 {
        kept.send(format!("GET {LARGE} HTTP/1.1\r\nhost: w\r\n\r\n").as_bytes())
            .await;
        assert_eq!(kept.answer().await.unwrap().status, 200);
        sleep(Duration::from_millis(400)).await;
    }
    assert!((numbers.value(cut) - 1.0).abs() < 0.5);
}

#[tokio::test]
async fn dead_letters_are_read_by_one_request_at_a_time_and_messages_meanwhile() {
    let numbers = Numbers::new();
    let server = TestServer::start().await;
    let kept = letter(b"x", 1);
    server.letters.keep(std::slice::from_ref(&kept)).await.unwrap();
    let path = format!("/v1/dead-letters/{}", kept.facts.id);
    server.letters.hold(true);
    let mut first = Wire::connect(server.address).await;
    first
        .send(format!("GET {path} HTTP/1.1\r\nhost: w\r\n\r\n").as_bytes())
        .await;
    server.letters.is_asked_by(1).await;
    assert!((numbers.value("warren_http_reads{of=\"dead_letters\"}") - 1.0).abs() < 0.5);
    let dry_run = post(
        "/v1/dead-letters/redrive",
        &["content-type: application/json"],
        br#"{"dry_run":true}"#,
    );
    let (shown, listed, counted, read) = tokio::join!(
        server.get(&path),
        server.get("/v1/dead-letters"),
        server.send(&dry_run),
        server.get("/v1/messages"),
    );
    for answer in [&shown, &listed, &counted] {
        assert_overloaded(answer);
    }
    assert_eq!(read.status, 200);
    let refused = numbers.value("warren_http_refused_total{reason=\"reading\"}");
    assert!((refused - 3.0).abs() < 0.5, "{refused}");
    server.letters.hold(false);
    assert_eq!(first.answer().await.unwrap().status, 200);
    assert_eq!(server.get(&path).await.status, 200);
}
