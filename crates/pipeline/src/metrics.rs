//! The numbers by which the way of a message can be checked.

use std::sync::Arc;

use metrics::{Counter, Unit, counter, describe_counter, describe_gauge, describe_histogram};
use warren_domain::{Severity, SeverityCounts};

pub(crate) const RECEIVED: &str = "warren_intake_accepted_messages_total";
pub(crate) const KEYED: &str = "warren_intake_keyed_messages_total";
pub(crate) const REJECTED: &str = "warren_intake_rejected_messages_total";
pub(crate) const PUBLISHING: &str = "warren_intake_publishing_messages";
pub(crate) const UNPUBLISHED: &str = "warren_intake_unpublished_messages_total";
pub(crate) const SPOOLED: &str = "warren_spool_spooled_messages_total";
pub(crate) const DRAINED: &str = "warren_spool_drained_messages_total";
pub(crate) const SPOOL_DEAD: &str = "warren_spool_dead_lettered_messages_total";
pub(crate) const SPOOL_REPEATED: &str = "warren_spool_repeated_messages_total";
pub(crate) const SPOOL_WAITING: &str = "warren_spool_messages";
pub(crate) const SPOOL_OLDEST: &str = "warren_spool_oldest_seconds";
pub(crate) const SPOOLING: &str = "warren_spool_active";
pub(crate) const STORED: &str = "warren_store_inserted_messages_total";
pub(crate) const DUPLICATES: &str = "warren_store_duplicate_messages_total";
pub(crate) const REPEATED: &str = "warren_store_idempotency_repeats_total";
pub(crate) const CONFLICTING: &str = "warren_store_idempotency_conflicts_total";
pub(crate) const DEAD: &str = "warren_store_dead_lettered_messages_total";
pub(crate) const HELD: &str = "warren_store_held_messages";
pub(crate) const BACKLOG_PACKETS: &str = "warren_store_backlog_packets";
pub(crate) const BACKLOG_KNOWN: &str = "warren_store_backlog_known";
pub(crate) const BACKLOG_MESSAGES: &str = "warren_store_backlog_messages";
pub(crate) const BACKLOG_UNACKNOWLEDGED: &str = "warren_store_unacknowledged_packets";
pub(crate) const BATCH_MESSAGES: &str = "warren_store_batch_messages";
pub(crate) const BATCH_SECONDS: &str = "warren_store_batch_seconds";
pub(crate) const DELAY_SECONDS: &str = "warren_store_delay_seconds";
pub(crate) const RETRIES: &str = "warren_store_retries_total";
pub(crate) const PAUSED: &str = "warren_store_paused";
pub(crate) const BREAKER_OPEN: &str = "warren_store_breaker_open";
pub(crate) const BREAKER_TRIPS: &str = "warren_store_breaker_trips_total";
pub(crate) const UNSETTLED: &str = "warren_store_unsettled_deliveries_total";
pub(crate) const MAINTENANCE: &str = "warren_maintenance_rounds_total";

/// Registers the help texts and units of everything this crate counts.
pub fn describe_metrics() {
    crate::tail::metrics::describe();
    crate::tally::metrics::describe();
    crate::dead_letters::metrics::describe();
    describe_counter!(
        RECEIVED,
        Unit::Count,
        "Messages the broker or the spool has taken responsibility for, by severity"
    );
    describe_counter!(
        KEYED,
        Unit::Count,
        "Messages made of records that came under an Idempotency-Key, repeats included, before they are published"
    );
    describe_counter!(
        REJECTED,
        Unit::Count,
        "Records that were not valid messages, by code of the fault"
    );
    describe_counter!(
        UNPUBLISHED,
        Unit::Count,
        "Valid messages not known to be durable, by severity and verdict (unavailable: may have arrived all the same, \
         unroutable, refused, overload: surely not)"
    );
    describe_counter!(
        SPOOLED,
        Unit::Count,
        "Messages put by in the spool because the broker was away, by severity"
    );
    describe_counter!(
        DRAINED,
        Unit::Count,
        "Messages of the spool that the broker has confirmed, by severity"
    );
    describe_counter!(
        SPOOL_DEAD,
        Unit::Count,
        "Messages of the spool that the broker will never take, now its dead letters, by severity"
    );
    describe_counter!(
        SPOOL_REPEATED,
        Unit::Count,
        "Messages of the spool that the broker is given once more though it may have taken them, by severity"
    );
    describe_gauge!(
        SPOOL_WAITING,
        Unit::Count,
        "Messages in the spool that the broker has not confirmed yet"
    );
    describe_gauge!(
        SPOOL_OLDEST,
        Unit::Seconds,
        "How long the oldest message has waited in the spool; 0 when it is empty"
    );
    describe_gauge!(
        SPOOLING,
        Unit::Count,
        "1 while new messages pass through the spool, else 0"
    );
    describe_gauge!(
        PUBLISHING,
        Unit::Count,
        "Messages handed to the publisher that has not answered yet, by severity"
    );
    describe_gauge!(
        HELD,
        Unit::Count,
        "Messages delivered to the store loop and not settled yet, by severity"
    );
    describe_gauge!(
        BACKLOG_PACKETS,
        Unit::Count,
        "Packets that wait for a store loop, read every second; not those that were delivered"
    );
    describe_gauge!(
        BACKLOG_KNOWN,
        Unit::Count,
        "1 while it can be told what waits for a store loop; at 0 the numbers are those of before"
    );
    describe_gauge!(
        BACKLOG_UNACKNOWLEDGED,
        Unit::Count,
        "Packets that were delivered to this process to be stored and are not acknowledged yet, read every second; add \
         them up over the workers"
    );
    describe_gauge!(
        BACKLOG_MESSAGES,
        Unit::Count,
        "Messages that wait for a store loop, where the broker can tell"
    );
    describe_counter!(
        STORED,
        Unit::Count,
        "Messages stored for the first time, by severity"
    );
    describe_counter!(
        DUPLICATES,
        Unit::Count,
        "Messages that were stored already, by severity and delivery (first: it was sent or published twice; again: \
         its delivery may be a repetition)"
    );
    describe_counter!(
        REPEATED,
        Unit::Count,
        "Duplicates found by their Idempotency-Key and content, whatever their id"
    );
    describe_counter!(
        CONFLICTING,
        Unit::Count,
        "Messages stored under an Idempotency-Key that was known with other content"
    );
    describe_counter!(
        DEAD,
        Unit::Count,
        "Messages the store refused, now dead letters, by severity and delivery (first; again: its delivery may be a \
         repetition)"
    );
    describe_histogram!(
        BATCH_MESSAGES,
        Unit::Count,
        "Messages in a batch handed to the store"
    );
    describe_histogram!(
        BATCH_SECONDS,
        Unit::Seconds,
        "Time from handing a batch to the store to its commit"
    );
    describe_histogram!(
        DELAY_SECONDS,
        Unit::Seconds,
        "Time from taking the oldest message of a batch in to its commit in the store"
    );
    describe_counter!(
        RETRIES,
        Unit::Count,
        "Tries of the store that failed and are repeated, by verdict"
    );
    describe_gauge!(
        PAUSED,
        Unit::Count,
        "1 while the store loop waits for the store, else 0"
    );
    describe_gauge!(
        BREAKER_OPEN,
        Unit::Count,
        "1 while refused messages are held because the store suddenly refuses many, else 0"
    );
    describe_counter!(
        BREAKER_TRIPS,
        Unit::Count,
        "Times that the store suddenly refused many messages"
    );
    describe_counter!(
        UNSETTLED,
        Unit::Count,
        "Stored deliveries whose acknowledgement was lost; they come again"
    );
    describe_counter!(
        MAINTENANCE,
        Unit::Count,
        "Rounds of store maintenance, by outcome"
    );
}

/// Adds counts to one counter for each severity.
pub(crate) fn count_by_severity(name: &'static str, counts: &SeverityCounts) {
    for (severity, n) in counts.iter() {
        if n > 0 {
            counter!(name, "severity" => severity.as_str()).increment(n);
        }
    }
}

/// Adds counts to one counter for each severity, and for whether the delivery was the first one or came again.
pub(crate) fn count_by_delivery(name: &'static str, first: &SeverityCounts, again: &SeverityCounts) {
    for (delivery, counts) in [("first", first), ("again", again)] {
        for (severity, n) in counts.iter().filter(|(_, n)| *n > 0) {
            counter!(name, "severity" => severity.as_str(), "delivery" => delivery).increment(n);
        }
    }
}

/// One counter for each severity, looked up once: a look-up costs more than the count.
#[derive(Clone, Debug)]
pub(crate) struct SeverityCounters(Arc<[Counter]>);

impl SeverityCounters {
    pub(crate) fn new(name: &'static str) -> Self {
        Self(
            Severity::ALL
                .iter()
                .map(|severity| counter!(name, "severity" => severity.as_str()))
                .collect(),
        )
    }

    pub(crate) fn add(&self, counts: &SeverityCounts) {
        for ((_, n), counter) in counts.iter().zip(&*self.0) {
            if n > 0 {
                counter.increment(n);
            }
        }
    }
}
