//! A job over dead letters, followed from its beginning to its end.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use warren_pipeline::dead_letters::{JobAction, JobReport, JobState};
use warren_process::exit::Exit;
use warren_process::telemetry::escape::Escaped;

use crate::command::grouped;
use crate::send::progress::Progress;
use crate::server::{NotThere, Server};

/// How often the server is asked how far the job is.
const POLL: Duration = Duration::from_millis(200);

/// How long questions may stay unanswered before the job is left alone.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is to be done after a job whose end is not known.
const BEGIN_AGAIN: &str = "to begin it again does what is left, and stores nothing twice";

/// How many letters are meant.
#[derive(Debug)]
pub(super) struct Counts {
    pub(super) letters: u64,
    by_reason: BTreeMap<String, u64>,
    /// Which letters were counted, so that a job means them and no others.
    pub(super) as_of: String,
    /// As the server says it.
    pub(super) answer: Value,
}

impl Counts {
    /// Writes them for people.
    pub(super) fn text(&self) -> String {
        let mut text = format!("{} dead letters\n", grouped(self.letters));
        for (reason, letters) in &self.by_reason {
            text.push_str(&format!("{:>12}  {}\n", grouped(*letters), Escaped(reason)));
        }
        text
    }
}

fn path(action: JobAction) -> &'static str {
    match action {
        JobAction::Redrive => "/v1/dead-letters/redrive",
        JobAction::Purge => "/v1/dead-letters/purge",
    }
}

/// Asks how many letters are meant.
pub(super) async fn count(action: JobAction, wish: &Map<String, Value>, server: &Server) -> Result<Counts> {
    #[derive(Deserialize)]
    struct Answer {
        letters: u64,
        by_reason: BTreeMap<String, u64>,
        as_of: String,
    }
    let mut wish = wish.clone();
    wish.insert("dry_run".to_owned(), true.into());
    let answer = server.post(path(action), &wish.into()).await?;
    let Answer {
        letters,
        by_reason,
        as_of,
    } = serde_json::from_value(answer.clone()).context(server.another_version())?;
    Ok(Counts {
        letters,
        by_reason,
        as_of,
        answer,
    })
}

/// Begins a job and waits for its end; cancels it when `stop` is, and waits for that end.
pub(super) async fn follow(
    action: JobAction,
    wish: &Map<String, Value>,
    server: &Server,
    stop: &CancellationToken,
) -> Result<JobReport> {
    let read = |answer| serde_json::from_value::<JobReport>(answer).context(server.another_version());
    let wish = wish.clone().into();
    let beginning = server.post(path(action), &wish);
    let Some(begun) = stop.run_until_cancelled(beginning).await else {
        bail!(
            "interrupted before the server answered; whether the job has begun is told by \
             GET /v1/dead-letters/jobs, and DELETE of it cancels it"
        );
    };
    let mut report = read(begun?)?;
    let place = format!("/v1/dead-letters/jobs/{}", report.id);
    let progress = Progress::begin(Some(report.total));
    let (mut cancelled, mut answered_at) = (false, Instant::now());
    while report.state == JobState::Running {
        let seen = report.done + report.unreadable + report.failed;
        let waiting = report
            .waiting
            .as_deref()
            .map(|reason| Escaped(reason).to_string());
        progress.advance(
            seen,
            match waiting {
                Some(reason) => format!("waits: {reason}"),
                None => format!("{} of {}", grouped(seen), grouped(report.total)),
            },
        );
        if !cancelled && stop.run_until_cancelled(sleep(POLL)).await.is_none() {
            cancelled = true;
            progress.note("cancelling; what is done stays done");
            if let Err(error) = server.delete(&place).await {
                progress.note(&format!("{error:#}"));
            }
        } else if cancelled {
            sleep(POLL).await;
        }
        let asking = timeout(PATIENCE, server.get(&place));
        let answer = if cancelled {
            asking.await
        } else {
            match stop.run_until_cancelled(asking).await {
                Some(answer) => answer,
                // Cancelled above, the next time.
                None => continue,
            }
        };
        match answer.unwrap_or_else(|_| Err(anyhow!("{server} does not answer"))) {
            Ok(answer) => {
                report = read(answer)?;
                answered_at = Instant::now();
            }
            Err(error) if error.is::<NotThere>() => {
                progress.end();
                return Err(error.context(format!(
                    "the program was restarted, and job {} has ended with it; {BEGIN_AGAIN}",
                    report.id
                )));
            }
            Err(error) if answered_at.elapsed() < PATIENCE && !cancelled => {
                tracing::debug!(%error, "the server does not answer");
                report.waiting = Some("the server does not answer".to_owned());
            }
            Err(error) => {
                progress.end();
                return Err(error.context(format!("nobody tells how job {} ended; {BEGIN_AGAIN}", report.id)));
            }
        }
    }
    progress.end();
    Ok(report)
}

/// Says what became of a job.
pub(super) fn summary(report: &JobReport) -> String {
    let did = match report.action {
        JobAction::Redrive => "redriven",
        JobAction::Purge => "purged",
    };
    let mut text = format!("{} {did}", grouped(report.done));
    for (letters, what) in [
        (report.unreadable, "cannot be read and stay"),
        (report.failed, "were not taken and stay"),
        (
            report.changed,
            "of those done had changed meanwhile; look at them again",
        ),
        (report.left, "not looked at"),
    ] {
        if letters > 0 {
            text.push_str(&format!(", {} {what}", grouped(letters)));
        }
    }
    if report.state == JobState::Cancelled {
        text.push_str("; cancelled");
    }
    text.push('\n');
    for reason in &report.reasons {
        text.push_str(&format!("  {}\n", Escaped(reason)));
    }
    text
}

/// Clean only where every letter that was meant is done.
pub(super) fn exit(report: &JobReport) -> Exit {
    let whole = report.state == JobState::Done && report.unreadable == 0 && report.failed == 0;
    if whole { Exit::Clean } else { Exit::Failure }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_says_what_stays_and_the_exit_code_does_too() {
        let mut report = JobReport {
            id: "1".to_owned(),
            action: JobAction::Redrive,
            state: JobState::Done,
            began_at: String::new(),
            ended_at: None,
            total: 1_234,
            done: 1_234,
            unreadable: 0,
            failed: 0,
            changed: 0,
            left: 0,
            waiting: None,
            reasons: Vec::new(),
        };
        assert_eq!(summary(&report), "1,234 redriven\n");
        assert_eq!(exit(&report), Exit::Clean);
        report.unreadable = 2;
        report.reasons.push("/id: no id\u{1b}".to_owned());
        let said = summary(&report);
        assert!(said.contains("2 cannot be read and stay\n  /id: no id"), "{said}");
        assert!(!said.contains('\u{1b}'));
        assert_eq!(exit(&report), Exit::Failure);
        report.state = JobState::Cancelled;
        report.left = 7;
        assert!(summary(&report).contains("7 not looked at; cancelled"));
    }
}
