//! Runs steps to the last, whatever fails, and tells at the end what each took.

use std::time::{Duration, Instant};

use anyhow::Result;

/// The steps so far.
#[derive(Debug, Default)]
pub(crate) struct Steps(Vec<Step>);

#[derive(Debug)]
struct Step {
    name: &'static str,
    took: Duration,
    outcome: Outcome,
}

#[derive(Debug)]
enum Outcome {
    Passed,
    Failed(String),
    Skipped(String),
}

impl Steps {
    /// Runs one step.
    pub(crate) fn run(&mut self, name: &'static str, step: impl FnOnce() -> Result<()>) {
        self.run_if_possible(name, || step().map(|()| None));
    }

    /// Runs one step that says why it, or a part of it, cannot be run here, where that is so.
    pub(crate) fn run_if_possible(
        &mut self,
        name: &'static str,
        step: impl FnOnce() -> Result<Option<String>>,
    ) {
        eprintln!("\n== {name}");
        let start = Instant::now();
        let outcome = match step() {
            Ok(None) => Outcome::Passed,
            Ok(Some(why)) => Outcome::Skipped(why),
            Err(error) => {
                eprintln!("{name}: {error:#}");
                Outcome::Failed(format!("{error:#}").lines().next().unwrap_or_default().to_owned())
            }
        };
        self.0.push(Step {
            name,
            took: start.elapsed(),
            outcome,
        });
    }

    /// Notes a step that cannot be run here, and why that is no failure.
    pub(crate) fn skip(&mut self, name: &'static str, why: &str) {
        self.0.push(Step {
            name,
            took: Duration::ZERO,
            outcome: Outcome::Skipped(why.to_owned()),
        });
    }

    /// Prints the table of all steps and returns whether none failed.
    pub(crate) fn finish(self) -> bool {
        eprintln!("\n{:<16} {:>8}  outcome", "step", "seconds");
        for Step { name, took, outcome } in &self.0 {
            let outcome = match outcome {
                Outcome::Passed => "passed".to_owned(),
                Outcome::Failed(why) => format!("FAILED: {why}"),
                Outcome::Skipped(why) => format!("not run: {why}"),
            };
            eprintln!("{name:<16} {:>8.1}  {outcome}", took.as_secs_f64());
        }
        let total: Duration = self.0.iter().map(|step| step.took).sum();
        eprintln!("{:<16} {:>8.1}", "total", total.as_secs_f64());
        !self
            .0
            .iter()
            .any(|step| matches!(step.outcome, Outcome::Failed(_)))
    }
}
