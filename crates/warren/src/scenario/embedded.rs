//! A scenario in one process: `warren` with its four groups, over SQLite.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use warren_client::{HttpPublisher, Logger, LoggerBuilder};
use warren_pipeline::tally::{GroupReport, GroupState};
use warren_process::healthcheck::{self, Question};

use super::GROUPS;
use super::child::{Child, Log, NamedLog};
use super::environment::Environment;

/// How long `warren` may take until it is ready, its groups consuming.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// How long `warren groups` may take.
const GROUPS_TIMEOUT: Duration = Duration::from_secs(15);

/// The pause between two questions to a process that starts.
const POLL: Duration = Duration::from_millis(50);

/// `warren`, on a folder and a port of its own.
#[derive(Debug)]
pub(super) struct Embedded {
    program: PathBuf,
    environment: Environment,
    /// Known once it has listened for the first time; it comes back there.
    address: Option<SocketAddr>,
    child: Option<Child>,
    log: Log,
}

impl Embedded {
    /// Prepares it; nothing is started by that.
    ///
    /// # Errors
    /// This program cannot tell where it is.
    pub(super) fn new(environment: Environment, folder: &Path) -> Result<Self> {
        let environment = environment
            .with("embedded.path", folder.join("data"))
            .with("http.listen", "127.0.0.1:0")
            .with("telemetry.log", "info,sea_orm_migration=warn")
            .with("telemetry.format", "json");
        Ok(Self {
            program: std::env::current_exe().context("cannot tell where this program is")?,
            environment,
            address: None,
            child: None,
            log: Log::default(),
        })
    }

    /// Starts it and waits until it is ready and all groups consume.
    ///
    /// # Errors
    /// It ends, or takes too long.
    pub(super) async fn start(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        let mut environment = self.environment.clone();
        if let Some(address) = self.address {
            environment = environment.with("http.listen", address.to_string());
        }
        let mut command = environment.command(&self.program);
        command.arg("serve");
        let (listening, mut listens) = watch::channel(None);
        let child = Child::start(
            "warren serve",
            command,
            |_| {},
            move |line| {
                if let Some(address) = listening_address(line) {
                    listening.send_replace(Some(address));
                }
            },
        )?;
        self.log = child.log();
        self.child = Some(child);
        let said = timeout_at(deadline, listens.wait_for(Option::is_some));
        let address = match said.await {
            Ok(Ok(address)) => address.context("no address")?,
            Ok(Err(_)) => bail!("`warren serve` ended before it listened"),
            Err(_) => bail!("`warren serve` does not listen within {START_TIMEOUT:?}"),
        };
        self.address = Some(address);
        loop {
            let ready = healthcheck::ask(address, Question::Ready, Duration::from_secs(2)).await;
            let waits_for = match ready {
                Err(reason) => reason.to_string(),
                Ok(()) => {
                    let reports = self.reports().await?;
                    let consumes = |report: &Option<GroupReport>| {
                        report
                            .as_ref()
                            .is_some_and(|report| report.state == GroupState::Consuming)
                    };
                    if reports.iter().all(consumes) {
                        return Ok(());
                    }
                    "its groups do not consume".to_owned()
                }
            };
            self.fine()?;
            if Instant::now() > deadline {
                bail!("`warren serve` is not ready within {START_TIMEOUT:?}: {waits_for}");
            }
            sleep(POLL).await;
        }
    }

    /// Starts a logger that sends to it over HTTP.
    ///
    /// # Errors
    /// It was not started.
    pub(super) fn logger(&self, builder: LoggerBuilder) -> Result<Logger> {
        let address = self.address.context("it was not started")?;
        let publisher = HttpPublisher::builder(format!("http://{address}"))
            .without_proxies()
            .build()?;
        Ok(builder.start(publisher)?)
    }

    /// Kills it as a crash would, all groups with it, and starts it again.
    ///
    /// # Errors
    /// It had ended before, or does not come back.
    pub(super) async fn crash(&mut self) -> Result<()> {
        self.child.take().context("it does not run")?.kill().await?;
        self.start().await
    }

    /// Returns what `warren groups --json` prints now.
    ///
    /// # Errors
    /// It fails, or prints something else.
    pub(super) async fn reports(&mut self) -> Result<[Option<GroupReport>; 4]> {
        self.fine()?;
        let address = self.address.context("it was not started")?;
        let environment = self.environment.clone().with("http.listen", address.to_string());
        let mut command = environment.command(&self.program);
        command
            .args(["groups", "--json"])
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = timeout(GROUPS_TIMEOUT, command.output())
            .await
            .map_err(|_| anyhow!("`warren groups --json` takes longer than {GROUPS_TIMEOUT:?}"))?
            .context("cannot start `warren groups --json`")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("`warren groups --json` failed: {}", said.trim());
        }
        let mut reports = [const { None }; 4];
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let report: GroupReport = line
                .parse()
                .with_context(|| format!("`warren groups --json` printed {line:?}"))?;
            if let Some(group) = GROUPS.iter().position(|group| *group == report.group.as_str()) {
                reports[group] = Some(report);
            }
        }
        Ok(reports)
    }

    /// Returns what `warren groups --json` printed last, and stops the process.
    ///
    /// # Errors
    /// It does not stop, or not with success, or a group is missing.
    pub(super) async fn finish(&mut self) -> Result<[GroupReport; 4]> {
        let [Some(a), Some(b), Some(c), Some(d)] = self.reports().await? else {
            bail!("`warren groups --json` does not print all four groups");
        };
        if let Some(child) = self.child.take() {
            child.stop().await?;
        }
        Ok([a, b, c, d])
    }

    /// Kills what still runs.
    pub(super) async fn end(&mut self) {
        if let Some(child) = self.child.take() {
            // It may have ended by itself.
            child.kill().await.ok();
        }
    }

    /// Returns the end of its log.
    pub(super) fn logs(&self) -> Vec<NamedLog> {
        vec![NamedLog {
            group: None,
            program: "warren serve".to_owned(),
            log: self.log.clone(),
        }]
    }

    fn fine(&mut self) -> Result<()> {
        match self.child.as_mut().and_then(Child::ended) {
            Some(status) => bail!("`warren serve` has ended by itself: {status}"),
            None => Ok(()),
        }
    }
}

/// Finds the address in the line of its JSON log that tells it.
fn listening_address(line: &str) -> Option<SocketAddr> {
    let line: Value = serde_json::from_str(line).ok()?;
    (line["message"] == "listening").then_some(())?;
    line["address"].as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_stands_in_the_line_that_says_listening() {
        let line = r#"{"level":"INFO","message":"listening","address":"127.0.0.1:4711","path":"/x"}"#;
        assert_eq!(listening_address(line), Some("127.0.0.1:4711".parse().unwrap()));
        assert_eq!(listening_address(r#"{"message":"stopped"}"#), None);
        assert_eq!(listening_address("listening"), None);
    }
}
