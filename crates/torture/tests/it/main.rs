//! What a run does not show.
#![allow(missing_docs, clippy::unwrap_used)]

use warren_e2e::environment;
use warren_test_servers::find_strace;
use warren_torture::syscalls::{REQUESTS, Traced, every_answer_is_synced, trace};

async fn every_answer_of(traced: &Traced) {
    // Without it nothing is shown, and a test that shows nothing does not pass; the message says what to install.
    let strace = find_strace(|line| eprintln!("{line}")).unwrap();
    let trace = trace(&strace, traced, &[]).await.unwrap();
    let answers = every_answer_is_synced(&trace, traced.log).unwrap();
    assert_eq!(answers, REQUESTS, "answers in the trace:\n{trace}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queue_is_synced_before_the_answer_is_written() {
    every_answer_of(&Traced::warren(environment::binary("warren").unwrap())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_spool_is_synced_before_the_answer_is_written() {
    every_answer_of(&Traced::spooling_ingest(
        environment::binary("ingest-api").unwrap(),
    ))
    .await;
}
