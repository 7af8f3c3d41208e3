//! Tells the broker what is settled on one channel.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use amqprs::channel::{BasicAckArguments, BasicNackArguments, Channel};
use tokio::time::{Instant, timeout};

use crate::acks::{Acks, Settling, Verdict};
use crate::metrics::Unsettled;
use crate::settlement::Decision;

/// How long acknowledgements wait behind a gap for it to close, before they are told one by one.
const GAP_PATIENCE: Duration = Duration::from_millis(50);

/// How long telling the broker may take; only a writer that is stuck takes longer.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest that a delivery is kept back whose dead letters cannot be written; RabbitMQ waits 30 minutes for an
/// acknowledgement.
const LONGEST_REQUEUE_PAUSE: Duration = Duration::from_secs(300);

/// What is settled, and what is to be told to the broker, on one channel.
pub(crate) struct Settler {
    pub(crate) channel: Channel,
    acks: Acks,
    /// How many deliveries were acknowledged.
    pub(crate) settled: usize,
    pub(crate) tell_rest_at: Option<Instant>,
    /// Deliveries to be given back, and when.
    pub(crate) requeue_later: BTreeSet<(Instant, u64)>,
    requeue_pause: Duration,
    unsettled: Arc<Unsettled>,
    /// The consumer is closing: what is given back is told last.
    pub(crate) closing: bool,
    /// Deliveries to be given back when everything else is settled.
    ///
    /// Earlier, before the broker has stopped delivering, it would deliver them again to this very consumer. And a
    /// quorum queue's client in the broker takes a few dozen such returns at once; what comes behind them waits there,
    /// acknowledgements too, and is forgotten when the connection closes (seen with 3.10.8). Returns that are
    /// forgotten happen anyway.
    give_back_last: Vec<u64>,
}

impl Settler {
    pub(crate) fn new(channel: Channel, requeue_pause: Duration, unsettled: Arc<Unsettled>) -> Self {
        Self {
            channel,
            acks: Acks::new(),
            settled: 0,
            tell_rest_at: None,
            requeue_later: BTreeSet::new(),
            requeue_pause,
            unsettled,
            closing: false,
            give_back_last: Vec::new(),
        }
    }

    /// Notes decisions, and tells the broker what can be told in one frame.
    pub(crate) async fn decide(&mut self, decisions: impl Iterator<Item = Decision>) -> Result<(), String> {
        for decision in decisions {
            if let Decision::Settle(..) = decision {
                self.unsettled.settled();
            }
            match decision {
                Decision::Settle(tag, Verdict::Requeue) if self.closing => self.give_back_last.push(tag),
                Decision::Settle(tag, verdict) => {
                    self.settled += usize::from(verdict == Verdict::Ack);
                    if let Some(settling) = self.acks.decide(tag, verdict) {
                        self.tell(settling).await?;
                    }
                }
                Decision::RequeueLater { tag, attempt } => {
                    let pause = requeue_pause(self.requeue_pause, attempt);
                    self.requeue_later.insert((Instant::now() + pause, tag));
                }
            }
        }
        if let Some(settling) = self.acks.settle_prefix() {
            self.tell(settling).await?;
        }
        self.tell_rest_at = match self.tell_rest_at {
            at @ Some(_) if self.acks.has_untold() => at,
            _ => self.acks.has_untold().then(|| Instant::now() + GAP_PATIENCE),
        };
        Ok(())
    }

    /// Tells the broker what waits behind a gap.
    pub(crate) async fn tell_rest(&mut self) -> Result<(), String> {
        self.tell_rest_at = None;
        for settling in self.acks.settle_rest() {
            self.tell(settling).await?;
        }
        Ok(())
    }

    /// Gives back what was to be given back last.
    pub(crate) async fn give_back(&mut self) -> Result<(), String> {
        for tag in std::mem::take(&mut self.give_back_last) {
            if let Some(settling) = self.acks.decide(tag, Verdict::Requeue) {
                self.tell(settling).await?;
            }
        }
        Ok(())
    }

    pub(crate) async fn requeue_due(&mut self) -> Result<(), String> {
        let now = Instant::now();
        while let Some(due) = self.requeue_later.first().copied().filter(|(at, _)| *at <= now) {
            self.requeue_later.remove(&due);
            self.unsettled.settled();
            let (_, tag) = due;
            if let Some(settling) = self.acks.decide(tag, Verdict::Requeue) {
                self.tell(settling).await?;
            }
        }
        Ok(())
    }

    async fn tell(&self, settling: Settling) -> Result<(), String> {
        #[cfg(feature = "planted-bugs")]
        let settling = match settling {
            Settling::AckUpTo(tag) if warren_planted::planted(warren_planted::Bug::MultipleIgnored) => {
                Settling::Ack(tag)
            }
            settling => settling,
        };
        let telling = async {
            match settling {
                Settling::AckUpTo(tag) => self.channel.basic_ack(BasicAckArguments::new(tag, true)).await,
                Settling::Ack(tag) => self.channel.basic_ack(BasicAckArguments::new(tag, false)).await,
                Settling::Requeue(tag) => {
                    let arguments = BasicNackArguments::new(tag, false, true);
                    self.channel.basic_nack(arguments).await
                }
            }
        };
        match timeout(SETTLE_TIMEOUT, telling).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("RabbitMQ reads no acknowledgements".to_owned()),
        }
    }
}

/// Returns how long a delivery is kept back whose dead letters could not be written: twice as long with every attempt,
/// so that an outage of the dead letters does not use up the delivery limit, and with it the reason.
fn requeue_pause(shortest: Duration, attempt: u32) -> Duration {
    let doubled = shortest.saturating_mul(1 << attempt.min(16));
    doubled
        .min(LONGEST_REQUEUE_PAUSE)
        .mul_f64(0.5 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_made_a_dead_letter_is_kept_back_longer_each_time() {
        let second = Duration::from_secs(1);
        for (attempt, longest) in [(1, 2), (2, 4), (8, 256), (9, 300), (20, 300), (u32::MAX, 300)] {
            let longest = second * longest;
            let pause = requeue_pause(second, attempt);
            assert!((longest / 2..=longest).contains(&pause), "{attempt}: {pause:?}");
        }
        // The default delivery limit lasts for more than half an hour.
        let all: Duration = (1..20).map(|attempt| requeue_pause(second, attempt)).sum();
        assert!(all > second * 1_800, "{all:?}");
    }
}
