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
    /// Refused, for good; where an earlier try was not answered, some of them may be kept all the same.
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

#[cfg(test)]
mod tests {
    use warren_client::{Severity, SeverityCounts};

    use super::*;

    fn counts(count: u64) -> SeverityCounts {
        let mut counts = SeverityCounts::default();
        counts.add(Severity::Info, count);
        counts
    }

    #[test]
    fn what_was_refused_what_never_left_and_what_is_not_known_are_told_apart() {
        let mut report = CloseReport::default();
        report.stats.published = counts(1_500);
        report.stats.rejected = counts(2);
        // Three were refused before the end; of the rest that waited, five never left and seven may have arrived.
        report.stats.failed = counts(3 + 7);
        // One more was given up by this command while it waited for room.
        report.stats.dropped = counts(5 + 1);
        report.abandoned = counts(5 + 7);
        report.stats.last_failure = Some("away\u{1b}".to_owned());
        let faults = Faults {
            lines: 2 + 4,
            broken: None,
            given_up: 1,
        };
        let outcome = Outcome::new(&report, None, &faults, End::Interrupted, Duration::from_secs(3));
        assert_eq!(
            (outcome.sent, outcome.failed, outcome.unknown),
            (1_500, 3 + 6 + 2 + 4, 7)
        );
        assert!(!outcome.is_complete());
        assert_eq!(
            outcome.text(&Target::Http("http://host".to_owned())),
            "sent 1,500 messages to http://host in 3.0 s (500/s); 15 messages not sent; of 7 messages it is not known: \
             away\\u{1b}; interrupted"
        );
    }

    #[test]
    fn everything_kept_and_the_input_read_to_its_end_is_complete() {
        let mut report = CloseReport::default();
        report.stats.published = counts(1);
        let of = |faults: &Faults, end| Outcome::new(&report, None, faults, end, Duration::from_millis(7));
        let whole = of(&Faults::default(), End::Done);
        assert!(whole.is_complete());
        assert_eq!(
            whole.text(&Target::Http("http://host".to_owned())),
            "sent 1 message to http://host in 7 ms"
        );
        assert!(!of(&Faults::default(), End::Interrupted).is_complete());
        let broken = Faults {
            broken: Some(std::io::Error::other("gone")),
            ..Faults::default()
        };
        assert!(!of(&broken, End::Done).is_complete());
    }
}
