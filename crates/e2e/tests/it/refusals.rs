//! A database that suddenly refuses every row: nothing becomes a dead letter, and everything is stored once it takes them.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use warren_e2e::bed::on_shared_servers;
use warren_e2e::http::Client;
use warren_e2e::metrics::Metrics;
use warren_e2e::process::Service;
use warren_e2e::request::Request;

const SOON: Duration = Duration::from_secs(60);

/// Waits until the worker says that rows are refused, and by which constraint.
async fn until_refusing(worker: &mut Service) {
    let deadline = Instant::now() + SOON;
    loop {
        let told = worker.wait_for("/readyz", 503, SOON).await.unwrap();
        let told = told.text_start();
        if told.contains("suddenly refuses") {
            assert!(told.contains("constraint nothing"), "{told}");
            return;
        }
        assert!(Instant::now() < deadline, "{told}");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_constraint_that_refuses_everything_stops_the_worker_and_makes_no_dead_letters() {
    on_shared_servers(async |bed| {
        bed.migrate().await.unwrap();
        let (mut ingest, mut worker) = (bed.ingest().unwrap(), bed.worker().unwrap());
        ingest.start_ready().await.unwrap();
        worker.start_ready().await.unwrap();
        let mut client = Client::new(ingest.address());
        let mut post = async |count: usize, body: &str| {
            let lines = format!("{{\"body\":\"{body}\"}}\n").repeat(count);
            let answer = client.send(&Request::post(lines)).await.unwrap();
            assert_eq!(answer.status, 202, "{}", answer.text_start());
        };
        post(200, "before").await;
        bed.wait_drained().await.unwrap();
        let database = bed.database.connect().await.unwrap();
        let run = async |statement: &str| database.batch_execute(statement).await.unwrap();
        run("alter table messages add constraint nothing check (body = 'before') not valid").await;
        post(2_000, "after").await;
        until_refusing(&mut worker).await;
        let metrics = Metrics::scrape(worker.address()).await.unwrap();
        assert_eq!(metrics.value("warren_store_breaker_open"), Some(1.0));
        // A worker that is started anew begins to look again, and comes to the same end.
        worker.stop(SOON).await.unwrap();
        worker.start().await.unwrap();
        until_refusing(&mut worker).await;
        assert_eq!(bed.topology.waiting("dead").await.unwrap(), 0);
        run("alter table messages drop constraint nothing").await;
        worker.wait_for("/readyz", 200, SOON).await.unwrap();
        bed.wait_drained().await.unwrap();
        let metrics = Metrics::scrape(worker.address()).await.unwrap();
        assert_eq!(metrics.value("warren_store_breaker_open"), Some(0.0));
        worker.stop(SOON).await.unwrap();
        bed.nothing_waits().await.unwrap();
        assert_eq!(bed.database.count().await.unwrap(), 2_200);
        ingest.stop(SOON).await.unwrap();
    })
    .await;
}
