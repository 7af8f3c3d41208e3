//! Hands the broker what was put by.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use metrics::gauge;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout, timeout_at};
use tracing::{debug, error, info};
use warren_domain::ports::{DeadLetterReason, Delivery, MessageConsumer, PublishError, Refused, SettleError};
use warren_domain::{SeverityCounts, Timestamp};
#[cfg(feature = "planted-bugs")]
use warren_planted::{Bug, planted};

use super::{Shared, Way};
use crate::intake::publish_each;
use crate::metrics::{DRAINED, SPOOL_OLDEST, SPOOL_WAITING, SeverityCounters};
use crate::retry::Backoff;

/// How many deliveries are handed over together; their bytes are bounded by the prefetch of the spool.
const ROUND: usize = 64;
/// How long a round gathers after its first delivery.
const GATHER: Duration = Duration::from_millis(20);
/// How long nothing may come out of the spool until it counts as empty.
const IDLE: Duration = Duration::from_millis(250);
/// The waits between two tries of a broker that takes nothing: nobody waits for it meanwhile, and the first message
/// should be on its way within a second after it is back.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_millis(800);
/// What part of the time a long drain leaves to those who fill the spool meanwhile: 3 parts to 7 of its own.
const PAUSE_FOR: f64 = 3.0 / 7.0;
/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How often the numbers of the spool are brought up to date.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// The one reader of the spool.
pub(super) struct Drain {
    consumer: Box<dyn MessageConsumer>,
    hand_over: HandOver,
}

/// Brings deliveries to the broker.
struct HandOver {
    shared: Arc<Shared>,
    backoff: Backoff,
    drained: SeverityCounters,
}

impl Drain {
    pub(super) fn new(shared: Arc<Shared>, consumer: Box<dyn MessageConsumer>) -> Self {
        Self {
            consumer,
            hand_over: HandOver {
                shared,
                backoff: Backoff::new(RETRY_MIN, RETRY_MAX),
                drained: SeverityCounters::new(DRAINED),
            },
        }
    }

    /// Drains until it is stopped and nothing is left, or the broker takes nothing.
    pub(super) async fn run(mut self) {
        while let Some(first) = self.first().await {
            let round = self.gather(first).await;
            let all = round.len() < ROUND;
            let began = Instant::now();
            if !self.hand_over.round(round).await {
                break;
            }
            if all {
                self.nothing_waits();
            } else {
                let pause = began.elapsed().mul_f64(PAUSE_FOR).min(LONGEST_PAUSE);
                self.hand_over.sleep(pause).await;
            }
        }
        self.consumer.close().await;
    }

    /// Waits for a delivery; `None`: nothing is left of a spool that stops, or the spool is closed.
    async fn first(&mut self) -> Option<Delivery> {
        loop {
            match timeout(IDLE, self.consumer.next()).await {
                Ok(delivery) => return delivery,
                Err(_) if self.hand_over.shared.stop.is_cancelled() => return None,
                Err(_) => self.nothing_waits(),
            }
        }
    }

    /// Takes what else waits, in order, up to a round.
    async fn gather(&mut self, first: Delivery) -> Vec<Delivery> {
        let deadline = Instant::now() + GATHER;
        let mut round = vec![first];
        while round.len() < ROUND {
            match timeout_at(deadline, self.consumer.next()).await {
                Ok(Some(delivery)) => round.push(delivery),
                Ok(None) | Err(_) => break,
            }
        }
        round
    }

    /// All that was put by is with the broker: what little comes after this goes beside the new messages.
    fn nothing_waits(&self) {
        let was = self.hand_over.shared.set_way(Way::Straight);
        if was == (Way::ThroughSpool { broker: None }) {
            info!("the spool is drained; messages go straight to the broker");
        }
    }
}

impl HandOver {
    /// Hands the broker every delivery of a round; `false`: the broker takes nothing, and the spool is to stop.
    ///
    /// A delivery is settled, and so dropped from the spool, only once the broker has confirmed all its messages.
    /// Until then it is held, which keeps the order, and handed over again.
    async fn round(&mut self, mut round: Vec<Delivery>) -> bool {
        let held = |round: &[Delivery]| round.iter().map(|delivery| delivery.messages.len() as u64).sum();
        let mut failing = false;
        loop {
            self.shared.held.store(held(&round), Ordering::Relaxed);
            if round.is_empty() {
                return true;
            }
            // Of a broker that takes nothing, one delivery asks for all.
            let tried = if failing { 1 } else { round.len() };
            let rest = round.split_off(tried);
            let (left, trouble) = self.publish(round).await;
            round = left;
            round.extend(rest);
            failing = trouble.is_some();
            match trouble {
                None => {
                    self.backoff.reset();
                    self.shared.broker_takes();
                    self.shared.set_way(Way::ThroughSpool { broker: None });
                }
                Some(reason) => {
                    self.shared.broker_is_away(reason);
                    if self.shared.stop.is_cancelled() {
                        self.shared.held.store(0, Ordering::Relaxed);
                        return false;
                    }
                    let wait = self.backoff.next_wait();
                    self.sleep(wait).await;
                }
            }
        }
    }

    /// Publishes deliveries, each with the trace it came with, and settles those that are confirmed; returns the
    /// others in their order, and why.
    async fn publish(&self, deliveries: Vec<Delivery>) -> (Vec<Delivery>, Option<String>) {
        let calls = deliveries.iter().map(|delivery| {
            let (messages, trace) = (delivery.messages.clone(), delivery.traces.first().copied());
            publish_each(&*self.shared.broker, messages, trace)
        });
        let outcomes = join_all(calls).await;
        #[cfg(feature = "planted-bugs")]
        let outcomes: Vec<_> = if planted(Bug::SpoolDeletedBeforeConfirm) {
            outcomes.into_iter().map(|_| Ok(())).collect()
        } else {
            outcomes
        };
        let (mut left, mut trouble) = (Vec::new(), None);
        for (delivery, outcome) in deliveries.into_iter().zip(outcomes) {
            let errors = outcome.err().unwrap_or_default();
            if let Some(reason) = errors.iter().flatten().find_map(passing) {
                trouble.get_or_insert(reason);
                left.push(delivery);
            } else {
                self.settle(delivery, errors).await;
            }
        }
        (left, trouble)
    }

    /// Drops a delivery from the spool whose every message is confirmed, or will never be taken and becomes a dead
    /// letter.
    async fn settle(&self, delivery: Delivery, errors: Vec<Option<PublishError>>) {
        let refused: Vec<_> = errors.iter().enumerate().filter_map(refusal).collect();
        let confirmed: SeverityCounts = (delivery.messages.iter().enumerate())
            .filter(|(place, _)| errors.get(*place).is_none_or(Option::is_none))
            .map(|(_, message)| message.severity)
            .collect();
        let (messages, dead) = (delivery.messages.len(), refused.len());
        match delivery.ack_except(refused).await {
            Ok(()) => {
                self.drained.add(&confirmed);
                if dead > 0 {
                    error!(
                        dead,
                        messages, "the broker refuses messages of the spool; they are its dead letters now"
                    );
                }
            }
            // It comes again and is published again: the store knows it by its ids.
            Err(SettleError::ConnectionLost) => debug!("the spool was closed before a delivery was settled"),
            Err(SettleError::Unavailable { reason, .. }) => {
                error!(
                    reason,
                    "dead letters of the spool cannot be kept; they come again"
                );
                self.sleep(RETRY_MAX).await;
            }
        }
    }

    /// Sleeps, unless the spool stops.
    async fn sleep(&self, wait: Duration) {
        tokio::select! {
            () = self.shared.stop.cancelled() => {}
            () = sleep(wait) => {}
        }
    }
}

/// Returns why a message cannot be taken now, if another try may mend it.
///
/// What has no queue is among it: it was accepted, so it waits until the topology is whole.
fn passing(error: &PublishError) -> Option<String> {
    match error {
        PublishError::Unavailable { reason, .. } => Some(reason.clone()),
        PublishError::Unroutable { .. } => Some(error.to_string()),
        PublishError::Refused { .. } => None,
    }
}

fn refusal((index, error): (usize, &Option<PublishError>)) -> Option<Refused> {
    let reason = DeadLetterReason {
        code: "refused_by_broker",
        detail: error.as_ref()?.to_string(),
    };
    Some(Refused { index, reason })
}

/// Keeps the numbers of the spool up to date until it stops.
pub(super) async fn report(shared: Arc<Shared>) {
    let (waiting, oldest) = (gauge!(SPOOL_WAITING), gauge!(SPOOL_OLDEST));
    let mut ticks = interval(REPORT_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let Ok(lag) = shared.lag.lag().await else {
            // The spool's own health says why.
            continue;
        };
        let held = shared.held.load(Ordering::Relaxed);
        waiting.set((lag.messages.unwrap_or(lag.packets) + held) as f64);
        let now = Timestamp::now().unix_micros();
        let age = lag.oldest.map_or(0, |oldest| (now - oldest.unix_micros()).max(0));
        oldest.set(Duration::from_micros(age.unsigned_abs()).as_secs_f64());
    }
}
