//! Everything in one process on the embedded adapter, and the command line.

mod audit;
mod command;
mod counting;
mod dead;
mod groups;
mod line;
mod own_counters;
mod query;
mod scenario;
mod send;
mod server;
mod settings;
mod tail;
mod welcome;

use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use warren_adapter_embedded::Embedded;
use warren_adapter_http::{GroupRoutes, Health, IntakeRoutes, QueryRoutes, Routes, Server, TailRoutes};
use warren_domain::ports::ConsumerGroup;
use warren_pipeline::dead_letters::{DeadLetterJobs, watch_dead_letters};
use warren_pipeline::flow::{Flow, Recent, StageName};
use warren_pipeline::tail::{Hub, TailStore};
use warren_pipeline::{Intake, StoreLoop, run_maintenance, watch_backlog};
use warren_process::cli::SettingsArgs;
use warren_process::program::{self, Frame};
use warren_process::settings::Sources;
use warren_process::shutdown::{CLOSING_TIME, drain};

use counting::Counting;
use own_counters::OwnCounters;
use settings::Settings;
use welcome::Welcome;

/// Takes messages in over HTTP and stores each exactly once, in one process over SQLite: nothing else to install.
///
/// Settings come from warren.toml, the environment (WARREN_HTTP__LISTEN) and --set; docs/configuration.md lists them.
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
    /// Take messages in and store them, until Ctrl-C; the same as no command
    Serve,
    /// Send messages, from the command line or standard input
    Send(send::SendArgs),
    /// Show what is published to RabbitMQ from now on, until Ctrl-C
    Tail(tail::TailArgs),
    /// Find stored messages
    Query(query::QueryArgs),
    /// Show what consumer groups have counted, of the running `warren` or `query-api`
    Groups(groups::GroupsArgs),
    /// Look at what nobody could store, redrive it, or purge it
    #[command(subcommand)]
    Dead(dead::DeadCommand),
    /// Check that everything accepted is stored, a duplicate, a dead letter, or in flight
    Audit(audit::AuditArgs),
    /// Prove with scenario files that each consumer counts exactly what it should
    #[command(subcommand)]
    Scenario(scenario::ScenarioCommand),
    #[command(flatten)]
    Service(program::Command),
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let sources = Sources::of_process(&arguments.settings);
    match arguments.command {
        None | Some(Command::Serve) => program::serve(&sources, env!("CARGO_PKG_VERSION"), run).await,
        Some(Command::Send(arguments)) => send::run(arguments, &sources).await,
        Some(Command::Tail(arguments)) => tail::run(arguments, &sources).await,
        Some(Command::Query(arguments)) => query::run(arguments, &sources).await,
        Some(Command::Groups(arguments)) => groups::run(arguments, &sources).await,
        Some(Command::Dead(command)) => dead::run(command, &sources).await,
        Some(Command::Audit(arguments)) => audit::run(arguments, &sources).await,
        Some(Command::Scenario(command)) => scenario::run(command, &arguments.settings, &sources).await,
        Some(Command::Service(command)) => command.run::<Settings>(&sources).await,
    }
    .into()
}

async fn run(settings: Settings, frame: Frame) -> anyhow::Result<()> {
    warren_pipeline::describe_metrics();
    warren_adapter_embedded::describe_metrics();
    warren_adapter_http::describe_metrics();

    let retention = settings.retention();
    let embedded = Arc::new(Embedded::open(settings.embedded.clone(), retention).await?);
    let reader = Arc::new(embedded.reader(&settings.reader));
    let intake = Intake::new(embedded.publisher(), settings.intake.message_limits());
    let jobs = DeadLetterJobs::new(embedded.dead_letters(), embedded.publisher());
    let mut counting = Counting::open(&settings, &embedded).await?;
    let consumers = Arc::clone(&embedded);
    let subscribe = move || Ok(consumers.consumer(ConsumerGroup::Store));
    let store_loop = StoreLoop::new(
        subscribe,
        embedded.store(),
        embedded.store_health(),
        settings.worker,
    );
    let health = Health::new(vec![
        embedded.health(),
        Arc::new(store_loop.health()) as _,
        counting.health(),
    ]);
    let routes = Routes {
        service: "warren",
        version: env!("CARGO_PKG_VERSION"),
        intake: Some(IntakeRoutes::new(
            intake.clone(),
            &settings.http,
            &settings.intake,
        )),
        groups: Some(GroupRoutes::Own(counting.reports())),
        pipeline: Some(Flow::new(
            Arc::new(Recent::of(OwnCounters::of(&frame.metrics))),
            StageName::Queued,
            "it begins to count within seconds",
        )),
        dead_letters: Some(jobs.clone()),
        query: Some(QueryRoutes::new(
            Arc::clone(&reader) as _,
            settings.reader.connections as usize,
        )),
        tail: Some(TailRoutes::new(
            Hub::start_beside_store(
                embedded.live(),
                TailStore {
                    reader: Arc::clone(&reader) as _,
                    backlog: embedded.store_lag(),
                },
                settings.tail.clone(),
            ),
            &settings.http,
        )),
        health,
        metrics: frame.metrics.handle(),
    };
    let server = Server::bind(&settings.http).await?;
    Welcome::new(server.local_addr(), &settings.embedded.path, retention).say(settings.telemetry.is_text());

    // The loops outlive the server, so that what was taken in at the end is stored before the process is gone.
    let storing = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(store_loop.run(storing.clone()));
    tasks.spawn(run_maintenance(
        embedded.maintenance(),
        settings.maintenance,
        storing.clone(),
    ));
    tasks.spawn(watch_dead_letters(embedded.dead_letters(), storing.clone()));
    tasks.spawn(watch_backlog(embedded.store_lag(), storing.clone()));
    counting.begin(&mut tasks, &storing).await;
    let serving = server.serve(routes, frame.stop.clone());
    let (drained, early) = beside(&mut tasks, serving, &frame.stop).await;

    // One deadline for all that is left, counted from the signal.
    let deadline = drained.began + settings.http.drain_delay + settings.http.drain_timeout + CLOSING_TIME;
    let left = || deadline.saturating_duration_since(Instant::now());
    drain("publishing", left(), async {
        intake.drain().await;
        jobs.close(left()).await;
    })
    .await;
    storing.cancel();
    let stored = drain("storing", left(), ended(&mut tasks)).await;
    let closing = async {
        counting.close().await;
        reader.close().await;
        embedded.close().await;
    };
    drain("closing the databases", left(), closing).await;
    match early {
        Some(ended) => {
            ended?;
            anyhow::bail!("a loop or the maintenance ended before it was told to")
        }
        None => stored.unwrap_or(Ok(())),
    }
}

/// Waits for `serving`, and stops it when one of the tasks ends before: to take in what nobody stores any more would
/// only fill the disk. Returns how that task ended, too.
async fn beside<T>(
    tasks: &mut JoinSet<()>,
    serving: impl Future<Output = T>,
    stop: &CancellationToken,
) -> (T, Option<Result<(), JoinError>>) {
    let mut serving = pin!(serving);
    tokio::select! {
        served = &mut serving => (served, None),
        Some(ended) = tasks.join_next() => {
            stop.cancel();
            (serving.await, Some(ended))
        }
    }
}

/// Waits for every task; an error if one of them panicked.
async fn ended(tasks: &mut JoinSet<()>) -> anyhow::Result<()> {
    while let Some(ended) = tasks.join_next().await {
        ended?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_early_stops_the_server_and_a_stop_waits_for_the_tasks() {
        for panics in [true, false] {
            let stop = CancellationToken::new();
            let mut tasks = JoinSet::new();
            tasks.spawn(std::future::pending());
            tasks.spawn(async move { assert!(!panics, "as told") });
            let (_, early) = beside(&mut tasks, stop.cancelled(), &stop).await;
            assert_eq!(early.map(|ended| ended.is_err()), Some(panics));
        }
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(std::future::pending());
        stop.cancel();
        let (_, early) = beside(&mut tasks, stop.cancelled(), &stop).await;
        assert!(early.is_none() && tasks.len() == 1);
    }
}
