//! What came of an overload, beside the goals.

use std::cell::Cell;
use std::fmt;
use std::time::Duration;

use super::generator::Tally;
use super::slow::{Closed, EACH};
use super::{MIX, ORDINARY, Overload, TIMES};
use crate::cost::Costs;
use crate::servers::Servers;

/// Around a refusal of a `critical` request, no `debug` one may be accepted that was sent within this.
const WINDOW: Duration = Duration::from_millis(100);

/// How much more than the peak must have been sent: nearly all of what was due.
const LEAST_TIMES: f64 = 0.95 * TIMES;

/// What came of an overload.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    description: Vec<String>,
    messages: usize,
    /// Messages a second that were accepted and stored.
    peak: f64,
    /// Messages a second that were accepted, while the queue grew.
    pub(crate) taken_in: f64,
    /// The cores that the load took from the others, beyond what it took at the peak.
    pub(crate) burden: f64,
    /// Messages a second that were accepted and stored while as much was taken from them.
    pub(crate) burdened_peak: f64,
    pub(crate) overload: Tally,
    /// After how many seconds of the ordinary load all was as before.
    pub(crate) recovered_after: Option<u32>,
    /// Of the ordinary load just before there were slow clients, beside them, and after them.
    pub(crate) before_slow_p99: Option<f64>,
    pub(crate) beside_slow_p99: Option<f64>,
    pub(crate) after_slow_p99: Option<f64>,
    pub(crate) beside_slow_refused: u64,
    /// Slow heads and slow bodies.
    pub(crate) slow: [Closed; 2],
    pub(crate) peak_memory: Vec<(&'static str, u64)>,
    /// What each party cost in each phase, which took this long.
    pub(crate) processor: Vec<(&'static str, Duration, Costs)>,
}

impl Report {
    pub(crate) fn new(overload: &Overload, servers: &Servers, peak: f64) -> Self {
        Self {
            description: servers.description.clone(),
            messages: overload.messages,
            peak,
            taken_in: 0.0,
            burden: 0.0,
            burdened_peak: 0.0,
            overload: Tally::default(),
            recovered_after: None,
            before_slow_p99: None,
            beside_slow_p99: None,
            after_slow_p99: None,
            beside_slow_refused: 0,
            slow: [Closed::default(); 2],
            peak_memory: Vec::new(),
            processor: Vec::new(),
        }
    }
}

impl Report {
    /// Returns the wait at the 99th percentile of an ordinary load alone, the mean of both times.
    pub(crate) fn ordinary_p99(&self) -> Option<f64> {
        let (before, after) = self.before_slow_p99.zip(self.after_slow_p99)?;
        Some(f64::midpoint(before, after))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut tally = self.overload.clone();
        let seconds = tally.elapsed.as_secs_f64();
        let sent: u64 = tally.severities.iter().map(|of| of.sent).sum();
        let accepted = (tally.accepted() as usize * self.messages) as f64 / seconds;
        writeln!(
            f,
            "the intake on one core, on the others all the rest: {}; {} messages a request",
            self.description.join(", "),
            self.messages
        )?;
        writeln!(
            f,
            "peak, accepted as fast as answers come and stored: {:.0} messages a second; taken in alone, while the \
             queue grew: {:.0}",
            self.peak, self.taken_in
        )?;
        writeln!(
            f,
            "the same with {:.2} cores taken from RabbitMQ, PostgreSQL and the worker, as the load takes them: {:.0}",
            self.burden, self.burdened_peak
        )?;
        writeln!(
            f,
            "overload, {TIMES} times the first for {seconds:.0} s: {} requests sent, {} due and not sent, {} cut off; {} connections \
             opened",
            sent, tally.unsent, tally.cut, tally.connections
        )?;
        writeln!(
            f,
            "| severity | sent | accepted | refused |\n| --- | --- | --- | --- |"
        )?;
        for ((name, _), of) in MIX.iter().zip(&tally.severities) {
            writeln!(f, "| {name} | {} | {} | {} |", of.sent, of.accepted, of.refused)?;
        }
        for (phase, took, costs) in &self.processor {
            let shares: Vec<_> = (costs.0.iter())
                .map(|(name, cost)| format!("{name} {:.2}", cost.processor_seconds / took.as_secs_f64()))
                .collect();
            writeln!(f, "processor, {phase}: {} cores", shares.join(", "))?;
        }
        let missed = Cell::new(0);
        let goal = |f: &mut fmt::Formatter<'_>, met: bool, text: String| {
            missed.set(missed.get() + u32::from(!met));
            writeln!(f, "{} {text}", if met { "[met]   " } else { "[missed]" })
        };
        let times = TIMES * tally.sent_share();
        goal(
            f,
            times >= LEAST_TIMES,
            format!(
                "the load: {times:.1} times the peak was sent ({LEAST_TIMES}); with less it is another overload"
            ),
        )?;
        let of = |peak: f64| 100.0 * accepted / peak;
        let share = of(self.burdened_peak);
        goal(
            f,
            share >= 80.0,
            format!(
                "accepted work: {accepted:.0} messages a second, {share:.0} % of the peak beside such a load (80 %), {:.0} % of \
                 the peak without",
                of(self.peak)
            ),
        )?;
        let mut wait = |share| tally.refused_wait(share).unwrap_or(0.0);
        let (p50, p99) = (wait(0.5), wait(0.99));
        goal(
            f,
            p99 <= 50.0,
            format!("refusals: p50 {p50:.1} ms, p99 {p99:.1} ms (50 ms)"),
        )?;
        let mut wait = |share| tally.undeclared_wait(share).unwrap_or(0.0);
        let (p50, p99) = (wait(0.5), wait(0.99));
        writeln!(
            f,
            "           of them, requests that do not say what they hold: p50 {p50:.1} ms, p99 {p99:.1} ms"
        )?;
        let p99 = tally.accepted_wait(0.99).unwrap_or(0.0);
        writeln!(
            f,
            "           accepted: p99 {p99:.1} ms; the load itself was late by {:.1} ms at most",
            tally.latest.as_secs_f64() * 1e3
        )?;
        let wrong = tally.out_of_order(WINDOW);
        goal(
            f,
            wrong == 0,
            format!(
                "{wrong} critical requests refused within {WINDOW:?} of a debug one that was accepted (0)"
            ),
        )?;
        for (name, bytes) in &self.peak_memory {
            let mib = *bytes as f64 / f64::from(1 << 20);
            goal(f, mib <= 256.0, format!("{name}: {mib:.0} MiB at most (256 MiB)"))?;
        }
        let back = self.recovered_after;
        goal(
            f,
            back.is_some_and(|seconds| seconds <= 10),
            match back {
                Some(seconds) => format!("back to normal in second {seconds} after it (10)"),
                None => "not back to normal within 30 s (10)".to_owned(),
            },
        )?;
        let [before, after] = [self.before_slow_p99, self.after_slow_p99].map(|p99| p99.unwrap_or(0.0));
        let beside = self.beside_slow_p99.unwrap_or(f64::MAX);
        goal(
            f,
            beside <= before + after && self.beside_slow_refused == 0,
            format!(
                "at {:.0} % of the peak: p99 {before:.1} and {after:.1} ms alone, {beside:.1} ms between, beside {EACH} slow heads \
                 and {EACH} slow bodies, {} refused (twice the mean, 0)",
                ORDINARY * 100.0,
                self.beside_slow_refused
            ),
        )?;
        for (what, closed) in ["slow heads", "slow bodies"].into_iter().zip(self.slow) {
            goal(
                f,
                closed.closed == EACH,
                format!(
                    "{what}: {} of {EACH} closed, the last after {:.1} s",
                    closed.closed,
                    closed.last.as_secs_f64()
                ),
            )?;
        }
        match missed.get() {
            0 => writeln!(f, "every goal is met"),
            missed => writeln!(f, "{missed} GOALS ARE MISSED"),
        }
    }
}
