//! Memory is bounded: who finds no room is told so before its body is read, and nothing is lost on the way.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use warren_adapter_http::HttpConfig;

use crate::gate::Gate;
use crate::hostile_requests::bodies::gzip;
use crate::hostile_requests::post;
use crate::server::{Numbers, TestServer, config, serve, serve_numbered};
use crate::wire::{Wire, exchange};

/// The bytes of request bodies that a server holds.
const IN_FLIGHT: &str = "warren_http_in_flight_bytes";

fn tight() -> HttpConfig {
    HttpConfig {
        max_in_flight_bytes: ByteSize::mib(5),
        max_request: ByteSize::mib(4),
        max_wire: ByteSize::mib(4),
        ..config()
    }
}

fn large() -> Vec<u8> {
    let record = format!("{{\"body\":\"{}\"}}\n", "x".repeat(200_000));
    post("/v1/messages", &[], record.repeat(15).as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_room_is_refused_before_its_body_is_read_and_small_ones_go_on() {
    let numbers = Numbers::new();
    let (gate, mut calls) = Gate::new();
    let (address, ..) = serve(tight(), Arc::clone(&gate) as _, Vec::new()).await;
    let first = tokio::spawn(async move { exchange(address, &large(), false).await.unwrap() });
    assert_eq!(calls.recv().await, Some(15));

    let mut wire = Wire::connect(address).await;
    wire.send(
        b"POST /v1/messages HTTP/1.1\r\nhost: w\r\nexpect: 100-continue\r\ncontent-length: 3000000\r\n\r\n",
    )
    .await;
    let started = Instant::now();
    // Not 100: the body is not even asked for.
    let answer = wire.answer().await.unwrap();
    assert_eq!((answer.status, answer.header("connection")), (503, Some("close")));
    assert!(answer.header("retry-after").is_some() && answer.text().contains("http.max_in_flight_bytes"));
    assert!(started.elapsed() < Duration::from_secs(2));

    let second = exchange(address, &large(), false).await.unwrap();
    assert_eq!(
        second.status, 503,
        "the answer comes through although three MiB were on their way"
    );

    gate.open.add_permits(2);
    let small = exchange(address, &post("/v1/messages", &[], br#"{"body":"small"}"#), false)
        .await
        .unwrap();
    assert_eq!((small.status, first.await.unwrap().status), (202, 202));
    gate.open.add_permits(1);
    assert_eq!(
        exchange(address, &large(), false).await.unwrap().status,
        202,
        "there is room again"
    );
    let started = Instant::now();
    while numbers.value(IN_FLIGHT) > 0.0 {
        assert!(
            started.elapsed() < Duration::from_secs(5),
            "bytes stay in flight:\n{}",
            numbers.page()
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

// On one thread, so that every number of the server is among the test's own.
#[tokio::test]
async fn a_refused_client_that_goes_on_sending_may_send_it_all_and_reads_why() {
    let numbers = Numbers::new();
    let config = HttpConfig {
        permit_wait: Duration::from_millis(500),
        ..tight()
    };
    let (gate, mut calls) = Gate::new();
    let (address, ..) = serve(config, Arc::clone(&gate) as _, Vec::new()).await;
    let first = tokio::spawn(async move { exchange(address, &large(), false).await.unwrap() });
    assert_eq!(calls.recv().await, Some(15));

    let mut wire = Wire::connect(address).await;
    wire.send(b"POST /v1/messages HTTP/1.1\r\nhost: w\r\ncontent-length: 3000000\r\n\r\n")
        .await;
    // While the request waits for room, its body begins to come, apart from the head; the rest comes after the answer.
    tokio::time::sleep(Duration::from_millis(100)).await;
    wire.send(&[b'x'; 100_000]).await;
    wire.stream.readable().await.unwrap();
    for _ in 0..29 {
        wire.send(&[b'x'; 100_000]).await;
    }
    assert_eq!(wire.answer().await.expect("no reset").status, 503);
    assert!(!numbers.page().contains("method=\"none\""), "{}", numbers.page());
    gate.open.add_permits(1);
    assert_eq!(first.await.unwrap().status, 202);
}

/// Announces so many bytes and, once they are asked for, sends one.
async fn slow_upload(server: &TestServer, announced: usize) -> Wire {
    let mut slow = Wire::connect(server.address).await;
    let head = format!(
        "POST /v1/messages HTTP/1.1\r\nhost: w\r\nexpect: 100-continue\r\ncontent-length: {announced}\r\n\r\n"
    );
    slow.send(head.as_bytes()).await;
    assert_eq!(slow.answer().await.unwrap().status, 100);
    slow.send(b"{").await;
    slow
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_body_that_announces_much_soon_holds_little() {
    let numbers = Numbers::new();
    let server = TestServer::with(tight(), []).await;
    let mut silent = slow_upload(&server, 2_000_000).await;
    let mut dripping = slow_upload(&server, 2_000_000).await;
    assert!(numbers.value(IN_FLIGHT) > 4_000_000.0);
    let started = Instant::now();
    while numbers.value(IN_FLIGHT) > 2_200_000.0 {
        assert!(
            started.elapsed() < Duration::from_secs(5),
            "{}",
            numbers.value(IN_FLIGHT)
        );
        dripping.send(&[b'x'; 10_000]).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Both are still there, and have to give nothing more.
    for slow in [&mut silent, &mut dripping] {
        let unanswered = tokio::time::timeout(Duration::from_millis(50), slow.answer()).await;
        assert!(unanswered.is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_bodies_give_their_room_to_those_who_wait() {
    // Three of them leave little of the four MiB that large bodies share.
    let server = TestServer::with(tight(), []).await;
    let mut slow = Vec::new();
    for _ in 0..3 {
        slow.push(slow_upload(&server, 1_200_000).await);
    }
    let started = Instant::now();
    while server.send(&large()).await.status != 202 {
        assert!(
            started.elapsed() < Duration::from_secs(5),
            "the slow bodies keep their room"
        );
    }
    let answer = slow.remove(0).answer().await.unwrap();
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("slower than"), "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_gave_before_it_went_away_is_published_and_keeps_its_room_until_then() {
    let (gate, mut calls) = Gate::new();
    let config = HttpConfig {
        drain_timeout: Duration::ZERO,
        ..tight()
    };
    let (address, _, shutdown, serving) = serve(config, Arc::clone(&gate) as _, Vec::new()).await;
    let (leaving, _, _, _) = serve(tight(), Arc::clone(&gate) as _, Vec::new()).await;

    // Goes away for good: no answer can reach it.
    let mut wire = Wire::connect(leaving).await;
    wire.send(&large()).await;
    assert_eq!(calls.recv().await, Some(15));
    wire.stream.set_zero_linger().unwrap();
    drop(wire);
    assert_eq!(
        exchange(leaving, &large(), false).await.unwrap().status,
        503,
        "its room is still taken"
    );
    gate.open.add_permits(1);
    let started = Instant::now();
    gate.open.add_permits(1);
    while exchange(leaving, &large(), false).await.unwrap().status != 202 {
        assert!(
            started.elapsed() < Duration::from_secs(5),
            "its room does not come back"
        );
    }
    assert_eq!(calls.recv().await, Some(15));

    // Is cut off by a server that stops: what it handed over is finished all the same.
    let mut wire = Wire::connect(address).await;
    wire.send(&large()).await;
    assert_eq!(calls.recv().await, Some(15));
    shutdown.cancel();
    assert_eq!(serving.await.unwrap().cut, 1);
    assert_eq!(gate.open.available_permits(), 0);
    gate.open.add_permits(1);
    let started = Instant::now();
    while gate.open.available_permits() > 0 {
        assert!(
            started.elapsed() < Duration::from_secs(5),
            "the publisher was dropped with the connection"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_that_panics_or_never_answers_makes_503() {
    let (gate, _calls) = Gate::that_panics();
    let (address, ..) = serve(config(), gate, Vec::new()).await;
    let good = post("/v1/messages", &[], br#"{"body":"x"}"#);
    assert_eq!(exchange(address, &good, false).await.unwrap().status, 503);

    let (gate, _calls) = Gate::new();
    let config = HttpConfig {
        request_timeout: Duration::from_millis(200),
        ..config()
    };
    let (address, ..) = serve(config, gate, Vec::new()).await;
    let answer = exchange(address, &good, false).await.unwrap();
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("http.request_timeout") && answer.text().contains("same ids"));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_connections_are_served_at_once_than_the_setting_says() {
    let config = HttpConfig {
        max_connections: 2,
        ..config()
    };
    let server = TestServer::with(config, []).await;
    let mut first = Wire::connect(server.address).await;
    let mut second = Wire::connect(server.address).await;
    for wire in [&mut first, &mut second] {
        wire.send(b"GET /livez HTTP/1.1\r\nhost: w\r\n\r\n").await;
        assert_eq!(wire.answer().await.unwrap().status, 200);
    }
    let mut third = Wire::connect(server.address).await;
    third.send(b"GET /livez HTTP/1.1\r\nhost: w\r\n\r\n").await;
    let unanswered = tokio::time::timeout(Duration::from_millis(200), third.answer()).await;
    assert!(unanswered.is_err(), "a third connection is served");
    drop(first);
    assert_eq!(third.answer().await.unwrap().status, 200);
}

/// A server whose every place for a request but three is held by one that its publisher does not answer.
async fn nearly_full() -> (
    std::net::SocketAddr,
    Arc<Gate>,
    tokio::sync::mpsc::Receiver<usize>,
    tokio::task::JoinSet<u16>,
) {
    let (gate, mut calls) = Gate::new();
    let config = HttpConfig {
        max_in_flight_requests: 20,
        ..config()
    };
    let (address, ..) = serve(config, Arc::clone(&gate) as _, Vec::new()).await;
    let mut held = tokio::task::JoinSet::new();
    for _ in 0..17 {
        held.spawn(async move {
            let critical = post(
                "/v1/messages",
                &["warren-severity: critical"],
                br#"{"severity":"critical","body":"x"}"#,
            );
            exchange(address, &critical, false).await.unwrap().status
        });
        assert_eq!(calls.recv().await, Some(1));
    }
    (address, gate, calls, held)
}

fn one_of_each() -> String {
    ["debug", "critical", "info", "warning", "error"]
        .map(|severity| format!(r#"{{"severity":"{severity}","body":"x"}}"#))
        .join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_says_it_holds_nothing_grave_is_refused_before_its_body_when_room_is_short() {
    let (address, gate, _calls, mut held) = nearly_full().await;
    for severity in ["debug", "info", "WARN", "error"] {
        let mut wire = Wire::connect(address).await;
        let head = format!(
            "POST /v1/messages HTTP/1.1\r\nhost: w\r\nexpect: 100-continue\r\ncontent-length: 3000\r\n\
             warren-severity: {severity}\r\n\r\n"
        );
        wire.send(head.as_bytes()).await;
        // Not 100: the body is not even asked for.
        let answer = wire.answer().await.unwrap();
        assert_eq!((answer.status, answer.header("connection")), (503, Some("close")));
        assert!(answer.header("retry-after").is_some());
        assert!(
            answer.text().contains("for critical messages"),
            "{}",
            answer.text()
        );
    }
    let text = post(
        "/v1/messages?severity=error",
        &["content-type: text/plain"],
        b"of the query",
    );
    assert_eq!(exchange(address, &text, false).await.unwrap().status, 503);
    gate.open.add_permits(17);
    while let Some(status) = held.join_next().await {
        assert_eq!(status.unwrap(), 202);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_says_nothing_is_sorted_and_its_critical_messages_are_taken() {
    let padding = format!("{{\"body\":\"{}\"}}\n", "x".repeat(70_000));
    for (body, others) in [(one_of_each(), 4), (padding + &one_of_each(), 5)] {
        let (address, gate, mut calls, mut held) = nearly_full().await;
        let request = post(
            "/v1/messages",
            &["content-type: application/x-ndjson"],
            body.as_bytes(),
        );
        let sorted = tokio::spawn(async move { exchange(address, &request, false).await.unwrap() });
        assert_eq!(calls.recv().await, Some(1), "the critical one alone");
        gate.open.add_permits(18);
        while let Some(status) = held.join_next().await {
            assert_eq!(status.unwrap(), 202);
        }
        let answer = sorted.await.unwrap();
        assert_eq!(answer.status, 503);
        let told = answer.json();
        assert_eq!(told["accepted"], 1);
        assert_eq!(told["unpublished"].as_array().unwrap().len(), others);
        assert!(answer.text().contains("too busy"), "{}", answer.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_of_records_that_are_not_grave_enough_is_refused_as_a_whole_without_reading_them() {
    let (address, gate, mut calls, mut held) = nearly_full().await;
    let lines = |body: &str| {
        post(
            "/v1/messages",
            &["content-type: application/x-ndjson"],
            body.as_bytes(),
        )
    };
    let ordinary = [
        "{\"body\":\"x\"}\n{\"severity\":\"error\",\"body\":\"critical\"}",
        // Nobody looks whether it could be read at all.
        "{\"severity\":\"warn\"",
    ];
    for body in ordinary {
        let answer = exchange(address, &lines(body), false).await.unwrap();
        assert_eq!(answer.status, 503, "{body}");
        let told = answer.text();
        assert!(
            told.contains("for critical messages") && !told.contains("unpublished"),
            "{told}"
        );
    }
    let escaped = lines(r#"{"severity":"\u0063ritical","body":"x"}"#);
    let taken = tokio::spawn(async move { exchange(address, &escaped, false).await.unwrap().status });
    assert_eq!(calls.recv().await, Some(1));
    gate.open.add_permits(18);
    assert_eq!(taken.await.unwrap(), 202);
    while let Some(status) = held.join_next().await {
        assert_eq!(status.unwrap(), 202);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_client_whose_body_is_small_and_there_keeps_its_connection() {
    let (address, gate, _calls, mut held) = nearly_full().await;
    let body = format!("{{\"severity\":\"debug\",\"body\":\"{}\"}}", "x".repeat(60_000));
    let request = post("/v1/messages", &["warren-severity: debug"], body.as_bytes());
    let mut wire = Wire::connect(address).await;
    for _ in 0..3 {
        wire.send(&request).await;
        let answer = wire.answer().await.unwrap();
        assert_eq!((answer.status, answer.header("connection")), (503, None));
    }
    // What does not come at once is not waited for.
    wire.send(&request[..request.len() - 1]).await;
    let answer = wire.answer().await.unwrap();
    assert_eq!((answer.status, answer.header("connection")), (503, Some("close")));
    gate.open.add_permits(17);
    while let Some(status) = held.join_next().await {
        assert_eq!(status.unwrap(), 202);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_full_refuses_all_and_takes_all_again_once_there_is_room() {
    let (address, gate, mut calls, mut held) = nearly_full().await;
    let send = |severity: &'static str| {
        let body = format!(r#"{{"severity":"{severity}","body":"x"}}"#);
        let request = post("/v1/messages", &[], body.as_bytes());
        async move { exchange(address, &request, false).await.unwrap().status }
    };
    for _ in 0..3 {
        held.spawn(send("critical"));
        assert_eq!(calls.recv().await, Some(1));
    }
    for severity in ["critical", "debug", "error"] {
        assert_eq!(send(severity).await, 503);
    }
    gate.open.add_permits(1_000);
    while let Some(status) = held.join_next().await {
        assert_eq!(status.unwrap(), 202);
    }
    assert_eq!(send("critical").await, 202);
    let started = Instant::now();
    while send("debug").await != 202 {
        assert!(started.elapsed() < Duration::from_secs(10), "debug stays out");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_names_no_severity_or_several_is_said_to() {
    let server = TestServer::start().await;
    for (headers, said) in [
        (&["warren-severity: loud"][..], r#"Warren-Severity is \"loud\""#),
        (&["warren-severity:"], "names no severity"),
        (
            &["warren-severity: debug", "warren-severity: critical"],
            "Warren-Severity is given more than once",
        ),
    ] {
        let request = post("/v1/messages", headers, br#"{"body":"x"}"#);
        let answer = server.send(&request).await;
        assert_eq!(answer.status, 400, "{headers:?}");
        let text = answer.text();
        assert!(text.contains("urn:warren:problem:invalid-header"), "{text}");
        assert!(text.contains(said), "{text}");
    }
}

/// Returns the level that the server shows itself, as a scrape sees it.
async fn shown_level(address: std::net::SocketAddr) -> String {
    let page = exchange(address, b"GET /metrics HTTP/1.1\r\nhost: w\r\n\r\n", false)
        .await
        .unwrap();
    let page = page.text();
    let line = page
        .lines()
        .find_map(|line| line.strip_prefix("warren_http_refused_severities "));
    line.expect("the gauge").to_owned()
}

// On one thread, so that every number of the server is the test's own.
#[tokio::test]
async fn a_compressed_body_that_waits_for_large_room_shuts_out_no_small_request_but_debug() {
    let numbers = Numbers::new();
    let config = HttpConfig {
        permit_wait: Duration::from_secs(20),
        ..tight()
    };
    let (gate, mut calls) = Gate::new();
    let (address, ..) = serve_numbered(config, Arc::clone(&gate) as _, &numbers).await;
    let first = tokio::spawn(async move { exchange(address, &large(), false).await.unwrap() });
    assert_eq!(calls.recv().await, Some(15));

    let record = format!("{{\"body\":\"{}\"}}\n", "x".repeat(200_000));
    let body = gzip(record.repeat(15).as_bytes());
    assert!(body.len() < 64 << 10);
    let waiting = post("/v1/messages", &["content-encoding: gzip"], &body);
    let waiting = tokio::spawn(async move { exchange(address, &waiting, false).await.unwrap() });
    let started = Instant::now();
    while shown_level(address).await == "0" {
        assert!(started.elapsed() < Duration::from_secs(10), "it does not wait");
    }

    for severity in ["info", "warning", "error", "critical"] {
        let header = format!("warren-severity: {severity}");
        let body = format!(r#"{{"severity":"{severity}","body":"x"}}"#);
        let small = post("/v1/messages", &[&header], body.as_bytes());
        let small = exchange(address, &small, false);
        tokio::select! {
            answer = small => panic!("{severity} is refused: {}", answer.unwrap().text()),
            call = calls.recv() => assert_eq!(call, Some(1)),
        }
    }
    gate.open.add_permits(100);
    assert_eq!(first.await.unwrap().status, 202);
    assert_eq!(waiting.await.unwrap().status, 202);
    // Nobody asks for room any more, and what is shown comes down all the same.
    let started = Instant::now();
    while shown_level(address).await != "0" {
        assert!(started.elapsed() < Duration::from_secs(10), "the level stays");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_no_reason_to_refuse_itself() {
    let config = HttpConfig {
        max_in_flight_requests: 1,
        ..config()
    };
    let server = TestServer::with(config, []).await;
    for _ in 0..3 {
        let answer = server.post(br#"{"severity":"debug","body":"alone"}"#).await;
        assert_eq!(answer.status, 202, "{}", answer.text());
    }
}

// Every body of more than a step holds its decoder while it waits for room.
#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_a_decoder_and_for_the_publisher_have_one_deadline() {
    let config = HttpConfig {
        request_timeout: Duration::from_secs(2),
        permit_wait: Duration::from_millis(1_500),
        ..tight()
    };
    let (gate, mut calls) = Gate::new();
    let (address, ..) = serve(config, Arc::clone(&gate) as _, Vec::new()).await;
    let _first = tokio::spawn(async move { exchange(address, &large(), false).await });
    assert_eq!(calls.recv().await, Some(15));
    let record = format!("{{\"body\":\"{}\"}}\n", "x".repeat(200_000));
    let heavy = post(
        "/v1/messages",
        &["content-encoding: gzip"],
        &gzip(record.repeat(15).as_bytes()),
    );
    let mut decoding = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let heavy = heavy.clone();
        decoding.spawn(async move { exchange(address, &heavy, false).await.unwrap().status });
    }
    let light = post(
        "/v1/messages",
        &["content-encoding: gzip", "warren-severity: critical"],
        &gzip(br#"{"severity":"critical","body":"x"}"#),
    );
    tokio::time::sleep(Duration::from_millis(200)).await;
    let started = Instant::now();
    let answer = exchange(address, &light, false).await.unwrap();
    let took = started.elapsed();
    assert_eq!(answer.status, 503);
    assert!(
        answer.text().contains("http.request_timeout"),
        "{}",
        answer.text()
    );
    assert_eq!(calls.recv().await, Some(1), "it had its decoder");
    assert!(took < Duration::from_millis(2_600), "it took {took:?}");
    while let Some(status) = decoding.join_next().await {
        assert_eq!(status.unwrap(), 503);
    }
}
