//! Questions that are asked often, each time about something else, and how long their answers took.

use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::report::Goal;
use crate::statistics::Waits;

/// How many messages a page has.
pub(crate) const PAGE: usize = 100;

/// What came of one question.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    pub(crate) took: Duration,
    /// In how many calls: a search that looks at much is bounded, and goes on with the next.
    pub(crate) calls: usize,
}

/// A question and how long its answers took.
#[derive(Clone, Debug)]
pub(crate) struct Answered {
    question: &'static str,
    waits: Waits,
    /// How often it was asked.
    asked: usize,
    /// How many calls an answer took at most.
    calls: usize,
    /// What half of the answers may take, milliseconds.
    goal: Option<f64>,
}

impl Answered {
    /// Times what is asked, once more without the clock, as connections are opened then; each time it is told a number.
    ///
    /// # Errors
    /// Those of what asks.
    pub(crate) async fn time(
        question: &'static str,
        goal: Option<f64>,
        asked: usize,
        mut ask: impl AsyncFnMut(usize) -> Result<Answer>,
    ) -> Result<Self> {
        let mut answered = Self {
            question,
            waits: Waits::default(),
            asked,
            calls: 0,
            goal,
        };
        ask(asked).await.context(question)?;
        for number in 0..asked {
            let answer = ask(number).await.context(question)?;
            answered.waits.add(answer.took);
            answered.calls = answered.calls.max(answer.calls);
        }
        Ok(answered)
    }

    fn percentile(&self, share: f64) -> Option<f64> {
        self.waits.clone().percentile(share)
    }

    /// Returns its goal, and whether it was met; none where it has none.
    pub(crate) fn goal(&self) -> Option<Goal> {
        let (p50, goal) = (self.percentile(0.5)?, self.goal?);
        Some(Goal {
            what: format!("{}, p50", self.question),
            figure: format!("{p50:.1} ms"),
            wanted: format!("≤ {goal} ms"),
            met: p50 <= goal,
        })
    }
}

/// Writes questions as a table; `calls` is what its last column is called.
pub(crate) fn write_answers(f: &mut fmt::Formatter<'_>, answered: &[Answered], calls: &str) -> fmt::Result {
    writeln!(
        f,
        "\n{:<46} {:>9} {:>9} {:>7} {calls:>9}",
        "Questions, answered whole", "p50 ms", "p99 ms", "asked"
    )?;
    for answered in answered {
        let wait = |share| answered.percentile(share).unwrap_or(0.0);
        writeln!(
            f,
            "{:<46} {:>9.1} {:>9.1} {:>7} {:>9}",
            answered.question,
            wait(0.5),
            wait(0.99),
            answered.asked,
            answered.calls
        )?;
    }
    Ok(())
}
