//! Publishers that a test holds back and looks into, and the settings that make tests quick.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use warren_client::{
    Logger, LoggerBuilder, Message, MessageId, MessagePublisher, PublishError, Severity, SeverityCounts,
    Stats, Unpublished,
};
use warren_domain::TraceContext;

pub const PATIENCE: Duration = Duration::from_secs(30);

/// A builder that repeats quickly.
pub fn quick() -> LoggerBuilder {
    Logger::builder().retry_pauses(Duration::from_millis(1), Duration::from_millis(5))
}

/// What a [`Gate`] answers to one call: the verdict for each place that it does not publish.
pub type Answer = Box<dyn Fn(&[Message]) -> Vec<(usize, PublishError)> + Send>;

/// A publisher that a test opens and closes, and that notes every call.
pub struct Gate {
    open: watch::Sender<bool>,
    calls: watch::Sender<Vec<Vec<MessageId>>>,
    published: Mutex<Vec<Message>>,
    answers: Mutex<VecDeque<Answer>>,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").finish_non_exhaustive()
    }
}

impl Gate {
    fn new(open: bool, answers: impl IntoIterator<Item = Answer>) -> Arc<Self> {
        Arc::new(Self {
            open: watch::Sender::new(open),
            calls: watch::Sender::new(Vec::new()),
            published: Mutex::default(),
            answers: Mutex::new(answers.into_iter().collect()),
        })
    }

    pub fn open() -> Arc<Self> {
        Self::new(true, [])
    }

    pub fn closed() -> Arc<Self> {
        Self::new(false, [])
    }

    /// Answers the first calls as told, and publishes after that.
    pub fn answering(answers: impl IntoIterator<Item = Answer>) -> Arc<Self> {
        Self::new(true, answers)
    }

    pub fn let_through(&self) {
        self.open.send_replace(true);
    }

    /// The ids of each call so far.
    pub fn calls(&self) -> Vec<Vec<MessageId>> {
        self.calls.borrow().clone()
    }

    pub async fn called(&self, times: usize) {
        let mut calls = self.calls.subscribe();
        let called = calls.wait_for(|calls| calls.len() >= times);
        tokio::time::timeout(PATIENCE, called)
            .await
            .expect("the publisher is called")
            .unwrap();
    }

    pub fn published(&self) -> Vec<Message> {
        self.published.lock().unwrap().clone()
    }

    pub fn published_by_severity(&self) -> SeverityCounts {
        self.published().iter().map(|message| message.severity).collect()
    }
}

#[async_trait]
impl MessagePublisher for Gate {
    async fn publish(&self, messages: Vec<Message>, _: Option<TraceContext>) -> Result<(), Unpublished> {
        let ids = messages.iter().map(|message| message.id).collect();
        self.calls.send_modify(|calls| calls.push(ids));
        self.open.subscribe().wait_for(|open| *open).await.unwrap();
        let answer = self.answers.lock().unwrap().pop_front();
        let errors = answer.map_or_else(Vec::new, |answer| answer(&messages));
        let kept = messages
            .into_iter()
            .enumerate()
            .filter(|(place, _)| errors.iter().all(|(failed, _)| failed != place));
        self.published
            .lock()
            .unwrap()
            .extend(kept.map(|(_, message)| message));
        if errors.is_empty() {
            Ok(())
        } else {
            Err(Unpublished { errors })
        }
    }
}

/// Answers every message with the same verdict.
pub fn all(error: PublishError) -> Answer {
    Box::new(move |messages| Unpublished::all(messages.len(), &error).errors)
}

/// Answers those messages whose body is `body` with a verdict.
pub fn body(body: &'static str, error: PublishError) -> Answer {
    Box::new(move |messages| {
        let places = messages.iter().enumerate();
        let places = places.filter(|(_, message)| message.body.as_str() == body);
        places.map(|(place, _)| (place, error.clone())).collect()
    })
}

pub fn refused() -> PublishError {
    PublishError::Refused {
        reason: "never".to_owned(),
    }
}

pub fn unroutable() -> PublishError {
    PublishError::Unroutable {
        reason: "nobody listens".to_owned(),
    }
}

pub fn counts(counts: impl IntoIterator<Item = (Severity, u64)>) -> SeverityCounts {
    let mut all = SeverityCounts::default();
    for (severity, n) in counts {
        all.add(severity, n);
    }
    all
}

/// Checks that the numbers add up to `called`, severity by severity.
pub fn assert_adds_up(stats: &Stats, called: &SeverityCounts) {
    for severity in Severity::ALL {
        let get = |counts: &SeverityCounts| counts.get(severity);
        assert_eq!(
            get(&stats.accepted) + get(&stats.dropped) + get(&stats.rejected),
            get(called),
            "{severity}: {stats:?}"
        );
        assert_eq!(
            get(&stats.published) + get(&stats.failed) + get(&stats.waiting),
            get(&stats.accepted),
            "{severity}: {stats:?}"
        );
    }
}

pub fn by_id(messages: Vec<Message>) -> HashMap<MessageId, Message> {
    messages
        .into_iter()
        .map(|message| (message.id, message))
        .collect()
}
