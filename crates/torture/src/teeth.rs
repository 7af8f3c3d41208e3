//! Shows that the run has teeth: a program with a bug on purpose has to fail it, by the invariant that the bug breaks.
//!
//! Each bug has a plan of its own, as short as makes the bug visible. All plans together, one after the other, have to
//! pass on programs that are built in the same way and were told to have no bug: what fails with one fails by it.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use tokio::process::Command;
use warren_e2e::environment;
use warren_planted::Bug;
use warren_test_servers::find_strace;

use crate::bed::Programs;
use crate::fault::{Fault, Link, Trouble};
use crate::plan::{Episode, Injection, Plan, Settings, Setup};
use crate::report::{Goals, Report};
use crate::run::{Servers, run};
use crate::syscalls::{REQUESTS, Traced, every_answer_is_synced, trace};

/// Where the programs with bugs are built, below the folder for builds: nobody takes them for others.
const FOLDER: &str = "planted";

/// The packages of the programs that can have bugs.
const PACKAGES: &[&str] = &["warren-ingest-api", "warren-store-worker", "warren"];

/// What a plan with bugs comes from; it decides about nothing but messages and jitter.
const SEED: u64 = 7;

/// Messages a second.
const RATE: u64 = 500;

/// How many characters of a finding are shown.
const SHOWN: usize = 80;

/// What an answer breaks that comes before its sync.
const SYNC: &str = "sync";

/// What was accepted is gone.
const LOST: &[&str] = &["I1 lost"];

/// What only a bug makes a dead letter is one.
const DEAD: &[&str] = &["I1 dead letter that was not planted"];

/// The programs take nothing any more, or store nothing, however long one waits; a late answer is none of these.
const STUCK: &[&str] = &[
    "I7: first new 202 not within",
    "I7: first new row not within",
    "I7: every program ready not within",
    "I7: the load did not settle",
    "I7: not drained",
];

/// How a bug is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Way {
    /// A run of the distributed programs.
    Run,
    /// The same with intakes that have a spool.
    SpooledRun,
    /// A look at the system calls of the one process: what is not on the disk survives everything but the loss of power.
    Calls,
}

impl Way {
    const ALL: [Self; 3] = [Self::Run, Self::SpooledRun, Self::Calls];

    const fn name(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::SpooledRun => "spooled run",
            Self::Calls => "system calls",
        }
    }
}

/// What makes a bug visible, and what it breaks.
#[derive(Clone, Debug)]
struct Trial {
    way: Way,
    faults: Vec<Injection>,
    /// How the finding begins that shows it, one of these.
    must_break: &'static [&'static str],
}

/// What became of one bug, or of the programs without one.
#[derive(Clone, Debug, Serialize)]
pub struct Bite {
    /// The bug's name; none for programs without one.
    pub bug: Option<&'static str>,
    /// How it was looked for.
    pub way: &'static str,
    /// How the finding begins that has to be made: one of these.
    pub must_break: &'static [&'static str],
    /// The invariants that broke.
    pub broken: BTreeSet<String>,
    /// The finding that shows the bug.
    pub found: Option<String>,
    /// Whether it was as it has to be.
    pub good: bool,
    /// How long it took, seconds.
    pub seconds: f64,
    /// Where more about it is.
    pub out: PathBuf,
}

impl fmt::Display for Bite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let broken: Vec<_> = self.broken.iter().map(String::as_str).collect();
        write!(
            f,
            "{:<28} {:<13} broke {:<12} {:>4.0} s  {}",
            self.bug.unwrap_or("(none)"),
            self.way,
            if broken.is_empty() {
                "nothing".to_owned()
            } else {
                broken.join(" ")
            },
            self.seconds,
            match (self.good, self.bug) {
                (true, Some(_)) => format!("found: {}", start(self.found.as_deref().unwrap_or_default())),
                (true, None) => "passed".to_owned(),
                (false, Some(_)) => format!("NOT FOUND, must break {}", self.must_break.join(" or ")),
                (false, None) => "FAILED".to_owned(),
            }
        )
    }
}

/// Returns the start of a finding, as much as a line has room for; the report has all of it.
fn start(finding: &str) -> String {
    let mut start: String = finding.chars().take(SHOWN).collect();
    if start.len() < finding.len() {
        start.push('…');
    }
    start
}

/// Returns what makes a bug visible.
fn trial_of(bug: Bug) -> Trial {
    let run = |must_break, faults| Trial {
        way: Way::Run,
        faults,
        must_break,
    };
    let publish = |trouble, amount| Fault::Link {
        link: Link::Publish,
        instance: 0,
        trouble,
        amount,
    };
    match bug {
        // What was handed to a connection that hands nothing on is never confirmed.
        Bug::AckBeforeConfirm => run(LOST, vec![at(0, 3_000, publish(Trouble::Swallow, 0))]),
        Bug::MandatoryOff => run(LOST, vec![at(0, 2_000, Fault::DeleteBindings)]),
        // While nothing can be committed, what is acknowledged is in memory alone, which then is gone.
        Bug::AckBeforeCommit => run(
            LOST,
            vec![
                at(0, 4_000, Fault::LockTable),
                at(2_000, 500, Fault::KillWorker { instance: 0 }),
                at(2_000, 500, Fault::KillWorker { instance: 1 }),
            ],
        ),
        Bug::NoUniqueKey => run(
            &["I2 stored twice"],
            vec![at(0, 100, Fault::RepeatedPackets { count: 30 })],
        ),
        // The broker has the packet, its confirm is lost, and the next connection is there before anybody gives up.
        Bug::NewIdOnRetry => {
            let cut = |after| at(after, 300, publish(Trouble::CutAfterDown, 100));
            run(&["I4 phantom"], vec![cut(0), cut(1_500), cut(3_000), cut(4_500)])
        }
        // A database that answers at once, and always with an error, makes dead letters that nobody has planted.
        Bug::RequeueOnDatabaseError => run(DEAD, vec![at(0, 5_000, Fault::RevokeInsert)]),
        // Deliveries that are never acknowledged fill the prefetch, and packets that are never confirmed the window.
        Bug::MultipleIgnored => run(STUCK, vec![at(0, 500, Fault::EndSessions)]),
        Bug::TagOffByOneAfterReopen => run(STUCK, vec![at(0, 500, Fault::CloseConnections)]),
        Bug::BatchErrorDropsBatch => run(LOST, vec![at(0, 2_000, Fault::StopPostgres)]),
        // While the broker hands nothing on, the spool's reader tries, and what it tries is in memory alone, which is gone.
        Bug::SpoolDeletedBeforeConfirm => Trial {
            way: Way::SpooledRun,
            ..run(
                LOST,
                vec![
                    at(0, 7_000, publish(Trouble::Swallow, 0)),
                    at(5_500, 300, Fault::KillIngest { instance: 0 }),
                ],
            )
        },
        // The load holds it now and then; the database refuses the row, and nobody has planted that dead letter.
        Bug::ValidatorLetsNulPass => run(DEAD, vec![at(0, 500, Fault::EndSessions)]),
        Bug::FsyncSkipped => Trial {
            way: Way::Calls,
            faults: Vec::new(),
            must_break: &[SYNC],
        },
    }
}

const fn at(after: u64, length: u64, fault: Fault) -> Injection {
    Injection { after, length, fault }
}

/// Makes a plan of some episodes.
fn plan(episodes: impl Iterator<Item = Vec<Injection>>, spool: bool) -> Plan {
    let settings = |settings: &[(&str, &str)]| -> Settings {
        let named = settings
            .iter()
            .map(|(name, value)| (format!("WARREN_{name}"), (*value).to_owned()));
        named.collect()
    };
    let episodes = episodes.map(|injections| Episode {
        setup: None,
        injections,
        quiet: 1_500,
    });
    Plan::of_episodes(
        SEED,
        RATE,
        Setup {
            ingest: settings(&[("AMQP__HEARTBEAT", "3s"), ("AMQP__PUBLISH_TIMEOUT", "3s")]),
            worker: settings(&[
                ("AMQP__HEARTBEAT", "3s"),
                ("WORKER__BATCH_WAIT", "20ms"),
                ("WORKER__RETRY_MAX", "500ms"),
                ("POSTGRES__LOCK_TIMEOUT", "500ms"),
                ("POSTGRES__STATEMENT_TIMEOUT", "1500ms"),
            ]),
            spool,
        },
        episodes.collect(),
    )
}

/// Builds the programs with every bug in them, to be chosen at their start; returns their folder.
///
/// # Errors
/// They cannot be built. It has to be called in the workspace.
pub async fn build() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    let target = PathBuf::from(target).join(FOLDER);
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

/// What is needed to look for bugs.
#[derive(Debug)]
pub struct Teeth {
    /// Where the programs with bugs are.
    pub folder: PathBuf,
    /// RabbitMQ and PostgreSQL.
    pub servers: Servers,
    /// Where plans, reports and logs go.
    pub out: PathBuf,
}

impl Teeth {
    /// Looks for every bug, and first at the programs without one; returns what became of each.
    ///
    /// # Errors
    /// The harness could not do its part.
    pub async fn bite(&self, bugs: &[Bug]) -> Result<Vec<Bite>> {
        std::fs::create_dir_all(&self.out).with_context(|| format!("cannot make {}", self.out.display()))?;
        let mut bites = Vec::new();
        let trials: Vec<_> = bugs.iter().map(|bug| (*bug, trial_of(*bug))).collect();
        for way in Way::ALL {
            let mut of_way = trials.iter().filter(|(_, trial)| trial.way == way).peekable();
            if of_way.peek().is_some() {
                let episodes = of_way.map(|(_, trial)| trial.faults.clone()).collect();
                bites.push(self.one(None, way, episodes).await?);
            }
        }
        for (bug, trial) in trials {
            bites.push(
                self.one(Some((bug, trial.must_break)), trial.way, vec![trial.faults])
                    .await?,
            );
        }
        let json = serde_json::to_vec_pretty(&bites)?;
        std::fs::write(self.out.join("teeth.json"), json)
            .with_context(|| format!("cannot write into {}", self.out.display()))?;
        Ok(bites)
    }

    async fn one(
        &self,
        bug: Option<(Bug, &'static [&'static str])>,
        way: Way,
        episodes: Vec<Vec<Injection>>,
    ) -> Result<Bite> {
        let begun = Instant::now();
        let name = bug.map_or("none", |(bug, _)| bug.name());
        eprintln!("bug: {name}");
        let programs = Programs {
            folder: self.folder.clone(),
            // Programs without bugs know no such setting, and do not start.
            environment: bug
                .map(|(bug, _)| (warren_planted::VARIABLE.to_owned(), bug.name().to_owned()))
                .into_iter()
                .collect(),
        };
        let out = self.out.join(format!("{name}-{}", way.name().replace(' ', "-")));
        let tried = match way {
            Way::Run | Way::SpooledRun => {
                let plan = plan(episodes.into_iter(), way == Way::SpooledRun);
                run(&plan, &programs, &self.servers, &out, Goals::Shown)
                    .await
                    .map(|report| (report.passed, findings(&report)))
            }
            Way::Calls => calls(&programs, &out)
                .await
                .map(|findings| (findings.is_empty(), findings)),
        };
        let (passed, findings) = tried.with_context(|| format!("with the bug {name}"))?;
        let must_break = bug.map_or(&[][..], |(_, must_break)| must_break);
        let found = shows(&findings, must_break);
        let bite = Bite {
            bug: bug.map(|(bug, _)| bug.name()),
            way: way.name(),
            must_break,
            good: bug.map_or(passed, |_| found.is_some()),
            broken: findings.iter().filter_map(|finding| invariant(finding)).collect(),
            found,
            seconds: begun.elapsed().as_secs_f64(),
            out,
        };
        eprintln!("{bite}");
        Ok(bite)
    }
}

/// Looks whether the one process answers before its disk has what it answers for.
async fn calls(programs: &Programs, out: &Path) -> Result<Vec<String>> {
    std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let strace = find_strace(|line| eprintln!("{line}"))?;
    let warren = environment::find(&programs.folder, "warren")?;
    let traced = Traced::warren(warren);
    let trace = trace(&strace, &traced, &programs.environment).await?;
    std::fs::write(out.join("trace"), &trace)
        .with_context(|| format!("cannot write into {}", out.display()))?;
    match every_answer_is_synced(&trace, traced.log) {
        Ok(answers) => {
            ensure!(
                answers == REQUESTS,
                "{answers} answers of {REQUESTS} are in the trace"
            );
            Ok(Vec::new())
        }
        Err(missing) => Ok(vec![format!("{SYNC}: {missing}")]),
    }
}

/// Returns everything that a run has found.
fn findings(report: &Report) -> Vec<String> {
    let broken = report.findings.broken().into_iter();
    broken
        .map(|(what, cases)| format!("{what} {}", cases.len()))
        .chain(report.problems.iter().cloned())
        .collect()
}

/// Returns the finding that shows what has to break. The number of an invariant alone shows little: much can be late.
fn shows(findings: &[String], must_break: &[&str]) -> Option<String> {
    let shows = |finding: &&String| must_break.iter().any(|begin| finding.starts_with(begin));
    findings.iter().find(shows).cloned()
}

/// Returns the number that a finding begins with: `I7: not drained` is of `I7`; an answer before its sync is of none.
fn invariant(finding: &str) -> Option<String> {
    let end = finding.find([':', ' ']).unwrap_or(finding.len());
    let number = &finding[..end];
    if number == SYNC {
        return Some(SYNC.to_owned());
    }
    let digits = number.strip_prefix('I')?;
    (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| number.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_names_its_invariant_and_a_late_answer_is_no_program_that_is_stuck() {
        let mut report = Report::default();
        report.findings.lost.push("message 3".to_owned());
        report
            .problems
            .push("I7: not drained after 60s: In all".to_owned());
        report.problems.push("In the end, no bite".to_owned());
        let found = findings(&report);
        assert_eq!(shows(&found, LOST).as_deref(), Some("I1 lost 1"));
        assert_eq!(shows(&found, DEAD), None);
        assert!(shows(&found, STUCK).is_some_and(|found| found.contains("not drained")));
        let numbers: Vec<_> = found.iter().filter_map(|finding| invariant(finding)).collect();
        assert_eq!(numbers, ["I1", "I7"]);
        let late = ["I7: first new row within 4s (p99 of 1), over 3s".to_owned()];
        assert_eq!(shows(&late, STUCK), None);
        assert!(findings(&Report::default()).is_empty());
    }

    #[test]
    fn every_bug_of_a_run_breaks_an_invariant_within_seconds() {
        for bug in Bug::ALL {
            let trial = trial_of(*bug);
            if trial.way == Way::Calls {
                continue;
            }
            assert!(!trial.faults.is_empty(), "{bug}");
            let named = |begin: &str| invariant(begin).is_some();
            assert!(
                !trial.must_break.is_empty() && trial.must_break.iter().all(|begin| named(begin)),
                "{bug}"
            );
            let plan = plan(std::iter::once(trial.faults), false);
            assert!(plan.length() < 14_000, "{bug}: {}", plan.length());
        }
    }
}
