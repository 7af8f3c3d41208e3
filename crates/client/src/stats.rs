//! What a logger has done so far.

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
    /// closed. Only of the last kind some may have arrived.
    pub failed: SeverityCounts,
    /// On their way: waiting, being published, or to be repeated.
    pub waiting: SeverityCounts,
    /// Why the last of `failed` failed.
    pub last_failure: Option<String>,
    /// Why messages are being repeated now; `None` while publishing works.
    pub trouble: Option<String>,
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
