//! Brings what comes out of the spool to the broker, and settles it.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;
#[cfg(feature = "planted-bugs")]
use tokio::time::sleep;
use tracing::{debug, error};
use warren_domain::ports::{DeadLetterReason, Delivery, PublishError, Refused, SettleError};
use warren_domain::{MessageId, SeverityCounts};
#[cfg(feature = "planted-bugs")]
use warren_planted::{Bug, planted};

use super::{Held, Shared, lock};
use crate::intake::publish_each;
use crate::metrics::{DRAINED, SeverityCounters};
use crate::retry::Backoff;

/// The waits between two tries of a broker that takes nothing: nobody waits for it meanwhile, and the first message
/// should be on its way within a second after it is back.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_millis(800);
/// The longest wait after dead letters that could not be kept: all of their packet is handed over again.
const LONGEST_GRIEF: Duration = Duration::from_secs(10);

/// Brings deliveries to the broker.
pub(super) struct HandOver {
    shared: Arc<Shared>,
    backoff: Backoff,
    drained: SeverityCounters,
    grief: Grief,
}

/// Waits after dead letters that could not be kept, without anything else waiting for them.
struct Grief {
    backoff: Backoff,
    /// Until when no dead letters are kept.
    until: Option<Instant>,
    /// What is settled after that; the spool gives out only so many at a time.
    aside: VecDeque<HandedOver>,
    /// The first message of each delivery that could not be settled, and so comes again.
    unkept: HashSet<MessageId>,
}

/// A delivery whose every message is confirmed or refused.
struct HandedOver {
    delivery: Delivery,
    errors: Vec<Option<PublishError>>,
}

/// What became of deliveries that were handed over, apart from those that were settled.
#[derive(Default)]
struct Outcome {
    /// Those that are not confirmed, in their order.
    left: Vec<Delivery>,
    /// Why they are not.
    trouble: Option<String>,
}

impl HandOver {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            backoff: Backoff::new(RETRY_MIN, RETRY_MAX),
            drained: SeverityCounters::new(DRAINED),
            grief: Grief {
                backoff: Backoff::new(RETRY_MAX, LONGEST_GRIEF),
                until: None,
                aside: VecDeque::new(),
                unkept: HashSet::new(),
            },
        }
    }

    /// Hands the broker every delivery of a round; returns how long the broker took over what it confirmed. `None`: the
    /// spool is to stop, and what is left stays in it.
    ///
    /// A delivery is settled, and so dropped from the spool, only once the broker has confirmed all its messages.
    /// Until then it is held, which keeps the order, and handed over again.
    pub(super) async fn round(&mut self, mut round: Vec<Delivery>) -> Option<Duration> {
        let (mut failing, mut worked) = (false, Duration::ZERO);
        while !round.is_empty() {
            self.note_held(&round);
            // Of a broker that takes nothing, one delivery asks for all.
            let tried = if failing { 1 } else { round.len() };
            let rest = round.split_off(tried);
            let began = Instant::now();
            let Outcome { left, trouble } = self.publish(round).await;
            round = left;
            round.extend(rest);
            failing = trouble.is_some();
            if let Some(reason) = trouble {
                self.shared.broker_is_away(reason);
                // Nothing gets better before the deadline, and what is given back to a spool that stops would come at once.
                if self.shared.stop.is_cancelled() {
                    self.note_held(&[]);
                    return None;
                }
                self.shared.sleep(self.backoff.next_wait()).await;
            } else {
                worked += began.elapsed();
                self.backoff.reset();
                self.shared.broker_takes();
                self.shared.ways.broker_may_take();
            }
        }
        self.note_held(&[]);
        Some(worked)
    }

    /// Settles what waits for that, once the wait is over.
    pub(super) async fn settle_what_is_aside(&mut self) {
        while !self.grieves()
            && let Some(it) = self.grief.aside.pop_front()
        {
            self.settle(it).await;
            self.note_held(&[]);
        }
    }

    /// Tells whether no dead letters are kept now. A spool that stops does not find out whether they can be again: its
    /// next start does.
    fn grieves(&self) -> bool {
        let until = self.grief.until;
        until.is_some_and(|until| self.shared.stop.is_cancelled() || Instant::now() < until)
    }

    pub(super) fn holds_nothing(&self) -> bool {
        self.grief.aside.is_empty()
    }

    /// Gives back what is not settled; the next start hands it over again.
    pub(super) fn give_back(&mut self) {
        for it in self.grief.aside.drain(..) {
            self.shared.repeated.add(&it.confirmed());
        }
    }

    /// Notes what is out of the spool: a round, and what is aside.
    fn note_held(&self, round: &[Delivery]) {
        let aside = self.grief.aside.iter().map(|it| &it.delivery);
        *lock(&self.shared.held) = Held::of(round.iter().chain(aside));
    }

    /// Publishes deliveries, each with the trace it came with, and settles those that are confirmed.
    async fn publish(&mut self, deliveries: Vec<Delivery>) -> Outcome {
        #[cfg(feature = "planted-bugs")]
        if planted(Bug::SpoolDeletedBeforeConfirm) {
            return self.publish_what_is_settled(deliveries).await;
        }
        let calls = deliveries.iter().map(|delivery| {
            let (messages, trace) = (delivery.messages.clone(), delivery.traces.first().copied());
            publish_each(&*self.shared.broker, messages, trace)
        });
        let outcomes = join_all(calls).await;
        let mut outcome = Outcome::default();
        for (delivery, published) in deliveries.into_iter().zip(outcomes) {
            let errors = published.err().unwrap_or_default();
            if let Some(reason) = errors.iter().flatten().find_map(passing) {
                outcome.trouble.get_or_insert(reason);
                self.shared.repeated.add(&perhaps_taken(&delivery, &errors));
                outcome.left.push(delivery);
                continue;
            }
            let it = HandedOver { delivery, errors };
            if self.grieves() && self.grief.concerns(&it) {
                self.grief.aside.push_back(it);
            } else {
                self.settle(it).await;
            }
        }
        outcome
    }

    /// A bug on purpose: what is handed over has left the spool already, and lives in memory until it is confirmed.
    #[cfg(feature = "planted-bugs")]
    async fn publish_what_is_settled(&mut self, deliveries: Vec<Delivery>) -> Outcome {
        for delivery in deliveries {
            let (messages, trace) = (delivery.messages.clone(), delivery.traces.first().copied());
            let errors = Vec::new();
            self.settle(HandedOver { delivery, errors }).await;
            while publish_each(&*self.shared.broker, messages.clone(), trace)
                .await
                .is_err()
            {
                sleep(RETRY_MIN).await;
            }
        }
        Outcome::default()
    }

    /// Drops a delivery from the spool; what of it will never be taken becomes a dead letter. Those that cannot be kept
    /// come again, with all of their delivery.
    async fn settle(&mut self, it: HandedOver) {
        let refused: Vec<_> = it.errors.iter().enumerate().filter_map(refusal).collect();
        let (confirmed, first, messages) = (it.confirmed(), it.first(), it.delivery.messages.len());
        let never: SeverityCounts = (refused.iter())
            .map(|refused| it.delivery.messages[refused.index].severity)
            .collect();
        let dead = refused.len();
        match it.delivery.ack_except(refused).await {
            Ok(()) => {
                self.drained.add(&confirmed);
                self.shared.dead.add(&never);
                self.grief.settled(first, dead > 0);
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
                self.grief.begin(first);
                error!(
                    reason,
                    "dead letters of the spool cannot be kept; they come again"
                );
            }
        }
    }
}

impl Grief {
    /// Tells whether a delivery has dead letters: messages that were refused, or lines that cannot be read, of which
    /// nobody knows before it is settled.
    fn concerns(&self, it: &HandedOver) -> bool {
        let refused = it.errors.iter().any(Option::is_some);
        refused || it.first().is_some_and(|first| self.unkept.contains(&first))
    }

    /// Notes that dead letters of a delivery could not be kept.
    fn begin(&mut self, first: Option<MessageId>) {
        self.unkept.extend(first);
        self.until = Some(Instant::now() + self.backoff.next_wait());
    }

    /// Notes that a delivery is settled; if dead letters of it were kept, others can be, too.
    fn settled(&mut self, first: Option<MessageId>, dead: bool) {
        let unkept = first.is_some_and(|first| self.unkept.remove(&first));
        if dead || unkept {
            self.backoff.reset();
            self.until = None;
        }
    }
}

impl HandedOver {
    fn first(&self) -> Option<MessageId> {
        self.delivery.messages.first().map(|message| message.id)
    }

    fn confirmed(&self) -> SeverityCounts {
        let places = self.delivery.messages.iter().enumerate();
        let confirmed = places.filter(|(place, _)| self.errors.get(*place).is_none_or(Option::is_none));
        confirmed.map(|(_, message)| message.severity).collect()
    }
}

impl Held {
    fn of<'a>(deliveries: impl Iterator<Item = &'a Delivery>) -> Self {
        let mut held = Self::default();
        for message in deliveries.flat_map(|delivery| &delivery.messages) {
            held.messages += 1;
            let oldest = held.oldest.unwrap_or(message.received_at);
            held.oldest = Some(oldest.min(message.received_at));
        }
        held
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
