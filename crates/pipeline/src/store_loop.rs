//! Gets what the broker delivers into the store.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, histogram};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, info, info_span, warn};
use warren_domain::Timestamp;
use warren_domain::ports::{Cause, HealthCheck, MessageConsumer, MessageStore, Unhealthy};

use crate::gather::Batch;
use crate::health::{Paused, WorkerHealth};
use crate::metrics::{BATCH_MESSAGES, DELAY_SECONDS, UNSETTLED};
use crate::write::{GaveUp, write};
use crate::{Backoff, WorkerConfig};

/// How long the loop waits at most before it consumes again after it has given deliveries back.
///
/// Each time counts as one delivery of everything that was held, and the broker gives a message up after some
/// twenty. The store's health does not always know better: a database whose disk is full still answers reads.
const LONGEST_PAUSE: Duration = Duration::from_secs(3_600);

/// Makes a consumer of the store's group, or says why it cannot.
type Subscribe = dyn Fn() -> Result<Box<dyn MessageConsumer>, Cause> + Send + Sync;

/// Gets what the broker delivers into the store: gathers, stores, then acknowledges.
///
/// It consumes only while the store answers: a worker that took deliveries and died, over and over, would spend the
/// delivery limit of good messages.
pub struct StoreLoop {
    subscribe: Box<Subscribe>,
    store: Arc<dyn MessageStore>,
    store_health: Arc<dyn HealthCheck>,
    config: WorkerConfig,
    health: WorkerHealth,
}

impl fmt::Debug for StoreLoop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreLoop")
            .field("store", &self.store)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// Why consuming ended.
enum Ended {
    Stopped,
    ConsumerGone,
    StoreAway(Paused),
}

/// What became of a batch.
enum Outcome {
    Settled,
    /// Some of its deliveries come again: their settlement failed, or the store panicked.
    Unsettled,
    /// All of its deliveries come again.
    StoreAway(Paused),
}

/// How long the loop waits after something went wrong.
struct Waits {
    /// Until it subscribes after a consumer has ended; grows until something is stored.
    consumer_gone: Backoff,
    /// Until it consumes after it has given deliveries back; grows until something is stored.
    given_back: Backoff,
    /// Until it stores after a batch was not settled; grows while that happens again within the longest wait.
    unsettled: Backoff,
    calm_after: Duration,
    store_at: Instant,
}

impl Waits {
    fn new(config: &WorkerConfig) -> Self {
        let (min, max) = (config.retry_min, config.retry_max);
        Self {
            consumer_gone: Backoff::new(min, max),
            given_back: Backoff::new(max, LONGEST_PAUSE.max(max)),
            unsettled: Backoff::new(min, max),
            calm_after: max,
            store_at: Instant::now(),
        }
    }

    fn settled(&mut self) {
        self.consumer_gone.reset();
        self.given_back.reset();
        if self.store_at + self.calm_after < Instant::now() {
            self.unsettled.reset();
        }
    }

    /// What was not settled comes again at once, and every time counts towards the broker's delivery limit.
    fn unsettled(&mut self) {
        let store_at = Instant::now() + self.unsettled.next_wait();
        self.store_at = self.store_at.max(store_at);
    }
}

impl StoreLoop {
    /// Makes a loop that consumes from what `subscribe` returns once `store_health` is well.
    ///
    /// `subscribe` is called again whenever consuming begins anew; when it fails, it is called again after a while.
    pub fn new(
        subscribe: impl Fn() -> Result<Box<dyn MessageConsumer>, Cause> + Send + Sync + 'static,
        store: Arc<dyn MessageStore>,
        store_health: Arc<dyn HealthCheck>,
        config: WorkerConfig,
    ) -> Self {
        let health = WorkerHealth::default();
        Self {
            subscribe: Box::new(subscribe),
            store,
            store_health,
            config,
            health,
        }
    }

    /// Returns what tells whether the loop is at work.
    pub fn health(&self) -> WorkerHealth {
        self.health.clone()
    }

    /// Runs until `stop` is cancelled; then finishes what it holds, at most `drain_timeout`, and gives the rest back.
    pub async fn run(self, stop: CancellationToken) {
        let mut waits = Waits::new(&self.config);
        loop {
            let Some(()) = stop.run_until_cancelled(self.until_the_store_answers()).await else {
                return;
            };
            let mut consumer = match (self.subscribe)() {
                Ok(consumer) => consumer,
                Err(error) => {
                    warn!(%error, "cannot consume; trying again");
                    self.health
                        .set(Err(Unhealthy(format!("cannot consume: {error}"))));
                    stop.run_until_cancelled(sleep(self.config.retry_max)).await;
                    continue;
                }
            };
            self.health.set(Ok(()));
            let ended = self.consume(&mut *consumer, &mut waits, &stop).await;
            drop(consumer);
            match ended {
                Ended::Stopped => return,
                Ended::ConsumerGone => {
                    warn!("the consumer has ended; subscribing again");
                    stop.run_until_cancelled(sleep(waits.consumer_gone.next_wait()))
                        .await;
                }
                Ended::StoreAway(paused) => {
                    let wait = waits.given_back.next_wait();
                    warn!(
                        wait_seconds = wait.as_secs_f64(),
                        "gave the deliveries back to the broker; consuming again after a while, once the store answers"
                    );
                    paused.because(format!(
                        "gave its deliveries back to the broker; consumes again in {wait:.0?} if the store answers"
                    ));
                    stop.run_until_cancelled(sleep(wait)).await;
                }
            }
        }
    }

    const fn backoff(&self) -> Backoff {
        Backoff::new(self.config.retry_min, self.config.retry_max)
    }

    async fn until_the_store_answers(&self) {
        let mut backoff = self.backoff();
        let mut paused: Option<Paused> = None;
        while let Err(unhealthy) = self.store_health.check().await {
            let reason = format!("waiting for the store: {unhealthy}");
            match &paused {
                Some(paused) => paused.because(reason),
                None => {
                    warn!(reason = %unhealthy, "consuming begins once the store answers");
                    paused = Some(self.health.pause(reason));
                }
            }
            sleep(backoff.next_wait()).await;
        }
        info!("the store answers; consuming");
    }

    async fn consume(
        &self,
        consumer: &mut dyn MessageConsumer,
        waits: &mut Waits,
        stop: &CancellationToken,
    ) -> Ended {
        let mut writes = JoinSet::new();
        let mut batch = Batch::default();
        let mut due_at = Instant::now();
        let ended = loop {
            let full = batch.is_full(&self.config);
            let store_at = if full {
                waits.store_at
            } else {
                waits.store_at.max(due_at)
            };
            let due = !batch.is_empty() && store_at <= Instant::now();
            // While as many are with the store as may be, the batch goes on growing up to its limits.
            if due && writes.len() < self.config.batches_in_flight {
                writes.spawn(self.write_batch(std::mem::take(&mut batch)));
                continue;
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => break Ended::Stopped,
                Some(done) = writes.join_next() => match outcome(done) {
                    Outcome::Settled => waits.settled(),
                    Outcome::Unsettled => waits.unsettled(),
                    Outcome::StoreAway(paused) => break Ended::StoreAway(paused),
                },
                delivery = consumer.next(), if !full => {
                    let Some(delivery) = delivery else { break Ended::ConsumerGone };
                    if batch.is_empty() {
                        due_at = Instant::now() + self.config.batch_wait;
                    }
                    batch.push(delivery);
                }
                () = sleep_until(store_at), if !due && !batch.is_empty() => {}
            }
        };

        // The last batch is on its way to the store before anything is waited for.
        match ended {
            Ended::StoreAway(_) => {
                drop(batch);
                writes.abort_all();
            }
            Ended::Stopped | Ended::ConsumerGone if !batch.is_empty() => {
                writes.spawn(self.write_batch(batch));
            }
            Ended::Stopped | Ended::ConsumerGone => {}
        }
        let held = writes.len();
        let finished = async { tokio::join!(consumer.close(), drain(&mut writes)) };
        if timeout(self.config.drain_timeout, finished).await.is_err() {
            warn!(
                batches = writes.len(),
                of = held,
                "not finished before the deadline; what is not settled goes back to the broker"
            );
        }
        writes.shutdown().await;
        ended
    }

    /// Stores a batch and then settles its deliveries; a future of its own, so that it can outlive the loop's turn.
    fn write_batch(&self, batch: Batch) -> impl Future<Output = Outcome> + Send + 'static {
        let (store, health, backoff) = (Arc::clone(&self.store), self.health.clone(), self.backoff());
        let patience = self.config.give_back_after;
        let span = info_span!(
            "store_batch",
            messages = batch.messages.len(),
            links = batch.links()
        );
        let write = async move {
            histogram!(BATCH_MESSAGES).record(batch.messages.len() as f64);
            let oldest = batch.oldest();
            let refused = match write(&*store, &batch.messages, &health, backoff, patience).await {
                Ok(refused) => refused,
                Err(GaveUp(paused)) => return Outcome::StoreAway(paused),
            };
            if let Some(oldest) = oldest {
                histogram!(DELAY_SECONDS).record(age(oldest).as_secs_f64());
            }
            let messages = batch.messages.len();
            let failures = batch.settle(refused).await;
            if let Some(first) = failures.first() {
                counter!(UNSETTLED).increment(failures.len() as u64);
                info!(deliveries = failures.len(), error = %first, "stored, but not acknowledged; they come again");
                return Outcome::Unsettled;
            }
            debug!(messages, "stored and acknowledged");
            Outcome::Settled
        };
        write.instrument(span)
    }
}

fn age(moment: Timestamp) -> Duration {
    let micros = Timestamp::now()
        .unix_micros()
        .saturating_sub(moment.unix_micros());
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

async fn drain(writes: &mut JoinSet<Outcome>) {
    while let Some(done) = writes.join_next().await {
        outcome(done);
    }
}

fn outcome(done: Result<Outcome, JoinError>) -> Outcome {
    done.unwrap_or_else(|failure| {
        if failure.is_panic() {
            warn!(error = %failure, "storing a batch panicked; its deliveries come again");
        }
        Outcome::Unsettled
    })
}
