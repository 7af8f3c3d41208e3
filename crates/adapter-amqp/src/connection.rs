//! One connection with one channel, and all that belongs to it.
//!
//! amqprs spawns its reader, writer and dispatcher and hands out no handles: its writer, stuck in a write to a
//! broker that hangs, would stay for as long as the kernel keeps the socket, and with it up to 8,192 queued frames.
//! So every connection gets a runtime of its own, one thread, and dropping the [`Link`] ends all its tasks at once.
//!
//! amqprs does not reconnect. Nothing here does either: a link that is lost is dropped and another one opened.

use std::sync::Arc;
use std::time::Duration;

use amqprs::callbacks::{ChannelCallback, ConnectionCallback};
use amqprs::channel::Channel;
use amqprs::connection::{Connection, OpenConnectionArguments};
use amqprs::security::SecurityCredentials;
use amqprs::tls::TlsAdaptor;
use amqprs::{Ack, BasicProperties, Cancel, Close, CloseChannel, Nack, Return};
use async_trait::async_trait;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::config::AmqpConfig;
use crate::error::{ConfigError, LinkError, cause};
use crate::tls;
use crate::url::Endpoint;

/// How long a polite farewell may take before the connection is simply dropped.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// What the broker says about a link, in its order.
#[derive(Debug)]
pub(crate) enum Event {
    /// The broker has taken the packet with this delivery tag, or every one up to it.
    Ack { tag: u64, multiple: bool },
    /// The broker has refused it, or every one up to it.
    Nack { tag: u64, multiple: bool },
    /// No queue took the packet; its confirm follows.
    Returned {
        message_id: Option<String>,
        reason: String,
    },
    /// The broker has ended the consumer, because its queue is gone.
    Cancelled,
    /// The broker has closed the channel or the connection.
    Closed { code: u16, reason: String },
}

/// Opens links, to one address after the other.
pub(crate) struct Connector {
    endpoints: Vec<Endpoint>,
    next: usize,
    tls: Option<TlsConnector>,
    name: String,
    connect_timeout: Duration,
    heartbeat: u16,
    /// Everything the broker can have to say at once: a return and a confirm for each packet on its way.
    events: usize,
}

impl Connector {
    /// `role` tells the connections of a program apart in the broker's listings.
    pub(crate) fn new(config: &AmqpConfig, role: &str) -> Result<Self, ConfigError> {
        let endpoints = config
            .url
            .endpoints()
            .map_err(|fault| ConfigError::one("url", fault.to_string()))?;
        let tls = if endpoints.iter().any(|endpoint| endpoint.tls) {
            Some(TlsConnector::from(tls::client_config(config)?))
        } else {
            None
        };
        Ok(Self {
            // A random first address spreads many clients over a cluster.
            next: fastrand::usize(..endpoints.len()),
            endpoints,
            tls,
            name: format!("{} {role}", config.client_name),
            connect_timeout: config.connect_timeout,
            heartbeat: u16::try_from(config.heartbeat.as_secs()).unwrap_or(u16::MAX),
            events: 2 * config.max_unconfirmed_packets + 16,
        })
    }

    /// Returns how many addresses there are to try before it makes sense to pause.
    pub(crate) fn addresses(&self) -> u32 {
        u32::try_from(self.endpoints.len()).unwrap_or(u32::MAX)
    }

    /// Tries one address; after a failure, the next call tries the next.
    pub(crate) async fn open(&mut self) -> Result<Link, LinkError> {
        let endpoint = &self.endpoints[self.next];
        let opened = Link::open(
            endpoint,
            self.arguments(endpoint),
            self.connect_timeout,
            self.events,
        )
        .await;
        if opened.is_err() {
            self.next_address();
        }
        opened
    }

    /// Goes on to the next address: for a node that lets us in, and then does not work.
    pub(crate) fn next_address(&mut self) {
        self.next = (self.next + 1) % self.endpoints.len();
    }

    fn arguments(&self, endpoint: &Endpoint) -> OpenConnectionArguments {
        let mut arguments = OpenConnectionArguments::default();
        arguments
            .host(&endpoint.bracketed_host())
            .port(endpoint.port)
            .virtual_host(&endpoint.vhost)
            .credentials(SecurityCredentials::new_plain(&endpoint.user, &endpoint.password))
            .connection_name(&self.name)
            .heartbeat(self.heartbeat);
        if let (true, Some(tls)) = (endpoint.tls, &self.tls) {
            arguments.tls_adaptor(TlsAdaptor::new(tls.clone(), endpoint.host.clone()));
        }
        arguments
    }
}

/// One connection with one channel; dropping it ends everything that belongs to it.
pub(crate) struct Link {
    open: Option<Open>,
    endpoint: String,
    /// What the broker says; ends when the connection does.
    pub(crate) events: mpsc::Receiver<Event>,
}

struct Open {
    connection: Connection,
    channel: Channel,
    runtime: PrivateRuntime,
}

impl Link {
    async fn open(
        endpoint: &Endpoint,
        arguments: OpenConnectionArguments,
        limit: Duration,
        events: usize,
    ) -> Result<Self, LinkError> {
        let endpoint = endpoint.to_string();
        let failed = |cause| LinkError::Connect {
            endpoint: endpoint.clone(),
            cause,
        };
        let runtime = PrivateRuntime::new().map_err(|error| failed(Arc::new(error)))?;
        let (sender, events) = mpsc::channel(events);
        let opening = runtime.handle.spawn(async move {
            let connection = Connection::open(&arguments).await?;
            connection.register_callback(Callbacks(sender.clone())).await?;
            let channel = connection.open_channel(None).await?;
            channel.register_callback(Callbacks(sender)).await?;
            Ok((connection, channel))
        });
        let (connection, channel) = match timeout(limit, opening).await {
            Ok(Ok(Ok(opened))) => opened,
            Ok(Ok(Err(error))) => return Err(failed(cause(error))),
            // amqprs panics on what no broker should answer; the panic ends here.
            Ok(Err(panic)) => return Err(failed(Arc::new(panic))),
            Err(_) => {
                let timeout = limit;
                return Err(LinkError::Timeout { endpoint, timeout });
            }
        };
        let open = Some(Open {
            connection,
            channel,
            runtime,
        });
        Ok(Self {
            open,
            endpoint,
            events,
        })
    }

    /// Returns the address it leads to, without user and password.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Returns the channel, while the link is open.
    ///
    /// # Errors
    /// [`LinkError::Lost`] when the broker has closed it: publishing on it would go nowhere, and make the broker
    /// close the connection with it.
    pub(crate) fn channel(&self) -> Result<&Channel, LinkError> {
        self.open
            .as_ref()
            .map(|open| &open.channel)
            .filter(|channel| channel.is_open() && channel.is_connection_open())
            .ok_or_else(|| LinkError::Lost("the connection is closed".to_owned()))
    }

    /// Runs `task` on the link's own runtime, for at most `limit`.
    ///
    /// Everything of amqprs that waits for an answer runs so: amqprs panics in its own task when such a future is
    /// dropped midway, and this one is only ever dropped together with amqprs's.
    ///
    /// # Errors
    /// [`LinkError::Lost`] when it took too long; the link is to be given up.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        limit: Duration,
        task: impl Future<Output = T> + Send + 'static,
    ) -> impl Future<Output = Result<T, LinkError>> + Send + 'static {
        let task = self.open.as_ref().map(|open| open.runtime.handle.spawn(task));
        async move {
            let lost = |reason: String| LinkError::Lost(reason);
            match task {
                None => Err(lost("the connection is closed".to_owned())),
                Some(task) => match timeout(limit, task).await {
                    Ok(Ok(output)) => Ok(output),
                    Ok(Err(panic)) => Err(lost(panic.to_string())),
                    Err(_) => Err(lost(format!(
                        "RabbitMQ did not answer within {} ms",
                        limit.as_millis()
                    ))),
                },
            }
        }
    }

    /// Opens another channel on the same connection, which the broker may close without harm to this link's own.
    ///
    /// Like every channel it has to be dropped on the link's runtime.
    pub(crate) fn side_channel(
        &self,
    ) -> impl Future<Output = Result<(Channel, mpsc::Receiver<Event>), LinkError>> + Send + 'static {
        let connection = self.open.as_ref().map(|open| open.connection.clone());
        async move {
            let lost = |reason: String| LinkError::Lost(reason);
            let connection = connection.ok_or_else(|| lost("the connection is closed".to_owned()))?;
            let (sender, events) = mpsc::channel(16);
            let channel = connection.open_channel(None).await;
            let channel = channel.map_err(|error| lost(error.to_string()))?;
            let registered = channel.register_callback(Callbacks(sender)).await;
            registered.map_err(|error| lost(error.to_string()))?;
            Ok((channel, events))
        }
    }

    /// Says farewell to the broker, so that it need not find out by itself; gives up after a second.
    pub(crate) async fn close(mut self) {
        if let Some(open) = self.open.take() {
            let Open {
                connection,
                channel,
                runtime,
            } = open;
            // The farewell runs on the link's own runtime, because amqprs panics when it is dropped midway.
            let farewell = runtime.handle.spawn(async move {
                let closed = connection.close().await;
                drop(channel);
                closed
            });
            if let Ok(Ok(Ok(()))) = timeout(CLOSE_TIMEOUT, farewell).await {
                tracing::debug!(endpoint = self.endpoint, "closed the connection to RabbitMQ");
            }
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(open) = self.open.take() {
            // amqprs spawns a task when its handles are dropped, which needs a runtime, and one that is about to end.
            let _entered = open.runtime.handle.enter();
            drop(open.channel);
            drop(open.connection);
        }
    }
}

/// A runtime of one thread that may be dropped anywhere, and then drops all its tasks without waiting for them.
struct PrivateRuntime {
    handle: Handle,
    runtime: Option<Runtime>,
}

impl PrivateRuntime {
    fn new() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("warren-amqp")
            .enable_all()
            .build()?;
        Ok(Self {
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
        })
    }
}

impl Drop for PrivateRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Hands on what the broker says. A link that is gone no longer listens, which is no fault.
struct Callbacks(mpsc::Sender<Event>);

impl Callbacks {
    async fn hand_on(&self, event: Event) {
        if self.0.send(event).await.is_err() {
            tracing::trace!("an event of a connection that is given up");
        }
    }
}

#[async_trait]
impl ConnectionCallback for Callbacks {
    async fn close(&mut self, _: &Connection, close: Close) -> Result<(), amqprs::error::Error> {
        let reason = format!("RabbitMQ closed the connection: {}", close.reply_text());
        let code = close.reply_code();
        self.hand_on(Event::Closed { code, reason }).await;
        Ok(())
    }

    // RabbitMQ never says so: amqprs does not tell it that it could. The confirm deadline stands for both.
    async fn blocked(&mut self, _: &Connection, _reason: String) {}

    async fn unblocked(&mut self, _: &Connection) {}

    async fn secret_updated(&mut self, _: &Connection) {}
}

#[async_trait]
impl ChannelCallback for Callbacks {
    async fn close(&mut self, _: &Channel, close: CloseChannel) -> Result<(), amqprs::error::Error> {
        let reason = close.reply_text().clone();
        let code = close.reply_code();
        self.hand_on(Event::Closed { code, reason }).await;
        Ok(())
    }

    async fn cancel(&mut self, _: &Channel, _: Cancel) -> Result<(), amqprs::error::Error> {
        self.hand_on(Event::Cancelled).await;
        Ok(())
    }

    async fn flow(&mut self, _: &Channel, active: bool) -> Result<bool, amqprs::error::Error> {
        Ok(active)
    }

    async fn publish_ack(&mut self, _: &Channel, ack: Ack) {
        let (tag, multiple) = (ack.delivery_tag(), ack.mutiple());
        self.hand_on(Event::Ack { tag, multiple }).await;
    }

    async fn publish_nack(&mut self, _: &Channel, nack: Nack) {
        let (tag, multiple) = (nack.delivery_tag(), nack.multiple());
        self.hand_on(Event::Nack { tag, multiple }).await;
    }

    async fn publish_return(&mut self, _: &Channel, ret: Return, properties: BasicProperties, _: Vec<u8>) {
        let reason = format!(
            "exchange {} has no queue for {}: {}",
            ret.exchange(),
            ret.routing_key(),
            ret.reply_text()
        );
        let message_id = properties.message_id().cloned();
        self.hand_on(Event::Returned { message_id, reason }).await;
    }
}
