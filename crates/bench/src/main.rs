//! Throughput, latency and cost of the whole path, beside the raw limits of the machine.
//!
//! One run measures the programs as they are shipped, on the servers that tests use, and in the same run what the
//! servers give to the plainest client there is: one AMQP message a record, confirmed, and binary COPY. Repetitions
//! are interleaved, so that a machine that grows slower or faster meanwhile does so for every row of the table; the
//! table shows medians.

mod cost;
mod load;
mod messages;
mod plan;
mod raw_copy;
mod raw_publish;
mod report;
mod servers;
mod statistics;
mod subject;
mod whole_path;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

use crate::messages::Mix;
use crate::plan::Plan;
use crate::subject::Subject;

/// Measures the whole path and the raw limits of this machine, and prints both side by side.
///
/// The servers are those of the tests: WARREN_TEST_AMQP_URL and WARREN_TEST_POSTGRES_URL, else the ones on this
/// machine. Nothing of theirs is changed; queues and databases get names of their own and are removed.
#[derive(Debug, Parser)]
#[command(name = "bench", version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// How long each load runs, in seconds.
    #[arg(long, default_value_t = 5.0, value_parser = seconds)]
    seconds: f64,
    /// How often everything is measured.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    repetitions: u32,
    /// The most messages that one load sends.
    #[arg(long, default_value_t = 400_000, value_parser = clap::value_parser!(u64).range(1_000..))]
    messages: u64,
    /// How many connections send at once.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    connections: u32,
    /// How many different sources send; a packet holds messages of one source and severity.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    sources: u32,
    /// How many different severities are sent: the most frequent of info, warning, debug, error and critical.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=5))]
    severities: u8,
    /// Measures these alone; may be given several times. What a goal compares with must be among them.
    #[arg(long, value_enum)]
    only: Vec<Subject>,
    /// Writes every figure of every repetition to this file, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// A few seconds of everything, to see that it works; the figures mean nothing.
    Smoke,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.1..=600.0).contains(&seconds) {
        Ok(seconds)
    } else {
        Err("use 0.1 to 600".to_owned())
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<()> {
    let smoke = matches!(arguments.command, Some(Command::Smoke));
    let plan = Plan {
        load: Duration::from_secs_f64(if smoke { 0.3 } else { arguments.seconds }),
        repetitions: if smoke { 1 } else { arguments.repetitions },
        most_messages: if smoke { 5_000 } else { arguments.messages },
        connections: arguments.connections as usize,
        mix: Mix {
            severities: arguments.severities.into(),
            sources: arguments.sources as usize,
        },
        subjects: if arguments.only.is_empty() {
            Subject::ALL.to_vec()
        } else {
            arguments.only
        },
    };
    let report = plan.run().await?;
    print!("{report}");
    if let Some(file) = arguments.json {
        let json = serde_json::to_vec_pretty(&report)?;
        std::fs::write(&file, json).with_context(|| format!("cannot write {}", file.display()))?;
        eprintln!("every figure: {}", file.display());
    }
    Ok(())
}
