//! One `severity-consumer` on a full queue of packets: read, recognised, counted durably, acknowledged.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tokio::time::sleep;
use warren_e2e::bed::Bed;
use warren_e2e::metrics::Metrics;
use warren_e2e::process::Service;

use crate::cost::{Watch, settle};
use crate::load::{Load, Pace};
use crate::plan::Plan;
use crate::report::Figures;
use crate::servers::Servers;
use crate::whole_path::{data_folder, ensure_whole, load, with, with_peaks};

/// What it has counted, by severity.
const COUNTED: &str = "warren_group_messages_total";

/// How long the consumer may take for everything.
const DEADLINE: Duration = Duration::from_secs(300);

/// How often its counts are read.
const LOOK: Duration = Duration::from_millis(50);

/// Has the group's queue declared, fills it while nobody consumes, then starts a consumer and waits until it has counted
/// everything.
///
/// The time counts from the start of the process to the last message counted.
///
/// # Errors
/// A program failed, or the consumer did not count everything within five minutes.
pub(crate) async fn measure(bed: &Bed, servers: &Servers, plan: &Plan) -> Result<Figures> {
    let books = data_folder()?;
    let consumer = Service::new("severity-consumer")?
        .argument("--group")
        .argument("all");
    let path = books.file("tally").display().to_string();
    let mut consumer = with(
        bed.to_broker(consumer).setting("WARREN_TALLY__PATH", path),
        &plan.settings,
    );
    consumer.start_ready().await?;
    consumer.stop(Duration::from_secs(30)).await?;
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

    settle().await?;
    consumer.spawn()?;
    let start = Instant::now();
    let pids = [(
        "severity-consumer",
        consumer.pid().context("the consumer ended at once")?,
    )];
    let watch = Watch::start(&servers.with(&pids))?;
    consumer.wait_for("/livez", 200, Duration::from_secs(30)).await?;
    loop {
        let counted = Metrics::scrape(consumer.address()).await?.sum(COUNTED);
        if counted >= filled.accepted {
            break;
        }
        ensure!(
            start.elapsed() < DEADLINE,
            "{counted} of {} messages are counted by now",
            filled.accepted
        );
        sleep(LOOK).await;
    }
    let elapsed = start.elapsed();
    let costs = with_peaks(watch.end()?, &pids)?;
    consumer.stop(Duration::from_secs(30)).await?;
    let mut figures = Figures {
        stored_per_second: Some(filled.accepted as f64 / elapsed.as_secs_f64()),
        ..Figures::default()
    };
    figures.add_costs(&costs, filled.accepted);
    Ok(figures)
}
