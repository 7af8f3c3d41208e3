//! Everything that can be said about the code without running it.

use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};

use crate::cargo::{Workspace, run as run_command};
use crate::steps::Steps;
use crate::{planted, rules};

/// Adds the lint steps.
pub(crate) fn run(workspace: &Workspace, steps: &mut Steps) {
    steps.run("format", || {
        installed(workspace, "fmt", "rustup component add rustfmt")?;
        run_cargo(workspace, &["fmt", "--all", "--check"])
    });
    steps.run("dependency rule", || rules::check(workspace));
    steps.run("clippy", || {
        installed(workspace, "clippy", "rustup component add clippy")?;
        run_cargo(
            workspace,
            &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"],
        )
    });
    steps.run("planted bugs", || planted::check(workspace));
    steps.run("documentation", || {
        run_command(
            workspace
                .cargo(["doc", "--workspace", "--no-deps"])
                .env("RUSTDOCFLAGS", "-D warnings"),
        )
    });
    if installed(workspace, "deny", "").is_ok() {
        steps.run("cargo deny", || {
            run_cargo(workspace, &["deny", "check", "bans", "licenses", "sources"])
        });
    } else {
        // The step `dependency rule` has read the same deny.toml.
        steps.skip(
            "cargo deny",
            "not installed (cargo install --locked cargo-deny); the dependency rule stands in",
        );
    }
}

fn run_cargo(workspace: &Workspace, arguments: &[&str]) -> Result<()> {
    run_command(&mut workspace.cargo(arguments))
}

fn installed(workspace: &Workspace, subcommand: &str, remedy: &str) -> Result<()> {
    let status = workspace
        .cargo([subcommand, "--version"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .context("cannot start cargo")?;
    ensure!(status.success(), "cargo {subcommand} is not installed: {remedy}");
    Ok(())
}
