//! How a delivery is settled: by the connection it came on, or not at all.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio_util::sync::CancellationToken;
use warren_domain::ports::{DeadLetterReason, PublishError, Refused, SettleError, Settlement};
use warren_domain::{Message, Rejection};

use crate::acks::Verdict;
use crate::call::Call;
use crate::config::AmqpConfig;
use crate::dead_letters::{Letter, MAX_LETTERS, Origin, undecodable};
use crate::packing::Address;
use crate::publisher::Sender;

/// Writes dead letters, over a connection of its own that is opened with the first one.
///
/// Not over the consumer's: RabbitMQ stops reading a connection that publishes while it is short of memory or disk,
/// and with it the acknowledgements that would mend that.
#[derive(Debug)]
pub(crate) struct Letters {
    config: AmqpConfig,
    sender: Mutex<Option<Arc<Sender>>>,
}

impl Letters {
    pub(crate) fn new(config: AmqpConfig) -> Self {
        Self {
            config,
            sender: Mutex::new(None),
        }
    }

    /// Returns when every letter is durable; at once while the broker is known to take none.
    ///
    /// # Errors
    /// [`PublishError`]; some of the letters may be durable.
    pub(crate) async fn write(&self, letters: Vec<(Letter, Vec<u8>)>) -> Result<(), PublishError> {
        let sender = self.sender()?;
        if let Some(error) = sender.refusal() {
            return Err(error);
        }
        let (call, deadline) = (Call::new(), sender.deadline());
        for (letter, lines) in letters {
            let address = Address::DeadLetter(Arc::new(letter));
            sender.hand_over(&call, address, lines, 1, None, deadline).await?;
        }
        let outcomes = call.outcomes(deadline).await;
        let overdue = || Err(sender.overdue());
        outcomes
            .into_iter()
            .try_for_each(|outcome| outcome.unwrap_or_else(overdue))
    }

    fn sender(&self) -> Result<Arc<Sender>, PublishError> {
        let mut sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = &*sender {
            return Ok(Arc::clone(sender));
        }
        let started = Sender::start(&self.config, "dead-letter").map_err(|error| {
            let reason = error.to_string();
            PublishError::Unavailable {
                reason,
                cause: Some(Arc::new(error)),
            }
        })?;
        Ok(Arc::clone(sender.insert(Arc::new(started))))
    }
}

/// What is to become of a delivery, for the task that owns its channel.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Decision {
    Settle(u64, Verdict),
    /// To be delivered again, after a pause that grows with the attempts: its dead letters could not be written.
    RequeueLater {
        tag: u64,
        attempt: u32,
    },
}

/// One channel's side of its deliveries. A delivery of a lost connection finds nobody here to settle it, so that its
/// tag can never be taken for a tag of the next connection.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) decisions: mpsc::Sender<Decision>,
    pub(crate) lost: CancellationToken,
    pub(crate) letters: Arc<Letters>,
}

impl Session {
    /// Hands a decision to the task that owns the channel.
    pub(crate) fn decide(&self, decision: Decision) -> Result<(), SettleError> {
        if self.lost.is_cancelled() {
            return Err(SettleError::ConnectionLost);
        }
        self.decisions.try_send(decision).map_err(|error| {
            if let TrySendError::Full(_) = error {
                // There is a place for each delivery the broker may have out; it does not keep to the prefetch.
                self.lost.cancel();
            }
            SettleError::ConnectionLost
        })
    }

    /// Writes dead letters and then acknowledges the delivery they are of.
    pub(crate) async fn bury(
        &self,
        tag: u64,
        attempt: u32,
        letters: Vec<(Letter, Vec<u8>)>,
    ) -> Result<(), SettleError> {
        match self.letters.write(letters).await {
            Ok(()) => self.decide(Decision::Settle(tag, Verdict::Ack)),
            Err(error) => {
                self.decide(Decision::RequeueLater { tag, attempt })?;
                Err(SettleError::Unavailable {
                    reason: error.to_string(),
                    cause: Some(Arc::new(error)),
                })
            }
        }
    }
}

/// The settlement of one packet. Dropped, it gives the packet back at once.
#[derive(Debug)]
pub(crate) struct PacketSettlement {
    pub(crate) session: Arc<Session>,
    pub(crate) tag: u64,
    /// The body as it came: what becomes a dead letter keeps its bytes.
    pub(crate) body: Vec<u8>,
    /// Where each message of the delivery has its line.
    pub(crate) lines: Vec<Range<usize>>,
    /// Lines that are no messages; they become dead letters when the delivery is settled.
    pub(crate) bad: Vec<(Range<usize>, Rejection)>,
    pub(crate) origin: Origin,
    /// Somebody has decided, or is about to.
    pub(crate) decided: bool,
}

impl PacketSettlement {
    fn letters(&self, refused: &[Refused]) -> Vec<(Letter, Vec<u8>)> {
        let refused = refused.iter().filter_map(|refused| {
            let line = &self.body[self.lines.get(refused.index)?.clone()];
            let received = Message::from_json(line).map(|message| message.received_at);
            let first_seen = received.unwrap_or(self.origin.first_seen);
            let letter = Letter::of_lines(&self.origin, first_seen, &refused.reason);
            Some((letter, line.to_vec()))
        });
        let of_lines = |lines: &[u8], reason: DeadLetterReason| {
            let letter = Letter::of_lines(&self.origin, self.origin.first_seen, &reason);
            (letter, lines.to_vec())
        };
        let (own, shared) = self.bad.split_at(self.bad.len().min(MAX_LETTERS));
        let own = own.iter().map(|(range, rejection)| {
            of_lines(&self.body[range.clone()], undecodable(rejection.to_string()))
        });
        let shared = shared.split_first().map(|((first, rejection), rest)| {
            let mut lines = self.body[first.clone()].to_vec();
            for (range, _) in rest {
                lines.push(b'\n');
                lines.extend_from_slice(&self.body[range.clone()]);
            }
            let count = rest.len() + 1;
            of_lines(
                &lines,
                undecodable(format!("{count} lines of one packet; the first: {rejection}")),
            )
        });
        refused.chain(own).chain(shared).collect()
    }
}

#[async_trait]
impl Settlement for PacketSettlement {
    async fn settle(mut self: Box<Self>, refused: Vec<Refused>) -> Result<(), SettleError> {
        let letters = self.letters(&refused);
        if letters.is_empty() {
            self.decided = true;
            return self.session.decide(Decision::Settle(self.tag, Verdict::Ack));
        }
        if self.session.lost.is_cancelled() {
            return Err(SettleError::ConnectionLost);
        }
        // Not decided before it is settled: whoever drops this future midway gives the delivery back.
        let settled = self.session.bury(self.tag, self.origin.attempt, letters).await;
        self.decided = true;
        settled
    }
}

impl Drop for PacketSettlement {
    fn drop(&mut self) {
        // On RabbitMQ before 4.3 giving back counts towards the delivery limit, as losing the connection would.
        let requeue = Decision::Settle(self.tag, Verdict::Requeue);
        if !self.decided
            && let Err(error) = self.session.decide(requeue)
        {
            tracing::trace!(%error, "RabbitMQ gives the delivery to somebody else by itself");
        }
    }
}

#[cfg(test)]
mod tests {
    use warren_domain::{MessageId, Timestamp};

    use super::*;
    use crate::packet;

    fn settlement(body: &[u8]) -> (PacketSettlement, mpsc::Receiver<Decision>) {
        let (decisions, received) = mpsc::channel(4);
        let decoded = packet::decode(body);
        let settlement = PacketSettlement {
            session: Arc::new(Session {
                decisions,
                lost: CancellationToken::new(),
                letters: Arc::new(Letters::new(AmqpConfig::default())),
            }),
            tag: 7,
            body: body.to_vec(),
            lines: decoded.lines,
            bad: decoded.bad,
            origin: Origin {
                queue: "q".to_owned(),
                exchange: "e".to_owned(),
                routing_key: "r".to_owned(),
                attempt: 1,
                first_seen: Timestamp::now(),
            },
            decided: false,
        };
        (settlement, received)
    }

    #[tokio::test]
    async fn a_settlement_that_is_dropped_gives_back() {
        let (settlement, mut decisions) = settlement(b"");
        drop(settlement);
        let decision = decisions.recv().await;
        assert!(matches!(decision, Some(Decision::Settle(7, Verdict::Requeue))));
        assert!(decisions.recv().await.is_none());
    }

    #[tokio::test]
    async fn an_acknowledgement_is_one_decision() {
        let (settlement, mut decisions) = settlement(b"");
        Box::new(settlement).settle(Vec::new()).await.unwrap();
        let decision = decisions.recv().await;
        assert!(matches!(decision, Some(Decision::Settle(7, Verdict::Ack))));
        assert!(decisions.recv().await.is_none());
    }

    #[tokio::test]
    async fn nothing_is_settled_on_a_lost_connection() {
        let (settlement, mut decisions) = settlement(b"");
        settlement.session.lost.cancel();
        let settled = Box::new(settlement).settle(Vec::new()).await;
        assert!(matches!(settled, Err(SettleError::ConnectionLost)));
        assert!(decisions.recv().await.is_none());
    }

    #[test]
    fn a_packet_of_countless_bad_lines_makes_a_bounded_number_of_letters() {
        let good = format!("{{\"id\":\"{}\",\"body\":\"x\"}}\n", MessageId::generate());
        let body = good.clone() + &"x\n".repeat(MAX_LETTERS + 50);
        let (settlement, _decisions) = settlement(body.as_bytes());
        let reason = undecodable("y");
        let letters = settlement.letters(&[Refused { index: 0, reason }]);
        assert_eq!(letters.len(), 1 + MAX_LETTERS + 1);
        assert_eq!(letters[0].1, good.trim_end().as_bytes());
        assert_eq!(letters[1].1, b"x");
        assert_eq!(letters.last().unwrap().1, "x\n".repeat(50).trim_end().as_bytes());
    }
}
