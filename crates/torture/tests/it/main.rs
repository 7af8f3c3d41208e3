//! What a crash of the process cannot show, because the system keeps what was written: the order of the system calls.
#![allow(missing_docs, clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use warren_e2e::environment;
use warren_e2e::http::Client;
use warren_e2e::process::Service;
use warren_e2e::request::Request;
use warren_e2e::sqlite::DataFolder;
use warren_test_servers::find_strace;

/// How many requests are looked at.
const REQUESTS: usize = 20;

const CALLS: &str = "trace=fdatasync,fsync,pwrite64,write,writev,read,readv,recvfrom,sendto,sendmsg";

/// What matters of a trace, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Request,
    Write,
    Sync,
    Answer,
}

/// Reads the calls that matter. A call that another thread's interrupts stands where it ended, which is when its effect
/// can be relied on.
fn calls(trace: &str) -> Vec<Call> {
    let queue = |line: &str| line.contains("queue.db-wal>");
    // By thread: what its unfinished call was.
    let mut unfinished: std::collections::HashMap<&str, &str> = std::collections::HashMap::new();
    let mut calls = Vec::new();
    for line in trace.lines() {
        let Some((thread, rest)) = line.split_once(' ') else {
            continue;
        };
        let begun = rest.contains("<unfinished ...>");
        let whole = if rest.trim_start().starts_with("<... ") {
            format!("{} {rest}", unfinished.remove(thread).unwrap_or_default())
        } else {
            rest.to_owned()
        };
        let is = |names: &[&str]| names.iter().any(|name| whole.trim_start().starts_with(name));
        // An answer counts from its beginning: from then on the client may see it.
        if is(&["write(", "writev(", "sendto(", "sendmsg("]) && whole.contains("HTTP/1.1 202") {
            if !rest.trim_start().starts_with("<... ") {
                calls.push(Call::Answer);
            }
        } else if begun {
        } else if is(&["read(", "readv(", "recvfrom("]) && whole.contains("POST /v1/messages") {
            calls.push(Call::Request);
        } else if is(&["pwrite64(", "write("]) && queue(&whole) {
            calls.push(Call::Write);
        } else if is(&["fdatasync(", "fsync("]) && queue(&whole) && whole.trim_end().ends_with("= 0") {
            calls.push(Call::Sync);
        }
        if begun {
            unfinished.insert(thread, rest);
        }
    }
    calls
}

/// Tells whether each answer is preceded, since its request, by a write to the queue and a sync after that.
fn every_answer_is_synced(calls: &[Call]) -> Result<usize, String> {
    let mut answers = 0;
    for (place, _) in calls
        .iter()
        .enumerate()
        .filter(|(_, call)| **call == Call::Answer)
    {
        let request = calls[..place].iter().rposition(|call| *call == Call::Request);
        let since = &calls[request.ok_or("an answer without a request")?..place];
        let write = since.iter().position(|call| *call == Call::Write);
        let write = write.ok_or_else(|| format!("answer {answers} came before a write: {since:?}"))?;
        if !since[write..].contains(&Call::Sync) {
            return Err(format!("answer {answers} came before the sync: {since:?}"));
        }
        answers += 1;
    }
    Ok(answers)
}

/// Returns the program that strace started.
fn traced(strace: u32) -> Pid {
    let children = std::fs::read_to_string(format!("/proc/{strace}/task/{strace}/children")).unwrap();
    let child = children.split_whitespace().next().unwrap().parse().unwrap();
    Pid::from_raw(child).unwrap()
}

async fn trace(strace: &Path) -> String {
    let folder = DataFolder::create().unwrap();
    let file = folder.file("").with_file_name("trace");
    let mut service = Service::of("strace", strace.to_path_buf())
        .unwrap()
        .setting("WARREN_EMBEDDED__PATH", folder.file("").to_str().unwrap());
    let warren = environment::binary("warren").unwrap();
    for argument in ["-f", "-y", "-s", "64", "-e", CALLS, "-o"] {
        service = service.argument(argument);
    }
    service = service
        .argument(file.to_str().unwrap())
        .argument(warren.to_str().unwrap())
        .argument("serve");
    service.start_ready().await.unwrap();
    let mut client = Client::new(service.address());
    for number in 0..REQUESTS {
        let request = Request::post(format!(r#"{{"body":"message {number}"}}"#));
        let answer = client.send(&request).await.unwrap();
        assert_eq!(answer.status, 202, "{}", answer.text_start());
    }
    // strace keeps SIGTERM to itself.
    kill_process(traced(service.pid().unwrap()), Signal::TERM).unwrap();
    let status = service.wait(Duration::from_secs(30)).await.unwrap();
    assert!(status.success(), "{status}\n{}", service.log().unwrap());
    std::fs::read_to_string(file).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queue_is_synced_before_the_answer_is_written() {
    let strace = match find_strace(|line| eprintln!("{line}")) {
        Ok(strace) => strace,
        Err(why) => return eprintln!("not shown here: {why:#}"),
    };
    let trace = trace(&strace).await;
    let answers = every_answer_is_synced(&calls(&trace)).unwrap();
    assert_eq!(answers, REQUESTS, "answers in the trace:\n{trace}");
}

#[test]
fn an_answer_before_its_sync_is_found() {
    let line = |call: &str| format!("77 {call}\n");
    let request =
        line(r#"recvfrom(9<TCP:[1->2]>, "POST /v1/messages HTTP/1.1\r\nhost"..., 8192, 0, NULL, NULL) = 90"#);
    let write = line(r#"pwrite64(5</d/queue.db-wal>, "x"..., 24, 0) = 24"#);
    let sync = line("fdatasync(5</d/queue.db-wal>) = 0");
    let begun = line("fdatasync(5</d/queue.db-wal> <unfinished ...>");
    let ended = line("<... fdatasync resumed>) = 0");
    let answer =
        line(r#"writev(9<TCP:[1->2]>, [{iov_base="HTTP/1.1 202 Accepted\r\n"..., iov_len=9}], 1) = 9"#);
    let verdict = |parts: &[&String]| {
        let trace: String = parts.iter().map(|part| part.as_str()).collect();
        every_answer_is_synced(&calls(&trace))
    };
    assert_eq!(verdict(&[&request, &write, &sync, &answer]), Ok(1));
    assert_eq!(verdict(&[&request, &write, &begun, &ended, &answer]), Ok(1));
    assert!(verdict(&[&request, &write, &answer, &sync]).is_err());
    assert!(verdict(&[&request, &sync, &write, &answer]).is_err());
    assert!(verdict(&[&request, &write, &begun, &answer, &ended]).is_err());
    assert!(verdict(&[&write, &sync, &request, &answer]).is_err());
}
