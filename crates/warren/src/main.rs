//! Everything in one process on the embedded adapter.

mod settings;
mod welcome;

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use tokio_util::sync::CancellationToken;
use tracing::info;
use warren_adapter_embedded::Embedded;
use warren_adapter_http::{Health, IntakeRoutes, Routes, Server};
use warren_domain::ports::ConsumerGroup;
use warren_pipeline::{Intake, StoreLoop, run_maintenance};
use warren_process::cli::SettingsArgs;
use warren_process::program::{self, Frame};
use warren_process::settings::Sources;
use warren_process::shutdown::drain;

use settings::Settings;

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
    #[command(flatten)]
    Service(program::Command),
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let sources = Sources::of_process(&arguments.settings);
    match arguments.command {
        None | Some(Command::Serve) => program::serve(&sources, env!("CARGO_PKG_VERSION"), run).await,
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
    let intake = Intake::new(embedded.publisher(), settings.intake.message_limits());
    let consumers = Arc::clone(&embedded);
    let subscribe = move || Ok(consumers.consumer(ConsumerGroup::Store));
    let store_loop = StoreLoop::new(
        subscribe,
        embedded.store(),
        embedded.store_health(),
        settings.worker,
    );
    let health = Health::new(vec![embedded.health(), Arc::new(store_loop.health()) as _]);
    let routes = Routes {
        service: "warren",
        version: env!("CARGO_PKG_VERSION"),
        intake: Some(IntakeRoutes::new(
            intake.clone(),
            &settings.http,
            &settings.intake,
        )),
        health,
        metrics: frame.metrics.handle(),
    };
    let server = Server::bind(&settings.http).await?;
    info!(address = %server.local_addr(), path = %settings.embedded.path.display(), "listening");
    welcome::print(server.local_addr(), &settings.embedded.path, retention);

    // The store loop outlives the server, so that what was taken in at the end is stored before the process is gone.
    let storing = CancellationToken::new();
    let store_loop = tokio::spawn(store_loop.run(storing.clone()));
    let maintenance = tokio::spawn(run_maintenance(
        embedded.maintenance(),
        settings.maintenance,
        storing.clone(),
    ));
    server.serve(routes, frame.stop).await;
    drain("publishing", settings.http.drain_timeout, intake.drain()).await;
    storing.cancel();
    store_loop.await?;
    maintenance.await?;
    embedded.close().await;
    Ok(())
}
