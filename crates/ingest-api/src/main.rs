//! HTTP in, RabbitMQ out.

mod settings;

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use tokio::time::Instant;
use tracing::info;
use warren_adapter_amqp::AmqpPublisher;
use warren_adapter_http::{Health, IntakeRoutes, Routes, Server};
use warren_pipeline::Intake;
use warren_process::cli::SettingsArgs;
use warren_process::program::{self, Command, Frame};
use warren_process::settings::Sources;
use warren_process::shutdown::{CLOSING_TIME, drain};

use settings::Settings;

/// Takes messages in over HTTP and hands each to RabbitMQ before it says yes.
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
    warren_adapter_http::describe_metrics();

    // Outbound before inbound: what is taken in must have somewhere to go. The broker may be away; that is for
    // /readyz to say, and for clients to hear as 503.
    let publisher = Arc::new(AmqpPublisher::start(settings.amqp)?);
    let intake = Intake::new(publisher.clone(), settings.intake.message_limits());
    let health = Health::new(vec![publisher.clone() as _]);
    let routes = Routes {
        service: "ingest-api",
        version: env!("CARGO_PKG_VERSION"),
        intake: Some(IntakeRoutes::new(
            intake.clone(),
            &settings.http,
            &settings.intake,
        )),
        health,
        groups: Vec::new(),
        dead_letters: None,
        metrics: frame.metrics.handle(),
    };
    let server = Server::bind(&settings.http).await?;
    info!(address = %server.local_addr(), "listening");
    let drained = server.serve(routes, frame.stop).await;

    // Clients have gone or have their answers; what was handed over is still awaited, then the connection ends. One
    // deadline for both, counted from the signal.
    let deadline = drained.began + settings.http.drain_delay + settings.http.drain_timeout + CLOSING_TIME;
    let left = || deadline.saturating_duration_since(Instant::now());
    drain("publishing", left(), intake.drain()).await;
    drain("closing the connection to RabbitMQ", left(), publisher.close()).await;
    Ok(())
}
