//! What a crash of the process cannot show, because the system keeps what was written: the order of the system calls.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use warren_e2e::http::Client;
use warren_e2e::metrics::Metrics;
use warren_e2e::process::Service;
use warren_e2e::request::Request;
use warren_e2e::sqlite::DataFolder;

/// How many requests are looked at.
pub const REQUESTS: usize = 20;

/// How long a message may take from its answer to its row.
const SETTLED: Duration = Duration::from_secs(30);

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
fn calls(trace: &str, log: &str) -> Vec<Call> {
    let queue = |line: &str| line.contains(log);
    // By thread: what its unfinished call was.
    let mut unfinished: HashMap<&str, &str> = HashMap::new();
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

/// Tells whether each answer of a trace is preceded, since its request, by a write to the log and a sync after the last
/// such write; returns how many answers there are.
///
/// # Errors
/// What is missing before which answer.
pub fn every_answer_is_synced(trace: &str, log: &str) -> Result<usize, String> {
    let calls = calls(trace, log);
    let mut answers = 0;
    for (place, _) in calls
        .iter()
        .enumerate()
        .filter(|(_, call)| **call == Call::Answer)
    {
        let request = calls[..place].iter().rposition(|call| *call == Call::Request);
        let since = &calls[request.ok_or("an answer without a request")?..place];
        let write = since.iter().rposition(|call| *call == Call::Write);
        let write = write.ok_or_else(|| format!("answer {answers} came before a write: {since:?}"))?;
        if !since[write..].contains(&Call::Sync) {
            return Err(format!("answer {answers} came before the sync: {since:?}"));
        }
        answers += 1;
    }
    Ok(answers)
}

/// A program that answers for what is on its disk.
#[derive(Clone, Debug)]
pub struct Traced {
    program: PathBuf,
    arguments: &'static [&'static str],
    settings: Vec<(&'static str, &'static str)>,
    /// The setting that names its folder.
    folder: &'static str,
    /// What it writes before it answers.
    pub log: &'static str,
    /// Whether it stores by itself what it has taken, and writes down that it has.
    stores: bool,
}

impl Traced {
    /// The one process over SQLite. It stores what it takes only a while later: nothing else is written meanwhile.
    pub fn warren(program: PathBuf) -> Self {
        Self {
            program,
            arguments: &["serve"],
            settings: vec![("WARREN_WORKER__BATCH_WAIT", "200ms")],
            folder: "WARREN_EMBEDDED__PATH",
            log: "queue.db-wal>",
            stores: true,
        }
    }

    /// An intake whose broker refuses every connection, so that all it takes goes into its spool.
    pub fn spooling_ingest(program: PathBuf) -> Self {
        Self {
            program,
            arguments: &[],
            settings: vec![("WARREN_AMQP__URL", "amqp://warren:warren@127.0.0.1:1/none")],
            folder: "WARREN_SPOOL__PATH",
            log: "spool.db-wal>",
            stores: false,
        }
    }
}

/// Posts messages to a program under strace, one after the other, and returns the trace.
///
/// # Errors
/// It does not start, does not take a message, or does not end in good order.
pub async fn trace(strace: &Path, traced: &Traced, environment: &[(String, String)]) -> Result<String> {
    let folder = DataFolder::create()?;
    let file = folder.file("").with_file_name("trace");
    let text = |path: &Path| path.to_str().map(str::to_owned).context("a path is not UTF-8");
    let mut service =
        Service::of("strace", strace.to_path_buf())?.setting(traced.folder, text(&folder.file(""))?);
    for (name, value) in &traced.settings {
        service = service.setting(name, *value);
    }
    for (name, value) in environment {
        service = service.setting(name, value);
    }
    for argument in ["-f", "-y", "-s", "64", "-e", CALLS, "-o"] {
        service = service.argument(argument);
    }
    service = service.argument(&text(&file)?).argument(&text(&traced.program)?);
    for argument in traced.arguments {
        service = service.argument(argument);
    }
    service.start_ready().await?;
    let mut client = Client::new(service.address());
    for number in 0..REQUESTS {
        let request = Request::post(format!(r#"{{"body":"message {number}"}}"#));
        let answer = client.send(&request).await?;
        ensure!(answer.status == 202, "{}: {}", answer.status, answer.text_start());
        if traced.stores {
            settled(service.address(), number as u64 + 1).await?;
        }
    }
    // strace keeps SIGTERM to itself.
    kill_process(
        child_of(service.pid().context("strace does not run")?)?,
        Signal::TERM,
    )?;
    let status = service.wait(Duration::from_secs(30)).await?;
    ensure!(status.success(), "{status}\n{}", service.log()?);
    std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))
}

/// Waits until so many messages are stored and the queue knows it.
async fn settled(address: SocketAddr, stored: u64) -> Result<()> {
    let begun = Instant::now();
    loop {
        let metrics = Metrics::scrape(address).await?;
        let inserted = metrics.sum("warren_store_inserted_messages_total");
        if inserted == stored && metrics.sum("warren_store_held_messages") == 0 {
            return Ok(());
        }
        ensure!(
            begun.elapsed() < SETTLED,
            "{inserted} of {stored} messages are stored after {SETTLED:?}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Returns the program that strace started.
fn child_of(strace: u32) -> Result<Pid> {
    let children = std::fs::read_to_string(format!("/proc/{strace}/task/{strace}/children"))?;
    let child = children
        .split_whitespace()
        .next()
        .context("strace has no child")?;
    Pid::from_raw(child.parse()?).context("no process has the id 0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_before_its_sync_is_found() {
        let line = |call: &str| format!("77 {call}\n");
        let request = line(
            r#"recvfrom(9<TCP:[1->2]>, "POST /v1/messages HTTP/1.1\r\nhost"..., 8192, 0, NULL, NULL) = 90"#,
        );
        let write = line(r#"pwrite64(5</d/queue.db-wal>, "x"..., 24, 0) = 24"#);
        let sync = line("fdatasync(5</d/queue.db-wal>) = 0");
        let begun = line("fdatasync(5</d/queue.db-wal> <unfinished ...>");
        let ended = line("<... fdatasync resumed>) = 0");
        let answer =
            line(r#"writev(9<TCP:[1->2]>, [{iov_base="HTTP/1.1 202 Accepted\r\n"..., iov_len=9}], 1) = 9"#);
        let verdict = |parts: &[&String]| {
            let trace: String = parts.iter().map(|part| part.as_str()).collect();
            every_answer_is_synced(&trace, "queue.db-wal>")
        };
        assert_eq!(verdict(&[&request, &write, &sync, &answer]), Ok(1));
        assert_eq!(verdict(&[&request, &write, &begun, &ended, &answer]), Ok(1));
        assert!(verdict(&[&request, &write, &sync, &write, &answer]).is_err());
        assert!(verdict(&[&request, &write, &answer, &sync]).is_err());
        assert!(verdict(&[&request, &sync, &write, &answer]).is_err());
        assert!(verdict(&[&request, &write, &begun, &answer, &ended]).is_err());
        assert!(verdict(&[&write, &sync, &request, &answer]).is_err());
    }
}
