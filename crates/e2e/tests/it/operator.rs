//! What an operator is told when something is not as it should be.

use std::net::TcpListener;
use std::time::Duration;

use warren_e2e::bed::on_shared_servers;
use warren_e2e::http::Client;
use warren_e2e::process::Service;
use warren_e2e::request::Request;

const SOON: Duration = Duration::from_secs(30);

/// Every program.
const PROGRAMS: [&str; 5] = [
    "ingest-api",
    "store-worker",
    "query-api",
    "severity-consumer",
    "warren",
];

async fn ends(mut service: Service) -> (Option<i32>, String) {
    service.spawn().unwrap();
    let status = service.wait(SOON).await.unwrap();
    (status.code(), service.log().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_wrong_setting_is_reported_at_once_and_no_secret_with_it() {
    for name in PROGRAMS {
        let wrong = Service::new(name)
            .unwrap()
            .argument("config")
            .argument("check")
            .setting("WARREN_HTTP__LISTEN", "nowhere")
            .setting("WARREN_AMQP__URL", "http://user:hunter2@broker")
            .setting("WARREN_AMQP__PREFIX", "two words")
            .setting("WARREN_POSTGRES__URL", "postgres://user:hunter2@")
            .setting("WARREN_RETENTION_DAYS", "many")
            .setting("WARREN_TELEMETRY__LOG", "nonsense=loud");
        let (code, said) = ends(wrong).await;
        assert_eq!(code, Some(78), "{name}: {said}");
        let concerned: &[&str] = match name {
            "ingest-api" | "severity-consumer" => {
                &["http.listen", "amqp.url", "amqp.prefix", "telemetry.log"]
            }
            "store-worker" => &[
                "http.listen",
                "amqp.url",
                "amqp.prefix",
                "postgres.url",
                "retention_days",
                "telemetry.log",
            ],
            "query-api" => &[
                "http.listen",
                "amqp.url",
                "amqp.prefix",
                "postgres.url",
                "telemetry.log",
            ],
            _ => &[
                "http.listen",
                "amqp.url",
                "amqp.prefix",
                "retention_days",
                "telemetry.log",
            ],
        };
        for key in concerned {
            assert!(said.contains(key), "{name} does not name {key}: {said}");
        }
        assert!(!said.contains("hunter2"), "{name} tells the password: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_configuration_passes_the_check() {
    for name in PROGRAMS {
        let right = Service::new(name)
            .unwrap()
            .argument("config")
            .argument("check")
            .setting("WARREN_AMQP__URL", "amqp://user:hunter2@broker")
            .setting("WARREN_POSTGRES__URL", "postgres://user:hunter2@database/warren");
        let (code, said) = ends(right).await;
        assert_eq!(code, Some(0), "{name}: {said}");
        assert!(
            said.contains("http.listen") && !said.contains("hunter2"),
            "{name}: {said}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_before_the_migration_says_which_command_to_run_and_goes_on_by_itself_after_it() {
    on_shared_servers(async |bed| {
        let mut worker = bed.worker().unwrap();
        worker.start().await.unwrap();
        let told = worker.wait_for("/readyz", 503, SOON).await.unwrap();
        assert!(
            told.text_start().contains("store-worker migrate"),
            "{}",
            told.text_start()
        );
        bed.migrate().await.unwrap();
        worker
            .wait_for("/readyz", 200, Duration::from_secs(60))
            .await
            .unwrap();
        // Once more changes nothing.
        bed.migrate().await.unwrap();
        worker.stop(SOON).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_api_without_its_database_says_what_is_away_and_goes_on_by_itself() {
    on_shared_servers(async |bed| {
        // Nobody listens on port 1; the broker is away, too, and is not asked for.
        let mut query = bed
            .query()
            .unwrap()
            .setting("WARREN_AMQP__URL", "amqp://user:hunter2@127.0.0.1:1")
            .setting(
                "WARREN_POSTGRES__URL",
                "postgres://user:hunter2@127.0.0.1:1/warren",
            );
        query.start().await.unwrap();
        let told = query.wait_for("/readyz", 503, SOON).await.unwrap();
        assert!(told.text_start().contains("127.0.0.1:1"), "{}", told.text_start());
        let told = query.wait_for("/v1/messages", 503, SOON).await.unwrap();
        assert!(
            told.text_start().contains("store-unavailable"),
            "{}",
            told.text_start()
        );
        let told = Client::new(query.address())
            .send(&Request::get("/v1/tail"))
            .await
            .unwrap();
        assert_eq!(told.status, 503, "{}", told.text_start());
        assert!(
            told.text_start().contains("tail-unavailable"),
            "{}",
            told.text_start()
        );
        query.wait_for("/livez", 200, SOON).await.unwrap();
        query.stop(SOON).await.unwrap();
        assert!(!query.log().unwrap().contains("hunter2"));

        let mut query = bed.query().unwrap();
        query.start().await.unwrap();
        let told = query.wait_for("/readyz", 503, SOON).await.unwrap();
        assert!(
            told.text_start().contains("store-worker migrate"),
            "{}",
            told.text_start()
        );
        bed.migrate().await.unwrap();
        query.wait_for("/readyz", 200, SOON).await.unwrap();
        query.wait_for("/v1/messages", 200, SOON).await.unwrap();
        query.stop(SOON).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_another_program_has_is_named_with_the_setting_that_changes_it() {
    for name in PROGRAMS {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let data = tempfile::tempdir().unwrap();
        let mut late = Service::new(name)
            .unwrap()
            .setting("WARREN_HTTP__LISTEN", &address)
            .setting("WARREN_EMBEDDED__PATH", data.path().to_str().unwrap())
            .setting("WARREN_TALLY__PATH", data.path().to_str().unwrap());
        if name == "severity-consumer" {
            late = late.argument("--group").argument("all");
        }
        let (code, said) = ends(late).await;
        assert!(code.is_some_and(|code| code != 0), "{name}: {said}");
        assert!(
            said.contains(&address) && said.contains("http.listen"),
            "{name}: {said}"
        );
        assert!(!said.contains("panicked"), "{name}: {said}");
    }
}
