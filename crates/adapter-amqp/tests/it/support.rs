//! A corner of the broker for one test, and an operator who looks at it and breaks it.

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use amqprs::channel::{
    BasicGetArguments, BasicPublishArguments, Channel, ExchangeDeclareArguments, QueueDeclareArguments,
    QueueDeleteArguments,
};
use amqprs::connection::{Connection, OpenConnectionArguments};
use amqprs::{BasicProperties, FieldTable, FieldValue};
use futures_util::FutureExt;
use tokio::sync::RwLock;
use tokio::time::{Instant, sleep, timeout};
use warren_adapter_amqp::{AmqpConfig, AmqpConsumer, AmqpPublisher, DeadLetterStrategy, remove_topology};
use warren_domain::ports::{ConsumerGroup, Delivery, HealthCheck, MessageConsumer, NamedGroup, StartAt};
use warren_domain::{Message, MessageId, Selection, Severity};

pub const PATIENCE: Duration = Duration::from_secs(30);

pub fn broker_url() -> String {
    #[allow(clippy::disallowed_methods, reason = "tests have no settings")]
    std::env::var("WARREN_TEST_AMQP_URL")
        .unwrap_or_else(|_| "amqp://guest:guest@127.0.0.1:5672/%2f".to_owned())
}

/// The host and port of the broker under test, and what stands before and behind them in its URL.
pub struct Address {
    pub authority: String,
    pub user: String,
    pub path: String,
}

pub fn address() -> Address {
    let url = broker_url();
    let rest = url
        .strip_prefix("amqp://")
        .expect("tests need an amqp:// URL")
        .to_owned();
    let (authority, path) = rest.split_once('/').unwrap_or((&rest, "%2f"));
    let (user, authority) = authority.rsplit_once('@').unwrap_or(("guest:guest", authority));
    let port = if authority.contains(':') { "" } else { ":5672" };
    Address {
        authority: format!("{authority}{port}"),
        user: user.to_owned(),
        path: path.to_owned(),
    }
}

/// Held by every test that runs in a corner, by one of them alone.
static TURNS: RwLock<()> = RwLock::const_new(());

/// A prefix of its own on the broker.
pub struct Corner {
    pub config: AmqpConfig,
}

impl Corner {
    pub fn new() -> Arc<Self> {
        let id = MessageId::generate().to_string().replace('-', "");
        Arc::new(Self {
            config: AmqpConfig {
                url: broker_url().into(),
                prefix: format!("test.{id}"),
                reconnect_max: Duration::from_millis(200),
                // With the default, a test that ends right after it began can take the whole broker down.
                store_dead_letter_strategy: DeadLetterStrategy::AtMostOnce,
                ..AmqpConfig::default()
            },
        })
    }

    /// Runs `test` and removes what it leaves.
    pub async fn run<F: Future<Output = ()>>(test: impl FnOnce(Arc<Self>) -> F) {
        let _beside_others = TURNS.read().await;
        Self::run_now(test).await;
    }

    /// The same while no other test runs: one that takes the broker or the processors for itself makes those late that
    /// look at the clock.
    pub async fn run_alone<F: Future<Output = ()>>(test: impl FnOnce(Arc<Self>) -> F) {
        let _alone = TURNS.write().await;
        Self::run_now(test).await;
    }

    async fn run_now<F: Future<Output = ()>>(test: impl FnOnce(Arc<Self>) -> F) {
        let corner = Self::new();
        let outcome = AssertUnwindSafe(test(Arc::clone(&corner))).catch_unwind().await;
        corner.tear_down().await;
        if let Err(panic) = outcome {
            resume_unwind(panic);
        }
    }

    pub fn name(&self, rest: &str) -> String {
        format!("{}.{rest}", self.config.prefix)
    }

    /// The settings with another address of the broker.
    pub fn at(&self, authority: &str) -> AmqpConfig {
        let Address { user, path, .. } = address();
        AmqpConfig {
            url: format!("amqp://{user}@{authority}/{path}").into(),
            ..self.config.clone()
        }
    }

    pub fn publisher(&self) -> AmqpPublisher {
        AmqpPublisher::start(self.config.clone()).unwrap()
    }

    pub fn consumer(&self) -> AmqpConsumer {
        AmqpConsumer::new(self.config.clone(), ConsumerGroup::Store).unwrap()
    }

    pub async fn tear_down(&self) {
        let groups = GROUPS.map(|name| name.parse().unwrap());
        remove_topology(&self.config, &groups).await.unwrap();
    }
}

/// Every group that a test of this crate or of the conformance suite makes.
const GROUPS: [&str; 5] = ["loud-and-quiet", "one", "other", "listeners", "billing"];

/// Somebody with the rights to look at everything and to break it.
pub struct Operator {
    pub connection: Connection,
    pub channel: Channel,
}

impl Operator {
    pub async fn new() -> Self {
        let Address {
            authority,
            user,
            path,
        } = address();
        let (host, port) = authority.rsplit_once(':').unwrap();
        let (user, password) = user.split_once(':').unwrap();
        let mut arguments = OpenConnectionArguments::new(host, port.parse().unwrap(), user, password);
        arguments.virtual_host(&path.replace("%2f", "/").replace("%2F", "/"));
        let opened = timeout(PATIENCE, Connection::open(&arguments))
            .await
            .expect("RabbitMQ answers");
        let connection = opened.unwrap_or_else(|error| {
            panic!("RabbitMQ is needed at {authority}; name another in WARREN_TEST_AMQP_URL: {error}")
        });
        let channel = connection.open_channel(None).await.unwrap();
        Self { connection, channel }
    }

    pub async fn delete_queue(&self, name: &str) {
        self.channel
            .queue_delete(QueueDeleteArguments::new(name))
            .await
            .unwrap();
    }

    pub async fn declare_queue(&self, name: &str, arguments: FieldTable) {
        let declare = QueueDeclareArguments::durable_client_named(name)
            .arguments(arguments)
            .finish();
        self.channel.queue_declare(declare).await.unwrap();
    }

    /// How many packets are ready in a queue; `None` where there is no such queue.
    pub async fn ready(&self, name: &str) -> Option<u32> {
        let channel = self.connection.open_channel(None).await.unwrap();
        let declare = QueueDeclareArguments::durable_client_named(name)
            .passive(true)
            .finish();
        let declared = channel.queue_declare(declare).await;
        declared.ok().flatten().map(|(_, ready, _)| ready)
    }

    /// Waits until `count` packets are ready in a queue.
    pub async fn await_ready(&self, name: &str, count: u32) {
        eventually(&format!("{count} packets in {name}"), async || {
            self.ready(name).await == Some(count)
        })
        .await;
    }

    /// Whether there is an exchange of this name.
    pub async fn has_exchange(&self, name: &str) -> bool {
        let channel = self.connection.open_channel(None).await.unwrap();
        let declare = ExchangeDeclareArguments::new(name, "topic")
            .passive(true)
            .finish();
        channel.exchange_declare(declare).await.is_ok()
    }

    pub async fn publish(&self, exchange: &str, properties: BasicProperties, body: impl Into<Vec<u8>>) {
        let arguments = BasicPublishArguments::new(exchange, "raw.source");
        let published = self.channel.basic_publish(properties, body.into(), arguments);
        published.await.unwrap();
    }

    /// Takes everything out of a queue.
    pub async fn take_all(&self, queue: &str) -> Vec<(BasicProperties, Vec<u8>)> {
        let get = BasicGetArguments::new(queue).no_ack(true).finish();
        let mut taken = Vec::new();
        while let Some((_, properties, body)) = self.channel.basic_get(get.clone()).await.unwrap() {
            taken.push((properties, body));
        }
        taken
    }

    /// Asks for what is left in a queue, and finds nothing; asked when whoever consumed from it has closed its connection
    /// and given back what it held. A count of ready packets says nothing of what is held, and is told now and then.
    pub async fn assert_empty(&self, queue: &str) {
        let left = self.take_all(queue).await;
        assert!(left.is_empty(), "{} packets are left in {queue}", left.len());
    }
}

pub fn header(properties: &BasicProperties, name: &str) -> Option<String> {
    let value = properties.headers()?.get(&name.try_into().unwrap())?;
    Some(match value {
        FieldValue::S(text) => text.to_string(),
        other => other.to_string(),
    })
}

pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "still waiting: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

pub async fn healthy(health: &dyn HealthCheck) {
    eventually("healthy", async || health.check().await.is_ok()).await;
}

/// Waits until the health is bad and says something with `part` in it; returns all of it.
pub async fn unhealthy(health: &dyn HealthCheck, part: &str) -> String {
    let mut said = None;
    eventually(part, async || {
        said = health.check().await.err().map(|fault| fault.0);
        said.as_ref().is_some_and(|said| said.contains(part))
    })
    .await;
    said.unwrap()
}

pub async fn next(consumer: &mut AmqpConsumer) -> Delivery {
    let delivery = timeout(PATIENCE, consumer.next())
        .await
        .expect("a delivery comes");
    delivery.expect("the consumer is open")
}

/// Acknowledges deliveries until `count` messages came.
pub async fn take(consumer: &mut AmqpConsumer, count: usize) -> Vec<Message> {
    let mut taken = Vec::new();
    while taken.len() < count {
        let mut delivery = next(consumer).await;
        taken.append(&mut delivery.messages);
        delivery.ack().await.unwrap();
    }
    taken
}

pub fn listeners(severities: impl IntoIterator<Item = Severity>) -> ConsumerGroup {
    listeners_to(selection(severities, &[]), StartAt::Oldest)
}

pub fn listeners_to(selection: Selection, start: StartAt) -> ConsumerGroup {
    ConsumerGroup::Named(NamedGroup {
        name: "listeners".parse().unwrap(),
        selection,
        start,
    })
}

pub fn selection(severities: impl IntoIterator<Item = Severity>, sources: &[&str]) -> Selection {
    Selection {
        severities: severities.into_iter().collect(),
        sources: sources.iter().map(|pattern| pattern.parse().unwrap()).collect(),
    }
}
