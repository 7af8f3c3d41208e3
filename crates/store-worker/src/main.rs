//! RabbitMQ in, PostgreSQL out; also `migrate`.

mod dead_letter_queue;
mod settings;

use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use tokio::select;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use warren_adapter_amqp::{AmqpDeadLetters, AmqpLive, AmqpSubscription, OnDemandPublisher};
use warren_adapter_http::{Health, Routes, Server, TailRoutes};
use warren_adapter_postgres::{PostgresDeadLetters, PostgresStore};
use warren_domain::ports::ConsumerGroup;
use warren_pipeline::dead_letters::{DeadLetterJobs, KeepLoop, watch_dead_letters};
use warren_pipeline::tail::Hub;
use warren_pipeline::{StoreLoop, run_maintenance, watch_backlog};
use warren_process::cli::SettingsArgs;
use warren_process::program::{self, Frame};
use warren_process::settings::Sources;

use dead_letter_queue::DeadLetterQueue;
use settings::Settings;

/// How long a stopping worker waits until the broker has its last acknowledgements, after `worker.drain_timeout` at most.
const LAST_ACKNOWLEDGEMENTS: Duration = Duration::from_secs(3);

/// Gets messages from RabbitMQ into PostgreSQL, each exactly once.
///
/// Settings come from warren.toml, the environment (WARREN_POSTGRES__URL) and --set; docs/configuration.md lists them.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Bring the schema of the database up to date and end; safe to run at any time, by any number at once
    Migrate,
    #[command(flatten)]
    Service(program::Command),
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let sources = Sources::of_process(&arguments.settings);
    match arguments.command {
        Some(Command::Migrate) => program::serve(&sources, env!("CARGO_PKG_VERSION"), migrate).await,
        Some(Command::Service(command)) => command.run::<Settings>(&sources).await,
        None => program::serve(&sources, env!("CARGO_PKG_VERSION"), run).await,
    }
    .into()
}

async fn migrate(settings: Settings, frame: Frame) -> anyhow::Result<()> {
    let migration = Box::pin(warren_adapter_postgres::migrate(&settings.postgres));
    match frame.stop.run_until_cancelled(migration).await {
        Some(report) => {
            let report = report?;
            info!(?report, "the schema is up to date");
            Ok(())
        }
        None => anyhow::bail!("interrupted; nothing of an unfinished migration was kept"),
    }
}

async fn run(settings: Settings, frame: Frame) -> anyhow::Result<()> {
    warren_pipeline::describe_metrics();
    warren_adapter_amqp::describe_metrics();
    warren_adapter_postgres::describe_metrics();
    warren_adapter_http::describe_metrics();

    // Nothing here waits for the database or the broker: a worker that died with them would spend the delivery
    // limit of good messages at every restart.
    let store = Arc::new(PostgresStore::new(
        settings.postgres.clone(),
        settings.retention(),
    )?);
    let letters = Arc::new(PostgresDeadLetters::new(settings.postgres.clone())?);
    let dead = Box::new(AmqpDeadLetters::new(settings.amqp.clone())?);
    let dead_letter_queue = DeadLetterQueue::new(dead.health());
    let keeping = KeepLoop::new(dead, letters.clone(), &settings.worker);
    let redriving = Arc::new(OnDemandPublisher::new(settings.amqp.clone()));
    let jobs = DeadLetterJobs::new(letters.clone(), redriving);
    let live = Arc::new(AmqpLive::new(settings.amqp.clone())?);
    let hub = Hub::start(live, settings.tail);
    let subscription = AmqpSubscription::new(settings.amqp, ConsumerGroup::Store)?;
    let (consumer_health, consumers) = (subscription.health(), subscription.working());
    let backlog = watch_backlog(subscription.lag(), frame.stop.clone());
    let subscribe = move || subscription.consumer();
    let store_loop = StoreLoop::new(subscribe, store.clone(), store.clone(), settings.worker);
    let health = Health::new(vec![
        consumer_health,
        store.clone() as _,
        Arc::new(store_loop.health()) as _,
        Arc::new(keeping.health()) as _,
        Arc::new(dead_letter_queue) as _,
    ]);
    let routes = Routes {
        dead_letters: Some(jobs.clone()),
        tail: Some(TailRoutes::new(hub.clone(), &settings.http)),
        ..Routes::bare(
            "store-worker",
            env!("CARGO_PKG_VERSION"),
            health.clone(),
            frame.metrics.handle(),
        )
    };
    let server = Server::bind(&settings.http).await?;
    info!(address = %server.local_addr(), "health and metrics");

    // The server outlives the store loop: a worker that finishes what it holds is not ready, but alive.
    let finished = CancellationToken::new();
    let server = tokio::spawn(server.serve(routes, finished.clone()));
    let mut keeping = tokio::spawn(keeping.run(frame.stop.clone()));
    let watching = tokio::spawn(watch_dead_letters(letters.clone(), frame.stop.clone()));
    let mut maintenance = tokio::spawn(run_maintenance(
        store.clone(),
        settings.maintenance,
        frame.stop.clone(),
    ));
    tokio::spawn(backlog);
    let stopping = frame.stop.clone();
    tokio::spawn(async move {
        stopping.cancelled().await;
        health.start_draining();
        hub.close();
    });
    // Neither ends before it is asked to unless it is broken; then the worker stops, in good order.
    let (mut maintained, mut kept, mut broken) = (None, None, false);
    let mut working = pin!(store_loop.run(frame.stop.clone()));
    let worked = select! {
        () = &mut working => true,
        ended = &mut maintenance => {
            maintained = Some(ended);
            false
        }
        ended = &mut keeping => {
            kept = Some(ended);
            false
        }
    };
    if !worked {
        broken = !frame.stop.is_cancelled();
        frame.stop.cancel();
        working.await;
    }
    // What is stored is acknowledged only when the broker has heard of it; else it is delivered and looked at again.
    consumers.close();
    if timeout(LAST_ACKNOWLEDGEMENTS, consumers.wait()).await.is_err() {
        warn!("RabbitMQ did not take the last acknowledgements in time; those deliveries come again");
    }
    jobs.close(LAST_ACKNOWLEDGEMENTS).await;
    match maintained {
        Some(ended) => ended?,
        None => maintenance.await?,
    }
    match kept {
        Some(ended) => ended?,
        None => keeping.await?,
    }
    watching.await?;
    finished.cancel();
    server.await?;
    store.close().await;
    letters.close().await;
    anyhow::ensure!(
        !broken,
        "a part of the worker has ended by itself; the log says which"
    );
    Ok(())
}
