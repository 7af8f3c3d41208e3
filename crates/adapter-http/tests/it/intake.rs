//! What a client sends in is what the publisher gets, and what it is told is true.

use warren_adapter_conformance::scripted::PublishStep;
use warren_domain::ports::PublishError;
use warren_domain::{Severity, Source};

use crate::hostile_requests::post;
use crate::server::{TestServer, config};
use crate::wire::Wire;

const ID: &str = "019aa0c0-0000-7000-8000-000000000001";
const GOOD: &[u8] = br#"{"body":"good"}"#;

#[tokio::test]
async fn one_message_comes_through_whole_and_its_id_is_told() {
    let server = TestServer::start().await;
    let body = format!(
        r#"{{"severity":"err","source":"billing.api","body":"card declined","attributes":{{"order":42}},
            "occurred_at":"2026-11-22T13:00:00.123Z","id":"{ID}"}}"#
    );
    let answer = server.post(body).await;
    assert_eq!(answer.status, 202);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(
        answer.json(),
        serde_json::json!({"accepted": 1, "rejected": 0, "ids": [ID], "errors": []})
    );
    let taken = server.publisher.taken();
    assert_eq!(taken.len(), 1);
    assert_eq!(taken[0].severity, Severity::Error);
    assert_eq!(taken[0].source.as_str(), "billing.api");
    assert_eq!(taken[0].body.as_str(), "card declined");
    assert_eq!(taken[0].attributes.as_map()["order"], 42);
    assert_eq!(taken[0].occurred_at.to_string(), "2026-11-22T13:00:00.123000Z");
    assert_eq!(taken[0].id.to_string(), ID);
}

#[tokio::test]
async fn what_curl_sends_without_being_told_anything_is_taken() {
    let server = TestServer::start().await;
    let request = post(
        "/v1/messages",
        &["content-type: application/x-www-form-urlencoded", "accept: */*"],
        br#"{"body":"hi"}"#,
    );
    let answer = server.send(&request).await;
    assert_eq!(answer.status, 202);
    let taken = server.publisher.taken();
    assert_eq!(
        (taken[0].body.as_str(), taken[0].severity),
        ("hi", Severity::Info)
    );
    assert_eq!(taken[0].source, Source::default());
}

#[tokio::test]
async fn plain_text_takes_severity_and_source_from_the_query() {
    let server = TestServer::start().await;
    let request = post(
        "/v1/messages?severity=error&source=shop",
        &["content-type: text/plain"],
        "grüß\n".as_bytes(),
    );
    let answer = server.send(&request).await;
    assert_eq!(answer.status, 202);
    let taken = server.publisher.taken();
    assert_eq!(
        (taken[0].body.as_str(), taken[0].severity),
        ("grüß\n", Severity::Error)
    );
    assert_eq!(taken[0].source.as_str(), "shop");
}

#[tokio::test]
async fn ids_are_told_for_many_only_when_asked_and_in_their_order() {
    let server = TestServer::start().await;
    let body = b"{\"body\":\"0\"}\nbad\n{\"body\":\"1\"}\n";
    let answer = server.send(&post("/v1/messages", &[], body)).await;
    assert!(answer.json().get("ids").is_none());
    let answer = server.send(&post("/v1/messages?ids=true", &[], body)).await;
    let told: Vec<_> = answer.json()["ids"]
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_str().unwrap().to_owned())
        .collect();
    let taken: Vec<_> = server.publisher.taken()[2..]
        .iter()
        .map(|message| message.id.to_string())
        .collect();
    assert_eq!(told, taken);
}

#[tokio::test]
async fn a_message_that_was_not_published_is_named_with_the_id_to_send_it_again_under() {
    let away = PublishError::unavailable("the connection is blocked");
    let server = TestServer::with(config(), [PublishStep::FailAt(vec![1], away)]).await;
    let answer = server
        .post("{\"body\":\"0\"}\n{\"body\":\"1\"}\n{\"body\":\"2\"}")
        .await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=5).contains(&wait));
    let told = answer.json();
    assert_eq!(
        (told["accepted"].as_u64(), told["errors"][0]["code"].as_str()),
        (Some(2), Some("unavailable"))
    );
    assert_eq!(told["unpublished"][0]["index"], 1);
    let id = told["unpublished"][0]["id"].as_str().unwrap().to_owned();

    let again = server.post(format!(r#"{{"body":"1","id":"{id}"}}"#)).await;
    assert_eq!(again.status, 202);
    let taken: Vec<_> = server
        .publisher
        .taken()
        .iter()
        .map(|message| message.body.as_str().to_owned())
        .collect();
    assert_eq!(taken, ["0", "2", "1"]);
}

#[tokio::test]
async fn a_refused_message_is_rejected_and_an_unroutable_one_is_not_lost_silently() {
    let refused = PublishError::Refused {
        reason: "over 16 MiB".to_owned(),
    };
    let unroutable = PublishError::Unroutable {
        reason: "warren.info".to_owned(),
    };
    let script = [
        PublishStep::FailAt(vec![0], refused.clone()),
        PublishStep::Fail(refused),
        PublishStep::Fail(unroutable),
    ];
    let server = TestServer::with(config(), script).await;
    let answer = server.post("{\"body\":\"0\"}\n{\"body\":\"1\"}").await;
    assert_eq!(
        (answer.status, answer.json()["rejected"].as_u64()),
        (202, Some(1))
    );
    let answer = server.post(GOOD).await;
    assert_eq!(
        (answer.status, answer.json()["errors"][0]["code"].as_str()),
        (422, Some("refused"))
    );
    let answer = server.post(GOOD).await;
    assert_eq!(
        (answer.status, answer.json()["errors"][0]["code"].as_str()),
        (503, Some("unroutable"))
    );
}

#[tokio::test]
async fn the_trace_of_the_request_travels_with_its_messages() {
    let server = TestServer::start().await;
    let parent = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    server.send(&post("/v1/messages", &[parent], GOOD)).await;
    server
        .send(&post("/v1/messages", &["traceparent: nonsense"], GOOD))
        .await;
    server.send(&post("/v1/messages", &[parent, parent], GOOD)).await;
    let traces = server.publisher.traces();
    let trace = traces[0].unwrap();
    assert_eq!(trace.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_ne!(trace.span_id(), "00f067aa0ba902b7");
    assert_eq!(traces[1..], [None, None]);
}

#[tokio::test]
async fn every_answer_carries_a_request_id() {
    let server = TestServer::start().await;
    let answer = server
        .send(&post("/v1/messages", &["x-request-id: mine-1"], GOOD))
        .await;
    assert_eq!(answer.header("x-request-id"), Some("mine-1"));
    for path in ["/livez", "/nowhere", "/v1/messages"] {
        assert_eq!(
            server.get(path).await.header("x-request-id").map(str::len),
            Some(32),
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_method_that_a_path_does_not_have_is_told_which_it_has() {
    let server = TestServer::start().await;
    for (method, status) in [("PUT", 405), ("OPTIONS", 204)] {
        let request = format!("{method} /v1/messages HTTP/1.1\r\nhost: w\r\n\r\n");
        let answer = server.send(request.as_bytes()).await;
        assert_eq!(answer.status, status, "{method}");
        let mut allowed: Vec<_> = answer.header("allow").unwrap().split(',').collect();
        allowed.sort_unstable();
        assert_eq!(allowed, ["GET", "HEAD", "POST"], "{method}");
    }
    let answer = server.send(b"OPTIONS * HTTP/1.1\r\nhost: w\r\n\r\n").await;
    assert_eq!(answer.status, 204);
    let mut wire = Wire::connect(server.address).await;
    wire.send(b"HEAD /livez HTTP/1.1\r\nhost: w\r\nconnection: close\r\n\r\n")
        .await;
    let mut said = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut wire.stream, &mut said)
        .await
        .unwrap();
    assert!(
        said.starts_with("HTTP/1.1 200 OK\r\n") && said.ends_with("\r\n\r\n"),
        "{said}"
    );
}

#[tokio::test]
async fn requests_sent_ahead_are_answered_in_their_order() {
    let server = TestServer::start().await;
    let mut wire = Wire::connect(server.address).await;
    let requests: Vec<u8> = (0..50)
        .flat_map(|number| {
            let id = format!("x-request-id: r{number}");
            post(
                "/v1/messages",
                &[&id],
                format!(r#"{{"body":"{number}"}}"#).as_bytes(),
            )
        })
        .collect();
    wire.send(&requests).await;
    for number in 0..50 {
        let answer = wire.answer().await.unwrap();
        assert_eq!(
            (answer.status, answer.header("x-request-id")),
            (202, Some(format!("r{number}").as_str()))
        );
    }
    assert_eq!(server.publisher.taken().len(), 50);
}

#[tokio::test]
async fn a_client_that_expects_to_be_asked_for_its_body_is_asked_only_if_it_is_wanted() {
    let server = TestServer::start().await;
    let mut wire = Wire::connect(server.address).await;
    wire.send(b"POST /v1/messages HTTP/1.1\r\nhost: w\r\nexpect: 100-continue\r\ncontent-length: 15\r\n\r\n")
        .await;
    assert_eq!(wire.answer().await.unwrap().status, 100);
    wire.send(GOOD).await;
    assert_eq!(wire.answer().await.unwrap().status, 202);

    let mut wire = Wire::connect(server.address).await;
    wire.send(
        b"POST /v1/messages HTTP/1.1\r\nhost: w\r\nexpect: 100-continue\r\ncontent-length: 99999999\r\n\r\n",
    )
    .await;
    assert_eq!(wire.answer().await.unwrap().status, 413);
}

#[tokio::test]
async fn a_client_that_shuts_its_side_still_gets_its_answer() {
    let server = TestServer::with(
        config(),
        [PublishStep::TakeAfter(std::time::Duration::from_millis(100))],
    )
    .await;
    let mut wire = Wire::connect(server.address).await;
    wire.send(&post("/v1/messages", &[], GOOD)).await;
    wire.shut().await;
    assert_eq!(wire.answer().await.unwrap().status, 202);
}

#[tokio::test]
async fn a_keyed_request_is_the_same_messages_in_every_form() {
    let server = TestServer::start().await;
    let key = "Idempotency-Key: k \u{2603}";
    let array = post(
        "/v1/messages?ids=true",
        &[key],
        br#"[{"body":"one"},{"body":"two"}]"#,
    );
    let lines = post(
        "/v1/messages?ids=true",
        &[key, "content-type: application/x-ndjson"],
        b"{\"body\":\"two\"}\n{\"body\":\"one\",\"severity\":\"info\"}\n",
    );
    let text = post("/v1/messages", &[key, "content-type: text/plain"], b"one");
    let other = post(
        "/v1/messages",
        &["Idempotency-Key: K \u{2603}"],
        br#"{"body":"one"}"#,
    );
    let mut ids = Vec::new();
    for request in [array, lines, text, other] {
        let answer = server.send(&request).await;
        assert_eq!(answer.status, 202);
        let told = answer.json()["ids"].as_array().unwrap().clone();
        ids.extend(told.iter().map(|id| id.as_str().unwrap().to_owned()));
    }
    assert_eq!(ids[2..5], [ids[1].as_str(), &ids[0], &ids[0]]);
    assert_ne!(ids[5], ids[0]);
    let taken = server.publisher.taken();
    assert!(taken.iter().all(|message| message.idempotency.is_some()));
    assert_eq!(taken[0].idempotency, taken[3].idempotency, "the same request");
}

#[tokio::test]
async fn a_keyed_request_that_is_not_durable_is_to_be_sent_again_as_a_whole() {
    let down = || PublishStep::Fail(PublishError::unavailable("away"));
    let server = TestServer::with(config(), [down()]).await;
    let request = post("/v1/messages", &["Idempotency-Key: k"], br#"{"body":"one"}"#);
    let answer = server.send(&request).await;
    assert_eq!(answer.status, 503);
    for hint in [&answer.json()["hint"], &answer.json()["errors"][0]["hint"]] {
        let hint = hint.as_str().unwrap();
        assert!(
            hint.contains("whole request") && hint.contains("Idempotency-Key"),
            "{hint}"
        );
    }
}
