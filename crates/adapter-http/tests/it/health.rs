//! Health, metrics and the pages that say what this is.

use std::sync::Arc;

use async_trait::async_trait;
use warren_adapter_conformance::scripted::ScriptedPublisher;
use warren_adapter_http::Routes;
use warren_domain::ports::{HealthCheck, Unhealthy};

use crate::server::{TestServer, bare, config, serve, serve_routes};
use crate::wire::{Answer, exchange};

#[derive(Debug)]
struct Dependency(&'static str, Result<(), Unhealthy>);

#[async_trait]
impl HealthCheck for Dependency {
    fn name(&self) -> &'static str {
        self.0
    }

    async fn check(&self) -> Result<(), Unhealthy> {
        self.1.clone()
    }
}

async fn get(address: std::net::SocketAddr, path: &str) -> Answer {
    let request = format!("GET {path} HTTP/1.1\r\nhost: warren.test:80\r\n\r\n");
    exchange(address, request.as_bytes(), false).await.unwrap()
}

#[tokio::test]
async fn readiness_names_each_dependency_and_liveness_depends_on_none() {
    let away = Err(Unhealthy("cannot connect; start it".to_owned()));
    let checks: Vec<Arc<dyn HealthCheck>> = vec![
        Arc::new(Dependency("rabbitmq", away)),
        Arc::new(Dependency("disk", Ok(()))),
    ];
    let (address, ..) = serve(config(), ScriptedPublisher::new([]), checks).await;
    assert_eq!(get(address, "/livez").await.status, 200);
    let answer = get(address, "/readyz").await;
    assert_eq!(answer.status, 503);
    assert_eq!(
        answer.json(),
        serde_json::json!({"status": "not_ready", "checks": {
            "rabbitmq": {"status": "failing", "detail": "cannot connect; start it"},
            "disk": {"status": "ok"},
        }})
    );
}

#[tokio::test]
async fn a_stopping_process_says_so_while_it_still_serves() {
    let server = TestServer::start().await;
    assert_eq!(server.get("/readyz").await.status, 200);
    server.health.start_draining();
    let answer = server.get("/readyz").await;
    assert_eq!(
        (answer.status, answer.json()["status"].as_str()),
        (503, Some("draining"))
    );
    assert_eq!(server.post(r#"{"body":"x"}"#).await.status, 202);
}

#[tokio::test]
async fn the_numbers_are_there_with_their_help_and_without_names_that_clients_make_up() {
    let server = TestServer::start().await;
    server.post(r#"{"body":"x"}"#).await;
    server.post("nonsense").await;
    server.get("/made/up/by/a/client").await;
    server.send(b"BREW /livez HTTP/1.1\r\nhost: w\r\n\r\n").await;
    let answer = server.get("/metrics").await;
    assert_eq!(
        answer.header("content-type"),
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    let page = answer.text();
    for line in [
        "# HELP warren_http_requests_total ",
        "# TYPE warren_http_requests_total counter",
        "# HELP warren_http_connections ",
        "warren_http_in_flight_bytes",
        "warren_http_requests_total{method=\"POST\",route=\"/v1/messages\",status=\"202\"}",
        "warren_http_requests_total{method=\"POST\",route=\"/v1/messages\",status=\"400\"}",
        "warren_http_requests_total{method=\"GET\",route=\"none\",status=\"404\"}",
        "warren_http_requests_total{method=\"other\",route=\"/livez\",status=\"405\"}",
        "warren_http_request_seconds",
        "stage=\"wire\"",
        "stage=\"decoded\"",
    ] {
        assert!(page.contains(line), "{line} is not in\n{page}");
    }
    assert!(!page.contains("made/up") && !page.contains("BREW"));
}

#[tokio::test]
async fn a_server_without_intake_has_health_metrics_and_their_description_only() {
    let routes = Routes {
        service: "store-worker",
        ..bare()
    };
    let (address, shutdown, serving) = serve_routes(&config(), routes).await;
    for (path, status) in [
        ("/", 200),
        ("/livez", 200),
        ("/readyz", 200),
        ("/metrics", 200),
        ("/version", 200),
        ("/v1/messages", 404),
        ("/docs", 303),
        ("/docs/", 200),
    ] {
        assert_eq!(get(address, path).await.status, status, "{path}");
    }
    let description = get(address, "/openapi.json").await.json();
    let described = description["paths"].as_object().unwrap();
    assert!(described.contains_key("/metrics"));
    assert!(
        described.keys().all(|path| !path.starts_with("/v1/")),
        "{described:?}"
    );
    assert_eq!(
        get(address, "/version").await.json(),
        serde_json::json!({"service": "store-worker", "version": "1.2.3", "intake": null})
    );
    shutdown.cancel();
    assert_eq!(serving.await.unwrap().cut, 0);
}

#[tokio::test]
async fn the_root_shows_a_command_to_paste() {
    let server = TestServer::start().await;
    let page = get(server.address, "/").await.text();
    assert!(
        page.contains("curl http://warren.test:80/v1/messages -d '{"),
        "{page}"
    );
    let evil = exchange(
        server.address,
        b"GET / HTTP/1.1\r\nhost: a';rm -rf ~;'\r\n\r\n",
        false,
    )
    .await
    .unwrap();
    assert!(!evil.text().contains("rm -rf"), "{}", evil.text());
}
