//! Takes everything of a prefix off the broker again.

use std::time::Duration;

use amqprs::channel::{Channel, ExchangeDeleteArguments, QueueDeleteArguments, QueuePurgeArguments};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use warren_domain::Severity;
use warren_domain::ports::{Cause, ConsumerGroup, GroupName};

use crate::backoff::Backoff;
use crate::config::AmqpConfig;
use crate::connection::{Connector, Event, Link};
use crate::error::{ConfigError, LinkError};
use crate::status::chain;
use crate::topology::Topology;

/// How long emptying the store queue may take; one that does not run never answers.
const PURGE_TIMEOUT: Duration = Duration::from_secs(5);

/// How often it is tried: a queue that is just being declared may answer by closing the connection (seen with
/// 3.10.8, about once in a thousand times).
const PURGE_ATTEMPTS: u32 = 5;

/// NOT_FOUND: there is no such queue.
const NOT_FOUND: u16 = 404;

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
/// the store queue is emptied first, which RabbitMQ does only once the queue runs, and its dead-lettering with it. Of
/// 2,500 removals in the moment of the declaration none harmed RabbitMQ 3.10.8, where without that the first one did.
/// Live tails go by themselves.
///
/// Tries each address once each time it connects. Gives up after a minute or so.
///
/// # Errors
/// [`RemovalError`]; some may be removed.
pub async fn remove_topology(config: &AmqpConfig, groups: &[GroupName]) -> Result<(), RemovalError> {
    let config = config.clone().checked().map_err(RemovalError::Config)?;
    let mut connector = Connector::new(&config, "remove").map_err(RemovalError::Config)?;
    let topology = Topology::new(&config);
    let mut pauses = Backoff::new(config.reconnect_min, config.reconnect_max);
    let mut link = opened(&mut connector).await.map_err(unavailable)?;
    for _ in 0..PURGE_ATTEMPTS {
        let Err(error) = emptied(&link, &topology).await else {
            break;
        };
        tracing::debug!(error = chain(&error), "the store queue was not emptied");
        sleep(pauses.pause()).await;
        link = opened(&mut connector).await.map_err(unavailable)?;
    }
    let removed = removed(&link, &topology, groups).await;
    link.close().await;
    removed.map_err(unavailable)
}

/// Empties the store queue, if there is one that runs; an error tells that the connection may be of no more use.
async fn emptied(link: &Link, topology: &Topology) -> Result<(), LinkError> {
    let purge = QueuePurgeArguments::new(&topology.queue(&ConsumerGroup::Store));
    let opening = link.side_channel();
    let emptying = link.run(REMOVE_TIMEOUT, async move {
        let (channel, mut events) = opening.await?;
        match channel.queue_purge(purge).await {
            Ok(_) => Ok(()),
            Err(error) => match said(&mut events) {
                Some((NOT_FOUND, _)) => Ok(()),
                Some((code, reason)) => Err(LinkError::Lost(format!("{reason} ({code})"))),
                None => Err(LinkError::Lost(error.to_string())),
            },
        }
    });
    match timeout(PURGE_TIMEOUT, emptying).await {
        Ok(emptied) => emptied.flatten(),
        // It does not run, and to be deleted is what it waits for.
        Err(_) => Ok(()),
    }
}

/// Returns why the broker has closed the channel, if it has.
fn said(events: &mut mpsc::Receiver<Event>) -> Option<(u16, String)> {
    std::iter::from_fn(|| events.try_recv().ok()).find_map(|event| match event {
        Event::Closed { code, reason } => Some((code, reason)),
        _ => None,
    })
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
        let deleted = delete(&channel, &queues, &exchanges).await;
        deleted.map_err(|(what, error)| match said(&mut events) {
            Some((code, reason)) => LinkError::Lost(format!("{what}: {reason} ({code})")),
            None => LinkError::Lost(format!("{what}: {error}")),
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
