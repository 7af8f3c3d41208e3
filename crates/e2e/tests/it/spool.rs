//! The broker goes away, and what clients send meanwhile rests on the disk of the intake until it is back.

use std::time::Duration;

use tempfile::TempDir;
use warren_e2e::bed::on_servers;
use warren_e2e::environment;
use warren_e2e::http::{Answer, Client};
use warren_e2e::metrics::Metrics;
use warren_e2e::process::Service;
use warren_e2e::request::Request;
use warren_test_servers::PrivateRabbit;

use crate::alone;
use crate::restart::{Endless, PATIENCE, Private};

fn with_spool(ingest: Service, folder: &TempDir, max_bytes: &str) -> Service {
    let path = folder.path().join("spool");
    ingest
        .setting("WARREN_SPOOL__PATH", path.to_str().unwrap())
        .setting("WARREN_SPOOL__MAX_BYTES", max_bytes)
        // A killed intake comes back in a second; its port should be served again by then.
        .setting("WARREN_HTTP__DRAIN_DELAY", "0s")
}

async fn post(service: &Service, body: String) -> Answer {
    let mut client = Client::new(service.address()).with_deadline(PATIENCE);
    client.send(&Request::post(body)).await.unwrap()
}

/// Waits until the numbers of `service` are as `wanted`; a process that does not answer yet is asked again.
async fn until(service: &Service, wanted: impl Fn(&Metrics) -> bool) -> Metrics {
    let asking = async {
        loop {
            match Metrics::scrape(service.address()).await {
                Ok(metrics) if wanted(&metrics) => return metrics,
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap()
}

/// How often a start of `service` found something in the spool.
fn starts_with_a_backlog(service: &Service) -> usize {
    let log = service.log().unwrap();
    log.matches("the spool of an earlier run holds messages").count()
}

fn spooled(metrics: &Metrics) -> u64 {
    metrics.sum("warren_spool_spooled_messages_total")
}

fn drained(metrics: &Metrics) -> u64 {
    metrics.sum("warren_spool_drained_messages_total")
}

/// Nothing waits, nothing is held, and new messages go straight.
fn is_empty(metrics: &Metrics) -> bool {
    let none = |name| metrics.value(name) == Some(0.0);
    none("warren_spool_messages") && none("warren_spool_active")
}

#[tokio::test(flavor = "multi_thread")]
async fn while_rabbitmq_is_away_the_spool_takes_messages_and_kill_9_loses_and_doubles_none_of_them() {
    let _alone = alone().await;
    let rabbit = Private::start(PrivateRabbit::start).await;
    let url = rabbit.act(|rabbit| rabbit.url()).await;
    let folder = TempDir::new().unwrap();
    on_servers(&url, &environment::postgres_url(), async |bed| {
        bed.migrate().await.unwrap();
        let mut ingest = with_spool(bed.ingest().unwrap(), &folder, "256MiB");
        let mut worker = bed.worker().unwrap();
        ingest.start_ready().await.unwrap();
        worker.start_ready().await.unwrap();
        let load = Endless::begin(31, &ingest);
        load.goes_on("before anything happened").await;

        rabbit.act(PrivateRabbit::stop).await;
        until(&ingest, |metrics| spooled(metrics) > 0).await;
        load.goes_on("while RabbitMQ was away").await;
        let answer = post(&ingest, r#"{"body":7}"#.to_owned()).await;
        assert_eq!(answer.status, 422, "what is no message is not spooled");
        let ready = ingest.wait_for("/readyz", 200, PATIENCE).await.unwrap();
        let ready = ready.json().unwrap();
        let detail = ready["checks"]["rabbitmq"]["detail"].as_str().unwrap();
        assert!(detail.contains("messages are spooled"), "{ready}");

        ingest.kill().await.unwrap();
        ingest.start().await.unwrap();
        load.goes_on("after kill -9, with RabbitMQ still away").await;
        ingest.kill().await.unwrap();
        ingest.start().await.unwrap();
        let backlogs = starts_with_a_backlog(&ingest);
        rabbit.act(PrivateRabbit::start_again).await.unwrap();
        until(&ingest, |metrics| drained(metrics) > 0).await;
        ingest.kill().await.unwrap();
        ingest.start().await.unwrap();
        assert_eq!(
            starts_with_a_backlog(&ingest),
            backlogs + 1,
            "it was not killed in the middle of the drain"
        );
        load.goes_on("while the spool was drained").await;
        let ledger = load.end().await;
        assert_eq!(
            ledger.tally().of(503),
            0,
            "somebody was refused although there was a spool with room"
        );
        let metrics = until(&ingest, is_empty).await;
        assert!(
            drained(&metrics) >= spooled(&metrics),
            "what the killed ones left comes on top"
        );
        let ready = ingest.wait_for("/readyz", 200, PATIENCE).await.unwrap();
        let ready = ready.json().unwrap();
        assert!(ready["checks"]["rabbitmq"]["detail"].is_null(), "{ready}");

        bed.wait_stored(&ledger).await.unwrap();
        let backlogs = starts_with_a_backlog(&ingest);
        ingest.stop(Duration::from_secs(30)).await.unwrap();
        ingest.start_ready().await.unwrap();
        assert_eq!(
            starts_with_a_backlog(&ingest),
            backlogs,
            "an empty spool is left empty"
        );
        bed.settle(&ledger, &mut ingest, &mut worker)
            .await
            .unwrap()
            .assert_clean();
        let log = ingest.log().unwrap();
        assert!(log.contains("the spool is drained"), "{log}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_says_that_a_message_is_spooled_and_a_full_spool_is_named() {
    let folder = TempDir::new().unwrap();
    // Nobody listens there: a broker that is away from the start.
    let broker = warren_e2e::process::free_address().unwrap();
    let ingest = Service::new("ingest-api")
        .unwrap()
        .setting("WARREN_AMQP__URL", format!("amqp://guest:guest@{broker}/%2f"));
    let mut ingest = with_spool(ingest, &folder, "4MiB");
    ingest.start_ready().await.unwrap();
    let body = "x".repeat(100_000);
    let mut taken = 0;
    let refused = loop {
        let answer = post(&ingest, format!(r#"{{"severity":"critical","body":"{body}"}}"#)).await;
        if answer.status != 202 {
            break answer;
        }
        assert_eq!(answer.json().unwrap()["durability"], "spooled");
        taken += 1;
        assert!(taken < 100, "never full");
    };
    assert!(taken >= 20, "full after {taken}");
    assert_eq!(refused.status, 503);
    assert!(refused.retry_after().is_some());
    let problem = refused.json().unwrap();
    let detail = problem["errors"][0]["detail"].as_str().unwrap();
    assert!(detail.contains("spool.max_bytes"), "{detail}");
    let ready = ingest.wait_for("/readyz", 503, PATIENCE).await.unwrap();
    assert!(ready.text_start().contains("spool.max_bytes"));

    // A second process may not have the folder, and says which setting names it.
    let mut second = with_spool(Service::new("ingest-api").unwrap(), &folder, "4MiB");
    second.spawn().unwrap();
    assert!(!second.wait(PATIENCE).await.unwrap().success());
    assert!(second.log().unwrap().contains("spool.path"));

    // What is not drained stays, through an orderly stop as well: the spool is as full after the next start.
    ingest.stop(PATIENCE).await.unwrap();
    ingest.start().await.unwrap();
    let answer = post(&ingest, format!(r#"{{"body":"{body}"}}"#)).await;
    assert_eq!(answer.status, 503, "{}", answer.text_start());
}
