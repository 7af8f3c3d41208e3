//! Memory stays bounded, however much clients push and however little is taken away.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use warren_e2e::bed::on_shared_servers;
use warren_e2e::http::Client;
use warren_e2e::ledger::Tally;
use warren_e2e::process::{Service, peak_memory, raise_open_files};
use warren_e2e::request::Request;

use crate::alone;

const CONNECTIONS: usize = 2_000;
const REQUESTS_EACH: usize = 3;
const MOST_MEMORY: u64 = 256 << 20;

/// Makes a request of 1 MiB: five messages of some 200 KiB.
fn one_mebibyte() -> Request {
    let line = format!(
        "{{\"source\":\"memory\",\"body\":\"{}\"}}\n",
        "x".repeat((1 << 20) / 5 - 32)
    );
    let body = line.repeat(5);
    assert!(
        (1_048_000..=1 << 20).contains(&body.len()),
        "{} bytes",
        body.len()
    );
    Request::post(Bytes::from(body)).header("content-type", "application/x-ndjson")
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_connections_of_a_mebibyte_each_and_no_worker_stay_under_256_mib() {
    let _alone = alone().await;
    raise_open_files(8_192).await.unwrap();
    on_shared_servers(async |bed| {
        // A bound of its own, so that a broker that others use is not filled.
        let mut ingest = bed
            .to_broker(Service::new("ingest-api").unwrap())
            .setting("WARREN_AMQP__STORE_MAX_BYTES", "128MiB")
            .open_files(8_192);
        ingest.start_ready().await.unwrap();
        let tally = push(&ingest).await;
        let peak = peak_memory(ingest.pid().unwrap()).unwrap();
        println!("peak {} MiB; {tally:?}", peak >> 20);
        assert!(peak < MOST_MEMORY, "{} MiB; {tally:?}", peak >> 20);
        assert!(tally.of(202) > 0 && tally.of(503) > 0, "{tally:?}");
        let other: Vec<_> = tally
            .answers
            .keys()
            .filter(|status| ![202, 503].contains(*status))
            .collect();
        assert!(other.is_empty(), "{tally:?}");
        // It lives, and says so at once.
        ingest
            .wait_for("/livez", 200, Duration::from_secs(5))
            .await
            .unwrap();
        ingest.stop(Duration::from_secs(30)).await.unwrap();
    })
    .await;
}

/// Sends from every connection at once, all of them open, and counts what is answered.
async fn push(ingest: &Service) -> Tally {
    let (request, together) = (Arc::new(one_mebibyte()), Arc::new(Barrier::new(CONNECTIONS)));
    let mut clients = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (request, together) = (Arc::clone(&request), Arc::clone(&together));
        let mut client = Client::new(ingest.address()).with_deadline(Duration::from_secs(60));
        clients.spawn(async move {
            // Opened before anyone sends, so that all are open at once.
            let opened = client.send(&Request::get("/livez")).await;
            together.wait().await;
            let mut tally = Tally::default();
            opened.unwrap();
            for _ in 0..REQUESTS_EACH {
                match client.send(&request).await {
                    Ok(answer) => *tally.answers.entry(answer.status).or_default() += 1,
                    // Refused before the whole body was read, and the answer lost with the connection.
                    Err(_) => tally.broken += 1,
                }
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
