//! What waits in the queues of consumer groups, seen from outside.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use amqprs::channel::{Channel, QueueDeclareArguments};
use async_trait::async_trait;
use tokio::sync::{Mutex, mpsc};
use tokio::time::Instant;
use warren_domain::ports::{ConsumerGroup, GroupLag, GroupName, GroupQueue, GroupQueues, Lag, Unhealthy};

use crate::backoff::Backoff;
use crate::config::AmqpConfig;
use crate::connection::{Connector, Event, Link};
use crate::error::{ConfigError, LinkError};
use crate::status::chain;
use crate::topology::Topology;

/// How long all questions together may take.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(2);

/// For how long a queue that is not there is not asked for again: RabbitMQ closes the channel over it, and a connection has
/// 2,047 of them.
const ABSENT: Duration = Duration::from_secs(10);

/// After so many lost channels on a connection another one is opened.
const MOST_LOST: u32 = 1_000;

/// The answer of RabbitMQ about what is not there.
const NOT_FOUND: u16 = 404;

/// Asks RabbitMQ how many packets wait for groups, over a connection of its own.
///
/// It connects when it is first asked, and stays connected. An answer takes `amqp.connect_timeout` and two seconds at
/// most; after a failure, whoever asks before a pause is over gets the same one.
pub struct AmqpQueues {
    topology: Topology,
    asking: Mutex<Asking>,
}

struct Asking {
    connector: Connector,
    link: Option<Link>,
    /// How many channels RabbitMQ has closed on it.
    lost_channels: u32,
    /// When a queue was found not to be there.
    absent: HashMap<String, Instant>,
    backoff: Backoff,
    failed: Option<(Instant, Unhealthy)>,
}

/// What came of asking for queues, one after the other.
struct Told {
    /// The first of them.
    queues: Vec<(String, GroupQueue)>,
    /// The one behind those, if it is not there.
    absent: Option<String>,
}

impl AmqpQueues {
    /// Makes it; nothing is connected before somebody asks.
    ///
    /// # Errors
    /// [`ConfigError`] when the settings cannot be used.
    pub fn new(config: AmqpConfig) -> Result<Self, ConfigError> {
        let config = config.checked()?;
        Ok(Self {
            topology: Topology::new(&config),
            asking: Mutex::new(Asking {
                connector: Connector::new(&config, "queues")?,
                link: None,
                lost_channels: 0,
                absent: HashMap::new(),
                backoff: Backoff::new(config.reconnect_min, config.reconnect_max),
                failed: None,
            }),
        })
    }

    /// Closes the connection, if there is one.
    pub async fn close(&self) {
        if let Some(link) = self.asking.lock().await.link.take() {
            link.close().await;
        }
    }
}

impl fmt::Debug for AmqpQueues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AmqpQueues").finish_non_exhaustive()
    }
}

#[async_trait]
impl GroupQueues for AmqpQueues {
    async fn look(&self, groups: &[GroupName]) -> Result<Vec<Option<GroupQueue>>, Unhealthy> {
        let names: Vec<_> = groups
            .iter()
            .map(|name| self.topology.group_queue(name))
            .collect();
        self.look_at(names).await
    }
}

#[async_trait]
impl GroupLag for AmqpQueues {
    /// Asks what waits for those who store.
    async fn lag(&self) -> Result<Lag, Unhealthy> {
        let name = self.topology.queue(&ConsumerGroup::Store);
        let looked_at = self.look_at(vec![name.clone()]).await?;
        let queue = looked_at.into_iter().flatten().next();
        let queue = queue.ok_or_else(|| Unhealthy(format!("there is no queue {name} yet")))?;
        Ok(Lag {
            packets: queue.packets,
            ..Lag::default()
        })
    }
}

impl AmqpQueues {
    async fn look_at(&self, names: Vec<String>) -> Result<Vec<Option<GroupQueue>>, Unhealthy> {
        let mut asking = self.asking.lock().await;
        if let Some((until, reason)) = &asking.failed
            && Instant::now() < *until
        {
            return Err(reason.clone());
        }
        match asking.look(names).await {
            Ok(queues) => {
                asking.failed = None;
                asking.backoff.reset();
                Ok(queues)
            }
            Err(error) => {
                let reason = Unhealthy(chain(&error));
                asking.link = None;
                asking.connector.next_address();
                let until = Instant::now() + asking.backoff.pause();
                asking.failed = Some((until, reason.clone()));
                Err(reason)
            }
        }
    }
}

impl Asking {
    async fn look(&mut self, names: Vec<String>) -> Result<Vec<Option<GroupQueue>>, LinkError> {
        let now = Instant::now();
        self.absent.retain(|_, since| *since + ABSENT > now);
        let absent = |name: &String| self.absent.contains_key(name);
        let mut left: Vec<_> = names.iter().filter(|name| !absent(name)).cloned().collect();
        let mut queues = HashMap::new();
        let mut deadline = None;
        while !left.is_empty() {
            let link = self.link().await?;
            // The time to connect is not the broker's time to answer.
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + QUESTION_TIMEOUT);
            let patience = deadline.saturating_duration_since(Instant::now());
            let told = link
                .run(patience, ask(link.side_channel(), left.clone()))
                .await??;
            left.drain(..told.queues.len());
            queues.extend(told.queues);
            if let Some(name) = told.absent {
                left.retain(|other| *other != name);
                self.lost_channels += 1;
                self.absent.insert(name, now);
            }
        }
        Ok(names.iter().map(|name| queues.get(name).copied()).collect())
    }

    /// Returns a link that is open and has channels left.
    async fn link(&mut self) -> Result<&Link, LinkError> {
        let worn = self.lost_channels >= MOST_LOST;
        let useless = |link: &mut Link| worn || link.channel().is_err();
        if let Some(link) = self.link.take_if(useless) {
            link.close().await;
        }
        if self.link.is_none() {
            self.lost_channels = 0;
            self.link = Some(self.connector.open().await?);
        }
        let closed = || LinkError::Lost("the connection is closed".to_owned());
        self.link.as_ref().ok_or_else(closed)
    }
}

/// Asks for queues in their order, until one is not there.
///
/// On a channel of its own, because RabbitMQ closes the channel over a queue that is not there.
async fn ask(
    opening: impl Future<Output = Result<(Channel, mpsc::Receiver<Event>), LinkError>>,
    names: Vec<String>,
) -> Result<Told, LinkError> {
    let (channel, mut events) = opening.await?;
    let mut queues = Vec::new();
    for name in names {
        let passive = QueueDeclareArguments::new(&name).passive(true).finish();
        match channel.queue_declare(passive).await {
            Ok(declared) => {
                let (packets, members) = declared.map_or((0, 0), |(_, ready, consumers)| (ready, consumers));
                let queue = GroupQueue {
                    packets: packets.into(),
                    members: members.into(),
                };
                queues.push((name, queue));
            }
            Err(error) => {
                let said = std::iter::from_fn(|| events.try_recv().ok());
                let closed = said.filter_map(|event| match event {
                    Event::Closed { code, reason } => Some((code, reason)),
                    _ => None,
                });
                let reason = match closed.last() {
                    Some((NOT_FOUND, _)) => {
                        let absent = Some(name);
                        return Ok(Told { queues, absent });
                    }
                    Some((code, reason)) => format!("{reason} ({code})"),
                    None => error.to_string(),
                };
                return Err(LinkError::Lost(format!(
                    "RabbitMQ does not say what waits in queue {name}: {reason}"
                )));
            }
        }
    }
    Ok(Told { queues, absent: None })
}
