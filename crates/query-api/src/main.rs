//! What is stored and what is published, over HTTP: PostgreSQL and RabbitMQ read, and the console.

mod programs;
mod settings;

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use tokio::time::Instant;
use tracing::info;
use warren_adapter_amqp::{AmqpLive, AmqpQueues, OnDemandPublisher};
use warren_adapter_http::{GroupRoutes, Health, QueryRoutes, Routes, Server, TailRoutes};
use warren_adapter_postgres::{PostgresDeadLetters, PostgresReader};
use warren_pipeline::dead_letters::{DeadLetterJobs, watch_dead_letters};
use warren_pipeline::flow::{Flow, Recent, StageName};
use warren_pipeline::tail::{Hub, TailStore};
use warren_pipeline::tally::GroupWatch;
use warren_process::cli::SettingsArgs;
use warren_process::program::{self, Command, Frame};
use warren_process::settings::Sources;
use warren_process::shutdown::{CLOSING_TIME, drain};

use programs::Programs;
use settings::Settings;

/// Finds stored messages, shows what is published, redrives dead letters, and serves the console.
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

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let sources = Sources::of_process(&arguments.settings);
    match arguments.command {
        Some(command) => command.run::<Settings>(&sources).await,
        None => program::serve(&sources, env!("CARGO_PKG_VERSION"), run).await,
    }
    .into()
}

async fn run(settings: Settings, frame: Frame) -> anyhow::Result<()> {
    warren_pipeline::describe_metrics();
    warren_adapter_amqp::describe_metrics();
    warren_adapter_postgres::describe_metrics();
    warren_adapter_http::describe_metrics();

    // Nothing here waits for the database or the broker, and nobody connects to the broker before somebody watches or
    // redrives: without it what is stored is found all the same.
    let reader = Arc::new(PostgresReader::new(&settings.postgres, &settings.reader)?);
    let letters = Arc::new(PostgresDeadLetters::new(settings.postgres)?);
    let redriving = Arc::new(OnDemandPublisher::new(settings.amqp.clone()));
    let jobs = DeadLetterJobs::new(letters.clone(), redriving);
    let queues = Arc::new(AmqpQueues::new(settings.amqp.clone())?);
    let store = TailStore {
        reader: reader.clone(),
        backlog: queues.clone(),
    };
    let hub = Hub::start_beside_store(Arc::new(AmqpLive::new(settings.amqp)?), store, settings.tail);
    let programs = Programs::new(frame.metrics.clone(), settings.pipeline.peers());
    let counters = Arc::new(Recent::of(programs));
    let groups = GroupWatch::new(settings.pipeline.group_names(), queues.clone(), counters.clone());
    let pipeline = Flow::new(
        counters,
        StageName::InRabbitmq,
        "name the programs in pipeline.programs",
    );
    let routes = Routes {
        service: "query-api",
        version: env!("CARGO_PKG_VERSION"),
        intake: None,
        health: Health::new(vec![reader.clone()]),
        groups: Some(GroupRoutes::Watched(groups)),
        pipeline: Some(pipeline),
        dead_letters: Some(jobs.clone()),
        query: Some(
            QueryRoutes::new(reader.clone(), settings.reader.connections)
                .with_intake_at(settings.pipeline.intake()),
        ),
        tail: Some(TailRoutes::new(hub, &settings.http)),
        metrics: frame.metrics.handle(),
    };
    let server = Server::bind(&settings.http).await?;
    info!(address = %server.local_addr(), "listening");
    let watching = tokio::spawn(watch_dead_letters(letters.clone(), frame.stop.clone()));
    let drained = server.serve(routes, frame.stop).await;

    // A job ends after the batch under way; then nobody needs the database any more. One deadline for all, counted from
    // the signal.
    let deadline = drained.began + settings.http.drain_delay + settings.http.drain_timeout + CLOSING_TIME;
    let left = || deadline.saturating_duration_since(Instant::now());
    drain("redriving", left(), jobs.close(left())).await;
    drain("closing the connections", left(), async {
        queues.close().await;
        reader.close().await;
        letters.close().await;
    })
    .await;
    watching.await?;
    Ok(())
}
