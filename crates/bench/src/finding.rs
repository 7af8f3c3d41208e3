//! Finding one message among many in one `warren`, as a person does: over HTTP.
//!
//! The program is filled as it is in life, by requests, and what is asked is asked of what it answers with then: its store
//! is as large as its queue has made it, and nothing is tidied up for the questions. What is found is checked.

mod questions;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tokio::sync::{Mutex, mpsc};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::sleep;
use warren_domain::Timestamp;
use warren_e2e::http::Client;
use warren_e2e::process::Service;
use warren_e2e::request::Request;

use self::questions::ask;
use crate::asked::{Answered, write_answers};
use crate::cost::settle;
use crate::reading::author::{Author, RARE_EVERY, SOURCES};
use crate::report::{thousands, write_goals};
use crate::whole_path::{data_folder, wait_stored, with};

/// Messages in each request.
const BATCH: usize = 5_000;
/// How many requests are sent at once.
const AT_ONCE: usize = 4;
/// How often a request is sent again that was not taken, and the pause where the answer names none.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(100);

const DAY_MICROS: i64 = 86_400_000_000;

/// What is measured.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    /// How many messages there are.
    pub(crate) messages: u64,
    /// Over how many days they are spread.
    pub(crate) days: u32,
    /// How often each question is asked.
    pub(crate) asked: usize,
    /// Settings of the program that differ from its defaults.
    pub(crate) settings: Vec<(String, String)>,
}

/// A message that is asked for.
#[derive(Clone, Debug)]
struct Known {
    id: String,
    request: String,
}

/// What the program was filled with.
#[derive(Debug)]
struct Filled {
    from: i64,
    until: i64,
    /// Some of the messages, evenly over all of them.
    known: Vec<Known>,
    /// How many have the rare word.
    rare: usize,
}

/// What was measured.
#[derive(Debug)]
pub(crate) struct Report {
    description: String,
    /// Messages a second, until all of them were stored.
    filled: f64,
    /// Of the files of the store, a message.
    bytes: f64,
    questions: Vec<Answered>,
}

impl Finding {
    /// Fills a program, and asks.
    ///
    /// # Errors
    /// The program failed, or an answer misses something.
    pub(crate) async fn run(self) -> Result<Report> {
        let folder = data_folder()?;
        let mut warren = with(folder.warren()?, &self.settings);
        warren.start_ready().await?;
        eprintln!("  sending {} messages", thousands(self.messages as f64));
        let begun = Instant::now();
        let filled = self.fill(&warren).await?;
        wait_stored(&warren, self.messages).await?;
        let filled_in = begun.elapsed();
        settle().await?;
        eprintln!("  asking");
        let questions = ask(&warren, &filled, self.asked).await?;
        warren.stop(Duration::from_secs(60)).await?;
        let bytes = std::fs::metadata(folder.file("store.db"))?.len();
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let build = if cfg!(debug_assertions) {
            "DEBUG BUILD"
        } else {
            "release build"
        };
        Ok(Report {
            description: format!(
                "{cores} cores · {build} · {} messages over {} days, {SOURCES} sources, in one warren",
                thousands(self.messages as f64),
                self.days
            ),
            filled: self.messages as f64 / filled_in.as_secs_f64(),
            bytes: bytes as f64 / self.messages as f64,
            questions,
        })
    }

    /// Sends messages, evenly over the last days.
    async fn fill(&self, warren: &Service) -> Result<Filled> {
        let until = Timestamp::now().unix_micros();
        let from = until - i64::from(self.days) * DAY_MICROS;
        let (requests, waiting) = mpsc::channel(AT_ONCE);
        let (messages, asked) = (self.messages, self.asked as u64);
        let writing = spawn_blocking(move || write(messages, asked, from, until, &requests));
        let waiting = Arc::new(Mutex::new(waiting));
        let mut senders = JoinSet::new();
        for _ in 0..AT_ONCE {
            let (waiting, mut client) = (Arc::clone(&waiting), Client::new(warren.address()));
            senders.spawn(async move {
                loop {
                    let next = waiting.lock().await.recv().await;
                    match next {
                        Some(request) => send(&mut client, &request).await?,
                        None => return anyhow::Ok(()),
                    }
                }
            });
        }
        while let Some(sent) = senders.join_next().await {
            sent??;
        }
        writing.await?
    }
}

fn write(
    messages: u64,
    asked: u64,
    from: i64,
    until: i64,
    requests: &mpsc::Sender<Request>,
) -> Result<Filled> {
    let mut author = Author::new(messages)?;
    let (mut known, mut lines, mut rare) = (Vec::new(), Vec::new(), 0);
    let every = (messages / (asked + 2)).max(1);
    for number in 0..messages {
        let at = from + ((until - from) as f64 * (number as f64 / messages as f64)) as i64;
        let at = Timestamp::from_unix_micros(at).context("no time that a message can have")?;
        let written = author.write(number, at)?;
        let message = written.message;
        let mut attributes = message.attributes.as_map().clone();
        attributes.insert("request".to_owned(), json!(written.request));
        let line = json!({
            "id": message.id.to_string(), "severity": message.severity.as_str(), "source": message.source.as_str(),
            "body": message.body.as_str(), "attributes": attributes, "occurred_at": at.to_string(),
        });
        serde_json::to_writer(&mut lines, &line)?;
        lines.push(b'\n');
        if number % every == every / 2 {
            known.push(Known {
                id: message.id.to_string(),
                request: written.request,
            });
        }
        rare += usize::from(number % RARE_EVERY == RARE_EVERY / 2);
        if (number + 1).is_multiple_of(BATCH as u64) || number + 1 == messages {
            let request =
                Request::post(std::mem::take(&mut lines)).header("content-type", "application/x-ndjson");
            requests
                .blocking_send(request)
                .ok()
                .context("sending has ended")?;
        }
    }
    Ok(Filled {
        from,
        until,
        known,
        rare,
    })
}

/// Sends a request until all of it is taken; its messages have ids, so that none is stored twice.
async fn send(client: &mut Client, request: &Request) -> Result<()> {
    for _ in 0..TRIES {
        let answer = client.send(request).await?;
        match answer.status {
            202 => return Ok(()),
            503 => sleep(answer.retry_after().unwrap_or(PAUSE)).await,
            status => anyhow::bail!("{status}: {}", answer.text_start()),
        }
    }
    anyhow::bail!("the messages were refused {TRIES} times")
}

impl Filled {
    /// Returns the parameters of a part of the time that is as long as wanted, or of all of it if that is shorter.
    fn part(&self, micros: i64, rng: &mut fastrand::Rng) -> Result<String> {
        let width = micros.min(self.until - self.from);
        let from = self.from + rng.i64(0..=self.until - self.from - width);
        let time = |micros| Timestamp::from_unix_micros(micros).context("no time that a message can have");
        Ok(format!("from={}&until={}", time(from)?, time(from + width)?))
    }

    fn known(&self, number: usize) -> Result<&Known> {
        ensure!(!self.known.is_empty(), "there are no messages");
        Ok(&self.known[number % self.known.len()])
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.description)?;
        writeln!(
            f,
            "filled over HTTP at {} messages a second, stored; {:.0} bytes a message in store.db",
            thousands(self.filled),
            self.bytes
        )?;
        write_answers(f, &self.questions, "requests")?;
        write_goals(f, self.questions.iter().filter_map(Answered::goal).collect())
    }
}
