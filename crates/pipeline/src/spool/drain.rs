//! Hands the broker what was put by.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use metrics::gauge;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout, timeout_at};
use tracing::{debug, error};
use warren_domain::Timestamp;
use warren_domain::ports::{Delivery, MessageConsumer};

use super::hand_over::HandOver;
use super::turn::{Left, Turn};
use super::{Shared, lock};
use crate::metrics::{SPOOL_OLDEST, SPOOL_WAITING};

/// How many deliveries are handed over together; their bytes are bounded by the prefetch of the spool.
pub(super) const ROUND: usize = 64;
/// How long a round gathers after its first delivery.
const GATHER: Duration = Duration::from_millis(20);
/// How long nothing comes out of the spool until somebody looks whether anything is left.
const IDLE: Duration = Duration::from_millis(250);
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
            hand_over: HandOver::new(Arc::clone(&shared)),
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
            self.hand_over.settle_what_is_aside().await;
            if self.turn.go_on().await == Left::Much {
                let pause = worked.mul_f64(PAUSE_FOR).min(LONGEST_PAUSE);
                self.shared.sleep(pause).await;
            }
        }
        self.hand_over.give_back();
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
            self.hand_over.settle_what_is_aside().await;
            if !self.shared.stop.is_cancelled() {
                if self.turn.go_on().await == Left::Much {
                    // What is left does not come, so nobody asks the broker, and it may be back.
                    self.shared.ways.broker_may_take();
                }
            } else if self.hand_over.holds_nothing()
                && self.shared.lag.lag().await.is_ok_and(|lag| lag.packets > 0)
            {
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

impl Shared {
    /// Sleeps, unless the spool stops.
    pub(super) async fn sleep(&self, wait: Duration) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = sleep(wait) => {}
        }
    }
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
