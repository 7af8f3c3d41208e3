//! A server process that never outlives whoever started it.

use std::fs::{File, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, geteuid, kill_process, kill_process_group, test_kill_process_group};

use crate::guardian::Guardian;

/// A process in a group of its own, and a guardian that kills the group when this process is gone.
#[derive(Debug)]
pub(crate) struct Group {
    child: Child,
    guardian: Option<Guardian>,
}

impl Group {
    /// Starts `command` with its output in `log`; `folder` is removed if this process dies without cleaning up.
    pub(crate) fn start(command: &mut Command, log: &Path, folder: &Path) -> Result<Self> {
        let output = File::options()
            .create(true)
            .append(true)
            .open(log)
            .context("cannot open a log file")?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        match Guardian::of(child.id(), Some(folder)) {
            Ok(guardian) => Ok(Self {
                child,
                guardian: Some(guardian),
            }),
            Err(error) => {
                child.kill()?;
                Err(error).context("cannot start sh")
            }
        }
    }

    /// Returns the id of the process, which is that of its group too.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to every process of the group.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        kill_process_group(Pid::from_child(&self.child), signal).context("cannot send a signal")
    }

    /// Returns how the process ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<String> {
        self.child
            .try_wait()
            .ok()
            .flatten()
            .map(|status| status.to_string())
    }

    /// Asks the process itself to stop with `signal`, waits for it, and kills what is left after `patience`.
    pub(crate) fn stop(mut self, signal: Signal, patience: Duration) {
        // It may have ended by itself; then there is nobody to ask.
        if kill_process(Pid::from_child(&self.child), signal).is_ok() {
            let end = Instant::now() + patience;
            while self.ended().is_none() && Instant::now() < end {
                pause(Duration::from_millis(20));
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The guardian first: afterwards the number of the group may belong to somebody else. What is gone already
        // cannot be killed, and that is all these errors can say.
        drop(self.guardian.take());
        let group = Pid::from_child(&self.child);
        kill_process_group(group, Signal::KILL).ok();
        self.child.wait().ok();
        // Its children die with it but not at the same moment, and may hold a port until then.
        let end = Instant::now() + Duration::from_secs(5);
        while test_kill_process_group(group).is_ok() && Instant::now() < end {
            pause(Duration::from_millis(5));
        }
    }
}

/// A temporary folder that the servers' user owns.
#[derive(Debug)]
pub(crate) struct Home {
    folder: tempfile::TempDir,
    user: Option<User>,
}

impl Home {
    /// Makes a folder for the first of `users` that exists, if this is root, which no server should run as.
    pub(crate) fn new(users: &[&str]) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("warren-")
            .tempdir()
            .context("cannot make a folder")?;
        let mut user = None;
        if geteuid().is_root() {
            let found = users.iter().find_map(|name| User::named(name));
            let found =
                found.with_context(|| format!("none of the users {users:?} exists to run a server"))?;
            chown(folder.path(), Some(found.uid), Some(found.gid)).context("cannot give a folder away")?;
            user = Some(found);
        }
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o700))?;
        Ok(Self { folder, user })
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file that the servers' user owns.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path().join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        if let Some(user) = self.user {
            chown(&path, Some(user.uid), Some(user.gid))?;
        }
        Ok(path)
    }

    /// Returns a command that runs as the servers' user, in and with this folder as its home.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.path())
            .env("HOME", self.path())
            .env("LC_ALL", "C");
        if let Some(user) = self.user {
            command.uid(user.uid).gid(user.gid);
        }
        command
    }
}

#[derive(Clone, Copy, Debug)]
struct User {
    uid: u32,
    gid: u32,
}

impl User {
    fn named(name: &str) -> Option<Self> {
        let users = std::fs::read_to_string("/etc/passwd").ok()?;
        let mut fields = users
            .lines()
            .find(|line| line.split(':').next() == Some(name))?
            .split(':')
            .skip(2);
        Some(Self {
            uid: fields.next()?.parse().ok()?,
            gid: fields.next()?.parse().ok()?,
        })
    }
}

/// Waits until `ready`, the end of the process or the deadline, whichever comes first.
pub(crate) fn wait_until_ready(
    group: &mut Group,
    what: &str,
    log: &Path,
    deadline: Duration,
    ready: impl Fn() -> Result<()>,
) -> Result<()> {
    let end = Instant::now() + deadline;
    loop {
        if let Some(status) = group.ended() {
            bail!("{what} ended while it started ({status}):\n{}", last_lines(log));
        }
        match ready() {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > end => {
                return Err(error.context(format!(
                    "{what} was not ready in {deadline:?}:\n{}",
                    last_lines(log)
                )));
            }
            Err(_) => pause(Duration::from_millis(100)),
        }
    }
}

pub(crate) fn last_lines(log: &Path) -> String {
    let text = std::fs::read(log)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

/// Blocks this thread, between two looks at a process.
#[expect(
    clippy::disallowed_methods,
    reason = "polls a process from a plain thread; there is no runtime here"
)]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Returns a port of the loopback that was free a moment ago.
pub(crate) fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
