//! A job over dead letters, and how far it is.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use warren_domain::{MessageId, Timestamp};

/// The most reasons why letters stay that a report gives; the first few say what is the matter.
const MOST_REASONS: usize = 10;

/// What a job does with letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobAction {
    /// Publishes their messages again, under the same ids, and removes each letter after its confirm.
    Redrive,
    /// Removes them.
    Purge,
}

/// How it stands with a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// It is at work, or waits for the broker or the database.
    Running,
    /// It has been through all letters.
    Done,
    /// It was told to stop, and has.
    Cancelled,
}

/// How far a job is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobReport {
    /// Which job, for asking again.
    pub id: String,
    /// What it does.
    pub action: JobAction,
    /// How it stands.
    pub state: JobState,
    /// When it began, RFC 3339.
    pub began_at: String,
    /// When it ended, RFC 3339; `None` while it runs.
    pub ended_at: Option<String>,
    /// How many letters it meant when it began.
    pub total: u64,
    /// Letters whose messages were published again, or that were removed.
    pub done: u64,
    /// Letters that hold something that is no message, and stay.
    pub unreadable: u64,
    /// Letters that the broker does not take, and stay.
    pub failed: u64,
    /// Letters that were done, but have died again meanwhile, or that somebody else has removed.
    pub changed: u64,
    /// How many letters are still to be looked at.
    pub left: u64,
    /// What it waits for, while it does.
    pub waiting: Option<String>,
    /// Why letters stay: the first few of each kind.
    pub reasons: Vec<String>,
}

/// A job, shared between who works at it and who asks.
#[derive(Debug)]
pub(super) struct Job {
    report: Mutex<JobReport>,
    pub(super) cancelled: CancellationToken,
}

impl Job {
    pub(super) fn begin(action: JobAction, total: u64) -> Self {
        Self {
            report: Mutex::new(JobReport {
                id: MessageId::generate().to_string(),
                action,
                state: JobState::Running,
                began_at: Timestamp::now().to_string(),
                ended_at: None,
                total,
                done: 0,
                unreadable: 0,
                failed: 0,
                changed: 0,
                left: total,
                waiting: None,
                reasons: Vec::new(),
            }),
            cancelled: CancellationToken::new(),
        }
    }

    pub(super) fn report(&self) -> JobReport {
        self.lock().clone()
    }

    pub(super) fn end(&self, state: JobState) {
        self.change(|report| {
            report.state = state;
            report.ended_at = Some(Timestamp::now().to_string());
            report.waiting = None;
            if state == JobState::Done {
                // Letters that went before the job came to them are not left.
                report.left = 0;
            }
        });
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut JobReport)) {
        let mut report = self.lock();
        change(&mut report);
        let seen = report.done + report.unreadable + report.failed;
        if report.state == JobState::Running {
            report.left = report.total.saturating_sub(seen);
        }
    }

    fn lock(&self) -> MutexGuard<'_, JobReport> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl JobReport {
    /// Notes why a letter stays, as long as there is room and nothing said so before.
    pub(super) fn note(&mut self, reason: String) {
        if self.reasons.len() < MOST_REASONS && !self.reasons.contains(&reason) {
            self.reasons.push(reason);
        }
    }
}
