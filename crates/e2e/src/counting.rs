//! Programs that count for a consumer group, and what they print.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::bed::Bed;
use crate::mix::Counts;
use crate::process::Service;

/// The names of the severities, lowest first.
const SEVERITIES: [&str; 5] = ["debug", "info", "warning", "error", "critical"];
/// How long counts may stay behind; slow machines need it, and no verdict depends on it.
const CATCH_UP: Duration = Duration::from_secs(120);

/// A line that a consumer has printed.
#[derive(Clone, Debug)]
pub struct Line(Value);

impl Line {
    /// Takes a line that came in another way.
    pub fn of(json: &Value) -> Self {
        Self(json.clone())
    }

    /// Returns what is counted of each severity.
    pub fn received(&self) -> Counts {
        SEVERITIES.map(|name| self.0["received"][name].as_u64().unwrap_or(u64::MAX))
    }

    /// Returns the sum as it was printed.
    pub fn total(&self) -> u64 {
        self.0["total"].as_u64().unwrap_or(u64::MAX)
    }

    /// Returns how many messages came again.
    pub fn duplicates(&self) -> u64 {
        self.0["duplicates"].as_u64().unwrap_or(u64::MAX)
    }

    /// Returns `connecting`, `consuming` or `stopped`.
    pub fn state(&self) -> &str {
        self.0["state"].as_str().unwrap_or_default()
    }

    /// Returns the whole line.
    pub const fn json(&self) -> &Value {
        &self.0
    }
}

impl Bed {
    /// Prepares a `severity-consumer` that prints lines often; `arguments` name the group, `books` the folder.
    ///
    /// # Errors
    /// It is not built.
    pub fn consumer(&self, books: &Path, arguments: &str) -> Result<Service> {
        let service = Service::new("severity-consumer")?
            .setting("WARREN_TALLY__PATH", books.to_string_lossy())
            .argument("--json")
            .argument("--every")
            .argument("100ms");
        let with_arguments = arguments
            .split_whitespace()
            .fold(service, |service, argument| service.argument(argument));
        Ok(self.to_broker(with_arguments))
    }
}

/// Returns the lines that a consumer has printed, over all its starts.
///
/// # Errors
/// A line is no report.
pub fn lines(service: &Service) -> Result<Vec<Line>> {
    let log = service.log()?;
    // The last one may be under way.
    let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let reports = whole.lines().filter(|line| line.starts_with("{\"group\""));
    reports
        .map(|line| Ok(Line(serde_json::from_str(line).with_context(|| line.to_owned())?)))
        .collect()
}

/// Returns the last line that a consumer has printed.
///
/// # Errors
/// There is none.
pub fn last_line(service: &Service) -> Result<Line> {
    lines(service)?.pop().context("nothing was printed")
}

/// Waits until a consumer prints a line that is `wanted`, and returns it; lines before the first `after` do not count.
///
/// # Errors
/// It does not come to that within two minutes; the message has the last line.
pub async fn wait_for_line(
    service: &Service,
    what: &str,
    after: usize,
    wanted: impl Fn(&Line) -> bool,
) -> Result<Line> {
    let deadline = Instant::now() + CATCH_UP;
    loop {
        let lines = lines(service)?;
        if let Some(line) = lines.iter().skip(after).find(|line| wanted(line)) {
            return Ok(line.clone());
        }
        if Instant::now() > deadline {
            bail!(
                "never printed: {what}; the last line: {:?}\n{}",
                lines.last(),
                service.log()?
            );
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Starts a consumer and waits until it is in its group: what is published from now on is counted.
///
/// # Errors
/// It does not start, or does not come to that.
pub async fn start_consuming(service: &mut Service) -> Result<()> {
    let before = lines(service)?.len();
    service.start().await?;
    wait_for_line(service, "consuming", before, |line| line.state() == "consuming").await?;
    Ok(())
}
