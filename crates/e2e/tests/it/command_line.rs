//! The command line for people: what they type, what they read, and what a script gets.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};
use warren_e2e::bed::{Bed, on_shared_servers};
use warren_e2e::command::{Call, Ended, ended};
use warren_e2e::environment;
use warren_e2e::http::Client;
use warren_e2e::process::Service;
use warren_e2e::request::Request;
use warren_e2e::sqlite::DataFolder;

const SOON: Duration = Duration::from_secs(30);

async fn warren(arguments: &[&str]) -> Ended {
    Call::of("warren", arguments).unwrap().run().await.unwrap()
}

/// A call of the command line with the settings of a running program.
fn beside(service: &Service, arguments: &[&str]) -> Call {
    Call::of("warren", arguments)
        .unwrap()
        .setting("WARREN_HTTP__LISTEN", service.address().to_string())
}

/// A call of the command line with the broker of a test.
fn on(bed: &Bed, arguments: &[&str]) -> Call {
    Call::of("warren", arguments)
        .unwrap()
        .setting("WARREN_AMQP__URL", bed.topology.url())
        .setting("WARREN_AMQP__PREFIX", bed.topology.prefix())
}

async fn stored(data: &DataFolder, count: u64) {
    let deadline = Instant::now() + SOON;
    while data.count().await.unwrap() < count {
        assert!(Instant::now() < deadline, "{count} messages are never stored");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_the_command_line_is_stored_as_it_was_given() {
    let data = DataFolder::create().unwrap();
    let mut server = data.warren().unwrap();
    server.start_ready().await.unwrap();
    let sent = beside(
        &server,
        &[
            "send",
            "--severity",
            "err",
            "--source",
            "billing.api",
            "-a",
            "order=42",
            "-a",
            "user=ada",
            "-a",
            r#"items=[{"sku":"a"}]"#,
            "--attribute",
            "note=",
            "--ids",
            "card declined",
        ],
    );
    let sent = sent.run().await.unwrap();
    assert_eq!(sent.code, Some(0), "{}", sent.said);
    assert!(
        sent.said.starts_with("sent 1 message to http://"),
        "{}",
        sent.said
    );
    stored(&data, 1).await;
    let rows = data.read().await.unwrap();
    assert_eq!(rows[0].id.to_string(), sent.output.trim());
    assert_eq!((rows[0].severity, rows[0].source.as_str()), (17, "billing.api"));
    assert_eq!(rows[0].body, "card declined");
    assert_eq!(
        rows[0].attributes.clone(),
        json!({"order": 42, "user": "ada", "items": [{"sku": "a"}], "note": ""})
    );
    server.stop(SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_line_is_a_message_and_what_is_none_is_told_by_its_number() {
    let data = DataFolder::create().unwrap();
    let mut server = data.warren().unwrap();
    server.start_ready().await.unwrap();

    let lines: String = (1..=20_000).map(|n| format!("line {n}\n")).collect();
    let sent = beside(&server, &["send", "-", "--json"]).input(lines);
    let sent = sent.run().await.unwrap();
    assert_eq!(sent.code, Some(0), "{}", sent.said);
    let summary: Value = serde_json::from_str(&sent.output).unwrap();
    assert_eq!(
        (&summary["sent"], &summary["failed"], &summary["unknown"]),
        (&json!(20_000), &json!(0), &json!(0))
    );
    assert_eq!(sent.said.lines().count(), 1, "more than a summary: {}", sent.said);

    let mut bytes = b"first\n\n   \nbad \xff\xfe\r\nlast\r\n".to_vec();
    bytes.extend(vec![b'x'; 300_000]);
    let sent = beside(&server, &["send", "-"]).input(bytes).run().await.unwrap();
    assert_eq!(sent.code, Some(1), "{}", sent.said);
    for text in [
        "line 4 is not sent: not UTF-8 at its byte 5\n",
        "line 6 is not sent: longer than 262144 bytes (intake.max_body)\n",
        "sent 2 messages to http://",
        "; 2 messages not sent\n",
    ] {
        assert!(sent.said.contains(text), "no {text:?} in {}", sent.said);
    }
    stored(&data, 20_002).await;
    server.stop(SOON).await.unwrap();
    let rows = data.read().await.unwrap();
    let mut bodies: Vec<_> = rows.iter().map(|row| row.body.as_str()).collect();
    bodies.retain(|body| !body.starts_with("line "));
    bodies.sort_unstable();
    assert_eq!((rows.len(), bodies), (20_002, vec!["first", "last"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_listens_there_and_it_is_said_in_time() {
    let nobody = Service::new("warren").unwrap();
    let sent = beside(&nobody, &["send", "--timeout", "4s", "hello"]);
    let sent = sent.run().await.unwrap();
    assert_eq!(sent.code, Some(1), "{}", sent.said);
    assert!(sent.said.contains("waiting: "), "{}", sent.said);
    assert!(sent.said.contains("sent 0 messages"), "{}", sent.said);
    assert!(sent.said.contains("given up"), "{}", sent.said);
    let address = nobody.address().to_string();
    let groups = beside(&nobody, &["groups"]).run().await.unwrap();
    assert_eq!(groups.code, Some(1), "{}", groups.said);
    assert!(
        groups.said.contains(&address) && groups.said.contains("start `warren` there"),
        "{}",
        groups.said
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_stops_reading_the_ids_does_not_stop_the_sending() {
    let data = DataFolder::create().unwrap();
    let mut server = data.warren().unwrap();
    server.start_ready().await.unwrap();
    let mut sending = Command::new(environment::binary("warren").unwrap())
        .args(["send", "--ids", "-"])
        .env("WARREN_HTTP__LISTEN", server.address().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    // Nobody reads any more before the first id is printed.
    drop(sending.stdout.take());
    let mut input = sending.stdin.take().unwrap();
    input.write_all("line\n".repeat(500).as_bytes()).await.unwrap();
    drop(input);
    let sent = ended(sending).await.unwrap();
    assert_eq!(sent.code, Some(0), "{}", sent.said);
    assert!(sent.said.starts_with("sent 500 messages"), "{}", sent.said);
    stored(&data, 500).await;
    server.stop(SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_send_sends_what_it_has_read() {
    let data = DataFolder::create().unwrap();
    let mut server = data.warren().unwrap();
    server.start_ready().await.unwrap();
    let mut sending = Command::new(environment::binary("warren").unwrap())
        .args(["send", "-"])
        .env("WARREN_HTTP__LISTEN", server.address().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    // Held open: only the signal ends it.
    let mut input = sending.stdin.take().unwrap();
    input.write_all(b"one\ntwo\nthree without end").await.unwrap();
    stored(&data, 2).await;
    interrupt(sending.id().unwrap()).await;
    let sent = ended(sending).await.unwrap();
    drop(input);
    assert_eq!(sent.code, Some(1), "{}", sent.said);
    assert!(sent.said.starts_with("sent 2 messages"), "{}", sent.said);
    assert!(sent.said.ends_with("; interrupted\n"), "{}", sent.said);
    server.stop(SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_what_a_silent_server_was_sent_nobody_claims_to_know_anything() {
    let data = DataFolder::create().unwrap();
    let mut server = data.warren().unwrap();
    server.start_ready().await.unwrap();
    signal("STOP", server.pid().unwrap()).await;
    let lines: String = (1..=10).map(|n| format!("line {n}\n")).collect();
    let sent = beside(&server, &["send", "-", "--json", "--timeout", "3s"]).input(lines);
    let sent = sent.run().await.unwrap();
    signal("CONT", server.pid().unwrap()).await;
    assert_eq!(sent.code, Some(1), "{}", sent.said);
    let summary: Value = serde_json::from_str(&sent.output).unwrap();
    assert_eq!(
        (&summary["sent"], &summary["complete"]),
        (&json!(0), &json!(false))
    );
    // What was handed over may arrive; what still waited behind it was surely not sent.
    let (unknown, failed) = (summary["unknown"].as_u64(), summary["failed"].as_u64());
    assert!(unknown >= Some(1), "{summary}");
    assert_eq!(
        unknown.zip(failed).map(|(unknown, failed)| unknown + failed),
        Some(10)
    );
    assert!(sent.said.contains("it is not known"), "{}", sent.said);
    server.stop(SOON).await.unwrap();
}

/// Sends what Ctrl-C sends.
async fn interrupt(pid: u32) {
    signal("INT", pid).await;
}

async fn signal(signal: &str, pid: u32) {
    let script = format!("kill -s {signal} {pid}");
    let sent = Command::new("sh").args(["-c", &script]).status().await.unwrap();
    assert!(sent.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_told_with_value_place_and_what_is_allowed() {
    for (arguments, told) in [
        (&["send"][..], &["TEXT"][..]),
        (
            &["send", "x", "--severity", "loud"],
            &["'loud'", "--severity", "debug, info, warning, error, critical"],
        ),
        (
            &["send", "x", "--source", "a..b"],
            &["'a..b'", "--source", "such as billing.api"],
        ),
        (&["send", "x", "-a", "order"], &["'order'", "KEY=VALUE"]),
        (&["send", "x", "-a", "a=1", "-a", "a=2"], &["'a' is given twice"]),
        (
            &["send", "x", "--to", "ftp://user:hunter2@host"],
            &["ftp://", "--to", "amqp://", "http://"],
        ),
        (
            &["send", "x", "--to", "amqp://user:hunter2@host:999999"],
            &["--to", "port"],
        ),
        (&["send", "x", "--timeout", "0s"], &["'0s'", "--timeout"]),
        (
            &["tail", "--severity", "loud+"],
            &["loud", "--severity", "debug, info, warning, error, critical"],
        ),
        (&["tail", "--severity", ","], &["--severity", "names no severity"]),
        (
            &["tail", "--source", "bill*"],
            &["'bill*'", "--source", "billing.*"],
        ),
        (&["tail", "--count", "0"], &["'0'", "--count"]),
        (
            &["groups", "--every", "1ms"],
            &["'1ms'", "--every", "between 100ms"],
        ),
        (&["scenario", "run"], &["FILE"]),
        (&["sned"], &["sned", "send"]),
    ] {
        let ran = warren(arguments).await;
        assert_eq!(ran.code, Some(2), "{arguments:?}: {}", ran.said);
        assert_eq!(ran.output, "", "{arguments:?}");
        for text in told {
            assert!(
                ran.said.contains(text),
                "{arguments:?}: no {text:?} in {}",
                ran.said
            );
        }
        assert!(!ran.said.contains("hunter2"), "{}", ran.said);
    }
    let wrong = warren(&["send", "x", "--set", "http.listen=nowhere"]).await;
    assert_eq!(wrong.code, Some(78), "{}", wrong.said);
    assert!(wrong.said.contains("http.listen"), "{}", wrong.said);
}

/// A tail that listens.
struct Tail {
    child: Child,
    output: Lines<BufReader<tokio::process::ChildStdout>>,
    said: Lines<BufReader<tokio::process::ChildStderr>>,
}

async fn line<R: AsyncRead + Unpin>(lines: &mut Lines<BufReader<R>>) -> String {
    let line = timeout(SOON, lines.next_line()).await.unwrap().unwrap();
    line.expect("one more line")
}

impl Tail {
    async fn begin(call: Call) -> Self {
        let mut child = call.start().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        let said = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut tail = Self { child, output, said };
        let begins = line(&mut tail.said).await;
        assert!(begins.starts_with("listening to "), "{begins}");
        tail
    }

    async fn code(mut self) -> Option<i32> {
        timeout(SOON, self.child.wait()).await.unwrap().unwrap().code()
    }
}

async fn send(bed: &Bed, arguments: &[&str]) {
    let all: Vec<_> = ["send", "--to", "amqp"]
        .iter()
        .chain(arguments)
        .copied()
        .collect();
    let sent = on(bed, &all).run().await.unwrap();
    assert_eq!(sent.code, Some(0), "{}", sent.said);
    assert!(!sent.said.contains("guest:guest"), "{}", sent.said);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_shows_what_is_sent_of_its_severities_and_sources_and_ends_with_its_count() {
    on_shared_servers(async |bed| {
        let selecting = [
            "tail",
            "--severity",
            "error+",
            "--source",
            "billing.#",
            "--source",
            "shop",
        ];
        let json: Vec<_> = selecting
            .iter()
            .chain(&["--json", "--count", "2"])
            .copied()
            .collect();
        let mut json = Tail::begin(on(bed, &json)).await;
        let mut text = Tail::begin(on(bed, &selecting)).await;
        let evil = "declined\u{1b}[2J\r\nforged";
        send(
            bed,
            &["--severity", "info", "--source", "billing.api", "not this"],
        )
        .await;
        send(bed, &["--severity", "error", "--source", "warehouse", "nor this"]).await;
        send(
            bed,
            &[
                "--severity",
                "error",
                "--source",
                "billing.api",
                "-a",
                "n=1",
                evil,
            ],
        )
        .await;
        send(bed, &["--severity", "critical", "--source", "shop", "on fire"]).await;

        let first: Value = serde_json::from_str(&line(&mut json.output).await).unwrap();
        assert_eq!(first["body"], evil);
        assert_eq!(first["attributes"], json!({"n": 1}));
        let second: Value = serde_json::from_str(&line(&mut json.output).await).unwrap();
        assert_eq!(
            (&second["severity"], &second["source"]),
            (&json!("critical"), &json!("shop"))
        );
        assert_eq!(json.code().await, Some(0));

        let first = line(&mut text.output).await;
        assert!(
            first.ends_with(r"Z error    billing.api  declined\u{1b}[2J\r\nforged  n=1"),
            "{first}"
        );
        assert!(line(&mut text.output).await.ends_with("Z critical shop  on fire"));
        // Whoever reads has seen enough: it notices with the next line, and that is no failure.
        drop(text.output);
        send(bed, &["--severity", "error", "--source", "shop", "again"]).await;
        let mut child = text.child;
        let status = timeout(SOON, child.wait()).await.unwrap().unwrap();
        assert_eq!(status.code(), Some(0));
        assert_eq!(
            text.said.next_line().await.unwrap(),
            None,
            "an ended pipe is no fault"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_ends_a_tail_with_success() {
    on_shared_servers(async |bed| {
        let tail = Tail::begin(on(bed, &["tail"])).await;
        interrupt(tail.child.id().unwrap()).await;
        assert_eq!(tail.code().await, Some(0));
        send(bed, &["so that there is something to remove"]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_away_is_told_and_no_password_with_it() {
    let away = "amqp://user:hunter2@127.0.0.1:1";
    let sent = warren(&["send", "--to", away, "--timeout", "7s", "hello"]).await;
    assert_eq!(sent.code, Some(1), "{}", sent.said);
    assert!(sent.said.contains("127.0.0.1:1"), "{}", sent.said);
    assert!(!sent.said.contains("hunter2"), "{}", sent.said);

    let tail = Call::of("warren", &["tail"])
        .unwrap()
        .setting("WARREN_AMQP__URL", away);
    let mut tail = tail.start().unwrap();
    let mut said = BufReader::new(tail.stderr.take().unwrap()).lines();
    let told = line(&mut said).await;
    assert!(
        told.contains("not connected") && told.contains("127.0.0.1:1"),
        "{told}"
    );
    assert!(!told.contains("hunter2"), "{told}");
    tail.start_kill().unwrap();
    ended(tail).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_groups_of_the_running_process_are_shown_as_table_and_as_json() {
    let data = DataFolder::create().unwrap();
    let mut server = data.warren().unwrap();
    server.start_ready().await.unwrap();
    for severity in ["error", "debug", "warning"] {
        let sent = beside(&server, &["send", "--severity", severity, "hello"]);
        assert_eq!(sent.run().await.unwrap().code, Some(0));
    }
    let deadline = Instant::now() + SOON;
    let groups = loop {
        let asked = beside(&server, &["groups", "--json"]).run().await.unwrap();
        assert_eq!(asked.code, Some(0), "{}", asked.said);
        let groups: Vec<Value> = asked
            .output
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        if groups[0]["total"] == 3 && groups[1]["total"] == 1 && groups[3]["total"] == 1 {
            break groups;
        }
        assert!(Instant::now() < deadline, "{}", asked.output);
        sleep(Duration::from_millis(50)).await;
    };
    let names: Vec<_> = groups
        .iter()
        .map(|group| group["group"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["all", "debug-info", "critical", "error"]);
    assert_eq!(groups[0]["received"]["warning"], 1);
    assert_eq!(groups[2]["total"], 0);

    let table = beside(&server, &["groups"]).run().await.unwrap();
    assert_eq!(table.code, Some(0), "{}", table.said);
    assert!(
        table.output.contains("debug-info") && table.output.contains("warning"),
        "{}",
        table.output
    );
    server.stop(SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_without_groups_says_who_has_some() {
    on_shared_servers(async |bed| {
        let mut ingest = bed.ingest().unwrap();
        ingest.start_ready().await.unwrap();
        let asked = beside(&ingest, &["groups"]).run().await.unwrap();
        assert_eq!(asked.code, Some(1), "{}", asked.said);
        assert!(asked.said.contains("severity-consumer"), "{}", asked.said);
        ingest.stop(SOON).await.unwrap();
    })
    .await;
}

/// Sends messages 0 to `count`, of which each third is an error of billing.
async fn numbered(server: &Service, count: usize) {
    let lines: String = (0..count)
        .map(|n| {
            let (severity, source) = [("info", "shop"), ("error", "billing.api"), ("debug", "shop")][n % 3];
            format!("{{\"severity\":\"{severity}\",\"source\":\"{source}\",\"body\":\"number {n}\",\"attributes\":{{\"n\":{n}}}}}\n")
        })
        .collect();
    let request = Request::post(lines);
    let answer = Client::new(server.address()).send(&request).await.unwrap();
    assert_eq!(answer.status, 202, "{}", answer.text_start());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_shows_the_newest_that_match_the_newest_last_over_as_many_pages_as_it_takes() {
    let data = DataFolder::create().unwrap();
    let mut server = data.warren().unwrap();
    server.start_ready().await.unwrap();
    numbered(&server, 1_800).await;
    stored(&data, 1_800).await;
    let asked = async |arguments: &[&str]| {
        let ended = beside(&server, &[&["query"], arguments].concat())
            .run()
            .await
            .unwrap();
        assert_eq!(ended.code, Some(0), "{}", ended.said);
        ended
    };

    let errors = [
        "number",
        "--severity",
        "error+",
        "--source",
        "billing.#",
        "--since",
        "1h",
    ];
    let found = asked(&[&errors[..], &["--limit", "570", "--json"]].concat()).await;
    let numbers: Vec<u64> = found
        .output
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["attributes"]["n"]
                .as_u64()
                .unwrap()
        })
        .collect();
    let expected: Vec<u64> = (0..1_800).filter(|n| n % 3 == 1).skip(30).collect();
    assert_eq!(numbers, expected);
    assert!(found.said.contains("--limit"), "{}", found.said);

    let found = asked(&["n=1798", "--newest-first"]).await;
    assert!(
        found
            .output
            .ends_with("Z error    billing.api  number 1798  n=1798\n"),
        "{}",
        found.output
    );
    assert_eq!((found.output.lines().count(), found.said.as_str()), (1, ""));
    let newest = asked(&["--limit", "3", "--newest-first", "--json"]).await;
    let first: Value = serde_json::from_str(newest.output.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&first["attributes"]["n"], newest.output.lines().count()),
        (&json!(1799), 3)
    );
    let none = asked(&["--", "-number"]).await;
    assert_eq!((none.output.as_str(), none.said.as_str()), ("", "no messages\n"));
    server.stop(SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_query_is_pointed_at() {
    let data = DataFolder::create().unwrap();
    let mut server = data.warren().unwrap();
    server.start_ready().await.unwrap();
    let wrong = beside(&server, &["query", "card severity:loud"])
        .run()
        .await
        .unwrap();
    assert_eq!(wrong.code, Some(2), "{}", wrong.said);
    let lines: Vec<_> = wrong.said.lines().collect();
    assert!(lines[0].contains("severity"), "{}", wrong.said);
    assert_eq!(lines[2], "  card severity:loud");
    assert_eq!(lines[3], "                ^^^^");
    server.stop(SOON).await.unwrap();

    let away = beside(&server, &["query", "card"]).run().await.unwrap();
    assert_eq!(away.code, Some(1), "{}", away.said);
    assert!(
        away.said.contains("does not answer") && away.said.contains("--to"),
        "{}",
        away.said
    );
}

/// A page of an answer with one message, and with more behind it or not.
fn page(n: u64, next: Option<&str>) -> (u16, Value) {
    let message = json!({
        "id": format!("019aa0c0-0000-7000-8000-{n:012}"), "severity": "error", "source": "billing.api",
        "body": format!("number {n}"), "occurred_at": "2026-11-22T13:00:00Z",
    });
    let reached = "2026-11-22T12:00:00.000000Z";
    (
        200,
        json!({"messages": [message], "next": next, "complete": next.is_none(), "reached": reached}),
    )
}

/// A server that answers as it is told, the last answer again and again; returns where it listens.
async fn answering(answers: Vec<(u16, Value)>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let last = answers.last().cloned().into_iter().cycle();
        for (status, body) in answers.into_iter().chain(last) {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            let body = body.to_string();
            let answer = format!(
                "HTTP/1.1 {status} x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    to
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_asks_a_busy_server_again_and_shows_what_it_has_when_that_is_in_vain() {
    let busy = || (503, json!({"detail": "too many read", "hint": "ask again"}));
    let asked = async |answers, arguments: &[&str]| {
        let to = answering(answers).await;
        warren(&[&["query", "--to", &to], arguments].concat()).await
    };
    let (newer, older) = (|| page(2, Some("a")), || page(1, None));
    let line = |n: u64| format!("2026-11-22T13:00:00.000Z error    billing.api  number {n}\n");

    let found = asked(vec![busy(), newer(), busy(), busy(), older()], &[]).await;
    assert_eq!(
        (found.code, found.output, found.said.as_str()),
        (Some(0), line(1) + &line(2), "")
    );

    for arguments in [&[][..], &["--newest-first"], &["--json"]] {
        let found = asked(vec![newer(), busy()], arguments).await;
        assert_eq!((found.code, found.output.lines().count()), (Some(1), 1));
        assert_eq!(
            found.said,
            "looked back to 2026-11-22T12:00:00.000000Z; what is older is not shown\n\
             error: too many read; ask again\n"
        );
    }

    let round = asked(vec![newer()], &[]).await;
    assert_eq!((round.code, round.output), (Some(1), line(2) + &line(2)));
    assert!(round.said.contains("again and again"), "{}", round.said);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_follows_shows_what_was_stored_and_then_what_is_published_through_a_restart() {
    on_shared_servers(async |bed| {
        let [mut ingest, mut worker, mut query] = bed.start_all().await.unwrap();
        numbered(&ingest, 6).await;
        let deadline = Instant::now() + SOON;
        while bed.database.count().await.unwrap() < 6 {
            assert!(Instant::now() < deadline, "they are never stored");
            sleep(Duration::from_millis(20)).await;
        }
        let to = format!("http://{}", query.address());
        let call = Call::of(
            "warren",
            &["query", "--severity", "error", "--follow", "--json", "--to", &to],
        )
        .unwrap();
        let mut following = call.start().unwrap();
        let mut output = BufReader::new(following.stdout.take().unwrap()).lines();
        let mut said = BufReader::new(following.stderr.take().unwrap()).lines();
        let body = |line: String| serde_json::from_str::<Value>(&line).unwrap()["body"].clone();
        assert_eq!(body(line(&mut output).await), "number 1");
        assert_eq!(body(line(&mut output).await), "number 4");
        numbered(&ingest, 3).await;
        assert_eq!(body(line(&mut output).await), "number 1");
        query.stop(SOON).await.unwrap();
        assert!(line(&mut said).await.contains("trying again"));
        query.start_ready().await.unwrap();
        while line(&mut said).await != "connected again" {}
        // Another process has another memory: it says that something may be missing, and where to look.
        assert!(line(&mut said).await.contains("--since"));
        numbered(&ingest, 3).await;
        assert_eq!(body(line(&mut output).await), "number 1");
        interrupt(following.id().unwrap()).await;
        assert_eq!(
            timeout(SOON, following.wait()).await.unwrap().unwrap().code(),
            Some(0)
        );
        for service in [&mut query, &mut ingest, &mut worker] {
            service.stop(SOON).await.unwrap();
        }
    })
    .await;
}
