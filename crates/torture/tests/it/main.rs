//! What a run does not show.
#![allow(missing_docs, clippy::unwrap_used)]

use warren_e2e::environment;
use warren_test_servers::find_strace;
use warren_torture::syscalls::{REQUESTS, every_answer_is_synced, trace};

#[tokio::test(flavor = "multi_thread")]
async fn the_queue_is_synced_before_the_answer_is_written() {
    let strace = match find_strace(|line| eprintln!("{line}")) {
        Ok(strace) => strace,
        Err(why) => return eprintln!("not shown here: {why:#}"),
    };
    let warren = environment::binary("warren").unwrap();
    let trace = trace(&strace, &warren, &[]).await.unwrap();
    let answers = every_answer_is_synced(&trace).unwrap();
    assert_eq!(answers, REQUESTS, "answers in the trace:\n{trace}");
}
