//! The scenario files, run as a user would: each consumer prints exactly what its file says.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::{Instant, sleep};
use warren_e2e::command::{Call, Ended, ended};
use warren_e2e::environment;
use warren_e2e::rabbit::Topology;

use crate::alone;

const SOON: Duration = Duration::from_secs(30);

fn shipped() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios");
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path().display().to_string())
        .collect();
    files.sort();
    assert!((1..=3).contains(&files.len()), "{files:?}");
    files
}

fn call(arguments: &[&str]) -> Call {
    let all: Vec<_> = ["scenario"].iter().chain(arguments).copied().collect();
    Call::of("warren", &all)
        .unwrap()
        .setting("WARREN_AMQP__URL", environment::amqp_url())
}

async fn scenario(arguments: &[&str]) -> Ended {
    call(arguments).run().await.unwrap()
}

/// A scenario of a few messages, changed before it is written.
fn small(change: impl FnOnce(String) -> String) -> (TempDir, String) {
    let text = r#"title = "A few messages"
about = "For tests."

[[send]]
severity = "error"
source = "billing.api"
count = 3
body = "card {n} declined"

[[send]]
severity = "info"
count = 20
body = "fine {n}"
twice = 5

[expect]
all = { error = 3, info = 20 }
debug-info = { info = 20 }
critical = {}
error = { error = 3 }
"#;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("small.toml");
    fs::write(&file, change(text.to_owned())).unwrap();
    (folder, file.display().to_string())
}

async fn all_pass(embedded: bool) {
    let _alone = alone().await;
    let files = shipped();
    let mut arguments = vec!["run", "--json"];
    arguments.extend(embedded.then_some("--embedded"));
    arguments.extend(files.iter().map(String::as_str));
    let ran = scenario(&arguments).await;
    assert_eq!(ran.code, Some(0), "{}{}", ran.output, ran.said);
    let verdicts: Vec<Value> = ran
        .output
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(verdicts.len(), files.len());
    for verdict in &verdicts {
        assert_eq!(verdict["passed"], true, "{verdict}");
        assert_eq!(
            verdict["on"],
            if embedded { "embedded" } else { "rabbitmq" },
            "{verdict}"
        );
        for group in ["all", "debug-info", "critical", "error"] {
            let group = &verdict["groups"][group];
            assert_eq!(group["expected"], group["printed"], "{verdict}");
        }
    }
    // The one with copies proves nothing without them.
    let again = |verdict: &Value| verdict["groups"]["all"]["duplicates"].as_u64();
    assert!(
        verdicts.iter().any(|verdict| again(verdict) >= Some(2_000)),
        "{verdicts:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_scenario_passes_on_rabbitmq() {
    all_pass(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_scenario_passes_in_one_process() {
    all_pass(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_expectation_fails_with_expected_and_printed_side_by_side() {
    let (_folder, file) =
        small(|text| text.replace("error = { error = 3 }", "error = { error = 4, debug = 1 }"));
    for on in [&["run", file.as_str()][..], &["run", "--embedded", &file]] {
        let ran = scenario(on).await;
        assert_eq!(ran.code, Some(1), "{}{}", ran.output, ran.said);
        assert!(
            ran.output.starts_with("FAILED  small  28 messages "),
            "{}",
            ran.output
        );
        assert!(ran.output.contains(": 2 of 20 counts differ\n"), "{}", ran.output);
        for line in [
            "  group       severity    expected     printed  difference\n",
            "  all         debug              0           0\n",
            "              info              20          20\n",
            "  error       debug              1           0  -1\n",
            "              error              4           3  -1\n",
        ] {
            assert!(ran.output.contains(line), "no {line:?} in\n{}", ran.output);
        }
        assert!(
            !ran.output.contains('\u{1b}'),
            "colours in a pipe: {}",
            ran.output
        );
        assert!(ran.said.contains("the log of "), "{}", ran.said);
        assert!(!ran.said.contains("panicked"), "{}", ran.said);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verdict_that_nobody_reads_decides_the_exit_code_all_the_same() {
    let (_folder, file) = small(|text| text.replace("error = { error = 3 }", "error = { error = 4 }"));
    let mut run = call(&["run", &file]).start().unwrap();
    drop(run.stdout.take());
    let ran = ended(run).await.unwrap();
    assert_eq!(ran.code, Some(1), "{}", ran.said);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_file_is_told_with_place_key_and_what_is_allowed_before_anything_starts() {
    for (from, to, told) in [
        (
            "count = 3",
            "cuont = 3",
            ":7:1: send[1].cuont: unknown key `cuont`, expected one of `severity`, `source`, `count`",
        ),
        (
            "severity = \"error\"",
            "severity = \"loud\"",
            ":5:12: send[1].severity: invalid value: string \"loud\", expected one of debug, info, warning, error",
        ),
        (
            "critical = {}",
            "fatal = {}",
            ":19:1: expect.fatal: unknown key `fatal`, expected one of `all`, `debug-info`, `critical`, `error`",
        ),
        (
            "count = 3",
            "count = -3",
            ":7:9: send[1].count: invalid value: integer `-3`, expected a number of messages",
        ),
        ("about = \"For tests.\"", "about = ", ":2:"),
    ] {
        let (_folder, file) = small(|text| text.replacen(from, to, 1));
        let right = shipped().remove(0);
        for command in ["check", "run"] {
            let ran = scenario(&[command, &right, &file]).await;
            assert_eq!(ran.code, Some(2), "{command} {to}: {}", ran.said);
            let place = format!("{file}{told}");
            assert!(ran.said.contains(&place), "no {place:?} in\n{}", ran.said);
            assert_eq!(ran.output, "", "{command} {to}");
        }
    }
    let ran = scenario(&["run", "/nowhere/at-all.toml"]).await;
    assert_eq!(ran.code, Some(2), "{}", ran.said);
    assert!(
        ran.said.contains("/nowhere/at-all.toml: cannot be read"),
        "{}",
        ran.said
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_shows_what_would_be_sent_and_needs_no_server() {
    let files = shipped();
    let mut arguments = vec!["check"];
    arguments.extend(files.iter().map(String::as_str));
    let ran = scenario(&arguments).await;
    assert_eq!(ran.code, Some(0), "{}", ran.said);
    for text in [
        "sends 22,000 messages, 2,000 of them a second time, shuffled by the seed 7",
        "after 9,000 messages: kills the consumer of error, which comes back 6,000 messages later",
        "expects          debug        info     warning       error    critical",
    ] {
        assert!(ran.output.contains(text), "no {text:?} in\n{}", ran.output);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_away_is_told_at_once_and_without_its_password() {
    let (_folder, file) = small(|text| text);
    let ran = call(&["run", &file])
        .setting("WARREN_AMQP__URL", "amqp://user:hunter2@127.0.0.1:1")
        .run()
        .await
        .unwrap();
    assert_eq!(ran.code, Some(1), "{}", ran.said);
    assert!(
        ran.output
            .contains("FAILED  small  RabbitMQ (amqp.url) cannot be used"),
        "{}",
        ran.output
    );
    assert!(ran.output.contains("127.0.0.1:1"), "{}", ran.output);
    assert!(!format!("{}{}", ran.output, ran.said).contains("hunter2"));
}

/// The processes whose environment holds `text`, and their prefix in the broker.
fn processes_with(text: &str) -> Vec<(u32, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        let prefix = String::from_utf8_lossy(&environment)
            .split('\0')
            .find_map(|variable| variable.strip_prefix("WARREN_AMQP__PREFIX=").map(str::to_owned));
        if let Some(prefix) = prefix.filter(|prefix| prefix.starts_with(text)) {
            found.push((pid, prefix));
        }
    }
    found
}

/// Waits until as many consumers of the scenario run as expected.
async fn wait_for(base: &str, consumers: usize) -> Vec<(u32, String)> {
    let deadline = Instant::now() + SOON;
    loop {
        let scenario = format!("{base}.scenario-");
        let found = processes_with(&scenario);
        if found.len() == consumers {
            return found;
        }
        assert!(Instant::now() < deadline, "{consumers} expected: {found:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

async fn signal(signal: &str, pid: u32) {
    let sent = Command::new("sh")
        .arg("-c")
        .arg(format!("kill -s {signal} {pid}"))
        .status()
        .await
        .unwrap();
    assert!(sent.success());
}

fn with_a_pause() -> (TempDir, String) {
    small(|text| text.replace("[expect]", "[[pause]]\nafter = 10\nfor = \"60s\"\n\n[expect]"))
}

/// Starts a scenario that pauses in its middle, and returns it with the prefix it was given.
async fn paused(file: &str) -> (tokio::process::Child, String, Topology) {
    let base = Topology::new(environment::amqp_url()).prefix().to_owned();
    let runner = call(&["run", file])
        .setting("WARREN_AMQP__PREFIX", &base)
        .start()
        .unwrap();
    let consumers = wait_for(&base, 4).await;
    let topology = Topology::named(environment::amqp_url(), consumers[0].1.clone());
    // The last of the four consumers consumes once its queue is there; then messages are sent.
    let deadline = Instant::now() + SOON;
    while !topology.waiting("store").await.is_ok_and(|waiting| waiting > 0) {
        assert!(Instant::now() < deadline, "nothing was sent");
        sleep(Duration::from_millis(50)).await;
    }
    (runner, base, topology)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_interrupted_leaves_nothing_behind() {
    let (_folder, file) = with_a_pause();
    let (runner, base, topology) = paused(&file).await;
    signal("INT", runner.id().unwrap()).await;
    let ran = ended(runner).await.unwrap();
    assert_eq!(ran.code, Some(1), "{}{}", ran.output, ran.said);
    assert!(
        ran.output.contains("FAILED  small  interrupted"),
        "{}",
        ran.output
    );
    wait_for(&base, 0).await;
    assert!(
        topology.waiting("store").await.is_err(),
        "the queue is still there"
    );
    assert!(
        topology.waiting("group.all").await.is_err(),
        "a group's queue is still there"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_killed_takes_its_consumers_with_it() {
    let (_folder, file) = with_a_pause();
    let (mut runner, base, topology) = paused(&file).await;
    runner.kill().await.unwrap();
    wait_for(&base, 0).await;
    topology.remove().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_to_be_kept_is_kept_and_named() {
    let (_folder, file) = small(|text| text);
    let ran = scenario(&["run", "--keep", &file]).await;
    assert_eq!(ran.code, Some(0), "{}{}", ran.output, ran.said);
    let after = |text: &str| {
        let line = ran.said.lines().find(|line| line.contains(text)).unwrap();
        line.rsplit(' ').next().unwrap().to_owned()
    };
    let topology = Topology::named(environment::amqp_url(), after("names begin with"));
    assert!(topology.waiting("store").await.is_ok());
    topology.remove().await.unwrap();
    let folder = PathBuf::from(after("kept: /"));
    assert!(folder.join("tally").is_dir(), "{}", folder.display());
    fs::remove_dir_all(folder).unwrap();
}
