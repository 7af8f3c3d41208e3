//! Programs that have to end within a time, with what they say line by line.

use std::io::{BufRead as _, BufReader, pipe};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use warren_test_servers::{Guardian, pause};

use crate::cargo::shown;

/// How often it is looked whether a program that has nothing more to say has ended.
const LOOK: Duration = Duration::from_millis(20);

/// How many lines may wait to be read.
const LINES: usize = 1_000;

/// Runs a program, with its two outputs as one; it and all it has started are killed at `end`.
///
/// # Errors
/// It cannot be started, or runs on.
pub(crate) fn run(mut command: Command, end: Instant, mut line: impl FnMut(&str)) -> Result<ExitStatus> {
    let name = shown(&command);
    eprintln!("$ {name}");
    let (reader, writer) = pipe().context("no pipe")?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    // It holds the end of the pipe that is written to.
    drop(command);
    let _guardian = Guardian::of(child.id(), None).context("cannot start sh")?;
    let (told, lines) = sync_channel(LINES);
    std::thread::spawn(move || {
        let read = BufReader::new(reader).split(b'\n').map_while(Result::ok);
        for line in read {
            // Nobody listens any more once the time is over.
            if told.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
        }
    });
    loop {
        match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(said) => line(&said),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => return kill(child, &name),
        }
    }
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() > end {
            return kill(child, &name);
        }
        pause(LOOK);
    }
}

fn kill(mut child: Child, name: &str) -> Result<ExitStatus> {
    // What is gone already cannot be killed, and that is all this error can say.
    kill_process_group(Pid::from_child(&child), Signal::KILL).ok();
    child.wait()?;
    bail!("`{name}` has not ended in its time, and was killed")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn both_outputs_are_read_and_the_status_is_told() {
        let mut lines = Vec::new();
        let end = Instant::now() + Duration::from_secs(30);
        let script = "echo one; echo two >&2; printf three; exit 3";
        let status = run(shell(script), end, |line| lines.push(line.to_owned())).unwrap();
        assert_eq!(
            (status.code(), lines),
            (Some(3), ["one", "two", "three"].map(str::to_owned).into())
        );
    }

    #[test]
    fn a_program_that_does_not_end_is_killed_with_what_it_has_started() {
        for script in ["sleep 600 & sleep 600", "exec >&- 2>&-; sleep 600"] {
            let error = run(shell(script), Instant::now(), |_| {}).unwrap_err();
            assert!(error.to_string().contains("was killed"), "{error}");
        }
    }
}
