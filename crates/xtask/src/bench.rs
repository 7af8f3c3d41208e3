//! The measurements, on a release build and real servers.

use std::process::Command;

use anyhow::Result;
use warren_test_servers::{AMQP_VARIABLE, POSTGRES_VARIABLE, find};

use crate::cargo::{Workspace, run as run_command};

/// The packages whose binaries are measured, and the one that measures.
const PACKAGES: &[&str] = &[
    "warren-bench",
    "warren-ingest-api",
    "warren-store-worker",
    "warren-query-api",
    "warren-severity-consumer",
    "warren",
];

/// What to hand on.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Arguments for the harness
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    arguments: Vec<String>,
}

/// Finds the servers, builds, measures, and returns whether the harness was content.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<bool> {
    let found = find(|line| eprintln!("{line}"))?;
    let packages = PACKAGES.iter().flat_map(|package| ["--package", package]);
    run_command(workspace.cargo(["build", "--release", "--bins"]).args(packages))?;
    let servers = found.start(|line| eprintln!("{line}"))?;
    let mut harness = Command::new(workspace.target.join("release/bench"));
    harness
        .current_dir(&workspace.root)
        .env(AMQP_VARIABLE, &servers.amqp_url)
        .env(POSTGRES_VARIABLE, &servers.postgres_url)
        .args(&options.arguments);
    run_command(&mut harness)?;
    Ok(true)
}
