//! The work of a job: through the letters page by page, each met once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use metrics::counter;
use tokio::time::sleep;
use tracing::{info, warn};
use warren_domain::Message;
use warren_domain::ports::{
    DeadLetterFilter, DeadLetterId, DeadLetters, DeadLettersError, KeptLetter, MessagePublisher,
    PublishError, Revision,
};

use super::job::{Job, JobAction, JobState};
use super::metrics::{PURGED, REDRIVEN, UNREADABLE};
use crate::Backoff;

/// How many letters a page holds.
const PAGE: usize = 500;

/// How many bytes of letters are published at once, but for one larger letter.
const MOST_BYTES: u64 = 4 << 20;

/// The waits while the broker or the letters are away.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// The formats whose lines can be read; a packet that names none is one.
const READABLE_TYPES: [&str; 2] = ["", "warren.v1"];

/// A job at work.
pub(super) struct Work {
    pub(super) letters: Arc<dyn DeadLetters>,
    pub(super) publisher: Arc<dyn MessagePublisher>,
    pub(super) filter: DeadLetterFilter,
    pub(super) job: Arc<Job>,
}

/// The job was told to stop.
struct Cancelled;

/// What is to become of a letter after its messages were published.
#[derive(Default)]
struct Fate {
    unreadable: Option<String>,
    refused: Option<String>,
    /// The job was told to stop before one of its messages was confirmed.
    unconfirmed: bool,
}

impl Fate {
    /// All that is in the letter is with the broker.
    const fn is_done(&self) -> bool {
        self.unreadable.is_none() && self.refused.is_none() && !self.unconfirmed
    }
}

/// What became of messages that were published; those that neither map names are confirmed.
#[derive(Default)]
struct Published {
    /// Why the broker takes them never, by place.
    refused: HashMap<usize, String>,
    /// Places of those that were not confirmed when the job was told to stop.
    unconfirmed: Vec<usize>,
}

impl Work {
    /// Works through every letter, and says how it ended.
    pub(super) async fn run(self, action: JobAction) {
        let state = match self.walk(action).await {
            Ok(()) => JobState::Done,
            Err(Cancelled) => JobState::Cancelled,
        };
        self.job.end(state);
        let report = self.job.report();
        info!(
            job = report.id,
            ?state,
            done = report.done,
            unreadable = report.unreadable,
            failed = report.failed,
            "a job over dead letters has ended"
        );
    }

    /// The list leads from the last death to the first: what dies again meanwhile stands before the page, what is new
    /// is not meant by the filter, and what is removed leaves no gap in those that follow.
    async fn walk(&self, action: JobAction) -> Result<(), Cancelled> {
        let mut after = None;
        loop {
            let page = self
                .patiently(|| self.letters.list(&self.filter, after, PAGE))
                .await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = Some(last.place());
            match action {
                JobAction::Purge => {
                    let removed = self.remove(&page).await?;
                    counter!(PURGED).increment(removed);
                }
                JobAction::Redrive => {
                    for part in parts(&page) {
                        self.redrive(part).await?;
                    }
                }
            }
        }
    }

    /// Publishes the messages of some letters, and removes those that are confirmed.
    async fn redrive(&self, listed: &[KeptLetter]) -> Result<(), Cancelled> {
        let ids: Vec<_> = listed.iter().map(|letter| letter.facts.id).collect();
        let found = self.patiently(|| self.letters.read(&ids)).await?;
        let (mut kept, mut fates, mut messages) = (Vec::new(), Vec::new(), Vec::new());
        // Whose message it is, by its place among all.
        let mut owners = Vec::new();
        for (letter, content) in found {
            let (mut readable, unreadable) = decode(&letter, &content);
            owners.resize(owners.len() + readable.len(), kept.len());
            messages.append(&mut readable);
            kept.push(letter);
            fates.push(Fate {
                unreadable,
                ..Fate::default()
            });
        }
        let Published { refused, unconfirmed } = self.publish(messages).await;
        for (place, refusal) in refused {
            if let Some(fate) = owners.get(place).and_then(|owner| fates.get_mut(*owner)) {
                fate.refused.get_or_insert(refusal);
            }
        }
        for place in &unconfirmed {
            if let Some(fate) = owners.get(*place).and_then(|owner| fates.get_mut(*owner)) {
                fate.unconfirmed = true;
            }
        }
        let gone: Vec<_> = kept
            .iter()
            .zip(&fates)
            .filter(|(_, fate)| fate.is_done())
            .map(|(letter, _)| letter.clone())
            .collect();
        let removed = self.remove(&gone).await;
        self.account(fates);
        removed?;
        if unconfirmed.is_empty() {
            Ok(())
        } else {
            Err(Cancelled)
        }
    }

    fn account(&self, fates: Vec<Fate>) {
        self.job.change(|report| {
            for fate in fates {
                if let Some(reason) = fate.unreadable {
                    counter!(UNREADABLE).increment(1);
                    report.unreadable += 1;
                    report.note(reason);
                } else if let Some(reason) = fate.refused {
                    report.failed += 1;
                    report.note(reason);
                }
            }
        });
    }

    /// Publishes every message, again and again while the broker is away, until the job is told to stop.
    async fn publish(&self, messages: Vec<Message>) -> Published {
        let mut refused = HashMap::new();
        let mut places: Vec<usize> = (0..messages.len()).collect();
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        while !places.is_empty() {
            let part: Vec<_> = places.iter().map(|place| messages[*place].clone()).collect();
            // Before it, so that at no moment more is stored than was counted; and each try may arrive.
            counter!(REDRIVEN).increment(part.len() as u64);
            let publishing = self.publisher.publish(part, None);
            // Not cut off midway: what was published is to be removed.
            let Err(unpublished) = publishing.await else {
                break;
            };
            let (mut again, mut away) = (Vec::new(), None);
            for (index, error) in unpublished.errors {
                let Some(place) = places.get(index).copied() else {
                    continue;
                };
                match error {
                    PublishError::Unavailable { .. } => {
                        again.push(place);
                        away = Some(error.to_string());
                    }
                    PublishError::Unroutable { .. } | PublishError::Refused { .. } => {
                        refused.insert(place, error.to_string());
                    }
                }
            }
            places = again;
            if let Some(reason) = away
                && self.wait(&mut backoff, reason).await.is_err()
            {
                return Published {
                    refused,
                    unconfirmed: places,
                };
            }
        }
        self.job.change(|report| report.waiting = None);
        Published {
            refused,
            unconfirmed: Vec::new(),
        }
    }

    /// Removes letters unless they have changed; counts them as done.
    ///
    /// It is tried also when the job was told to stop: what was published is not to be published again.
    async fn remove(&self, letters: &[KeptLetter]) -> Result<u64, Cancelled> {
        let seen: Vec<(DeadLetterId, Revision)> = letters
            .iter()
            .map(|letter| (letter.facts.id, letter.revision))
            .collect();
        if seen.is_empty() {
            return Ok(0);
        }
        let removed = self.insistently(|| self.letters.remove(&seen)).await?;
        self.job.change(|report| {
            report.done += seen.len() as u64;
            report.changed += (seen.len() as u64).saturating_sub(removed);
        });
        Ok(removed)
    }

    /// Repeats a call on the letters until it succeeds or the job is told to stop.
    async fn patiently<T, F>(&self, call: impl FnMut() -> F) -> Result<T, Cancelled>
    where
        F: Future<Output = Result<T, DeadLettersError>>,
    {
        if self.job.cancelled.is_cancelled() {
            return Err(Cancelled);
        }
        self.insistently(call).await
    }

    /// As [`Work::patiently`], but tries once even so.
    async fn insistently<T, F>(&self, mut call: impl FnMut() -> F) -> Result<T, Cancelled>
    where
        F: Future<Output = Result<T, DeadLettersError>>,
    {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        loop {
            match call().await {
                Ok(answer) => {
                    self.job.change(|report| report.waiting = None);
                    return Ok(answer);
                }
                Err(error) => self.wait(&mut backoff, error.to_string()).await?,
            }
        }
    }

    async fn wait(&self, backoff: &mut Backoff, reason: String) -> Result<(), Cancelled> {
        let mut first = false;
        self.job.change(|report| {
            first = report.waiting.is_none();
            report.waiting = Some(reason.clone());
        });
        if first {
            warn!(reason, "a job over dead letters waits");
        }
        let waiting = sleep(backoff.next_wait());
        let waited = self.job.cancelled.run_until_cancelled(waiting).await;
        waited.ok_or(Cancelled)
    }
}

/// Splits a page into what is read and published at once.
fn parts(page: &[KeptLetter]) -> Vec<&[KeptLetter]> {
    let (mut parts, mut begin, mut bytes) = (Vec::new(), 0, 0);
    for (index, letter) in page.iter().enumerate() {
        if index > begin && bytes + letter.bytes > MOST_BYTES {
            parts.push(&page[begin..index]);
            (begin, bytes) = (index, 0);
        }
        bytes += letter.bytes;
    }
    parts.push(&page[begin..]);
    parts
}

/// Reads the messages of a letter, and says why the letter has to stay if something in it is none.
fn decode(letter: &KeptLetter, content: &[u8]) -> (Vec<Message>, Option<String>) {
    let facts = &letter.facts;
    let said = |text: &Option<warren_domain::ports::LetterText>| {
        text.as_ref()
            .map(|text| text.as_str().to_owned())
            .unwrap_or_default()
    };
    let (kind, encoding) = (said(&facts.message_type), said(&facts.content_encoding));
    if !READABLE_TYPES.contains(&kind.as_str()) || !encoding.is_empty() {
        let why = format!("a packet of type {kind:?} and encoding {encoding:?} cannot be read");
        return (Vec::new(), Some(why));
    }
    let lines = content.split(|byte| *byte == b'\n');
    let lines = lines.filter(|line| !line.iter().all(u8::is_ascii_whitespace));
    let (mut messages, mut unreadable) = (Vec::new(), None);
    for line in lines {
        match Message::from_json(line) {
            Ok(message) => messages.push(message),
            Err(rejection) => {
                unreadable.get_or_insert(rejection.to_string());
            }
        }
    }
    if messages.is_empty() && unreadable.is_none() {
        unreadable = Some("nothing is in it".to_owned());
    }
    (messages, unreadable)
}
