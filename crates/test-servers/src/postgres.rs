//! A PostgreSQL of one's own.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::group::{Group, Home, free_port, last_lines, pause, wait_until_ready};
use crate::{pg, programs};

/// A start takes 0.2 s on a quiet machine, and recovery after a crash under load a few seconds.
const START: Duration = Duration::from_secs(60);

/// Whom servers run as where this is root; the first that exists.
const USERS: &[&str] = &["postgres", "nobody"];

/// Where the cluster is within its home.
const DATA: &str = "data";

/// A private PostgreSQL with an empty cluster on a free port of the loopback, trusting everybody there.
///
/// Synchronous throughout: from a runtime, call it through `spawn_blocking`. Dropped, it is stopped and its data is
/// removed; if this process is killed instead, a guardian does the same.
#[derive(Debug)]
pub struct PrivatePostgres {
    group: Option<Group>,
    port: u16,
    postgres: PathBuf,
    // Last, so that it is removed after the server has stopped.
    home: Home,
}

impl PrivatePostgres {
    /// Returns whether the programs are installed.
    #[must_use]
    pub fn is_installed() -> bool {
        programs::find("initdb", programs::POSTGRES).is_some()
            && programs::find("postgres", programs::POSTGRES).is_some()
    }

    /// Makes a cluster and starts it; takes some four seconds.
    ///
    /// # Errors
    /// When the programs are not installed, or fail: their last lines are part of the error.
    pub fn start() -> Result<Self> {
        let initdb = programs::find("initdb", programs::POSTGRES).context("initdb is not installed")?;
        let postgres = programs::find("postgres", programs::POSTGRES).context("postgres is not installed")?;
        Self::with_cluster(postgres, |home| {
            let mut command = home.command(&initdb);
            command.args([
                "--username=postgres",
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
                "-D",
                DATA,
            ]);
            command
        })
    }

    /// Makes a hot standby of this server, which follows it by streaming, and starts it.
    ///
    /// # Errors
    /// As [`Self::start`], and where `pg_basebackup` is missing.
    pub fn start_standby(&self) -> Result<Self> {
        let backup =
            programs::find("pg_basebackup", programs::POSTGRES).context(
            "pg_basebackup is not installed: it comes with PostgreSQL's client programs, postgresql-client in Debian",
        )?;
        Self::with_cluster(self.postgres.clone(), |home| {
            let mut command = home.command(&backup);
            command.args([
                "--checkpoint=fast",
                "--wal-method=stream",
                "--write-recovery-conf",
                "--no-sync",
                "-d",
                &self.url(),
                "-D",
                DATA,
            ]);
            command
        })
    }

    /// Starts a server on the cluster that a command makes.
    fn with_cluster(postgres: PathBuf, make: impl FnOnce(&Home) -> Command) -> Result<Self> {
        let home = Home::new(USERS)?;
        let mut command = make(&home);
        let program = command.get_program().display().to_string();
        let output = command
            .output()
            .with_context(|| format!("cannot start {program}"))?;
        ensure!(
            output.status.success(),
            "{program} failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let mut server = Self {
            group: None,
            port: free_port()?,
            postgres,
            home,
        };
        server.start_again()?;
        Ok(server)
    }

    /// Returns `postgres://…` of the database `postgres`, as a superuser; the same for every restart.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// Returns the address it takes connections at.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Returns the process id of the postmaster while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.group.as_ref().map(Group::id)
    }

    /// Stops the postmaster and every backend in the middle of whatever they do (SIGSTOP), as a machine that hangs
    /// would.
    ///
    /// # Errors
    /// When it does not run.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets a frozen server go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let group = self.group.as_ref().context("the server does not run")?;
        // The postmaster first, so that no backend is added behind the list; backends are in groups of their own.
        group.signal(signal)?;
        for child in children(group.id())? {
            // One that has ended meanwhile needs no signal.
            kill_process(child, signal).ok();
        }
        Ok(())
    }

    /// Kills the server as a power cut would, but for what the operating system has not written yet.
    pub fn stop_immediate(&mut self) {
        drop(self.group.take());
    }

    /// Stops the server in good order, open connections notwithstanding (`pg_ctl stop -m fast`).
    pub fn stop(&mut self) {
        if let Some(group) = self.group.take() {
            group.stop(Signal::INT, Duration::from_secs(30));
        }
    }

    /// Starts a stopped server on its old data and port, and waits until it takes queries.
    ///
    /// # Errors
    /// When it does not become ready within a minute.
    pub fn start_again(&mut self) -> Result<()> {
        self.stop();
        let end = Instant::now() + START;
        loop {
            match self.try_start() {
                // Orphans of a killed server hold its shared memory for a moment.
                Err(_) if last_lines(&self.log()).contains("still in use") && Instant::now() < end => {
                    std::fs::write(self.log(), "")?;
                    pause(Duration::from_millis(200));
                }
                result => return result,
            }
        }
    }

    /// Stops the server in good order and starts it again.
    ///
    /// # Errors
    /// When it does not become ready within a minute.
    pub fn restart(&mut self) -> Result<()> {
        self.start_again()
    }

    fn try_start(&mut self) -> Result<()> {
        let mut command = self.home.command(&self.postgres);
        command.args(["-D", DATA, "-p", &self.port.to_string(), "-h", "127.0.0.1"]);
        for setting in [
            "unix_socket_directories=",
            "max_connections=200",
            "autovacuum_naptime=10s",
        ] {
            command.args(["-c", setting]);
        }
        let log = self.log();
        let mut group = Group::start(&mut command, &log, self.home.path())?;
        let url = self.url();
        wait_until_ready(&mut group, "postgres", &log, START, || pg::probe(&url))?;
        self.group = Some(group);
        Ok(())
    }

    /// Returns the folder of the cluster, for whoever wants to damage what is in it.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.home.path().join(DATA)
    }

    /// Returns the file with everything it logged, over all its starts.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        Path::join(self.home.path(), "postgres.log")
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        if let Some(group) = self.group.take() {
            // Takes the backends along, which are in sessions of their own and would still write into the folder.
            group.stop(Signal::QUIT, Duration::from_secs(10));
        }
    }
}

/// Lists the processes that a process has started and that run, by Linux's `/proc`.
fn children(parent: u32) -> Result<Vec<Pid>> {
    let mut children = Vec::new();
    for entry in std::fs::read_dir("/proc").context("there is no /proc")? {
        let name = entry?.file_name();
        let Some(id) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        // Gone meanwhile, or its name holds no closing bracket: not one of ours either way.
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let Some((_, fields)) = stat.rsplit_once(") ") else {
            continue;
        };
        if fields.split(' ').nth(1) == Some(&parent.to_string()) {
            children.extend(Pid::from_raw(id));
        }
    }
    Ok(children)
}
