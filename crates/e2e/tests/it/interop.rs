//! Programs in another language that know nothing but docs/packets.md.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{sleep, timeout};
use uuid::Uuid;
use warren_e2e::bed::{Bed, on_shared_servers};
use warren_e2e::http::Client;
use warren_e2e::request::Request;

use crate::python::{python, start};

const SEVERITIES: [&str; 5] = ["debug", "info", "warning", "error", "critical"];

/// Bounds a wait for something that takes seconds; no verdict depends on how long it takes.
const PATIENCE: Duration = Duration::from_secs(90);

fn documented(script: &str) -> Command {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("interop");
    let mut command = python();
    command.arg(folder.join(script)).stdin(Stdio::null());
    command
}

/// A consumer in Python, whose queue is bound.
struct Listener {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Listener {
    async fn start(bed: &Bed, severities: &[&str], pattern: &str, count: usize) -> Self {
        let exchanges = severities
            .iter()
            .map(|severity| format!("{}.{severity}", bed.topology.prefix()));
        let mut consumer = documented("consumer.py");
        consumer.arg(bed.topology.url()).args(exchanges).args([
            "--pattern",
            pattern,
            "--count",
            &count.to_string(),
        ]);
        let (child, output) = start(&mut consumer, "bound").await;
        Self { child, output }
    }

    /// Waits for its end; returns how many messages of each severity it has counted.
    async fn counts(mut self) -> BTreeMap<String, usize> {
        let mut text = String::new();
        timeout(PATIENCE, self.output.read_to_string(&mut text))
            .await
            .unwrap()
            .unwrap();
        let status = timeout(PATIENCE, self.child.wait()).await.unwrap().unwrap();
        assert!(
            status.success(),
            "the consumer in Python says on standard error why"
        );
        serde_json::from_str(&text).unwrap()
    }
}

fn counts(expected: &[(&str, usize)]) -> BTreeMap<String, usize> {
    expected
        .iter()
        .map(|(severity, count)| ((*severity).to_owned(), *count))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_in_python_count_what_was_posted() {
    on_shared_servers(async |bed| {
        let mut ingest = bed.ingest().unwrap();
        ingest.start_ready().await.unwrap();
        let all = Listener::start(bed, &SEVERITIES, "#", 1_505).await;
        let grave = Listener::start(bed, &["error", "critical"], "billing.#", 402).await;

        let mut client = Client::new(ingest.address());
        let mut post = async |body: String| {
            let answer = client.send(&Request::post(body)).await.unwrap();
            assert_eq!(answer.status, 202, "{}", answer.text_start());
        };
        // One alone of each, which is a packet of one line; then a thousand in one request, which share packets.
        for severity in SEVERITIES {
            post(format!(r#"{{"severity":"{severity}","source":"billing","body":"alone"}}"#)).await;
        }
        for source in ["billing.api", "shop"] {
            let lines = (0..750).map(|number| {
                let severity = match number {
                    0..200 => "error",
                    200..400 => "critical",
                    _ => SEVERITIES[number % 3],
                };
                format!(r#"{{"severity":"{severity}","source":"{source}","body":"a \"line\"\nand another","attributes":{{"n":{number}}}}}"#)
            });
            post(lines.collect::<Vec<_>>().join("\n")).await;
        }

        let number = |remainder| (400..750).filter(|number| number % 3 == remainder).count() * 2 + 1;
        let expected = [("debug", number(0)), ("info", number(1)), ("warning", number(2)), ("error", 401), ("critical", 401)];
        assert_eq!(all.counts().await, counts(&expected));
        assert_eq!(grave.counts().await, counts(&[("error", 201), ("critical", 201)]));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_publisher_in_python_sends_is_stored() {
    on_shared_servers(async |bed| {
        bed.migrate().await.unwrap();
        let mut worker = bed.worker().unwrap();
        worker.start_ready().await.unwrap();
        worker.wait_for("/readyz", 200, PATIENCE).await.unwrap();

        let mut publisher = documented("publisher.py");
        publisher.args([bed.topology.url(), bed.topology.prefix(), "legacy.billing"]);
        let Output { status, stdout, .. } = timeout(PATIENCE, publisher.stderr(Stdio::inherit()).output())
            .await
            .unwrap()
            .unwrap();
        assert!(
            status.success(),
            "the publisher in Python says on standard error why"
        );
        let sent: HashSet<Uuid> = String::from_utf8(stdout)
            .unwrap()
            .lines()
            .map(|id| id.parse().unwrap())
            .collect();
        assert_eq!(sent.len(), 5 * 101);

        let mut rows = Vec::new();
        timeout(PATIENCE, async {
            while rows.len() < sent.len() {
                rows.clear();
                bed.database.each_row(|row| rows.push(row)).await.unwrap();
                sleep(Duration::from_millis(50)).await;
            }
        })
        .await
        .unwrap();
        assert_eq!(rows.iter().map(|row| row.id).collect::<HashSet<_>>(), sent);
        for (number, severity) in [5, 9, 13, 17, 21].into_iter().enumerate() {
            let of_it: Vec<_> = rows.iter().filter(|row| row.severity == severity).collect();
            assert_eq!(of_it.len(), 101, "{}", SEVERITIES[number]);
            assert!(of_it.iter().all(|row| row.source == "legacy.billing"));
            let last = of_it
                .iter()
                .find(|row| row.body == "number 99 – ünïcode")
                .unwrap();
            assert_eq!(
                last.attributes["nested"]["list"],
                serde_json::json!([1, 2.5, null, "x"])
            );
            assert_eq!(last.occurred_at, 1_795_352_400_123_456);
        }
        bed.nothing_waits().await.unwrap();
    })
    .await;
}

#[test]
fn the_documentation_shows_the_programs_as_they_are() {
    let page = include_str!("../../../../docs/packets.md");
    for program in [
        include_str!("../../interop/consumer.py"),
        include_str!("../../interop/publisher.py"),
    ] {
        assert!(
            page.contains(&format!("```python\n{program}```")),
            "docs/packets.md differs from crates/e2e/interop"
        );
    }
}
