//! One process on SQLite, killed under load again and again.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use fastrand::Rng;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use warren_e2e::environment;
use warren_e2e::process::Service;
use warren_e2e::sqlite::DataFolder;

use crate::bed::{Program, Programs};
use crate::clients::Clients;
use crate::inject::kill;
use crate::ledger::Ledger;
use crate::messages::Messages;
use crate::report::{Goals, RECOVERY, Report};
use crate::resources::Held;

/// How long clients repeat what is unknown after the end of the load.
const PATIENCE: Duration = Duration::from_secs(40);

/// How long stored messages may stay behind accepted ones.
const DRAIN: Duration = Duration::from_secs(60);

/// What a kill costs at most: the load before it, the start after it.
const PER_KILL: Duration = Duration::from_secs(5);

/// What to do.
#[derive(Clone, Copy, Debug)]
pub struct Embedded {
    /// What everything random comes from.
    pub seed: u64,
    /// How often the process is killed.
    pub kills: u64,
    /// Messages a second.
    pub rate: u64,
    /// Whether times over their goals fail it.
    pub goals: Goals,
}

/// Kills the process under load, so often, and reports.
///
/// # Errors
/// The harness could not do its part: that is no verdict about the product.
pub async fn embedded(order: Embedded, programs: &Programs, out: &Path) -> Result<Report> {
    std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let begun = Instant::now();
    let folder = DataFolder::create()?;
    let data = folder.file("");
    let mut service = Service::of("warren", environment::find(&programs.folder, "warren")?)?
        .argument("serve")
        .setting("WARREN_TELEMETRY__FORMAT", "json")
        .setting(
            "WARREN_EMBEDDED__PATH",
            data.to_str().context("the folder's name is not UTF-8")?,
        );
    for (name, value) in &programs.environment {
        service = service.setting(name, value);
    }
    service.start_ready().await?;
    let address = service.address();
    let program = Program::new("warren".to_owned(), service);
    let ledger = Arc::new(Ledger::new(Messages::new(order.seed)));
    let clients = Arc::new(Clients::new(Arc::clone(&ledger), vec![address]));
    let mut report = Report {
        seed: order.seed,
        plan: format!("{} kills", order.kills),
        versions: vec![format!("warren {}", env!("CARGO_PKG_VERSION"))],
        logs: out.display().to_string(),
        ..Report::default()
    };
    let limit = PER_KILL * u32::try_from(order.kills)? + PATIENCE + DRAIN;
    let killed = torment(order, &program, &clients, &folder, &mut report);
    match timeout(limit, killed).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => report.problems.push(format!("{error:#}")),
        Err(_) => report
            .problems
            .push(format!("watchdog: the run did not end within {limit:?}")),
    }
    report.tally = ledger.tally();
    report.due = clients.due();
    report.held_back = clients.held_back();
    if report.tally.broken == 0 {
        report
            .problems
            .push("no bite: no request was under way when the process was killed".to_owned());
    }
    let log = program.service.lock().await.log()?;
    std::fs::write(out.join("warren.log"), &log)?;
    if log.contains("panicked at") {
        report.problems.push("I10: warren panicked".to_owned());
    }
    report.seconds = begun.elapsed().as_secs_f64();
    report.judge(order.goals);
    report.write(out)?;
    Ok(report)
}

async fn torment(
    order: Embedded,
    program: &Program,
    clients: &Arc<Clients>,
    folder: &DataFolder,
    report: &mut Report,
) -> Result<()> {
    let (stop, silence) = (CancellationToken::new(), CancellationToken::new());
    // However this ends, nobody sends on.
    let _ended = (stop.clone().drop_guard(), silence.clone().drop_guard());
    let load = {
        let (clients, stop) = (Arc::clone(clients), stop.clone());
        tokio::spawn(async move { clients.run(order.seed, order.rate, &stop, PATIENCE).await })
    };
    let canaries = {
        let (clients, silence) = (Arc::clone(clients), silence.clone());
        tokio::spawn(async move { clients.sing(&silence).await })
    };
    let mut rng = Rng::with_seed(order.seed);
    for _ in 0..order.kills {
        sleep(Duration::from_millis(rng.u64(100..900))).await;
        let pid = program
            .service
            .lock()
            .await
            .pid()
            .context("warren does not run")?;
        let held = report.held.entry("warren".to_owned()).or_default();
        *held = held.most(Held::by(pid).unwrap_or_default());
        let done = kill(program, Duration::ZERO).await?;
        let bitten = report.injections.entry("kill-warren".to_owned()).or_default();
        bitten.planned += 1;
        bitten.bitten += u64::from(done.bite.is_ok());
        let accepted = || {
            let canaries = clients.canaries_since(0, done.healed).into_iter();
            canaries
                .filter(|canary| canary.status == Some(202))
                .map(|canary| canary.answered)
                .min()
        };
        while accepted().is_none() && done.healed.elapsed() < RECOVERY {
            sleep(Duration::from_millis(10)).await;
        }
        report
            .first_202
            .add(accepted().map_or(RECOVERY, |answered| answered - done.healed));
    }
    stop.cancel();
    silence.cancel();
    canaries.await?;
    load.await?.context("I7: the load did not settle")?;
    clients
        .settle_canaries(PATIENCE)
        .await
        .context("I7: the canaries did not settle")?;
    verify(program, clients.ledger(), folder, report).await
}

async fn verify(program: &Program, ledger: &Ledger, folder: &DataFolder, report: &mut Report) -> Result<()> {
    let (begun, wanted) = (Instant::now(), ledger.to_store());
    while folder.count().await? < wanted {
        ensure!(
            begun.elapsed() < DRAIN,
            "I7: {} rows of {wanted} after {DRAIN:?}",
            folder.count().await?
        );
        sleep(Duration::from_millis(50)).await;
    }
    report.drained = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    if let Err(error) = program.service.lock().await.stop(PATIENCE).await {
        report.problems.push(format!("{error:#}"));
    }
    for file in ["queue.db", "store.db"] {
        let verdict = folder.integrity(file).await?;
        if verdict != "ok" {
            report
                .problems
                .push(format!("integrity_check of {file}: {verdict}"));
        }
    }
    let dead = folder.dead().await?;
    if dead > 0 {
        report
            .problems
            .push(format!("I1: {dead} messages became dead letters"));
    }
    let rows = folder.read().await?;
    report.findings = ledger.verdict(&rows, &[], &Default::default(), &[]);
    report.compared = true;
    Ok(())
}
