//! What can be wrong with the settings, and what can happen to a connection.

use std::sync::Arc;

use warren_domain::ports::Cause;

/// Settings that cannot be used: each with its name within the section `amqp`, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The name of the setting, and what is wrong with it and how to mend it, at least one.
    pub problems: Vec<(&'static str, String)>,
}

impl ConfigError {
    pub(crate) fn one(setting: &'static str, problem: impl Into<String>) -> Self {
        Self {
            problems: vec![(setting, problem.into())],
        }
    }
}

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, (setting, problem)) in self.problems.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}amqp.{setting}: {problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// Why there is no connection to work with; every one is answered by a pause and another attempt.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// No connection, or no login: the address, the network, the certificate or the credentials.
    #[error(
        "cannot connect to {endpoint}; is it running there, and are user, password, virtual host and TLS right?"
    )]
    Connect {
        endpoint: String,
        #[source]
        cause: Cause,
    },
    /// Neither yes nor no in time.
    #[error("{endpoint} did not let us in within {} ms: it hangs, or another service is there", timeout.as_millis())]
    Timeout {
        endpoint: String,
        timeout: std::time::Duration,
    },
    /// The broker refuses to declare something.
    #[error("{0}")]
    Topology(String),
    /// The connection or its channel ended.
    #[error("{0}")]
    Lost(String),
}

/// Why a connection that stood was given up; every one is answered by another.
#[derive(Clone, Debug)]
pub(crate) struct Lost {
    /// The same in one word, for the metrics.
    pub(crate) kind: &'static str,
    pub(crate) reason: String,
}

impl Lost {
    /// It ended and nobody said why, or nothing was heard any more.
    pub(crate) fn cut(reason: impl Into<String>) -> Self {
        Self::new("cut", reason)
    }

    /// RabbitMQ closed it, or its channel, and said why.
    pub(crate) fn closed(reason: impl Into<String>) -> Self {
        Self::new("closed", reason)
    }

    /// RabbitMQ did not confirm in time.
    pub(crate) fn unconfirmed(reason: impl Into<String>) -> Self {
        Self::new("unconfirmed", reason)
    }

    /// The connection stands, and RabbitMQ delivers or declares nothing more on it.
    pub(crate) fn useless(reason: impl Into<String>) -> Self {
        Self::new("useless", reason)
    }

    /// RabbitMQ said what it should not have said.
    pub(crate) fn unexpected(reason: impl Into<String>) -> Self {
        Self::new("unexpected", reason)
    }

    fn new(kind: &'static str, reason: impl Into<String>) -> Self {
        Self {
            kind,
            reason: reason.into(),
        }
    }
}

/// Keeps an error of amqprs as a port's cause.
pub(crate) fn cause(error: amqprs::error::Error) -> Cause {
    Arc::new(error)
}
