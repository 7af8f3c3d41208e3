//! What is published from now on, behind what was found.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use warren_domain::MessageId;
use warren_pipeline::Backoff;
use warren_process::exit::Exit;
use warren_process::telemetry::escape::Escaped;

use super::found::Shown;
use super::search::Search;
use crate::command::{grouped, write};
use crate::server::{Server, query};

/// The longest line that is read: the largest message, escaped.
const LONGEST_LINE: usize = 16 << 20;

/// The pauses between attempts to connect again.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// A live tail of a server, which is connected again when it breaks off.
pub(super) struct Tail<'s> {
    server: &'s Server,
    conditions: Vec<(&'static str, String)>,
    response: Option<reqwest::Response>,
    /// What has come and is no whole line yet.
    ahead: Vec<u8>,
    /// How many bytes of it are known to have no end of a line.
    looked_at: usize,
    /// Behind what was told last.
    cursor: Option<String>,
    backoff: Backoff,
    /// Why it could not be connected again, as was told last.
    reason: String,
}

/// A line of a tail.
#[derive(Debug, Deserialize)]
struct Line {
    cursor: Option<String>,
    message: Option<Value>,
    gap: Option<Gap>,
    end: Option<Value>,
}

/// Messages that are missing.
#[derive(Debug, Deserialize)]
struct Gap {
    missed: Option<u64>,
    from: String,
    until: String,
    reason: String,
}

/// What a tail tells.
enum Told {
    Message(Value),
    Gap(Gap),
    /// It broke off, and why.
    Away(String),
    /// It goes on behind where it broke off.
    Back,
}

impl<'s> Tail<'s> {
    /// Connects; returns once it listens.
    pub(super) async fn open(server: &'s Server, search: &Search) -> Result<Self> {
        let mut tail = Self {
            server,
            conditions: search.conditions.clone(),
            response: None,
            ahead: Vec::new(),
            looked_at: 0,
            cursor: None,
            backoff: Backoff::new(RETRY_MIN, RETRY_MAX),
            reason: String::new(),
        };
        tail.connect().await?;
        Ok(tail)
    }

    async fn connect(&mut self) -> Result<()> {
        let mut parameters = self.conditions.clone();
        parameters.extend(self.cursor.clone().map(|cursor| ("last_event_id", cursor)));
        let path = format!("/v1/tail?{}", query(&parameters));
        self.ahead.clear();
        self.looked_at = 0;
        self.response = Some(self.server.stream(&path).await?);
        // The first line comes when it listens.
        match self.line().await {
            Ok(first) => {
                self.cursor = first.cursor.or(self.cursor.take());
                Ok(())
            }
            Err(error) => {
                self.response = None;
                Err(error)
            }
        }
    }

    async fn line(&mut self) -> Result<Line> {
        loop {
            let unseen = &self.ahead[self.looked_at..];
            if let Some(end) = unseen.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.ahead.drain(..=self.looked_at + end).collect();
                self.looked_at = 0;
                return serde_json::from_slice(&line).with_context(|| self.server.another_version());
            }
            self.looked_at = self.ahead.len();
            ensure!(self.ahead.len() < LONGEST_LINE, self.server.another_version());
            let response = self.response.as_mut().context("it is not connected")?;
            let chunk = response.chunk().await.map_err(|error| self.server.away(error))?;
            self.ahead
                .extend_from_slice(&chunk.context("the server has ended it")?);
        }
    }

    /// Waits for what is told next. Cancel safe but for a connection that is being made, which is then made anew.
    async fn next(&mut self) -> Told {
        if self.response.is_none() {
            loop {
                sleep(self.backoff.next_wait()).await;
                match self.connect().await {
                    Ok(()) => return Told::Back,
                    Err(error) => {
                        let reason = format!("{error:#}");
                        if reason != self.reason {
                            return self.away(reason);
                        }
                    }
                }
            }
        }
        loop {
            let line = match self.line().await {
                Ok(line) if line.end.is_none() => line,
                Ok(_) => return self.away("the server is stopping"),
                Err(error) => return self.away(format!("{error:#}")),
            };
            self.backoff.reset();
            self.cursor = line.cursor.or(self.cursor.take());
            match (line.message, line.gap) {
                (Some(message), _) => return Told::Message(message),
                (None, Some(gap)) => return Told::Gap(gap),
                (None, None) => {}
            }
        }
    }

    fn away(&mut self, reason: impl Into<String>) -> Told {
        self.response = None;
        self.reason = reason.into();
        Told::Away(self.reason.clone())
    }
}

/// Shows what is published until a signal, but for what was found before.
pub(super) async fn follow(
    mut tail: Tail<'_>,
    mut found: HashSet<MessageId>,
    shown: Shown,
    stop: &CancellationToken,
) -> Result<Exit> {
    while let Some(told) = stop.run_until_cancelled(tail.next()).await {
        match told {
            Told::Message(message) => match shown.line(message) {
                Ok((id, _)) if found.remove(&id) => {}
                Ok((_, line)) => write(&line)?,
                Err(error) => eprintln!("left out: {}", Escaped(&format!("{error:#}"))),
            },
            Told::Gap(gap) => eprintln!("{}", note(&gap)),
            Told::Away(reason) => eprintln!("not connected: {}; trying again", Escaped(&reason)),
            Told::Back => eprintln!("connected again"),
        }
    }
    Ok(Exit::Clean)
}

/// Says what is missing, and where to find it.
fn note(gap: &Gap) -> String {
    let missed = match gap.missed {
        Some(1) => "1 message is missing here".to_owned(),
        Some(many) => format!("{} messages are missing here", grouped(many)),
        None => "messages may be missing here".to_owned(),
    };
    let [reason, from, until] = [&gap.reason, &gap.from, &gap.until].map(|text| Escaped(text).to_string());
    format!("{missed} ({reason}); look for them with --since {from} --until {until}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_says_how_many_are_missing_why_and_where_to_look() {
        let gap = |missed| Gap {
            missed,
            from: "2026-11-22T13:00:00Z".to_owned(),
            until: "2026-11-22T13:00:01Z".to_owned(),
            reason: "slow_reader".to_owned(),
        };
        assert_eq!(
            note(&gap(Some(1_200))),
            "1,200 messages are missing here (slow_reader); look for them with --since 2026-11-22T13:00:00Z --until \
             2026-11-22T13:00:01Z"
        );
        assert!(note(&gap(None)).starts_with("messages may be missing"));
    }
}
