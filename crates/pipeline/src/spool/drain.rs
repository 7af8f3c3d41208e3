//! Hands the broker what was put by.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use metrics::gauge;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout, timeout_at};
use tracing::{debug, error};
use warren_domain::ports::{DeadLetterReason, Delivery, MessageConsumer, PublishError, Refused, SettleError};
use warren_domain::{SeverityCounts, Timestamp};
#[cfg(feature = "planted-bugs")]
use warren_planted::{Bug, planted};

use super::turn::{Left, Turn};
use super::{Held, Shared, lock};
use crate::intake::publish_each;
use crate::metrics::{DRAINED, SPOOL_OLDEST, SPOOL_WAITING, SeverityCounters};
use crate::retry::Backoff;

/// How many deliveries are handed over together; their bytes are bounded by the prefetch of the spool.
pub(super) const ROUND: usize = 64;
/// How long a round gathers after its first delivery.
const GATHER: Duration = Duration::from_millis(20);
/// How long nothing comes out of the spool until somebody looks whether anything is left.
const IDLE: Duration = Duration::from_millis(250);
/// The waits between two tries of a broker that takes nothing: nobody waits for it meanwhile, and the first message
/// should be on its way within a second after it is back.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_millis(800);
/// The longest wait after dead letters that could not be kept: all of their packet is handed over again.
const LONGEST_GRIEF: Duration = Duration::from_secs(10);
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
    turn: Turn,
    shared: Arc<Shared>,
}

/// Brings deliveries to the broker.
struct HandOver {
    shared: Arc<Shared>,
    backoff: Backoff,
    /// Between settlements that fail.
    grief: Backoff,
    drained: SeverityCounters,
}

/// Says that the drain is gone, whatever ended it, unless it was asked to end.
struct Vigil(Arc<Shared>);

impl Drop for Vigil {
    fn drop(&mut self) {
        if !self.0.stop.is_cancelled() {
            self.0.ways.give_up();
            error!(
                "the spool gives out nothing any more; messages go to the broker alone, and what is in the spool waits \
                 for a restart"
            );
        }
    }
}

impl Drain {
    pub(super) fn new(shared: Arc<Shared>, consumer: Box<dyn MessageConsumer>) -> Self {
        Self {
            consumer,
            hand_over: HandOver {
                shared: Arc::clone(&shared),
                backoff: Backoff::new(RETRY_MIN, RETRY_MAX),
                grief: Backoff::new(RETRY_MAX, LONGEST_GRIEF),
                drained: SeverityCounters::new(DRAINED),
            },
            turn: Turn::new(Arc::clone(&shared)),
            shared,
        }
    }

    /// Drains until it is stopped and nothing is left, or the broker takes nothing.
    pub(super) async fn run(mut self) {
        let _vigil = Vigil(Arc::clone(&self.shared));
        while let Some(first) = self.first().await {
            let round = self.gather(first).await;
            let Some(worked) = self.hand_over.round(round).await else {
                break;
            };
            if self.turn.go_on().await == Left::Much {
                let pause = worked.mul_f64(PAUSE_FOR).min(LONGEST_PAUSE);
                self.shared.sleep(pause).await;
            }
        }
        self.consumer.close().await;
    }

    /// Waits for a delivery; `None`: nothing is left of a spool that stops, or the spool is closed.
    async fn first(&mut self) -> Option<Delivery> {
        // Not begun anew at each look: a slow disk would never get to its answer.
        let mut next = pin!(self.consumer.next());
        loop {
            if let Ok(delivery) = timeout(IDLE, &mut next).await {
                return delivery;
            }
            if !self.shared.stop.is_cancelled() {
                self.turn.go_on().await;
            } else if self.shared.lag.lag().await.is_ok_and(|lag| lag.packets > 0) {
                debug!("what is left of the spool is still being read");
            } else {
                return None;
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
}

/// What became of deliveries that were handed over.
struct Outcome {
    /// Those that are not confirmed, in their order.
    left: Vec<Delivery>,
    /// Why they are not.
    trouble: Option<String>,
    /// Dead letters could not be kept, and come again.
    unkept: bool,
}

impl HandOver {
    /// Hands the broker every delivery of a round; returns how long the broker took over what it confirmed. `None`: the
    /// spool is to stop, and what is left stays in it.
    ///
    /// A delivery is settled, and so dropped from the spool, only once the broker has confirmed all its messages.
    /// Until then it is held, which keeps the order, and handed over again.
    async fn round(&mut self, mut round: Vec<Delivery>) -> Option<Duration> {
        let (mut failing, mut worked) = (false, Duration::ZERO);
        while !round.is_empty() {
            *lock(&self.shared.held) = Held::of(&round);
            // Of a broker that takes nothing, one delivery asks for all.
            let tried = if failing { 1 } else { round.len() };
            let rest = round.split_off(tried);
            let began = Instant::now();
            let Outcome {
                left,
                trouble,
                unkept,
            } = self.publish(round).await;
            round = left;
            round.extend(rest);
            failing = trouble.is_some();
            let wait = match trouble {
                None => {
                    worked += began.elapsed();
                    self.backoff.reset();
                    self.shared.broker_takes();
                    self.shared.ways.broker_takes();
                    None
                }
                Some(reason) => {
                    self.shared.broker_is_away(reason);
                    Some(self.backoff.next_wait())
                }
            };
            let grief = unkept.then(|| self.grief.next_wait());
            if !unkept {
                self.grief.reset();
            }
            if let Some(wait) = wait.max(grief) {
                // Nothing gets better before the deadline, and what is given back to a spool that stops would come at once.
                if self.shared.stop.is_cancelled() {
                    *lock(&self.shared.held) = Held::default();
                    return None;
                }
                self.shared.sleep(wait).await;
            }
        }
        *lock(&self.shared.held) = Held::default();
        Some(worked)
    }

    /// Publishes deliveries, each with the trace it came with, and settles those that are confirmed.
    async fn publish(&self, deliveries: Vec<Delivery>) -> Outcome {
        #[cfg(feature = "planted-bugs")]
        if planted(Bug::SpoolDeletedBeforeConfirm) {
            return self.publish_what_is_settled(deliveries).await;
        }
        let calls = deliveries.iter().map(|delivery| {
            let (messages, trace) = (delivery.messages.clone(), delivery.traces.first().copied());
            publish_each(&*self.shared.broker, messages, trace)
        });
        let outcomes = join_all(calls).await;
        let mut outcome = Outcome {
            left: Vec::new(),
            trouble: None,
            unkept: false,
        };
        for (delivery, published) in deliveries.into_iter().zip(outcomes) {
            let errors = published.err().unwrap_or_default();
            if let Some(reason) = errors.iter().flatten().find_map(passing) {
                outcome.trouble.get_or_insert(reason);
                self.shared.repeated.add(&perhaps_taken(&delivery, &errors));
                outcome.left.push(delivery);
            } else {
                outcome.unkept |= !self.settle(delivery, errors).await;
            }
        }
        outcome
    }

    /// A bug on purpose: what is handed over has left the spool already, and lives in memory until it is confirmed.
    #[cfg(feature = "planted-bugs")]
    async fn publish_what_is_settled(&self, deliveries: Vec<Delivery>) -> Outcome {
        for delivery in deliveries {
            let (messages, trace) = (delivery.messages.clone(), delivery.traces.first().copied());
            self.settle(delivery, Vec::new()).await;
            while publish_each(&*self.shared.broker, messages.clone(), trace)
                .await
                .is_err()
            {
                sleep(RETRY_MIN).await;
            }
        }
        Outcome {
            left: Vec::new(),
            trouble: None,
            unkept: false,
        }
    }

    /// Drops a delivery from the spool whose every message is confirmed, or will never be taken and becomes a dead
    /// letter; `false`: those could not be kept, and all of it comes again.
    async fn settle(&self, delivery: Delivery, errors: Vec<Option<PublishError>>) -> bool {
        let refused: Vec<_> = errors.iter().enumerate().filter_map(refusal).collect();
        let confirmed: SeverityCounts = (delivery.messages.iter().enumerate())
            .filter(|(place, _)| errors.get(*place).is_none_or(Option::is_none))
            .map(|(_, message)| message.severity)
            .collect();
        let never: SeverityCounts = (refused.iter())
            .map(|refused| delivery.messages[refused.index].severity)
            .collect();
        let (messages, dead) = (delivery.messages.len(), refused.len());
        match delivery.ack_except(refused).await {
            Ok(()) => {
                self.drained.add(&confirmed);
                self.shared.dead.add(&never);
                if dead > 0 {
                    error!(
                        dead,
                        messages, "the broker refuses messages of the spool; they are its dead letters now"
                    );
                }
            }
            // It comes again and is published again: the store knows it by its ids.
            Err(SettleError::ConnectionLost) => {
                self.shared.repeated.add(&confirmed);
                debug!("the spool was closed before a delivery was settled");
            }
            Err(SettleError::Unavailable { reason, .. }) => {
                self.shared.repeated.add(&confirmed);
                error!(
                    reason,
                    "dead letters of the spool cannot be kept; they come again"
                );
                return false;
            }
        }
        true
    }
}

impl Held {
    fn of(deliveries: &[Delivery]) -> Self {
        let messages = || deliveries.iter().flat_map(|delivery| &delivery.messages);
        Self {
            messages: messages().count() as u64,
            oldest: messages().map(|message| message.received_at).min(),
        }
    }
}

impl Shared {
    /// Sleeps, unless the spool stops.
    async fn sleep(&self, wait: Duration) {
        tokio::select! {
            () = self.stop.cancelled() => {}
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

/// Counts the messages of a delivery that is published again which the broker may have taken: what it did not refuse.
fn perhaps_taken(delivery: &Delivery, errors: &[Option<PublishError>]) -> SeverityCounts {
    let taken = delivery.messages.iter().zip(errors).filter(|(_, error)| {
        !matches!(
            error,
            Some(PublishError::Unroutable { .. } | PublishError::Refused { .. })
        )
    });
    taken.map(|(message, _)| message.severity).collect()
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
        let held = *lock(&shared.held);
        waiting.set((lag.messages.unwrap_or(lag.packets) + held.messages) as f64);
        let now = Timestamp::now().unix_micros();
        let first = [held.oldest, lag.oldest].into_iter().flatten().min();
        let age = first.map_or(0, |oldest| (now - oldest.unix_micros()).max(0));
        oldest.set(Duration::from_micros(age.unsigned_abs()).as_secs_f64());
    }
}
