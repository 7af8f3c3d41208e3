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
use crate::whole_path::{data_folder, load, with, with_peaks};

/// What it has counted, by severity.
const COUNTED: &str = "warren_group_messages_total";

/// How long the consumer may take for everything.
const DEADLINE: Duration = Duration::from_secs(300);

/// How often its counts are read.
const LOOK: Duration = Duration::from_millis(20);

/// How many times the messages of another load there are: the time has the start of the program and the wait for the
/// last batch in it, which are no part of a rate.
const FILL: u64 = 3;

/// Room for all of them in the queue of the group, which else drops its oldest.
const QUEUE: &str = "2GiB";

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
    let consumer = bed
        .to_broker(consumer)
        .setting("WARREN_TALLY__PATH", path)
        .setting("WARREN_AMQP__GROUP_MAX_BYTES", QUEUE);
    let mut consumer = with(consumer, &plan.settings);
    consumer.start_ready().await?;
    consumer.stop(Duration::from_secs(30)).await?;
    let mut ingest = with(bed.ingest()?, &plan.settings);
    ingest.start_ready().await?;
    let fill = Load {
        address: ingest.address(),
        duration: Duration::from_secs(60),
        most_messages: plan.most_messages * FILL,
        ..load(plan, 1_000, Pace::Closed)
    };
    // What was refused may be in the queue all the same; then there is a little more to count than is waited for.
    let filled = fill.run().await?;
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
