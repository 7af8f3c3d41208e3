//! Every test, against real servers.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use warren_test_servers::{AMQP_VARIABLE, POSTGRES_VARIABLE, PYTHON_VARIABLE, find, find_python};

use crate::cargo::{Workspace, run as run_command, shown};
use crate::console::{self, Tools};

/// What to run.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Options {
    /// Run only tests whose name contains TEXT
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Test only this package; may be repeated
    #[arg(short, long, value_name = "NAME")]
    package: Vec<String>,
    /// Arguments for the test programs, such as `--test-threads=1` or `--nocapture`
    #[arg(last = true, value_name = "ARGS")]
    arguments: Vec<String>,
}

impl Options {
    /// Returns whether the console is meant, too: its tests are chosen by their package alone.
    fn wants_console(&self) -> bool {
        let meant = self.package.is_empty() || self.package.iter().any(|name| name == "warren-adapter-http");
        meant && self.filter.is_none() && self.arguments.is_empty()
    }
}

/// Runs the tests of the programs and those of the console, and returns whether nothing failed.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<bool> {
    // Before the build, which takes minutes: what is missing is said at once.
    let console = options.wants_console().then(Tools::find);
    let passed = programs(workspace, options)?;
    let Some(console) = console else {
        return Ok(passed);
    };
    console::build(workspace)?;
    Ok(console.test(workspace).tell() && passed)
}

/// Finds the servers, builds everything, runs the tests, and returns whether all passed.
pub(crate) fn programs(workspace: &Workspace, options: &Options) -> Result<bool> {
    let found = find(|line| eprintln!("{line}"))?;
    let python = find_python(|line| eprintln!("{line}"))?;
    // What the end-to-end tests start.
    let end_to_end = |name: &String| ["warren-e2e", "warren-torture"].contains(&name.as_str());
    if options.package.is_empty() || options.package.iter().any(end_to_end) {
        run_command(&mut workspace.cargo(["build", "--workspace", "--bins"]))?;
    }
    run_command(cargo_test(workspace, options).arg("--no-run"))?;
    // After it, so that no server waits for the compiler.
    let servers = found.start(|line| eprintln!("{line}"))?;

    let mut command = cargo_test(workspace, options);
    command.args(&options.filter).arg("--").args(&options.arguments);
    eprintln!("$ {}", shown(&command));
    let mut child = command
        .env(AMQP_VARIABLE, &servers.amqp_url)
        .env(POSTGRES_VARIABLE, &servers.postgres_url)
        .env(PYTHON_VARIABLE, &python)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo test")?;
    let mut tally = Tally::default();
    let mut output = std::io::stdout().lock();
    for line in BufReader::new(child.stdout.take().context("no output to read")?).split(b'\n') {
        let line = line?;
        output.write_all(&line)?;
        output.write_all(b"\n")?;
        tally.note(&String::from_utf8_lossy(&line));
    }
    let status = child.wait()?;
    drop(output);
    drop(servers);
    Ok(tally.tell(status.success()))
}

/// Returns the command that builds and runs the chosen packages' tests.
fn cargo_test(workspace: &Workspace, options: &Options) -> Command {
    let mut command = workspace.cargo(["test", "--no-fail-fast"]);
    if options.package.is_empty() {
        command.arg("--workspace");
    }
    for package in &options.package {
        command.args(["--package", package]);
    }
    command
}

/// The sum over all test programs.
#[derive(Debug, Default)]
struct Tally {
    passed: u64,
    failed: u64,
    ignored: u64,
    names: Vec<String>,
}

impl Tally {
    /// Reads a line of a test program.
    fn note(&mut self, line: &str) {
        if let Some(counts) = line.strip_prefix("test result: ") {
            for part in counts.split(['.', ';']) {
                let mut words = part.split_whitespace();
                let (Some(Ok(count)), Some(what)) = (words.next().map(str::parse::<u64>), words.next())
                else {
                    continue;
                };
                match what {
                    "passed" => self.passed += count,
                    "failed" => self.failed += count,
                    "ignored" => self.ignored += count,
                    _ => {}
                }
            }
        } else if let Some(name) = line
            .strip_prefix("test ")
            .and_then(|line| line.strip_suffix(" ... FAILED"))
        {
            self.names.push(name.to_owned());
        }
    }

    /// Prints the sum and returns whether the run is a success.
    fn tell(&self, cargo_succeeded: bool) -> bool {
        println!();
        for name in &self.names {
            println!("failed: {name}");
        }
        if self.ignored > 0 {
            println!("{} ignored", self.ignored);
        }
        if !cargo_succeeded && self.failed == 0 {
            println!("cargo test failed although no test reported a failure: see above");
        }
        println!("{} passed, {} failed", self.passed, self.failed);
        cargo_succeeded && self.failed == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_goes_over_all_test_programs() {
        let mut tally = Tally::default();
        for line in [
            "running 3 tests",
            "test it::a_thing ... ok",
            "test it::another ... FAILED",
            "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 4 filtered out; finished in 0.50s",
            "test result: ok. 10 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 7.54s",
        ] {
            tally.note(line);
        }
        assert_eq!((tally.passed, tally.failed, tally.ignored), (12, 1, 2));
        assert_eq!(tally.names, ["it::another"]);
        assert!(!tally.tell(false));
    }

    #[test]
    fn a_crash_that_no_test_reports_is_no_success() {
        assert!(!Tally::default().tell(false));
        assert!(Tally::default().tell(true));
    }
}
