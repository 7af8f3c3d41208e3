//! The programs under load, from the request to the committed row.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;
use tokio::time::sleep;
use warren_e2e::bed::Bed;
use warren_e2e::metrics::Books;
use warren_e2e::process::{Service, peak_memory};

use crate::cost::{Costs, Watch};
use crate::load::{Load, Outcome, Pace};
use crate::messages;
use crate::plan::Plan;
use crate::report::Figures;
use crate::servers::Servers;

/// How long the store may take for what was accepted.
const STORE_DEADLINE: Duration = Duration::from_secs(300);

/// How often the books are read while the store works.
const BOOKS: Duration = Duration::from_millis(50);

/// The programs of one measurement.
#[derive(Debug)]
pub(crate) enum Programs {
    /// Intake and worker, between them RabbitMQ, behind them PostgreSQL.
    Distributed {
        ingest: Box<Service>,
        worker: Box<Service>,
    },
    /// Everything in one process; its folder is removed with it.
    Embedded { warren: Box<Service>, folder: TempDir },
}

impl Programs {
    /// Starts intake and worker on an empty database.
    pub(crate) async fn distributed(bed: &Bed) -> Result<Self> {
        bed.migrate().await?;
        let (mut ingest, mut worker) = (bed.ingest()?, bed.worker()?);
        ingest.start_ready().await?;
        worker.start_ready().await?;
        Ok(Self::Distributed {
            ingest: Box::new(ingest),
            worker: Box::new(worker),
        })
    }

    /// Starts the one process on an empty folder beside the programs, on a real disk as they are.
    pub(crate) async fn embedded() -> Result<Self> {
        let program = warren_e2e::environment::binary("warren")?;
        let beside = program
            .parent()
            .map(PathBuf::from)
            .context("the program lies in no folder")?;
        let folder = tempfile::Builder::new()
            .prefix("bench-data-")
            .tempdir_in(beside)?;
        let path = folder.path().to_str().context("the folder's name is not UTF-8")?;
        let mut warren = Service::new("warren")?
            .argument("serve")
            .setting("WARREN_EMBEDDED__PATH", path);
        warren.start_ready().await?;
        Ok(Self::Embedded {
            warren: Box::new(warren),
            folder,
        })
    }

    const fn intake(&self) -> &Service {
        match self {
            Self::Distributed { ingest, .. } => ingest,
            Self::Embedded { warren, .. } => warren,
        }
    }

    const fn store(&self) -> &Service {
        match self {
            Self::Distributed { worker, .. } => worker,
            Self::Embedded { warren, .. } => warren,
        }
    }

    fn pids(&self) -> Vec<(&'static str, u32)> {
        let services: &[(&'static str, &Service)] = match self {
            Self::Distributed { ingest, worker } => &[("ingest-api", ingest), ("store-worker", worker)],
            Self::Embedded { warren, .. } => &[("warren", warren)],
        };
        services
            .iter()
            .filter_map(|(name, service)| Some((*name, service.pid()?)))
            .collect()
    }

    /// Puts a load on, waits until everything accepted is stored, and stops the programs.
    ///
    /// # Errors
    /// A program failed, or what was accepted is not stored within five minutes.
    pub(crate) async fn measure(self, servers: &Servers, load: Load) -> Result<(Figures, Drained)> {
        let pids = self.pids();
        let watch = Watch::start(&servers.with(&pids))?;
        let start = Instant::now();
        let outcome = Load {
            address: self.intake().address(),
            ..load
        }
        .run()
        .await?;
        let behind = Books::read(self.intake().address(), self.store().address()).await?;
        let drain = Instant::now();
        wait_stored(self.store(), outcome.accepted).await?;
        let drained = Drained {
            messages: outcome.accepted.saturating_sub(behind.stored),
            elapsed: drain.elapsed(),
            accepted: outcome.accepted,
        };
        let stored_within = start.elapsed();
        let figures = figures(outcome, stored_within, &with_peaks(watch.end()?, &pids)?);
        self.stop().await?;
        Ok((figures, drained))
    }

    async fn stop(self) -> Result<()> {
        match self {
            Self::Distributed {
                mut ingest,
                mut worker,
            } => {
                ingest.stop(Duration::from_secs(30)).await?;
                worker.stop(Duration::from_secs(30)).await
            }
            Self::Embedded { mut warren, folder } => {
                warren.stop(Duration::from_secs(30)).await?;
                folder.close().context("cannot remove the data folder")
            }
        }
    }
}

/// What was still to be stored when a load had ended, and how long that took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drained {
    pub(crate) messages: u64,
    pub(crate) elapsed: Duration,
    pub(crate) accepted: u64,
}

/// Makes a load as the plan wants it, of requests of `messages` messages.
pub(crate) fn load(plan: &Plan, messages: usize, pace: Pace) -> Load {
    Load {
        address: ([127, 0, 0, 1], 0).into(),
        requests: messages::requests(messages, plan.mix),
        messages: messages as u64,
        connections: plan.connections,
        duration: plan.load,
        most_messages: plan.most_messages,
        pace,
    }
}

/// Fills the queue without a worker, then starts one and waits until it has stored everything.
///
/// The time counts from the start of the process to the last commit.
///
/// # Errors
/// A program failed, or the worker did not store everything within five minutes.
pub(crate) async fn catch_up(bed: &Bed, servers: &Servers, plan: &Plan) -> Result<Figures> {
    bed.migrate().await?;
    // The worker declares the queue, if the intake does not; nothing may be stored before the clock runs.
    let mut ingest = bed.ingest()?;
    ingest.start_ready().await?;
    let fill = Load {
        address: ingest.address(),
        duration: Duration::from_secs(60),
        ..load(plan, 1_000, Pace::Closed)
    };
    let filled = fill.run().await?;
    ingest.stop(Duration::from_secs(30)).await?;
    let mut worker = bed.worker()?;
    worker.spawn()?;
    let start = Instant::now();
    let pids = [("store-worker", worker.pid().context("the worker ended at once")?)];
    let watch = Watch::start(&servers.with(&pids))?;
    worker.wait_for("/livez", 200, Duration::from_secs(30)).await?;
    wait_stored(&worker, filled.accepted).await?;
    let elapsed = start.elapsed();
    let costs = with_peaks(watch.end()?, &pids)?;
    worker.stop(Duration::from_secs(30)).await?;
    let mut figures = Figures {
        stored_per_second: Some(filled.accepted as f64 / elapsed.as_secs_f64()),
        ..Figures::default()
    };
    figures.add_costs(&costs, filled.accepted);
    Ok(figures)
}

async fn wait_stored(store: &Service, messages: u64) -> Result<()> {
    let deadline = Instant::now() + STORE_DEADLINE;
    loop {
        let books = Books::read(store.address(), store.address()).await?;
        ensure!(books.dead == 0, "{} messages became dead letters", books.dead);
        if books.stored + books.duplicate >= messages {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "{} of {messages} messages are stored by now",
            books.stored
        );
        sleep(BOOKS).await;
    }
}

/// Replaces what was sampled of our own programs by what the system noted of them.
fn with_peaks(mut costs: Costs, pids: &[(&'static str, u32)]) -> Result<Costs> {
    for (name, pid) in pids {
        if let Some(cost) = costs.0.get_mut(name) {
            cost.peak_bytes = peak_memory(*pid)?;
        }
    }
    Ok(costs)
}

fn figures(mut outcome: Outcome, stored_within: Duration, costs: &Costs) -> Figures {
    let accepted = outcome.accepted as f64;
    let mut figures = Figures {
        accepted_per_second: Some(accepted / outcome.elapsed.as_secs_f64()),
        stored_per_second: Some(accepted / stored_within.as_secs_f64()),
        p50_ms: outcome.waits.percentile(0.5),
        p99_ms: outcome.waits.percentile(0.99),
        refused: outcome.refused,
        ..Figures::default()
    };
    figures.add_costs(costs, outcome.accepted);
    figures
}
