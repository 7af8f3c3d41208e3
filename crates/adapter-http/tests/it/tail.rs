//! Tails over real connections: what comes, what is said to be missing, and how they end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use warren_adapter_conformance::samples::{message, messages};
use warren_adapter_conformance::scripted_live::ScriptedLive;
use warren_adapter_http::{Drained, HttpConfig, Routes, TailRoutes};
use warren_domain::{Message, Severity};
use warren_pipeline::tail::{Hub, TailConfig};

use crate::server::{bare, config, serve_routes};
use crate::wire::{PATIENCE, exchange};

struct Subject {
    live: Arc<ScriptedLive>,
    address: SocketAddr,
    shutdown: CancellationToken,
    serving: JoinHandle<Drained>,
}

async fn serve(http: HttpConfig, tail: TailConfig) -> Subject {
    let live = ScriptedLive::new();
    let hub = Hub::start(Arc::clone(&live) as _, tail);
    let routes = Routes {
        tail: Some(TailRoutes::new(hub, &http)),
        ..bare()
    };
    let (address, shutdown, serving) = serve_routes(&http, routes).await;
    Subject {
        live,
        address,
        shutdown,
        serving,
    }
}

#[derive(Debug)]
struct Event {
    id: String,
    name: String,
    data: Value,
}

/// A reader of events. HTTP/1.0, whose answers have no chunks to take apart.
struct Tail {
    stream: TcpStream,
    ahead: Vec<u8>,
    head: String,
}

impl Tail {
    async fn open(address: SocketAddr, path: &str, headers: &str) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.0\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut tail = Self {
            stream,
            ahead: Vec::new(),
            head: String::new(),
        };
        tail.head = tail.until("\r\n\r\n").await.expect("a head");
        tail
    }

    /// Reads to the next end of its kind; `None`: the connection is closed.
    async fn until(&mut self, end: &str) -> Option<String> {
        let end = end.as_bytes();
        let mut looked_at = 0;
        loop {
            let found = self.ahead[looked_at..]
                .windows(end.len())
                .position(|window| window == end);
            if let Some(place) = found {
                let text: Vec<u8> = self.ahead.drain(..looked_at + place + end.len()).collect();
                return Some(String::from_utf8(text).unwrap());
            }
            looked_at = self.ahead.len().saturating_sub(end.len());
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.ahead)).await;
            if !read.expect("something comes").is_ok_and(|length| length > 0) {
                return None;
            }
        }
    }

    /// Reads the next event that is dispatched; `None`: the connection is closed.
    async fn event(&mut self) -> Option<Event> {
        loop {
            let text = self.until("\n\n").await?;
            let field = |name: &str| {
                let mut lines = text.lines();
                lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
            };
            if let Some(data) = field("data") {
                return Some(Event {
                    id: field("id").unwrap_or_default().to_owned(),
                    name: field("event").unwrap().to_owned(),
                    data: serde_json::from_str(data).unwrap(),
                });
            }
        }
    }

    async fn events(&mut self, count: usize) -> Vec<Event> {
        let mut events = Vec::new();
        while events.len() < count {
            // Keep-alives come for ever, and are none.
            let event = timeout(3 * PATIENCE, self.event()).await;
            events.push(event.expect("the next event comes").expect("the tail goes on"));
        }
        events
    }
}

fn ids(events: &[Event]) -> Vec<String> {
    let id = |event: &Event| event.data["id"].as_str().unwrap_or(&event.name).to_owned();
    events.iter().map(id).collect()
}

fn ids_of(messages: &[Message]) -> Vec<String> {
    messages.iter().map(|message| message.id.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_comes_as_events_that_no_proxy_holds_back() {
    let subject = serve(config(), TailConfig::default()).await;
    let mut tail = Tail::open(subject.address, "/v1/tail?severity=error%2B&q=message", "").await;
    for header in [
        "content-type: text/event-stream",
        "cache-control: no-store",
        "x-accel-buffering: no",
    ] {
        assert!(tail.head.contains(header), "{}", tail.head);
    }
    let sent = messages(100);
    subject.live.publish(&sent);
    let wanted: Vec<_> = sent
        .into_iter()
        .filter(|message| message.severity >= Severity::Error)
        .collect();
    let events = tail.events(wanted.len()).await;
    assert_eq!(ids(&events), ids_of(&wanted));
    assert!(
        events
            .iter()
            .all(|event| event.name == "message" && !event.id.is_empty())
    );
    let (shown, meant) = (&events[0].data, &wanted[0]);
    assert_eq!(shown["severity"], "error");
    assert_eq!(shown["source"], meant.source.as_str());
    assert_eq!(shown["body"], meant.body.as_str());
    assert_eq!(shown["attributes"], serde_json::json!({}));
    assert_eq!(shown["received_at"], meant.received_at.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_of_json_come_to_whoever_accepts_them() {
    let subject = serve(config(), TailConfig::default()).await;
    let accept = "accept: application/x-ndjson\r\n";
    let mut tail = Tail::open(subject.address, "/v1/tail", accept).await;
    assert!(tail.head.contains("content-type: application/x-ndjson"));
    let mut line = async || -> Value { serde_json::from_str(&tail.until("\n").await.unwrap()).unwrap() };
    assert_eq!(line().await["keep_alive"], true);
    let sent = messages(1);
    subject.live.publish(&sent);
    let told = line().await;
    assert_eq!(told["message"]["id"], sent[0].id.to_string());
    assert!(told["cursor"].is_string());
    subject.shutdown.cancel();
    assert_eq!(line().await["end"]["reason"], "shutting_down");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stalls_gets_every_message_that_is_kept_and_the_number_of_the_others() {
    const SENT: usize = 20_000;
    // Far more than what the system holds for a connection.
    let body = "x".repeat(2_000);
    for (keep_messages, mends) in [(SENT, true), (1_000, false)] {
        let tail = TailConfig {
            keep_messages,
            keep_bytes: bytesize::ByteSize::gib(1),
            max_messages_per_second: 1_000_000,
            ..TailConfig::default()
        };
        let subject = serve(config(), tail).await;
        let mut tail = Tail::open(subject.address, "/v1/tail", "").await;
        let sent: Vec<_> = (0..SENT).map(|_| message(Severity::Info, "a", &body)).collect();
        subject.live.publish(&sent);
        sleep(Duration::from_secs(10)).await;
        let (mut came, mut missed) = (Vec::new(), 0);
        while came.len() + missed < SENT {
            let event = tail.event().await.unwrap();
            match event.name.as_str() {
                "gap" => missed += event.data["missed"].as_u64().unwrap() as usize,
                _ => came.push(event),
            }
        }
        assert_eq!(came.len() + missed, SENT);
        assert_eq!(missed == 0, mends, "{missed} are missing");
        // The last has come, and what has come is in order and there once.
        let (all, came) = (ids_of(&sent), ids(&came));
        assert_eq!(came.last(), all.last());
        let mut rest = all.iter();
        assert!(came.iter().all(|id| rest.any(|other| other == id)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_tails_may_not_be_sent_is_counted_for_each() {
    const SENT: usize = 5_000;
    let tail = TailConfig {
        max_bytes_per_second: bytesize::ByteSize::kib(256),
        ..TailConfig::default()
    };
    let subject = serve(config(), tail).await;
    let mut tails = Vec::new();
    for _ in 0..3 {
        tails.push(Tail::open(subject.address, "/v1/tail?q=xx", "").await);
    }
    let body = "x".repeat(1_000);
    let sent: Vec<_> = (0..SENT).map(|_| message(Severity::Info, "a", &body)).collect();
    subject.live.publish(&sent);
    for mut tail in tails {
        let (mut came, mut missed) = (0, 0);
        while came + missed < SENT {
            let event = tail.event().await.unwrap();
            match event.name.as_str() {
                "gap" => {
                    assert_eq!(event.data["reason"], "rate_limited");
                    missed += event.data["missed"].as_u64().unwrap() as usize;
                }
                _ => came += 1,
            }
        }
        assert_eq!(came + missed, SENT);
        // More than two seconds of all that may be sent were left out.
        assert!(missed > SENT / 2, "{missed} are missing");
        assert!(came > 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_connects_again_goes_on_behind_the_last_event() {
    let subject = serve(config(), TailConfig::default()).await;
    let mut tail = Tail::open(subject.address, "/v1/tail", "").await;
    let sent = messages(500);
    subject.live.publish(&sent[..200]);
    let events = tail.events(200).await;
    drop(tail);
    subject.live.publish(&sent[200..]);
    let last = &events[99].id;
    let back = [
        (format!("/v1/tail?last_event_id={last}"), String::new()),
        ("/v1/tail".to_owned(), format!("last-event-id: {last}\r\n")),
    ];
    for (path, headers) in back {
        let mut tail = Tail::open(subject.address, &path, &headers).await;
        assert_eq!(ids(&tail.events(400).await), ids_of(&sent[100..]));
    }
    // Another process knows the place not.
    let other = serve(config(), TailConfig::default()).await;
    let mut tail = Tail::open(other.address, "/v1/tail", &format!("last-event-id: {last}\r\n")).await;
    other.live.publish(&sent[..1]);
    let events = tail.events(2).await;
    assert_eq!(events[0].name, "gap");
    assert_eq!(events[0].data["missed"], Value::Null);
    assert_eq!(ids(&events[1..]), ids_of(&sent[..1]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_tails_share_one_listener() {
    let subject = serve(config(), TailConfig::default()).await;
    let mut tails = Vec::new();
    for _ in 0..100 {
        tails.push(Tail::open(subject.address, "/v1/tail", "").await);
    }
    let sent = messages(1_000);
    subject.live.publish(&sent);
    let expected = Arc::new(ids_of(&sent));
    let mut reading = JoinSet::new();
    for mut tail in tails {
        let expected = Arc::clone(&expected);
        reading.spawn(async move { assert_eq!(ids(&tail.events(1_000).await), *expected) });
    }
    while let Some(read) = reading.join_next().await {
        read.unwrap();
    }
    assert_eq!((subject.live.begun(), subject.live.listening()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_tail_is_kept_alive_and_one_that_nobody_takes_is_cut() {
    let http = HttpConfig {
        idle_timeout: Duration::from_millis(900),
        ..config()
    };
    let subject = serve(http, TailConfig::default()).await;
    let mut quiet = Tail::open(subject.address, "/v1/tail", "").await;
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(2) {
        quiet.until("\n\n").await.expect("it is kept alive");
    }
    assert!(
        quiet
            .until("\n\n")
            .await
            .unwrap()
            .starts_with(": keep-alive\nid: ")
    );
    let mut stalled = Tail::open(subject.address, "/v1/tail?severity=critical", "").await;
    let body = "x".repeat(100_000);
    let sent: Vec<_> = (0..130)
        .map(|_| message(Severity::Critical, "a", &body))
        .collect();
    subject.live.publish(&sent);
    // Less than a listener keeps for the hub, and more than two kernels keep for a reader. Whoever reads gets all of it; for whoever does not, the time of an idle connection is over.
    assert_eq!(quiet.events(130).await.len(), 130);
    sleep(Duration::from_secs(2)).await;
    let mut came = 0;
    while stalled.event().await.is_some() {
        came += 1;
    }
    assert!(came < 130, "it was never cut");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_server_ends_its_tails_and_waits_for_none_that_stands_still() {
    let subject = serve(config(), TailConfig::default()).await;
    let mut tail = Tail::open(subject.address, "/v1/tail?severity=debug", "").await;
    let _stalled = Tail::open(subject.address, "/v1/tail?severity=info", "").await;
    let body = "x".repeat(100_000);
    let sent: Vec<_> = (0..200).map(|_| message(Severity::Info, "a", &body)).collect();
    subject.live.publish(&sent);
    sleep(Duration::from_millis(500)).await;
    let last = [message(Severity::Debug, "a", "the last")];
    subject.live.publish(&last);
    assert_eq!(ids(&tail.events(1).await), ids_of(&last));
    let started = Instant::now();
    subject.shutdown.cancel();
    let end = tail.event().await.unwrap();
    assert_eq!(
        (end.name.as_str(), &end.data["reason"]),
        ("end", &"shutting_down".into())
    );
    assert!(tail.event().await.is_none());
    let drained = timeout(PATIENCE, subject.serving).await.unwrap().unwrap();
    assert_eq!(drained.cut, 0);
    assert!(
        started.elapsed() < Duration::from_secs(6),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_that_cannot_be_had_is_explained() {
    let tail = TailConfig {
        max_readers: 1,
        ..TailConfig::default()
    };
    let subject = serve(config(), tail).await;
    let ask = async |query: &str| {
        let request = format!("GET /v1/tail{query} HTTP/1.1\r\nhost: w\r\n\r\n");
        exchange(subject.address, request.as_bytes(), false)
            .await
            .unwrap()
    };
    let answer = ask("?severity=loud").await;
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("severity"));
    let _reading = Tail::open(subject.address, "/v1/tail", "").await;
    let answer = ask("").await;
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("tail.max_readers"), "{}", answer.text());
    assert!(answer.header("retry-after").is_some());
    drop(subject.shutdown);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_whose_client_has_gone_makes_room_at_once() {
    let http = HttpConfig {
        idle_timeout: Duration::from_millis(900),
        ..config()
    };
    let tail = TailConfig {
        max_readers: 1,
        ..TailConfig::default()
    };
    let subject = serve(http, tail).await;
    let mut gone = Tail::open(subject.address, "/v1/tail", "").await;
    gone.stream.shutdown().await.unwrap();
    let mut parts = 0;
    while gone.until("\n\n").await.is_some() {
        parts += 1;
        assert!(parts < 50, "it is kept alive for nobody");
    }
    let again = async {
        loop {
            let tail = Tail::open(subject.address, "/v1/tail", "").await;
            if tail.head.starts_with("HTTP/1.1 200") || tail.head.starts_with("HTTP/1.0 200") {
                return;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, again).await.expect("there is room");
}
