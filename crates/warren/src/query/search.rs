//! Pages of an answer, one after the other, until enough is found.

use std::collections::HashSet;
use std::io::{self, IsTerminal as _};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use serde_json::Value;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use warren_domain::{MessageId, SourcePattern};
use warren_pipeline::Backoff;
use warren_process::exit::Exit;

use super::QueryArgs;
use super::found::Shown;
use crate::command::{grouped, write};
use crate::server::{Server, Unavailable, query};

/// How many messages one page asks for.
const PAGE: u64 = 500;

/// How many bytes of lines are held, where the newest one comes last.
const MOST_BYTES: usize = 256 << 20;

/// How many bytes of lines are written at once.
const WRITTEN_AT_ONCE: usize = 64 << 10;

/// How often a page is asked for, where the server is busy or has gone while the pages before it were read.
const TRIES: u32 = 5;

/// The pauses between them, beside what the server asks for…
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// …of which so much is heeded.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// What is looked for.
#[derive(Debug)]
pub(super) struct Search {
    /// As the server calls it, but for the range of time and the place.
    pub(super) conditions: Vec<(&'static str, String)>,
    range: Vec<(&'static str, String)>,
    limit: u64,
    newest_first: bool,
}

impl Search {
    pub(super) fn of(arguments: &QueryArgs) -> Self {
        let mut conditions = Vec::new();
        conditions.extend(arguments.text.clone().map(|text| ("q", text)));
        conditions.extend(
            arguments
                .severity
                .map(|severities| ("severity", severities.to_string())),
        );
        if !arguments.source.is_empty() {
            let sources: Vec<_> = arguments.source.iter().map(SourcePattern::as_str).collect();
            conditions.push(("source", sources.join(",")));
        }
        let times = [("from", arguments.since), ("until", arguments.until)];
        let range = times
            .into_iter()
            .filter_map(|(name, time)| Some((name, time?.to_string())));
        Self {
            conditions,
            range: range.collect(),
            limit: arguments.limit,
            newest_first: arguments.newest_first,
        }
    }

    fn page(&self, left: u64, after: Option<&str>) -> String {
        let mut parameters = self.conditions.clone();
        parameters.extend(self.range.iter().cloned());
        parameters.push(("limit", left.min(PAGE).to_string()));
        parameters.extend(after.map(|after| ("after", after.to_owned())));
        format!("/v1/messages?{}", query(&parameters))
    }
}

/// What was found and shown.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) ids: HashSet<MessageId>,
    pub(super) exit: Exit,
}

/// Finds messages and shows them, as many as were asked for; a signal or an error ends it with what is found by then.
pub(super) async fn find(
    search: &Search,
    server: &Server,
    shown: Shown,
    stop: &CancellationToken,
) -> Result<Found> {
    let mut gathered = Gathered::default();
    let mut ended = End::Complete;
    let (mut after, mut left) = (None::<String>, search.limit);
    loop {
        let asking = ask(server, search.page(left, after.as_deref()), after.is_some());
        let Some(answer) = stop.run_until_cancelled(asking).await else {
            ended = End::Interrupted;
            break;
        };
        let (page, lines) = match answer.and_then(|mut page| Ok((page.lines(shown)?, page))) {
            Ok((lines, page)) => (page, lines),
            Err(error) => {
                ended = End::Failed(error);
                break;
            }
        };
        left = left.saturating_sub(lines.len() as u64);
        for (id, line) in lines {
            gathered.ids.insert(id);
            if search.newest_first {
                write(&line)?;
            } else {
                gathered.bytes += line.len();
                gathered.lines.push(line);
            }
        }
        gathered.reached = page.reached.or(gathered.reached);
        match page.next {
            None => break,
            Some(_) if left == 0 => {
                ended = End::Full;
                break;
            }
            Some(_) if gathered.bytes > MOST_BYTES => {
                ended = End::TooLarge;
                break;
            }
            next if next == after => {
                ended = End::Failed(anyhow!("{server} leads to the same page again and again"));
                break;
            }
            next => after = next,
        }
        gathered.say_how_far();
    }
    gathered.show(ended)
}

/// Asks for a page. A server that is busy is asked again a few times, and, once it has answered, one that is not there.
async fn ask(server: &Server, path: String, was_there: bool) -> Result<Page> {
    let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
    let mut tries = 1;
    let answer = loop {
        let error = match server.get(&path).await {
            Ok(answer) => break answer,
            Err(error) => error,
        };
        let wait = match error.downcast_ref::<Unavailable>() {
            Some(Unavailable {
                after: Some(after), ..
            }) => (*after).min(LONGEST_WAIT),
            Some(Unavailable { after: None, .. }) if was_there => Duration::ZERO,
            _ => return Err(error),
        };
        if tries == TRIES {
            return Err(error);
        }
        tries += 1;
        sleep(wait + backoff.next_wait()).await;
    };
    Page::read(answer).with_context(|| server.another_version())
}

/// Why no further page is asked for.
#[derive(Debug)]
enum End {
    /// There is none.
    Complete,
    /// As many are found as were asked for.
    Full,
    /// More cannot be held.
    TooLarge,
    Interrupted,
    /// One cannot be had.
    Failed(anyhow::Error),
}

#[derive(Debug, Default)]
struct Gathered {
    ids: HashSet<MessageId>,
    /// The newest first.
    lines: Vec<String>,
    bytes: usize,
    /// To which time everything was looked at.
    reached: Option<String>,
    /// Whether something of the progress stands on the terminal.
    says: bool,
}

impl Gathered {
    /// Tells a person who waits how far the search has come.
    fn say_how_far(&mut self) {
        if let Some(reached) = self.reached.as_deref().filter(|_| io::stderr().is_terminal()) {
            eprint!(
                "\r\u{1b}[K{} found, looked back to {reached}",
                grouped(self.ids.len() as u64)
            );
            self.says = true;
        }
    }

    /// Shows what is held, and says what else there is to know.
    ///
    /// # Errors
    /// Why a page could not be had, or nothing can be written.
    fn show(self, ended: End) -> Result<Found> {
        if self.says {
            eprint!("\r\u{1b}[K");
        }
        let mut text = String::new();
        for line in self.lines.iter().rev() {
            text.push_str(line);
            if text.len() > WRITTEN_AT_ONCE {
                write(&text)?;
                text.clear();
            }
        }
        write(&text)?;
        let exit = match ended {
            End::Complete => {
                if self.ids.is_empty() {
                    eprintln!("no messages");
                }
                Exit::Clean
            }
            End::Full => {
                eprintln!("there may be older ones; show more with --limit, or narrow it down");
                Exit::Clean
            }
            End::TooLarge => {
                eprintln!(
                    "there may be older ones than fit into memory; ask for fewer with --limit, narrow it down, or use \
                     --newest-first, without --follow"
                );
                Exit::Failure
            }
            End::Interrupted => {
                match self.reached {
                    None => eprintln!("interrupted before anything was found"),
                    Some(reached) => eprintln!("interrupted; looked back to {reached}"),
                }
                Exit::Failure
            }
            End::Failed(error) => {
                if let Some(reached) = self.reached {
                    eprintln!("looked back to {reached}; what is older is not shown");
                }
                return Err(error);
            }
        };
        Ok(Found { ids: self.ids, exit })
    }
}

/// A page of the answer.
#[derive(Debug)]
struct Page {
    messages: Vec<Value>,
    next: Option<String>,
    reached: Option<String>,
}

impl Page {
    fn read(mut answer: Value) -> Option<Self> {
        let Value::Array(messages) = answer.get_mut("messages")?.take() else {
            return None;
        };
        let text = |name: &str| answer.get(name).and_then(Value::as_str).map(str::to_owned);
        Some(Self {
            messages,
            next: text("next"),
            reached: text("reached"),
        })
    }

    /// Takes the messages out of it, as they are shown.
    fn lines(&mut self, shown: Shown) -> Result<Vec<(MessageId, String)>> {
        let messages = std::mem::take(&mut self.messages).into_iter();
        messages.map(|message| shown.line(message)).collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use serde_json::json;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Query {
        #[command(flatten)]
        arguments: QueryArgs,
    }

    fn search(arguments: &[&str]) -> Search {
        Search::of(
            &Query::try_parse_from([&["query"], arguments].concat())
                .unwrap()
                .arguments,
        )
    }

    #[test]
    fn a_page_is_asked_for_as_the_server_calls_it() {
        let search = search(&[
            "card -refund order=42",
            "--severity",
            "error+",
            "--source",
            "billing.#",
            "--source",
            "shop",
            "--since",
            "2026-11-22T13:00:00Z",
            "--limit",
            "700",
        ]);
        assert_eq!(
            search.page(700, None),
            "/v1/messages?q=card%20-refund%20order%3D42&severity=error,critical&source=billing.%23,shop\
             &from=2026-11-22T13%3A00%3A00.000000Z&limit=500"
        );
        assert!(
            search
                .page(200, Some("019aa0c0"))
                .ends_with("&limit=200&after=019aa0c0")
        );
    }

    #[test]
    fn a_page_of_another_kind_is_none() {
        let page =
            Page::read(json!({"messages": [1], "next": null, "complete": true, "reached": null})).unwrap();
        assert_eq!((page.messages.len(), page.next), (1, None));
        assert!(Page::read(json!({"letters": []})).is_none());
    }

    #[test]
    fn a_text_with_a_dash_first_is_told_apart_from_an_option() {
        assert!(Query::try_parse_from(["query", "-refund"]).is_err());
        assert_eq!(
            search(&["--", "-refund"]).conditions,
            [("q", "-refund".to_owned())]
        );
    }
}
