//! What is sent is watched as it comes: in one process, and through RabbitMQ.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;
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
