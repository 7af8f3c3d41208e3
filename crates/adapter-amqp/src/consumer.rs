//! The consuming port on RabbitMQ.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use warren_domain::ports::{ConsumerGroup, Delivery, GroupLag, HealthCheck, MessageConsumer, StartAt};

use crate::backoff::Backoff;
use crate::config::AmqpConfig;
use crate::connection::Connector;
use crate::consuming::{Consuming, Yielded};
use crate::error::ConfigError;
use crate::lag::{QueueLag, questions};
use crate::metrics::ConsumeMetrics;
use crate::quarantine::Quarantine;
use crate::reader::DECODED_AT_ONCE;
use crate::settlement::Letters;
use crate::status::Status;
use crate::topology::Topology;
#[cfg(doc)]
use warren_domain::Selection;

/// How many deliveries are read ahead, ready to be yielded or being decoded: the next batch is decoded while the last
/// one is stored.
const READ_AHEAD: usize = 32;

/// How long closing waits until the broker delivers nothing more.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(15);

/// Consumes the queue of a group from RabbitMQ, with manual acknowledgements.
///
/// One task of its own keeps the connection, reads ahead and settles; it starts with the first call to
/// [`MessageConsumer::next`], connects again by itself, and ends when the consumer is closed or dropped and every
/// delivery is settled.
///
/// A delivery that is dropped, or whose dead letters cannot be written, is given back and comes again. On RabbitMQ
/// before 4.3 every such return counts towards `store_delivery_limit`, and so does every lost connection: hold a
/// delivery while the store is away, do not drop it.
///
/// A named group's queue is bound to the exchanges of the severities it selects, by its patterns of sources. When a
/// group comes back with another selection, bindings of severities it selects no more are removed, as far as they can
/// be known: those by `#` and by the patterns of the new selection. RabbitMQ lists no bindings to an ordinary user, so
/// one by an older pattern stays, and what it brings has to be told apart by [`Selection::matches`]. A member with
/// another selection takes bindings away from those that run: stop them all before a selection changes.
///
/// [`StartAt::New`]: when the consumer first has its connection, it drops what waits in the queue, for every member of
/// the group; never again, so that a lost connection loses nothing. What other members hold is theirs.
///
/// What a closed consumer had fetched and not yielded is given back as soon as every delivery it did yield is settled.
#[derive(Debug)]
pub struct AmqpConsumer {
    deliveries: mpsc::Receiver<Yielded>,
    /// The work, until it starts.
    consuming: Option<Box<Consuming>>,
    status: Arc<Status>,
    closing: CancellationToken,
    stopped: CancellationToken,
    ended: CancellationToken,
    started: bool,
    lag: Arc<QueueLag>,
}

impl AmqpConsumer {
    /// Makes a consumer that does nothing until it is asked for a delivery. Needs a tokio runtime then.
    ///
    /// # Errors
    /// [`ConfigError`] when the settings cannot be used, or the files they name cannot be read.
    pub fn new(config: AmqpConfig, group: ConsumerGroup) -> Result<Self, ConfigError> {
        let config = config.checked()?;
        let (out, deliveries) = mpsc::channel(READ_AHEAD - DECODED_AT_ONCE);
        let status = Arc::new(Status::idle("consume"));
        let (closing, stopped) = (CancellationToken::new(), CancellationToken::new());
        let ended = CancellationToken::new();
        let topology = Topology::new(&config);
        let (lag, answering) = questions(Arc::clone(&status));
        let drops_waiting = match &group {
            ConsumerGroup::Store => false,
            ConsumerGroup::Named(group) => group.start == StartAt::New,
        };
        let consuming = Consuming {
            connector: Connector::new(&config, "consume")?,
            queue: topology.queue(&group),
            topology,
            group,
            drops_waiting,
            prefetch: config.prefetch,
            connect_timeout: config.connect_timeout,
            backoff: Backoff::new(config.reconnect_min, config.reconnect_max),
            requeue_pause: config.reconnect_max,
            status: Arc::clone(&status),
            out,
            letters: Arc::new(Letters::new(config)),
            closing: closing.clone(),
            stopped: stopped.clone(),
            _ended: ended.clone().drop_guard(),
            metrics: Arc::new(ConsumeMetrics::new()),
            quarantine: Quarantine::default(),
            answering,
        };
        Ok(Self {
            deliveries,
            consuming: Some(Box::new(consuming)),
            status,
            closing,
            stopped,
            ended,
            started: false,
            lag: Arc::new(lag),
        })
    }

    /// Returns what tells whether the consumer is connected; `rabbitmq` by name. Unhealthy until it has begun.
    pub fn health(&self) -> Arc<dyn HealthCheck> {
        Arc::clone(&self.status) as Arc<dyn HealthCheck>
    }

    /// Returns what tells how many packets wait in the queue, over the consumer's own connection, and how many this
    /// consumer holds.
    ///
    /// RabbitMQ counts packets, neither messages nor their age. It says 0 of a queue that is electing a leader.
    pub fn lag(&self) -> Arc<dyn GroupLag> {
        Arc::clone(&self.lag) as Arc<dyn GroupLag>
    }

    /// Waits until the consumer was closed or dropped, every delivery is settled, and the broker knows.
    ///
    /// Acknowledging hands over to a task; a program that ends before that task does has its last deliveries
    /// delivered again. Has no limit of its own: a delivery that is held keeps the consumer's task.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + 'static {
        self.ended.clone().cancelled_owned()
    }
}

#[async_trait]
impl MessageConsumer for AmqpConsumer {
    async fn next(&mut self) -> Option<Delivery> {
        if let Some(consuming) = self.consuming.take() {
            self.started = true;
            tokio::spawn(consuming.run());
        }
        loop {
            let Yielded { delivery, lost } = self.deliveries.recv().await?;
            // What came on a connection that is gone comes again; the first copy would only be handled in vain.
            if !lost.is_cancelled() {
                return Some(delivery);
            }
        }
    }

    async fn close(&mut self) {
        self.consuming = None;
        self.closing.cancel();
        self.deliveries.close();
        while let Some(given_back) = self.deliveries.recv().await {
            drop(given_back);
        }
        if self.started && timeout(CLOSE_TIMEOUT, self.stopped.cancelled()).await.is_err() {
            tracing::warn!(
                "RabbitMQ did not stop delivering in time; it takes back what was fetched by itself"
            );
        }
    }
}

impl Drop for AmqpConsumer {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}
