//! Crashes in the middle of a load: kill -9, start again, and nothing is missing or twice.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::task::JoinHandle;
use warren_e2e::bed::on_shared_servers;
use warren_e2e::load::Load;
use warren_e2e::metrics::Metrics;
use warren_e2e::process::Service;
use warren_e2e::request::Planner;
use warren_e2e::sqlite::DataFolder;
use warren_e2e::{Generator, Ledger};

use crate::alone;

const MESSAGES: u64 = 30_000;
const CRASHES: u64 = 5;

/// Begins a load that goes on until every message is answered with 202.
fn begin(seed: u64, intake: &Service) -> (Arc<Ledger>, JoinHandle<anyhow::Result<()>>) {
    let generator = Generator::new(seed, OffsetDateTime::now_utc()).with_largest_body(32 << 10);
    let ledger = Arc::new(Ledger::new(generator));
    let (load, book) = (Load::new(intake.address()), Arc::clone(&ledger));
    let plans = Planner::new(generator, MESSAGES).with_most_messages(100);
    (ledger, tokio::spawn(async move { load.run(&book, plans).await }))
}

/// Kills the program again and again, each time after some more messages were accepted, and starts it again.
///
/// Returns how many messages the broker had delivered to it again until each of the kills.
async fn crash(victim: &mut Service, ledger: &Ledger) -> u64 {
    let mut again = 0;
    for crash in 1..=CRASHES {
        let reached = MESSAGES * crash / (CRASHES + 1);
        let within = Duration::from_secs(120);
        ledger
            .wait_until("accepted before the next crash", within, |tally| {
                tally.accepted >= reached
            })
            .await
            .unwrap();
        again += delivered_again(victim).await;
        victim.kill().await.unwrap();
        victim.start().await.unwrap();
    }
    again
}

/// Returns how many messages the broker has delivered to a program that it had delivered before; since its start.
async fn delivered_again(service: &Service) -> u64 {
    let metrics = Metrics::scrape(service.address()).await.unwrap();
    metrics.sum("warren_amqp_redelivered_messages_total")
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_of_the_intake_loses_nothing_and_doubles_nothing() {
    let _alone = alone().await;
    on_shared_servers(async |bed| {
        bed.migrate().await.unwrap();
        let (mut ingest, mut worker) = (bed.ingest().unwrap(), bed.worker().unwrap());
        ingest.start_ready().await.unwrap();
        worker.start_ready().await.unwrap();
        let (ledger, load) = begin(11, &ingest);
        crash(&mut ingest, &ledger).await;
        load.await.unwrap().unwrap();
        assert!(
            ledger.tally().broken > 0,
            "no request was under way when the intake was killed"
        );
        let report = bed.settle(&ledger, &mut ingest, &mut worker).await.unwrap();
        report.assert_clean();
        assert_eq!((report.accepted, report.stored), (MESSAGES, MESSAGES));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_of_the_worker_loses_nothing_and_doubles_nothing() {
    let _alone = alone().await;
    on_shared_servers(async |bed| {
        bed.migrate().await.unwrap();
        let (mut ingest, mut worker) = (bed.ingest().unwrap(), bed.worker().unwrap());
        ingest.start_ready().await.unwrap();
        worker.start_ready().await.unwrap();
        let (ledger, load) = begin(12, &ingest);
        let again = crash(&mut worker, &ledger).await;
        load.await.unwrap().unwrap();
        bed.wait_stored(&ledger).await.unwrap();
        let again = again + delivered_again(&worker).await;
        assert!(again > 0, "no delivery was under way when the worker was killed");
        let report = bed.settle(&ledger, &mut ingest, &mut worker).await.unwrap();
        report.assert_clean();
        assert_eq!((report.accepted, report.stored), (MESSAGES, MESSAGES));
        assert_eq!(
            ledger.tally().broken,
            0,
            "clients noticed that the worker was killed"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_of_the_embedded_process_loses_nothing_and_doubles_nothing() {
    let _alone = alone().await;
    let folder = DataFolder::create().unwrap();
    let mut warren = folder.warren().unwrap();
    warren.start_ready().await.unwrap();
    let (ledger, load) = begin(13, &warren);
    crash(&mut warren, &ledger).await;
    load.await.unwrap().unwrap();
    assert!(
        ledger.tally().broken > 0,
        "no request was under way when the process was killed"
    );
    let report = folder.settle(&ledger, &mut warren).await.unwrap();
    report.assert_clean();
    assert_eq!((report.accepted, report.stored), (MESSAGES, MESSAGES));
}
