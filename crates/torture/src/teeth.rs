//! Shows that the run has teeth: a program with a bug on purpose has to fail it, by the invariant that the bug breaks.
//!
//! Each bug has a plan of its own, as short as makes the bug visible. All plans together, one after the other, have to
//! pass on programs that are built in the same way and were told to have no bug: what fails then is the bug.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use tokio::process::Command;
use warren_planted::Bug;

use crate::bed::Programs;
use crate::fault::{Fault, Link, Trouble};
use crate::plan::{Episode, Injection, Plan};
use crate::report::Report;
use crate::run::{Servers, run};

/// Where the programs with bugs are built, below the folder for builds: nobody takes them for others.
const FOLDER: &str = "planted";

/// The packages of the programs that can have bugs.
const PACKAGES: &[&str] = &["warren-ingest-api", "warren-store-worker"];

/// What a plan with bugs comes from; it decides about nothing but messages and jitter.
const SEED: u64 = 7;

/// Messages a second.
const RATE: u64 = 500;

/// What became of one bug, or of the programs without one.
#[derive(Clone, Debug, Serialize)]
pub struct Bite {
    /// The bug's name; none for the run without.
    pub bug: Option<&'static str>,
    /// The invariant that has to break.
    pub must_break: Option<&'static str>,
    /// Those that broke.
    pub broken: BTreeSet<String>,
    /// Whether it was as it has to be.
    pub good: bool,
    /// How long it took, seconds.
    pub seconds: f64,
    /// Where its report is.
    pub report: PathBuf,
}

impl fmt::Display for Bite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let broken: Vec<_> = self.broken.iter().map(String::as_str).collect();
        write!(
            f,
            "{:<28} must break {:<8} broke {:<16} {:>4.0} s  {}",
            self.bug.unwrap_or("(none)"),
            self.must_break.unwrap_or("nothing"),
            if broken.is_empty() {
                "nothing".to_owned()
            } else {
                broken.join(" ")
            },
            self.seconds,
            match (self.good, self.bug) {
                (true, Some(_)) => "found",
                (true, None) => "passed",
                (false, Some(_)) => "NOT FOUND",
                (false, None) => "FAILED",
            }
        )
    }
}

/// Returns what makes a bug visible, and the invariant that it breaks.
fn plan_of(bug: Bug) -> (Vec<Injection>, &'static str) {
    let publish = |trouble, amount| Fault::Link {
        link: Link::Publish,
        instance: 0,
        trouble,
        amount,
    };
    match bug {
        // What was handed to a connection that hands nothing on is never confirmed.
        Bug::AckBeforeConfirm => (vec![at(0, 3_000, publish(Trouble::Swallow, 0))], "I1"),
        Bug::MandatoryOff => (vec![at(0, 2_000, Fault::DeleteBindings)], "I1"),
        // While nothing can be committed, what is acknowledged is in memory alone, which then is gone.
        Bug::AckBeforeCommit => (
            vec![
                at(0, 4_000, Fault::LockTable),
                at(2_000, 500, Fault::KillWorker { instance: 0 }),
                at(2_000, 500, Fault::KillWorker { instance: 1 }),
            ],
            "I1",
        ),
        Bug::NoUniqueKey => (vec![at(0, 100, Fault::RepeatedPackets { count: 30 })], "I2"),
        // The broker has the packet, its confirm is lost, and the next connection is there before anybody gives up.
        Bug::NewIdOnRetry => {
            let cut = |after| at(after, 300, publish(Trouble::CutAfterDown, 100));
            (vec![cut(0), cut(1_500), cut(3_000), cut(4_500)], "I4")
        }
        // A database that answers at once, and always with an error; the dead letters are those that nobody has planted.
        Bug::RequeueOnDatabaseError => (vec![at(0, 5_000, Fault::RevokeInsert)], "I1"),
        // Deliveries that are never acknowledged fill the prefetch, and packets that are never confirmed the window.
        Bug::MultipleIgnored => (vec![at(0, 500, Fault::EndSessions)], "I7"),
        Bug::TagOffByOneAfterReopen => (vec![at(0, 500, Fault::CloseConnections)], "I7"),
        // The load holds it now and then; the database refuses the row, and nobody has planted that dead letter.
        Bug::ValidatorLetsNulPass => (vec![at(0, 500, Fault::EndSessions)], "I1"),
        Bug::BatchErrorDropsBatch => (vec![at(0, 2_000, Fault::StopPostgres)], "I1"),
    }
}

const fn at(after: u64, length: u64, fault: Fault) -> Injection {
    Injection { after, length, fault }
}

/// Makes a plan of some episodes.
fn plan(episodes: impl Iterator<Item = Vec<Injection>>) -> Plan {
    let settings = |settings: &[(&str, &str)]| {
        let named = settings
            .iter()
            .map(|(name, value)| (format!("WARREN_{name}"), (*value).to_owned()));
        named.collect()
    };
    let episodes = episodes.map(|injections| Episode {
        injections,
        quiet: 1_500,
    });
    Plan::of_episodes(
        SEED,
        RATE,
        settings(&[("AMQP__HEARTBEAT", "3s"), ("AMQP__PUBLISH_TIMEOUT", "3s")]),
        settings(&[
            ("AMQP__HEARTBEAT", "3s"),
            ("WORKER__BATCH_WAIT", "20ms"),
            ("WORKER__RETRY_MAX", "500ms"),
            ("POSTGRES__LOCK_TIMEOUT", "500ms"),
            ("POSTGRES__STATEMENT_TIMEOUT", "1500ms"),
        ]),
        episodes.collect(),
    )
}

/// Builds the programs with every bug in them, to be chosen at their start; returns their folder.
///
/// # Errors
/// It cannot be built. It has to be called in the workspace.
pub async fn build() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let target = match std::env::var_os("CARGO_TARGET_DIR") {
        Some(target) => PathBuf::from(target),
        None => PathBuf::from("target"),
    }
    .join(FOLDER);
    let mut command = Command::new(cargo);
    command
        .args(["build", "--features", "planted-bugs", "--bins", "--target-dir"])
        .arg(&target)
        .args(PACKAGES.iter().flat_map(|package| ["--package", package]))
        .kill_on_drop(true);
    eprintln!("building the programs with bugs into {}", target.display());
    let status = command.status().await.context("cannot start cargo")?;
    ensure!(
        status.success(),
        "the programs with bugs cannot be built: {status}"
    );
    Ok(target.join("debug"))
}

/// Runs the plan of every bug, and all of them without; returns what became of each.
///
/// # Errors
/// The harness could not do its part.
pub async fn teeth(bugs: &[Bug], folder: &Path, servers: &Servers, out: &Path) -> Result<Vec<Bite>> {
    let mut bites = Vec::new();
    let without = plan(bugs.iter().map(|bug| plan_of(*bug).0));
    bites.push(bite(None, &without, folder, servers, out).await?);
    eprintln!("{}", bites[0]);
    for bug in bugs {
        let (injections, must_break) = plan_of(*bug);
        let plan = plan(std::iter::once(injections));
        let bite = bite(Some((*bug, must_break)), &plan, folder, servers, out).await?;
        eprintln!("{bite}");
        bites.push(bite);
    }
    let json = serde_json::to_vec_pretty(&bites)?;
    std::fs::write(out.join("teeth.json"), json)
        .with_context(|| format!("cannot write into {}", out.display()))?;
    Ok(bites)
}

async fn bite(
    bug: Option<(Bug, &'static str)>,
    plan: &Plan,
    folder: &Path,
    servers: &Servers,
    out: &Path,
) -> Result<Bite> {
    let begun = Instant::now();
    let name = bug.map_or("none", |(bug, _)| bug.name());
    eprintln!("bug: {name}");
    let programs = Programs {
        folder: folder.to_owned(),
        // Programs without bugs know no such setting, and do not start.
        environment: bug
            .map(|(bug, _)| (warren_planted::VARIABLE.to_owned(), bug.name().to_owned()))
            .into_iter()
            .collect(),
    };
    let out = out.join(name);
    let report = run(plan, &programs, servers, &out)
        .await
        .with_context(|| format!("with the bug {name}"))?;
    let broken = broken(&report);
    Ok(Bite {
        bug: bug.map(|(bug, _)| bug.name()),
        must_break: bug.map(|(_, must_break)| must_break),
        good: match bug {
            Some((_, must_break)) => broken.contains(must_break),
            None => report.passed,
        },
        broken,
        seconds: begun.elapsed().as_secs_f64(),
        report: out.join("report.txt"),
    })
}

/// Returns the invariants that a run has broken, by their number.
fn broken(report: &Report) -> BTreeSet<String> {
    let findings = report.findings.broken();
    let named = findings.iter().map(|(what, _)| *what);
    let named = named.chain(report.problems.iter().map(String::as_str));
    named.filter_map(invariant).collect()
}

/// Returns the number that a finding begins with: `I7: not drained` is of `I7`.
fn invariant(finding: &str) -> Option<String> {
    let end = finding.find([':', ' ']).unwrap_or(finding.len());
    let number = &finding[..end];
    let digits = number.strip_prefix('I')?;
    (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| number.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_names_its_invariant() {
        let mut report = Report::default();
        report.findings.lost.push("message 3".to_owned());
        report
            .problems
            .push("I7: not drained after 60s: In all".to_owned());
        report.problems.push("In the end, no bite".to_owned());
        assert_eq!(
            broken(&report),
            BTreeSet::from(["I1".to_owned(), "I7".to_owned()])
        );
        assert!(broken(&Report::default()).is_empty());
    }

    #[test]
    fn every_bug_has_a_plan_of_at_most_ten_seconds() {
        for bug in Bug::ALL {
            let (injections, must_break) = plan_of(*bug);
            assert!(
                !injections.is_empty() && invariant(must_break).as_deref() == Some(must_break),
                "{bug}"
            );
            let plan = plan(std::iter::once(injections));
            assert!(plan.length() < 14_000, "{bug}: {}", plan.length());
        }
    }
}
