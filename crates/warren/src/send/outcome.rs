//! What came of `warren send`.

use std::time::Duration;

use serde_json::{Value, json};
use warren_client::CloseReport;
use warren_process::telemetry::escape::Escaped;

use super::progress::per_second;
use super::target::Target;
use super::{End, Faults};
use crate::command::grouped;

/// What became of every message and line.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Kept by the broker.
    sent: u64,
    /// Surely not kept.
    failed: u64,
    /// Handed over, but never confirmed.
    unknown: u64,
    why: Option<String>,
    end: End,
    input_broken: bool,
    took: Duration,
}

impl Outcome {
    pub(super) fn new(
        report: &CloseReport,
        trouble: Option<String>,
        faults: &Faults,
        end: End,
        took: Duration,
    ) -> Self {
        let stats = &report.stats;
        // Of what waited at the end, some was never handed to the publisher; the rest may have arrived.
        let never_handed = stats.dropped.total().saturating_sub(faults.given_up);
        let unknown = report.abandoned.total().saturating_sub(never_handed);
        let refused = stats.failed.total().saturating_sub(unknown);
        let unread = faults.lines.saturating_sub(stats.rejected.total());
        Self {
            sent: stats.published.total(),
            failed: refused + stats.dropped.total() + stats.rejected.total() + unread,
            unknown,
            why: stats.last_failure.clone().or(trouble),
            end,
            input_broken: faults.broken.is_some(),
            took,
        }
    }

    /// Tells whether everything that was to be sent is kept.
    pub(super) fn is_complete(&self) -> bool {
        self.failed + self.unknown == 0 && self.end == End::Done && !self.input_broken
    }

    /// Returns it for people, as one line.
    pub(super) fn text(&self, target: &Target) -> String {
        let mut text = format!("sent {} to {target} in ", messages(self.sent));
        if self.took < Duration::from_secs(1) {
            text.push_str(&format!("{} ms", self.took.as_millis()));
        } else {
            text.push_str(&format!("{:.1} s", self.took.as_secs_f64()));
        }
        // Of a few messages, or a moment, a rate says nothing.
        if self.sent >= 1_000 {
            text.push_str(&format!(" ({}/s)", grouped(per_second(self.sent, self.took))));
        }
        if self.failed > 0 {
            text.push_str(&format!("; {} not sent", messages(self.failed)));
        }
        if self.unknown > 0 {
            text.push_str(&format!("; of {} it is not known", messages(self.unknown)));
        }
        if self.failed + self.unknown > 0
            && let Some(why) = &self.why
        {
            text.push_str(&format!(": {}", Escaped(why)));
        }
        match self.end {
            End::Done => {}
            End::Interrupted => text.push_str("; interrupted"),
            End::Stalled => text.push_str("; given up, as nothing got through any more (--timeout)"),
        }
        text
    }

    /// Returns it for programs.
    pub(super) fn to_json(&self, target: &Target) -> Value {
        json!({
            "to": target.to_string(),
            "sent": self.sent,
            "failed": self.failed,
            "unknown": self.unknown,
            "reason": self.why,
            "complete": self.is_complete(),
            "seconds": (self.took.as_secs_f64() * 1_000.0).round() / 1_000.0,
        })
    }
}

fn messages(count: u64) -> String {
    match count {
        1 => "1 message".to_owned(),
        count => format!("{} messages", grouped(count)),
    }
}
