//! What the planted bugs of the loop do, so that nobody takes one for planted that is not.

use warren_adapter_conformance::samples::messages;
use warren_adapter_conformance::scripted::{ScriptedStore, Settled};
use warren_planted::{Bug, plant};

use crate::store_loop::{acknowledged, quick, run, unavailable};

#[tokio::test]
async fn planted_ack_before_commit_acknowledges_what_is_not_stored() {
    let _planted = plant(Bug::AckBeforeCommit);
    let store = ScriptedStore::new((0..1_000_000).map(|_| unavailable()));
    let mut running = run(store.clone(), quick());
    running.queue.feed(messages(3)).await;
    assert_eq!(acknowledged(&running.queue.until_settled(1).await), 1);
    assert_eq!(store.rows(), []);
    running.stopped().await;
}

#[tokio::test]
async fn planted_batch_error_drops_batch_acknowledges_what_is_not_stored() {
    let _planted = plant(Bug::BatchErrorDropsBatch);
    let store = ScriptedStore::new([unavailable()]);
    let mut running = run(store.clone(), quick());
    running.queue.feed(messages(3)).await;
    assert_eq!(acknowledged(&running.queue.until_settled(1).await), 1);
    assert_eq!(store.rows(), []);
    running.stopped().await;
}

#[tokio::test]
async fn planted_requeue_on_database_error_gives_back_at_the_first_failure_and_goes_on() {
    let _planted = plant(Bug::RequeueOnDatabaseError);
    let store = ScriptedStore::new([unavailable(), unavailable()]);
    let mut running = run(store, quick());
    for _ in 0..3 {
        running.queue.feed(messages(1)).await;
    }
    let settled = running.queue.until_settled(3).await;
    assert!(
        settled.iter().any(|(_, outcome)| *outcome == Settled::GivenBack),
        "{settled:?}"
    );
    running.stopped().await;
}
