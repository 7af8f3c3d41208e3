//! Names of its own in RabbitMQ for each test, looked at and removed by a plain connection.

use std::time::Duration;

use amqprs::channel::{
    BasicGetArguments, Channel, ExchangeDeleteArguments, QueueDeclareArguments, QueueDeleteArguments,
    QueuePurgeArguments,
};
use amqprs::connection::{Connection, OpenConnectionArguments};
use anyhow::{Context as _, Result};
use tokio::time::timeout;

/// How long the broker may take for one answer.
const DEADLINE: Duration = Duration::from_secs(20);

/// The exchanges of one prefix, by what follows it.
const EXCHANGES: [&str; 6] = ["debug", "info", "warning", "error", "critical", "dead"];

/// The queues of one prefix, by what follows it; those of the groups only where somebody consumed.
const QUEUES: [&str; 7] = [
    "store",
    "dead",
    "group.all",
    "group.debug-info",
    "group.critical",
    "group.error",
    // The one that tests make themselves.
    "group.billing",
];

/// Everything in a broker whose name begins with a random prefix.
#[derive(Debug)]
pub struct Topology {
    url: String,
    prefix: String,
}

impl Topology {
    /// Chooses a prefix; nothing is declared by that.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            prefix: format!("e2e-{:012x}", fastrand::u64(..1 << 48)),
        }
    }

    /// Takes a prefix that somebody else has chosen.
    pub fn named(url: impl Into<String>, prefix: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            prefix: prefix.into(),
        }
    }

    /// Returns the broker's URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns the prefix.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Returns how many AMQP messages wait in `<prefix>.<queue>`, not counting those a consumer holds.
    ///
    /// # Errors
    /// The broker does not answer, or has no such queue.
    pub async fn waiting(&self, queue: &str) -> Result<u32> {
        let (connection, channel) = open(&self.url).await?;
        let name = format!("{}.{queue}", self.prefix);
        let passive = QueueDeclareArguments::new(&name).passive(true).finish();
        let declared = timeout(DEADLINE, channel.queue_declare(passive)).await;
        let count = declared
            .ok()
            .and_then(Result::ok)
            .flatten()
            .map(|(_, count, _)| count)
            .with_context(|| format!("the broker has no queue {name}"))?;
        close(connection, channel).await;
        Ok(count)
    }

    /// Takes out what is left in `<prefix>.<queue>` and returns how many AMQP messages that were, those too that somebody
    /// held whose connection is closed: where [`Topology::waiting`] reads a number that a queue tells now and then, this
    /// asks for the messages.
    ///
    /// # Errors
    /// The broker does not answer, or has no such queue.
    pub async fn take_rest(&self, queue: &str) -> Result<u32> {
        let (connection, channel) = open(&self.url).await?;
        let name = format!("{}.{queue}", self.prefix);
        let get = BasicGetArguments::new(&name).no_ack(true).finish();
        let mut count = 0;
        while timeout(DEADLINE, channel.basic_get(get.clone()))
            .await??
            .is_some()
        {
            count += 1;
        }
        close(connection, channel).await;
        Ok(count)
    }

    /// Throws away what waits in `<prefix>.<queue>`, not what a consumer holds; returns how many AMQP messages that were.
    ///
    /// # Errors
    /// The broker does not answer, or has no such queue.
    pub async fn purge(&self, queue: &str) -> Result<u32> {
        let (connection, channel) = open(&self.url).await?;
        let name = format!("{}.{queue}", self.prefix);
        let purged = timeout(DEADLINE, channel.queue_purge(QueuePurgeArguments::new(&name))).await?;
        let count = purged?.with_context(|| format!("the broker does not say what it purged from {name}"))?;
        close(connection, channel).await;
        Ok(count)
    }

    /// Removes every queue and exchange of the prefix.
    ///
    /// # Errors
    /// The broker does not answer.
    pub async fn remove(self) -> Result<()> {
        let (connection, channel) = open(&self.url).await?;
        for queue in QUEUES {
            let name = format!("{}.{queue}", self.prefix);
            timeout(DEADLINE, channel.queue_delete(QueueDeleteArguments::new(&name)))
                .await?
                .with_context(|| format!("cannot delete the queue {name}"))?;
        }
        for exchange in EXCHANGES {
            let name = format!("{}.{exchange}", self.prefix);
            timeout(
                DEADLINE,
                channel.exchange_delete(ExchangeDeleteArguments::new(&name)),
            )
            .await?
            .with_context(|| format!("cannot delete the exchange {name}"))?;
        }
        close(connection, channel).await;
        Ok(())
    }
}

/// Opens a connection and a channel.
///
/// # Errors
/// The broker does not answer; the message says how to point the tests to another one.
pub async fn open(url: &str) -> Result<(Connection, Channel)> {
    let arguments = arguments(url)?;
    let connection = timeout(DEADLINE, Connection::open(&arguments))
        .await
        .context("RabbitMQ does not answer")?
        .context("cannot connect to RabbitMQ; start one, or set WARREN_TEST_AMQP_URL")?;
    let channel = timeout(DEADLINE, connection.open_channel(None))
        .await?
        .context("cannot open a channel")?;
    Ok((connection, channel))
}

/// Closes both politely; what the broker says to that changes nothing for a test.
pub async fn close(connection: Connection, channel: Channel) {
    let closing = async {
        let channel = channel.close().await;
        let connection = connection.close().await;
        channel.and(connection)
    };
    if !matches!(timeout(Duration::from_secs(5), closing).await, Ok(Ok(()))) {
        eprintln!("a test's connection to RabbitMQ was not closed politely");
    }
}

/// Reads `amqp://user:password@host:port/vhost`; parameters are left out.
fn arguments(url: &str) -> Result<OpenConnectionArguments> {
    let rest = url
        .strip_prefix("amqp://")
        .context("the tests take amqp:// URLs")?;
    let rest = rest.split(['?', '#']).next().unwrap_or(rest);
    let (credentials, place) = rest.rsplit_once('@').unwrap_or(("guest:guest", rest));
    let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
    let (host, vhost) = place.split_once('/').unwrap_or((place, ""));
    let (host, port) = host.rsplit_once(':').unwrap_or((host, "5672"));
    let mut arguments = OpenConnectionArguments::new(
        host,
        port.parse().context("the port of the AMQP URL is no number")?,
        &decoded(user),
        &decoded(password),
    );
    let vhost = decoded(vhost);
    arguments.virtual_host(if vhost.is_empty() { "/" } else { &vhost });
    Ok(arguments)
}

/// Decodes `%2f` and the like.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        match rest
            .get(at + 1..at + 3)
            .and_then(|digits| u8::from_str_radix(digits, 16).ok())
        {
            Some(byte) => {
                bytes.push(byte);
                rest = &rest[at + 3..];
            }
            None => {
                bytes.push(b'%');
                rest = &rest[at + 1..];
            }
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart() {
        let parsed = arguments("amqp://us%40er:p%2fw@broker:5673/v%2fhost?heartbeat=5").unwrap();
        assert_eq!(
            (parsed.get_host(), parsed.get_port(), parsed.get_virtual_host()),
            ("broker", 5673, "v/host")
        );
        let parsed = arguments("amqp://localhost").unwrap();
        assert_eq!((parsed.get_port(), parsed.get_virtual_host()), (5672, "/"));
        assert_eq!(decoded("50%-%zz%41"), "50%-%zzA");
    }
}
