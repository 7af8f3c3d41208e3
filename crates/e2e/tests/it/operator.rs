//! What an operator is told when something is not as it should be.

use std::net::TcpListener;
use std::time::Duration;

use warren_e2e::bed::on_shared_servers;
use warren_e2e::process::Service;

const SOON: Duration = Duration::from_secs(30);

async fn ends(mut service: Service) -> (Option<i32>, String) {
    service.spawn().unwrap();
    let status = service.wait(SOON).await.unwrap();
    (status.code(), service.log().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_wrong_setting_is_reported_at_once_and_no_secret_with_it() {
    for name in ["ingest-api", "store-worker", "severity-consumer", "warren"] {
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
    for name in ["ingest-api", "store-worker", "severity-consumer", "warren"] {
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
async fn a_port_that_another_program_has_is_named_with_the_setting_that_changes_it() {
    for name in ["ingest-api", "store-worker", "severity-consumer", "warren"] {
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
