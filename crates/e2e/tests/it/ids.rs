//! Messages without ids: the program makes one for each, and no two of them are the same.

use std::collections::HashMap;
use std::time::Duration;

use tokio::task::JoinSet;
use uuid::Uuid;
use warren_e2e::StoredRow;
use warren_e2e::bed::{balanced_books, on_shared_servers};
use warren_e2e::http::Client;
use warren_e2e::metrics::Books;
use warren_e2e::process::Service;
use warren_e2e::request::Request;
use warren_e2e::sqlite::DataFolder;

use crate::alone;

const MESSAGES: usize = 20_000;
const CLIENTS: usize = 16;

/// How many messages one request has after another: single ones contend for the clock, many share one reading of it.
const SIZES: [usize; 6] = [1, 1, 1, 1, 1, 20];

/// Sends messages with bodies of their own; returns each body by the id that the answer told, once all are stored.
async fn send(intake: &Service, store: &Service) -> HashMap<Uuid, String> {
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let mut client = Client::new(intake.address());
        clients.spawn(async move {
            let bodies: Vec<_> = (number..MESSAGES)
                .step_by(CLIENTS)
                .map(|number| number.to_string())
                .collect();
            let (mut rest, mut told) = (&bodies[..], Vec::new());
            for size in SIZES.into_iter().cycle() {
                let (some, behind) = rest.split_at(size.min(rest.len()));
                if some.is_empty() {
                    break;
                }
                told.extend(ids(&mut client, some).await.into_iter().zip(some.to_vec()));
                rest = behind;
            }
            told
        });
    }
    let mut all = HashMap::new();
    while let Some(told) = clients.join_next().await {
        for (id, body) in told.unwrap() {
            assert_eq!(id.get_version_num(), 7, "{id}");
            let other = all.insert(id, body);
            assert_eq!(other, None, "{id} was told twice");
        }
    }
    let books = balanced_books(intake, store).await.unwrap();
    let each = MESSAGES as u64;
    let expected = Books {
        accepted: each,
        stored: each,
        duplicate: 0,
        dead: 0,
    };
    assert_eq!(books, expected);
    all
}

/// Sends one request and returns the ids that its answer tells.
async fn ids(client: &mut Client, bodies: &[String]) -> Vec<Uuid> {
    let lines: String = bodies
        .iter()
        .map(|body| format!("{{\"body\":\"{body}\"}}\n"))
        .collect();
    let mut request = Request::post(lines).header("content-type", "application/x-ndjson");
    request.target = "/v1/messages?ids=true".to_owned();
    let answer = client.send(&request).await.unwrap();
    assert_eq!(answer.status, 202, "{}", answer.text_start());
    let receipt = answer.json().unwrap();
    let ids: Vec<_> = receipt["ids"]
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_str().unwrap().parse().unwrap())
        .collect();
    assert_eq!(ids.len(), bodies.len(), "{}", answer.text_start());
    ids
}

fn assert_stored_as_told(rows: &[StoredRow], told: &HashMap<Uuid, String>) {
    assert_eq!(rows.len(), MESSAGES);
    for row in rows {
        assert_eq!(told.get(&row.id), Some(&row.body), "{row:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_without_ids_are_in_postgresql_under_the_ids_that_were_told() {
    let _alone = alone().await;
    on_shared_servers(async |bed| {
        bed.migrate().await.unwrap();
        let (mut ingest, mut worker) = (bed.ingest().unwrap(), bed.worker().unwrap());
        ingest.start_ready().await.unwrap();
        worker.start_ready().await.unwrap();
        let told = send(&ingest, &worker).await;
        ingest.stop(Duration::from_secs(30)).await.unwrap();
        worker.stop(Duration::from_secs(30)).await.unwrap();
        bed.nothing_waits().await.unwrap();
        let mut rows = Vec::new();
        bed.database.each_row(|row| rows.push(row)).await.unwrap();
        assert_stored_as_told(&rows, &told);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_without_ids_are_in_sqlite_under_the_ids_that_were_told() {
    let _alone = alone().await;
    let folder = DataFolder::create().unwrap();
    let mut warren = folder.warren().unwrap();
    warren.start_ready().await.unwrap();
    let told = send(&warren, &warren).await;
    warren.stop(Duration::from_secs(30)).await.unwrap();
    assert_stored_as_told(&folder.read().await.unwrap(), &told);
}
