//! Stored messages over HTTP: found, shown with their neighbours, counted.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;
use warren_adapter_conformance::samples::{message, messages, with_attributes};
use warren_domain::ports::{MessageStore as _, ReadError};
use warren_domain::{Message, Severity};

use crate::server::{Numbers, READERS, TestServer};
use crate::wire::{Answer, Wire};

async fn storing(batch: &[Message]) -> TestServer {
    let server = TestServer::start().await;
    server.reader.store(batch).await.unwrap();
    server
}

fn ids(list: &Value) -> Vec<&str> {
    let list = list.as_array().unwrap().iter();
    list.map(|message| message["id"].as_str().unwrap()).collect()
}

fn members<'v>(description: &'v Value, schema: &str) -> Vec<&'v String> {
    let properties = &description["components"]["schemas"][schema]["properties"];
    properties.as_object().unwrap().keys().collect()
}

fn told(object: &Value) -> Vec<&String> {
    object.as_object().unwrap().keys().collect()
}

/// Whatever was answered is for this client alone.
fn assert_not_kept(answer: &Answer) {
    assert_eq!(
        answer.header("cache-control"),
        Some("no-store"),
        "{}",
        answer.head
    );
}

#[tokio::test]
async fn pages_are_turned_to_the_end_in_either_order() {
    let batch = messages(250);
    let server = storing(&batch).await;
    for order in ["newest", "oldest"] {
        let (mut after, mut seen, mut pages) = (String::new(), Vec::new(), 0);
        loop {
            let page = server
                .get(&format!("/v1/messages?order={order}&limit=100{after}"))
                .await;
            assert_eq!(
                (page.status, page.header("content-type")),
                (200, Some("application/json"))
            );
            assert_not_kept(&page);
            let page = page.json();
            pages += 1;
            seen.extend(ids(&page["messages"]).into_iter().map(str::to_owned));
            assert_eq!(page["complete"].as_bool(), Some(page["next"].is_null()));
            assert_eq!(page["reached"].is_null(), page["next"].is_null());
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => break,
            }
        }
        let mut expected: Vec<_> = batch.iter().map(|message| message.id.to_string()).collect();
        if order == "newest" {
            expected.reverse();
        }
        assert_eq!((seen, pages), (expected, 3));
    }
}

#[tokio::test]
async fn messages_are_found_by_every_parameter_and_told_with_the_members_that_are_described() {
    let sent = with_attributes(
        message(Severity::Error, "billing.api", "Card DECLINED: é+"),
        json!({"order": 42, "largest": u64::MAX}),
    );
    let plain = message(Severity::Info, "shop", "hello");
    let server = storing(&[sent.clone(), plain.clone()]).await;
    let description = server.get("/openapi.json").await.json();
    let page = server.get("/v1/messages?severity=error+&q=declined").await.json();
    assert_eq!(told(&page), members(&description, "MessagePage"));
    let found = &page["messages"][0];
    assert_eq!(told(found), members(&description, "StoredMessage"));
    assert_eq!(found["id"], sent.id.to_string());
    assert_eq!(found["attributes"], json!({"order": 42, "largest": u64::MAX}));
    assert_eq!(
        (&found["source"], &found["severity"]),
        (&json!("billing.api"), &json!("error"))
    );
    assert_eq!(found["received_at"], sent.received_at.to_string());
    let other = server.get("/v1/messages?source=shop").await.json();
    assert_eq!(
        (&other["messages"][0]["body"], &other["messages"][0]["attributes"]),
        (&json!("hello"), &json!({}))
    );
    for (query, found) in [
        ("", 2),
        ("q=", 2),
        ("q=card+declined", 1),
        ("q=%22card%20declined%22", 1),
        ("q=%C3%A9%2B", 1),
        ("q=order%3D42", 1),
        ("q=order=42", 1),
        ("q=-declined", 1),
        ("severity=info,error", 2),
        ("severity=critical", 0),
        ("source=billing.*,shop.%23", 2),
        ("source=billing", 0),
        ("from=-1h", 2),
        ("from=-1h&until=now", 2),
        ("until=-1m", 0),
        ("until=2026-01-01T00:00:00+01:00", 0),
        ("from=2100-01-01T00:00:00Z", 0),
    ] {
        // What was made in this very millisecond is not before now.
        sleep(Duration::from_millis(2)).await;
        let page = server.get(&format!("/v1/messages?{query}")).await.json();
        assert_eq!(ids(&page["messages"]).len(), found, "{query}: {page}");
    }
}

#[tokio::test]
async fn a_message_is_shown_with_what_lies_beside_it() {
    let batch = messages(30);
    let server = storing(&batch).await;
    let description = server.get("/openapi.json").await.json();
    let id = |n: usize| batch[n].id.to_string();
    let shown = server.get(&format!("/v1/messages/{}?neighbours=2", id(15))).await;
    assert_not_kept(&shown);
    let shown = shown.json();
    assert_eq!(told(&shown), members(&description, "MessageWithNeighbours"));
    assert_eq!(shown["message"]["id"], id(15));
    assert_eq!(ids(&shown["newer"]), [id(16), id(17)]);
    assert_eq!(ids(&shown["older"]), [id(14), id(13)]);
    let alone = server.get(&format!("/v1/messages/{}", id(15))).await.json();
    assert_eq!((&alone["newer"], &alone["older"]), (&json!([]), &json!([])));
    let last = server
        .get(&format!("/v1/messages/{}?neighbours=50", id(29)))
        .await
        .json();
    assert_eq!((ids(&last["newer"]).len(), ids(&last["older"]).len()), (0, 29));

    let missing = server.get(&format!("/v1/messages/{}", messages(1)[0].id)).await;
    assert_eq!(
        (missing.status, &missing.json()["type"]),
        (404, &json!("urn:warren:problem:not-found"))
    );
    assert_not_kept(&missing);
    for path in [
        "/v1/messages/what",
        "/v1/messages/%00",
        "/v1/messages/%ff",
        "/v1/messages/'%3b--",
    ] {
        let refused = server.get(path).await;
        assert_eq!(
            (refused.status, &refused.json()["parameter"]),
            (400, &json!("id")),
            "{path}"
        );
    }
}

#[tokio::test]
async fn counts_and_sources_are_those_of_the_messages() {
    let server = storing(&messages(100)).await;
    let description = server.get("/openapi.json").await.json();
    let counts = server
        .get("/v1/counts?from=-1d&bucket=1d&severity=warning+")
        .await;
    assert_not_kept(&counts);
    let counts = counts.json();
    assert_eq!(told(&counts), members(&description, "MessageCounts"));
    assert_eq!(counts["bucket_minutes"], 1440);
    let mut sums = [0; 5];
    for bucket in counts["buckets"].as_array().unwrap() {
        assert_eq!(told(bucket), members(&description, "MessageCountsBucket"));
        assert_eq!(told(&bucket["counts"]), members(&description, "BySeverity_u64"));
        for (sum, severity) in sums.iter_mut().zip(Severity::ALL) {
            *sum += bucket["counts"][severity.as_str()].as_u64().unwrap();
        }
    }
    assert_eq!(sums, [0, 0, 20, 20, 20]);
    let chosen = server.get("/v1/counts").await.json();
    assert_eq!(chosen["bucket_minutes"], 1);
    let year = server.get("/v1/counts?from=-365d").await.json();
    assert_eq!(year["bucket_minutes"], 5760);

    let listed = server.get("/v1/sources?severity=critical").await.json();
    assert_eq!(told(&listed), members(&description, "MessageSources"));
    assert_eq!(listed["more"], json!(false));
    let names: Vec<_> = listed["sources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|source| &source["source"])
        .collect();
    assert_eq!(names, ["billing.api", "default", "sensor-7", "shop.web.checkout"]);
    let counts = json!({"debug": 0, "info": 0, "warning": 0, "error": 0, "critical": 5});
    assert_eq!(
        listed["sources"][0],
        json!({"source": "billing.api", "counts": counts})
    );
}

#[tokio::test]
async fn whatever_is_asked_for_is_refused_by_name_or_found_and_never_a_fault_of_the_server() {
    let server = storing(&messages(20)).await;
    let deep = "(".repeat(1_900);
    let hostile = [
        "'; drop table messages; --",
        "\" or 1=1 --",
        "\\",
        "%",
        "_",
        "a%_b",
        "$1 ?1 :a @b",
        "{\"a\":[1]}",
        "(((((a)))))",
        &deep,
        "a OR b AND NOT c",
        "\u{202e}\u{feff}\u{10ffff}",
        "-",
        "--",
        "a=",
        "=a",
        "\"unended",
        "severity>=loud",
        "source:billing.",
        "id:1",
        "n=1e999",
        "n=99999999999999999999999999",
        "$.a[*]=1",
        "a\nb\r\nc",
    ];
    for text in hostile {
        let encoded: String = text.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let answer = server.get(&format!("/v1/messages?q={encoded}")).await;
        match answer.status {
            200 => assert!(ids(&answer.json()["messages"]).len() <= 20, "{text}"),
            400 => {
                let problem = answer.json();
                assert_eq!(problem["parameter"], "q", "{text}: {problem}");
                assert!(problem["column"].as_u64().unwrap() >= 1, "{text}: {problem}");
                assert!(!problem["hint"].as_str().unwrap().is_empty(), "{text}");
            }
            status => panic!("{text}: {status} {}", answer.text()),
        }
    }
    let long = "x".repeat(10_000);
    let terms = ["a"; 21].join("+");
    let patterns = ["a"; 101].join(",");
    for (query, parameter) in [
        ("q=a%00b".to_owned(), "q"),
        (format!("q={long}"), "q"),
        (format!("q={terms}"), "q"),
        ("q=%ff".to_owned(), "q"),
        ("q=%".to_owned(), "q"),
        ("q=a&q=b".to_owned(), "q"),
        ("source='".to_owned(), "source"),
        ("source=%00".to_owned(), "source"),
        (format!("source={long}"), "source"),
        (format!("source={patterns}"), "source"),
        ("severity=%00".to_owned(), "severity"),
        ("from=%00".to_owned(), "from"),
        ("from=-99999999999d".to_owned(), "from"),
        ("from=9999-01-01T00:00:00Z".to_owned(), "from"),
        ("until=1970-01-01T00:00:00Z".to_owned(), "until"),
        ("limit=18446744073709551617".to_owned(), "limit"),
        ("limit=-1".to_owned(), "limit"),
        ("after=%00".to_owned(), "after"),
        ("order='".to_owned(), "order"),
        ("%00=1".to_owned(), "\0"),
        ("body=x".to_owned(), "body"),
    ] {
        let answer = server.get(&format!("/v1/messages?{query}")).await;
        let problem = answer.json();
        assert_eq!(
            (answer.status, &problem["parameter"]),
            (400, &json!(parameter)),
            "{query}: {problem}"
        );
        assert_eq!(problem["type"], "urn:warren:problem:invalid-parameter");
        assert_not_kept(&answer);
    }
    let nul = server.get("/v1/messages?q=a%00b").await.json();
    assert_eq!((&nul["column"], &nul["length"]), (&json!(2), &json!(1)));
    for query in [
        "from=-365d&bucket=1m",
        "bucket=0m",
        "bucket=1s",
        "bucket=4294967295d",
        "bucket=%00",
    ] {
        let answer = server.get(&format!("/v1/counts?{query}")).await;
        assert_eq!(
            (answer.status, &answer.json()["parameter"]),
            (400, &json!("bucket")),
            "{query}"
        );
    }
    let extremes = "from=1970-01-01T00:00:00Z&until=2261-12-31T23:59:59.999999Z";
    for path in ["/v1/messages", "/v1/counts", "/v1/sources"] {
        assert_eq!(
            server.get(&format!("{path}?{extremes}")).await.status,
            200,
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_store_that_cannot_be_read_is_told_so_and_counted_by_what_is_the_matter() {
    let numbers = Numbers::new();
    let server = storing(&messages(3)).await;
    let reason = || "PostgreSQL is away".to_owned();
    let away = ReadError::Unavailable {
        reason: reason(),
        cause: None,
    };
    let wrong = ReadError::Misconfigured {
        reason: reason(),
        cause: None,
    };
    let much = ReadError::TooMuch { reason: reason() };
    server.reader.fail([away.clone(), wrong, much, away]);
    for (path, status, kind) in [
        ("/v1/messages", 503, "store-unavailable"),
        ("/v1/counts", 503, "store-unavailable"),
        ("/v1/sources", 400, "too-much"),
        (
            &*format!("/v1/messages/{}", messages(1)[0].id),
            503,
            "store-unavailable",
        ),
    ] {
        let answer = server.get(path).await;
        assert_eq!(answer.status, status, "{path}");
        assert_eq!(answer.json()["type"], format!("urn:warren:problem:{kind}"));
        assert_eq!(answer.header("retry-after").is_some(), status == 503);
        assert!(answer.text().contains("PostgreSQL is away"), "{path}");
        assert_not_kept(&answer);
    }
    for (kind, failed) in [("unavailable", 2.0), ("misconfigured", 1.0), ("too_much", 1.0)] {
        let series = format!("warren_http_reads_failed_total{{of=\"messages\",kind=\"{kind}\"}}");
        let counted = numbers.value(&series);
        assert!((counted - failed).abs() < 0.5, "{series}: {counted}");
    }
    assert_eq!(server.get("/v1/messages").await.status, 200);
}

#[tokio::test]
async fn a_client_that_hangs_up_ends_what_is_read_for_it_and_frees_its_turn() {
    let server = storing(&messages(3)).await;
    server.reader.hold(true);
    for path in ["/v1/messages", "/v1/counts", "/v1/sources"] {
        for _ in 0..2 * READERS {
            let mut wire = Wire::connect(server.address).await;
            let request = format!("GET {path} HTTP/1.1\r\nhost: w\r\n\r\n");
            wire.send(request.as_bytes()).await;
            server.reader.is_read_by(1).await;
            drop(wire);
            server.reader.is_read_by(0).await;
        }
    }
    // To shut one's side while something is read is to hang up…
    let mut wire = Wire::connect(server.address).await;
    wire.send(b"GET /v1/messages HTTP/1.1\r\nhost: w\r\n\r\n").await;
    server.reader.is_read_by(1).await;
    wire.shut().await;
    server.reader.is_read_by(0).await;
    assert!(wire.answer().await.is_none());
    // …but only then.
    let mut wire = Wire::connect(server.address).await;
    wire.send(b"GET /livez HTTP/1.1\r\nhost: w\r\n\r\n").await;
    wire.shut().await;
    assert_eq!(wire.answer().await.unwrap().status, 200);
    // Whoever asks for more on the same connection is there.
    let mut wire = Wire::connect(server.address).await;
    let twice = "GET /v1/messages HTTP/1.1\r\nhost: w\r\n\r\n".repeat(2);
    wire.send(twice.as_bytes()).await;
    server.reader.is_read_by(1).await;
    server.reader.hold(false);
    for _ in 0..2 {
        assert_eq!(wire.answer().await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn a_page_of_another_site_reads_no_message_and_is_told_why() {
    let server = storing(&messages(3)).await;
    for path in [
        "/v1/messages",
        "/v1/tail",
        "/v1/dead-letters",
        "/",
        "/console/app.js",
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: evil.example:8080\r\naccept: text/html\r\n\r\n");
        let answer = server.send(request.as_bytes()).await;
        assert_eq!(
            (answer.status, &answer.json()["type"]),
            (421, &json!("urn:warren:problem:foreign-host"))
        );
        let told = answer.json();
        assert!(
            told["detail"].as_str().unwrap().contains("evil.example"),
            "{told}"
        );
        assert!(told["hint"].as_str().unwrap().contains("http.hosts"), "{told}");
    }
    let request =
        "POST /v1/messages HTTP/1.1\r\nhost: evil.example\r\ncontent-length: 12\r\n\r\n{\"body\":\"x\"}";
    assert_eq!(server.send(request.as_bytes()).await.status, 202);
    for host in ["127.0.0.1:1", "localhost", "[::1]:80", "warren.localhost"] {
        let request = format!("GET /v1/messages HTTP/1.1\r\nhost: {host}\r\n\r\n");
        assert_eq!(server.send(request.as_bytes()).await.status, 200, "{host}");
    }
}

#[tokio::test]
async fn a_few_read_at_once_and_who_waits_too_long_is_told_to_come_back() {
    let server = storing(&messages(3)).await;
    server.reader.hold(true);
    let mut reading = Vec::new();
    for _ in 0..READERS {
        let mut wire = Wire::connect(server.address).await;
        wire.send(b"GET /v1/messages HTTP/1.1\r\nhost: w\r\n\r\n").await;
        reading.push(wire);
    }
    server.reader.is_read_by(READERS).await;
    let refused = server.get("/v1/counts").await;
    assert_eq!(
        (refused.status, &refused.json()["type"]),
        (503, &json!("urn:warren:problem:overloaded"))
    );
    assert!(refused.header("retry-after").is_some());
    // Those who send are not held up.
    assert_eq!(server.post(r#"{"body":"x"}"#).await.status, 202);
    server.reader.hold(false);
    for mut wire in reading {
        assert_eq!(wire.answer().await.unwrap().status, 200);
    }
    assert_eq!(server.get("/v1/counts").await.status, 200);
}

#[tokio::test]
async fn a_large_answer_comes_whole() {
    let body = "é\u{1}\"".repeat(30_000);
    let batch: Vec<_> = (0..30).map(|_| message(Severity::Info, "large", &body)).collect();
    let server = storing(&batch).await;
    let answer = server.get("/v1/messages?limit=30").await;
    assert_eq!(
        answer.header("content-length"),
        Some(&*answer.body.len().to_string())
    );
    let page = answer.json();
    assert!(
        page["messages"]
            .as_array()
            .unwrap()
            .iter()
            .all(|message| message["body"] == body)
    );
    let head = server
        .send(b"HEAD /v1/messages HTTP/1.1\r\nhost: w\r\n\r\n")
        .await;
    assert_eq!((head.status, head.body.len()), (200, 0));
}
