//! `warren groups`: what the consumer groups of the running process have counted.

use std::io::{self, IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use serde::Deserialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use warren_pipeline::tally::{GroupReport, WatchReport, table, watched_table};
use warren_process::exit::Exit;
use warren_process::program::addresses;
use warren_process::settings::Sources;
use warren_process::telemetry::escape::Escaped;
use warren_process::{healthcheck, shutdown};

use crate::command::{self, every, is_broken_pipe};

/// How long the running process may take to answer: longer than a `query-api` waits for RabbitMQ, by `amqp.connect_timeout`
/// as it is and two seconds more.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Clears a terminal and begins at its top left, as `watch` does.
const CLEAR: &str = "\u{1b}[H\u{1b}[2J\u{1b}[3J";

/// How to show the consumer groups.
#[derive(Debug, clap::Args)]
pub(crate) struct GroupsArgs {
    /// Print one JSON line a group instead of the table
    #[arg(long)]
    json: bool,
    /// Show them again and again, until Ctrl-C
    #[arg(long, value_name = "DURATION", value_parser = every)]
    every: Option<Duration>,
}

/// The answer to `GET /v1/groups` of a program that counts itself: it has nothing more to say, as it knows all of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Groups {
    groups: Vec<GroupReport>,
}

/// What is told of groups.
#[derive(Debug)]
enum Told {
    /// By who counts for them.
    Own(Vec<GroupReport>),
    /// By who watches others do.
    Watched(WatchReport),
}

impl Told {
    fn read(text: &str) -> serde_json::Result<Self> {
        match serde_json::from_str(text) {
            Ok(Groups { groups }) => Ok(Self::Own(groups)),
            Err(_) => serde_json::from_str(text).map(Self::Watched),
        }
    }
}

/// Asks the process that runs with the same settings, and prints what it says.
pub(crate) async fn run(arguments: GroupsArgs, sources: &Sources) -> Exit {
    let settings = match command::settings(sources) {
        Ok(settings) => settings,
        Err(exit) => return exit,
    };
    let shown = async {
        let stop = shutdown::on_signals()?;
        show(&arguments, &settings.http.listen, &stop).await
    };
    command::end(shown.await.map(|()| Exit::Clean))
}

async fn show(arguments: &GroupsArgs, listen: &str, stop: &CancellationToken) -> Result<()> {
    print(arguments, &ask(listen).await?)?;
    let Some(every) = arguments.every else {
        return Ok(());
    };
    let mut due = Instant::now() + every;
    while stop
        .run_until_cancelled(tokio::time::sleep_until(due))
        .await
        .is_some()
    {
        due = Instant::now() + every;
        match ask(listen).await {
            Ok(groups) => print(arguments, &groups)?,
            // It may be starting again; who watches wants to see it come back.
            Err(error) => eprintln!("{error:#}"),
        }
    }
    Ok(())
}

/// Asks the process that listens there for its groups.
async fn ask(listen: &str) -> Result<Told> {
    let addresses = addresses(listen, TIMEOUT)
        .await
        .map_err(|reason| anyhow!(reason))?;
    let mut away = None;
    // The process listens on the first of them that it could have.
    for address in addresses {
        match healthcheck::get(address, "/v1/groups", TIMEOUT).await {
            Ok(answer) => return read(address, &answer),
            Err(error) => away = Some(error),
        }
    }
    let away = away.context("http.listen stands for no address")?;
    Err(anyhow!(
        "{away}; start `warren` there, or say with --set http.listen=… or --config where it runs"
    ))
}

fn read(address: SocketAddr, answer: &healthcheck::Answer) -> Result<Told> {
    match answer.status {
        200 => Told::read(&answer.body).with_context(|| {
            format!(
                "what {address} answers is no list of groups; does a `warren` of another version run there?"
            )
        }),
        404 => bail!(
            "the program at {address} knows no consumer groups; `warren` does, and beside RabbitMQ a `query-api`; each \
             `severity-consumer` prints its own"
        ),
        status => {
            let said: String = answer.body.trim().chars().take(500).collect();
            bail!("{address} answers {status}: {}", Escaped(&said))
        }
    }
}

fn print(arguments: &GroupsArgs, told: &Told) -> Result<()> {
    let mut output = io::stdout().lock();
    let mut text = String::new();
    if arguments.json {
        match told {
            Told::Own(groups) => groups
                .iter()
                .for_each(|group| text.push_str(&(group.to_json() + "\n"))),
            Told::Watched(WatchReport { groups, .. }) => {
                for group in groups {
                    text.push_str(&(serde_json::to_string(group)? + "\n"));
                }
            }
        }
    } else {
        if arguments.every.is_some() && output.is_terminal() {
            text.push_str(CLEAR);
        }
        text.push_str(&match told {
            Told::Own(groups) => table(groups),
            Told::Watched(report) => watched_table(&report.groups),
        });
    }
    if let Told::Watched(report) = told {
        for missing in &report.missing {
            eprintln!("{}", Escaped(missing));
        }
    }
    let written = output.write_all(text.as_bytes()).and_then(|()| output.flush());
    match written {
        Err(error) if is_broken_pipe(&error) => Err(error.into()),
        written => written.context("cannot write to standard output"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_watches_others_is_told_apart_even_if_it_watches_nobody() {
        let watched = Told::read(r#"{"groups":[],"missing":["a does not answer"]}"#).unwrap();
        assert!(matches!(watched, Told::Watched(report) if report.missing.len() == 1));
        assert!(matches!(Told::read(r#"{"groups":[]}"#).unwrap(), Told::Own(_)));
        Told::read(r#"{"letters":[]}"#).unwrap_err();
    }
}
