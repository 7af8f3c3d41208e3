//! The frame of a service: what happens before and after its own work, and the subcommands all of them have.

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::lookup_host;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::exit::Exit;
use crate::healthcheck::Question;
use crate::settings::{self, CheckSettings, Sources};
use crate::telemetry::TelemetryConfig;
use crate::telemetry::metrics::Metrics;
use crate::{healthcheck, shutdown, telemetry};

/// The settings of a service: its sections, of which two are everybody's.
pub trait ServiceSettings: Default + Serialize + DeserializeOwned + CheckSettings {
    /// Returns the section `telemetry`.
    fn telemetry(&self) -> &TelemetryConfig;
    /// Returns `http.listen`.
    fn listen(&self) -> &str;
}

/// The subcommands that every service has.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Command {
    /// Look at the configuration without opening anything
    Config {
        /// What to do with it
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Ask the service that runs with the same settings whether it is ready; exit code 0 or 1
    Healthcheck {
        /// Ask whether it is alive instead: no restart brings back a broker or a database that is away
        #[arg(long)]
        live: bool,
        /// How long to wait for its answer
        #[arg(long, default_value = "4s", value_parser = humantime::parse_duration)]
        timeout: Duration,
    },
}

/// What can be done with the configuration.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum ConfigCommand {
    /// Check it: print every setting with its origin, or every problem; exit code 78 if there is one
    Check {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

impl Command {
    /// Does what the subcommand says.
    pub async fn run<S: ServiceSettings>(self, sources: &Sources) -> Exit {
        match self {
            Self::Config {
                command: ConfigCommand::Check { json },
            } => settings::check::<S>(sources, json),
            Self::Healthcheck { live, timeout } => match settings::load::<S>(sources) {
                Ok(loaded) => {
                    let question = if live { Question::Live } else { Question::Ready };
                    ask(loaded.settings.listen(), question, timeout).await
                }
                Err(problems) => {
                    eprintln!("{problems}");
                    Exit::Configuration
                }
            },
        }
    }
}

async fn ask(listen: &str, question: Question, timeout: Duration) -> Exit {
    let deadline = Instant::now() + timeout;
    let addresses = match addresses(listen, timeout).await {
        Ok(addresses) => addresses,
        Err(reason) => {
            eprintln!("{reason}");
            return Exit::Failure;
        }
    };
    if addresses.iter().all(|address| address.port() == 0) {
        eprintln!("http.listen is {listen}, a port that changes with every start; set one to be asked on");
        return Exit::Failure;
    }
    // The service listens on the first of them that it could have.
    for (tried, address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        if healthcheck::run(*address, question, share).await == Exit::Clean {
            return Exit::Clean;
        }
    }
    Exit::Failure
}

/// Returns the addresses that `http.listen` stands for, at least one, waiting for `timeout` at most.
///
/// # Errors
/// Why there is none, in words.
pub async fn addresses(listen: &str, timeout: Duration) -> Result<Vec<SocketAddr>, String> {
    match tokio::time::timeout(timeout, lookup_host(listen)).await {
        Ok(Ok(addresses)) => {
            let addresses: Vec<_> = addresses.collect();
            if addresses.is_empty() {
                return Err(format!("http.listen is {listen}, which stands for no address"));
            }
            Ok(addresses)
        }
        Ok(Err(error)) => Err(format!(
            "http.listen is {listen}, which cannot be resolved: {error}"
        )),
        Err(_) => Err(format!(
            "http.listen is {listen}, which cannot be resolved within {timeout:?}"
        )),
    }
}

/// What a service gets from its frame.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The numbers of the process; begun before anything counts.
    pub metrics: Metrics,
    /// Cancelled at the first SIGTERM or SIGINT: be not ready, take nothing more, finish, return.
    pub stop: CancellationToken,
}

/// Runs a service: settings, logs, metrics, signals, then `work`; nothing is opened before the settings are whole.
pub async fn serve<S: ServiceSettings, E: Into<Box<dyn Error + Send + Sync>>>(
    sources: &Sources,
    version: &'static str,
    work: impl AsyncFnOnce(S, Frame) -> Result<(), E>,
) -> Exit {
    let settings = match settings::load::<S>(sources) {
        Ok(loaded) => loaded.settings,
        Err(problems) => {
            eprintln!("{problems}");
            return Exit::Configuration;
        }
    };
    let frame = match begin(settings.telemetry(), version) {
        Ok(frame) => frame,
        Err(error) => {
            eprintln!("{}", with_causes(&*error));
            return Exit::Failure;
        }
    };
    // To the end of the drain: that is when somebody looks.
    let ended = CancellationToken::new();
    tokio::spawn(frame.metrics.clone().keep_up(ended.clone()));
    let _ended = ended.drop_guard();
    // Boxed: the future of a whole program is too large for a stack frame.
    match Box::pin(work(settings, frame)).await {
        Ok(()) => {
            tracing::info!("stopped");
            Exit::Clean
        }
        Err(error) => {
            tracing::error!(error = with_causes(&*error.into()), "ended by a failure");
            Exit::Failure
        }
    }
}

fn begin(config: &TelemetryConfig, version: &'static str) -> Result<Frame, Box<dyn Error + Send + Sync>> {
    telemetry::logging::init(config)?;
    #[cfg(feature = "planted-bugs")]
    warn_of_bugs()?;
    Ok(Frame {
        metrics: telemetry::metrics::install(version)?,
        stop: shutdown::on_signals()?,
    })
}

/// Lets nobody take this build for one that keeps its promises.
#[cfg(feature = "planted-bugs")]
fn warn_of_bugs() -> Result<(), warren_planted::UnknownBug> {
    match warren_planted::plant_from_environment()? {
        Some(bug) => tracing::error!(
            bug = bug.name(),
            "THIS PROGRAM LOSES MESSAGES ON PURPOSE: it was built with `planted-bugs`, and told to have one. {}",
            bug.description()
        ),
        None => tracing::error!(
            "THIS PROGRAM IS NOT FOR USE: it was built with `planted-bugs`, though it was told to have none"
        ),
    }
    Ok(())
}

/// Writes an error with everything behind it on one line.
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
