//! What is sent is watched as it comes: in one process, and through RabbitMQ.

use std::collections::HashSet;
use std::mem;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use warren_e2e::bed::on_shared_servers;
use warren_e2e::http::Client;
use warren_e2e::process::Service;
use warren_e2e::request::Request;
use warren_e2e::sqlite::DataFolder;

const PATIENCE: Duration = Duration::from_secs(60);

/// A reader of lines. HTTP/1.0, whose answers have no chunks to take apart.
struct Tail(BufReader<TcpStream>);

impl Tail {
    async fn open(address: SocketAddr, query: &str) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET /v1/tail?{query} HTTP/1.0\r\naccept: application/x-ndjson\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut tail = Self(BufReader::new(stream));
        let status = tail.text().await;
        assert!(status.contains(" 200 "), "{status}");
        while !tail.text().await.trim().is_empty() {}
        // It listens from here on.
        assert_eq!(tail.line().await["keep_alive"], true);
        tail
    }

    async fn text(&mut self) -> String {
        let mut text = String::new();
        timeout(PATIENCE, self.0.read_line(&mut text))
            .await
            .expect("something comes")
            .unwrap();
        text
    }

    async fn line(&mut self) -> Value {
        serde_json::from_str(&self.text().await).unwrap()
    }

    /// Reads messages; returns what each says, and its cursor.
    async fn messages(&mut self, count: usize) -> Vec<(String, String)> {
        let mut messages = Vec::new();
        while messages.len() < count {
            let line = self.line().await;
            assert_eq!(line["gap"], Value::Null, "nothing is missing");
            if let Some(body) = line["message"]["body"].as_str() {
                let cursor = line["cursor"].as_str().unwrap();
                messages.push((body.to_owned(), cursor.to_owned()));
            }
        }
        messages
    }
}

/// What a tail has told, over all its connections.
#[derive(Debug, Default)]
struct Heard {
    bodies: HashSet<String>,
    gaps: Vec<Value>,
    cursor: String,
}

impl Heard {
    /// Reads on until `body` has come, or for good; nothing may come twice.
    async fn until(&mut self, tail: &mut Tail, body: &str) {
        while !self.bodies.contains(body) {
            let line = tail.line().await;
            if let Some(body) = line["message"]["body"].as_str() {
                assert!(self.bodies.insert(body.to_owned()), "{body} has come twice");
            }
            if !line["gap"].is_null() {
                self.gaps.push(line["gap"].clone());
            }
            self.cursor = line["cursor"].as_str().unwrap().to_owned();
        }
    }

    /// Asserts that each of these has come, or that a gap says so, rightly where it says how many are missing; says which,
    /// and takes the gaps for told.
    fn account_for(&mut self, sent: Range<usize>) {
        let missing: Vec<_> = sent
            .clone()
            .filter(|n| !self.bodies.contains(&n.to_string()))
            .collect();
        let gaps = mem::take(&mut self.gaps);
        let said: Option<u64> = gaps.iter().map(|gap| gap["missed"].as_u64()).sum();
        let (first, missing) = (missing.first(), missing.len());
        if gaps.is_empty() {
            assert_eq!(
                missing, 0,
                "they are missing from {first:?} on, and nobody says so"
            );
            println!("{sent:?}: every message came");
        } else {
            assert!(
                said.is_none_or(|said| said == missing as u64),
                "{missing} are missing from {first:?} on, and that is said of them: {gaps:?}"
            );
            println!("{sent:?}: {missing} messages did not come, and a gap came instead: {gaps:?}");
        }
    }
}

async fn send(intake: SocketAddr, from: usize, to: usize) {
    let line = |n: usize| {
        let severity = ["info", "error", "critical"][n % 3];
        format!("{{\"severity\":\"{severity}\",\"source\":\"shop\",\"body\":\"{n}\"}}\n")
    };
    let request = Request::post((from..to).map(line).collect::<String>());
    let request = request.header("content-type", "application/x-ndjson");
    let answer = Client::new(intake).send(&request).await.unwrap();
    assert_eq!(answer.status, 202, "{}", answer.text_start());
}

/// The errors among what was sent, by their numbers.
fn errors(from: usize, to: usize) -> Vec<String> {
    (from..to).filter(|n| n % 3 == 1).map(|n| n.to_string()).collect()
}

async fn what_is_sent_is_watched(intake: SocketAddr, watched: &mut Service) {
    let mut tail = Tail::open(watched.address(), "severity=error&source=shop.%23").await;
    send(intake, 0, 300).await;
    let came = tail.messages(100).await;
    let bodies: Vec<_> = came.iter().map(|(body, _)| body.clone()).collect();
    assert_eq!(bodies, errors(0, 300));
    drop(tail);
    send(intake, 300, 600).await;
    // Back at the place behind half of them.
    let query = format!("severity=error&last_event_id={}", came[49].1);
    let mut tail = Tail::open(watched.address(), &query).await;
    let came: Vec<_> = tail
        .messages(150)
        .await
        .into_iter()
        .map(|(body, _)| body)
        .collect();
    assert_eq!(came, errors(150, 600));
    watched.terminate().await.unwrap();
    assert_eq!(tail.line().await["end"]["reason"], "shutting_down");
    watched.wait(PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_to_the_embedded_program_is_watched_and_gone_on_with() {
    let folder = DataFolder::create().unwrap();
    let mut warren = folder.warren().unwrap();
    warren.start_ready().await.unwrap();
    let intake = warren.address();
    what_is_sent_is_watched(intake, &mut warren).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_through_rabbitmq_is_watched_at_the_worker_and_gone_on_with() {
    on_shared_servers(async |bed| {
        bed.migrate().await.unwrap();
        let (mut ingest, mut worker) = (bed.ingest().unwrap(), bed.worker().unwrap());
        ingest.start_ready().await.unwrap();
        worker.start_ready().await.unwrap();
        what_is_sent_is_watched(ingest.address(), &mut worker).await;
        ingest.stop(Duration::from_secs(30)).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_through_rabbitmq_is_watched_at_the_query_api_and_gone_on_with() {
    on_shared_servers(async |bed| {
        bed.migrate().await.unwrap();
        let (mut ingest, mut query) = (bed.ingest().unwrap(), bed.query().unwrap());
        ingest.start_ready().await.unwrap();
        query.start_ready().await.unwrap();
        what_is_sent_is_watched(ingest.address(), &mut query).await;
        ingest.stop(Duration::from_secs(30)).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_goes_on_after_the_query_api_was_killed_while_messages_come() {
    const EACH: usize = 20;
    on_shared_servers(async |bed| {
        let [mut ingest, mut worker, mut query] = bed.start_all().await.unwrap();
        let mut tail = Tail::open(query.address(), "").await;
        let mut heard = Heard::default();
        let (sent, wanted) = (AtomicUsize::new(0), AtomicUsize::new(usize::MAX));
        let sending = async {
            loop {
                let from = sent.load(Ordering::Relaxed);
                if from >= wanted.load(Ordering::Relaxed) {
                    break;
                }
                send(ingest.address(), from, from + EACH).await;
                sent.store(from + EACH, Ordering::Relaxed);
                sleep(Duration::from_millis(20)).await;
            }
        };
        let reading = async {
            heard.until(&mut tail, "200").await;
            let mut from = 0;
            for _ in 0..2 {
                query.kill().await.unwrap();
                let away = sent.load(Ordering::Relaxed);
                while sent.load(Ordering::Relaxed) < away + 10 * EACH {
                    sleep(Duration::from_millis(20)).await;
                }
                query.start_ready().await.unwrap();
                tail = Tail::open(query.address(), &format!("last_event_id={}", heard.cursor)).await;
                // It has caught up once it tells what is sent from now on.
                let next = sent.load(Ordering::Relaxed) + 20 * EACH;
                heard.until(&mut tail, &next.to_string()).await;
                heard.account_for(from..next);
                from = next;
            }
            let last = sent.load(Ordering::Relaxed) + 10 * EACH;
            wanted.store(last, Ordering::Relaxed);
            from
        };
        let ((), from) = tokio::join!(sending, reading);
        let all = sent.load(Ordering::Relaxed);
        heard.until(&mut tail, &(all - 1).to_string()).await;
        assert_eq!(heard.gaps, [] as [Value; 0], "nobody was away any more");
        heard.account_for(from..all);
        for service in [&mut query, &mut ingest, &mut worker] {
            service.stop(PATIENCE).await.unwrap();
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_goes_on_where_it_was_after_the_embedded_program_was_killed() {
    let folder = DataFolder::create().unwrap();
    let mut warren = folder.warren().unwrap();
    warren.start_ready().await.unwrap();
    let mut tail = Tail::open(warren.address(), "severity=error").await;
    send(warren.address(), 0, 300).await;
    let cursor = tail.messages(100).await[49].1.clone();
    while folder.count().await.unwrap() < 300 {
        sleep(Duration::from_millis(50)).await;
    }
    warren.kill().await.unwrap();
    warren.start_ready().await.unwrap();
    send(warren.address(), 300, 450).await;
    let query = format!("severity=error&last_event_id={cursor}");
    let mut tail = Tail::open(warren.address(), &query).await;
    send(warren.address(), 450, 600).await;
    let came = tail.messages(150).await.into_iter();
    let came: Vec<_> = came.map(|(body, _)| body).collect();
    assert_eq!(came, errors(150, 600));
    warren.stop(PATIENCE).await.unwrap();
}
