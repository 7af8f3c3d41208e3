//! How much all readers of a process may be sent.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::config::TailConfig;

/// What was not used counts for so long: what comes in bursts goes out at once.
const BURST: Duration = Duration::from_millis(250);

/// The least and the most that a reader is given in one go, bytes: little enough that one who wants a single message does
/// not wait for long until all others had their turn.
const LEAST: u64 = 4 << 10;
const MOST: u64 = 64 << 10;

/// Bytes a second that all readers share.
///
/// Whoever was sent something has paid for it when everything is paid for that was sent before, to whomever, and is sent
/// nothing more until then. So those who always want more take turns of the same size, one after the other, and those who
/// want less get all of it.
#[derive(Debug)]
pub(super) struct Budget {
    bytes_per_second: f64,
    /// Until when everything is paid for.
    paid: Mutex<Instant>,
}

impl Budget {
    pub(super) fn new(config: &TailConfig) -> Self {
        Self {
            bytes_per_second: config.max_bytes_per_second.as_u64() as f64,
            paid: Mutex::new(Instant::now()),
        }
    }

    /// Notes that so many bytes were sent to one of them; returns until when that one waits.
    pub(super) fn spend(&self, bytes: u64) -> Instant {
        let now = Instant::now();
        let price = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second);
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        *paid = (*paid).max(now.checked_sub(BURST).unwrap_or(now)) + price;
        *paid
    }

    /// Returns how many bytes are enough for one go of one of so many readers: all have their turn within an eighth of a
    /// second, as far as that leaves each enough to be worth its while.
    pub(super) fn turn(&self, readers: usize) -> u64 {
        let even = self.bytes_per_second / 8.0 / readers.max(1) as f64;
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

    #[test]
    fn turns_are_smaller_where_many_share_little() {
        assert_eq!(budget(64 << 20).turn(1), MOST);
        assert_eq!(budget(8 << 20).turn(100), 10_485);
        assert_eq!(budget(64 << 10).turn(200), LEAST);
    }
}
