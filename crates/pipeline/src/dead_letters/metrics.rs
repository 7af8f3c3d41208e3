//! What is counted of dead letters.

use metrics::{Unit, counter, describe_counter, describe_gauge};

const KEPT: &str = "warren_dead_letters_kept_total";
pub(crate) const REDRIVEN: &str = "warren_dead_letters_redriven_total";
pub(crate) const PURGED: &str = "warren_dead_letters_purged_total";
pub(crate) const UNREADABLE: &str = "warren_dead_letters_unreadable_total";
pub(crate) const PAUSED: &str = "warren_dead_letters_paused";
pub(crate) const WAITING: &str = "warren_dead_letters_waiting";

/// The reasons that have a label of their own. Anybody who may publish to the dead letters can write any other one.
const REASONS: [&str; 7] = [
    "undecodable",
    "refused_by_store",
    "delivery_limit",
    "expired",
    "maxlen",
    "rejected",
    "unknown",
];

pub(crate) fn describe() {
    describe_counter!(
        KEPT,
        Unit::Count,
        "Dead letters moved from the broker to where people can work with them, by reason; one that is delivered \
         again counts again"
    );
    describe_counter!(
        REDRIVEN,
        Unit::Count,
        "Messages of dead letters that were published again, counted before each try"
    );
    describe_counter!(
        PURGED,
        Unit::Count,
        "Dead letters that were removed without being redriven"
    );
    describe_counter!(
        UNREADABLE,
        Unit::Count,
        "Dead letters that a redrive could not read, and left where they are"
    );
    describe_gauge!(
        PAUSED,
        Unit::Count,
        "1 while dead letters cannot be moved from the broker to where they are kept, else 0"
    );
    describe_gauge!(
        WAITING,
        Unit::Count,
        "Dead letters that wait for somebody to redrive or purge them"
    );
}

/// Counts a letter that was kept.
pub(crate) fn kept(reason: &str) {
    let reason = REASONS.into_iter().find(|known| *known == reason);
    counter!(KEPT, "reason" => reason.unwrap_or("other")).increment(1);
}
