//! SIGTERM under load: in order, in time, and nothing answered with 202 is missing.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use warren_e2e::bed::on_shared_servers;
use warren_e2e::load::Load;
use warren_e2e::process::Service;
use warren_e2e::request::Planner;
use warren_e2e::sqlite::DataFolder;
use warren_e2e::{Generator, Ledger};

use crate::alone;

/// The programs' own drain deadline, 10 s for each of two stages, and some more for a slow machine.
const DRAIN: Duration = Duration::from_secs(30);

/// Puts a load on, stops the intake in the middle of it, and returns what clients know then.
async fn stop_under_load(seed: u64, intake: &mut Service) -> Arc<Ledger> {
    let generator = Generator::new(seed, OffsetDateTime::now_utc()).with_largest_body(8 << 10);
    let ledger = Arc::new(Ledger::new(generator));
    // Clients that never repeat: what is unknown stays unknown, and may be stored or not.
    let load = Load {
        patience: Duration::ZERO,
        ..Load::new(intake.address())
    };
    let (stop, book) = (load.stop.clone(), Arc::clone(&ledger));
    let plans = Planner::new(generator, 1 << 32).with_most_messages(50);
    let running = tokio::spawn(async move { load.run(&book, plans).await });
    ledger
        .wait_until("a load", DRAIN, |tally| tally.accepted >= 2_000)
        .await
        .unwrap();
    intake.stop(DRAIN).await.unwrap();
    stop.cancel();
    running.await.unwrap().unwrap();
    ledger
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intake_that_is_told_to_stop_keeps_every_promise_it_made() {
    let _alone = alone().await;
    on_shared_servers(async |bed| {
        bed.migrate().await.unwrap();
        let (mut ingest, mut worker) = (bed.ingest().unwrap(), bed.worker().unwrap());
        ingest.start_ready().await.unwrap();
        worker.start_ready().await.unwrap();
        let ledger = stop_under_load(31, &mut ingest).await;
        ingest.start_ready().await.unwrap();
        bed.settle(&ledger, &mut ingest, &mut worker)
            .await
            .unwrap()
            .assert_clean();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_told_to_stop_finishes_or_gives_back_what_it_holds() {
    let _alone = alone().await;
    on_shared_servers(async |bed| {
        bed.migrate().await.unwrap();
        let (mut ingest, mut worker) = (bed.ingest().unwrap(), bed.worker().unwrap());
        ingest.start_ready().await.unwrap();
        worker.start_ready().await.unwrap();
        let generator = Generator::new(32, OffsetDateTime::now_utc()).with_largest_body(8 << 10);
        let ledger = Arc::new(Ledger::new(generator));
        let (load, book) = (Load::new(ingest.address()), Arc::clone(&ledger));
        let plans = Planner::new(generator, 12_000).with_most_messages(50);
        let running = tokio::spawn(async move { load.run(&book, plans).await });
        for accepted in [3_000, 6_000, 9_000] {
            ledger
                .wait_until("a load", DRAIN * 4, |tally| tally.accepted >= accepted)
                .await
                .unwrap();
            worker.stop(DRAIN).await.unwrap();
            worker.start().await.unwrap();
        }
        running.await.unwrap().unwrap();
        bed.settle(&ledger, &mut ingest, &mut worker)
            .await
            .unwrap()
            .assert_clean();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_embedded_process_that_is_told_to_stop_keeps_every_promise_it_made() {
    let _alone = alone().await;
    let folder = DataFolder::create().unwrap();
    let mut warren = folder.warren().unwrap();
    warren.start_ready().await.unwrap();
    let ledger = stop_under_load(33, &mut warren).await;
    warren.start_ready().await.unwrap();
    folder.settle(&ledger, &mut warren).await.unwrap().assert_clean();
}
