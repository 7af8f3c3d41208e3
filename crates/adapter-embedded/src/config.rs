//! The settings of the embedded adapter: the section `embedded`, and of a spool: the section `spool`.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use warren_domain::search::reader_problems;

/// The settings of the embedded adapter: the section `embedded`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EmbeddedConfig {
    /// The data directory; made with mode 0700 when it is not there. Default `./warren-data`.
    pub path: PathBuf,
    /// How large the data directory may grow, queue and store together; at least 32 MiB. Default 10 GiB.
    ///
    /// A queued message reserves its room in the store, so what was accepted can always be stored. When no room
    /// is left, publishing fails as unavailable until messages are removed (`retention_days`) or this is raised.
    /// For moments the directory may exceed it by the size of one batch. It must fit the disk: a disk that is full
    /// cannot be drained either.
    pub max_bytes: ByteSize,
    /// How long publishing waits for its commit before it fails as unavailable. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub publish_timeout: Duration,
    /// How long storing a batch may take before it fails as unavailable. Default 30 s.
    #[serde(with = "humantime_serde")]
    pub store_timeout: Duration,
    /// How many messages one row of the queue, and so one delivery, may hold. Default 500.
    pub packet_max_messages: usize,
    /// How many bytes one row of the queue may hold; a larger message has a row of its own. Default 256 KiB.
    pub packet_max_bytes: ByteSize,
    /// How many bytes of messages one commit of the queue may gather. Default 8 MiB.
    pub commit_max_bytes: ByteSize,
    /// How many messages may wait for their commit; more callers wait in turn. Default 100,000.
    pub pending_max_messages: usize,
    /// How many bytes of messages may wait for their commit; more callers wait in turn. Default 32 MiB.
    pub pending_max_bytes: ByteSize,
    /// How many deliveries of one consumer may be out unsettled. Default 256.
    pub prefetch: usize,
    /// How many bytes the unsettled deliveries of one consumer may hold; one larger delivery is let through alone.
    /// Default 8 MiB.
    pub prefetch_max_bytes: ByteSize,
    /// How many bytes may wait for one named consumer group; the oldest are dropped beyond it. Default 256 MiB.
    ///
    /// The way into the store is not bounded by it, but by `max_bytes`.
    pub group_max_bytes: ByteSize,
    /// How long a message that came under an `Idempotency-Key` is recognised when it comes again, at least 24 hours; by
    /// the time that messages were received, so that those that wait in the queue keep their right to it. Default 3 days.
    #[serde(with = "humantime_serde")]
    pub idempotency_keep: Duration,
    /// How long a named consumer group without a member is kept. Default 7 days.
    #[serde(with = "humantime_serde")]
    pub group_expiry: Duration,
}

impl Default for EmbeddedConfig {
    fn default() -> Self {
        Self {
            path: "./warren-data".into(),
            max_bytes: ByteSize::gib(10),
            publish_timeout: Duration::from_secs(5),
            store_timeout: Duration::from_secs(30),
            packet_max_messages: 500,
            packet_max_bytes: ByteSize::kib(256),
            commit_max_bytes: ByteSize::mib(8),
            pending_max_messages: 100_000,
            pending_max_bytes: ByteSize::mib(32),
            prefetch: 256,
            prefetch_max_bytes: ByteSize::mib(8),
            group_max_bytes: ByteSize::mib(256),
            idempotency_keep: Duration::from_hours(72),
            group_expiry: Duration::from_hours(7 * 24),
        }
    }
}

impl EmbeddedConfig {
    /// Lists what the types cannot express: each field, what is wrong with it, and what to do.
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        if self.path.as_os_str().is_empty() {
            problems.push((
                "path",
                "is empty; name a directory, such as ./warren-data".to_owned(),
            ));
        } else if self.path.to_str().is_none() {
            problems.push((
                "path",
                "is not UTF-8, which SQLite needs; name another directory".to_owned(),
            ));
        }
        let mib = ByteSize::mib;
        let kib = ByteSize::kib;
        for (field, value, least, most) in [
            ("max_bytes", self.max_bytes, mib(32), ByteSize::pib(1)),
            ("packet_max_bytes", self.packet_max_bytes, kib(1), mib(16)),
            ("commit_max_bytes", self.commit_max_bytes, kib(64), mib(256)),
            (
                "pending_max_bytes",
                self.pending_max_bytes,
                kib(64),
                ByteSize::gib(4),
            ),
            (
                "prefetch_max_bytes",
                self.prefetch_max_bytes,
                kib(64),
                ByteSize::gib(4),
            ),
            ("group_max_bytes", self.group_max_bytes, mib(1), ByteSize::pib(1)),
        ] {
            if value < least || value > most {
                problems.push((field, format!("is {value}; set it between {least} and {most}")));
            }
        }
        for (field, value, most) in [
            ("packet_max_messages", self.packet_max_messages, 10_000),
            ("pending_max_messages", self.pending_max_messages, 10_000_000),
            ("prefetch", self.prefetch, 65_535),
        ] {
            if value == 0 || value > most {
                problems.push((field, format!("is {value}; set it between 1 and {most}")));
            }
        }
        for (field, value, least, most) in [
            ("publish_timeout", self.publish_timeout, 100, 600_000),
            ("store_timeout", self.store_timeout, 100, 600_000),
            (
                "idempotency_keep",
                self.idempotency_keep,
                86_400_000,
                365 * 86_400_000,
            ),
            ("group_expiry", self.group_expiry, 60_000, 3_650 * 86_400_000),
        ] {
            if value < Duration::from_millis(least) || value > Duration::from_millis(most) {
                let (least, most) = (Duration::from_millis(least), Duration::from_millis(most));
                problems.push((
                    field,
                    format!("is {value:?}; set it between {least:?} and {most:?}"),
                ));
            }
        }
        problems
    }
}

/// The settings of whoever reads messages, section `reader`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReaderConfig {
    /// Connections that read, 1–64, each with a thread and 8 MiB of pages. Default 2.
    pub connections: u32,
    /// How long one search looks before it hands over what it has found, and says where to go on. At least 1 ms. Default 2 s.
    ///
    /// A step of it may take a quarter as long, at least 100 ms and no longer than `statement_timeout`; one that is not done
    /// in time is repeated with less to do. A search that comes no further ends after seven such steps.
    #[serde(with = "humantime_serde")]
    pub search_time: Duration,
    /// How long one statement may run, and how long is waited for a connection that is free. At least 100 ms. Default 2 s.
    ///
    /// Searches make their statements short, so this is for a disk that is slow, and for counts of a very long time.
    #[serde(with = "humantime_serde")]
    pub statement_timeout: Duration,
}

impl Default for ReaderConfig {
    fn default() -> Self {
        Self {
            connections: 2,
            search_time: Duration::from_secs(2),
            statement_timeout: Duration::from_secs(2),
        }
    }
}

impl ReaderConfig {
    /// Lists what is wrong: the field, relative to the section, and what to do about it.
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        reader_problems(self.connections.into(), self.search_time, self.statement_timeout)
    }
}

/// The settings of a spool: the section `spool`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SpoolConfig {
    /// The directory of the spool, on a local disk and of this process alone; made with mode 0700 when it is not
    /// there. Not set, nothing is spooled. Default: not set.
    pub path: Option<PathBuf>,
    /// How large the directory may grow; at least 4 MiB. Default 1 GiB.
    ///
    /// When no room is left, spooling fails as unavailable until the broker has taken some of it. It must fit the disk.
    pub max_bytes: ByteSize,
    /// How long spooling waits for its commit before it fails as unavailable. Default 2 s.
    #[serde(with = "humantime_serde")]
    pub publish_timeout: Duration,
}

impl Default for SpoolConfig {
    fn default() -> Self {
        Self {
            path: None,
            max_bytes: ByteSize::gib(1),
            publish_timeout: Duration::from_secs(2),
        }
    }
}

impl SpoolConfig {
    /// Lists what the types cannot express: each field, what is wrong with it, and what to do.
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        match &self.path {
            Some(path) if path.as_os_str().is_empty() => problems.push((
                "path",
                "is empty; name a directory, such as /var/lib/warren/spool, or leave it out".to_owned(),
            )),
            Some(path) if path.to_str().is_none() => problems.push((
                "path",
                "is not UTF-8, which SQLite needs; name another directory".to_owned(),
            )),
            _ => {}
        }
        let (least, most) = (ByteSize::mib(4), ByteSize::pib(1));
        if self.max_bytes < least || self.max_bytes > most {
            problems.push((
                "max_bytes",
                format!("is {}; set it between {least} and {most}", self.max_bytes),
            ));
        }
        let (least, most) = (Duration::from_millis(100), Duration::from_secs(600));
        if self.publish_timeout < least || self.publish_timeout > most {
            problems.push((
                "publish_timeout",
                format!(
                    "is {:?}; set it between {least:?} and {most:?}",
                    self.publish_timeout
                ),
            ));
        }
        problems
    }

    /// Returns the settings of the queue that a spool is.
    pub(crate) fn queue(&self) -> EmbeddedConfig {
        EmbeddedConfig {
            max_bytes: self.max_bytes,
            publish_timeout: self.publish_timeout,
            // Beside what the way to the broker holds; half of what a process has that lives by this queue alone.
            pending_max_bytes: ByteSize::mib(16),
            prefetch_max_bytes: ByteSize::mib(4),
            ..EmbeddedConfig::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_have_no_problems() {
        assert_eq!(ReaderConfig::default().problems(), []);
        assert_eq!(EmbeddedConfig::default().problems(), []);
    }

    #[test]
    fn every_value_that_cannot_work_is_named() {
        let config = EmbeddedConfig {
            path: PathBuf::new(),
            max_bytes: ByteSize::mib(1),
            publish_timeout: Duration::ZERO,
            store_timeout: Duration::MAX,
            packet_max_messages: 0,
            packet_max_bytes: ByteSize::b(1),
            commit_max_bytes: ByteSize::b(0),
            pending_max_messages: usize::MAX,
            pending_max_bytes: ByteSize::b(0),
            prefetch: 0,
            prefetch_max_bytes: ByteSize::b(0),
            group_max_bytes: ByteSize::b(0),
            idempotency_keep: Duration::from_hours(23),
            group_expiry: Duration::ZERO,
        };
        let mut named: Vec<_> = config.problems().into_iter().map(|(field, _)| field).collect();
        named.sort_unstable();
        named.dedup();
        assert_eq!(named.len(), 14);
    }

    #[test]
    fn a_spool_is_off_by_default_and_every_value_that_cannot_work_is_named() {
        assert_eq!(SpoolConfig::default().path, None);
        assert_eq!(SpoolConfig::default().problems(), []);
        let config = SpoolConfig {
            path: Some(PathBuf::new()),
            max_bytes: ByteSize::mib(1),
            publish_timeout: Duration::ZERO,
        };
        let named: Vec<_> = config.problems().into_iter().map(|(field, _)| field).collect();
        assert_eq!(named, ["path", "max_bytes", "publish_timeout"]);
    }

    #[test]
    fn settings_read_in_the_units_people_write() {
        let config: EmbeddedConfig =
            serde_json::from_str(r#"{"path":"/var/lib/warren","max_bytes":"2GiB","publish_timeout":"3s"}"#)
                .unwrap();
        assert_eq!(config.max_bytes, ByteSize::gib(2));
        assert_eq!(config.publish_timeout, Duration::from_secs(3));
        assert!(serde_json::from_str::<EmbeddedConfig>(r#"{"max_byte":"2GiB"}"#).is_err());
    }
}
