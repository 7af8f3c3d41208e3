//! Pages of an answer, one after the other, until enough is found.

use std::collections::HashSet;
use std::io::{self, IsTerminal as _};

use anyhow::{Context as _, Result};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use warren_domain::{MessageId, SourcePattern};
use warren_process::exit::Exit;

use super::QueryArgs;
use super::found::Shown;
use crate::command::{grouped, write};
use crate::server::{Server, query};

/// How many messages one page asks for.
const PAGE: u64 = 500;

/// How many bytes of lines are held, where the newest one comes last.
const MOST_BYTES: usize = 256 << 20;

/// How many bytes of lines are written at once.
const WRITTEN_AT_ONCE: usize = 64 << 10;

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

/// Finds messages and shows them, as many as were asked for; a signal ends it with what is found by then.
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
        let page = search.page(left, after.as_deref());
        let Some(answer) = stop.run_until_cancelled(server.get(&page)).await else {
            ended = End::Interrupted;
            break;
        };
        let page = Page::read(answer?).with_context(|| server.another_version())?;
        left = left.saturating_sub(page.messages.len() as u64);
        for message in page.messages {
            let (id, line) = shown.line(message)?;
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
            next => after = next,
        }
        gathered.say_how_far();
    }
    gathered.show(ended)
}

/// Why no further page is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// There is none.
    Complete,
    /// As many are found as were asked for.
    Full,
    /// More cannot be held.
    TooLarge,
    Interrupted,
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
                    "there may be older ones than fit into memory; use --newest-first, or narrow it down"
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
