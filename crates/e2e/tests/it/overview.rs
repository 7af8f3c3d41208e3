//! What the read side knows of the other programs: the way of messages, and the consumer groups.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use warren_e2e::bed::on_shared_servers;
use warren_e2e::command::Call;
use warren_e2e::counting::start_consuming;
use warren_e2e::http::Client;
use warren_e2e::process::free_address;
use warren_e2e::request::Request;
use warren_e2e::sqlite::DataFolder;

const SOON: Duration = Duration::from_secs(60);

/// How many errors are sent, and as many infos.
const OF_EACH: u64 = 40;

async fn get(address: SocketAddr, target: &str) -> Value {
    let answer = Client::new(address).send(&Request::get(target)).await.unwrap();
    assert_eq!(answer.status, 200, "{target}: {}", answer.text_start());
    answer.json().unwrap()
}

/// Waits until an answer is as it should be, and returns it.
async fn until(address: SocketAddr, target: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + SOON;
    loop {
        let answer = get(address, target).await;
        if holds(&answer) {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {SOON:?}: {answer:#}");
        sleep(Duration::from_millis(100)).await;
    }
}

async fn send(intake: SocketAddr) {
    let lines = "{\"severity\":\"error\",\"body\":\"x\"}\n{\"severity\":\"info\",\"body\":\"x\"}\n"
        .repeat(OF_EACH as usize);
    let answer = Client::new(intake).send(&Request::post(lines)).await.unwrap();
    assert_eq!(answer.status, 202, "{}", answer.text_start());
}

fn counts(error: u64, info: u64) -> Value {
    json!({"debug": 0, "info": info, "warning": 0, "error": error, "critical": 0})
}

fn stage<'a>(pipeline: &'a Value, name: &str) -> &'a Value {
    let stages = pipeline["stages"].as_array().unwrap();
    stages.iter().find(|stage| stage["stage"] == name).unwrap()
}

/// Everything was accepted and is stored, and nothing waits or is dead.
fn is_through(pipeline: &Value, queue: &str) -> bool {
    let all = counts(OF_EACH, OF_EACH);
    stage(pipeline, "accepted")["total"] == all
        && stage(pipeline, "accepted")["confirmed"] == all
        && stage(pipeline, queue)["unacknowledged"] == 0
        && pipeline["in_flight"] == json!({"at_least": 0, "at_most": 0})
        && stage(pipeline, "dead")["total"] == counts(0, 0)
        && stage(pipeline, "stored")["total"] == all
        && stage(pipeline, queue)["packets"] == 0
        && stage(pipeline, "dead")["letters"] == 0
        && stage(pipeline, "stored")["per_second"].is_f64()
        && pipeline["missing"] == json!([])
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_program_tells_the_way_of_its_messages() {
    let folder = DataFolder::create().unwrap();
    let mut warren = folder.warren().unwrap();
    warren.start_ready().await.unwrap();
    send(warren.address()).await;
    let pipeline = until(warren.address(), "/v1/pipeline", |pipeline| {
        is_through(pipeline, "queued")
    })
    .await;
    assert_eq!(stage(&pipeline, "queued")["messages"], 0);
    let groups = until(warren.address(), "/v1/groups", |groups| {
        let all = group(groups, "all");
        all["total"] == 2 * OF_EACH && all["unacknowledged"] == json!({"packets": 0, "messages": 0})
    })
    .await;
    assert_eq!(group(&groups, "all")["lag"]["messages"], 0);
    warren.stop(SOON).await.unwrap();
}

fn group<'a>(answer: &'a Value, name: &str) -> &'a Value {
    let groups = answer["groups"].as_array().unwrap();
    groups.iter().find(|group| group["group"] == name).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_query_api_tells_the_way_of_messages_and_the_groups_of_the_programs_it_is_told_of() {
    on_shared_servers(async |bed| {
        bed.migrate().await.unwrap();
        let books = tempfile::tempdir().unwrap();
        let (mut ingest, mut worker) = (bed.ingest().unwrap(), bed.worker().unwrap());
        let mut errors = bed.consumer(books.path(), "--group error").unwrap();
        for service in [&mut ingest, &mut worker] {
            service.start_ready().await.unwrap();
        }
        start_consuming(&mut errors).await.unwrap();
        let gone = free_address().unwrap();
        let others = [ingest.address(), worker.address(), errors.address()];
        let mut programs = others.map(|address| format!("http://{address}")).to_vec();
        // One of them under another name as well, which counts it no second time.
        programs.push(format!("http://localhost:{}", ingest.address().port()));
        let programs = programs.join(",");
        let mut query = bed
            .query()
            .unwrap()
            .setting("WARREN_PIPELINE__PROGRAMS", &programs);
        query.start_ready().await.unwrap();
        send(ingest.address()).await;
        let through = |pipeline: &Value| is_through(pipeline, "in_rabbitmq");
        let pipeline = until(query.address(), "/v1/pipeline", through).await;
        assert_eq!(stage(&pipeline, "in_rabbitmq")["messages"], Value::Null);

        let groups = until(query.address(), "/v1/groups", |groups| {
            group(groups, "error")["total"] == OF_EACH && group(groups, "error")["per_second"].is_object()
        })
        .await;
        let error = group(&groups, "error");
        assert_eq!(
            (&error["state"], &error["members"]),
            (&json!("consuming"), &json!(1))
        );
        assert_eq!(error["received"], counts(OF_EACH, 0));
        assert_eq!(error["lag"]["packets"], 0);
        let held = |error: &Value| error["unacknowledged"] == json!({"packets": 0, "messages": null});
        until(query.address(), "/v1/groups", |groups| {
            held(group(groups, "error"))
        })
        .await;
        // Nobody has ever counted for the others, and that is not nothing counted.
        for name in ["all", "debug-info", "critical"] {
            let other = group(&groups, name);
            assert_eq!(
                (&other["state"], &other["total"], &other["lag"]),
                (&json!("absent"), &Value::Null, &Value::Null)
            );
        }

        let shown = Call::of("warren", &["groups"]).unwrap();
        let shown = shown.setting("WARREN_HTTP__LISTEN", query.address().to_string());
        let shown = shown.run().await.unwrap();
        assert_eq!(shown.code, Some(0), "{}", shown.said);
        assert!(
            shown.output.contains("absent") && shown.output.contains("consuming"),
            "{}",
            shown.output
        );

        // Without its member the group's queue fills, and what was counted is told by nobody.
        errors.stop(SOON).await.unwrap();
        send(ingest.address()).await;
        let groups = until(query.address(), "/v1/groups", |groups| {
            let error = group(groups, "error");
            error["state"] == "unattended" && error["lag"]["packets"] != 0 && error["total"].is_null()
        })
        .await;
        let missing = groups["missing"][0].as_str().unwrap();
        assert!(missing.contains(&errors.address().to_string()), "{missing}");
        query.stop(SOON).await.unwrap();

        // A program that is not there is named, and what the others count is told all the same.
        let mut query = bed.query().unwrap().setting(
            "WARREN_PIPELINE__PROGRAMS",
            format!("http://{gone},http://{}", ingest.address()),
        );
        query.start_ready().await.unwrap();
        let pipeline = get(query.address(), "/v1/pipeline").await;
        assert_eq!(
            stage(&pipeline, "accepted")["total"],
            counts(2 * OF_EACH, 2 * OF_EACH)
        );
        assert_eq!(stage(&pipeline, "stored")["total"], Value::Null);
        let missing = pipeline["missing"].as_array().unwrap();
        let named = |missing: &Value| missing["reason"].as_str().unwrap().contains(&gone.to_string());
        assert!(
            missing
                .iter()
                .any(|missing| missing["stage"] == "accepted" && named(missing)),
            "{missing:?}"
        );
        assert!(
            missing
                .iter()
                .any(|missing| missing["stage"] == "stored" && !named(missing)),
            "{missing:?}"
        );
        for service in [&mut query, &mut ingest, &mut worker] {
            service.stop(SOON).await.unwrap();
        }
    })
    .await;
}
