//! Every hostile request is answered as the table says, and harms nobody.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::hostile_requests::{Expect, Hostile, table};
use crate::server::TestServer;
use crate::wire::{Answer, Wire, exchange};

/// What is wrong with the answer to `hostile`, if anything is.
fn faults(hostile: &Hostile, answer: Option<&Answer>) -> Vec<String> {
    let Some(answer) = answer else {
        return vec!["closed without an answer".to_owned()];
    };
    let text = answer.text();
    let mut faults = Vec::new();
    let (status, says) = match &hostile.expect {
        Expect::Refused { status, says } => (*status, says.as_slice()),
        Expect::Taken { says, .. } => (202, says.as_slice()),
        Expect::Answered { status } => (*status, [].as_slice()),
    };
    if answer.status != status {
        faults.push(format!("status {}, not {status}", answer.status));
    }
    faults.extend(
        says.iter()
            .filter(|says| !text.contains(*says))
            .map(|says| format!("does not say {says}")),
    );
    if let Expect::Taken {
        accepted, rejected, ..
    } = &hostile.expect
        && answer.status == 202
    {
        let told = answer.json();
        if (told["accepted"].as_u64(), told["rejected"].as_u64())
            != (Some(*accepted as u64), Some(*rejected as u64))
        {
            faults.push(format!("not {accepted} accepted and {rejected} rejected"));
        }
    }
    if let Expect::Refused { .. } = &hostile.expect {
        if answer.header("content-type") != Some("application/problem+json") {
            faults.push("no problem document".to_owned());
        } else if answer.json()["hint"].as_str().is_none_or(str::is_empty) {
            faults.push("no remedy".to_owned());
        }
    }
    if answer.body.len() > 100_000 {
        faults.push(format!("an answer of {} bytes", answer.body.len()));
    }
    if !faults.is_empty() {
        faults.push(format!("the answer was: {}{:.600}", answer.head, text));
    }
    faults
}

#[tokio::test(flavor = "multi_thread")]
async fn every_hostile_request_is_answered_as_the_table_says_and_the_next_one_is_served() {
    let server = TestServer::start().await;
    let table = table();
    assert!(table.len() >= 120, "only {} requests", table.len());
    let mut names = HashSet::new();
    for hostile in &table {
        assert!(
            names.insert(hostile.name.as_str()),
            "two requests are called {}",
            hostile.name
        );
    }

    let mut all = String::new();
    let mut accepted = 0;
    for hostile in &table {
        let started = Instant::now();
        let answer = exchange(server.address, &hostile.request, hostile.shut).await;
        let mut faults = faults(hostile, answer.as_ref());
        if started.elapsed() > Duration::from_secs(8) {
            faults.push(format!("took {:?}", started.elapsed()));
        }
        let healthy = server.post(r#"{"body":"healthy"}"#).await;
        if healthy.status != 202 {
            faults.push(format!(
                "the healthy request after it was answered {}",
                healthy.status
            ));
        }
        accepted += 1;
        if let Expect::Taken { accepted: more, .. } = hostile.expect {
            accepted += more;
        }
        if !faults.is_empty() {
            all.push_str(&format!("\n* {}\n  {}", hostile.name, faults.join("\n  ")));
        }
    }
    assert!(all.is_empty(), "{all}");
    assert_eq!(
        server.publisher.taken().len(),
        accepted,
        "what was accepted is what was published"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_smuggled_behind_chunks_beside_a_length_is_not_answered() {
    let server = TestServer::start().await;
    let smuggled = table()
        .into_iter()
        .find(|hostile| hostile.name == "a length beside chunks")
        .unwrap();
    let mut wire = Wire::connect(server.address).await;
    wire.send(&smuggled.request).await;
    assert_eq!(wire.answer().await.unwrap().status, 400);
    assert!(
        wire.closes_within(Duration::from_secs(5)).await,
        "a second answer, or none and no end"
    );
}
