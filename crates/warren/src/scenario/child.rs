//! A program that a scenario runs, and that does not outlive it.

use std::collections::VecDeque;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::Command;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// So many lines of a program's log are kept.
const LOG_LINES: usize = 60;

/// How long a program that was asked to stop may take; consumers give back what they hold.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the last lines of a program that has ended may take to be read.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// A program that runs. Dropped, it is killed; so it is when this process dies without dropping anything.
#[derive(Debug)]
pub(super) struct Child {
    name: String,
    // First, so that it is gone before the number of the program's group can belong to somebody else.
    _guardian: Guardian,
    process: tokio::process::Child,
    log: Log,
    readers: [JoinHandle<()>; 2],
}

impl Child {
    /// Starts a program; each line that it writes is handed to one of the two functions.
    ///
    /// # Errors
    /// It cannot be started.
    pub(super) fn start(
        name: impl Into<String>,
        mut command: Command,
        on_output: impl FnMut(&str) + Send + 'static,
        mut on_log: impl FnMut(&str) + Send + 'static,
    ) -> Result<Self> {
        let name = name.into();
        let started = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Out of reach of the terminal's Ctrl-C: it is stopped in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn();
        let mut process =
            started.with_context(|| format!("cannot start {}", command.as_std().get_program().display()))?;
        let pid = process.id().context("a program that just started has no id")?;
        let guardian = Guardian::of(pid).context("cannot start sh")?;
        let log = Log::default();
        let (output, errors) = (process.stdout.take(), process.stderr.take());
        let kept = log.clone();
        let readers = [
            tokio::spawn(each_line(output, on_output)),
            tokio::spawn(each_line(errors, move |line| {
                on_log(line);
                kept.keep(line);
            })),
        ];
        Ok(Self {
            name,
            _guardian: guardian,
            process,
            log,
            readers,
        })
    }

    /// Returns the end of what it has logged so far.
    pub(super) fn log(&self) -> Log {
        self.log.clone()
    }

    /// Tells how it ended, if it has.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().ok().flatten()
    }

    /// Kills it as a crash would.
    ///
    /// # Errors
    /// It has ended before.
    pub(super) async fn kill(mut self) -> Result<()> {
        if let Some(status) = self.ended() {
            bail!("{} had ended before it was killed: {status}", self.name);
        }
        self.process
            .kill()
            .await
            .with_context(|| format!("cannot kill {}", self.name))?;
        self.drain().await;
        Ok(())
    }

    /// Asks it to stop, and waits until it has and all of its output is read.
    ///
    /// # Errors
    /// It does not, or not with success.
    pub(super) async fn stop(mut self) -> Result<()> {
        if let Some(pid) = self
            .process
            .id()
            .and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?))
        {
            kill_process(pid, Signal::TERM).with_context(|| format!("cannot stop {}", self.name))?;
        }
        let status = timeout(STOP_TIMEOUT, self.process.wait())
            .await
            .map_err(|_| anyhow!("{} has not stopped within {STOP_TIMEOUT:?}", self.name))?
            .with_context(|| format!("cannot wait for {}", self.name))?;
        self.drain().await;
        if !status.success() {
            bail!("{} ended with a failure: {status}", self.name);
        }
        Ok(())
    }

    /// Reads what is left of its output.
    async fn drain(&mut self) {
        for reader in &mut self.readers {
            // A grandchild may hold the pipe; whatever it writes is not of this program.
            if !matches!(timeout(DRAIN_TIMEOUT, reader).await, Ok(Ok(()))) {
                self.log.keep("(its output was not read to the end)");
            }
        }
    }
}

async fn each_line(from: Option<impl AsyncRead + Unpin>, mut on_line: impl FnMut(&str)) {
    let Some(from) = from else { return };
    let mut lines = BufReader::new(from).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        on_line(&line);
    }
}

/// The last lines that a program has logged.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log(Arc<Mutex<VecDeque<String>>>);

impl Log {
    fn keep(&self, line: &str) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LOG_LINES {
            lines.pop_front();
        }
        lines.push_back(line.to_owned());
    }

    /// Returns the lines as one text, indented.
    pub(crate) fn text(&self) -> String {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(|line| format!("    {line}\n")).collect()
    }
}

/// The log of a program that took part in a scenario.
#[derive(Debug)]
pub(crate) struct NamedLog {
    /// The group it counts for; `None` for all of them.
    pub(crate) group: Option<usize>,
    pub(crate) program: String,
    pub(crate) log: Log,
}

/// Kills a process group once this process is gone: killed, it runs no destructor. Dropped, it leaves the group alone.
#[derive(Debug)]
struct Guardian(std::process::Child);

impl Guardian {
    /// Waits for its input to end, which it does however this process dies.
    const SCRIPT: &str = r#"read -r _; kill -9 "-$1" 2>/dev/null"#;

    fn of(leader: u32) -> io::Result<Self> {
        std::process::Command::new("sh")
            .args(["-c", Self::SCRIPT, "guardian", &leader.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map(Self)
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        // What is gone already cannot be killed, and that is all these errors can say.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    fn shell(script: &str) -> (Child, mpsc::Receiver<String>) {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let (said, hearing) = mpsc::channel(10);
        let child = Child::start(
            "sh",
            command,
            move |line| said.try_send(line.to_owned()).unwrap(),
            |_| {},
        );
        (child.unwrap(), hearing)
    }

    #[tokio::test]
    async fn a_program_that_stops_is_read_to_its_last_line() {
        let (child, mut said) =
            shell("trap 'echo bye; exit 0' TERM; echo log >&2; echo up; while :; do sleep 0.02; done");
        assert_eq!(said.recv().await.unwrap(), "up");
        let log = child.log();
        child.stop().await.unwrap();
        assert_eq!(said.recv().await.unwrap(), "bye");
        assert_eq!(log.text(), "    log\n");
    }

    #[tokio::test]
    async fn a_program_that_ends_with_a_failure_or_before_it_is_killed_is_told() {
        let (child, mut said) = shell("trap 'exit 3' TERM; echo up; while :; do sleep 0.02; done");
        said.recv().await.unwrap();
        let error = child.stop().await.unwrap_err().to_string();
        assert!(error.contains("sh ended with a failure"), "{error}");
        let (mut child, mut said) = shell("exit 0");
        assert_eq!(said.recv().await, None);
        child.process.wait().await.unwrap();
        let error = child.kill().await.unwrap_err().to_string();
        assert!(error.contains("had ended before"), "{error}");
    }

    #[test]
    fn of_a_long_log_the_end_is_kept() {
        let log = Log::default();
        (0..100).for_each(|n| log.keep(&n.to_string()));
        let text = log.text();
        assert!(
            text.starts_with("    40\n") && text.ends_with("    99\n"),
            "{text}"
        );
    }
}
