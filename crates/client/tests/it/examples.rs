//! The examples do what they say.

#[allow(dead_code, reason = "a test has a main of its own")]
#[path = "../../examples/embedded.rs"]
mod embedded;
#[allow(dead_code, reason = "a test has a main of its own")]
#[path = "../../examples/http.rs"]
mod http;
#[allow(dead_code, reason = "a test has a main of its own")]
#[path = "../../examples/rabbitmq.rs"]
mod rabbitmq;

use crate::http::Warren;
use crate::rabbitmq::Corner;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_over_http_publishes_three_messages() {
    let warren = Warren::start([]).await;
    let said = http::run(&format!("http://{}", warren.address)).await.unwrap();
    assert!(
        said.contains("published 3 (info 1, warning 1, error 1)\n"),
        "{said}"
    );
    let mut bodies: Vec<_> = warren
        .behind
        .taken()
        .iter()
        .map(|m| m.body.as_str().to_owned())
        .collect();
    bodies.sort();
    assert_eq!(bodies, ["card declined", "shop opened", "stock is low"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_example_stores_what_it_logs() {
    let folder = tempfile::tempdir().unwrap();
    let said = embedded::run(folder.path().join("data")).await.unwrap();
    assert!(
        said.ends_with("published 2 (info 1, critical 1)\n  stored 2"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_over_rabbitmq_has_every_message_confirmed() {
    Corner::run(async |corner| {
        let said = rabbitmq::run(corner.direct.clone()).await.unwrap();
        assert!(said.contains("published 10000 (debug 2000, "), "{said}");
        assert_eq!(corner.arrived(10_000).await.total(), 10_000);
    })
    .await;
}
