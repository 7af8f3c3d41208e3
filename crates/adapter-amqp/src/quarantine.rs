//! What a consumer does about a packet that kills its connections.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// One packet at a time after connections have died young.
///
/// A header that is not UTF-8 kills every connection of amqprs that receives it, and each death counts as a delivery
/// of everything that was out: with a whole prefetch out, the broker would give up hundreds of innocent packets with
/// the guilty one. One at a time, it gives up the guilty one alone.
#[derive(Debug, Default)]
pub(crate) struct Quarantine {
    young_deaths: u32,
}

impl Quarantine {
    /// How many young deaths in a row begin it.
    const BEGINS: u32 = 3;
    /// How many packets settled, one at a time, end it at the least.
    const ENDS_AFTER: usize = 100;
    /// A connection that lived so long died of something else. What was settled on a younger one proves nothing: the
    /// acknowledgements of what came before the guilty packet die with the connection.
    pub(crate) const YOUTH: Duration = Duration::from_secs(10);
    /// So long without a death and without a packet ends it too.
    const ENDS_WITHIN: Duration = Duration::from_secs(60);

    /// How many packets settled, one at a time, end it, where `prefetch` were out when it began.
    ///
    /// The guilty one is among those. To end it before they have all come again would kill the next connections with
    /// the whole prefetch out, until the bystanders have been delivered as often as the guilty one.
    pub(crate) fn ends_after(prefetch: u16) -> usize {
        Self::ENDS_AFTER.max(prefetch.into())
    }

    pub(crate) fn begun(&self) -> bool {
        self.young_deaths >= Self::BEGINS
    }

    /// Tells whether the last death began it.
    pub(crate) fn has_just_begun(&self) -> bool {
        self.young_deaths == Self::BEGINS
    }

    /// Notes a death; once begun, only a new one ends it: after [`Self::ends_after`] or [`Silence`].
    pub(crate) fn died(&mut self, age: Duration) {
        if !self.begun() && age >= Self::YOUTH {
            self.young_deaths = 0;
        } else {
            self.young_deaths = self.young_deaths.saturating_add(1);
        }
    }
}

/// The time without a packet that ends a quarantine.
///
/// A packet that is out is no silence, however long it is held: the guilty one waits behind it, and to let the whole
/// prefetch through would kill the next connections with all of it out, once for each quarantine that ends so.
#[derive(Debug)]
pub(crate) struct Silence {
    ends_at: Instant,
}

impl Silence {
    pub(crate) fn begins() -> Self {
        Self {
            ends_at: Instant::now() + Quarantine::ENDS_WITHIN,
        }
    }

    /// Waits until it has lasted long enough, where `out` counts the packets that are out. Cancel safe.
    pub(crate) async fn lasts(&mut self, out: impl Fn() -> u64) {
        loop {
            sleep_until(self.ends_at).await;
            if out() == 0 {
                return;
            }
            *self = Self::begins();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_packet_that_is_held_for_minutes_is_no_silence() {
        let (out, mut silence) = (AtomicU64::new(1), Silence::begins());
        let lasts = silence.lasts(|| out.load(Ordering::Relaxed));
        let held = tokio::time::timeout(Quarantine::ENDS_WITHIN * 7, lasts).await;
        assert!(held.is_err());
        out.store(0, Ordering::Relaxed);
        let settled = Instant::now();
        silence = Silence::begins();
        silence.lasts(|| out.load(Ordering::Relaxed)).await;
        assert_eq!(settled.elapsed(), Quarantine::ENDS_WITHIN);
    }

    #[test]
    fn three_young_deaths_begin_the_quarantine() {
        let mut quarantine = Quarantine::default();
        quarantine.died(Duration::ZERO);
        quarantine.died(Duration::ZERO);
        quarantine.died(Quarantine::YOUTH);
        for _ in 0..3 {
            assert!(!quarantine.begun());
            quarantine.died(Duration::ZERO);
        }
        assert!(quarantine.begun());
        quarantine.died(Quarantine::YOUTH);
        assert!(quarantine.begun());
    }
}
