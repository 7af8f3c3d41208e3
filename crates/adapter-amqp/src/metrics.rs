//! What is counted.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};
use warren_domain::Severity;
use warren_domain::ports::PublishError;

use crate::packing::{Address, Packet};

/// What lies in the queue of the dead letters.
pub(crate) const DEAD_PACKETS: &str = "warren_amqp_dead_packets";

/// What of it was delivered to this process.
pub(crate) const DEAD_UNSETTLED: &str = "warren_amqp_dead_unsettled_packets";

/// Describes every metric of this crate to the recorder; call it once, after the recorder is installed.
pub fn describe_metrics() {
    describe_gauge!(
        DEAD_PACKETS,
        Unit::Count,
        "Packets that wait in the queue of the dead letters, read every second; not those that were delivered. NaN while \
         RabbitMQ does not say"
    );
    describe_gauge!(
        DEAD_UNSETTLED,
        Unit::Count,
        "Packets of the queue of the dead letters that were delivered and are not settled yet, at most"
    );
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
    describe_counter!(
        "warren_amqp_lost_connections_total",
        Unit::Count,
        "Connections to RabbitMQ that stood and were given up, each for another, by role and reason (cut, closed, \
         unconfirmed, useless, unexpected)"
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
        "warren_amqp_republished_messages_total",
        Unit::Count,
        "Messages published again because their confirm was lost, which may have arrived twice; by severity"
    );
    describe_gauge!(
        "warren_amqp_packet_max_messages",
        Unit::Count,
        "The most messages of a packet that this program publishes"
    );
    describe_gauge!(
        "warren_amqp_unsettled_packets",
        Unit::Count,
        "Packets delivered by RabbitMQ and not settled yet"
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
    republished_messages: [Counter; 5],
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
            republished_messages: by_severity("warren_amqp_republished_messages_total"),
        }
    }

    pub(crate) fn published(&self, packet: &Packet) {
        self.packets.increment(1);
        self.packet_messages.record(packet.messages as f64);
        if let (2.., Address::Messages { severity, .. }) = (packet.attempts, &packet.address) {
            self.republished_messages[severity.index()].increment(packet.messages as u64);
        }
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

/// How many packets of one connection are unsettled, as the gauge shows it until the connection is gone.
pub(crate) struct Unsettled {
    gauge: Gauge,
    /// `None` once the connection is gone: what is settled after that was never told to the broker.
    packets: Mutex<Option<u64>>,
}

impl Unsettled {
    pub(crate) fn new() -> Self {
        let gauge = gauge!("warren_amqp_unsettled_packets");
        gauge.set(0.0);
        Self {
            gauge,
            packets: Mutex::new(Some(0)),
        }
    }

    pub(crate) fn delivered(&self) {
        self.change(|packets| Some(packets.saturating_add(1)));
    }

    pub(crate) fn settled(&self) {
        self.change(|packets| Some(packets.saturating_sub(1)));
    }

    /// Counts what is out: delivered, and neither settled nor to be given back yet.
    pub(crate) fn out(&self) -> u64 {
        let packets = self.packets.lock().unwrap_or_else(PoisonError::into_inner);
        packets.unwrap_or(0)
    }

    pub(crate) fn gone(&self) {
        self.change(|_| None);
    }

    fn change(&self, change: impl FnOnce(u64) -> Option<u64>) {
        let mut packets = self.packets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(now) = *packets {
            *packets = change(now);
            self.gauge.set(packets.unwrap_or(0) as f64);
        }
    }
}

fn by_severity(name: &'static str) -> [Counter; 5] {
    Severity::ALL.map(|severity| counter!(name, "severity" => severity.as_str()))
}
