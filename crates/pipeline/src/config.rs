//! The settings of what runs.

use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use warren_domain::MessageLimits;

/// Settings of the intake, section `intake`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IntakeConfig {
    /// The longest body of a message, in bytes of UTF-8; a longer one is rejected. Default 256 KiB, at most 1 MiB.
    pub max_body: ByteSize,
    /// The largest attributes of a message, in bytes of compact JSON. Default 64 KiB, at most 1 MiB.
    pub max_attributes: ByteSize,
    /// The deepest attributes, in levels, the attributes object itself included. Default 32, at most 64.
    pub max_attribute_levels: usize,
    /// The most messages of one request; more are answered 413. Default 10,000.
    pub max_messages: usize,
}

impl Default for IntakeConfig {
    fn default() -> Self {
        let limits = MessageLimits::default();
        Self {
            max_body: ByteSize(limits.body_bytes as u64),
            max_attributes: ByteSize(limits.attributes_bytes as u64),
            max_attribute_levels: limits.attributes_depth,
            max_messages: 10_000,
        }
    }
}

impl IntakeConfig {
    /// Returns the limits of one message.
    pub fn message_limits(&self) -> MessageLimits {
        let bytes = |size: ByteSize| usize::try_from(size.as_u64()).unwrap_or(usize::MAX);
        MessageLimits {
            body_bytes: bytes(self.max_body),
            attributes_bytes: bytes(self.max_attributes),
            attributes_depth: self.max_attribute_levels,
        }
    }

    /// Lists what the types alone do not forbid: the setting, and what is wrong with it.
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let limits = self.message_limits();
        let ceiling = MessageLimits::CEILING;
        let mut problems = Vec::new();
        let mut within = |key, value: usize, most: usize, unit| {
            if value == 0 || value > most {
                problems.push((key, format!("is {value} {unit}; use 1 to {most}")));
            }
        };
        within("max_body", limits.body_bytes, ceiling.body_bytes, "bytes");
        within(
            "max_attributes",
            limits.attributes_bytes,
            ceiling.attributes_bytes,
            "bytes",
        );
        within(
            "max_attribute_levels",
            limits.attributes_depth,
            ceiling.attributes_depth,
            "levels",
        );
        within("max_messages", self.max_messages, 1_000_000, "messages");
        problems
    }
}

/// Settings of the store loop, section `worker`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorkerConfig {
    /// A batch is stored once it holds this many messages. Default 5,000.
    pub batch_messages: usize,
    /// A batch is stored once its bodies and attributes hold this many bytes, roughly. Default 8 MiB.
    pub batch_bytes: ByteSize,
    /// A batch is stored once it holds this many deliveries; a third of the broker's prefetch lets the next batch
    /// gather while two are being stored. Default 128.
    pub batch_deliveries: usize,
    /// A batch is stored this long after its first message at the latest. Default 50 ms.
    #[serde(with = "humantime_serde")]
    pub batch_wait: Duration,
    /// How many batches are in the store's hands at once, so that one's fsync overlaps the next one's work.
    /// Default 2.
    pub batches_in_flight: usize,
    /// The first wait after the store was unavailable; doubles, with full jitter. Default 100 ms.
    #[serde(with = "humantime_serde")]
    pub retry_min: Duration,
    /// The longest wait between two tries of the store. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub retry_max: Duration,
    /// After this long without the store, what is held goes back to the broker; the worker consumes again once the
    /// store answers, and after a pause that doubles each time, up to an hour. At most 25 minutes, which is below the
    /// broker's own limit for unacknowledged deliveries (30 minutes in RabbitMQ). Default 10 minutes.
    #[serde(with = "humantime_serde")]
    pub give_back_after: Duration,
    /// How long a stopping worker finishes what it holds before it gives the rest back. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub drain_timeout: Duration,
    /// When the store refuses more messages than this within a minute, and a larger share of all than
    /// `breaker_share`, or more than this in a row, that is taken for a constraint or a defect instead of poison: none
    /// of them becomes a dead letter, and the worker holds them until the store takes one of them. 0: never. Default 50.
    pub breaker_refused: u32,
    /// The share of a minute's messages that may be refused, however many that are; from 0 to 1. Default 0.01.
    pub breaker_share: f64,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            batch_messages: 5_000,
            batch_bytes: ByteSize::mib(8),
            batch_deliveries: 128,
            batch_wait: Duration::from_millis(50),
            batches_in_flight: 2,
            retry_min: Duration::from_millis(100),
            retry_max: Duration::from_secs(5),
            give_back_after: Duration::from_secs(600),
            drain_timeout: Duration::from_secs(10),
            breaker_refused: 50,
            breaker_share: 0.01,
        }
    }
}

impl WorkerConfig {
    /// Lists what the types alone do not forbid: the setting, and what is wrong with it.
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        for (key, value, most) in [
            ("batch_messages", self.batch_messages, 100_000),
            ("batch_deliveries", self.batch_deliveries, 65_535),
            ("batches_in_flight", self.batches_in_flight, 64),
        ] {
            if !(1..=most).contains(&value) {
                problems.push((key, format!("is {value}; use 1 to {most}")));
            }
        }
        let most = ByteSize::mib(256);
        if self.batch_bytes.as_u64() == 0 || self.batch_bytes > most {
            problems.push((
                "batch_bytes",
                format!("is {}; use more than 0 and at most {most}", self.batch_bytes),
            ));
        }
        let seconds = Duration::from_secs;
        for (key, value, least, most) in [
            ("batch_wait", self.batch_wait, seconds(0), seconds(60)),
            // Ends below the broker's own limit, also with the last try of the store.
            (
                "give_back_after",
                self.give_back_after,
                seconds(1),
                seconds(1_500),
            ),
            ("drain_timeout", self.drain_timeout, seconds(0), seconds(600)),
            ("retry_max", self.retry_max, seconds(0), seconds(300)),
        ] {
            if value < least || value > most {
                problems.push((key, format!("is {value:?}; use {least:?} to {most:?}")));
            }
        }
        if self.retry_min.is_zero() || self.retry_min > self.retry_max {
            problems.push((
                "retry_min",
                format!(
                    "is {:?}; use more than 0 and at most retry_max, {:?}",
                    self.retry_min, self.retry_max
                ),
            ));
        }
        if !(0.0..=1.0).contains(&self.breaker_share) {
            problems.push(("breaker_share", format!("is {}; use 0 to 1", self.breaker_share)));
        }
        problems
    }
}

/// Settings of the store's maintenance, section `maintenance`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MaintenanceConfig {
    /// The time between two rounds. Default 1 minute.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
}

impl Default for MaintenanceConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(60),
        }
    }
}

impl MaintenanceConfig {
    /// Lists what the types alone do not forbid: the setting, and what is wrong with it.
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        if self.interval < Duration::from_secs(1) {
            return vec![("interval", format!("is {:?}; use at least 1s", self.interval))];
        }
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(config: &WorkerConfig) -> Vec<&'static str> {
        config.problems().into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn the_defaults_have_no_problems() {
        assert_eq!(named(&WorkerConfig::default()), Vec::<&str>::new());
    }

    #[test]
    fn every_value_of_the_worker_that_cannot_work_is_named() {
        let too_small = WorkerConfig {
            batch_messages: 0,
            batch_bytes: ByteSize(0),
            batch_deliveries: 0,
            batches_in_flight: 0,
            retry_min: Duration::ZERO,
            give_back_after: Duration::ZERO,
            ..WorkerConfig::default()
        };
        assert_eq!(
            named(&too_small),
            [
                "batch_messages",
                "batch_deliveries",
                "batches_in_flight",
                "batch_bytes",
                "give_back_after",
                "retry_min"
            ]
        );
        let too_large = WorkerConfig {
            batch_messages: usize::MAX,
            batch_bytes: ByteSize::gib(1),
            batch_deliveries: usize::MAX,
            batch_wait: Duration::MAX,
            batches_in_flight: usize::MAX,
            retry_min: Duration::MAX,
            retry_max: Duration::MAX,
            give_back_after: Duration::from_secs(26 * 60),
            drain_timeout: Duration::MAX,
            breaker_refused: u32::MAX,
            breaker_share: 1.5,
        };
        assert_eq!(
            named(&too_large),
            [
                "batch_messages",
                "batch_deliveries",
                "batches_in_flight",
                "batch_bytes",
                "batch_wait",
                "give_back_after",
                "drain_timeout",
                "retry_max",
                "breaker_share"
            ]
        );
    }
}
