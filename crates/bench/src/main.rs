//! Throughput, latency and cost of the whole path, beside the raw limits of the machine.
//!
//! One run measures the programs as they are shipped, on the servers that tests use, and in the same run what the
//! servers give to the plainest client there is: one AMQP message a record, confirmed, and binary COPY. Repetitions
//! are interleaved, so that a machine that grows slower or faster meanwhile does so for every row of the table; the
//! table shows medians.

mod asked;
mod bare_http;
mod cores;
mod cost;
mod finding;
mod group_catch_up;
mod load;
mod messages;
mod overload;
mod own_thread;
mod plan;
mod raw_consume;
mod raw_copy;
mod raw_publish;
mod reading;
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

use crate::finding::Finding;
use crate::messages::Mix;
use crate::overload::Overload;
use crate::plan::Plan;
use crate::reading::{Indexes, Part, Reading};
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
    /// A setting of the programs that differs from its default, such as amqp.max_unconfirmed_rounds=4; may be given
    /// several times. Each program takes those that are its own.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE", value_parser = setting)]
    settings: Vec<Setting>,
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
    /// Ten times the load that can be sustained, for two minutes, and slow clients; prints each figure beside its goal.
    ///
    /// Of the options it heeds --connections and --set.
    Overload {
        /// How long the overload lasts, in seconds.
        #[arg(long, default_value_t = 120.0, value_parser = seconds)]
        seconds: f64,
        /// Messages in each request.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
        messages: u32,
    },
    /// Questions to a PostgreSQL with many messages, and storing beside them; prints each figure beside its goal.
    ///
    /// PostgreSQL is one of its own. Of the options it heeds --set, for the programs that are looked at by consoles and tails.
    Reading {
        /// Measures these alone; may be given several times. Live tails need no messages beforehand.
        #[arg(long = "only", value_enum)]
        parts: Vec<Part>,
        /// How long each load of the programs lasts, in seconds.
        #[arg(long = "load-seconds", default_value_t = 8.0, value_parser = seconds)]
        load: f64,
        /// How many messages there are.
        #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(10_000..))]
        messages: u64,
        /// Over how many days they are spread.
        #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=60))]
        days: u32,
        /// How often each question is asked.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        asked: u32,
        /// How often rates that are compared are measured, one after the other.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
        pairs: u32,
    },
    /// The index of words beside those of PostgreSQL: what each costs whoever stores, and how quickly it finds.
    ///
    /// PostgreSQL is one of its own. The other options mean nothing here.
    Indexes {
        /// How many messages there are.
        #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(100_000..=100_000_000))]
        messages: u64,
        /// Over how many days they are spread.
        #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=60))]
        days: u32,
        /// How often each question is asked.
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        asked: u32,
        /// How often batches are stored with each.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
        turns: u32,
    },
    /// Questions to one `warren` with many messages, over HTTP; prints each figure beside its goal.
    ///
    /// Of the options it heeds --set.
    Finding {
        /// How many messages there are.
        #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(10_000..))]
        messages: u64,
        /// Over how many days they are spread.
        #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=29))]
        days: u32,
        /// How often each question is asked.
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        asked: u32,
    },
    /// Answers every request with 202 and keeps nothing: what the machine can do of HTTP alone.
    #[command(hide = true)]
    BareHttp,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.1..=600.0).contains(&seconds) {
        Ok(seconds)
    } else {
        Err("use 0.1 to 600".to_owned())
    }
}

/// A setting as the programs read it: an environment variable and its value.
type Setting = (String, String);

fn setting(text: &str) -> Result<Setting, String> {
    let (key, value) = text.split_once('=').ok_or("write it as section.key=value")?;
    let key_byte = |byte: u8| byte.is_ascii_lowercase() || matches!(byte, b'_' | b'.');
    if !key.contains('.') || !key.bytes().all(key_byte) {
        return Err(format!("{key:?} is no section.key"));
    }
    let variable = format!("WARREN_{}", key.replace('.', "__").to_uppercase());
    Ok((variable, value.to_owned()))
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
    let smoke = match arguments.command {
        Some(Command::BareHttp) => return bare_http::serve().await,
        Some(Command::Overload { seconds, messages }) => {
            let overload = Overload {
                duration: Duration::from_secs_f64(seconds),
                connections: arguments.connections as usize,
                messages: messages as usize,
                settings: arguments.settings,
            };
            print!("{}", overload.run().await?);
            return Ok(());
        }
        Some(Command::Reading {
            parts,
            load,
            messages,
            days,
            asked,
            pairs,
        }) => {
            let reading = Reading {
                messages,
                days,
                asked: asked as usize,
                pairs,
                load: Duration::from_secs_f64(load),
                parts: if parts.is_empty() {
                    Part::ALL.to_vec()
                } else {
                    parts
                },
                settings: arguments.settings,
            };
            print!("{}", reading.run().await?);
            return Ok(());
        }
        Some(Command::Indexes {
            messages,
            days,
            asked,
            turns,
        }) => {
            let indexes = Indexes {
                messages,
                days,
                asked: asked as usize,
                turns,
            };
            print!("{}", indexes.run().await?);
            return Ok(());
        }
        Some(Command::Finding {
            messages,
            days,
            asked,
        }) => {
            let finding = Finding {
                messages,
                days,
                asked: asked as usize,
                settings: arguments.settings,
            };
            print!("{}", finding.run().await?);
            return Ok(());
        }
        Some(Command::Smoke) => true,
        None => false,
    };
    let plan = Plan {
        load: Duration::from_secs_f64(if smoke { 0.3 } else { arguments.seconds }),
        repetitions: if smoke { 1 } else { arguments.repetitions },
        most_messages: if smoke { 5_000 } else { arguments.messages },
        connections: arguments.connections as usize,
        mix: Mix {
            severities: arguments.severities.into(),
            sources: arguments.sources as usize,
        },
        settings: arguments.settings,
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
