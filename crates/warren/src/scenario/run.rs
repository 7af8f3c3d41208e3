//! One scenario, from the first process to the verdict.

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures_util::FutureExt as _;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use warren_client::{Entry, Logger};
use warren_domain::ports::NamedGroup;
use warren_domain::{MessageId, SeverityCounts};
use warren_pipeline::tally::{GroupReport, GroupState};
use warren_process::cli::SettingsArgs;

use super::RunOptions;
use super::child::NamedLog;
use super::file::{Happening, Scenario};
use super::plan;
use super::stage::{Act, Stage};
use super::verdict::Verdict;
use crate::command::grouped;
use crate::send::progress::Progress;
use crate::settings::Settings;

/// How long what was sent may take to be kept.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(60);

/// When no count has changed for so long, none will.
const QUIET: Duration = Duration::from_secs(5);

/// The pause between two looks at what was printed.
const LOOK: Duration = Duration::from_millis(100);

/// Why there is no verdict.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: anyhow::Error,
    /// The ends of the logs of the programs that took part.
    pub(crate) logs: Vec<NamedLog>,
}

/// A verdict, and the logs of the programs that took part.
#[derive(Debug)]
pub(crate) struct Played {
    pub(crate) verdict: Verdict,
    pub(crate) logs: Vec<NamedLog>,
}

/// Runs a scenario on names and in a folder of its own, and leaves nothing behind.
///
/// # Errors
/// It could not be run to its end.
pub(crate) async fn run(
    scenario: &Scenario,
    options: &RunOptions,
    settings: &Settings,
    flags: &SettingsArgs,
    stop: &CancellationToken,
) -> Result<Played, Failure> {
    let failed = |error| Failure {
        error,
        logs: Vec::new(),
    };
    let folder = tempfile::Builder::new()
        .prefix("warren-scenario-")
        .tempdir()
        .context("cannot make a temporary folder")
        .map_err(failed)?;
    let mut stage = Stage::new(options.embedded, settings, flags, &folder).map_err(failed)?;
    let progress = Progress::begin(Some(scenario.total()));

    let mut logger = None;
    let playing = play(scenario, &mut stage, &mut logger, &progress, options.within);
    let playing = stop.run_until_cancelled(playing);
    let played = AssertUnwindSafe(playing).catch_unwind().await;
    progress.end();
    if let Some(logger) = logger {
        // Interrupted: what goes on sending would declare again what is about to be removed.
        logger.close(Duration::ZERO).await;
    }
    let logs = stage.logs();
    let cleared = stage.clear_away(options.keep, folder).await;
    let played = match played {
        Ok(Some(played)) => played,
        Ok(None) => Err(anyhow::anyhow!("interrupted")),
        Err(panic) => resume_unwind(panic),
    };
    match (played, cleared) {
        (Ok(verdict), Ok(())) => Ok(Played { verdict, logs }),
        (Ok(_), Err(error)) => Err(Failure { error, logs }),
        (Err(error), cleared) => {
            if let Err(left) = cleared {
                eprintln!("{left:#}");
            }
            Err(Failure { error, logs })
        }
    }
}

async fn play(
    scenario: &Scenario,
    stage: &mut Stage,
    sending: &mut Option<Logger>,
    progress: &Progress,
    within: Duration,
) -> Result<Verdict> {
    let began = Instant::now();
    progress.advance(0, "the consumers start");
    stage.start().await?;
    let logger = sending.insert(stage.logger()?).clone();
    let sent = send(scenario, stage, &logger, progress).await;
    let report = logger.close(FLUSH_TIMEOUT).await;
    *sending = None;
    sent?;
    if !report.is_complete() {
        let why = report.stats.last_failure.as_deref().unwrap_or("no confirm");
        bail!(
            "only {} of {} messages were kept: {why}",
            report.stats.published.total(),
            scenario.total()
        );
    }
    progress.advance(scenario.total(), "all is sent; the consumers count");
    settle(scenario, stage, progress, within).await?;
    let last = stage.finish().await?;
    Ok(Verdict {
        scenario: scenario.name(),
        embedded: stage.is_embedded(),
        sent: scenario.total(),
        took: began.elapsed(),
        expected: scenario.expected,
        printed: std::array::from_fn(|group| last[group].received),
        duplicates: std::array::from_fn(|group| last[group].duplicates),
    })
}

/// Returns everything that is done on the way, by place.
fn acts(scenario: &Scenario, one_process: bool) -> Vec<(u64, Act)> {
    let mut acts = Vec::new();
    for event in &scenario.events {
        match event.what {
            Happening::Pause(lasting) => acts.push((event.after, Act::Pause(lasting))),
            // One process cannot be away while it is sent to.
            Happening::Kill { group, away } if away == 0 || one_process => {
                acts.push((event.after, Act::Crash(group)));
            }
            Happening::Kill { group, away } => {
                let back = (event.after + away).min(scenario.total());
                acts.extend([(event.after, Act::Kill(group)), (back, Act::Revive(group))]);
            }
        }
    }
    acts.sort_unstable();
    acts
}

/// Sends everything in order, and does on the way what the file says.
async fn send(scenario: &Scenario, stage: &mut Stage, logger: &Logger, progress: &Progress) -> Result<()> {
    let mut acts = acts(scenario, stage.is_embedded()).into_iter().peekable();
    // The ids of what is sent twice.
    let mut ids: Vec<Vec<Option<MessageId>>> = scenario
        .steps
        .iter()
        .map(|step| vec![None; usize::try_from(step.twice).unwrap_or_default()])
        .collect();
    for (sent, sending) in (1..).zip(plan::order(scenario)) {
        let step = &scenario.steps[sending.step as usize];
        let mut entry = logger
            .log(step.severity, step.body(sending.number.into()))
            .source(step.source.clone());
        if !step.attributes.is_empty() {
            entry = entry.attributes(step.attributes.as_map().clone());
        }
        let known = ids[sending.step as usize].get_mut(sending.number as usize);
        match known {
            None => drop(taken(logger, entry).await?),
            Some(Some(id)) => drop(taken(logger, entry.id(*id)).await?),
            Some(unknown) => *unknown = Some(taken(logger, entry).await?),
        }
        if sent % 1_000 == 0 {
            progress.advance(sent, format!("{} sent", progress.rate(sent)));
        }
        while let Some((_, act)) = acts.next_if(|(after, _)| *after == sent) {
            progress.advance(sent, act.words());
            stage.act(act).await?;
        }
    }
    Ok(())
}

/// Hands a message over to the logger, which waits for room: not longer than what was sent may take to be kept.
async fn taken(logger: &Logger, entry: Entry) -> Result<MessageId> {
    match timeout(FLUSH_TIMEOUT, entry.into_future()).await {
        Ok(taken) => Ok(taken?),
        Err(_) => {
            let why = logger.stats().trouble;
            let why = why.as_deref().unwrap_or("nothing is confirmed");
            bail!("nothing more can be sent for {FLUSH_TIMEOUT:?}: {why}")
        }
    }
}

/// Waits until every group has counted all it was sent, or nothing changes any more.
async fn settle(scenario: &Scenario, stage: &mut Stage, progress: &Progress, within: Duration) -> Result<()> {
    let deadline = Instant::now() + within;
    let (distinct, copies) = (scenario.distinct(), scenario.copies());
    let wanted = NamedGroup::shipped().map(|group| {
        let of = |counts: &SeverityCounts| -> u64 {
            group
                .selection
                .severities
                .iter()
                .map(|severity| counts.get(severity))
                .sum()
        };
        (of(&distinct), of(&distinct) + of(&copies))
    });
    let mut last: Option<[GroupReport; 4]> = None;
    let mut changed = Instant::now();
    loop {
        if let [Some(a), Some(b), Some(c), Some(d)] = stage.reports().await? {
            let reports = [a, b, c, d];
            let whole = reports.iter().zip(&wanted).all(|(report, (distinct, all))| {
                report.state == GroupState::Consuming
                    && report.received.total() >= *distinct
                    && report.received.total() + report.duplicates >= *all
            });
            match &last {
                Some(last) if same_counts(last, &reports) => {
                    // Whoever counts too much goes on doing so in the next report.
                    let again = last.iter().zip(&reports).all(|(last, now)| last.at < now.at);
                    if (whole && again) || changed.elapsed() > QUIET {
                        return Ok(());
                    }
                }
                _ => {
                    let counted: u64 = reports.iter().map(|report| report.received.total()).sum();
                    progress.tell(format!("all is sent; {} counted", grouped(counted)));
                    (last, changed) = (Some(reports), Instant::now());
                }
            }
        }
        if Instant::now() > deadline {
            progress.note(&format!("the counts still change after {within:?} (--within)"));
            return Ok(());
        }
        sleep(LOOK).await;
    }
}

fn same_counts(one: &[GroupReport; 4], other: &[GroupReport; 4]) -> bool {
    one.iter()
        .zip(other)
        .all(|(one, other)| (one.received, one.duplicates) == (other.received, other.duplicates))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::written::parse;
    use super::*;

    #[test]
    fn what_comes_back_is_back_before_it_is_killed_again_and_at_the_end_at_the_latest() {
        let text = "title = 't'\nabout = ''\n\
             [[send]]\nseverity = 'info'\ncount = 10\nbody = 'x'\n\
             [[kill]]\ngroup = 'all'\nafter = 5\naway = 50\n\
             [[kill]]\ngroup = 'all'\nafter = 2\naway = 3\n\
             [[kill]]\ngroup = 'error'\nafter = 5\n\
             [[pause]]\nafter = 5\nfor = '1s'\n\
             [expect]\nall = {}\ndebug-info = {}\ncritical = {}\nerror = {}\n";
        let scenario = parse(Path::new("t.toml"), text).unwrap();
        assert_eq!(
            acts(&scenario, false),
            [
                (2, Act::Kill(0)),
                (5, Act::Revive(0)),
                (5, Act::Pause(Duration::from_secs(1))),
                (5, Act::Crash(3)),
                (5, Act::Kill(0)),
                (10, Act::Revive(0)),
            ]
        );
        assert!(
            acts(&scenario, true)
                .iter()
                .all(|(_, act)| !matches!(act, Act::Kill(_) | Act::Revive(_)))
        );
    }
}
