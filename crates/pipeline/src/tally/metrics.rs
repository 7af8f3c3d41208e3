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
pub(super) const UNACKNOWLEDGED_PACKETS: &str = "warren_group_unacknowledged_packets";
pub(super) const UNACKNOWLEDGED_MESSAGES: &str = "warren_group_unacknowledged_messages";
pub(super) const OLDEST_SECONDS: &str = "warren_group_oldest_seconds";
pub(super) const COUNT_SECONDS: &str = "warren_group_count_seconds";
pub(super) const RETRIES: &str = "warren_group_retries_total";
pub(super) const UNSETTLED: &str = "warren_group_unsettled_deliveries_total";
pub(super) const PAUSED: &str = "warren_group_paused";

/// What is shown of a report as far as it is known.
const FIGURES: [&str; 5] = [
    READY_PACKETS,
    READY_MESSAGES,
    OLDEST_SECONDS,
    UNACKNOWLEDGED_PACKETS,
    UNACKNOWLEDGED_MESSAGES,
];

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
        (
            READY_PACKETS,
            Unit::Count,
            "Packets that wait for a group; NaN while it is not known",
        ),
        (
            READY_MESSAGES,
            Unit::Count,
            "Messages that wait for a group, where the broker can tell; NaN while it is not known",
        ),
        (
            UNACKNOWLEDGED_PACKETS,
            Unit::Count,
            "Packets that were delivered to this process for a group and are not acknowledged yet; add them up over the \
             members. NaN while it is not known",
        ),
        (
            UNACKNOWLEDGED_MESSAGES,
            Unit::Count,
            "Messages in them, where the broker can tell; NaN while it is not known",
        ),
        (
            OLDEST_SECONDS,
            Unit::Seconds,
            "Age of the oldest message that waits for a group, 0 when none does; on RabbitMQ an upper bound. NaN while \
             it is not known",
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
    /// [`FIGURES`], in their order.
    figures: [Known; 5],
}

/// A number that is not always known: not there before it is, and NaN while it is not known any more.
#[derive(Debug)]
struct Known {
    name: &'static str,
    gauge: OnceLock<Gauge>,
}

impl Known {
    const fn new(name: &'static str) -> Self {
        Self {
            name,
            gauge: OnceLock::new(),
        }
    }

    fn show(&self, group: &str, value: Option<f64>) {
        match value {
            Some(value) => {
                let gauge = || gauge!(self.name, "group" => group.to_owned());
                self.gauge.get_or_init(gauge).set(value);
            }
            None => self.gauge.get().into_iter().for_each(|gauge| gauge.set(f64::NAN)),
        }
    }
}

impl GroupCounters {
    pub(super) fn new(group: &GroupName) -> Self {
        let group = group.to_string();
        Self(Arc::new(Handles {
            messages: OnceLock::new(),
            consumed: by_severity(CONSUMED, &group),
            duplicates: counter!(DUPLICATES, "group" => group.clone()),
            figures: FIGURES.map(Known::new),
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
        let (lag, held) = (report.lag, report.unacknowledged);
        let count = |n: u64| n as f64;
        let figures = [
            lag.map(|lag| count(lag.packets)),
            lag.and_then(|lag| lag.messages).map(count),
            lag.and_then(|lag| lag.oldest_seconds),
            held.map(|held| count(held.packets)),
            held.and_then(|held| held.messages).map(count),
        ];
        for (gauge, figure) in self.0.figures.iter().zip(figures) {
            gauge.show(&self.0.group, figure);
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
