//! Which deliveries are settled, and the fewest frames that tell the broker.

use std::collections::VecDeque;

/// What is to become of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It has had its effect.
    Ack,
    /// It is to be delivered again.
    Requeue,
}

/// What to tell the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settling {
    /// This delivery and every one before it that is unsettled had its effect.
    AckUpTo(u64),
    /// This delivery had its effect.
    Ack(u64),
    /// This delivery is to be delivered again.
    Requeue(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    /// Whoever holds the delivery has not decided.
    Open,
    /// Acknowledged, and the broker does not know yet.
    Acked,
    /// The broker knows.
    Told,
}

/// The deliveries of one channel, by delivery tag; the broker counts tags from 1.
///
/// Acknowledgements are told as one for as long as there is no gap; those behind a gap wait a little, because most
/// gaps close, and are told one by one when asked for.
#[derive(Debug)]
pub(crate) struct Acks {
    /// The deliveries with tags from `first` on; all before are settled, and the broker knows.
    slots: VecDeque<Slot>,
    first: u64,
    /// How many are [`Slot::Acked`].
    untold: usize,
}

impl Acks {
    pub(crate) fn new() -> Self {
        Self {
            slots: VecDeque::new(),
            first: 1,
            untold: 0,
        }
    }

    /// Returns whether acknowledgements wait behind a gap.
    pub(crate) fn has_untold(&self) -> bool {
        self.untold > 0
    }

    /// Notes a verdict. A requeue is returned to be told at once; a second verdict on the same delivery is ignored.
    pub(crate) fn decide(&mut self, tag: u64, verdict: Verdict) -> Option<Settling> {
        let index = usize::try_from(tag.checked_sub(self.first)?).ok()?;
        if index >= self.slots.len() {
            self.slots.resize(index + 1, Slot::Open);
        }
        let slot = self.slots.get_mut(index)?;
        match (*slot, verdict) {
            (Slot::Open, Verdict::Ack) => {
                *slot = Slot::Acked;
                self.untold += 1;
                None
            }
            (Slot::Open, Verdict::Requeue) => {
                *slot = Slot::Told;
                Some(Settling::Requeue(tag))
            }
            (Slot::Acked | Slot::Told, _) => None,
        }
    }

    /// Returns the one frame that tells all acknowledgements before the first gap, if there are any.
    pub(crate) fn settle_prefix(&mut self) -> Option<Settling> {
        let mut last = None;
        while let Some(slot) = self.slots.front().filter(|slot| **slot != Slot::Open) {
            // Only a tag that is still unsettled may be named: RabbitMQ closes the channel over any other.
            if *slot == Slot::Acked {
                last = Some(self.first);
                self.untold -= 1;
            }
            self.slots.pop_front();
            self.first += 1;
        }
        last.map(Settling::AckUpTo)
    }

    /// Returns what tells the acknowledgements behind the first gap, one by one.
    pub(crate) fn settle_rest(&mut self) -> Vec<Settling> {
        self.untold = 0;
        let slots = (self.first..).zip(&mut self.slots);
        slots
            .filter(|(_, slot)| **slot == Slot::Acked)
            .map(|(tag, slot)| {
                *slot = Slot::Told;
                Settling::Ack(tag)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn many_acknowledgements_cost_one_frame() {
        let mut acks = Acks::new();
        (1..=100).for_each(|tag| assert_eq!(acks.decide(tag, Verdict::Ack), None));
        assert_eq!(acks.settle_prefix(), Some(Settling::AckUpTo(100)));
        assert_eq!(acks.settle_prefix(), None);
        assert!(!acks.has_untold());
    }

    #[test]
    fn a_gap_holds_back_what_is_behind_it_until_asked() {
        let mut acks = Acks::new();
        for tag in [1, 3, 4] {
            acks.decide(tag, Verdict::Ack);
        }
        assert_eq!(acks.settle_prefix(), Some(Settling::AckUpTo(1)));
        assert!(acks.has_untold());
        assert_eq!(acks.settle_rest(), [Settling::Ack(3), Settling::Ack(4)]);
        acks.decide(2, Verdict::Ack);
        assert_eq!(acks.settle_prefix(), Some(Settling::AckUpTo(2)));
    }

    #[test]
    fn a_requeued_delivery_is_never_acknowledged() {
        let mut acks = Acks::new();
        acks.decide(1, Verdict::Ack);
        assert_eq!(acks.decide(2, Verdict::Requeue), Some(Settling::Requeue(2)));
        assert_eq!(acks.settle_prefix(), Some(Settling::AckUpTo(1)));
        assert_eq!(acks.decide(2, Verdict::Ack), None);
        assert_eq!(acks.settle_prefix(), None);
    }

    proptest! {
        /// Plays the broker: it knows what is unsettled, and takes offence at any other tag.
        #[test]
        fn the_broker_learns_every_verdict_once(
            verdicts in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>(), 0..4_u8), 0..80),
        ) {
            const TAGS: u64 = 40;
            let mut acks = Acks::new();
            let mut open: Vec<u64> = (1..=TAGS).collect();
            let mut unsettled: BTreeMap<u64, Option<Verdict>> = open.iter().map(|tag| (*tag, None)).collect();
            for (index, ack, then) in verdicts {
                if open.is_empty() {
                    break;
                }
                let tag = open.remove(index.index(open.len()));
                let verdict = if ack { Verdict::Ack } else { Verdict::Requeue };
                unsettled.insert(tag, Some(verdict));
                let mut told: Vec<_> = acks.decide(tag, verdict).into_iter().collect();
                prop_assert_eq!(told.is_empty(), ack);
                if then > 1 {
                    told.extend(acks.settle_prefix());
                }
                if then > 2 {
                    told.extend(acks.settle_rest());
                }
                for settling in told {
                    let (tag, verdict) = match settling {
                        Settling::AckUpTo(tag) | Settling::Ack(tag) => (tag, Verdict::Ack),
                        Settling::Requeue(tag) => (tag, Verdict::Requeue),
                    };
                    prop_assert_eq!(unsettled.remove(&tag), Some(Some(verdict)));
                    if let Settling::AckUpTo(tag) = settling {
                        let behind = unsettled.split_off(&tag);
                        prop_assert!(unsettled.values().all(|verdict| *verdict == Some(Verdict::Ack)));
                        unsettled = behind;
                    }
                }
            }
            acks.settle_prefix();
            prop_assert_eq!(acks.has_untold(), !acks.settle_rest().is_empty());
        }
    }
}
