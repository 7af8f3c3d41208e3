//! The settings of this adapter.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use warren_domain::search::reader_problems;

use crate::target::Target;

/// How long after PostgreSQL's own limit the client gives a statement up and closes its connection.
///
/// Inner limits are shorter than outer ones, so that the server's error is the one that is reported.
const CLIENT_GRACE: Duration = Duration::from_secs(1);

/// Settings of PostgreSQL, section `postgres`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PostgresConfig {
    /// Where PostgreSQL is: `postgres://user:password@host:port/database?sslmode=…`.
    ///
    /// `sslmode` as in libpq: `disable`, `prefer` (the default), `require`, `verify-ca`, `verify-full`. `prefer` and
    /// `require` encrypt without knowing whom they talk to, except that `require` checks the server's certificate
    /// once `tls_ca_file` is set; only `verify-full` checks its name too. No other option is taken. A directory in
    /// place of the host (percent-encoded: `%2Frun%2Fpostgresql`) means a Unix socket.
    /// Default `postgres://warren@127.0.0.1:5432/warren`.
    pub url: String,
    /// A PEM file with the certificates that sign the server's; for `verify-ca`, `verify-full` and `require`.
    /// Default: those the system trusts.
    pub tls_ca_file: Option<PathBuf>,
    /// Connections that write, 1–64. Two overlap the flush of one batch with the work of the next. Default 2.
    pub write_connections: usize,
    /// How long connecting may take, TLS, login and the look at the schema included. Default 3 s.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// How long a batch waits for a free connection, or for the pause after a failed one to end. Default 3 s.
    #[serde(with = "humantime_serde")]
    pub acquire_timeout: Duration,
    /// How long one statement may run; PostgreSQL ends it then. One second later the client closes the
    /// connection. At least 100 ms. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub statement_timeout: Duration,
    /// How long a statement waits for a lock; less than `statement_timeout`. Default 2 s.
    #[serde(with = "humantime_serde")]
    pub lock_timeout: Duration,
    /// How long PostgreSQL keeps a transaction, with its locks, whose client has gone silent. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub idle_in_transaction_session_timeout: Duration,
    /// How long a connection is idle before TCP asks whether the other side is still there, on both sides.
    /// Default 15 s.
    #[serde(with = "humantime_serde")]
    pub keepalive: Duration,
    /// How old a connection becomes before it is replaced, so that a changed address is noticed. Default 30 min.
    #[serde(with = "humantime_serde")]
    pub connection_lifetime: Duration,
    /// For how many days ahead partitions are made, 1–90. Default 7.
    pub partitions_ahead_days: u16,
    /// How long a message that came under an `Idempotency-Key` is recognised when it comes again, at least 24 hours; by
    /// the time that messages were received, so that those that wait in a queue keep their right to it. More than the 24
    /// hours that are promised, for messages that overtake each other. Default 3 days.
    #[serde(with = "humantime_serde")]
    pub idempotency_keep: Duration,
    /// How long one statement of the maintenance may run: making, filling and dropping a partition. Default 1 min.
    #[serde(with = "humantime_serde")]
    pub maintenance_timeout: Duration,
    /// How long the maintenance waits for a lock. Writers queue up behind it meanwhile, so it is short; what
    /// did not get its lock is tried again in the next round. Default 500 ms.
    #[serde(with = "humantime_serde")]
    pub maintenance_lock_timeout: Duration,
    /// Whether the maintenance makes filters of what bodies have in them, and searches for words use them. Without,
    /// such a search looks at every message of its range. Default `true`.
    pub word_index: bool,
    /// How long `migrate` waits for another one that is at work. Default 1 min.
    #[serde(with = "humantime_serde")]
    pub migrate_timeout: Duration,
}

impl Default for PostgresConfig {
    fn default() -> Self {
        Self {
            url: "postgres://warren@127.0.0.1:5432/warren".to_owned(),
            tls_ca_file: None,
            write_connections: 2,
            connect_timeout: Duration::from_secs(3),
            acquire_timeout: Duration::from_secs(3),
            statement_timeout: Duration::from_secs(5),
            lock_timeout: Duration::from_secs(2),
            idle_in_transaction_session_timeout: Duration::from_secs(10),
            keepalive: Duration::from_secs(15),
            connection_lifetime: Duration::from_secs(30 * 60),
            partitions_ahead_days: 7,
            idempotency_keep: Duration::from_hours(72),
            maintenance_timeout: Duration::from_secs(60),
            maintenance_lock_timeout: Duration::from_millis(500),
            word_index: true,
            migrate_timeout: Duration::from_secs(60),
        }
    }
}

impl PostgresConfig {
    /// Lists what is wrong: the field, relative to the section, and what to do about it. Reads no file.
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        if let Err(problem) = Target::parse(&self.url) {
            problems.push(("url", problem));
        }
        if !(1..=64).contains(&self.write_connections) {
            problems.push(("write_connections", "must be between 1 and 64".to_owned()));
        }
        if !(1..=90).contains(&self.partitions_ahead_days) {
            problems.push(("partitions_ahead_days", "must be between 1 and 90".to_owned()));
        }
        let limits = [
            ("connect_timeout", self.connect_timeout),
            ("acquire_timeout", self.acquire_timeout),
            ("statement_timeout", self.statement_timeout),
            ("lock_timeout", self.lock_timeout),
            (
                "idle_in_transaction_session_timeout",
                self.idle_in_transaction_session_timeout,
            ),
            ("keepalive", self.keepalive),
            ("connection_lifetime", self.connection_lifetime),
            ("maintenance_timeout", self.maintenance_timeout),
            ("maintenance_lock_timeout", self.maintenance_lock_timeout),
            ("migrate_timeout", self.migrate_timeout),
        ];
        for (field, limit) in limits {
            let least = if matches!(field, "keepalive" | "connection_lifetime") {
                Duration::from_secs(1)
            } else {
                Duration::from_millis(100)
            };
            // PostgreSQL counts milliseconds in 32 bits, and takes 0 for no limit at all.
            if limit < least || limit > Duration::from_secs(24 * 60 * 60) {
                problems.push((field, format!("must be between {least:?} and one day")));
            }
        }
        if self.idempotency_keep < Duration::from_hours(24)
            || self.idempotency_keep > Duration::from_hours(24 * 365)
        {
            problems.push((
                "idempotency_keep",
                "must be between one day, which is promised, and 365 days".to_owned(),
            ));
        }
        if self.lock_timeout >= self.statement_timeout {
            problems.push((
                "lock_timeout",
                "must be less than postgres.statement_timeout, or it never has an effect".to_owned(),
            ));
        }
        if self.maintenance_lock_timeout >= self.maintenance_timeout {
            problems.push((
                "maintenance_lock_timeout",
                "must be less than postgres.maintenance_timeout, or it never has an effect".to_owned(),
            ));
        }
        problems
    }
}

impl fmt::Debug for PostgresConfig {
    /// Shows where PostgreSQL is, never the user or the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = Target::parse(&self.url).map_or_else(|_| "(not a valid URL)".to_owned(), |t| t.place);
        f.debug_struct("PostgresConfig")
            .field("url", &place)
            .field("tls_ca_file", &self.tls_ca_file)
            .field("write_connections", &self.write_connections)
            .field("statement_timeout", &self.statement_timeout)
            .finish_non_exhaustive()
    }
}

/// Settings of whoever reads messages, section `reader`; where they are read from is said by [`PostgresConfig`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReaderConfig {
    /// Connections that read, 1–64, beside those that write. Each keeps one processor of PostgreSQL's busy at most; who asks
    /// while all are busy waits for `postgres.acquire_timeout`. Default 4.
    pub connections: usize,
    /// How long one search looks before it hands over what it has found, and says where to go on. At least 1 ms. Default 2 s.
    ///
    /// A step of it may take a quarter as long, at least 100 ms and no longer than `statement_timeout`; one that is not done
    /// in time is repeated with less to do. A search that comes no further ends after eight such steps.
    #[serde(with = "humantime_serde")]
    pub search_time: Duration,
    /// How long one statement may run; PostgreSQL ends it then. At least 100 ms. Default 2 s.
    ///
    /// Searches make their statements short, so this is for a server that is slow, and for counts of a very long time. A
    /// lock is waited for half as long, and no longer than `postgres.lock_timeout`; by a step of a search, too.
    #[serde(with = "humantime_serde")]
    pub statement_timeout: Duration,
}

impl Default for ReaderConfig {
    fn default() -> Self {
        Self {
            connections: 4,
            search_time: Duration::from_secs(2),
            statement_timeout: Duration::from_secs(2),
        }
    }
}

impl ReaderConfig {
    /// Lists what is wrong: the field, relative to the section, and what to do about it.
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        reader_problems(self.connections as u64, self.search_time, self.statement_timeout)
    }
}

/// What limits a session; PostgreSQL is told, and the client keeps a longer one of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SessionLimits {
    pub(crate) statement: Duration,
    pub(crate) lock: Duration,
    pub(crate) idle_in_transaction: Duration,
    /// How long PostgreSQL lets the connection be idle before it asks whether this side is still there: a host that
    /// died would keep its locks for as long as the kernel keeps its connection, hours by default.
    pub(crate) keepalive: Duration,
}

impl SessionLimits {
    /// Returns how long the client waits for one statement before it closes the connection.
    pub(crate) fn client_side(&self) -> Duration {
        self.statement + CLIENT_GRACE
    }

    pub(crate) fn writing(config: &PostgresConfig) -> Self {
        Self {
            statement: config.statement_timeout,
            lock: config.lock_timeout,
            idle_in_transaction: config.idle_in_transaction_session_timeout,
            keepalive: config.keepalive,
        }
    }

    pub(crate) fn reading(config: &PostgresConfig, reader: &ReaderConfig) -> Self {
        Self {
            statement: reader.statement_timeout,
            lock: config.lock_timeout.min(reader.statement_timeout / 2),
            ..Self::writing(config)
        }
    }

    pub(crate) fn maintaining(config: &PostgresConfig) -> Self {
        Self {
            statement: config.maintenance_timeout,
            lock: config.maintenance_lock_timeout,
            idle_in_transaction: config.idle_in_transaction_session_timeout,
            keepalive: config.keepalive,
        }
    }

    pub(crate) fn migrating(config: &PostgresConfig) -> Self {
        Self {
            statement: config.migrate_timeout + CLIENT_GRACE,
            lock: config.migrate_timeout,
            idle_in_transaction: config.idle_in_transaction_session_timeout,
            keepalive: config.keepalive,
        }
    }
}

/// Settings that cannot be used, found before anything was opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.listed())]
pub struct ConfigError {
    /// The section: `postgres` or `reader`.
    pub section: &'static str,
    /// Each field, relative to the section, with what is wrong and what to do.
    pub problems: Vec<(&'static str, String)>,
}

impl ConfigError {
    fn listed(&self) -> String {
        let section = self.section;
        let lines: Vec<_> = self
            .problems
            .iter()
            .map(|(field, problem)| format!("{section}.{field} {problem}"))
            .collect();
        lines.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(ReaderConfig::default().problems(), []);
        assert_eq!(PostgresConfig::default().problems(), []);
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let config = PostgresConfig {
            url: "mysql://root@db".to_owned(),
            write_connections: 0,
            statement_timeout: Duration::ZERO,
            partitions_ahead_days: 0,
            ..PostgresConfig::default()
        };
        let fields: Vec<_> = config.problems().into_iter().map(|(field, _)| field).collect();
        assert_eq!(
            fields,
            [
                "url",
                "write_connections",
                "partitions_ahead_days",
                "statement_timeout",
                "lock_timeout"
            ]
        );
    }

    #[test]
    fn debug_shows_no_secret() {
        for url in [
            "postgres://anna:hunter2@db:5433/warren",
            "postgres://anna:hunter2?x@db/warren",
        ] {
            let shown = format!(
                "{:?}",
                PostgresConfig {
                    url: url.to_owned(),
                    ..PostgresConfig::default()
                }
            );
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }
}
