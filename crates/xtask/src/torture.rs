//! The run that proves the promise, on a release build and servers of its own.

use std::process::Command;

use anyhow::Result;
use warren_test_servers::provide_programs;

use crate::cargo::{Workspace, run as run_command};

/// The packages whose binaries are tortured, and the one that tortures.
const PACKAGES: &[&str] = &[
    "warren-torture",
    "warren-ingest-api",
    "warren-store-worker",
    "warren",
];

/// What a change must pass, by the name of the step: the harness's arguments. How soon is shown and decides nothing,
/// because the machine of a change may do other work.
pub(crate) const STEPS: [(&str, &[&str]); 2] = [
    (
        "torture embedded",
        &["embedded", "--kills", "20", "--goals", "shown"],
    ),
    (
        "torture gate",
        &["run", "--profile", "gate", "--seed", "1,2,3", "--goals", "shown"],
    ),
];

/// What to hand on.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Arguments for the harness; none: `run`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    arguments: Vec<String>,
}

impl Options {
    /// Returns the options with these arguments for the harness.
    pub(crate) fn of(arguments: &[&str]) -> Self {
        Self {
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
        }
    }
}

/// Sees to the servers' programs, builds, and lets the harness run.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    provide_programs(|line| eprintln!("{line}"))?;
    let packages = PACKAGES.iter().flat_map(|package| ["--package", package]);
    run_command(workspace.cargo(["build", "--release", "--bins"]).args(packages))?;
    let mut harness = Command::new(workspace.target.join("release/torture"));
    harness.current_dir(&workspace.root);
    match options.arguments.first().map(String::as_str) {
        None => harness.arg("run"),
        Some(option)
            if option.starts_with('-') && !matches!(option, "-h" | "--help" | "-V" | "--version") =>
        {
            harness.arg("run")
        }
        Some(_) => &mut harness,
    };
    run_command(harness.args(&options.arguments))
}
