//! What a run has shown, for people and for programs.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::ledger::{Findings, SHOWN, Tally};
use crate::resources::Held;

/// The goals of recovery, at the 99th percentile: the first 202 and the first row after everything has healed.
pub const FIRST_202: Duration = Duration::from_secs(2);
/// See [`FIRST_202`].
pub const FIRST_ROW: Duration = Duration::from_secs(3);
/// How long every program may take to call itself ready: two heartbeats and the longest pause between two tries, twice.
pub const READY: Duration = Duration::from_secs(15);
/// How long a broker that hangs may go unnoticed.
pub const HANG_SEEN: Duration = Duration::from_secs(6);
/// How long a broker that is cut off may go unnoticed.
pub const CUT_SEEN: Duration = Duration::from_millis(500);

/// How long an answer may take while nothing is wrong; who waits longer hangs.
pub const QUIET_ANSWER: Duration = Duration::from_secs(2);

/// One of so many requests that are due may be held back, because too many are under way; more, and the load was another
/// one than the plan's.
const HELD_BACK: u64 = 2;

/// The longest that a recovery is waited for; what takes that long has not happened, whoever measures.
pub const RECOVERY: Duration = Duration::from_secs(30);

/// What becomes of a time over its goal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Goals {
    /// It fails the run.
    #[default]
    Judged,
    /// It is shown: on a machine that does other work too, a second says nothing about the programs.
    Shown,
}

/// A run, complete.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Whether everything holds.
    pub passed: bool,
    /// What everything random came from.
    pub seed: u64,
    /// The name of the plan.
    pub plan: String,
    /// Releases of broker, database and product.
    pub versions: Vec<String>,
    /// The whole run, seconds.
    pub seconds: f64,
    /// By kind: how many were planned and how many were seen to have had an effect.
    pub injections: BTreeMap<String, Bitten>,
    /// Every kind of fault that the plan could have held and does not.
    pub not_met: Vec<String>,
    /// The comparison of what was sent, answered and stored.
    pub findings: Findings,
    /// Whether that comparison was made; without it there is no verdict.
    pub compared: bool,
    /// What the clients were answered.
    pub tally: Tally,
    /// Requests that were due.
    pub due: u64,
    /// Those of them that were not sent, because too many were under way.
    pub held_back: u64,
    /// From the end of an episode to the first new 202 of each intake, the slowest one, milliseconds.
    pub first_202: Times,
    /// From the end of an episode to the first new row, milliseconds.
    pub first_row: Times,
    /// From the end of an episode to the last program that is ready, milliseconds.
    pub ready: Times,
    /// From the moment that a broker hung to the first 503, milliseconds.
    pub hang_seen: Times,
    /// From the moment that a broker was cut off to the first 503, milliseconds.
    pub cut_seen: Times,
    /// From the end of the load to an empty queue, milliseconds.
    pub drained: u64,
    /// The most that each program held.
    pub held: BTreeMap<String, Held>,
    /// What the programs' own books were compared with, one sentence each.
    pub books: Vec<String>,
    /// Where canaries waited long for their answer although nothing was wrong.
    pub hung: Vec<String>,
    /// Everything that does not hold, beside what the findings say.
    pub problems: Vec<String>,
    /// The goals that were missed where goals are only shown.
    pub missed: Vec<String>,
    /// Where the logs are.
    pub logs: String,
}

/// What several runs have shown together.
#[derive(Clone, Debug, Default)]
pub struct Total {
    runs: u64,
    passed: u64,
    bitten: u64,
    planned: u64,
    accepted: u64,
    stored: u64,
    lost: usize,
    twice: usize,
    altered: usize,
    phantom: usize,
}

impl Total {
    /// Adds a run.
    pub fn add(&mut self, report: &Report) {
        let findings = &report.findings;
        self.runs += 1;
        self.passed += u64::from(report.passed);
        self.bitten += report.bitten();
        self.planned += report.planned();
        self.accepted += report.tally.accepted;
        self.stored += findings.stored;
        self.lost += findings.lost.len();
        self.twice += findings.twice.len();
        self.altered += findings.altered.len();
        self.phantom += findings.phantom.len() + findings.refused_and_stored.len();
    }

    /// Says what is missing to so many injections that had an effect and so many accepted messages.
    pub fn short_of(&self, injections: u64, accepted: u64) -> Option<String> {
        (self.bitten < injections || self.accepted < accepted).then(|| {
            format!(
                "no evidence: {} injections with an effect and {} accepted messages; {injections} and {accepted} are needed",
                self.bitten, self.accepted
            )
        })
    }
}

impl fmt::Display for Total {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "passed {}/{} | injections {}/{} | acked {} | stored {} | LOST {} | TWICE {} | ALTERED {} | PHANTOM {}",
            self.passed,
            self.runs,
            self.bitten,
            self.planned,
            self.accepted,
            self.stored,
            self.lost,
            self.twice,
            self.altered,
            self.phantom
        )
    }
}

/// How often a fault was planned, and how often it had an effect.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Bitten {
    /// Injections that were seen to have had an effect.
    pub bitten: u64,
    /// Injections of the plan.
    pub planned: u64,
}

/// Some durations, milliseconds.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(transparent)]
pub struct Times(pub Vec<u64>);

impl Times {
    /// Adds one.
    pub fn add(&mut self, time: Duration) {
        self.0.push(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        self.0.sort_unstable();
    }

    /// Returns the time that so many of a hundred do not exceed.
    pub fn percentile(&self, percent: usize) -> Option<Duration> {
        let place = (self.0.len() * percent).div_ceil(100).saturating_sub(1);
        self.0.get(place).copied().map(Duration::from_millis)
    }

    /// Names what is over its goal at the 99th percentile.
    fn over(&self, what: &str, goal: Duration) -> Option<String> {
        let reached = self.percentile(99)?;
        (reached > goal).then(|| {
            format!(
                "I7: {what} within {reached:?} (p99 of {}), over {goal:?}",
                self.0.len()
            )
        })
    }

    /// Names what has not happened at all while it was waited for.
    fn never(&self, what: &str) -> Option<String> {
        let never = Duration::from_millis(*self.0.last()?) >= RECOVERY;
        never.then(|| format!("I7: {what} not within {RECOVERY:?}"))
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Some(median), Some(late), Some(last)) =
            (self.percentile(50), self.percentile(99), self.0.last())
        else {
            return f.write_str("not met");
        };
        write!(
            f,
            "p50 {} ms, p99 {} ms, max {last} ms (of {})",
            median.as_millis(),
            late.as_millis(),
            self.0.len()
        )
    }
}

impl Report {
    /// Judges everything that was measured, and says whether it holds.
    pub fn judge(&mut self, goals: Goals) {
        for (name, bitten) in &self.injections {
            if bitten.bitten < bitten.planned {
                self.problems.push(format!(
                    "no bite: {name} had an effect {} times of {}",
                    bitten.bitten, bitten.planned
                ));
            }
        }
        for (program, held) in &self.held {
            self.problems
                .extend(held.over(program).into_iter().map(|what| format!("I8: {what}")));
        }
        let times = [
            (&self.first_202, "first new 202", FIRST_202),
            (&self.first_row, "first new row", FIRST_ROW),
            (&self.ready, "every program ready", READY),
            (&self.hang_seen, "503 of a broker that hangs", HANG_SEEN),
            (&self.cut_seen, "503 of a broker that is cut off", CUT_SEEN),
        ];
        match goals {
            Goals::Judged => self.problems.extend(self.hung.iter().cloned()),
            Goals::Shown => self.missed.extend(self.hung.iter().cloned()),
        }
        for (times, what, goal) in times {
            let over = times.over(what, goal);
            match (times.never(what), goals) {
                (Some(never), _) => self.problems.push(never),
                (None, Goals::Judged) => self.problems.extend(over),
                (None, Goals::Shown) => self.missed.extend(over),
            }
        }
        if self.findings.unknown > 0 {
            self.problems.push(format!(
                "{} messages were never answered for good",
                self.findings.unknown
            ));
        }
        // A run in which nothing happened shows nothing.
        if self.bitten() == 0 {
            self.problems
                .push("no evidence: no injection had an effect".to_owned());
        }
        if self.tally.accepted == 0 {
            self.problems
                .push("no evidence: no message was answered with 202".to_owned());
        }
        if !self.compared {
            self.problems
                .push("no verdict: what was sent was not compared with what is stored".to_owned());
        }
        if self.held_back * HELD_BACK > self.due {
            self.problems.push(format!(
                "the load was not the plan's: {} of {} requests were held back, more than one of {HELD_BACK}",
                self.held_back, self.due
            ));
        }
        self.passed = self.problems.is_empty() && self.findings.broken().is_empty();
    }

    /// Counts the injections of the plan.
    pub fn planned(&self) -> u64 {
        self.injections.values().map(|bitten| bitten.planned).sum()
    }

    /// Counts the injections that had an effect.
    pub fn bitten(&self) -> u64 {
        self.injections.values().map(|bitten| bitten.bitten).sum()
    }

    /// Writes the report into a folder, as `report.json` and `report.txt`.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let json = serde_json::to_vec_pretty(self)?;
        std::fs::write(folder.join("report.json"), json)
            .and_then(|()| std::fs::write(folder.join("report.txt"), self.to_string()))
            .with_context(|| format!("cannot write into {}", folder.display()))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seed {} | plan {} | {} | {:.0} s",
            self.seed,
            self.plan,
            self.versions.join(", "),
            self.seconds
        )?;
        write!(f, "injections {}/{}:", self.bitten(), self.planned())?;
        for (name, bitten) in &self.injections {
            write!(f, " {name} {}/{}", bitten.bitten, bitten.planned)?;
        }
        writeln!(f)?;
        if !self.not_met.is_empty() {
            writeln!(f, "not met: {}", self.not_met.join(" "))?;
        }
        if self.compared {
            writeln!(f, "{}", self.findings)?;
        } else {
            writeln!(f, "not compared: acked {}", self.tally.accepted)?;
        }
        write!(f, "answers:")?;
        for (status, count) in &self.tally.answers {
            write!(f, " {status} {count}")?;
        }
        writeln!(
            f,
            " | broken {} | held back {} of {}",
            self.tally.broken, self.held_back, self.due
        )?;
        writeln!(f, "first new 202 after heal: {}", self.first_202)?;
        writeln!(f, "first new row after heal: {}", self.first_row)?;
        writeln!(f, "every program ready after heal: {}", self.ready)?;
        writeln!(f, "hung broker seen as 503: {}", self.hang_seen)?;
        writeln!(f, "cut broker seen as 503: {}", self.cut_seen)?;
        writeln!(f, "drained in {} ms", self.drained)?;
        for checked in &self.books {
            writeln!(f, "books: {checked}")?;
        }
        write!(f, "most held:")?;
        for (program, held) in &self.held {
            write!(
                f,
                " {program} {} MiB, {} files, {} threads;",
                held.memory >> 20,
                held.files,
                held.threads
            )?;
        }
        writeln!(f)?;
        for (what, cases) in self.findings.broken() {
            writeln!(f, "{what}: {}", cases.len())?;
            for case in cases.iter().take(SHOWN) {
                writeln!(f, "  {case}")?;
            }
        }
        for problem in &self.problems {
            writeln!(f, "{problem}")?;
        }
        for missed in &self.missed {
            writeln!(f, "missed: {missed}")?;
        }
        if !self.passed {
            writeln!(f, "logs: {}", self.logs)?;
        }
        writeln!(f, "{}", if self.passed { "PASSED" } else { "FAILED" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a report of a run in which something happened.
    fn good() -> Report {
        let mut report = Report {
            compared: true,
            ..Report::default()
        };
        report.tally.accepted = 5;
        let bitten = Bitten {
            bitten: 2,
            planned: 2,
        };
        report.injections.insert("kill-ingest".to_owned(), bitten);
        report
    }

    #[test]
    fn a_run_in_which_nothing_happened_or_nothing_was_compared_shows_nothing() {
        let faultless = Report {
            injections: BTreeMap::new(),
            ..good()
        };
        let silent = Report {
            tally: Tally::default(),
            ..good()
        };
        let open = Report {
            compared: false,
            ..good()
        };
        let light = Report {
            due: 100,
            held_back: 51,
            ..good()
        };
        for (mut report, word) in [
            (faultless, "no injection had an effect"),
            (silent, "no message was answered with 202"),
            (open, "not compared"),
            (light, "51 of 100 requests were held back"),
        ] {
            report.judge(Goals::Shown);
            let text = report.to_string();
            assert!(!report.passed && text.contains(word), "{text}");
        }
    }

    #[test]
    fn a_report_without_a_problem_passes_and_names_its_numbers() {
        let mut report = Report { seed: 7, ..good() };
        report.findings.sent = 5;
        report.judge(Goals::Judged);
        let text = report.to_string();
        assert!(report.passed && text.contains("sent 5 | acked 0"), "{text}");
        assert!(
            text.contains("injections 2/2: kill-ingest 2/2") && text.ends_with("PASSED\n"),
            "{text}"
        );
    }

    #[test]
    fn a_lost_message_a_fault_without_a_bite_and_a_slow_recovery_fail_it() {
        let mut lost = good();
        lost.findings.lost.push("message 3".to_owned());
        let mut toothless = good();
        toothless.injections.insert(
            "lock-table".to_owned(),
            Bitten {
                bitten: 0,
                planned: 1,
            },
        );
        let mut slow = good();
        slow.first_row.add(Duration::from_secs(4));
        let mut fat = good();
        let memory = crate::resources::MOST_MEMORY + 1;
        fat.held.insert(
            "worker-0".to_owned(),
            Held {
                memory,
                ..Held::default()
            },
        );
        for (mut report, word) in [
            (lost, "message 3"),
            (toothless, "no bite"),
            (slow, "first new row"),
            (fat, "I8: worker-0"),
        ] {
            report.judge(Goals::Judged);
            let text = report.to_string();
            assert!(
                !report.passed && text.contains(word) && text.ends_with("FAILED\n"),
                "{text}"
            );
        }
    }

    #[test]
    fn where_goals_are_only_shown_a_slow_recovery_passes_and_none_at_all_fails() {
        let mut slow = good();
        slow.first_row.add(Duration::from_secs(4));
        let mut never = slow.clone();
        never.first_row.add(RECOVERY);
        slow.judge(Goals::Shown);
        assert!(
            slow.passed && slow.to_string().contains("missed: I7: first new row"),
            "{slow}"
        );
        never.judge(Goals::Shown);
        assert!(
            !never.passed && never.to_string().contains("not within 30s"),
            "{never}"
        );
    }

    #[test]
    fn several_runs_together_say_what_they_are_short_of() {
        let mut total = Total::default();
        total.add(&good());
        total.add(&good());
        assert!(total.short_of(4, 10).is_none());
        assert!(total.short_of(5, 10).is_some());
        let short = total.short_of(4, 11).unwrap();
        assert!(short.contains("10 accepted messages"), "{short}");
        assert!(total.to_string().contains("injections 4/4 | acked 10"), "{total}");
    }

    #[test]
    fn a_percentile_is_one_of_the_times() {
        let mut times = Times::default();
        assert_eq!(times.percentile(99), None);
        for seconds in [3, 1, 2] {
            times.add(Duration::from_secs(seconds));
        }
        assert_eq!(times.percentile(50), Some(Duration::from_secs(2)));
        assert_eq!(times.percentile(99), Some(Duration::from_secs(3)));
    }
}
