//! The benchmark runs and says what it should; its figures mean nothing here.

use std::time::Duration;

use serde_json::Value;
use warren_e2e::environment;
use warren_e2e::process::Service;

use crate::alone;

#[tokio::test(flavor = "multi_thread")]
async fn the_benchmark_prints_every_row_and_every_goal() {
    let _alone = alone().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bench.json");
    let mut bench = Service::new("bench")
        .unwrap()
        .argument("--json")
        .argument(file.to_str().unwrap())
        .argument("smoke")
        .setting("WARREN_TEST_AMQP_URL", environment::amqp_url())
        .setting("WARREN_TEST_POSTGRES_URL", environment::postgres_url());
    bench.spawn().unwrap();
    let status = bench.wait(Duration::from_secs(240)).await.unwrap();
    let said = bench.log().unwrap();
    assert!(status.success(), "{status}: {said}");
    for text in [
        "requests of 1,",
        "NDJSON requests of 100",
        "NDJSON requests of 1,000",
        "one worker, full queue",
        "HTTP to SQLite, one process",
        "AMQP confirmed, window 128",
        "binary COPY",
        "Goals",
    ] {
        assert!(said.contains(text), "no {text:?} in: {said}");
    }
    let report: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    assert!(
        report["repetitions"]["singles"][0]["accepted_per_second"].as_f64() > Some(0.0),
        "{report}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn finding_a_message_among_many_is_measured_question_by_question() {
    let _alone = alone().await;
    let arguments = ["finding", "--messages", "20000", "--asked", "2"];
    let bench = Service::new("bench").unwrap();
    let mut bench = arguments
        .iter()
        .fold(bench, |bench, argument| bench.argument(argument));
    bench.spawn().unwrap();
    let status = bench.wait(Duration::from_secs(240)).await.unwrap();
    let said = bench.log().unwrap();
    assert!(status.success(), "{status}: {said}");
    for text in [
        "20,000 messages over 4 days",
        "the newest 100 of a severity",
        "a rare word among all",
        "one request among all, by its attribute",
        "one message by its id",
        "Goals",
    ] {
        assert!(said.contains(text), "no {text:?} in: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_benchmark_of_reading_asks_all_questions_and_compares_all_rates() {
    let _alone = alone().await;
    let mut bench = Service::new("bench")
        .unwrap()
        .setting("WARREN_TEST_AMQP_URL", environment::amqp_url());
    for argument in "reading --messages 10000 --days 2 --asked 1 --pairs 1 --load-seconds 0.3".split(' ') {
        bench = bench.argument(argument);
    }
    bench.spawn().unwrap();
    let status = bench.wait(Duration::from_secs(300)).await.unwrap();
    let said = bench.log().unwrap();
    assert!(status.success(), "{status}: {said}");
    for text in [
        "10,000 messages over 2 days",
        "index on id",
        "the newest 100 of a severity",
        "an absent word, without filters",
        "into the smaller and the larger table",
        "alone and while filters are made",
        "alone and beside 10 consoles, 20,000 a second",
        "alone and beside 10 consoles, at full speed",
        "alone and beside 100 live tails, 20,000 a second",
        "alone and beside 100 live tails, at full speed",
        "Processor seconds a million messages",
        "storing beside 10 consoles : alone, 20,000 a second",
        "storing beside 100 live tails : alone, at full speed",
    ] {
        assert!(said.contains(text), "no {text:?} in: {said}");
    }
}
