//! `torture run | embedded | teeth`: see the crate's documentation.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use warren_planted::Bug;
use warren_torture::bed::Programs;
use warren_torture::embedded::{Embedded, embedded};
use warren_torture::plan::{Plan, Profile, Wish};
use warren_torture::report::{Goals, Total};
use warren_torture::run::{Servers, run};
use warren_torture::teeth::{Teeth, build};

/// Tortures the real programs, and proves that nothing is lost and nothing is twice.
#[derive(Debug, Parser)]
#[command(name = "torture", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the distributed programs under faults
    Run(RunOptions),
    /// Show that programs with bugs on purpose fail, each by the invariant that its bug breaks
    Teeth(TeethOptions),
    /// Kill the one process on SQLite under load, again and again
    Embedded(EmbeddedOptions),
}

#[derive(Debug, clap::Args)]
struct RunOptions {
    /// How large the run is
    #[arg(long, value_enum, default_value = "gate")]
    profile: Profile,
    /// What everything random comes from; several seeds are run one after the other
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 3])]
    seed: Vec<u64>,
    /// How long the faults of a seed last altogether, in seconds; else the profile's time
    #[arg(long, value_name = "SECONDS")]
    duration: Option<u64>,
    /// Only faults whose name begins with one of these, such as kill- or link-publish
    #[arg(long, value_delimiter = ',', value_name = "FAULT")]
    only: Vec<String>,
    /// Run this plan again, instead of making one of a seed
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    /// Whether a recovery over its goal fails the run
    #[arg(long, value_enum, default_value = "judged")]
    goals: Goals,
    /// Where plan, report and logs go
    #[arg(long, default_value = "target/torture", value_name = "DIR")]
    out: PathBuf,
    /// Where the programs are; else beside this one
    #[arg(long, value_name = "DIR")]
    binaries: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct TeethOptions {
    /// Only these bugs
    #[arg(long, value_delimiter = ',', value_name = "BUG")]
    only: Vec<Bug>,
    /// Where plans, reports and logs go
    #[arg(long, default_value = "target/torture/teeth", value_name = "DIR")]
    out: PathBuf,
    /// Where programs with bugs are; else they are built
    #[arg(long, value_name = "DIR")]
    binaries: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct EmbeddedOptions {
    /// What everything random comes from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How often the process is killed
    #[arg(long, default_value_t = 20)]
    kills: u64,
    /// Messages a second
    #[arg(long, default_value_t = 600)]
    rate: u64,
    /// Whether a recovery over its goal fails the run
    #[arg(long, value_enum, default_value = "judged")]
    goals: Goals,
    /// Where report and logs go
    #[arg(long, default_value = "target/torture/embedded", value_name = "DIR")]
    out: PathBuf,
    /// Where the program is; else beside this one
    #[arg(long, value_name = "DIR")]
    binaries: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Run(options) => run_all(&options).await,
        Command::Teeth(options) => show_teeth(&options).await,
        Command::Embedded(options) => kill_embedded(&options).await,
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("torture: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Returns the folder of the programs.
fn folder(binaries: Option<&Path>) -> Result<PathBuf> {
    if let Some(folder) = binaries {
        return Ok(folder.to_path_buf());
    }
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    let folder = program.parent().context("this program lies in no folder")?;
    Ok(folder.to_path_buf())
}

async fn kill_embedded(options: &EmbeddedOptions) -> Result<bool> {
    let programs = Programs {
        folder: folder(options.binaries.as_deref())?,
        environment: Vec::new(),
    };
    let order = Embedded {
        seed: options.seed,
        kills: options.kills,
        rate: options.rate,
        goals: options.goals,
    };
    let report = embedded(order, &programs, &options.out).await?;
    println!("{report}");
    Ok(report.passed)
}

async fn run_all(options: &RunOptions) -> Result<bool> {
    let plans = match &options.replay {
        Some(path) => vec![Plan::read(path)?],
        None => options
            .seed
            .iter()
            .map(|seed| {
                Plan::of(&Wish {
                    seed: *seed,
                    profile: options.profile,
                    only: options.only.clone(),
                    duration: options.duration.map(|seconds| seconds * 1_000),
                })
            })
            .collect::<Result<_>>()?,
    };
    let programs = Programs {
        folder: folder(options.binaries.as_deref())?,
        environment: Vec::new(),
    };
    let servers = Servers::start().await?;
    let mut passed = true;
    let mut total = Total::default();
    for plan in &plans {
        let out = options.out.join(format!("seed-{}", plan.seed));
        eprintln!(
            "seed {}: {} injections in about {} s",
            plan.seed,
            plan.injections().count(),
            plan.length() / 1_000
        );
        let report = run(plan, &programs, &servers, &out, options.goals).await?;
        println!("{report}");
        passed &= report.passed;
        total.add(&report);
    }
    // Whoever asks for something else than a whole profile knows what it shows.
    let whole = options.replay.is_none() && options.only.is_empty() && options.duration.is_none();
    let least = match options.profile {
        Profile::Gate if options.seed.len() >= 3 => Some(60),
        Profile::Gate => None,
        Profile::Long => Some(300),
    };
    let short = least
        .filter(|_| whole)
        .and_then(|injections| total.short_of(injections, 100_000));
    println!("in all: {total}");
    if let Some(short) = &short {
        println!("{short}");
    }
    Ok(passed && short.is_none())
}

async fn show_teeth(options: &TeethOptions) -> Result<bool> {
    let bugs = if options.only.is_empty() {
        Bug::ALL
    } else {
        &options.only
    };
    let folder = match &options.binaries {
        Some(folder) => folder.clone(),
        None => build().await?,
    };
    let teeth = Teeth {
        folder,
        servers: Servers::start().await?,
        out: options.out.clone(),
    };
    let bites = teeth.bite(bugs).await?;
    for bite in &bites {
        println!("{bite}");
    }
    for bad in bites.iter().filter(|bite| !bite.good) {
        println!("see {}", bad.out.display());
    }
    Ok(bites.iter().all(|bite| bite.good))
}
