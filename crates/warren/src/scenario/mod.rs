//! Scenarios: which messages are sent, and the metric that each consumer must then print.

mod child;
mod embedded;
mod environment;
mod file;
mod plan;
mod problem;
mod rabbit;
mod run;
mod shown;
mod stage;
mod verdict;
mod written;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::json;
use warren_domain::SeverityCounts;
use warren_process::cli::SettingsArgs;
use warren_process::exit::Exit;
use warren_process::settings::Sources;
use warren_process::shutdown;

use crate::command;
use child::NamedLog;
use file::Scenario;
use run::{Failure, Played};

/// What to do with scenarios.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ScenarioCommand {
    /// Read scenario files and show what would be sent; exit code 2 if one of them is wrong
    Check {
        /// The scenario files
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Send what scenario files say, and compare what the four consumers print with what the files expect
    Run(RunOptions),
}

/// How to run scenarios.
#[derive(Debug, clap::Args)]
pub(crate) struct RunOptions {
    /// The scenario files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Run them in one process, `warren` over SQLite, instead of on RabbitMQ (amqp.url) with four consumers
    #[arg(long)]
    embedded: bool,
    /// Print one line of JSON for each scenario
    #[arg(long)]
    json: bool,
    /// Show all counts, not only where they differ
    #[arg(short, long)]
    verbose: bool,
    /// Keep the queues, exchanges and folders that were made, and say where they are
    #[arg(long)]
    keep: bool,
    /// How long the consumers may go on counting once everything is sent
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = command::patience)]
    within: Duration,
}

/// Does what the subcommand says.
pub(crate) async fn run(command: ScenarioCommand, flags: &SettingsArgs, sources: &Sources) -> Exit {
    let files = match &command {
        ScenarioCommand::Check { files } => files,
        ScenarioCommand::Run(options) => &options.files,
    };
    // All of them before anything starts.
    let (mut scenarios, mut wrong) = (Vec::new(), false);
    for file in files {
        match Scenario::read(file) {
            Ok(scenario) => scenarios.push(scenario),
            Err(problems) => {
                eprintln!("{problems}");
                wrong = true;
            }
        }
    }
    if wrong {
        return Exit::Usage;
    }
    command::end(match command {
        ScenarioCommand::Check { .. } => show(&scenarios).map(|()| Exit::Clean),
        ScenarioCommand::Run(options) => run_all(&scenarios, &options, flags, sources).await,
    })
}

fn show(scenarios: &[Scenario]) -> Result<()> {
    let mut output = io::stdout().lock();
    for scenario in scenarios {
        output.write_all(shown::text(scenario).as_bytes())?;
    }
    output.flush().context("cannot write to standard output")
}

/// Runs one after the other, to the last, whichever fails.
async fn run_all(
    scenarios: &[Scenario],
    options: &RunOptions,
    flags: &SettingsArgs,
    sources: &Sources,
) -> Result<Exit> {
    let settings = match command::settings(sources) {
        Ok(settings) => settings,
        Err(exit) => return Ok(exit),
    };
    let stop = shutdown::on_signals()?;
    let colours = command::colours(&io::stdout());
    let mut exit = Exit::Clean;
    for scenario in scenarios {
        let played = Box::pin(run::run(scenario, options, &settings, flags, &stop)).await;
        let (line, logs): (String, Option<Vec<NamedLog>>) = match played {
            Ok(Played { verdict, logs }) => {
                let line = match options.json {
                    true => format!("{}\n", verdict.to_json()),
                    false => verdict.text(options.verbose, colours),
                };
                let concerned = logs
                    .into_iter()
                    .filter(|log| verdict.concerns(log.group))
                    .collect();
                (line, (!verdict.passed()).then_some(concerned))
            }
            Err(Failure { error, logs }) => {
                let name = scenario.name();
                let line = match options.json {
                    true => {
                        let error = format!("{error:#}");
                        format!("{}\n", json!({"scenario": name, "passed": false, "error": error}))
                    }
                    false => format!("FAILED  {name}  {error:#}\n"),
                };
                (line, Some(logs))
            }
        };
        command::print(&line)?;
        if let Some(logs) = logs {
            exit = Exit::Failure;
            for NamedLog { program, log, .. } in logs {
                let log = log.text();
                if !log.is_empty() {
                    eprint!("  the log of {program} ends with\n{log}");
                }
            }
        }
        if stop.is_cancelled() {
            return Ok(Exit::Failure);
        }
    }
    Ok(exit)
}

/// The names of the consumer groups that Warren ships, in the order in which they are shown.
pub(crate) const GROUPS: [&str; 4] = ["all", "debug-info", "critical", "error"];

/// What a number of messages is for each of [`GROUPS`].
pub(crate) type GroupCounts = [SeverityCounts; 4];

#[cfg(test)]
mod tests {
    use warren_domain::ports::NamedGroup;

    use super::*;

    #[test]
    fn the_groups_are_those_that_are_shipped() {
        assert_eq!(NamedGroup::shipped().map(|group| group.name.to_string()), GROUPS);
    }
}
