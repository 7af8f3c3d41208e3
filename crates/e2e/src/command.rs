//! Runs a command to its end, as somebody at a terminal or a script would.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::environment;

/// How long a command may take.
const DEADLINE: Duration = Duration::from_secs(90);

/// A command of a program of this workspace, with settings and input of its own.
#[derive(Debug)]
pub struct Call {
    command: Command,
    input: Vec<u8>,
}

/// What a command left behind.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub output: String,
    /// Its standard error.
    pub said: String,
}

impl Call {
    /// Prepares the program `name` with arguments.
    ///
    /// # Errors
    /// The program is not built.
    pub fn of(name: &str, arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(environment::binary(name)?);
        // Settings of whoever runs the tests must not reach the program.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("WARREN_") {
                command.env_remove(name);
            }
        }
        command.args(arguments).kill_on_drop(true);
        Ok(Self {
            command,
            input: Vec::new(),
        })
    }

    /// Adds a setting, by the name of its environment variable.
    #[must_use]
    pub fn setting(mut self, name: &str, value: impl AsRef<str>) -> Self {
        self.command.env(name, value.as_ref());
        self
    }

    /// Gives it something to read.
    #[must_use]
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = input.into();
        self
    }

    /// Starts it without waiting; its input ends at once.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(mut self) -> Result<Child> {
        self.command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start the command")
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// It cannot be started, or does not end within 90 s.
    pub async fn run(mut self) -> Result<Ended> {
        let mut child = self
            .command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start the command")?;
        let input = child.stdin.take();
        let bytes = self.input;
        let writing = tokio::spawn(async move {
            if let Some(mut input) = input {
                // It need not read to the end.
                input.write_all(&bytes).await.ok();
            }
        });
        let ended = ended(child).await;
        writing.abort();
        ended
    }
}

/// Waits until a command that was started says a line with `text` in it on its standard error.
///
/// # Errors
/// It does not within `patience`, or ends before.
pub async fn until_said(child: &mut Child, text: &str, patience: Duration) -> Result<()> {
    let error = child.stderr.as_mut().context("nobody hears what it says")?;
    let mut said = Vec::new();
    let reading = async {
        // Byte by byte, so that what it says later is left for whoever waits for its end.
        while !(said.ends_with(b"\n") && String::from_utf8_lossy(&said).contains(text)) {
            said.push(error.read_u8().await?);
        }
        Ok::<_, std::io::Error>(())
    };
    let heard = timeout(patience, reading).await;
    let said = String::from_utf8_lossy(&said);
    match heard {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => bail!("the command ended without saying {text:?}: {said}"),
        Err(_) => bail!("the command did not say {text:?} within {patience:?}: {said}"),
    }
}

/// Interrupts a command that was started, as Ctrl-C does.
///
/// # Errors
/// It has ended.
pub async fn interrupt(child: &Child) -> Result<()> {
    let pid = child.id().context("the command has ended")?;
    // The shell's own kill: it is everywhere, and sending a signal from here would take unsafe code.
    let kill = format!("kill -s INT {pid}");
    let sent = Command::new("sh").arg("-c").arg(&kill).status().await?;
    ensure!(sent.success(), "{kill} failed: {sent}");
    Ok(())
}

/// Waits for the end of a command that was started.
///
/// # Errors
/// It does not end within 90 s.
pub async fn ended(child: Child) -> Result<Ended> {
    let Ok(output) = timeout(DEADLINE, child.wait_with_output()).await else {
        bail!("the command did not end within {DEADLINE:?}");
    };
    let output = output?;
    Ok(Ended {
        code: output.status.code(),
        output: String::from_utf8_lossy(&output.stdout).into_owned(),
        said: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
