//! The settings of the section `amqp`.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use crate::error::ConfigError;
use crate::url::BrokerUrls;

/// The settings of the section `amqp`.
///
/// Everything that shapes a queue (`store_*`, `dead_*`, `group_*`) must be equal in every program that shares a
/// prefix: RabbitMQ refuses to declare a queue again with other arguments.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AmqpConfig {
    /// One or several addresses of one broker or cluster, separated by commas; `amqps` for TLS. Default
    /// `amqp://guest:guest@127.0.0.1:5672/%2f`.
    pub url: BrokerUrls,
    /// What every exchange and queue is named after: 1–64 bytes of `[A-Za-z0-9_.-]`. Default `warren`.
    pub prefix: String,
    /// How the connections call themselves in the broker's listings, at most 200 bytes. Default `warren`.
    pub client_name: String,
    /// How long one attempt to connect may take, TLS and login included. RabbitMQ turns away a wrong password only
    /// after three seconds; a shorter time cannot tell it from a broker that hangs. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// The interval of heartbeats, whole seconds of at least 2; a silent peer is given up after two of them. With
    /// `amqps` the end of a burst that fills the socket may wait for the next frame, at the latest half of this:
    /// amqprs does not flush TLS. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub heartbeat: Duration,
    /// The shortest pause between attempts to connect. Default 50 ms.
    #[serde(with = "humantime_serde")]
    pub reconnect_min: Duration,
    /// The longest pause between attempts to connect; the pauses are random below it. Default 1 s.
    #[serde(with = "humantime_serde")]
    pub reconnect_max: Duration,
    /// A PEM file with authorities to trust beside those of the system, for `amqps`. Default none.
    pub tls_ca_file: Option<PathBuf>,
    /// A PEM file with the certificate to show to the broker; needs `tls_key_file`. Default none.
    pub tls_cert_file: Option<PathBuf>,
    /// A PEM file with the private key of `tls_cert_file`. Default none.
    pub tls_key_file: Option<PathBuf>,

    /// The most messages of one severity and source that travel as one AMQP message; 1 turns packing off.
    /// Default 500.
    pub packet_max_messages: usize,
    /// The largest packet; a single message over it travels alone. Default 256 KiB.
    pub packet_max_bytes: ByteSize,
    /// How long a publish call may last: waiting for room, for the broker and for its confirm. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub publish_timeout: Duration,
    /// The most messages that wait to be confirmed; further calls wait, until `publish_timeout`.
    /// Default 200,000.
    pub max_pending_messages: usize,
    /// The most bytes that wait to be confirmed; further calls wait, until `publish_timeout`. Default 64 MiB.
    pub max_pending_bytes: ByteSize,
    /// The most rounds on their way at once: what gathers meanwhile shares packets. Fewer rounds make larger
    /// packets and longer waits. Default 2.
    pub max_unconfirmed_rounds: usize,
    /// How long the next round waits after one that the messages of at least four calls have shared, so that more of
    /// them gather; a call alone never waits. Longer pauses make larger packets. 0 turns it off. Default 1 ms.
    #[serde(with = "humantime_serde")]
    pub round_pause: Duration,
    /// The most packets on their way at once, over all rounds. Default 128.
    pub max_unconfirmed_packets: usize,
    /// The most bytes on their way at once, over all rounds; one packet is always let through. Default 16 MiB.
    pub max_unconfirmed_bytes: ByteSize,

    /// The most packets a consumer holds unsettled, 1–65,535. It is also what bounds a consumer's memory: the raw
    /// packets, at most this many times `packet_max_bytes` of the publisher, 96 MiB with the defaults, and beside
    /// them the messages of the next 32 packets and of the batches at work. In `store-worker` at least
    /// (`worker.batches_in_flight` + 1) × `worker.batch_deliveries`, or batches stay small. Default 384.
    pub prefetch: u16,

    /// How often a packet is delivered from the store queue or a group queue before the broker gives it up: the
    /// store queue's become dead letters. Every lost connection of a consumer counts, so at least 20.
    /// Default 20.
    pub store_delivery_limit: u32,
    /// How the broker itself makes dead letters of the store queue's packets, which it does at the delivery limit
    /// only; dead letters that Warren writes are always confirmed. Default `at-least-once`.
    pub store_dead_letter_strategy: DeadLetterStrategy,
    /// The size at which the store queue refuses more, and intake says 503, before a disk fills. Default 4 GiB.
    pub store_max_bytes: ByteSize,
    /// The size at which the queue of dead letters refuses more, and whoever makes them waits. Default 1 GiB.
    pub dead_max_bytes: ByteSize,
    /// The size at which a group's queue drops its oldest packets. Default 256 MiB.
    pub group_max_bytes: ByteSize,
    /// How long a group's queue outlives its last consumer, whole milliseconds. Default 3 days.
    #[serde(with = "humantime_serde")]
    pub group_expires: Duration,
}

/// How RabbitMQ hands a packet it gives up from the store queue to the dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeadLetterStrategy {
    /// The packet stays in the store queue until the queue of dead letters has it.
    ///
    /// It takes part in a fault of RabbitMQ that no release has mended so far: when a queue with this strategy is
    /// deleted in the moment it is declared, all such queues of the node may go down until the node is restarted.
    /// 3.10 dies of the first such moment, later releases only of a hundred within a second.
    /// <https://github.com/rabbitmq/rabbitmq-server/issues/16652>
    AtLeastOnce,
    /// The packet is lost when the queue of dead letters cannot take it at once. For brokers whose queues come and go
    /// all the time, such as those of tests.
    AtMostOnce,
}

impl DeadLetterStrategy {
    /// Returns the name that RabbitMQ knows it by.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::AtLeastOnce => "at-least-once",
            Self::AtMostOnce => "at-most-once",
        }
    }
}

impl Default for AmqpConfig {
    fn default() -> Self {
        Self {
            url: BrokerUrls::default(),
            prefix: "warren".to_owned(),
            client_name: "warren".to_owned(),
            connect_timeout: Duration::from_secs(5),
            heartbeat: Duration::from_secs(5),
            reconnect_min: Duration::from_millis(50),
            reconnect_max: Duration::from_secs(1),
            tls_ca_file: None,
            tls_cert_file: None,
            tls_key_file: None,
            packet_max_messages: 500,
            packet_max_bytes: ByteSize::kib(256),
            publish_timeout: Duration::from_secs(5),
            max_pending_messages: 200_000,
            max_pending_bytes: ByteSize::mib(64),
            max_unconfirmed_rounds: 2,
            round_pause: Duration::from_millis(1),
            max_unconfirmed_packets: 128,
            max_unconfirmed_bytes: ByteSize::mib(16),
            prefetch: 384,
            store_delivery_limit: 20,
            store_dead_letter_strategy: DeadLetterStrategy::AtLeastOnce,
            store_max_bytes: ByteSize::gib(4),
            dead_max_bytes: ByteSize::gib(1),
            group_max_bytes: ByteSize::mib(256),
            group_expires: Duration::from_hours(72),
        }
    }
}

/// The most packets on their way that can be configured: far below amqprs's own queue of 8,192 frames, which waits
/// for ever once it is full.
const MOST_UNCONFIRMED_PACKETS: usize = 4_096;

/// The shortest delivery limit that does not make dead letters of bystanders: every crash of a consumer counts as a
/// delivery of all that it held.
const LEAST_DELIVERY_LIMIT: u32 = 20;

impl AmqpConfig {
    /// Returns what is wrong: the setting's name within the section, and what to do about it.
    ///
    /// Reads no file and opens no connection.
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        if let Err(fault) = self.url.endpoints() {
            problems.push(("url", fault.to_string()));
        }
        let name_byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
        let (first, rest) = (self.prefix.as_str(), 1..=64);
        if !rest.contains(&first.len()) || !first.bytes().all(name_byte) {
            let remedy = "use 1–64 characters of A–Z, a–z, 0–9, _, . and -";
            problems.push(("prefix", remedy.to_owned()));
        } else if first.starts_with("amq.") {
            problems.push((
                "prefix",
                "choose another: RabbitMQ keeps amq. for itself".to_owned(),
            ));
        }
        if self.client_name.len() > 200 {
            problems.push(("client_name", "use at most 200 bytes".to_owned()));
        }
        self.connection_problems(&mut problems);
        self.publishing_problems(&mut problems);
        self.queue_problems(&mut problems);
        problems
    }

    fn connection_problems(&self, problems: &mut Vec<(&'static str, String)>) {
        let hour = Duration::from_hours(1);
        let millisecond = Duration::from_millis(1);
        if !(millisecond..=hour).contains(&self.connect_timeout) {
            problems.push(("connect_timeout", "use between 1 ms and 1 h".to_owned()));
        }
        // amqprs sends a heartbeat every half interval in whole seconds: with 1 s it would send without a pause.
        if !(2..=3_600).contains(&self.heartbeat.as_secs()) || self.heartbeat.subsec_nanos() != 0 {
            problems.push(("heartbeat", "use whole seconds between 2 s and 1 h".to_owned()));
        }
        if self.reconnect_min < millisecond || self.reconnect_min > self.reconnect_max {
            let remedy = "use at least 1 ms and at most amqp.reconnect_max";
            problems.push(("reconnect_min", remedy.to_owned()));
        }
        if self.reconnect_max > hour {
            problems.push(("reconnect_max", "use at most 1 h".to_owned()));
        }
        if self.tls_cert_file.is_some() != self.tls_key_file.is_some() {
            let remedy = "set amqp.tls_cert_file and amqp.tls_key_file, or neither";
            problems.push(("tls_cert_file", remedy.to_owned()));
        }
    }

    fn publishing_problems(&self, problems: &mut Vec<(&'static str, String)>) {
        for (name, value, most) in [
            ("packet_max_messages", self.packet_max_messages, 1_000_000),
            (
                "max_pending_messages",
                self.max_pending_messages,
                u32::MAX as usize,
            ),
            (
                "max_unconfirmed_rounds",
                self.max_unconfirmed_rounds,
                MOST_UNCONFIRMED_PACKETS,
            ),
            (
                "max_unconfirmed_packets",
                self.max_unconfirmed_packets,
                MOST_UNCONFIRMED_PACKETS,
            ),
        ] {
            if !(1..=most).contains(&value) {
                problems.push((name, format!("use between 1 and {most}")));
            }
        }
        for (name, value, most) in [
            // RabbitMQ 4 refuses messages over 16 MiB, and a packet may end with one line over the limit.
            ("packet_max_bytes", self.packet_max_bytes, ByteSize::mib(8)),
            (
                "max_pending_bytes",
                self.max_pending_bytes,
                ByteSize::b(u32::MAX.into()),
            ),
            (
                "max_unconfirmed_bytes",
                self.max_unconfirmed_bytes,
                ByteSize::b(u32::MAX.into()),
            ),
        ] {
            if value < ByteSize::kib(1) || value > most {
                problems.push((name, format!("use between 1 KiB and {most}")));
            }
        }
        if self.round_pause > Duration::from_millis(100) {
            problems.push(("round_pause", "use at most 100 ms".to_owned()));
        }
        if !(Duration::from_millis(100)..=Duration::from_hours(1)).contains(&self.publish_timeout) {
            problems.push(("publish_timeout", "use between 100 ms and 1 h".to_owned()));
        }
    }

    fn queue_problems(&self, problems: &mut Vec<(&'static str, String)>) {
        if self.prefetch == 0 {
            problems.push((
                "prefetch",
                "use between 1 and 65535; 0 would be without a bound".to_owned(),
            ));
        }
        if !(LEAST_DELIVERY_LIMIT..=1_000_000).contains(&self.store_delivery_limit) {
            let remedy = format!("use between {LEAST_DELIVERY_LIMIT} and 1000000");
            problems.push(("store_delivery_limit", remedy));
        }
        for (name, value) in [
            ("store_max_bytes", self.store_max_bytes),
            ("dead_max_bytes", self.dead_max_bytes),
            ("group_max_bytes", self.group_max_bytes),
        ] {
            if value < ByteSize::kib(1) || value > ByteSize::pib(1) {
                problems.push((name, "use between 1 KiB and 1 PiB".to_owned()));
            }
        }
        // RabbitMQ keeps the expiry in milliseconds, in 32 bits.
        let longest = Duration::from_millis(u32::MAX.into());
        let expires = self.group_expires;
        if !(Duration::from_secs(1)..=longest).contains(&expires)
            || !expires.subsec_nanos().is_multiple_of(1_000_000)
        {
            let remedy = "use whole milliseconds between 1 s and 49 days";
            problems.push(("group_expires", remedy.to_owned()));
        }
    }

    /// Returns the configuration itself when nothing is wrong with it.
    pub(crate) fn checked(self) -> Result<Self, ConfigError> {
        let problems = self.problems();
        if problems.is_empty() {
            Ok(self)
        } else {
            Err(ConfigError { problems })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_have_no_problems() {
        assert_eq!(AmqpConfig::default().problems(), []);
    }

    #[test]
    fn every_problem_names_a_setting_and_a_remedy() {
        let broken = AmqpConfig {
            url: "http://x".into(),
            prefix: "war ren".to_owned(),
            client_name: "x".repeat(201),
            connect_timeout: Duration::ZERO,
            heartbeat: Duration::from_secs(1),
            reconnect_min: Duration::from_secs(2),
            reconnect_max: Duration::from_secs(1),
            tls_cert_file: Some("a.pem".into()),
            packet_max_messages: 0,
            packet_max_bytes: ByteSize::gib(1),
            publish_timeout: Duration::ZERO,
            max_pending_messages: 0,
            max_pending_bytes: ByteSize::b(0),
            max_unconfirmed_rounds: 0,
            round_pause: Duration::from_secs(1),
            max_unconfirmed_packets: 8_192,
            max_unconfirmed_bytes: ByteSize::b(0),
            prefetch: 0,
            store_delivery_limit: 3,
            store_max_bytes: ByteSize::b(0),
            dead_max_bytes: ByteSize::b(0),
            group_max_bytes: ByteSize::b(0),
            group_expires: Duration::from_micros(1_500),
            ..AmqpConfig::default()
        };
        let problems = broken.problems();
        assert_eq!(problems.len(), 22, "{problems:?}");
        assert!(problems.iter().all(|(_, remedy)| !remedy.is_empty()));
    }

    #[test]
    fn settings_are_written_as_people_write_them() {
        let config: AmqpConfig = serde_json::from_value(serde_json::json!({
            "url": "amqps://a,amqps://b", "heartbeat": "10s", "packet_max_bytes": "64KiB", "prefetch": 10,
        }))
        .unwrap();
        assert_eq!(config.packet_max_bytes, ByteSize::kib(64));
        assert_eq!(config.heartbeat, Duration::from_secs(10));
        let written = serde_json::to_value(&config).unwrap();
        assert_eq!(written["url"], "amqps://a,amqps://b");
        assert_eq!(written["group_expires"], "3days");
        assert!(serde_json::from_value::<AmqpConfig>(serde_json::json!({"prefetsch": 1})).is_err());
    }

    #[test]
    fn a_password_is_never_shown() {
        let config = AmqpConfig {
            url: "amqp://u:hunter2@h/v,amqp://u:hunter2@h:x".into(),
            ..AmqpConfig::default()
        };
        assert!(!format!("{config:?} {:?}", config.problems()).contains("hunter2"));
        let error = config.checked().unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
}
