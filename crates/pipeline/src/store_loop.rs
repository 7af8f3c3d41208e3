//! Gets what the broker delivers into the store.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics::{counter, histogram};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, info, info_span, warn};
use warren_domain::Timestamp;
use warren_domain::ports::{Cause, HealthCheck, MessageConsumer, MessageStore, StoreError, Unhealthy};

use crate::gather::Batch;
use crate::metrics::{BATCH_MESSAGES, DELAY_SECONDS, UNSETTLED};
use crate::write::write;
use crate::{Backoff, WorkerConfig};

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
    StoreAway,
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
            let ended = self.consume(&mut *consumer, &stop).await;
            match ended {
                Ended::Stopped => return,
                Ended::ConsumerGone => {
                    warn!("the consumer has ended; subscribing again");
                    sleep(self.backoff().next_wait()).await;
                }
                Ended::StoreAway => {
                    warn!("gave the deliveries back to the broker; consuming again once the store answers");
                }
            }
        }
    }

    const fn backoff(&self) -> Backoff {
        Backoff::new(self.config.retry_min, self.config.retry_max)
    }

    async fn until_the_store_answers(&self) {
        let mut backoff = self.backoff();
        let mut said = false;
        while let Err(unhealthy) = self.store_health.check().await {
            self.health
                .set(Err(Unhealthy(format!("waiting for the store: {unhealthy}"))));
            if !said {
                warn!(reason = %unhealthy, "consuming begins once the store answers");
                said = true;
            }
            sleep(backoff.next_wait()).await;
        }
        self.health.resume();
        info!("the store answers; consuming");
    }

    async fn consume(&self, consumer: &mut dyn MessageConsumer, stop: &CancellationToken) -> Ended {
        let slots = Arc::new(Semaphore::new(self.config.batches_in_flight));
        let store_away = CancellationToken::new();
        let mut writes = JoinSet::new();
        let mut batch = Batch::default();
        let mut due_at = Instant::now();
        let ended = loop {
            let full = batch.is_full(&self.config);
            let due = !batch.is_empty() && (full || due_at <= Instant::now());
            tokio::select! {
                biased;
                () = stop.cancelled() => break Ended::Stopped,
                () = store_away.cancelled() => break Ended::StoreAway,
                Some(done) = writes.join_next() => log_panic(done),
                // While no slot is free the batch goes on growing up to its limits.
                Ok(slot) = Arc::clone(&slots).acquire_owned(), if due => {
                    let batch = std::mem::take(&mut batch);
                    let write = self.write_batch(batch, store_away.clone());
                    writes.spawn(async move { write.await; drop(slot) });
                }
                delivery = consumer.next(), if !full => {
                    let Some(delivery) = delivery else { break Ended::ConsumerGone };
                    if batch.is_empty() {
                        due_at = Instant::now() + self.config.batch_wait;
                    }
                    batch.push(delivery);
                }
                () = sleep_until(due_at), if !due && !batch.is_empty() => {}
            }
        };

        consumer.close().await;
        match ended {
            Ended::StoreAway => writes.abort_all(),
            Ended::Stopped | Ended::ConsumerGone => {
                if !batch.is_empty() {
                    writes.spawn(self.write_batch(batch, store_away));
                }
                let held = writes.len();
                if timeout(self.config.drain_timeout, drain(&mut writes))
                    .await
                    .is_err()
                {
                    warn!(
                        batches = writes.len(),
                        of = held,
                        "not stored before the deadline; given back to the broker"
                    );
                }
            }
        }
        writes.shutdown().await;
        ended
    }

    /// Stores a batch and then settles its deliveries; a future of its own, so that it can outlive the loop's turn.
    fn write_batch(
        &self,
        batch: Batch,
        store_away: CancellationToken,
    ) -> impl Future<Output = ()> + Send + 'static {
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
            let Ok(refused) = write(&*store, &batch.messages, &health, backoff, patience).await else {
                store_away.cancel();
                return;
            };
            if let Some(oldest) = oldest {
                histogram!(DELAY_SECONDS).record(age(oldest).as_secs_f64());
            }
            let messages = batch.messages.len();
            let failures = batch.settle(refused).await;
            if let Some(first) = failures.first() {
                counter!(UNSETTLED).increment(failures.len() as u64);
                info!(deliveries = failures.len(), error = %first, "stored, but not acknowledged; they come again");
            }
            debug!(messages, "stored and acknowledged");
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

async fn drain(writes: &mut JoinSet<()>) {
    while let Some(done) = writes.join_next().await {
        log_panic(done);
    }
}

fn log_panic(done: Result<(), tokio::task::JoinError>) {
    if let Err(failure) = done
        && failure.is_panic()
    {
        warn!(error = %failure, "storing a batch panicked; its deliveries come again");
    }
}

/// Tells whether the store loop is at work or waits for the store.
#[derive(Clone, Debug)]
pub struct WorkerHealth(Arc<Mutex<Result<(), Unhealthy>>>);

impl Default for WorkerHealth {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Err(Unhealthy("not started".to_owned())))))
    }
}

impl WorkerHealth {
    pub(crate) fn pause(&self, failure: &StoreError) {
        self.set(Err(Unhealthy(format!("paused: {failure}"))));
    }

    pub(crate) fn resume(&self) {
        self.set(Ok(()));
    }

    fn set(&self, state: Result<(), Unhealthy>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

#[async_trait::async_trait]
impl HealthCheck for WorkerHealth {
    fn name(&self) -> &'static str {
        "store_loop"
    }

    async fn check(&self) -> Result<(), Unhealthy> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
