//! The numbers of a consumer group.

use std::sync::{Arc, OnceLock};

use metrics::{Counter, Gauge, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge};
use warren_domain::ports::GroupName;
use warren_domain::{Severity, SeverityCounts};

use super::report::GroupReport;

pub(super) const MESSAGES: &str = "warren_group_messages_total";
pub(super) const CONSUMED: &str = "warren_group_consumed_messages_total";
pub(super) const DUPLICATES: &str = "warren_group_duplicates_total";
pub(super) const UNSELECTED: &str = "warren_group_unselected_total";
pub(super) const READY_PACKETS: &str = "warren_group_ready_packets";
pub(super) const READY_MESSAGES: &str = "warren_group_ready_messages";
pub(super) const OLDEST_SECONDS: &str = "warren_group_oldest_seconds";
pub(super) const COUNT_SECONDS: &str = "warren_group_count_seconds";
pub(super) const RETRIES: &str = "warren_group_retries_total";
pub(super) const UNSETTLED: &str = "warren_group_unsettled_deliveries_total";
pub(super) const PAUSED: &str = "warren_group_paused";

/// Registers the help texts and units of what a tally loop counts.
pub(crate) fn describe() {
    let counters = [
        (
            MESSAGES,
            "Messages in the group's book, each once, by group and severity; the same in every member on one \
             machine, so take the maximum, not the sum",
        ),
        (
            CONSUMED,
            "Messages that this process counted first, by group and severity; add them up over the members",
        ),
        (
            DUPLICATES,
            "Messages in the group's book that came again and were not counted again, by group",
        ),
        (
            UNSELECTED,
            "Messages that were delivered though the group does not select them, by group",
        ),
        (
            RETRIES,
            "Tries of a group's book that failed and are repeated, by group",
        ),
        (
            UNSETTLED,
            "Counted deliveries whose acknowledgement was lost, by group; they come again",
        ),
    ];
    for (name, help) in counters {
        describe_counter!(name, Unit::Count, help);
    }
    let gauges = [
        (READY_PACKETS, Unit::Count, "Packets that wait for a group"),
        (
            READY_MESSAGES,
            Unit::Count,
            "Messages that wait for a group, where the broker can tell",
        ),
        (
            OLDEST_SECONDS,
            Unit::Seconds,
            "Age of the oldest message that waits for a group, 0 when none does; on RabbitMQ an upper bound",
        ),
        (
            PAUSED,
            Unit::Count,
            "1 while a group's loop waits for its book, else 0",
        ),
    ];
    for (name, unit, help) in gauges {
        describe_gauge!(name, unit, help);
    }
    describe_histogram!(
        COUNT_SECONDS,
        Unit::Seconds,
        "Time from handing a batch to a group's book to its commit"
    );
}

/// The counters of one group, looked up once.
#[derive(Clone, Debug)]
pub(super) struct GroupCounters(Arc<Handles>);

#[derive(Debug)]
struct Handles {
    group: String,
    /// Begun when it is known what the book holds: until then a 0 would be told as known.
    messages: OnceLock<[Counter; 5]>,
    consumed: [Counter; 5],
    duplicates: Counter,
    packets: Gauge,
}

impl GroupCounters {
    pub(super) fn new(group: &GroupName) -> Self {
        let group = group.to_string();
        Self(Arc::new(Handles {
            messages: OnceLock::new(),
            consumed: by_severity(CONSUMED, &group),
            duplicates: counter!(DUPLICATES, "group" => group.clone()),
            packets: gauge!(READY_PACKETS, "group" => group.clone()),
            group,
        }))
    }

    /// Counts what this process counted first.
    pub(super) fn consumed(&self, counts: &SeverityCounts) {
        for ((_, n), counter) in counts.iter().zip(&self.0.consumed) {
            counter.increment(n);
        }
    }

    /// Lets what the book holds be shown from now on.
    pub(super) fn know_book(&self) {
        self.0
            .messages
            .get_or_init(|| by_severity(MESSAGES, &self.0.group));
    }

    /// Shows what the report says, as far as it is known.
    pub(super) fn show(&self, report: &GroupReport) {
        for ((_, n), counter) in report
            .received
            .iter()
            .zip(self.0.messages.get().into_iter().flatten())
        {
            counter.absolute(n);
        }
        self.0.duplicates.absolute(report.duplicates);
        let Some(lag) = report.lag else { return };
        self.0.packets.set(lag.packets as f64);
        if let Some(messages) = lag.messages {
            gauge!(READY_MESSAGES, "group" => self.0.group.clone()).set(messages as f64);
        }
        if let Some(seconds) = lag.oldest_seconds {
            gauge!(OLDEST_SECONDS, "group" => self.0.group.clone()).set(seconds);
        }
    }
}

/// Looks up the counters of a group's severities, present from then on: an alert on a number that is not there cannot fire.
fn by_severity(name: &'static str, group: &str) -> [Counter; 5] {
    Severity::ALL.map(|severity| {
        let counter = counter!(name, "group" => group.to_owned(), "severity" => severity.as_str());
        counter.increment(0);
        counter
    })
}
