//! What is counted.

use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};
use warren_domain::Severity;
use warren_domain::ports::PublishError;

use crate::packing::{Address, Packet};

/// Describes every metric of this crate to the recorder; call it once, after the recorder is installed.
pub fn describe_metrics() {
    describe_counter!(
        "warren_amqp_published_messages_total",
        Unit::Count,
        "Messages that RabbitMQ confirmed, by severity"
    );
    describe_counter!(
        "warren_amqp_packets_total",
        Unit::Count,
        "Packets published, those published again included, by role"
    );
    describe_counter!(
        "warren_amqp_packet_failures_total",
        Unit::Count,
        "Packets that RabbitMQ did not take, by role and reason (refused, unroutable)"
    );
    describe_histogram!(
        "warren_amqp_packet_messages",
        Unit::Count,
        "Messages in a published packet, by role"
    );
    describe_histogram!(
        "warren_amqp_confirm_seconds",
        Unit::Seconds,
        "Time from publishing a packet to its confirm, by role"
    );
    describe_gauge!(
        "warren_amqp_unconfirmed_packets",
        Unit::Count,
        "Packets published and not confirmed yet, by role"
    );
    describe_gauge!(
        "warren_amqp_pending_messages",
        Unit::Count,
        "Messages handed over and not confirmed yet, by role"
    );
    describe_gauge!(
        "warren_amqp_pending_bytes",
        Unit::Bytes,
        "Bytes handed over and not confirmed yet, by role"
    );
    describe_counter!(
        "warren_amqp_connections_total",
        Unit::Count,
        "Attempts to connect to RabbitMQ, by role and outcome (opened, failed)"
    );
    describe_gauge!(
        "warren_amqp_connected",
        Unit::Count,
        "Whether there is a connection to RabbitMQ (1) or not (0), by role"
    );
    describe_counter!(
        "warren_amqp_delivered_messages_total",
        Unit::Count,
        "Messages delivered by RabbitMQ, repetitions included, by severity"
    );
    describe_counter!(
        "warren_amqp_redelivered_messages_total",
        Unit::Count,
        "Messages delivered by RabbitMQ that may have been delivered before, by severity"
    );
    describe_counter!(
        "warren_dead_letters_total",
        Unit::Count,
        "Dead letters written, by reason"
    );
}

/// The metrics of one publishing task, looked up once.
pub(crate) struct PublishMetrics {
    role: &'static str,
    packets: Counter,
    packet_messages: Histogram,
    confirm_seconds: Histogram,
    pub(crate) unconfirmed_packets: Gauge,
    published_messages: [Counter; 5],
}

impl PublishMetrics {
    pub(crate) fn new(role: &'static str) -> Self {
        Self {
            role,
            packets: counter!("warren_amqp_packets_total", "role" => role),
            packet_messages: histogram!("warren_amqp_packet_messages", "role" => role),
            confirm_seconds: histogram!("warren_amqp_confirm_seconds", "role" => role),
            unconfirmed_packets: gauge!("warren_amqp_unconfirmed_packets", "role" => role),
            published_messages: by_severity("warren_amqp_published_messages_total"),
        }
    }

    pub(crate) fn published(&self, messages: usize) {
        self.packets.increment(1);
        self.packet_messages.record(messages as f64);
    }

    pub(crate) fn confirmed(&self, after: Duration) {
        self.confirm_seconds.record(after);
    }

    pub(crate) fn settled(&self, packet: &Packet, outcome: &Result<(), PublishError>) {
        match (outcome, &packet.address) {
            (Ok(()), Address::Messages { severity, .. }) => {
                self.published_messages[severity.index()].increment(packet.messages as u64);
            }
            (Ok(()), Address::DeadLetter(letter)) => {
                counter!("warren_dead_letters_total", "reason" => letter.code()).increment(1);
            }
            (Err(error), _) => {
                let reason = match error {
                    PublishError::Unroutable { .. } => "unroutable",
                    PublishError::Unavailable { .. } | PublishError::Refused { .. } => "refused",
                };
                counter!("warren_amqp_packet_failures_total", "role" => self.role, "reason" => reason)
                    .increment(1);
            }
        }
    }
}

/// The metrics of one consumer, looked up once.
pub(crate) struct ConsumeMetrics {
    delivered: [Counter; 5],
    redelivered: [Counter; 5],
}

impl ConsumeMetrics {
    pub(crate) fn new() -> Self {
        Self {
            delivered: by_severity("warren_amqp_delivered_messages_total"),
            redelivered: by_severity("warren_amqp_redelivered_messages_total"),
        }
    }

    pub(crate) fn delivered(&self, severities: impl Iterator<Item = Severity>, redelivered: bool) {
        let mut counts = [0_u64; 5];
        severities.for_each(|severity| counts[severity.index()] += 1);
        for (index, count) in counts.into_iter().enumerate().filter(|(_, count)| *count > 0) {
            self.delivered[index].increment(count);
            if redelivered {
                self.redelivered[index].increment(count);
            }
        }
    }
}

fn by_severity(name: &'static str) -> [Counter; 5] {
    Severity::ALL.map(|severity| counter!(name, "severity" => severity.as_str()))
}
