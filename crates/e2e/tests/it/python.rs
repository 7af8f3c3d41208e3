//! Programs in Python that a test talks to.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;
use warren_e2e::environment;

/// Bounds the wait for a first word; no verdict depends on how long it takes.
const PATIENCE: Duration = Duration::from_secs(90);

/// Returns a call of Python, which ends with its test.
pub(crate) fn python() -> Command {
    let program = environment::variable("WARREN_TEST_PYTHON").unwrap_or("python3".to_owned());
    let mut command = Command::new(program);
    command.kill_on_drop(true);
    command
}

/// Starts a program and waits until it says that it is ready, in its first line; returns it with what it says then.
pub(crate) async fn start(command: &mut Command, ready: &str) -> (Child, BufReader<ChildStdout>) {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 with pika: see `cargo xtask test`, or set WARREN_TEST_PYTHON");
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    timeout(PATIENCE, output.read_line(&mut line))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        line.trim(),
        ready,
        "the program in Python says on standard error why"
    );
    (child, output)
}
