//! The settings of watching, section `tail`.

use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

/// Settings of watching, section `tail`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TailConfig {
    /// How many of the last messages are kept for readers that are slow, or come back. Default 50,000.
    pub keep_messages: usize,
    /// How many bytes those may take, roughly, what is sent of them included. Default 32 MiB.
    pub keep_bytes: ByteSize,
    /// How many may read at once; one more is answered 503. Default 200.
    pub max_readers: usize,
    /// How many stored messages one that comes back is told at most; of those beyond it is told how many they are. Default
    /// 10,000.
    pub resume_messages: usize,
    /// How many messages a second are read of what is published, one of more than 2 KiB counting as several; of those
    /// beyond, readers are told how many they are. Default 10,000.
    pub max_messages_per_second: u64,
    /// How many bytes a second all readers of this process may be sent together; they share it evenly. Default 16 MiB.
    pub max_bytes_per_second: ByteSize,
    /// How long it goes on listening after the last reader has gone, so that one that comes back misses nothing. Default
    /// 60 s.
    #[serde(with = "humantime_serde")]
    pub linger: Duration,
}

impl Default for TailConfig {
    fn default() -> Self {
        Self {
            keep_messages: 50_000,
            keep_bytes: ByteSize::mib(32),
            max_readers: 200,
            resume_messages: 10_000,
            max_messages_per_second: 10_000,
            max_bytes_per_second: ByteSize::mib(16),
            linger: Duration::from_secs(60),
        }
    }
}

impl TailConfig {
    /// Lists what the types alone do not forbid: the setting, and what is wrong with it.
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        if !(1..=10_000_000).contains(&self.keep_messages) {
            problems.push((
                "keep_messages",
                format!("is {}; use 1 to 10000000", self.keep_messages),
            ));
        }
        let (least, most) = (ByteSize::mib(1), ByteSize::gib(16));
        if self.keep_bytes < least || self.keep_bytes > most {
            problems.push((
                "keep_bytes",
                format!("is {}; use {least} to {most}", self.keep_bytes),
            ));
        }
        if !(1..=10_000).contains(&self.max_readers) {
            problems.push(("max_readers", format!("is {}; use 1 to 10000", self.max_readers)));
        }
        if !(1..=1_000_000).contains(&self.resume_messages) {
            problems.push((
                "resume_messages",
                format!("is {}; use 1 to 1000000", self.resume_messages),
            ));
        }
        if !(100..=100_000_000).contains(&self.max_messages_per_second) {
            problems.push((
                "max_messages_per_second",
                format!("is {}; use 100 to 100000000", self.max_messages_per_second),
            ));
        }
        let (least, most) = (ByteSize::kib(64), ByteSize::gib(16));
        if self.max_bytes_per_second < least || self.max_bytes_per_second > most {
            problems.push((
                "max_bytes_per_second",
                format!("is {}; use {least} to {most}", self.max_bytes_per_second),
            ));
        }
        if self.linger > Duration::from_secs(3_600) {
            problems.push(("linger", format!("is {:?}; use at most 1h", self.linger)));
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_that_cannot_work_is_named() {
        assert_eq!(TailConfig::default().problems(), []);
        let wrong = TailConfig {
            keep_messages: 0,
            keep_bytes: ByteSize(0),
            max_readers: 0,
            resume_messages: 0,
            max_messages_per_second: 0,
            max_bytes_per_second: ByteSize(0),
            linger: Duration::MAX,
        };
        let named: Vec<_> = wrong.problems().into_iter().map(|(key, _)| key).collect();
        assert_eq!(
            named,
            [
                "keep_messages",
                "keep_bytes",
                "max_readers",
                "resume_messages",
                "max_messages_per_second",
                "max_bytes_per_second",
                "linger"
            ]
        );
    }
}
