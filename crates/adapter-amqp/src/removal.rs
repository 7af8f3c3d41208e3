//! Takes everything of a prefix off the broker again.

use std::time::Duration;

use amqprs::channel::{Channel, ExchangeDeleteArguments, QueueDeleteArguments, QueuePurgeArguments};
use warren_domain::Severity;
use warren_domain::ports::{Cause, ConsumerGroup, GroupName};

use crate::config::AmqpConfig;
use crate::connection::{Connector, Event, Link};
use crate::error::{ConfigError, LinkError};
use crate::status::chain;
use crate::topology::Topology;

/// How long emptying the store queue may take; one that does not run never answers.
const PURGE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long all deletions together may take.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(30);

/// Why the exchanges and queues of a prefix were not removed, or not all of them.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RemovalError {
    /// The settings cannot be used; nothing was removed.
    #[error("the settings of RabbitMQ cannot be used")]
    Config(#[source] ConfigError),
    /// Try again later: removing what is gone already succeeds.
    #[error("the exchanges and queues cannot be removed now: {reason}")]
    Unavailable {
        /// What is the matter, for people.
        reason: String,
        /// The technology's error, where there is one.
        #[source]
        cause: Option<Cause>,
    },
}

/// Deletes every exchange of a prefix, its store queue, its queue of dead letters and the queues of `groups`, whatever
/// they hold. For scenarios and tests, which leave nothing behind.
///
/// What does not exist counts as removed. Every program that uses the prefix has to have ended before: it would
/// declare everything again, and a store queue that dead-letters at least once must not be deleted while it is
/// declared (`docs/guarantees.md`, "A fault of RabbitMQ itself"). A declaration that a program has left behind is safe:
/// the store queue is emptied first, which RabbitMQ does only once the queue runs, and its dead-lettering with it.
/// Live tails go by themselves.
///
/// Tries each address once; waits some 45 seconds at most.
///
/// # Errors
/// [`RemovalError`]; some may be removed.
pub async fn remove_topology(config: &AmqpConfig, groups: &[GroupName]) -> Result<(), RemovalError> {
    let config = config.clone().checked().map_err(RemovalError::Config)?;
    let mut connector = Connector::new(&config, "remove").map_err(RemovalError::Config)?;
    let link = opened(&mut connector).await.map_err(unavailable)?;
    let removed = removed(&link, &Topology::new(&config), groups).await;
    link.close().await;
    removed.map_err(unavailable)
}

async fn opened(connector: &mut Connector) -> Result<Link, LinkError> {
    let mut opened = connector.open().await;
    for _ in 1..connector.addresses() {
        if opened.is_ok() {
            break;
        }
        opened = connector.open().await;
    }
    opened
}

async fn removed(link: &Link, topology: &Topology, groups: &[GroupName]) -> Result<(), LinkError> {
    let (store, dead) = (topology.queue(&ConsumerGroup::Store), topology.dead());
    let emptying = (link.side_channel(), QueuePurgeArguments::new(&store));
    let emptied = link.run(PURGE_TIMEOUT, async move {
        let (channel, _events) = emptying.0.await?;
        let emptied = channel.queue_purge(emptying.1).await;
        emptied.map_err(|error| LinkError::Lost(error.to_string()))
    });
    if let Err(error) = emptied.await.flatten() {
        // It does not exist, or it does not run; then there is nothing to wait for.
        tracing::debug!(queue = store, error = chain(&error), "the queue was not emptied");
    }
    // First the queues from which dead letters come, then where they go.
    let mut queues = vec![store];
    queues.extend(groups.iter().map(|group| topology.group_queue(group)));
    queues.push(dead.clone());
    let mut exchanges = Severity::ALL.map(|severity| topology.exchange(severity)).to_vec();
    exchanges.push(dead);
    let deleting = (link.side_channel(), queues, exchanges);
    let deleted = link.run(REMOVE_TIMEOUT, async move {
        let (opening, queues, exchanges) = deleting;
        let (channel, mut events) = opening.await?;
        delete(&channel, &queues, &exchanges).await.map_err(|failure| {
            while let Ok(event) = events.try_recv() {
                if let Event::Closed { code, reason } = event {
                    return LinkError::Lost(format!("{}: {reason} ({code})", failure.0));
                }
            }
            LinkError::Lost(format!("{}: {}", failure.0, failure.1))
        })
    });
    deleted.await?
}

async fn delete(
    channel: &Channel,
    queues: &[String],
    exchanges: &[String],
) -> Result<(), (String, amqprs::error::Error)> {
    for queue in queues {
        let deleted = channel.queue_delete(QueueDeleteArguments::new(queue)).await;
        deleted.map_err(|error| (format!("queue {queue}"), error))?;
    }
    for exchange in exchanges {
        let deleted = channel
            .exchange_delete(ExchangeDeleteArguments::new(exchange))
            .await;
        deleted.map_err(|error| (format!("exchange {exchange}"), error))?;
    }
    Ok(())
}

fn unavailable(error: LinkError) -> RemovalError {
    RemovalError::Unavailable {
        reason: error.to_string(),
        cause: match error {
            LinkError::Connect { cause, .. } => Some(cause),
            LinkError::Timeout { .. } | LinkError::Topology(_) | LinkError::Lost(_) => None,
        },
    }
}
