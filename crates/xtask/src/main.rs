//! The repository's own commands: `cargo xtask test | lint | ci | bench | torture | console | screenshots`.

mod bench;
mod bounded;
mod cargo;
mod console;
mod lint;
mod planted;
mod rules;
mod spdx;
mod steps;
mod test;
mod torture;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::cargo::Workspace;
use crate::console::Tools;
use crate::steps::Steps;

/// The repository's own commands.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run every test, end to end ones included, against real servers, which are found, started or installed
    Test(test::Options),
    /// Check formatting, the dependency rule, clippy, the documentation, and cargo-deny's list where it is installed
    Lint,
    /// Check deny.toml alone: who may depend on whom, licences, sources
    Rules,
    /// Do what a change must pass: lint, test, console and torture, with the time of each step
    Ci,
    /// Measure the release build against real servers; further arguments go to the harness (try `-- --help`)
    Bench(bench::Options),
    /// Run the release build under faults and prove that nothing is lost or twice; further arguments go to the harness
    /// (try `-- --help`)
    Torture(torture::Options),
    /// Check the console's modules, and do in a browser what a person does; a part of `test`
    Console,
    /// Take the pictures in docs/images of a console that has something to show
    Screenshots,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether everything passed.
fn run(command: Command) -> Result<bool> {
    let workspace = Workspace::find()?;
    match command {
        Command::Test(options) => test::run(&workspace, &options),
        Command::Bench(options) => bench::run(&workspace, &options),
        Command::Torture(options) => torture::run(&workspace, &options).map(|()| true),
        Command::Console => console::test(&workspace),
        Command::Screenshots => console::screenshots(&workspace).map(|()| true),
        Command::Rules => rules::check(&workspace).map(|()| true),
        Command::Lint => {
            let mut steps = Steps::default();
            lint::run(&workspace, &mut steps);
            Ok(steps.finish())
        }
        Command::Ci => {
            let mut steps = Steps::default();
            let console = Tools::find();
            lint::run(&workspace, &mut steps);
            steps.run("test", || {
                match test::programs(&workspace, &test::Options::default())? {
                    true => Ok(()),
                    false => anyhow::bail!("see above"),
                }
            });
            steps.run_if_possible("console", || console.step(&workspace));
            for (name, arguments) in torture::STEPS {
                steps.run(name, || {
                    torture::run(&workspace, &torture::Options::of(arguments))
                });
            }
            Ok(steps.finish())
        }
    }
}
