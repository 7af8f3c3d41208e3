//! One consumer group: counts by severity, prints and exports the counts.

mod arguments;
mod display;
mod settings;

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use warren_adapter_amqp::AmqpSubscription;
use warren_adapter_embedded::EmbeddedTally;
use warren_adapter_http::{Health, Routes, Server};
use warren_domain::ports::{ConsumerGroup, NamedGroup};
use warren_pipeline::tally::{TallyLoop, TallyParts, Until};
use warren_process::exit::Exit;
use warren_process::program::{self, Frame};
use warren_process::settings::Sources;

use arguments::{Arguments, Output, Task};
use display::Form;
use settings::Settings;

/// How long a stopping program waits until the broker has its last acknowledgements, after `tally.drain_timeout` at
/// most.
const LAST_ACKNOWLEDGEMENTS: Duration = Duration::from_secs(3);
/// How long whoever reads the output may take for the last of it.
const LAST_OUTPUT: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let Arguments { settings, task } =
        Arguments::read(std::env::args_os()).unwrap_or_else(|error| error.exit());
    let sources = settings::with_own_defaults(Sources::of_process(&settings));
    let runtime = match Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: the operating system gives no threads: {error}");
            return Exit::Failure.into();
        }
    };
    let exit = runtime.block_on(async {
        match task {
            Task::Service(command) => command.run::<Settings>(&sources).await,
            Task::Count(group, output) => {
                let run = async |settings, frame| run(settings, frame, group, output).await;
                program::serve(&sources, env!("CARGO_PKG_VERSION"), run).await
            }
        }
    });
    // A line that nobody reads blocks a thread of the runtime for ever, and is not waited for.
    runtime.shutdown_background();
    exit.into()
}

async fn run(mut settings: Settings, frame: Frame, group: NamedGroup, output: Output) -> anyhow::Result<()> {
    warren_pipeline::describe_metrics();
    warren_adapter_amqp::describe_metrics();
    warren_adapter_embedded::describe_metrics();
    warren_adapter_http::describe_metrics();

    if let Some(count) = output.count {
        // Nothing is fetched that will surely go back: every return counts towards the broker's delivery limit.
        let most = u16::try_from(count).unwrap_or(u16::MAX).max(1);
        settings.amqp.prefetch = settings.amqp.prefetch.min(most);
    }
    // Nothing here waits for the broker: it is connected to when the loop runs.
    let (folder, window) = (settings.books(), settings.tally.window);
    let book = Arc::new(EmbeddedTally::open(&folder, &group.name, window, "tally.path").await?);
    let subscription = AmqpSubscription::new(settings.amqp, ConsumerGroup::Named(group.clone()))?;
    let (broker_health, consumers) = (subscription.health(), subscription.working());
    let parts = TallyParts {
        group,
        book: book.clone(),
        consumer_health: broker_health.clone(),
        lag: subscription.lag(),
    };
    let until = Until {
        idle: output.until_idle,
        count: output.count,
    };
    let subscribe = move || subscription.consumer();
    let tally_loop = TallyLoop::new(subscribe, parts, &settings.tally, until);
    let health = Health::new(vec![broker_health, Arc::new(tally_loop.health()) as _]);
    let routes = Routes::bare(
        "severity-consumer",
        env!("CARGO_PKG_VERSION"),
        health.clone(),
        frame.metrics.handle(),
    );
    let server = Server::bind(&settings.http).await?;
    info!(address = %server.local_addr(), "health and metrics");

    // The server outlives the loop: a process that counts what it holds is not ready, but alive.
    let finished = CancellationToken::new();
    let server = tokio::spawn(server.serve(routes, finished.clone()));
    let stopping = frame.stop.clone();
    tokio::spawn(async move {
        stopping.cancelled().await;
        health.start_draining();
    });
    let reports = tally_loop.reports();
    let stop = frame.stop.clone();
    let showing = tokio::spawn(async move {
        let form = Form::of_output(output.json);
        let shown = display::show(reports, form, output.every, tokio::io::stdout()).await;
        if shown.is_err() {
            // What nobody can read is not worth counting.
            stop.cancel();
        }
        shown
    });
    tally_loop.run(frame.stop.clone()).await;

    // What is counted is acknowledged only when the broker has heard of it; else it is delivered and looked at again.
    consumers.close();
    if timeout(LAST_ACKNOWLEDGEMENTS, consumers.wait()).await.is_err() {
        warn!("RabbitMQ did not take the last acknowledgements in time; those deliveries come again");
    }
    book.close().await;
    let shown = timeout(LAST_OUTPUT, showing).await;
    finished.cancel();
    server.await?;
    match shown.context("nobody reads standard output")?? {
        // Whoever read has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        shown => shown.context("standard output cannot be written"),
    }
}
