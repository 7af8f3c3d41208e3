//! A request with an `Idempotency-Key` counts once: to whichever instance it comes, in whatever form, also at once.

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use warren_e2e::bed::on_shared_servers;
use warren_e2e::counting::{Line, last_line, start_consuming, wait_for_line};
use warren_e2e::http::{Answer, Client};
use warren_e2e::metrics::Metrics;
use warren_e2e::process::Service;
use warren_e2e::request::Request;
use warren_e2e::sqlite::DataFolder;

use crate::alone;

const SOON: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(120);
const RECORDS: u64 = 1_000;
const ROUNDS: usize = 20;
/// With bytes beyond ASCII, quotes and spaces: a key is any bytes that a header may hold.
const KEY: &str = "order \"4711\" – ünïcode";
const CONFLICTS: &str = "warren_store_idempotency_conflicts_total";
const REPEATS: &str = "warren_store_idempotency_repeats_total";

/// Makes the records of the request; fifty of them are equal to each other.
fn records(first: u64, count: u64) -> Vec<Value> {
    let severities = ["debug", "info", "warning", "error", "critical"];
    (first..first + count)
        .map(|number| match number % 20 {
            0 => json!({"body": "one of many equal ones", "source": "shop.web"}),
            _ => json!({
                "body": format!("order {number}"), "severity": severities[number as usize % 5],
                "attributes": {"number": number, "nested": {"b": [1.5, null], "a": "x"}},
            }),
        })
        .collect()
}

fn keyed(body: impl Into<Vec<u8>>) -> Request {
    let mut request = Request::post(body.into()).header("idempotency-key", KEY);
    request.target.push_str("?ids=true");
    request
}

fn array(records: &[Value]) -> Request {
    keyed(serde_json::to_vec(records).unwrap())
}

fn lines(records: &[Value]) -> Request {
    let lines: String = records.iter().map(|record| format!("{record}\n")).collect();
    keyed(lines).header("content-type", "application/x-ndjson")
}

fn gzip(request: Request) -> Request {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&request.body).unwrap();
    Request {
        body: encoder.finish().unwrap().into(),
        ..request
    }
    .header("content-encoding", "gzip")
}

/// Returns the same request in one of five forms; the last of them is two requests, a half each.
fn form(number: usize) -> Vec<Request> {
    let mut all = records(0, RECORDS);
    match number % 5 {
        0 => vec![array(&all)],
        1 => vec![lines(&all)],
        2 => vec![gzip(array(&all))],
        3 => {
            all.reverse();
            vec![lines(&all)]
        }
        _ => {
            let (one, other) = all.split_at(500);
            vec![array(one), gzip(lines(other))]
        }
    }
}

/// Sends requests until each is answered with 202; returns the last answer, and how often no answer came.
async fn insist(address: SocketAddr, requests: Vec<Request>) -> (Answer, u32) {
    let deadline = Instant::now() + PATIENCE;
    let mut client = Client::new(address);
    let (mut last, mut broken) = (None, 0);
    for request in requests {
        last = loop {
            match client.send(&request).await {
                Ok(answer) if answer.status == 202 => break Some(answer),
                Ok(answer) => assert_eq!(answer.status, 503, "{}", answer.text_start()),
                Err(_) => broken += 1,
            }
            assert!(Instant::now() < deadline, "not answered with 202 in time");
            sleep(Duration::from_millis(50)).await;
        };
    }
    (last.unwrap(), broken)
}

/// Sends the request to two addresses at the same moment, again and again, and kills one program in the middle: until
/// a kill has broken an exchange, and `ROUNDS` times at least.
async fn storm(victim: &mut Service, other: SocketAddr) {
    let deadline = Instant::now() + PATIENCE;
    let (mut broken, mut round) = (0, 0);
    while round < ROUNDS || broken == 0 {
        assert!(
            Instant::now() < deadline,
            "no request was under way whenever the intake was killed"
        );
        let one = tokio::spawn(insist(victim.address(), form(round)));
        let two = tokio::spawn(insist(other, form(round + 1)));
        if round % 6 == 5 {
            // Requests are somewhere on their way: read, published or about to be answered. How far they are then
            // depends on the machine, so the wait is another one each time.
            sleep(Duration::from_millis(fastrand::u64(0..100))).await;
            victim.kill().await.unwrap();
            victim.start().await.unwrap();
        }
        for sending in [one, two] {
            broken += sending.await.unwrap().1;
        }
        round += 1;
    }
}

/// Asks a store for its metrics until one of them has a value.
async fn until(store: &Service, metric: &str, value: u64) -> Metrics {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let metrics = Metrics::scrape(store.address()).await.unwrap();
        if metrics.sum(metric) >= value {
            return metrics;
        }
        let now = metrics.sum(metric);
        assert!(Instant::now() < deadline, "{metric} is {now} and not {value}");
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keyed_request_to_two_instances_at_once_is_stored_and_counted_once() {
    let _alone = alone().await;
    on_shared_servers(async |bed| {
        bed.migrate().await.unwrap();
        let books = tempfile::tempdir().unwrap();
        let (mut victim, mut ingest) = (bed.ingest().unwrap(), bed.ingest().unwrap());
        let (mut worker, mut second_worker) = (bed.worker().unwrap(), bed.worker().unwrap());
        let mut consumer = bed.consumer(books.path(), "--group all").unwrap();
        for service in [&mut victim, &mut ingest, &mut worker, &mut second_worker] {
            service.start_ready().await.unwrap();
        }
        start_consuming(&mut consumer).await.unwrap();

        storm(&mut victim, ingest.address()).await;
        bed.wait_drained().await.unwrap();
        second_worker.stop(SOON).await.unwrap();
        let counted = |line: &Line| line.total() == RECORDS && line.duplicates() >= 38 * RECORDS;
        wait_for_line(&consumer, "a thousand records, each many times", 0, counted)
            .await
            .unwrap();

        // The same instance knows the ids that it gave.
        let told = |answer: &Answer| answer.json().unwrap()["ids"].clone();
        let (first, _) = insist(ingest.address(), form(0)).await;
        let (again, _) = insist(ingest.address(), form(2)).await;
        assert_eq!(told(&first), told(&again));
        assert_eq!(told(&first).as_array().unwrap().len(), 1_000);

        // Other content under the same key is not lost, and shows.
        let mixed = [records(0, 10), records(RECORDS + 1, 10)].concat();
        insist(ingest.address(), vec![lines(&mixed)]).await;
        let metrics = until(&worker, CONFLICTS, 10).await;
        assert_eq!(metrics.sum(CONFLICTS), 10);
        assert!(metrics.sum(REPEATS) > RECORDS);
        assert!(metrics.has_help(CONFLICTS) && metrics.has_help(REPEATS));
        let intake = Metrics::scrape(ingest.address()).await.unwrap();
        assert!(intake.sum("warren_intake_keyed_messages_total") >= 20 * RECORDS);

        wait_for_line(&consumer, "ten more", 0, |line| line.total() == RECORDS + 10)
            .await
            .unwrap();
        for service in [&mut victim, &mut ingest] {
            service.stop(SOON).await.unwrap();
        }
        bed.wait_drained().await.unwrap();
        for service in [&mut worker, &mut consumer] {
            service.stop(SOON).await.unwrap();
        }
        bed.nothing_waits().await.unwrap();
        assert_eq!(bed.topology.take_rest("group.all").await.unwrap(), 0);
        assert_eq!(last_line(&consumer).unwrap().total(), RECORDS + 10);
        assert_eq!(bed.database.count().await.unwrap(), RECORDS + 10);
        let database = bed.database.connect().await.unwrap();
        let equal = "select count(*) from messages where body = 'one of many equal ones'";
        let equal: i64 = database.query_one(equal, &[]).await.unwrap().get(0);
        assert_eq!(equal, 50, "equal records of one request are fifty records");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keyed_request_to_the_embedded_process_is_stored_and_counted_once() {
    let _alone = alone().await;
    let folder = DataFolder::create().unwrap();
    let mut warren = folder.warren().unwrap();
    warren.start_ready().await.unwrap();
    let address = warren.address();
    storm(&mut warren, address).await;
    let mixed = [records(0, 10), records(RECORDS + 1, 10)].concat();
    insist(warren.address(), vec![lines(&mixed)]).await;
    let metrics = until(&warren, CONFLICTS, 10).await;
    assert_eq!(metrics.sum(CONFLICTS), 10);

    let deadline = Instant::now() + PATIENCE;
    let counted = loop {
        let groups = Client::new(warren.address())
            .send(&Request::get("/v1/groups"))
            .await
            .unwrap()
            .json()
            .unwrap();
        let all = groups["groups"].as_array().unwrap().clone();
        let all = all.into_iter().find(|group| group["group"] == "all").unwrap();
        if all["lag"]["messages"] == 0 && all["total"] == RECORDS + 10 {
            break all;
        }
        assert!(Instant::now() < deadline, "{all}");
        sleep(Duration::from_millis(100)).await;
    };
    assert!(counted["duplicates"].as_u64() >= Some(38 * RECORDS), "{counted}");
    warren.stop(SOON).await.unwrap();
    assert_eq!(folder.count().await.unwrap(), RECORDS + 10);
}
