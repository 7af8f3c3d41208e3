//! `warren dead`: what nobody could store, looked at, redriven and purged over HTTP.

mod job;
mod table;

use std::collections::BTreeSet;
use std::io::{self, IsTerminal as _};

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use warren_domain::SeveritySet;
use warren_domain::Timestamp;
use warren_domain::ports::{DeadLetterId, SourceBranch};
use warren_pipeline::dead_letters::JobAction;
use warren_process::exit::Exit;
use warren_process::settings::Sources;
use warren_process::shutdown;
use warren_process::telemetry::escape::Escaped;

use crate::command::{self, grouped, time, write};
use crate::server::{Needed, Server, query};
use table::Letter;

/// What the server must have.
const LETTERS: Needed = Needed {
    what: "dead letters",
    by: "`warren` has, and beside RabbitMQ each `query-api` and `store-worker`",
};

/// How many letters one page of the list asks for.
const PAGE: usize = 500;

/// What to do with dead letters.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum DeadCommand {
    /// List them, the one that died last first
    List(ListArgs),
    /// Show one with its original bytes
    Show(ShowArgs),
    /// Send them on their way again; what is redriven twice is stored once
    Redrive(RedriveArgs),
    /// Remove them for good
    Purge(PurgeArgs),
}

/// Which server to ask.
#[derive(Debug, clap::Args)]
struct ServerArgs {
    /// The program that has them: `warren`, or beside RabbitMQ a `query-api` or a `store-worker`, or an `ingest-api` with a spool for what
    /// RabbitMQ refuses of it. Default: the one that runs with the same settings
    #[arg(long, value_name = "URL")]
    to: Option<String>,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

/// Which letters are meant: those that every condition holds for.
#[derive(Debug, Default, clap::Args)]
struct FilterArgs {
    /// Only of this reason, such as `undecodable`, `refused_by_store` or `delivery_limit`; may be repeated
    #[arg(long, value_name = "REASON")]
    reason: Vec<String>,
    /// Only these severities, such as `error,critical` or `error+`
    #[arg(long, value_name = "SEVERITIES", value_parser = checked::<SeveritySet>)]
    severity: Option<String>,
    /// Only this source, or with `.#` all beneath it too, such as `billing.#`
    #[arg(long, value_name = "SOURCE", value_parser = checked::<SourceBranch>)]
    source: Option<String>,
    /// Only those that died at this time or later: RFC 3339, or how long ago, such as `2h`
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<Timestamp>,
    /// Only those that died before this time, written as for --since
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<Timestamp>,
}

/// How to list letters.
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// List so many at most
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    #[command(flatten)]
    server: ServerArgs,
}

/// Which letter to show.
#[derive(Debug, clap::Args)]
pub(crate) struct ShowArgs {
    /// Its id, from the list
    #[arg(value_parser = letter_id)]
    id: String,
    #[command(flatten)]
    server: ServerArgs,
}

/// Which letters to redrive.
#[derive(Debug, clap::Args)]
pub(crate) struct RedriveArgs {
    /// Only these, by id; without any and without a condition, all of them
    #[arg(value_parser = letter_id)]
    ids: Vec<String>,
    #[command(flatten)]
    filter: FilterArgs,
    /// Only count
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Which letters to purge.
#[derive(Debug, clap::Args)]
pub(crate) struct PurgeArgs {
    /// Only these, by id
    #[arg(value_parser = letter_id)]
    ids: Vec<String>,
    #[command(flatten)]
    filter: FilterArgs,
    /// All of them; needed where neither ids nor a condition are given
    #[arg(long)]
    all: bool,
    /// Only count
    #[arg(long)]
    dry_run: bool,
    /// Do not ask; needed where nobody can be asked
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Does it.
pub(crate) async fn run(command: DeadCommand, sources: &Sources) -> Exit {
    let settings = match command::settings(sources) {
        Ok(settings) => settings,
        Err(exit) => return exit,
    };
    let to = match &command {
        DeadCommand::List(arguments) => &arguments.server.to,
        DeadCommand::Show(arguments) => &arguments.server.to,
        DeadCommand::Redrive(arguments) => &arguments.server.to,
        DeadCommand::Purge(arguments) => &arguments.server.to,
    };
    let server = match Server::of(LETTERS, to.as_deref(), &settings.http.listen) {
        Ok(server) => server,
        Err(problem) => return command::usage(problem),
    };
    let done = async {
        let stop = shutdown::on_signals()?;
        match command {
            DeadCommand::List(arguments) => {
                let listing = list(&arguments, &server);
                interruptible(&stop, listing).await
            }
            DeadCommand::Show(arguments) => interruptible(&stop, show(&arguments, &server)).await,
            DeadCommand::Redrive(arguments) => {
                let work = Work {
                    action: JobAction::Redrive,
                    wish: wish(&arguments.ids, &arguments.filter, false),
                    ids: &arguments.ids,
                    filter: &arguments.filter,
                    dry_run: arguments.dry_run,
                    json: arguments.server.json,
                };
                work.run(&server, &stop).await
            }
            DeadCommand::Purge(arguments) => purge(arguments, &server, &stop).await,
        }
    };
    command::end(done.await)
}

/// Ends when it is asked to, wherever it is.
async fn interruptible(stop: &CancellationToken, work: impl Future<Output = Result<Exit>>) -> Result<Exit> {
    stop.run_until_cancelled(work)
        .await
        .unwrap_or_else(|| Err(anyhow::anyhow!("interrupted")))
}

async fn list(arguments: &ListArgs, server: &Server) -> Result<Exit> {
    let (mut after, mut left) = (None, arguments.limit);
    let mut letters = Vec::new();
    while left > 0 {
        let page = left.min(PAGE as u64);
        let mut parameters = arguments.filter.parameters();
        parameters.push(("limit", page.to_string()));
        parameters.extend(after.take().map(|after| ("after", after)));
        let answer = server
            .get(&format!("/v1/dead-letters?{}", query(&parameters)))
            .await?;
        let read = |name: &str| answer.get(name).cloned().unwrap_or_default();
        let page: Vec<Value> = serde_json::from_value(read("letters")).context(server.another_version())?;
        left = left.saturating_sub(page.len() as u64);
        if arguments.server.json {
            for letter in &page {
                write(&format!("{letter}\n"))?;
            }
        } else {
            letters.extend(page);
        }
        match read("next") {
            Value::String(next) => after = Some(next),
            _ => break,
        }
    }
    if !arguments.server.json {
        let letters: Vec<Letter> = letters
            .into_iter()
            .map(serde_json::from_value)
            .collect::<Result<_, _>>()
            .context(server.another_version())?;
        write(&table::table(&letters))?;
        if after.is_some() {
            eprintln!("there are more; show them with --limit, or narrow the list down");
        } else if letters.is_empty() {
            eprintln!("no dead letters");
        }
    }
    Ok(Exit::Clean)
}

async fn show(arguments: &ShowArgs, server: &Server) -> Result<Exit> {
    let answer = server.get(&format!("/v1/dead-letters/{}", arguments.id)).await?;
    if arguments.server.json {
        write(&format!("{answer}\n"))?;
    } else {
        let letter = serde_json::from_value(answer).context(server.another_version())?;
        write(&table::whole(&letter))?;
    }
    Ok(Exit::Clean)
}

async fn purge(arguments: PurgeArgs, server: &Server, stop: &CancellationToken) -> Result<Exit> {
    let named = !arguments.ids.is_empty() || !arguments.filter.parameters().is_empty();
    if !named && !arguments.all {
        return Ok(command::usage(
            "a purge without ids and conditions would remove every dead letter; say which, or --all",
        ));
    }
    let mut wish = wish(&arguments.ids, &arguments.filter, !named);
    if !arguments.dry_run && !arguments.yes {
        if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return Ok(command::usage(
                "nobody can be asked whether to remove dead letters for good; look with --dry-run, and say --yes",
            ));
        }
        let counting = job::count(JobAction::Purge, &wish, server);
        let Some(counts) = stop.run_until_cancelled(counting).await else {
            anyhow::bail!("interrupted; nothing was removed");
        };
        let counts = counts?;
        if counts.letters == 0 {
            if let Some(missing) = missing(&arguments.ids, &arguments.filter, 0) {
                eprintln!("{missing}");
                return Ok(Exit::Failure);
            }
            eprintln!("no dead letters");
            return Ok(Exit::Clean);
        }
        if !confirmed(counts.letters, stop).await? {
            eprintln!("nothing was removed");
            return Ok(Exit::Failure);
        }
        // However long the answer took: what has died since was not confirmed.
        wish.insert("as_of".to_owned(), counts.as_of.into());
    }
    let work = Work {
        action: JobAction::Purge,
        wish,
        ids: &arguments.ids,
        filter: &arguments.filter,
        dry_run: arguments.dry_run,
        json: arguments.server.json,
    };
    work.run(server, stop).await
}

/// Asks whoever sits at the terminal.
async fn confirmed(letters: u64, stop: &CancellationToken) -> Result<bool> {
    eprint!("Remove {} dead letters for good? [y/N] ", grouped(letters));
    // A thread of its own, which nobody waits for: it reads on when the question was interrupted.
    let (answer, answered) = oneshot::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        // Whoever asked may be gone.
        answer.send(io::stdin().read_line(&mut line).map(|_| line)).ok();
    });
    let line = match stop.run_until_cancelled(answered).await {
        Some(line) => line
            .context("nobody reads the answer")?
            .context("cannot read the answer")?,
        None => String::new(),
    };
    if !line.ends_with('\n') {
        eprintln!();
    }
    Ok(matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// Says that letters that were named are not there; so much for a typing error.
fn missing(ids: &[String], filter: &FilterArgs, found: u64) -> Option<String> {
    let named = ids.iter().collect::<BTreeSet<_>>().len() as u64;
    let missing = named.saturating_sub(found);
    let conditions = match filter.parameters().is_empty() {
        true => "",
        false => ", or not what the conditions say",
    };
    match (missing, named) {
        (0, _) => None,
        (_, 1) => Some(format!(
            "the one that was named is not among the dead letters{conditions}"
        )),
        _ => Some(format!(
            "of the {} that were named, {} are not among the dead letters{conditions}",
            grouped(named),
            grouped(missing)
        )),
    }
}

/// What is to be done with which letters.
struct Work<'a> {
    action: JobAction,
    /// The body of the request.
    wish: Map<String, Value>,
    ids: &'a [String],
    filter: &'a FilterArgs,
    dry_run: bool,
    json: bool,
}

impl Work<'_> {
    /// Counts, or begins a job and follows it to its end.
    async fn run(mut self, server: &Server, stop: &CancellationToken) -> Result<Exit> {
        let (text, found, exit) = if self.dry_run {
            self.wish.insert("all".to_owned(), json!(true));
            let counting = job::count(self.action, &self.wish, server);
            let Some(counts) = stop.run_until_cancelled(counting).await else {
                anyhow::bail!("interrupted");
            };
            let counts = counts?;
            let text = match self.json {
                true => format!("{}\n", counts.answer),
                false => counts.text(),
            };
            (text, counts.letters, Exit::Clean)
        } else {
            let report = job::follow(self.action, &self.wish, server, stop).await?;
            let text = match self.json {
                true => format!("{}\n", serde_json::to_string(&report)?),
                false => job::summary(&report),
            };
            (text, report.total, job::exit(&report))
        };
        write(&text)?;
        match missing(self.ids, self.filter, found) {
            Some(missing) => {
                eprintln!("{missing}");
                Ok(Exit::Failure)
            }
            None => Ok(exit),
        }
    }
}

/// Makes the body of a request that means these letters.
fn wish(ids: &[String], filter: &FilterArgs, all: bool) -> Map<String, Value> {
    let mut wish = Map::new();
    let mut conditions = Map::new();
    for (name, value) in filter.parameters() {
        conditions.insert(name.to_owned(), value.into());
    }
    if !conditions.is_empty() {
        wish.insert("filter".to_owned(), conditions.into());
    }
    if !ids.is_empty() {
        wish.insert("ids".to_owned(), ids.into());
    }
    if all {
        wish.insert("all".to_owned(), true.into());
    }
    wish
}

impl FilterArgs {
    /// Returns the conditions as the server calls them.
    fn parameters(&self) -> Vec<(&'static str, String)> {
        let mut parameters = Vec::new();
        if !self.reason.is_empty() {
            parameters.push(("reason", self.reason.join(",")));
        }
        let texts = [("severity", &self.severity), ("source", &self.source)];
        parameters.extend(
            texts
                .into_iter()
                .filter_map(|(name, text)| Some((name, text.clone()?))),
        );
        let times = [("since", self.since), ("until", self.until)];
        parameters.extend(
            times
                .into_iter()
                .filter_map(|(name, time)| Some((name, time?.to_string()))),
        );
        parameters
    }
}

/// Checks what the server will read in the same way, and hands it on as it is.
fn checked<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<String, String> {
    text.parse::<T>()
        .map(|_| text.to_owned())
        .map_err(|error| Escaped(&error.to_string()).to_string())
}

/// Reads the id of a letter; nothing else can become part of a path.
fn letter_id(text: &str) -> Result<String, String> {
    text.parse::<DeadLetterId>()
        .map(|id| id.to_string())
        .map_err(|_| {
            "an id looks like 019aa2f4-0c1e-7d3a-9b52-6c1f0e8d7a45; `warren dead list` shows those there are"
                .to_owned()
        })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Dead {
        #[command(subcommand)]
        _command: DeadCommand,
    }

    #[test]
    fn what_is_no_id_is_told_what_an_id_looks_like_and_where_to_find_one() {
        for command in ["show", "redrive", "purge"] {
            let told = Dead::try_parse_from(["dead", command, "7"])
                .unwrap_err()
                .to_string();
            assert!(
                told.contains("'7'") && told.contains("019aa2f4-") && told.contains("warren dead list"),
                "{told}"
            );
        }
        let id = "019aa2f4-0c1e-7d3a-9b52-6c1f0e8d7a45";
        assert_eq!(letter_id(&id.to_uppercase()), Ok(id.to_owned()));
    }

    #[test]
    fn the_help_names_every_program_that_has_dead_letters() {
        let help = Dead::try_parse_from(["dead", "list", "--help"])
            .unwrap_err()
            .to_string();
        for program in ["warren", "query-api", "store-worker", "ingest-api"] {
            assert!(help.contains(program), "{help}");
        }
    }

    #[test]
    fn letters_that_are_named_and_not_there_are_told() {
        let ids = ["1", "2", "1"].map(str::to_owned);
        let plain = FilterArgs::default();
        assert_eq!(missing(&ids, &plain, 2), None);
        assert_eq!(missing(&[], &plain, 0), None);
        let told = missing(&ids, &plain, 1).unwrap();
        assert!(told.starts_with("of the 2 that were named, 1 are not"), "{told}");
        let filter = FilterArgs {
            source: Some("a".to_owned()),
            ..plain
        };
        assert!(missing(&ids, &filter, 0).unwrap().contains("conditions"));
        let told = missing(&ids[..1], &filter, 0).unwrap();
        assert!(told.starts_with("the one that was named is not"), "{told}");
    }

    #[test]
    fn conditions_are_sent_as_the_server_calls_them() {
        let filter = FilterArgs {
            reason: vec!["a".to_owned(), "b".to_owned()],
            source: Some("billing.#".to_owned()),
            ..FilterArgs::default()
        };
        let wish = Value::from(wish(&["1".to_owned()], &filter, false));
        assert_eq!(
            wish,
            json!({"filter": {"reason": "a,b", "source": "billing.#"}, "ids": ["1"]})
        );
        assert!(checked::<SourceBranch>("a.*").is_err());
        assert!(checked::<SeveritySet>("error+").is_ok());
    }
}
