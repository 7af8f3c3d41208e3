//! Straight into a real RabbitMQ, which stops answering and goes on.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use amqprs::channel::{ExchangeDeleteArguments, QueueDeleteArguments};
use amqprs::connection::{Connection, OpenConnectionArguments};
use futures_util::FutureExt;
use tokio::time::{Instant, sleep, timeout};
use tracing::{Dispatch, Level};
use tracing_subscriber::layer::SubscriberExt;
use warren_adapter_amqp::{AmqpConfig, AmqpConsumer, AmqpPublisher, DeadLetterStrategy};
use warren_client::{Logger, LoggerBuilder, MessageId, Severity, SeverityCounts, WarrenLayer, WhenFull};
use warren_domain::ports::{ConsumerGroup, MessageConsumer};

use crate::proxy::Proxy;
use crate::support::{PATIENCE, assert_adds_up, counts};

fn broker_url() -> String {
    #[allow(clippy::disallowed_methods, reason = "tests have no settings")]
    std::env::var("WARREN_TEST_AMQP_URL")
        .unwrap_or_else(|_| "amqp://guest:guest@127.0.0.1:5672/%2f".to_owned())
}

/// A prefix of one's own on the broker, behind a proxy.
pub(crate) struct Corner {
    proxy: Proxy,
    pub(crate) direct: AmqpConfig,
    proxied: AmqpConfig,
}

struct Address {
    credentials: String,
    authority: String,
    path: String,
}

fn address() -> Address {
    let url = broker_url();
    let rest = url.strip_prefix("amqp://").expect("tests need an amqp:// URL");
    let (authority, path) = rest.split_once('/').unwrap_or((rest, "%2f"));
    let (credentials, authority) = authority.rsplit_once('@').unwrap_or(("guest:guest", authority));
    let port = if authority.contains(':') { "" } else { ":5672" };
    Address {
        credentials: credentials.to_owned(),
        authority: format!("{authority}{port}"),
        path: path.to_owned(),
    }
}

impl Corner {
    async fn new() -> Self {
        let Address {
            credentials,
            authority,
            path,
        } = address();
        let proxy = Proxy::to(authority).await;
        let direct = AmqpConfig {
            url: broker_url().into(),
            prefix: format!("test.{}", MessageId::generate().to_string().replace('-', "")),
            reconnect_max: Duration::from_millis(200),
            connect_timeout: Duration::from_secs(1),
            publish_timeout: Duration::from_secs(2),
            store_dead_letter_strategy: DeadLetterStrategy::AtMostOnce,
            ..AmqpConfig::default()
        };
        let proxied = AmqpConfig {
            url: format!("amqp://{credentials}@{}/{path}", proxy.address).into(),
            ..direct.clone()
        };
        Self {
            proxy,
            direct,
            proxied,
        }
    }

    pub(crate) async fn run(test: impl AsyncFnOnce(&Self)) {
        let corner = Self::new().await;
        let outcome = AssertUnwindSafe(test(&corner)).catch_unwind().await;
        corner.tear_down().await;
        if let Err(panic) = outcome {
            resume_unwind(panic);
        }
    }

    async fn tear_down(&self) {
        let Address {
            credentials,
            authority,
            path,
        } = address();
        let (host, port) = authority.rsplit_once(':').unwrap();
        let (user, password) = credentials.split_once(':').unwrap();
        let mut arguments = OpenConnectionArguments::new(host, port.parse().unwrap(), user, password);
        arguments.virtual_host(&path.replace("%2f", "/").replace("%2F", "/"));
        let connection = timeout(PATIENCE, Connection::open(&arguments))
            .await
            .unwrap()
            .unwrap();
        let channel = connection.open_channel(None).await.unwrap();
        let name = |rest: &str| format!("{}.{rest}", self.direct.prefix);
        for queue in ["store", "dead"] {
            channel
                .queue_delete(QueueDeleteArguments::new(&name(queue)))
                .await
                .unwrap();
        }
        for exchange in Severity::ALL.map(Severity::as_str).into_iter().chain(["dead"]) {
            let delete = ExchangeDeleteArguments::new(&name(exchange));
            channel.exchange_delete(delete).await.unwrap();
        }
        channel.close().await.unwrap();
        connection.close().await.unwrap();
    }

    fn start(&self, builder: LoggerBuilder) -> Logger {
        let config = self.proxied.clone();
        builder
            .retry_pauses(Duration::from_millis(20), Duration::from_millis(200))
            .start_with(|| async { AmqpPublisher::start(config) })
            .unwrap()
    }

    /// Takes everything out of the store's queue: each message once, by severity.
    pub(crate) async fn arrived(&self, expected: u64) -> SeverityCounts {
        let mut consumer = AmqpConsumer::new(self.direct.clone(), ConsumerGroup::Store).unwrap();
        let (mut seen, mut counted) = (HashSet::new(), SeverityCounts::default());
        loop {
            let done = counted.total() >= expected;
            // A moment for what should not be there.
            let patience = if done {
                Duration::from_millis(500)
            } else {
                PATIENCE
            };
            match timeout(patience, consumer.next()).await {
                Ok(Some(delivery)) => {
                    for message in &delivery.messages {
                        if seen.insert(message.id) {
                            counted.add(message.severity, 1);
                        }
                    }
                    delivery.ack().await.unwrap();
                }
                _ => break,
            }
        }
        consumer.close().await;
        counted
    }
}

/// Says something of any level.
fn say(n: u64, padding: &str) -> Severity {
    match n % 5 {
        0 => tracing::debug!(n, padding, "counted"),
        1 => tracing::info!(n, padding, "counted"),
        2 => tracing::warn!(n, padding, "counted"),
        3 => tracing::error!(n, padding, "counted"),
        _ => tracing::error!(n, padding, severity = "critical", "counted"),
    }
    Severity::ALL[(n % 5) as usize]
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "still waiting: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Bytes of memory of this process.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: u64 = line.unwrap().trim().trim_end_matches(" kB").parse().unwrap();
    kib << 10
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_severity_goes_to_its_exchange_and_is_confirmed() {
    Corner::run(async |corner| {
        let logger = corner.start(Logger::builder().source("shop.web"));
        for severity in Severity::ALL {
            for n in 0..=severity.index() {
                logger.log(severity, "said").attribute("n", n);
            }
        }
        let report = logger.close(PATIENCE).await;
        assert!(report.is_complete(), "{report:?}");
        assert_eq!(corner.arrived(15).await, report.stats.published);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_whose_broker_hangs_keeps_running_in_bounded_memory_and_knows_what_it_dropped() {
    Corner::run(async |corner| {
        const MOST: u64 = 2_000;
        let logger = corner.start(Logger::builder().max_messages(MOST as usize).max_bytes(8 << 20));
        let dispatch = Dispatch::new(tracing_subscriber::registry().with(WarrenLayer::new(logger.clone())));
        let mut called = SeverityCounts::default();
        let padding = "x".repeat(1_000);
        let mut log = |range: std::ops::Range<u64>| {
            tracing::dispatcher::with_default(&dispatch, || {
                for n in range {
                    called.add(say(n, &padding), 1);
                }
            });
        };
        log(0..1_000);
        logger.flush(PATIENCE).await.unwrap();
        assert_eq!(logger.stats().published.total(), 1_000);

        corner.proxy.hang();
        let (before, began) = (memory(), Instant::now());
        // 300 MB at full speed.
        for round in 0..30 {
            log(1_000 + round * 10_000..1_000 + (round + 1) * 10_000);
            assert!(logger.stats().waiting.total() <= MOST);
        }
        let (grown, lasted) = (memory().saturating_sub(before), began.elapsed());
        assert!(grown < 100 << 20, "grew by {} MiB", grown >> 20);
        assert!(lasted < Duration::from_secs(60), "took {lasted:?}");
        until("it notices", || logger.stats().trouble.is_some()).await;
        let hanging = logger.stats();
        assert!(hanging.dropped.total() >= 300_000 - MOST, "{hanging:?}");
        // The lowest went first: what waits is critical, but for what was already being published.
        assert!(hanging.dropped.get(Severity::Critical) < hanging.dropped.get(Severity::Debug));

        corner.proxy.heal();
        logger.flush(PATIENCE).await.unwrap();
        log(301_000..301_100);
        let report = logger.close(PATIENCE).await;
        assert_adds_up(&report.stats, &called);
        assert_eq!(report.stats.failed.total() + report.stats.rejected.total(), 0);
        // Exactly what it says: all that was not dropped has arrived, and nothing of what was dropped.
        assert_eq!(
            corner.arrived(report.stats.published.total()).await,
            report.stats.published
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_policy_to_wait_a_broker_that_hangs_costs_time_and_no_message() {
    Corner::run(async |corner| {
        const ALL: u64 = 20_000;
        let logger = corner.start(Logger::builder().max_messages(500).when_full(WhenFull::Wait));
        let dispatch = Dispatch::new(tracing_subscriber::registry().with(WarrenLayer::new(logger.clone())));
        corner.proxy.hang();
        let (said, ended) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let logging = {
            let (said, ended) = (Arc::clone(&said), Arc::clone(&ended));
            std::thread::spawn(move || {
                tracing::dispatcher::with_default(&dispatch, || {
                    for n in 0..ALL {
                        say(n, "");
                        said.store(n + 1, Ordering::Relaxed);
                    }
                });
                ended.store(true, Ordering::Relaxed);
            })
        };
        until("it is full", || logger.stats().waiting.total() == 500).await;
        until("it notices", || logger.stats().trouble.is_some()).await;
        assert_eq!(said.load(Ordering::Relaxed), 500);
        // Twice more, in the middle of it.
        for _ in 0..2 {
            corner.proxy.heal();
            let before = said.load(Ordering::Relaxed);
            until("it goes on", || said.load(Ordering::Relaxed) > before + 1_000).await;
            corner.proxy.hang();
            corner.proxy.cut();
        }
        corner.proxy.heal();
        until("all is said", || ended.load(Ordering::Relaxed)).await;
        logging.join().unwrap();
        let report = logger.close(PATIENCE).await;
        assert!(report.is_complete(), "{report:?}");
        assert_eq!(
            report.stats.published,
            counts(Severity::ALL.map(|severity| (severity, ALL / 5)))
        );
        assert_eq!(corner.arrived(ALL).await, report.stats.published);
    })
    .await;
}

/// The levels that [`say`] uses are not filtered out at compile time.
const _: () = assert!(matches!(
    tracing::level_filters::STATIC_MAX_LEVEL.into_level(),
    Some(Level::TRACE)
));
