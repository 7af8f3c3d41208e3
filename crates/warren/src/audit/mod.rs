//! `warren audit`: whether everything accepted is stored, a duplicate, a dead letter, or in flight.

mod books;
mod cut;
mod shown;

use std::time::Duration;

use anyhow::{Result, anyhow};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use warren_pipeline::flow::Page;
use warren_process::exit::Exit;
use warren_process::peer::Peer;
use warren_process::settings::Sources;
use warren_process::shutdown;

use crate::command::{self, patience};
use books::{Account, Books, Finding};
use cut::{Cut, Programs};
use shown::Closed;

/// How long books that do not hold are read again: programs are asked one after the other, and what waits in the queue
/// is read once a second.
const SETTLE: Duration = Duration::from_secs(5);

/// How often they are read then.
const EVERY: Duration = Duration::from_millis(500);

/// Which programs to ask, and for how long to watch them.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 the books hold, 1 they do not, 3 they cannot be judged.")]
pub(crate) struct AuditArgs {
    /// An ingest-api to ask, such as http://127.0.0.1:8080; name every program that publishes, so each query-api that
    /// redrives, too
    #[arg(long, value_name = "URL", value_parser = Peer::parse, requires = "worker", conflicts_with = "to")]
    ingest: Vec<Peer>,
    /// A store-worker to ask; name every one that stores
    #[arg(long, value_name = "URL", value_parser = Peer::parse, requires = "ingest", conflicts_with = "to")]
    worker: Vec<Peer>,
    /// The `warren` to ask, which does both [default: the one that runs with the same settings]
    #[arg(long, value_name = "URL", value_parser = Peer::parse)]
    to: Option<Peer>,
    /// How long to watch
    #[arg(long = "for", value_name = "DURATION", value_parser = patience, default_value = "30s", conflicts_with = "since_start")]
    window: Duration,
    /// Judge all that was counted since the programs were started, instead of watching
    #[arg(long)]
    since_start: bool,
    /// Wait so long, at most, until nothing is in flight and the books are exact
    #[arg(long, value_name = "DURATION", value_parser = patience)]
    until_empty: Option<Duration>,
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
}

/// Watches, closes the books, and says whether they hold.
pub(crate) async fn run(arguments: AuditArgs, sources: &Sources) -> Exit {
    let programs = match programs(&arguments, sources) {
        Ok(programs) => programs,
        Err(exit) => return exit,
    };
    let stop = match shutdown::on_signals() {
        Ok(stop) => stop,
        Err(error) => return command::end(Err(error.into())),
    };
    match close(&arguments, &programs, &stop).await {
        Ok(closed) => {
            let text = if arguments.json {
                format!("{}\n", closed.json())
            } else {
                closed.text()
            };
            let exit = match (closed.holds(), closed.waited_in_vain) {
                (false, _) => Exit::Failure,
                (true, true) => Exit::Undecided,
                (true, false) => Exit::Clean,
            };
            command::end(command::print(&text).map(|()| exit))
        }
        Err(error) => {
            eprintln!("cannot be judged: {error:#}");
            Exit::Undecided
        }
    }
}

fn programs(arguments: &AuditArgs, sources: &Sources) -> Result<Programs, Exit> {
    if !arguments.ingest.is_empty() {
        return Ok(Programs {
            ingests: arguments.ingest.clone(),
            workers: arguments.worker.clone(),
        });
    }
    let program = match &arguments.to {
        Some(program) => program.clone(),
        None => Peer::listening(&command::settings(sources)?.http.listen),
    };
    Ok(Programs {
        ingests: vec![program.clone()],
        workers: vec![program],
    })
}

/// Watches for the window, and closes the books at its end; a signal ends it early.
async fn close(arguments: &AuditArgs, programs: &Programs, stop: &CancellationToken) -> Result<Closed> {
    let began = Instant::now();
    let start = if arguments.since_start {
        None
    } else {
        let start = Cut::take(programs).await?;
        eprintln!(
            "the window has begun; watching for {}, or until Ctrl-C",
            humantime::format_duration(arguments.window)
        );
        stop.run_until_cancelled(sleep_until(began + arguments.window))
            .await;
        Some(start)
    };
    let deadline = Instant::now() + arguments.until_empty.unwrap_or(SETTLE).max(SETTLE);
    loop {
        let read = look(programs, start.as_ref()).await;
        let over = Instant::now() >= deadline;
        match read {
            Err(Trouble::Final(error)) => return Err(error),
            Err(Trouble::Passing(error)) if over => return Err(error),
            Err(Trouble::Passing(_)) => {}
            Ok(books) => {
                let enough = match books.verdict().0 {
                    Finding::Exact => true,
                    Finding::Within(_) => arguments.until_empty.is_none() || books.in_flight.all == 0,
                    Finding::Lost(_) | Finding::Surplus(_) => false,
                };
                if enough || over {
                    let window = start.is_some().then(|| began.elapsed());
                    let waited_in_vain = !enough && arguments.until_empty.is_some();
                    return Ok(Closed {
                        books,
                        window,
                        waited_in_vain,
                    });
                }
            }
        }
        sleep(EVERY).await;
    }
}

/// Why the books cannot be read.
enum Trouble {
    /// They may be in a moment.
    Passing(anyhow::Error),
    /// They never will.
    Final(anyhow::Error),
}

async fn look(programs: &Programs, start: Option<&Cut>) -> Result<Books, Trouble> {
    let end = Cut::take(programs).await.map_err(Trouble::Passing)?;
    let opening = match start {
        Some(start) => {
            restarted(programs, start, &end).map_err(Trouble::Final)?;
            Account::read(start).map_err(Trouble::Final)?
        }
        None => Account::default(),
    };
    let books = Books::of(&opening, &Account::read(&end).map_err(Trouble::Passing)?);
    if start.is_none() && matches!(books.verdict().0, Finding::Lost(_)) {
        began_late(&end).map_err(Trouble::Final)?;
    }
    Ok(books)
}

/// Fails if a program was restarted: its counts begin at nothing again.
fn restarted(programs: &Programs, start: &Cut, end: &Cut) -> Result<()> {
    let ingests = programs.ingests.iter().zip(start.before.iter().zip(&end.after));
    let workers = programs
        .workers
        .iter()
        .zip(start.workers.iter().zip(&end.workers));
    for (program, (before, after)) in ingests.chain(workers) {
        if before.started() != after.started() {
            return Err(anyhow!(
                "the program at {} was restarted while it was watched, and its counts began at nothing again; watch a \
                 window without a restart",
                program.place()
            ));
        }
    }
    Ok(())
}

/// Fails if something may have been stored by a process that is gone.
fn began_late(end: &Cut) -> Result<()> {
    let first = |pages: &[Page]| pages.iter().filter_map(Page::started).reduce(f64::min);
    match (first(&end.after), first(&end.workers)) {
        (Some(ingest), Some(worker)) if worker > ingest => Err(anyhow!(
            "no worker has run since before the first ingest-api was started; what one stored before is not in its \
             counts. Watch a window instead, with --for"
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(ingest: u32, worker: u32) -> Cut {
        let page = |started: u32| vec![Page::parse(&format!("process_start_time_seconds {started}\n"))];
        Cut {
            before: page(ingest),
            workers: page(worker),
            after: page(ingest),
        }
    }

    #[test]
    fn a_program_that_was_restarted_is_named() {
        let named = |place: &str| vec![Peer::parse(place).unwrap()];
        let programs = Programs {
            ingests: named("ingest:1"),
            workers: named("worker:1"),
        };
        restarted(&programs, &cut(1, 2), &cut(1, 2)).unwrap();
        let told = restarted(&programs, &cut(1, 2), &cut(1, 3))
            .unwrap_err()
            .to_string();
        assert!(told.contains("worker:1"), "{told}");
        let told = restarted(&programs, &cut(1, 2), &cut(2, 2))
            .unwrap_err()
            .to_string();
        assert!(told.contains("ingest:1"), "{told}");
    }

    #[test]
    fn since_the_start_a_worker_that_began_later_cannot_prove_a_loss() {
        began_late(&cut(2, 1)).unwrap();
        began_late(&cut(2, 2)).unwrap();
        assert!(began_late(&cut(1, 2)).unwrap_err().to_string().contains("--for"));
    }
}
