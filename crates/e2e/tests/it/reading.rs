//! What was sent to the embedded program is found again over HTTP, by the search text and page by page.

use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};
use warren_e2e::http::{Answer, Client};
use warren_e2e::request::Request;
use warren_e2e::sqlite::DataFolder;

const PATIENCE: Duration = Duration::from_secs(60);
const MESSAGES: usize = 300;

async fn get(client: &mut Client, target: &str) -> Answer {
    client.send(&Request::get(target)).await.unwrap()
}

async fn json(client: &mut Client, target: &str) -> Value {
    let answer = get(client, target).await;
    assert_eq!(answer.status, 200, "{target}: {}", answer.text_start());
    answer.json().unwrap()
}

/// Turns every page; returns the bodies.
async fn all(client: &mut Client, query: &str) -> Vec<String> {
    let (mut bodies, mut after) = (Vec::new(), String::new());
    loop {
        let page = json(client, &format!("/v1/messages?limit=40&{query}{after}")).await;
        let messages = page["messages"].as_array().unwrap();
        assert!(messages.len() <= 40, "{query}");
        bodies.extend(
            messages
                .iter()
                .map(|message| message["body"].as_str().unwrap().to_owned()),
        );
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return bodies,
        }
    }
}

fn total(counts: &Value) -> u64 {
    let counts = counts.as_object().unwrap().values();
    counts.map(|count| count.as_u64().unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_is_found_counted_and_shown_and_found_again_after_a_restart() {
    let folder = DataFolder::create().unwrap();
    let mut warren = folder.warren().unwrap();
    warren.start_ready().await.unwrap();
    let mut client = Client::new(warren.address());
    let lines: String = (0..MESSAGES)
        .map(|n| {
            let (severity, source) = [("info", "shop.web"), ("error", "billing.api"), ("debug", "sensor-7")][n % 3];
            format!(
                "{{\"severity\":\"{severity}\",\"source\":\"{source}\",\"body\":\"message {n} DECLINED 100%\",\
                 \"attributes\":{{\"order\":{n}}}}}\n"
            )
        })
        .collect();
    let request = Request::post(lines).header("content-type", "application/x-ndjson");
    assert_eq!(client.send(&request).await.unwrap().status, 202);
    let deadline = Instant::now() + PATIENCE;
    while folder.count().await.unwrap() < MESSAGES as u64 {
        assert!(Instant::now() < deadline, "all of them are stored");
        sleep(Duration::from_millis(50)).await;
    }

    let oldest: Vec<_> = (0..MESSAGES)
        .map(|n| format!("message {n} DECLINED 100%"))
        .collect();
    assert_eq!(
        all(&mut client, "order=oldest&q=declined+%22100%25%22").await,
        oldest
    );
    let errors: Vec<_> = oldest.iter().skip(1).step_by(3).rev().cloned().collect();
    assert_eq!(
        all(&mut client, "severity=error+&from=-1h&source=billing.%23").await,
        errors
    );
    assert_eq!(all(&mut client, "q=order=42").await, ["message 42 DECLINED 100%"]);
    assert_eq!(all(&mut client, "q=refunded").await, Vec::<String>::new());

    let counts = json(&mut client, "/v1/counts?from=-1d&bucket=1h").await;
    let buckets = counts["buckets"].as_array().unwrap();
    assert_eq!(
        buckets.iter().map(|bucket| total(&bucket["counts"])).sum::<u64>(),
        MESSAGES as u64
    );
    let listed = json(&mut client, "/v1/sources?from=-1h").await;
    let sources = listed["sources"].as_array().unwrap();
    let sources: Vec<_> = sources
        .iter()
        .map(|one| (&one["source"], total(&one["counts"])))
        .collect();
    assert_eq!(sources.len(), 3);
    assert!(
        sources.iter().all(|(_, count)| *count == MESSAGES as u64 / 3),
        "{sources:?}"
    );

    let found = json(&mut client, "/v1/messages?q=order=42").await;
    let id = found["messages"][0]["id"].as_str().unwrap().to_owned();
    let shown = json(&mut client, &format!("/v1/messages/{id}?neighbours=3")).await;
    let orders = |side: &str| -> Vec<u64> {
        let side = shown[side].as_array().unwrap().iter();
        side.map(|message| message["attributes"]["order"].as_u64().unwrap())
            .collect()
    };
    assert_eq!(
        (orders("newer"), orders("older")),
        (vec![43, 44, 45], vec![41, 40, 39])
    );

    let faulty = get(&mut client, "/v1/messages?q=declined+severity:loud").await;
    assert_eq!(
        (faulty.status, faulty.json().unwrap()["parameter"].as_str()),
        (400, Some("q"))
    );
    let page = client
        .send(&Request::get("/").header("accept", "text/html"))
        .await
        .unwrap();
    assert!(
        page.text_start().starts_with("<!doctype html>"),
        "{}",
        page.text_start()
    );
    assert_eq!(get(&mut client, "/console/app.js").await.status, 200);

    warren.stop(PATIENCE).await.unwrap();
    warren.start_ready().await.unwrap();
    let mut client = Client::new(warren.address());
    assert_eq!(all(&mut client, "severity=error&q=declined").await, errors);
    warren.stop(PATIENCE).await.unwrap();
}
