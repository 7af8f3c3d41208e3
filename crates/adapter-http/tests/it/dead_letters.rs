//! Dead letters over HTTP: found, looked at, redriven, purged.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use warren_adapter_conformance::PATIENCE;
use warren_adapter_conformance::dead_letters::{letter, letters, moment};
use warren_adapter_conformance::samples::message;
use warren_domain::Severity;
use warren_domain::ports::{
    DeadLetter, DeadLetterFilter, DeadLetterId, DeadLetters, DeadLettersError, LetterFacts,
};

use crate::hostile_requests::post;
use crate::server::TestServer;
use crate::wire::Answer;

async fn ask(server: &TestServer, path: &str, body: Value) -> Answer {
    let headers = ["content-type: application/json"];
    server
        .send(&post(path, &headers, body.to_string().as_bytes()))
        .await
}

async fn delete(server: &TestServer, path: &str) -> Answer {
    server
        .send(format!("DELETE {path} HTTP/1.1\r\nhost: warren\r\n\r\n").as_bytes())
        .await
}

/// Waits until a job has ended.
async fn ended(server: &TestServer, begun: &Answer) -> Value {
    assert_eq!(begun.status, 202, "{}", begun.text());
    let place = begun.header("location").unwrap().to_owned();
    let ending = async {
        loop {
            let job = server.get(&place).await.json();
            if job["state"] != "running" {
                return job;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, ending).await.expect("the job ends")
}

fn members<'a>(server: &'a Value, schema: &str) -> Vec<&'a String> {
    let properties = &server["components"]["schemas"][schema]["properties"];
    properties.as_object().unwrap().keys().collect()
}

#[tokio::test]
async fn letters_are_listed_page_by_page_with_the_members_that_are_described() {
    let server = TestServer::start().await;
    server.letters.keep(&letters(25)).await.unwrap();
    let description = server.get("/openapi.json").await.json();
    let (mut after, mut seen) = (String::new(), Vec::new());
    loop {
        let page = server.get(&format!("/v1/dead-letters?limit=10{after}")).await;
        assert_eq!(page.status, 200);
        let page = page.json();
        for letter in page["letters"].as_array().unwrap() {
            let told: Vec<_> = letter.as_object().unwrap().keys().collect();
            assert_eq!(told, members(&description, "DeadLetter"));
            seen.push(letter["last_at"].as_str().unwrap().to_owned());
        }
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(seen.len(), 25);
    assert!(seen.is_sorted_by(|a, b| a > b), "the last death first");
    let since = moment(20).to_string().replace(':', "%3a");
    let late = server
        .get(&format!("/v1/dead-letters?since={since}"))
        .await
        .json();
    assert_eq!(late["letters"].as_array().unwrap().len(), 5);
    let none = server
        .get("/v1/dead-letters?severity=debug&reason=undecodable")
        .await;
    assert_eq!(none.json(), json!({"letters": [], "next": null}));
}

#[tokio::test]
async fn a_letter_is_shown_with_its_bytes_whatever_they_are() {
    let server = TestServer::start().await;
    let (text, bytes) = (letter("naïve".as_bytes(), 1), letter(b"\xff\0", 2));
    server.letters.keep(&[text.clone(), bytes.clone()]).await.unwrap();
    let shown = |letter: &DeadLetter| format!("/v1/dead-letters/{}", letter.facts.id);
    let told = server.get(&shown(&text)).await.json();
    assert_eq!((&told["text"], &told["base64"]), (&json!("naïve"), &Value::Null));
    assert_eq!(
        (&told["reason"], &told["bytes"]),
        (&json!("undecodable"), &json!(6))
    );
    assert_eq!((&told["attempts"], &told["cut"]), (&json!(1), &json!(false)));
    let told = server.get(&shown(&bytes)).await.json();
    assert_eq!((&told["text"], &told["base64"]), (&Value::Null, &json!("/wA=")));
    let unknown = server.get(&shown(&letter(b"other", 1))).await;
    assert_eq!(unknown.status, 404);
    assert!(
        unknown.text().contains("redriven or purged"),
        "{}",
        unknown.text()
    );
    assert_eq!(server.get("/v1/dead-letters/what").await.status, 400);
}

#[tokio::test]
async fn a_redrive_counts_first_and_then_publishes() {
    let server = TestServer::start().await;
    let sent = message(Severity::Error, "shop.web", "x");
    let mut line = Vec::new();
    sent.append_json_line(&mut line);
    let readable = DeadLetter {
        facts: LetterFacts {
            id: DeadLetterId::of_message(sent.id),
            reason: "refused_by_store".into(),
            ..letter(&line, 3).facts
        },
        ..letter(&line, 3)
    };
    server
        .letters
        .keep(&[readable, letter(b"garbage", 1)])
        .await
        .unwrap();
    let path = "/v1/dead-letters/redrive";
    let dry = ask(&server, path, json!({"dry_run": true})).await;
    assert_eq!(dry.status, 200);
    let newest = server
        .letters
        .count(&DeadLetterFilter::default())
        .await
        .unwrap()
        .newest;
    assert_eq!(
        dry.json(),
        json!({
            "dry_run": true, "letters": 2, "by_reason": {"refused_by_store": 1, "undecodable": 1},
            "as_of": newest.unwrap().to_string(),
        })
    );
    assert!(server.publisher.taken().is_empty());
    let job = ended(&server, &ask(&server, path, json!({})).await).await;
    assert_eq!((&job["state"], &job["total"]), (&json!("done"), &json!(2)));
    assert_eq!((&job["done"], &job["unreadable"]), (&json!(1), &json!(1)));
    assert_eq!(server.publisher.taken(), [sent]);
    let description = server.get("/openapi.json").await.json();
    let told: Vec<_> = job.as_object().unwrap().keys().collect();
    assert_eq!(told, members(&description, "DeadLetterJob"));
    let jobs = server.get("/v1/dead-letters/jobs").await.json();
    assert_eq!(jobs["jobs"].as_array().unwrap().len(), 1);
    let again = ask(&server, path, json!({"filter": {"reason": "refused_by_store"}})).await;
    assert_eq!(ended(&server, &again).await["total"], 0);
    assert_eq!(server.publisher.taken().len(), 1);
}

#[tokio::test]
async fn a_purge_removes_what_is_named_and_everything_only_when_told_so() {
    let server = TestServer::start().await;
    let kept = letters(10);
    server.letters.keep(&kept).await.unwrap();
    let path = "/v1/dead-letters/purge";
    let refused = ask(&server, path, json!({})).await;
    assert_eq!(refused.status, 400);
    assert!(refused.text().contains("\\\"all\\\": true"), "{}", refused.text());
    let ids = [kept[0].facts.id.to_string(), kept[1].facts.id.to_string()];
    let job = ended(&server, &ask(&server, path, json!({"ids": ids})).await).await;
    assert_eq!((&job["action"], &job["done"]), (&json!("purge"), &json!(2)));
    let job = ended(&server, &ask(&server, path, json!({"all": true})).await).await;
    assert_eq!(job["done"], 8);
    assert_eq!(server.get("/v1/dead-letters").await.json()["letters"], json!([]));
}

#[tokio::test]
async fn a_purge_as_of_a_dry_run_removes_what_that_counted_and_nothing_that_died_since() {
    let server = TestServer::start().await;
    let path = "/v1/dead-letters/purge";
    let dry_run = json!({"all": true, "dry_run": true});
    let none = ask(&server, path, dry_run.clone()).await.json();
    server.letters.keep(&letters(3)).await.unwrap();
    let three = ask(&server, path, dry_run).await.json();
    assert_eq!((&none["letters"], &three["letters"]), (&json!(0), &json!(3)));
    server.letters.keep(&[letter(b"since", -9)]).await.unwrap();
    for (seen, removed) in [(&none, 0), (&three, 3)] {
        let wish = json!({"all": true, "as_of": seen["as_of"]});
        let job = ended(&server, &ask(&server, path, wish).await).await;
        assert_eq!((&job["total"], &job["done"]), (&json!(removed), &json!(removed)));
    }
    // It says when, and not which ones.
    let wish = json!({"as_of": three["as_of"]});
    assert_eq!(ask(&server, path, wish).await.status, 400);
    let left = server.get("/v1/dead-letters").await.json();
    assert_eq!(left["letters"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_job_is_alone_and_can_be_cancelled() {
    use warren_adapter_conformance::scripted::PublishStep;
    use warren_domain::ports::PublishError;

    let away = std::iter::repeat_n(PublishStep::Fail(PublishError::unavailable("away")), 100_000);
    let server = TestServer::with(crate::server::config(), away).await;
    let sent = message(Severity::Error, "shop.web", "x");
    let mut line = Vec::new();
    sent.append_json_line(&mut line);
    server.letters.keep(&[letter(&line, 3)]).await.unwrap();
    let begun = ask(&server, "/v1/dead-letters/redrive", json!({})).await;
    assert_eq!(begun.status, 202);
    let place = begun.header("location").unwrap().to_owned();
    let busy = ask(&server, "/v1/dead-letters/purge", json!({"all": true})).await;
    assert_eq!(busy.status, 409);
    assert!(busy.text().contains(&place), "{}", busy.text());
    assert_eq!(delete(&server, &place).await.status, 202);
    let job = ended(&server, &begun).await;
    assert_eq!((&job["state"], &job["left"]), (&json!("cancelled"), &json!(1)));
    assert_eq!(delete(&server, "/v1/dead-letters/jobs/none").await.status, 404);
    assert_eq!(server.get("/v1/dead-letters/jobs/none").await.status, 404);
}

#[tokio::test]
async fn what_is_wrong_is_named_and_changes_nothing() {
    let server = TestServer::start().await;
    server.letters.keep(&letters(3)).await.unwrap();
    for (path, part) in [
        ("/v1/dead-letters?limit=0", "limit"),
        ("/v1/dead-letters?reason=", "reason"),
        ("/v1/dead-letters?severity=loud", "severity"),
        ("/v1/dead-letters?x=1", "x"),
        ("/v1/dead-letters?after=1", "after"),
    ] {
        let answer = server.get(path).await;
        assert_eq!(answer.status, 400, "{path}");
        assert_eq!(answer.json()["type"], "urn:warren:problem:invalid-parameter");
        assert!(answer.json()["detail"].as_str().unwrap().contains(part), "{path}");
    }
    let purge = "/v1/dead-letters/purge";
    for (body, status) in [
        (json!({"all": "yes"}), 400),
        (json!({"al": true}), 400),
        (json!({"ids": []}), 400),
        (json!({"filter": {"source": "*"}, "all": true}), 400),
    ] {
        assert_eq!(ask(&server, purge, body.clone()).await.status, status, "{body}");
    }
    // What a page in a browser could send to another server unasked.
    for content_type in ["text/plain", "application/x-www-form-urlencoded"] {
        let header = format!("content-type: {content_type}");
        let request = post(purge, &[&header], br#"{"all":true}"#);
        assert_eq!(server.send(&request).await.status, 415);
    }
    let large = json!({"ids": vec!["x".repeat(36); 10_000]});
    assert_eq!(ask(&server, purge, large).await.status, 413);
    assert_eq!(
        server.get("/v1/dead-letters").await.json()["letters"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
}

#[tokio::test]
async fn jobs_where_letters_can_only_be_looked_at_are_refused_with_where_to_go() {
    let server = TestServer::start().await;
    server.letters.set_read_only("it is a standby");
    for path in ["/v1/dead-letters/redrive", "/v1/dead-letters/purge"] {
        let answer = ask(&server, path, json!({"all": true})).await;
        assert_eq!(answer.status, 409, "{}", answer.text());
        let problem = answer.json();
        assert_eq!(problem["type"], "urn:warren:problem:dead-letters-read-only");
        assert!(
            problem["detail"].as_str().unwrap().contains("it is a standby"),
            "{problem}"
        );
        assert!(problem["hint"].as_str().unwrap().contains("primary"), "{problem}");
        // What changes nothing is answered.
        assert_eq!(
            ask(&server, path, json!({"all": true, "dry_run": true}))
                .await
                .status,
            200
        );
    }
    let jobs = server.get("/v1/dead-letters/jobs").await.json();
    assert_eq!(jobs["jobs"], json!([]));
}

#[tokio::test]
async fn a_path_that_is_not_utf_8_is_told_so_as_everything_else_is() {
    let server = TestServer::start().await;
    for (method, path, status) in [
        ("GET", "/v1/dead-letters/%ff", 400),
        ("GET", "/v1/dead-letters/jobs/%ff", 400),
        ("DELETE", "/v1/dead-letters/jobs/%ff", 400),
        ("GET", "/docs/%ff", 404),
    ] {
        let request = format!("{method} {path} HTTP/1.1\r\nhost: warren\r\n\r\n");
        let answer = server.send(request.as_bytes()).await;
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (status, Some("application/problem+json")),
            "{method} {path}"
        );
    }
}

#[tokio::test]
async fn no_cache_keeps_what_was_read_or_why_it_was_not() {
    let server = TestServer::start().await;
    let kept = letter(b"x", 1);
    server.letters.keep(std::slice::from_ref(&kept)).await.unwrap();
    for path in [
        "/v1/dead-letters",
        &format!("/v1/dead-letters/{}", kept.facts.id),
        &format!("/v1/dead-letters/{}", letter(b"other", 1).facts.id),
        "/v1/dead-letters/jobs",
        "/v1/dead-letters/jobs/none",
        "/v1/dead-letters?limit=0",
        "/v1/tail?severity=loud",
        "/v1/groups",
        "/v1/pipeline",
        "/v1/none",
    ] {
        let answer = server.get(path).await;
        assert_eq!(
            answer.header("cache-control"),
            Some("no-store"),
            "{path}: {}",
            answer.status
        );
    }
}

#[tokio::test]
async fn letters_that_cannot_be_reached_are_told_so() {
    let server = TestServer::start().await;
    server.letters.fail([DeadLettersError::Unavailable {
        reason: "PostgreSQL is away".to_owned(),
        cause: None,
    }]);
    let answer = server.get("/v1/dead-letters").await;
    assert_eq!(answer.status, 503);
    assert!(answer.header("retry-after").is_some());
    assert!(answer.text().contains("PostgreSQL is away"));
    assert_eq!(server.get("/v1/dead-letters").await.status, 200);
}
