//! `warren audit`: books that balance, books that do not, and books that cannot be judged.

use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};
use warren_e2e::bed::{Bed, on_shared_servers};
use warren_e2e::command::{Call, Ended, ended, interrupt, until_said};
use warren_e2e::http::Client;
use warren_e2e::process::Service;
use warren_e2e::request::Request;
use warren_e2e::sqlite::DataFolder;

const SOON: Duration = Duration::from_secs(60);

/// What `warren audit` says when the first counters are read.
const WINDOW_BEGUN: &str = "the window has begun";

/// Posts as many messages of each severity, in one request.
async fn post(intake: &Service, of_each: usize) {
    let lines: String = ["debug", "info", "warning", "error", "critical"]
        .map(|severity| format!("{{\"severity\":\"{severity}\",\"body\":\"x\"}}\n").repeat(of_each))
        .concat();
    let answer = Client::new(intake.address())
        .send(&Request::post(lines))
        .await
        .unwrap();
    assert_eq!(answer.status, 202, "{}", answer.text_start());
}

fn audit(ingest: &Service, worker: &Service, arguments: &[&str]) -> Call {
    let [ingest, worker] = [ingest, worker].map(|service| format!("http://{}", service.address()));
    let programs = ["audit", "--ingest", &ingest, "--worker", &worker, "--json"];
    Call::of("warren", &[&programs, arguments].concat()).unwrap()
}

fn verdict(ended: &Ended) -> Value {
    serde_json::from_str(&ended.output).unwrap_or_else(|error| panic!("{error}: {ended:?}"))
}

/// An intake that makes a packet of each message, and a worker that holds few of them.
async fn begun(bed: &Bed) -> (Service, Service) {
    bed.migrate().await.unwrap();
    let mut worker = bed
        .worker()
        .unwrap()
        .setting("WARREN_AMQP__PREFETCH", "4")
        .setting("WARREN_WORKER__BATCH_DELIVERIES", "1")
        .setting("WARREN_WORKER__BATCHES_IN_FLIGHT", "1");
    worker.start_ready().await.unwrap();
    let mut ingest = bed
        .ingest()
        .unwrap()
        .setting("WARREN_AMQP__PACKET_MAX_MESSAGES", "1");
    ingest.start_ready().await.unwrap();
    (ingest, worker)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_books_of_two_programs_hold_over_a_window_with_a_load() {
    on_shared_servers(async |bed| {
        let (mut ingest, mut worker) = begun(bed).await;
        post(&ingest, 20).await;
        bed.wait_drained().await.unwrap();
        let mut watching = audit(&ingest, &worker, &["--for", "10m", "--until-empty", "60s"])
            .start()
            .unwrap();
        until_said(&mut watching, WINDOW_BEGUN, SOON).await.unwrap();
        for _ in 0..5 {
            post(&ingest, 20).await;
        }
        // The window is over when somebody says so.
        interrupt(&watching).await.unwrap();
        let ended = ended(watching).await.unwrap();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let books = verdict(&ended);
        assert_eq!(books["total"]["accepted"], 500, "{books}");
        assert!(books["total"]["stored"].as_u64() >= Some(500), "{books}");
        assert!(
            books["severities"]["error"]["stored"].as_u64() >= Some(100),
            "{books}"
        );
        worker.stop(SOON).await.unwrap();
        ingest.stop(SOON).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_vanish_from_the_queue_are_missing_by_number() {
    on_shared_servers(async |bed| {
        let (mut ingest, mut worker) = begun(bed).await;
        post(&ingest, 10).await;
        bed.wait_drained().await.unwrap();
        let database = bed.database.connect().await.unwrap();
        let run = async |statement: &str| database.batch_execute(statement).await.unwrap();
        run("begin; lock table messages").await;
        post(&ingest, 20).await;
        let deadline = Instant::now() + SOON;
        while bed.topology.waiting("store").await.unwrap() != 96 {
            assert!(
                Instant::now() < deadline,
                "the worker holds another number of packets"
            );
            sleep(Duration::from_millis(50)).await;
        }
        let purged = bed.topology.purge("store").await.unwrap();
        assert_eq!(purged, 96);
        run("rollback").await;
        let lost = audit(&ingest, &worker, &["--since-start", "--until-empty", "20s"])
            .run()
            .await
            .unwrap();
        assert_eq!(lost.code, Some(1), "{lost:?}");
        let books = verdict(&lost);
        assert_eq!(books["verdict"], "lost", "{books}");
        assert_eq!(books["total"]["missing_at_least"], 96, "{books}");
        worker.stop(SOON).await.unwrap();
        ingest.stop(SOON).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_with_a_restart_in_it_is_not_judged() {
    on_shared_servers(async |bed| {
        let (mut ingest, mut worker) = begun(bed).await;
        let mut watching = audit(&ingest, &worker, &["--for", "10m"]).start().unwrap();
        until_said(&mut watching, WINDOW_BEGUN, SOON).await.unwrap();
        post(&ingest, 2).await;
        worker.kill().await.unwrap();
        worker.start_ready().await.unwrap();
        interrupt(&watching).await.unwrap();
        let restarted = ended(watching).await.unwrap();
        assert_eq!(restarted.code, Some(3), "{restarted:?}");
        assert!(
            restarted.said.contains("restarted") && restarted.said.contains(&worker.address().to_string()),
            "{restarted:?}"
        );
        worker.stop(SOON).await.unwrap();
        let away = audit(&ingest, &worker, &["--since-start"]).run().await.unwrap();
        assert_eq!(away.code, Some(3), "{away:?}");
        ingest.stop(SOON).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_books_of_one_process_hold_and_it_is_found_by_its_settings() {
    let data = DataFolder::create().unwrap();
    let mut server = data.warren().unwrap();
    server.start_ready().await.unwrap();
    post(&server, 50).await;
    let audit = |arguments: &[&str]| {
        let audit = ["audit", "--since-start", "--until-empty", "20s"];
        Call::of("warren", &[&audit, arguments].concat())
            .unwrap()
            .setting("WARREN_HTTP__LISTEN", server.address().to_string())
    };
    let held = audit(&[]).run().await.unwrap();
    assert_eq!(held.code, Some(0), "{held:?}");
    assert!(
        held.output.contains("holds: everything accepted"),
        "{}",
        held.output
    );
    // The same records once more are other messages; the same ids are not.
    let id = "0190a000-0000-7000-8000-000000000001";
    for _ in 0..3 {
        let record = format!("{{\"id\":\"{id}\",\"body\":\"x\"}}");
        let answer = Client::new(server.address())
            .send(&Request::post(record))
            .await
            .unwrap();
        assert_eq!(answer.status, 202, "{}", answer.text_start());
    }
    let to = format!("http://{}", server.address());
    let held = audit(&["--json", "--to", &to]).run().await.unwrap();
    let books = verdict(&held);
    assert_eq!(
        (&books["verdict"], held.code),
        (&Value::from("holds"), Some(0)),
        "{books}"
    );
    assert_eq!(books["total"]["duplicate"], 2, "{books}");
    server.stop(SOON).await.unwrap();
}
