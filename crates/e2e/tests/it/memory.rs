//! Memory stays bounded, however much clients push and however little is taken away.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use warren_e2e::bed::on_shared_servers;
use warren_e2e::http::Client;
use warren_e2e::ledger::Tally;
use warren_e2e::process::{Service, peak_memory, raise_open_files};
use warren_e2e::request::Request;
use warren_e2e::sqlite::DataFolder;

use crate::alone;

const OPEN_FILES: u64 = 8_192;
const MOST_MEMORY: u64 = 256 << 20;

/// How many messages a request of a mebibyte has.
const LINES: u64 = 5;

/// Bounds a wait for what was accepted to be stored; no verdict depends on how long it takes.
const CATCH_UP: Duration = Duration::from_secs(120);

/// Clients that send one request at the same time, some times over, each on a connection that stays open.
#[derive(Clone, Copy, Debug)]
struct Crowd {
    connections: usize,
    requests_each: usize,
}

/// What the promise is about: 2,000 connections of a mebibyte each.
const CROWD: Crowd = Crowd {
    connections: 2_000,
    requests_each: 3,
};

/// Makes a request of 1 MiB: five messages of some 200 KiB.
fn one_mebibyte() -> Request {
    let line = format!(
        "{{\"source\":\"memory\",\"body\":\"{}\"}}\n",
        "x".repeat((1 << 20) / LINES as usize - 32)
    );
    let body = line.repeat(LINES as usize);
    assert!(
        (1_048_000..=1 << 20).contains(&body.len()),
        "{} bytes",
        body.len()
    );
    lines(body)
}

fn lines(body: String) -> Request {
    Request::post(Bytes::from(body)).header("content-type", "application/x-ndjson")
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_connections_of_a_mebibyte_each_and_no_worker_stay_under_256_mib() {
    let _alone = alone().await;
    raise_open_files(OPEN_FILES).await.unwrap();
    on_shared_servers(async |bed| {
        // A bound of its own, so that a broker that others use is not filled.
        let bounded = |service: Service| service.setting("WARREN_AMQP__STORE_MAX_BYTES", "128MiB");
        let mut ingest = bounded(bed.ingest().unwrap()).open_files(OPEN_FILES);
        ingest.start_ready().await.unwrap();
        let tally = CROWD.push(&ingest, &one_mebibyte()).await;
        assert_small(&ingest, &tally);
        assert_took_what_it_could(&tally);
        assert_lives(&mut ingest).await;
        // A worker that comes late to all this is no larger.
        bed.migrate().await.unwrap();
        let mut worker = bounded(bed.worker().unwrap());
        worker.start_ready().await.unwrap();
        wait_until_stored(&tally, async || bed.database.count().await.unwrap()).await;
        bed.wait_drained().await.unwrap();
        assert_small(&worker, &tally);
        ingest.stop(Duration::from_secs(30)).await.unwrap();
        worker.stop(Duration::from_secs(30)).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_connections_of_a_mebibyte_each_and_one_process_stay_under_256_mib() {
    let _alone = alone().await;
    raise_open_files(OPEN_FILES).await.unwrap();
    let folder = DataFolder::create().unwrap();
    // A bound of its own, so that the disk of whoever runs the tests is not filled.
    let mut warren = folder
        .warren()
        .unwrap()
        .setting("WARREN_EMBEDDED__MAX_BYTES", "256MiB")
        .open_files(OPEN_FILES);
    warren.start_ready().await.unwrap();
    let tally = CROWD.push(&warren, &one_mebibyte()).await;
    assert_took_what_it_could(&tally);
    assert_lives(&mut warren).await;
    wait_until_stored(&tally, async || folder.count().await.unwrap()).await;
    assert_small(&warren, &tally);
    warren.stop(Duration::from_secs(30)).await.unwrap();
}

// Bytes on the wire say little about what a request costs: these are small there, and large once they are read.

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_ten_thousand_small_messages_and_a_broker_that_hangs_stay_under_256_mib() {
    push_at_a_broker_that_hangs(&lines("{\"body\":\"\"}\n".repeat(10_000))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_ten_thousand_errors_and_a_broker_that_hangs_stay_under_256_mib() {
    push_at_a_broker_that_hangs(&lines("{}\n".repeat(9_999) + "{\"body\":\"good\"}\n")).await;
}

async fn push_at_a_broker_that_hangs(request: &Request) {
    let _alone = alone().await;
    let crowd = Crowd {
        connections: 300,
        requests_each: 1,
    };
    on_shared_servers(async |bed| {
        let broker = Relay::to(bed.topology.url()).await;
        let mut ingest = bed.ingest().unwrap().setting("WARREN_AMQP__URL", &broker.url);
        ingest.start_ready().await.unwrap();
        broker.hang.cancel();
        let tally = crowd.push(&ingest, request).await;
        assert_small(&ingest, &tally);
        assert_eq!(tally.answers.keys().collect::<Vec<_>>(), [&503], "{tally:?}");
        assert_lives(&mut ingest).await;
    })
    .await;
}

fn assert_small(service: &Service, tally: &Tally) {
    let peak = peak_memory(service.pid().unwrap()).unwrap();
    let program = service.program().display();
    println!("{program}: peak {} MiB; {tally:?}", peak >> 20);
    assert!(peak < MOST_MEMORY, "{program}: {} MiB; {tally:?}", peak >> 20);
}

fn assert_took_what_it_could(tally: &Tally) {
    assert!(tally.of(202) > 0 && tally.of(503) > 0, "{tally:?}");
    assert_eq!(tally.answers.len(), 2, "{tally:?}");
    // A client that is refused while it still sends may lose the answer with the connection; that is the exception.
    let requests = CROWD.connections * CROWD.requests_each;
    assert!(tally.broken <= requests as u64 / 100, "{tally:?}");
}

/// Waits until every message that was accepted is stored; what was answered with 503 may be there as well.
async fn wait_until_stored(tally: &Tally, count: impl AsyncFn() -> u64) {
    let (due, deadline) = (tally.of(202) * LINES, Instant::now() + CATCH_UP);
    while count().await < due {
        assert!(Instant::now() < deadline, "{due} messages are due; {tally:?}");
        sleep(Duration::from_millis(200)).await;
    }
}

/// It lives, and says so at once.
async fn assert_lives(service: &mut Service) {
    service
        .wait_for("/livez", 200, Duration::from_secs(5))
        .await
        .unwrap();
}

impl Crowd {
    /// Sends from every connection at once, all of them open, and counts what is answered.
    async fn push(self, intake: &Service, request: &Request) -> Tally {
        let (request, together) = (
            Arc::new(request.clone()),
            Arc::new(Barrier::new(self.connections)),
        );
        let mut clients = JoinSet::new();
        for _ in 0..self.connections {
            let (request, together) = (Arc::clone(&request), Arc::clone(&together));
            let mut client = Client::new(intake.address()).with_deadline(Duration::from_secs(60));
            clients.spawn(async move {
                // Opened before anyone sends, so that all are open at once.
                let opened = client.send(&Request::get("/livez")).await;
                together.wait().await;
                let mut tally = Tally::default();
                opened.unwrap();
                for _ in 0..self.requests_each {
                    let Ok(answer) = client.send(&request).await else {
                        tally.broken += 1;
                        continue;
                    };
                    let told = answer.status != 503 || answer.retry_after().is_some();
                    assert!(told, "503 without Retry-After: {}", answer.text_start());
                    *tally.answers.entry(answer.status).or_default() += 1;
                }
                tally
            });
        }
        let mut all = Tally::default();
        while let Some(tally) = clients.join_next().await {
            let tally = tally.unwrap();
            all.broken += tally.broken;
            for (status, count) in tally.answers {
                *all.answers.entry(status).or_default() += count;
            }
        }
        all
    }
}

/// A way to the broker that can be made to hang.
struct Relay {
    url: String,
    /// Cancelled: carries nothing any more, and keeps every connection.
    hang: CancellationToken,
    _accepting: JoinSet<()>,
}

impl Relay {
    async fn to(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (login, place) = url.rsplit_once('@').unwrap();
        let (broker, vhost) = place.split_once('/').unwrap_or((place, "%2f"));
        let url = format!("{login}@{}/{vhost}", listener.local_addr().unwrap());
        let port = if broker.contains(':') { "" } else { ":5672" };
        let (broker, hang) = (format!("{broker}{port}"), CancellationToken::new());
        let mut accepting = JoinSet::new();
        let hung = hang.clone();
        accepting.spawn(async move {
            let mut carried = JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                let (mut broker, hung) = (TcpStream::connect(&broker).await.unwrap(), hung.clone());
                carried.spawn(async move {
                    tokio::select! {
                        _ = copy_bidirectional(&mut client, &mut broker) => {}
                        () = hung.cancelled() => pending().await,
                    }
                });
            }
        });
        Self {
            url,
            hang,
            _accepting: accepting,
        }
    }
}
