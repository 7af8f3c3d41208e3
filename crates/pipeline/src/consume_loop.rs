//! Gets what the broker delivers to where it has its effect: gathers, applies, then acknowledges.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use metrics::Gauge;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, debug, info, warn};
use warren_domain::Severity;
use warren_domain::ports::{Cause, MessageConsumer, Refused, Unhealthy};
#[cfg(feature = "planted-bugs")]
use warren_planted::{Bug, planted};

use crate::gather::{Batch, Dead, HeldGauges};
use crate::health::{Paused, WorkerHealth};
use crate::outage::{GaveUp, Outage};
use crate::{Backoff, WorkerConfig};

/// How long the loop waits at most before it consumes again after it has given deliveries back.
///
/// Each time counts as one delivery of everything that was held, and the broker gives a message up after some
/// twenty. Health does not always know better: a database whose disk is full still answers reads.
const LONGEST_PAUSE: Duration = Duration::from_secs(3_600);

/// What is done with messages before they are acknowledged.
#[async_trait]
pub(crate) trait Effect: fmt::Debug + Send + Sync + 'static {
    /// What it needs, as the log calls it.
    const NEEDS: &'static str;

    /// Tells whether it can be had now; consuming begins once it can.
    async fn ready(&self) -> Result<(), Unhealthy>;

    /// Makes the span of one batch.
    fn span(&self, messages: usize, links: &str) -> Span;

    /// Lets every message have its effect, and waits with `outage` for what it needs; returns the messages that
    /// will never have it, by ascending place.
    async fn apply(&self, batch: &Batch, outage: Outage) -> Result<Vec<Refused>, GaveUp>;

    /// Returns what shows how many messages of a severity are held; nothing, where nobody asks.
    fn held(&self, severity: Severity) -> Gauge;

    /// Counts what is durably a dead letter.
    fn dead_lettered(&self, dead: &Dead);

    /// Counts deliveries that had their effect and come again all the same.
    fn unsettled(&self, deliveries: usize);
}

/// Makes a consumer of the group, or says why it cannot.
type Subscribe = dyn Fn() -> Result<Box<dyn MessageConsumer>, Cause> + Send + Sync;

/// Gathers what is delivered into batches, lets each have its effect, and acknowledges it then.
pub(crate) struct ConsumeLoop<E> {
    subscribe: Box<Subscribe>,
    effect: Arc<E>,
    held: HeldGauges,
    config: WorkerConfig,
    health: WorkerHealth,
}

impl<E: fmt::Debug> fmt::Debug for ConsumeLoop<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsumeLoop")
            .field("effect", &self.effect)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// Why consuming ended.
enum Ended {
    Stopped,
    ConsumerGone,
    Away(Paused),
}

/// What became of a batch.
enum Outcome {
    Settled,
    /// Some of its deliveries come again: their settlement failed, or the effect panicked.
    Unsettled,
    /// All of its deliveries come again.
    Away(Paused),
}

/// How long the loop waits after something went wrong.
struct Waits {
    /// Until it subscribes after a consumer has ended; grows until something is settled.
    consumer_gone: Backoff,
    /// Until it consumes after it has given deliveries back; grows until something is settled.
    given_back: Backoff,
    /// Until the next batch after one was not settled; grows while that happens again within the longest wait.
    unsettled: Backoff,
    calm_after: Duration,
    apply_at: Instant,
}

impl Waits {
    fn new(config: &WorkerConfig) -> Self {
        let (min, max) = (config.retry_min, config.retry_max);
        Self {
            consumer_gone: Backoff::new(min, max),
            given_back: Backoff::new(max, LONGEST_PAUSE.max(max)),
            unsettled: Backoff::new(min, max),
            calm_after: max,
            apply_at: Instant::now(),
        }
    }

    fn settled(&mut self) {
        self.consumer_gone.reset();
        self.given_back.reset();
        if self.apply_at + self.calm_after < Instant::now() {
            self.unsettled.reset();
        }
    }

    /// What was not settled comes again at once, and every time counts towards the broker's delivery limit.
    fn unsettled(&mut self) {
        let apply_at = Instant::now() + self.unsettled.next_wait();
        self.apply_at = self.apply_at.max(apply_at);
    }
}

impl<E: Effect> ConsumeLoop<E> {
    pub(crate) fn new(
        subscribe: impl Fn() -> Result<Box<dyn MessageConsumer>, Cause> + Send + Sync + 'static,
        effect: E,
        config: WorkerConfig,
        health: WorkerHealth,
    ) -> Self {
        Self {
            subscribe: Box::new(subscribe),
            held: HeldGauges::new(|severity| effect.held(severity)),
            effect: Arc::new(effect),
            config,
            health,
        }
    }

    pub(crate) fn health(&self) -> WorkerHealth {
        self.health.clone()
    }

    /// Runs until `stop` is cancelled; then finishes what it holds, at most `drain_timeout`, and gives the rest back.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut waits = Waits::new(&self.config);
        loop {
            let Some(()) = stop.run_until_cancelled(self.until_ready()).await else {
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
                Ended::Away(paused) => {
                    let wait = waits.given_back.next_wait();
                    warn!(
                        wait_seconds = wait.as_secs_f64(),
                        "gave the deliveries back to the broker; consuming again after a while, once {} answers",
                        E::NEEDS
                    );
                    paused.because(format!(
                        "gave its deliveries back to the broker; consumes again in {wait:.0?} if {} answers",
                        E::NEEDS
                    ));
                    stop.run_until_cancelled(sleep(wait)).await;
                }
            }
        }
    }

    const fn backoff(&self) -> Backoff {
        Backoff::new(self.config.retry_min, self.config.retry_max)
    }

    async fn until_ready(&self) {
        let mut backoff = self.backoff();
        let mut paused: Option<Paused> = None;
        while let Err(unhealthy) = self.effect.ready().await {
            let reason = format!("waiting for {}: {unhealthy}", E::NEEDS);
            match &paused {
                Some(paused) => paused.because(reason),
                None => {
                    warn!(reason = %unhealthy, "consuming begins once {} answers", E::NEEDS);
                    paused = Some(self.health.pause(reason));
                }
            }
            sleep(backoff.next_wait()).await;
        }
        info!("{} answers; consuming", E::NEEDS);
    }

    async fn consume(
        &self,
        consumer: &mut dyn MessageConsumer,
        waits: &mut Waits,
        stop: &CancellationToken,
    ) -> Ended {
        let mut under_way = JoinSet::new();
        let mut batch = Batch::new(&self.held);
        let mut due_at = Instant::now();
        let ended = loop {
            let full = batch.is_full(&self.config);
            let apply_at = if full {
                waits.apply_at
            } else {
                waits.apply_at.max(due_at)
            };
            let due = !batch.is_empty() && apply_at <= Instant::now();
            // While as many are under way as may be, the batch goes on growing up to its limits.
            if due && under_way.len() < self.config.batches_in_flight {
                let next = Batch::new(&self.held);
                under_way.spawn(self.apply_batch(std::mem::replace(&mut batch, next)));
                continue;
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => break Ended::Stopped,
                Some(done) = under_way.join_next() => match outcome(done) {
                    Outcome::Settled => waits.settled(),
                    Outcome::Unsettled => waits.unsettled(),
                    Outcome::Away(paused) => break Ended::Away(paused),
                },
                delivery = consumer.next(), if !full => {
                    let Some(delivery) = delivery else { break Ended::ConsumerGone };
                    if batch.is_empty() {
                        due_at = Instant::now() + self.config.batch_wait;
                    }
                    batch.push(delivery);
                }
                () = sleep_until(apply_at), if !due && !batch.is_empty() => {}
            }
        };

        // The last batch is on its way before anything is waited for.
        match ended {
            Ended::Away(_) => {
                drop(batch);
                under_way.abort_all();
            }
            Ended::Stopped | Ended::ConsumerGone if !batch.is_empty() => {
                under_way.spawn(self.apply_batch(batch));
            }
            Ended::Stopped | Ended::ConsumerGone => {}
        }
        let held = under_way.len();
        let finished = async { tokio::join!(consumer.close(), drain(&mut under_way)) };
        if timeout(self.config.drain_timeout, finished).await.is_err() {
            warn!(
                batches = under_way.len(),
                of = held,
                "not finished before the deadline; what is not settled goes back to the broker"
            );
        }
        under_way.shutdown().await;
        ended
    }

    /// Applies a batch and then settles its deliveries; a future of its own, so that it can outlive the loop's turn.
    fn apply_batch(&self, batch: Batch) -> impl Future<Output = Outcome> + Send + 'static {
        let effect = Arc::clone(&self.effect);
        let patience = self.config.give_back_after;
        let outage = Outage::new(E::NEEDS, self.health.clone(), self.backoff(), patience);
        let span = effect.span(batch.messages.len(), &batch.links());
        #[cfg(feature = "planted-bugs")]
        let held = self.held.clone();
        let apply = async move {
            #[cfg(feature = "planted-bugs")]
            if planted(Bug::AckBeforeCommit) {
                let mut unsettled = Batch::new(&held);
                unsettled.messages.clone_from(&batch.messages);
                batch.settle(Vec::new()).await;
                effect.apply(&unsettled, outage).await.ok();
                return Outcome::Settled;
            }
            let refused = match effect.apply(&batch, outage).await {
                Ok(refused) => refused,
                #[cfg(feature = "planted-bugs")]
                Err(_) if planted(Bug::RequeueOnDatabaseError) => return Outcome::Settled,
                Err(GaveUp(paused)) => return Outcome::Away(paused),
            };
            let messages = batch.messages.len();
            let (dead, failures) = batch.settle(refused).await;
            effect.dead_lettered(&dead);
            if let Some(first) = failures.first() {
                effect.unsettled(failures.len());
                info!(deliveries = failures.len(), error = %first, "done, but not acknowledged; they come again");
                return Outcome::Unsettled;
            }
            debug!(messages, "done and acknowledged");
            Outcome::Settled
        };
        apply.instrument(span)
    }
}

async fn drain(under_way: &mut JoinSet<Outcome>) {
    while let Some(done) = under_way.join_next().await {
        outcome(done);
    }
}

fn outcome(done: Result<Outcome, JoinError>) -> Outcome {
    done.unwrap_or_else(|failure| {
        if failure.is_panic() {
            warn!(error = %failure, "handling a batch panicked; its deliveries come again");
        }
        Outcome::Unsettled
    })
}
