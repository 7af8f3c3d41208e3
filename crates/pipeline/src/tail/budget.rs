//! How much is read of what comes, and how much all readers of a process may be sent.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::config::TailConfig;

/// What was not used counts for so long: what comes in bursts goes out at once…
const BURST: Duration = Duration::from_millis(250);
/// …and is read at once.
const READ_BURST: Duration = Duration::from_secs(1);
/// Once it is used up, what comes is passed over until there is enough for so long again: gaps are few, not many.
const READ_AGAIN: Duration = Duration::from_millis(500);

/// A message counts as one for each of so many bytes, if it has more.
const BYTES: u64 = 2 << 10;

/// The least and the most that a reader is given in one go, bytes: little enough that one who wants a single message does
/// not wait for long until all others had their turn.
const LEAST: u64 = 4 << 10;
const MOST: u64 = 64 << 10;

/// So much a second of something.
#[derive(Debug)]
struct Rate {
    per_second: f64,
    burst: Duration,
    /// Until when everything is paid for.
    paid: Instant,
}

impl Rate {
    fn new(per_second: u64, burst: Duration) -> Self {
        let now = Instant::now();
        Self {
            per_second: per_second as f64,
            burst,
            // What comes first may be a burst, too.
            paid: now.checked_sub(burst).unwrap_or(now),
        }
    }

    /// Notes that so much was used; returns when everything is paid for.
    fn spend(&mut self, much: u64, now: Instant) -> Instant {
        let price = Duration::from_secs_f64(much as f64 / self.per_second);
        self.paid = self.paid.max(now.checked_sub(self.burst).unwrap_or(now)) + price;
        self.paid
    }
}

/// Messages a second that are read of what comes.
#[derive(Debug)]
pub(super) struct Ration(Rate);

impl Ration {
    pub(super) fn new(config: &TailConfig) -> Self {
        Self(Rate::new(config.max_messages_per_second, READ_BURST))
    }

    /// Notes that a message was read. `Some`: that was all; what comes until then is passed over.
    pub(super) fn spend(&mut self, bytes: u64, now: Instant) -> Option<Instant> {
        let paid = self.0.spend(bytes.div_ceil(BYTES).max(1), now);
        (paid > now).then(|| paid + READ_AGAIN)
    }
}

/// Bytes a second that all readers share.
///
/// Whoever was sent something has paid for it when everything is paid for that was sent before, to whomever, and is sent
/// nothing more until then. So those who always want more take turns of the same size, one after the other, and those who
/// want less get all of it.
#[derive(Debug)]
pub(super) struct Budget(Mutex<Rate>);

impl Budget {
    pub(super) fn new(config: &TailConfig) -> Self {
        Self(Mutex::new(Rate::new(config.max_bytes_per_second.as_u64(), BURST)))
    }

    fn rate(&self) -> MutexGuard<'_, Rate> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that so many bytes were sent to one of them; returns until when that one waits.
    pub(super) fn spend(&self, bytes: u64) -> Instant {
        self.rate().spend(bytes, Instant::now())
    }

    /// Returns how many bytes are enough for one go of one of so many readers: all have their turn within an eighth of a
    /// second, as far as that leaves each enough to be worth its while.
    pub(super) fn turn(&self, readers: usize) -> u64 {
        let even = self.rate().per_second / 8.0 / readers.max(1) as f64;
        (even as u64).clamp(LEAST, MOST)
    }
}

#[cfg(test)]
mod tests {
    use bytesize::ByteSize;
    use tokio::time::sleep_until;

    use super::*;

    fn budget(bytes_per_second: u64) -> Budget {
        Budget::new(&TailConfig {
            max_bytes_per_second: ByteSize(bytes_per_second),
            ..TailConfig::default()
        })
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_is_sent_than_what_there_is_and_readers_take_turns() {
        let budget = budget(1_000_000);
        let began = Instant::now();
        let mut readers = [(began, 0_u64); 4];
        // The last wants but a little.
        let wants = [10_000, 10_000, 10_000, 100];
        while began.elapsed() < Duration::from_secs(10) {
            let next = readers.iter().map(|(until, _)| *until).min().unwrap();
            sleep_until(next).await;
            for ((until, got), bytes) in readers.iter_mut().zip(wants) {
                if *until <= Instant::now() {
                    *until = budget.spend(bytes);
                    *got += bytes;
                }
            }
        }
        let got = readers.map(|(_, got)| got);
        let all: u64 = got.iter().sum();
        assert!((9_900_000..=10_300_000).contains(&all), "{got:?}");
        assert!(
            got[..3].iter().all(|got| got.abs_diff(all / 3) < 100_000),
            "{got:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_used_lasts_for_a_burst_and_no_longer() {
        let budget = budget(1_000_000);
        tokio::time::sleep(Duration::from_secs(60)).await;
        let now = Instant::now();
        assert!(budget.spend(250_000) <= now, "a burst goes out at once");
        assert_eq!(
            budget.spend(500_000).duration_since(now),
            Duration::from_millis(500)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_read_comes_in_bursts_with_few_gaps_between() {
        let config = TailConfig {
            max_messages_per_second: 1_000,
            ..TailConfig::default()
        };
        let mut ration = Ration::new(&config);
        let began = Instant::now();
        let (mut read, mut gaps) = (0, 0);
        let mut passing_until = began;
        // Ten times as many come.
        while began.elapsed() < Duration::from_secs(10) {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let now = Instant::now();
            for _ in 0..10 {
                if now >= passing_until {
                    read += 1;
                    if let Some(until) = ration.spend(100, now) {
                        (passing_until, gaps) = (until, gaps + 1);
                    }
                }
            }
        }
        assert!((9_000..=11_500).contains(&read), "{read}");
        assert!((10..=20).contains(&gaps), "{gaps}");
        // A large one counts as many.
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(ration.spend(900 * BYTES, Instant::now()), None);
        assert!(ration.spend(101 * BYTES, Instant::now()).is_some());
    }

    #[tokio::test]
    async fn turns_are_smaller_where_many_share_little() {
        assert_eq!(budget(64 << 20).turn(1), MOST);
        assert_eq!(budget(8 << 20).turn(100), 10_485);
        assert_eq!(budget(64 << 10).turn(200), LEAST);
    }
}
