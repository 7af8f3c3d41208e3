//! `warren query`: stored messages, found over HTTP.

mod caret;
mod follow;
mod found;
mod search;

use std::io;

use anyhow::Result;
use tokio_util::sync::CancellationToken;
use warren_domain::{InvalidQuery, Query, SeveritySet, SourcePattern, Timestamp};
use warren_process::exit::Exit;
use warren_process::settings::Sources;
use warren_process::shutdown;

use crate::command::{self, time};
use crate::server::{InvalidParameter, Needed, Server};
use found::Shown;
use search::Search;

/// What the server must have.
const MESSAGES: Needed = Needed {
    what: "stored messages",
    by: "`warren` has, and beside RabbitMQ each `query-api`",
};

/// What to find, and how to show it.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The newest messages that match, the newest last. Exit codes: 0 everything that was asked for is \
    shown, also if that is nothing; 1 it is not; 2 the search text or an argument is wrong."
)]
pub(crate) struct QueryArgs {
    /// What has to hold, such as 'card -refund severity>=error order=42'; after `--` if it begins with a dash
    #[arg(value_name = "TEXT")]
    text: Option<String>,
    /// Only these severities, such as `error,critical` or `error+` for it and everything graver
    #[arg(long, value_name = "SEVERITIES")]
    severity: Option<SeveritySet>,
    /// Only these sources, such as `billing.#`: `*` stands for one segment, `#` for any number; may be repeated
    #[arg(long, value_name = "PATTERN")]
    source: Vec<SourcePattern>,
    /// Only messages taken in at this time or later: RFC 3339, or how long ago, such as `1h`
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<Timestamp>,
    /// Only messages taken in before this time, written as for --since
    #[arg(long, value_name = "TIME", value_parser = time, conflicts_with = "follow")]
    until: Option<Timestamp>,
    /// Show so many at most: the newest
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    limit: u64,
    /// Show the newest first, as they are found
    #[arg(long, conflicts_with = "follow")]
    newest_first: bool,
    /// Go on with what is published from now on, until Ctrl-C; what waits for the store at that moment is in neither
    #[arg(long, short)]
    follow: bool,
    /// Print each message as its line of JSON
    #[arg(long)]
    json: bool,
    /// The program that has them: `warren`, or beside RabbitMQ a `query-api`. Default: the one that runs with the same
    /// settings
    #[arg(long, value_name = "URL")]
    to: Option<String>,
}

/// Finds messages and shows them.
pub(crate) async fn run(arguments: QueryArgs, sources: &Sources) -> Exit {
    let settings = match command::settings(sources) {
        Ok(settings) => settings,
        Err(exit) => return exit,
    };
    let server = match Server::of(MESSAGES, arguments.to.as_deref(), &settings.http.listen) {
        Ok(server) => server,
        Err(problem) => return command::usage(problem),
    };
    let shown = async {
        let stop = shutdown::on_signals()?;
        show(&arguments, &server, &stop).await
    };
    match shown.await {
        Err(error) => match error.downcast_ref::<InvalidParameter>() {
            Some(invalid) => {
                eprintln!("{}", caret::pointed_at(invalid, arguments.text.as_deref()));
                Exit::Usage
            }
            None => command::end(Err(error)),
        },
        shown => command::end(shown),
    }
}

/// Refuses a text that is longer than any may be: it might not fit into an address, and so not come to where it is read.
fn check_length(text: &str) -> Result<(), InvalidParameter> {
    if text.len() <= Query::MOST_BYTES {
        return Ok(());
    }
    let parsed = text.parse::<Query>().map(drop);
    parsed.map_err(
        |InvalidQuery {
             column,
             length,
             detail,
             hint,
         }| {
            let detail = format!("q, column {column}: {detail}");
            InvalidParameter::new("q", Some((column, length)), detail, hint)
        },
    )
}

async fn show(arguments: &QueryArgs, server: &Server, stop: &CancellationToken) -> Result<Exit> {
    if let Some(text) = &arguments.text {
        check_length(text)?;
    }
    let search = Search::of(arguments);
    let shown = Shown {
        json: arguments.json,
        colours: command::colours(&io::stdout()),
    };
    if arguments.follow {
        // It listens before it searches, so that what is published from here on is told. What was published before and is
        // not stored when the search comes by is in neither.
        let opening = follow::Tail::open(server, &search);
        let Some(tail) = stop.run_until_cancelled(opening).await else {
            eprintln!("interrupted before anything was found");
            return Ok(Exit::Failure);
        };
        let tail = tail?;
        let found = search::find(&search, server, shown, stop).await?;
        if found.exit != Exit::Clean {
            return Ok(found.exit);
        }
        return follow::follow(tail, found.ids, shown, stop).await;
    }
    let found = search::find(&search, server, shown, stop).await?;
    Ok(found.exit)
}
