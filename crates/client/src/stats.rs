//! What a logger has done so far.

use std::fmt;

use warren_domain::SeverityCounts;

/// What became of every message that a [`Logger`](crate::Logger) was called with, by severity.
///
/// Taken at one moment, under one lock: `accepted + dropped + rejected` is exactly how many calls there were, and
/// `published + failed + waiting` is exactly `accepted`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Taken in, and not dropped since.
    pub accepted: SeverityCounts,
    /// The publisher has answered for them: the broker has them.
    pub published: SeverityCounts,
    /// Given up without ever having been handed to the publisher: there was no room, the logger was closed, or the
    /// caller stopped waiting.
    pub dropped: SeverityCounts,
    /// No messages: a body or attributes over the limits.
    pub rejected: SeverityCounts,
    /// Handed to the publisher and given up: refused, unroutable for too long, or not confirmed when the logger was
    /// closed. Some may have arrived all the same: of the last kind, and where the answer to an earlier try was lost
    /// and a later one was refused.
    pub failed: SeverityCounts,
    /// On their way: waiting, being published, or to be repeated.
    pub waiting: SeverityCounts,
    /// Why the last of `failed` failed.
    pub last_failure: Option<String>,
    /// Why messages are being repeated now; `None` while publishing works.
    pub trouble: Option<String>,
}

impl fmt::Display for Stats {
    /// Writes what is not zero on one line: `published 3 (info 1, error 2), dropped 1 (debug 1)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "published {}", Told(&self.published))?;
        for (what, counts) in [
            ("waiting", &self.waiting),
            ("failed", &self.failed),
            ("dropped", &self.dropped),
            ("rejected", &self.rejected),
        ] {
            if counts.total() > 0 {
                write!(f, ", {what} {}", Told(counts))?;
            }
        }
        Ok(())
    }
}

/// A sum and its parts.
struct Told<'a>(&'a SeverityCounts);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.total())?;
        let mut before = " (";
        for (severity, count) in self.0.iter().filter(|(_, count)| *count > 0) {
            write!(f, "{before}{severity} {count}")?;
            before = ", ";
        }
        f.write_str(if before == ", " { ")" } else { "" })
    }
}

/// What a logger leaves behind; see [`Logger::close`](crate::Logger::close).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CloseReport {
    /// The final numbers; nothing is waiting any more.
    pub stats: Stats,
    /// What was still waiting when the time was over. It is part of `stats.dropped` where it was surely never sent,
    /// and of `stats.failed` where it may have arrived.
    pub abandoned: SeverityCounts,
}

impl fmt::Display for CloseReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stats.fmt(f)
    }
}

impl CloseReport {
    /// Tells whether the broker has every message that was ever called with.
    pub fn is_complete(&self) -> bool {
        let Stats {
            dropped,
            rejected,
            failed,
            ..
        } = &self.stats;
        dropped.total() + rejected.total() + failed.total() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use warren_domain::Severity;

    #[test]
    fn stats_are_one_line_of_what_is_not_zero() {
        assert_eq!(Stats::default().to_string(), "published 0");
        let stats = Stats {
            published: [Severity::Info, Severity::Error, Severity::Error]
                .into_iter()
                .collect(),
            dropped: [Severity::Debug].into_iter().collect(),
            ..Stats::default()
        };
        assert_eq!(
            stats.to_string(),
            "published 3 (info 1, error 2), dropped 1 (debug 1)"
        );
    }
}
