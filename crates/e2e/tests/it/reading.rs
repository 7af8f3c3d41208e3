//! What was sent is found again over HTTP, by the search text and page by page: in one process, and beside RabbitMQ.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::process::Child;
use tokio::time::{Instant, sleep};
use warren_e2e::bed::on_shared_servers;
use warren_e2e::http::{Answer, Client};
use warren_e2e::request::Request;
use warren_e2e::sqlite::DataFolder;

use crate::python::{python, start};

const PATIENCE: Duration = Duration::from_secs(60);
const MESSAGES: usize = 300;

async fn get(client: &mut Client, target: &str) -> Answer {
    client.send(&Request::get(target)).await.unwrap()
}

async fn json(client: &mut Client, target: &str) -> Value {
    let answer = get(client, target).await;
    assert_eq!(answer.status, 200, "{target}: {}", answer.text_start());
    answer.json().unwrap()
}

/// Turns every page; returns the bodies.
async fn all(client: &mut Client, query: &str) -> Vec<String> {
    let (mut bodies, mut after) = (Vec::new(), String::new());
    loop {
        let page = json(client, &format!("/v1/messages?limit=40&{query}{after}")).await;
        let messages = page["messages"].as_array().unwrap();
        assert!(messages.len() <= 40, "{query}");
        bodies.extend(
            messages
                .iter()
                .map(|message| message["body"].as_str().unwrap().to_owned()),
        );
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return bodies,
        }
    }
}

fn total(counts: &Value) -> u64 {
    let counts = counts.as_object().unwrap().values();
    counts.map(|count| count.as_u64().unwrap()).sum()
}

fn body(n: usize) -> String {
    format!("message {n} DECLINED 100%")
}

/// The bodies of the errors, the newest first.
fn errors() -> Vec<String> {
    (0..MESSAGES).skip(1).step_by(3).rev().map(body).collect()
}

async fn send(intake: SocketAddr) {
    let lines: String = (0..MESSAGES)
        .map(|n| {
            let (severity, source) = [
                ("info", "shop.web"),
                ("error", "billing.api"),
                ("debug", "sensor-7"),
            ][n % 3];
            format!(
                "{{\"severity\":\"{severity}\",\"source\":\"{source}\",\"body\":\"{}\",\
                 \"attributes\":{{\"order\":{n}}}}}\n",
                body(n)
            )
        })
        .collect();
    let request = Request::post(lines).header("content-type", "application/x-ndjson");
    assert_eq!(Client::new(intake).send(&request).await.unwrap().status, 202);
}

/// Waits until so many messages are stored.
pub(crate) async fn all_stored(messages: u64, mut stored: impl AsyncFnMut() -> u64) {
    let deadline = Instant::now() + PATIENCE;
    while stored().await < messages {
        assert!(Instant::now() < deadline, "all of them are stored");
        sleep(Duration::from_millis(50)).await;
    }
}

async fn they_are_found(client: &mut Client) {
    let oldest: Vec<_> = (0..MESSAGES).map(body).collect();
    assert_eq!(all(client, "order=oldest&q=declined+%22100%25%22").await, oldest);
    assert_eq!(
        all(client, "severity=error+&from=-1h&source=billing.%23").await,
        errors()
    );
    assert_eq!(all(client, "q=order=42").await, [body(42)]);
    assert_eq!(all(client, "q=refunded").await, Vec::<String>::new());

    let found = json(client, "/v1/messages?q=order=42").await;
    let id = found["messages"][0]["id"].as_str().unwrap().to_owned();
    let shown = json(client, &format!("/v1/messages/{id}?neighbours=3")).await;
    let orders = |side: &str| -> Vec<u64> {
        let side = shown[side].as_array().unwrap().iter();
        side.map(|message| message["attributes"]["order"].as_u64().unwrap())
            .collect()
    };
    assert_eq!(
        (orders("newer"), orders("older")),
        (vec![43, 44, 45], vec![41, 40, 39])
    );
    let faulty = get(client, "/v1/messages?q=declined+severity:loud").await;
    assert_eq!(
        (faulty.status, faulty.json().unwrap()["parameter"].as_str()),
        (400, Some("q"))
    );
}

async fn they_are_counted(client: &mut Client) {
    let counts = json(client, "/v1/counts?from=-1d&bucket=1h").await;
    let buckets = counts["buckets"].as_array().unwrap();
    assert_eq!(
        buckets.iter().map(|bucket| total(&bucket["counts"])).sum::<u64>(),
        MESSAGES as u64
    );
    let listed = json(client, "/v1/sources?from=-1h").await;
    let sources = listed["sources"].as_array().unwrap();
    let sources: Vec<_> = sources
        .iter()
        .map(|one| (&one["source"], total(&one["counts"])))
        .collect();
    assert_eq!(sources.len(), 3);
    assert!(
        sources.iter().all(|(_, count)| *count == MESSAGES as u64 / 3),
        "{sources:?}"
    );
}

async fn the_console_is_there(client: &mut Client) {
    let page = Request::get("/").header("accept", "text/html");
    let page = client.send(&page).await.unwrap();
    assert!(
        page.text_start().starts_with("<!doctype html>"),
        "{}",
        page.text_start()
    );
    for file in ["/console/app.js", "/openapi.json"] {
        assert_eq!(get(client, file).await.status, 200, "{file}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_is_found_counted_and_shown_and_found_again_after_a_restart() {
    let folder = DataFolder::create().unwrap();
    let mut warren = folder.warren().unwrap();
    warren.start_ready().await.unwrap();
    let mut client = Client::new(warren.address());
    send(warren.address()).await;
    all_stored(MESSAGES as u64, async || folder.count().await.unwrap()).await;
    they_are_found(&mut client).await;
    they_are_counted(&mut client).await;
    the_console_is_there(&mut client).await;

    warren.stop(PATIENCE).await.unwrap();
    warren.start_ready().await.unwrap();
    let mut client = Client::new(warren.address());
    assert_eq!(all(&mut client, "severity=error&q=declined").await, errors());
    warren.stop(PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_through_rabbitmq_is_found_counted_and_shown_by_the_query_api() {
    on_shared_servers(async |bed| {
        let [mut ingest, mut worker, mut query] = bed.start_all().await.unwrap();
        let mut client = Client::new(query.address());
        send(ingest.address()).await;
        all_stored(MESSAGES as u64, async || bed.database.count().await.unwrap()).await;
        they_are_found(&mut client).await;
        they_are_counted(&mut client).await;
        the_console_is_there(&mut client).await;
        for service in [&mut query, &mut ingest, &mut worker] {
            service.stop(PATIENCE).await.unwrap();
        }
    })
    .await;
}

/// Locks what every reader of a file of SQLite locks for a moment, in its shared memory: those who read it hang then, as on a
/// disk that does not answer, and do not get to ask whether to go on.
const LOCK: &str = "import fcntl, sys
file = open(sys.argv[1], 'r+b')
fcntl.lockf(file, fcntl.LOCK_EX, 5, 123)
print('locked', flush=True)
sys.stdin.read()";

async fn locked(file: &Path) -> Child {
    let mut locking = python();
    locking.args(["-c", LOCK]).arg(file).stdin(Stdio::piped());
    start(&mut locking, "locked").await.0
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_that_hang_are_answered_all_the_same_and_readiness_tells_of_them_until_they_end() {
    let folder = DataFolder::create().unwrap();
    let warren = folder.warren().unwrap();
    let warren = warren.setting("WARREN_READER__STATEMENT_TIMEOUT", "500ms");
    let mut warren = warren.setting("WARREN_READER__SEARCH_TIME", "500ms");
    warren.start_ready().await.unwrap();
    let address = warren.address();
    let mut client = Client::new(address);
    send(address).await;
    all_stored(MESSAGES as u64, async || folder.count().await.unwrap()).await;
    let found = json(&mut client, "/v1/messages?q=order=42").await;
    let id = found["messages"][0]["id"].as_str().unwrap().to_owned();

    let mut lock = locked(&folder.file("store.db-shm")).await;
    let one = format!("/v1/messages/{id}");
    let asked = ["/v1/messages?q=declined", "/v1/counts", "/v1/sources", &one].repeat(3);
    let deadline = Instant::now() + PATIENCE;
    let (mut said, mut unready) = (Vec::new(), String::new());
    // Those that time out keep the connections, which others wait for in vain.
    for awaited in ["has timed out", " of 2 are stuck", "reads of "] {
        while !said
            .iter()
            .chain([&unready])
            .any(|text: &String| text.contains(awaited))
        {
            assert!(
                Instant::now() < deadline,
                "nothing says {awaited:?}: {said:?} {unready}"
            );
            let asking = asked
                .iter()
                .map(async |target| get(&mut Client::new(address), target).await);
            for answer in join_all(asking).await {
                assert_eq!(answer.status, 503, "{}", answer.text_start());
                said.push(answer.json().unwrap()["detail"].as_str().unwrap().to_owned());
            }
            let ready = get(&mut client, "/readyz").await;
            assert_eq!(ready.status, 503, "{}", ready.text_start());
            unready = String::from_utf8_lossy(&ready.body).into_owned();
        }
    }

    lock.kill().await.unwrap();
    while get(&mut client, "/readyz").await.status != 200 {
        assert!(Instant::now() < deadline + PATIENCE, "it never gets ready again");
        sleep(Duration::from_millis(50)).await;
    }
    they_are_found(&mut client).await;
    warren.stop(PATIENCE).await.unwrap();
}

/// How many statements of readers PostgreSQL is at.
const BUSY: &str = "select count(*) from pg_stat_activity \
    where datname = current_database() and application_name = 'warren reader' and state = 'active'";

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_ends_its_search_in_postgresql() {
    on_shared_servers(async |bed| {
        bed.migrate().await.unwrap();
        // Longer than the test waits: only a hang-up ends the statement.
        let mut query = bed
            .query()
            .unwrap()
            .setting("WARREN_READER__SEARCH_TIME", "8m")
            .setting("WARREN_READER__STATEMENT_TIMEOUT", "8m")
            .setting("WARREN_POSTGRES__STATEMENT_TIMEOUT", "8m")
            .setting("WARREN_POSTGRES__LOCK_TIMEOUT", "4m");
        query.start_ready().await.unwrap();
        let (locking, looking) = (
            bed.database.connect().await.unwrap(),
            bed.database.connect().await.unwrap(),
        );
        let lock = "begin; lock table messages, message_counts_minutes in access exclusive mode";
        locking.batch_execute(lock).await.unwrap();
        let busy = async |expected: i64| {
            let deadline = Instant::now() + PATIENCE;
            while looking.query_one(BUSY, &[]).await.unwrap().get::<_, i64>(0) != expected {
                assert!(
                    Instant::now() < deadline,
                    "PostgreSQL is never at {expected} statements"
                );
                sleep(Duration::from_millis(50)).await;
            }
        };
        for target in ["/v1/messages?q=declined", "/v1/counts"] {
            let mut client = TcpStream::connect(query.address()).await.unwrap();
            let request = format!("GET {target} HTTP/1.1\r\nhost: {}\r\n\r\n", query.address());
            client.write_all(request.as_bytes()).await.unwrap();
            busy(1).await;
            drop(client);
            busy(0).await;
        }
        locking.batch_execute("rollback").await.unwrap();
        query.stop(PATIENCE).await.unwrap();
    })
    .await;
}
