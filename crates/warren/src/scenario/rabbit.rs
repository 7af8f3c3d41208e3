//! A scenario on RabbitMQ: the four consumers as processes of their own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use warren_adapter_amqp::{AmqpConfig, AmqpPublisher, DeadLetterStrategy, RemovalError, remove_topology};
use warren_client::{Logger, LoggerBuilder};
use warren_domain::ports::NamedGroup;
use warren_pipeline::tally::{GroupReport, GroupState};

use super::GROUPS;
use super::child::{Child, Log, NamedLog};
use super::environment::{Environment, program};

/// How long a consumer may take until it consumes.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// How often a consumer prints its metric.
const EVERY: &str = "200ms";

/// The longest prefix that RabbitMQ is given.
const MAX_PREFIX: usize = 64;

/// The four consumers, and names of their own in the broker.
#[derive(Debug)]
pub(super) struct Rabbit {
    config: AmqpConfig,
    program: PathBuf,
    environment: Environment,
    consumers: [Consumer; 4],
    /// The broker has answered, and may have something to remove.
    reached: bool,
}

/// The consumer of a group.
#[derive(Debug)]
struct Consumer {
    /// `None` while it is away.
    child: Option<Child>,
    log: Log,
    printed: watch::Receiver<Printed>,
    printing: watch::Sender<Printed>,
}

/// What a consumer has printed.
#[derive(Clone, Debug, Default)]
struct Printed {
    last: Option<GroupReport>,
    /// The first line that was no metric.
    strange: Option<String>,
}

impl Rabbit {
    /// Chooses names; nothing is started or declared by that.
    ///
    /// # Errors
    /// There is no `severity-consumer`.
    pub(super) fn new(config: &AmqpConfig, environment: Environment, folder: &Path) -> Result<Self> {
        let name = format!(".scenario-{:012x}", fastrand::u64(..1 << 48));
        let room = MAX_PREFIX - name.len();
        let prefix: String = config.prefix.chars().take(room).chain(name.chars()).collect();
        let config = AmqpConfig {
            prefix: prefix.clone(),
            // These queues come and go.
            store_dead_letter_strategy: DeadLetterStrategy::AtMostOnce,
            client_name: "warren scenario".to_owned(),
            ..config.clone()
        };
        let environment = environment
            .with("amqp.prefix", prefix)
            .with("amqp.store_dead_letter_strategy", "at-most-once")
            .with("http.listen", "127.0.0.1:0")
            .with("tally.path", folder.join("tally"))
            .with("telemetry.log", "info,sea_orm_migration=warn")
            .with("telemetry.format", "text");
        let consumers = GROUPS.map(|_| {
            let (printing, printed) = watch::channel(Printed::default());
            Consumer {
                child: None,
                log: Log::default(),
                printed,
                printing,
            }
        });
        Ok(Self {
            config,
            program: program("severity-consumer")?,
            environment,
            consumers,
            reached: false,
        })
    }

    /// Starts the consumers and waits until each of them consumes.
    ///
    /// # Errors
    /// The broker cannot be reached; a consumer ends, or takes too long.
    pub(super) async fn start(&mut self) -> Result<()> {
        // To remove what is not there yet is the shortest way to learn whether the broker lets us do anything.
        self.remove()
            .await
            .map_err(|error| match error {
                RemovalError::Unavailable { reason, .. } => anyhow!(reason),
                RemovalError::Config(_) => error.into(),
            })
            .context("RabbitMQ (amqp.url) cannot be used; with --embedded it is not needed")?;
        self.reached = true;
        for group in 0..GROUPS.len() {
            self.revive(group)?;
        }
        let deadline = Instant::now() + START_TIMEOUT;
        for (consumer, group) in self.consumers.iter_mut().zip(GROUPS) {
            consumer.consuming(group, deadline).await?;
        }
        Ok(())
    }

    /// Starts a logger that sends straight to the broker.
    ///
    /// # Errors
    /// The settings cannot be used.
    pub(super) fn logger(&self, builder: LoggerBuilder) -> Result<Logger> {
        let config = self.config.clone();
        Ok(builder.start_with(move || async move { AmqpPublisher::start(config) })?)
    }

    /// Kills the consumer of a group as a crash would.
    ///
    /// # Errors
    /// It does not run.
    pub(super) async fn kill(&mut self, group: usize) -> Result<()> {
        let child = self.consumers[group].child.take();
        child.context("it does not run")?.kill().await
    }

    /// Starts the consumer of a group, again or for the first time.
    ///
    /// # Errors
    /// It cannot be started.
    pub(super) fn revive(&mut self, group: usize) -> Result<()> {
        let mut command = self.environment.command(&self.program);
        command.args(["--group", GROUPS[group], "--json", "--every", EVERY]);
        let printing = self.consumers[group].printing.clone();
        // What the one before it printed says nothing about this one.
        printing.send_modify(|printed| printed.last = None);
        let child = Child::start(
            format!("severity-consumer --group {}", GROUPS[group]),
            command,
            move |line| {
                printing.send_modify(|printed| match line.parse() {
                    Ok(report) => printed.last = Some(report),
                    Err(_) => drop(printed.strange.get_or_insert_with(|| line.to_owned())),
                });
            },
            |_| {},
        )?;
        self.consumers[group].log = child.log();
        self.consumers[group].child = Some(child);
        Ok(())
    }

    /// Returns what each consumer printed last.
    ///
    /// # Errors
    /// One of them has ended by itself, or printed something else.
    pub(super) fn reports(&mut self) -> Result<[Option<GroupReport>; 4]> {
        for (consumer, group) in self.consumers.iter_mut().zip(GROUPS) {
            consumer.fine(group)?;
        }
        Ok(std::array::from_fn(|group| {
            self.consumers[group].printed.borrow().last.clone()
        }))
    }

    /// Stops the consumers, and returns the metric that each of them printed last.
    ///
    /// # Errors
    /// One of them does not stop, or not with success, or has printed none.
    pub(super) async fn finish(&mut self) -> Result<[GroupReport; 4]> {
        let stops = self
            .consumers
            .iter_mut()
            .filter_map(|consumer| consumer.child.take())
            .map(Child::stop);
        // All at once, as each takes a moment.
        for stopped in futures_util::future::join_all(stops).await {
            stopped?;
        }
        let [Some(a), Some(b), Some(c), Some(d)] = self.reports()? else {
            bail!("a consumer has printed nothing");
        };
        let last = [a, b, c, d];
        for (report, group) in last.iter().zip(GROUPS) {
            if report.state != GroupState::Stopped {
                bail!("the consumer of {group} stopped without printing its metric once more");
            }
        }
        Ok(last)
    }

    /// Kills what still runs.
    pub(super) async fn end(&mut self) {
        for consumer in &mut self.consumers {
            if let Some(child) = consumer.child.take() {
                // It may have ended by itself.
                child.kill().await.ok();
            }
        }
    }

    /// Kills what still runs, and removes everything from the broker.
    ///
    /// # Errors
    /// Something is left behind.
    pub(super) async fn clear_away(&mut self) -> Result<()> {
        self.end().await;
        if !self.reached {
            return Ok(());
        }
        self.remove().await.with_context(|| {
            format!(
                "the exchanges and queues whose names begin with {} are left behind",
                self.config.prefix
            )
        })
    }

    async fn remove(&self) -> Result<(), RemovalError> {
        let groups = NamedGroup::shipped().map(|group| group.name);
        remove_topology(&self.config, &groups).await
    }

    /// Returns what its names in the broker begin with.
    pub(super) fn prefix(&self) -> &str {
        &self.config.prefix
    }

    /// Returns the ends of the consumers' logs.
    pub(super) fn logs(&self) -> Vec<NamedLog> {
        (0..)
            .zip(&self.consumers)
            .map(|(group, consumer): (usize, _)| NamedLog {
                group: Some(group),
                program: format!("severity-consumer --group {}", GROUPS[group]),
                log: consumer.log.clone(),
            })
            .collect()
    }
}

impl Consumer {
    /// Waits until it says that it consumes.
    async fn consuming(&mut self, group: &str, deadline: Instant) -> Result<()> {
        loop {
            self.fine(group)?;
            let last = self.printed.borrow_and_update().last.clone();
            if last.is_some_and(|report| report.state == GroupState::Consuming) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(anyhow!(
                    "the consumer of {group} does not consume within {START_TIMEOUT:?}"
                ));
            }
            // At the latest then is looked whether it has ended.
            drop(timeout(Duration::from_millis(100), self.printed.changed()).await);
        }
    }

    /// Fails when it has ended by itself, or printed something else than metrics.
    fn fine(&mut self, group: &str) -> Result<()> {
        if let Some(strange) = &self.printed.borrow().strange {
            bail!("the consumer of {group} printed what is no metric: {strange:?}");
        }
        match self.child.as_mut().and_then(Child::ended) {
            Some(status) => bail!("the consumer of {group} has ended by itself: {status}"),
            None => Ok(()),
        }
    }
}
