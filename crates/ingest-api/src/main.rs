//! HTTP in, RabbitMQ out; a spool where it is asked for.

mod settings;
mod spool;

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use tokio::time::Instant;
use tracing::info;
use warren_adapter_amqp::AmqpPublisher;
use warren_adapter_http::{Health, IntakeRoutes, Routes, Server};
use warren_domain::ports::HealthCheck;
use warren_pipeline::{Intake, SpoolHealth};
use warren_process::cli::SettingsArgs;
use warren_process::program::{self, Command, Frame};
use warren_process::settings::Sources;
use warren_process::shutdown::{CLOSING_TIME, drain};

use settings::Settings;
use spool::Spooling;

/// Takes messages in over HTTP and hands each to RabbitMQ, or to the spool, before it says yes.
///
/// Settings come from warren.toml, the environment (WARREN_AMQP__URL) and --set; docs/configuration.md lists them.
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
    warren_adapter_embedded::describe_metrics();
    warren_adapter_http::describe_metrics();

    // Outbound before inbound: what is taken in must have somewhere to go. The broker may be away; that is for
    // /readyz to say, and for clients to hear as 503.
    let publisher = Arc::new(AmqpPublisher::start(settings.amqp)?);
    let spooling = Spooling::start(&settings.spool, publisher.clone()).await?;
    let mut intake = Intake::new(publisher.clone(), settings.intake.message_limits());
    let mut broker: Arc<dyn HealthCheck> = publisher.clone();
    if let Some(spooling) = &spooling {
        intake = intake.with_spool(spooling.spool());
        broker = Arc::new(SpoolHealth::new(broker, spooling.spool()));
    }
    let health = Health::new(vec![broker]);
    let routes = Routes {
        intake: Some(IntakeRoutes::new(
            intake.clone(),
            &settings.http,
            &settings.intake,
        )),
        // Those of the broker and of the store are the worker's to show.
        dead_letters: spooling.as_ref().map(Spooling::jobs),
        ..Routes::bare(
            "ingest-api",
            env!("CARGO_PKG_VERSION"),
            health,
            frame.metrics.handle(),
        )
    };
    let server = Server::bind(&settings.http).await?;
    info!(address = %server.local_addr(), "listening");
    let drained = server.serve(routes, frame.stop).await;

    // Clients have gone or have their answers; what was handed over is still awaited, the spool is drained as far as the
    // broker takes it, then the connection ends. One deadline for all, counted from the signal.
    let deadline = drained.began + settings.http.drain_delay + settings.http.drain_timeout + CLOSING_TIME;
    let left = || deadline.saturating_duration_since(Instant::now());
    drain("publishing", left(), intake.drain()).await;
    if let Some(spooling) = spooling {
        spooling.stop(deadline).await;
    }
    drain("closing the connection to RabbitMQ", left(), publisher.close()).await;
    Ok(())
}
