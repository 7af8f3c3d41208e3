//! Starts the real programs, watches them, and never leaves one behind, however the test ends.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::NamedTempFile;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};
use warren_test_servers::Guardian;

use crate::environment;
use crate::http::{Answer, Client};
use crate::request::Request;

/// How long a program may take until it answers at all.
const START_DEADLINE: Duration = Duration::from_secs(30);

/// The pause between two questions to a program that is awaited.
const POLL: Duration = Duration::from_millis(25);

/// A program of this workspace, its settings and its log; stopped or running.
///
/// Dropping it kills the program. When the test fails, the end of the log goes to stderr.
#[derive(Debug)]
pub struct Service {
    name: String,
    program: PathBuf,
    arguments: Vec<String>,
    settings: Vec<(String, String)>,
    open_files: Option<u64>,
    address: SocketAddr,
    log: NamedTempFile,
    running: Option<Running>,
}

/// A program that runs. Dropped, it is killed; so it is when this process dies without dropping anything.
#[derive(Debug)]
struct Running {
    // First, so that it is gone before the number of the program's group can belong to somebody else.
    _guardian: Guardian,
    child: Child,
}

impl Service {
    /// Prepares the program `name` with an address of its own.
    ///
    /// # Errors
    /// The program is not built, or there is no free port.
    pub fn new(name: &str) -> Result<Self> {
        Self::of(name, environment::binary(name)?)
    }

    /// Prepares a program that lies anywhere, with an address of its own.
    ///
    /// # Errors
    /// There is no free port.
    pub fn of(name: &str, program: PathBuf) -> Result<Self> {
        let address = free_address()?;
        Ok(Self {
            name: name.to_owned(),
            program,
            arguments: Vec::new(),
            settings: vec![("WARREN_HTTP__LISTEN".to_owned(), address.to_string())],
            open_files: None,
            address,
            log: NamedTempFile::with_suffix(format!("-{name}"))?,
            running: None,
        })
    }

    /// Adds an argument of the command line.
    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Adds a setting, by the name of its environment variable; the last one of a name wins.
    #[must_use]
    pub fn setting(mut self, name: &str, value: impl Into<String>) -> Self {
        self.settings.retain(|(other, _)| other != name);
        self.settings.push((name.to_owned(), value.into()));
        self
    }

    /// Changes a setting for the next start, or removes it.
    pub fn set(&mut self, name: &str, value: Option<String>) {
        self.settings.retain(|(other, _)| other != name);
        self.settings.extend(value.map(|value| (name.to_owned(), value)));
    }

    /// Lets the program open as many files and sockets as it is told.
    #[must_use]
    pub const fn open_files(mut self, count: u64) -> Self {
        self.open_files = Some(count);
        self
    }

    /// Returns where it serves HTTP.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the program's file, for messages.
    pub const fn program(&self) -> &PathBuf {
        &self.program
    }

    /// Returns the name it was made with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().and_then(|running| running.child.id())
    }

    /// Starts the program without waiting for anything.
    ///
    /// # Errors
    /// It runs already, or cannot be started.
    pub fn spawn(&mut self) -> Result<()> {
        ensure!(self.running.is_none(), "{} runs already", self.name);
        let log = self.log.reopen().context("cannot open the log")?;
        let mut log = log;
        log.seek(SeekFrom::End(0))?;
        let mut command = match self.open_files {
            None => Command::new(&self.program),
            Some(count) => {
                let mut shell = Command::new("sh");
                shell
                    .arg("-c")
                    .arg(format!("ulimit -n {count} && exec \"$0\" \"$@\""))
                    .arg(&self.program);
                shell
            }
        };
        // Settings of whoever runs the tests must not reach the program.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("WARREN_") {
                command.env_remove(name);
            }
        }
        let child = command
            .args(&self.arguments)
            .envs(self.settings.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        let pid = child.id().context("a program that just started has no id")?;
        let guardian = Guardian::of(pid, None).context("cannot start sh")?;
        self.running = Some(Running {
            _guardian: guardian,
            child,
        });
        Ok(())
    }

    /// Starts the program and waits until it serves HTTP, ready or not.
    ///
    /// # Errors
    /// It ended, or did not answer within 30 s; the message has the end of its log.
    pub async fn start(&mut self) -> Result<()> {
        for _ in 0..3 {
            self.spawn()?;
            match self.wait_for("/livez", 200, START_DEADLINE).await {
                Ok(_) => return Ok(()),
                // Between choosing a port and using it, somebody else may have taken it.
                Err(_) if self.running.is_none() && self.log()?.contains("in use") => {
                    self.move_to(free_address()?);
                }
                Err(error) => return Err(error),
            }
        }
        bail!("{} found no free port in three tries", self.name)
    }

    /// Starts the program and waits until it is ready.
    ///
    /// # Errors
    /// As [`Service::start`], or `/readyz` did not answer 200 within 30 s.
    pub async fn start_ready(&mut self) -> Result<()> {
        self.start().await?;
        self.wait_for("/readyz", 200, START_DEADLINE).await?;
        Ok(())
    }

    fn move_to(&mut self, address: SocketAddr) {
        self.address = address;
        for (name, value) in &mut self.settings {
            if name == "WARREN_HTTP__LISTEN" {
                *value = address.to_string();
            }
        }
    }

    /// Asks `target` until it answers `status`.
    ///
    /// # Errors
    /// The program ended, or the deadline passed; the message has the last answer and the end of the log.
    pub async fn wait_for(&mut self, target: &str, status: u16, within: Duration) -> Result<Answer> {
        let deadline = Instant::now() + within;
        let mut client = Client::new(self.address).with_deadline(Duration::from_secs(5));
        loop {
            let answer = client.send(&Request::get(target)).await;
            if let Ok(answer) = &answer
                && answer.status == status
            {
                return Ok(answer.clone());
            }
            let running = self.running.as_mut();
            if let Some(ended) = running
                .map(|running| running.child.try_wait())
                .transpose()?
                .flatten()
            {
                self.running = None;
                bail!(
                    "{} ended ({ended}) before {target} answered {status}\n{}",
                    self.name,
                    self.log_end()
                );
            }
            if Instant::now() > deadline {
                let last = match answer {
                    Ok(answer) => format!("{} {}", answer.status, answer.text_start()),
                    Err(error) => format!("{error:#}"),
                };
                bail!(
                    "{}: {target} did not answer {status} within {within:?}; last: {last}\n{}",
                    self.name,
                    self.log_end()
                );
            }
            sleep(POLL).await;
        }
    }

    /// Kills the program as a crash would (SIGKILL) and waits until it is gone.
    ///
    /// # Errors
    /// It does not run.
    pub async fn kill(&mut self) -> Result<()> {
        let mut running = self
            .running
            .take()
            .with_context(|| format!("{} does not run", self.name))?;
        running.child.kill().await.context("cannot kill")
    }

    /// Asks the program to stop (SIGTERM) without waiting.
    ///
    /// # Errors
    /// It does not run.
    pub async fn terminate(&self) -> Result<()> {
        self.signal("TERM").await
    }

    /// Sends the program a signal, by its name without `SIG`, such as `STOP`.
    ///
    /// # Errors
    /// It does not run, or there is no such signal.
    pub async fn signal(&self, name: &str) -> Result<()> {
        let pid = self
            .pid()
            .with_context(|| format!("{} does not run", self.name))?;
        // The shell's own kill: it is everywhere, and sending a signal from here would take unsafe code.
        let sent = Command::new("sh")
            .arg("-c")
            .arg(format!("kill -s {name} {pid}"))
            .status()
            .await?;
        ensure!(sent.success(), "kill -s {name} {pid} failed: {sent}");
        Ok(())
    }

    /// Waits until the program has ended by itself.
    ///
    /// # Errors
    /// It runs on; the message has the end of its log.
    pub async fn wait(&mut self, within: Duration) -> Result<ExitStatus> {
        let running = self
            .running
            .as_mut()
            .with_context(|| format!("{} does not run", self.name))?;
        let Ok(status) = timeout(within, running.child.wait()).await else {
            bail!("{} did not end within {within:?}\n{}", self.name, self.log_end());
        };
        self.running = None;
        Ok(status?)
    }

    /// Asks the program to stop and waits until it has.
    ///
    /// # Errors
    /// It runs on, or did not end with success, or panicked at any time before.
    pub async fn stop(&mut self, within: Duration) -> Result<()> {
        self.terminate().await?;
        let status = self.wait(within).await?;
        ensure!(
            status.success(),
            "{} ended with {status} after SIGTERM\n{}",
            self.name,
            self.log_end()
        );
        ensure!(
            !self.log()?.contains("panicked at"),
            "{} panicked\n{}",
            self.name,
            self.log_end()
        );
        Ok(())
    }

    /// Returns everything it wrote, over all its starts.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn log(&self) -> Result<String> {
        let mut bytes = Vec::new();
        File::open(self.log.path())?.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn log_end(&self) -> String {
        let log = self.log().unwrap_or_else(|error| format!("(no log: {error})"));
        let lines: Vec<_> = log.lines().collect();
        let end = lines[lines.len().saturating_sub(40)..].join("\n");
        format!("--- end of the log of {} ---\n{end}\n---", self.name)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log_end());
        }
    }
}

/// Finds a port of the loopback that nobody uses now.
///
/// # Errors
/// There is none.
pub fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
    Ok(listener.local_addr()?)
}

/// Lets this process open as many files and sockets as `count`, where the system allows it.
///
/// # Errors
/// `prlimit` of util-linux is not there or refuses.
pub async fn raise_open_files(count: u64) -> Result<()> {
    let status = Command::new("prlimit")
        .arg("--pid")
        .arg(std::process::id().to_string())
        .arg(format!("--nofile={count}:"))
        .status()
        .await
        .context("cannot run prlimit")?;
    ensure!(status.success(), "prlimit --nofile={count} failed: {status}");
    Ok(())
}

/// Returns the most memory that a process has held so far, in bytes (`VmHWM`).
///
/// # Errors
/// The process is gone, or the system has no `/proc`.
pub fn peak_memory(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .context("no VmHWM")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncBufReadExt as _, BufReader};

    fn shell(script: &str) -> Service {
        Service::of("sh", "/bin/sh".into())
            .unwrap()
            .argument("-c")
            .argument(script)
    }

    #[tokio::test]
    async fn a_program_that_ends_at_once_is_reported_with_its_log() {
        let error = shell("echo no such setting >&2; exit 78")
            .start()
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("78") && error.contains("no such setting"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn sigterm_is_asked_and_sigkill_is_not() {
        let mut service = shell("trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.02; done");
        service.spawn().unwrap();
        while !service.log().unwrap().contains("up") {
            sleep(POLL).await;
        }
        service.stop(Duration::from_secs(10)).await.unwrap();
        assert!(service.log().unwrap().contains("bye"));
        service.spawn().unwrap();
        service.kill().await.unwrap();
        assert_eq!(service.pid(), None);
    }

    const STARTER: &str = "WARREN_TEST_STARTER";

    /// The other side of the test below: runs only when that starts it.
    #[tokio::test]
    async fn starts_a_program_and_is_killed() {
        if environment::variable(STARTER).is_none() {
            return;
        }
        let mut service = shell("while :; do sleep 0.02; done");
        service.spawn().unwrap();
        println!("\npid {}", service.pid().unwrap());
        std::future::pending::<()>().await;
    }

    #[tokio::test]
    async fn a_program_does_not_outlive_a_test_that_is_killed() {
        let mut starter = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "process::tests::starts_a_program_and_is_killed",
                "--nocapture",
            ])
            .env(STARTER, "1")
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(starter.stdout.take().unwrap()).lines();
        let pid = loop {
            let line = lines.next_line().await.unwrap().unwrap();
            if let Some(pid) = line.strip_prefix("pid ") {
                break pid.to_owned();
            }
        };
        assert!(runs(&pid));
        starter.kill().await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while runs(&pid) {
            assert!(Instant::now() < deadline, "{pid} still runs");
            sleep(POLL).await;
        }
    }

    /// A process that is dead and that nobody has asked for yet runs no more.
    fn runs(pid: &str) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
        status.is_ok_and(|status| !status.contains("State:\tZ"))
    }

    #[test]
    fn this_process_has_held_some_memory() {
        assert!(peak_memory(std::process::id()).unwrap() > 1 << 20);
    }
}
