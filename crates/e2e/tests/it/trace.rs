//! A request's trace reaches the worker.

use std::time::Duration;

use serde_json::Value;
use warren_e2e::bed::{balanced_books, on_shared_servers};
use warren_e2e::http::Client;
use warren_e2e::metrics::Metrics;
use warren_e2e::request::Request;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

#[tokio::test(flavor = "multi_thread")]
async fn the_trace_of_a_request_is_a_link_of_the_batch_that_stores_its_message() {
    on_shared_servers(async |bed| {
        bed.migrate().await.unwrap();
        let debug = |service: warren_e2e::process::Service| {
            service
                .setting("WARREN_TELEMETRY__LOG", "debug")
                .setting("WARREN_TELEMETRY__FORMAT", "json")
        };
        let (mut ingest, mut worker) = (debug(bed.ingest().unwrap()), debug(bed.worker().unwrap()));
        ingest.start_ready().await.unwrap();
        worker.start_ready().await.unwrap();
        let request = Request::post(r#"{"body":"traced"}"#)
            .header("traceparent", format!("00-{TRACE}-00f067aa0ba902b7-01"));
        let answer = Client::new(ingest.address()).send(&request).await.unwrap();
        assert_eq!(answer.status, 202, "{}", answer.text_start());
        let books = balanced_books(&ingest, &worker).await.unwrap();
        assert_eq!((books.accepted, books.stored), (1, 1));
        for metrics in [
            Metrics::scrape(ingest.address()).await.unwrap(),
            Metrics::scrape(worker.address()).await.unwrap(),
        ] {
            let nameless: Vec<_> = metrics
                .names()
                .filter(|name| name.starts_with("warren_") && !metrics.has_help(base(name)))
                .collect();
            assert!(nameless.is_empty(), "metrics without a help text: {nameless:?}");
        }
        ingest.stop(Duration::from_secs(30)).await.unwrap();
        worker.stop(Duration::from_secs(30)).await.unwrap();
        let log = worker.log().unwrap();
        let lines: Vec<Value> = log
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert!(
            lines.iter().any(|line| line.to_string().contains(TRACE)),
            "no line of the worker's log has the trace:\n{log}"
        );
        assert!(!log.contains("traced"), "the body is in the worker's log:\n{log}");
        assert!(
            !ingest.log().unwrap().contains(r#"\"traced\""#),
            "the body is in the intake's log"
        );
    })
    .await;
}

/// Returns the name that a histogram's series are described under.
fn base(name: &str) -> &str {
    ["_bucket", "_sum", "_count"]
        .iter()
        .find_map(|suffix| name.strip_suffix(suffix))
        .unwrap_or(name)
}
