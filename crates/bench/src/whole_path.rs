//! The programs under load, from the request to the committed row.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tokio::time::sleep;
use warren_e2e::bed::Bed;
use warren_e2e::metrics::Books;
use warren_e2e::process::{Service, peak_memory};
use warren_e2e::sqlite::DataFolder;

use crate::cost::{Costs, Watch, settle};
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
    Embedded {
        warren: Box<Service>,
        folder: DataFolder,
    },
}

impl Programs {
    /// Starts intake and worker on an empty database.
    pub(crate) async fn distributed(bed: &Bed, settings: &[(String, String)]) -> Result<Self> {
        bed.migrate().await?;
        let (mut ingest, mut worker) = (with(bed.ingest()?, settings), with(bed.worker()?, settings));
        ingest.start_ready().await?;
        worker.start_ready().await?;
        Ok(Self::Distributed {
            ingest: Box::new(ingest),
            worker: Box::new(worker),
        })
    }

    /// Starts the one process on an empty folder beside the programs, on a real disk as they are.
    pub(crate) async fn embedded(settings: &[(String, String)]) -> Result<Self> {
        let folder = data_folder()?;
        let mut warren = with(folder.warren()?, settings);
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

    /// Returns the program that stores.
    pub(crate) const fn store(&self) -> &Service {
        match self {
            Self::Distributed { worker, .. } => worker,
            Self::Embedded { warren, .. } => warren,
        }
    }

    /// Returns where the intake and the program that stores listen.
    pub(crate) const fn addresses(&self) -> [SocketAddr; 2] {
        [self.intake().address(), self.store().address()]
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

    /// Puts a load on, waits until everything accepted is stored, and stops the programs; also returns how many were
    /// accepted.
    ///
    /// # Errors
    /// A program failed, or what was accepted is not stored within five minutes.
    pub(crate) async fn measure(self, servers: &Servers, load: Load) -> Result<(Figures, u64)> {
        self.measure_beside(servers, None, load).await
    }

    /// Does the same beside another program, whose cost is among the figures.
    ///
    /// # Errors
    /// The same.
    pub(crate) async fn measure_beside(
        self,
        servers: &Servers,
        other: Option<(&'static str, u32)>,
        load: Load,
    ) -> Result<(Figures, u64)> {
        let mut pids = self.pids();
        pids.extend(other);
        settle().await?;
        let watch = Watch::start(&servers.with(&pids))?;
        let start = Instant::now();
        let outcome = Load {
            address: self.intake().address(),
            ..load
        }
        .run()
        .await?;
        let accepted = outcome.accepted;
        wait_stored(self.store(), accepted).await?;
        let stored_within = start.elapsed();
        let figures = figures(outcome, stored_within, &with_peaks(watch.end()?, &pids)?);
        self.stop(accepted).await?;
        Ok((figures, accepted))
    }

    async fn stop(self, accepted: u64) -> Result<()> {
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
                let rows = folder.count().await?;
                ensure!(rows >= accepted, "{rows} rows for {accepted} accepted messages");
                Ok(())
            }
        }
    }
}

/// Makes a data folder beside the programs: on the disk they are on, which the one for temporary files may not be.
pub(crate) fn data_folder() -> Result<DataFolder> {
    let program = warren_e2e::environment::binary("warren")?;
    DataFolder::create_in(program.parent().context("the program lies in no folder")?)
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
        goes_first: false,
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
    let mut ingest = with(bed.ingest()?, &plan.settings);
    ingest.start_ready().await?;
    let fill = Load {
        address: ingest.address(),
        duration: Duration::from_secs(60),
        ..load(plan, 1_000, Pace::Closed)
    };
    let filled = fill.run().await?;
    ensure_whole(&filled)?;
    ingest.stop(Duration::from_secs(30)).await?;
    let mut worker = with(bed.worker()?, &plan.settings);
    settle().await?;
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

/// Kills the one process in the middle of a load, starts it again, and waits until it has stored what it had accepted.
///
/// One process has no way to fill its queue without storing at the same time: the rate is that of what was left. The
/// time counts from the start of the process to the last commit.
///
/// # Errors
/// The program failed, lost something, or did not store everything within five minutes.
pub(crate) async fn embedded_catch_up(servers: &Servers, plan: &Plan) -> Result<Figures> {
    let folder = data_folder()?;
    let mut warren = with(folder.warren()?, &plan.settings);
    warren.start_ready().await?;
    let fill = Load {
        address: warren.address(),
        duration: Duration::from_secs(60),
        ..load(plan, 1_000, Pace::Closed)
    };
    let filled = fill.run().await?;
    ensure_whole(&filled)?;
    warren.kill().await?;
    let left = filled.accepted.saturating_sub(folder.count().await?);
    settle().await?;
    warren.spawn()?;
    let start = Instant::now();
    let pids = [("warren", warren.pid().context("warren ended at once")?)];
    let watch = Watch::start(&servers.with(&pids))?;
    warren.wait_for("/livez", 200, Duration::from_secs(30)).await?;
    loop {
        // What was stored and not acknowledged when it was killed comes again, as duplicates.
        let books = Books::read(warren.address(), warren.address()).await?;
        if books.stored >= left {
            break;
        }
        ensure!(
            start.elapsed() < STORE_DEADLINE,
            "{} of {left} messages are stored by now",
            books.stored
        );
        sleep(BOOKS).await;
    }
    let elapsed = start.elapsed();
    let costs = with_peaks(watch.end()?, &pids)?;
    let rows = folder.count().await?;
    ensure!(
        rows == filled.accepted,
        "{rows} rows for {} accepted messages",
        filled.accepted
    );
    warren.stop(Duration::from_secs(30)).await?;
    let mut figures = Figures {
        stored_per_second: Some(left as f64 / elapsed.as_secs_f64()),
        ..Figures::default()
    };
    figures.add_costs(&costs, left);
    Ok(figures)
}

/// Makes sure that the number of accepted messages is the number of messages that are there to be stored.
fn ensure_whole(filled: &Outcome) -> Result<()> {
    ensure!(
        filled.refused == 0,
        "{} requests were refused while the queue was filled",
        filled.refused
    );
    Ok(())
}

pub(crate) fn with(service: Service, settings: &[(String, String)]) -> Service {
    settings
        .iter()
        .fold(service, |service, (name, value)| service.setting(name, value))
}

/// Waits until so many messages are stored.
///
/// # Errors
/// They are not within five minutes, or one became a dead letter.
pub(crate) async fn wait_stored(store: &Service, messages: u64) -> Result<()> {
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
pub(crate) fn with_peaks(mut costs: Costs, pids: &[(&'static str, u32)]) -> Result<Costs> {
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
