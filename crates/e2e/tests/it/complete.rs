//! A hundred thousand messages in every form, each stored once and as it was sent.

use std::sync::Arc;

use time::OffsetDateTime;
use warren_e2e::bed::{balanced_books, on_shared_servers};
use warren_e2e::load::Load;
use warren_e2e::metrics::Books;
use warren_e2e::process::Service;
use warren_e2e::request::Planner;
use warren_e2e::sqlite::DataFolder;
use warren_e2e::{Generator, Ledger};

use crate::alone;

const MESSAGES: u64 = 100_000;

/// Sends everything twice with the same ids; returns after both times are stored.
async fn send_twice(intake: &Service, store: &Service) -> Arc<Ledger> {
    let generator = Generator::new(1, OffsetDateTime::now_utc());
    let ledger = Arc::new(Ledger::new(generator));
    let load = Load::new(intake.address());
    for time in 1..=2 {
        load.run(&ledger, Planner::new(generator, MESSAGES))
            .await
            .unwrap();
        let books = balanced_books(intake, store).await.unwrap();
        let sent = MESSAGES * time;
        assert_eq!(
            books,
            Books {
                accepted: sent,
                stored: MESSAGES,
                duplicate: sent - MESSAGES,
                dead: 0
            }
        );
    }
    let tally = ledger.tally();
    assert_eq!((tally.accepted, tally.broken), (MESSAGES, 0));
    assert_eq!(
        tally.answers.keys().copied().collect::<Vec<_>>(),
        [202],
        "{tally:?}"
    );
    ledger
}

#[tokio::test(flavor = "multi_thread")]
async fn every_message_is_in_postgresql_once_as_it_was_sent_however_often_it_is_sent() {
    let _alone = alone().await;
    on_shared_servers(async |bed| {
        bed.migrate().await.unwrap();
        let (mut ingest, mut worker) = (bed.ingest().unwrap(), bed.worker().unwrap());
        ingest.start_ready().await.unwrap();
        worker.start_ready().await.unwrap();
        let ledger = send_twice(&ingest, &worker).await;
        let report = bed.settle(&ledger, &mut ingest, &mut worker).await.unwrap();
        report.assert_clean();
        assert_eq!((report.sent, report.stored), (MESSAGES, MESSAGES));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_message_is_in_sqlite_once_as_it_was_sent_however_often_it_is_sent() {
    let _alone = alone().await;
    let folder = DataFolder::create().unwrap();
    let mut warren = folder.warren().unwrap();
    warren.start_ready().await.unwrap();
    let ledger = send_twice(&warren, &warren).await;
    let report = folder.settle(&ledger, &mut warren).await.unwrap();
    report.assert_clean();
    assert_eq!((report.sent, report.stored), (MESSAGES, MESSAGES));
}
