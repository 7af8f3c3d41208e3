//! How many bytes of requests the process holds at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use metrics::{Gauge, gauge};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use crate::config::HttpConfig;
use crate::metrics::IN_FLIGHT_BYTES;

/// Bodies up to this size have a part of the budget for themselves.
const SMALL: usize = 64 << 10;
/// What belongs to a request besides its body, in bytes.
const OVERHEAD: usize = 512;
/// How long a refusal counts as pressure.
const PRESSURE: Duration = Duration::from_secs(1);

/// The bytes that requests may hold at once, counted as one copy of their bodies.
///
/// A request takes its share before its body is read and keeps it until its messages are confirmed. Small bodies have
/// a pool of their own, so that a few large ones cannot shut them out.
#[derive(Debug)]
pub(crate) struct Budget {
    small: Arc<Semaphore>,
    large: Arc<Semaphore>,
    /// The size of the large pool: what one request can hold at most.
    largest: usize,
    wait: Duration,
    waiting: AtomicUsize,
    started: Instant,
    /// When a request was last refused, in milliseconds after `started`, and one more.
    refused: AtomicU64,
    in_flight: Gauge,
}

/// Why there is no share of the budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoPermit {
    /// Not now: others hold it.
    Exhausted,
    /// Never: the request alone is over all there is, this many bytes.
    OverAll(usize),
}

impl Budget {
    pub(crate) fn new(config: &HttpConfig) -> Arc<Self> {
        let (small, large) = config.pools();
        Arc::new(Self {
            small: Arc::new(Semaphore::new(small)),
            large: Arc::new(Semaphore::new(large)),
            largest: large,
            wait: config.permit_wait,
            waiting: AtomicUsize::new(0),
            started: Instant::now(),
            refused: AtomicU64::new(0),
            in_flight: gauge!(IN_FLIGHT_BYTES),
        })
    }

    /// Starts a request's share; it holds nothing yet.
    pub(crate) const fn permit(budget: Arc<Self>) -> Permit {
        Permit {
            budget,
            held: 0,
            small: None,
            large: None,
        }
    }

    /// Tells whether others go without because the budget is spent.
    pub(crate) fn is_pressed(&self) -> bool {
        let refused = self.refused.load(Ordering::Relaxed);
        let now = self.started.elapsed().as_millis() as u64;
        self.waiting.load(Ordering::Relaxed) > 0
            || (refused > 0 && now.saturating_sub(refused) < PRESSURE.as_millis() as u64)
    }

    async fn acquire(&self, pool: &Arc<Semaphore>, bytes: u32) -> Result<OwnedSemaphorePermit, NoPermit> {
        if let Ok(permit) = Arc::clone(pool).try_acquire_many_owned(bytes) {
            return Ok(permit);
        }
        let _waiting = Waiting::new(&self.waiting);
        match timeout(self.wait, Arc::clone(pool).acquire_many_owned(bytes)).await {
            Ok(Ok(permit)) => Ok(permit),
            // A closed pool is one nobody gets anything of; the budget never closes its own.
            Ok(Err(_)) | Err(_) => {
                self.refused
                    .store(self.started.elapsed().as_millis() as u64 + 1, Ordering::Relaxed);
                Err(NoPermit::Exhausted)
            }
        }
    }
}

/// Counts one that waits, also when it is dropped while it waits.
struct Waiting<'b>(&'b AtomicUsize);

impl<'b> Waiting<'b> {
    fn new(count: &'b AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One request's share of the budget, given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    budget: Arc<Budget>,
    held: usize,
    small: Option<OwnedSemaphorePermit>,
    large: Option<OwnedSemaphorePermit>,
}

impl Permit {
    /// Grows the share to `bytes`; never shrinks it.
    ///
    /// # Errors
    /// [`NoPermit`]; what was held before is still held.
    pub(crate) async fn grow_to(&mut self, bytes: usize) -> Result<(), NoPermit> {
        let bytes = bytes.saturating_add(OVERHEAD);
        if bytes <= self.held {
            return Ok(());
        }
        if bytes > self.budget.largest + OVERHEAD {
            return Err(NoPermit::OverAll(self.budget.largest));
        }
        let budget = Arc::clone(&self.budget);
        if bytes <= SMALL + OVERHEAD {
            let more = as_permits(bytes - self.held);
            let got = budget.acquire(&budget.small, more).await?;
            merge(&mut self.small, got);
        } else {
            let in_large = self.large.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
            let more = as_permits(bytes.min(budget.largest).saturating_sub(in_large));
            let got = budget.acquire(&budget.large, more).await?;
            merge(&mut self.large, got);
            // The whole request is in the large pool now.
            self.small = None;
        }
        self.budget.in_flight.increment((bytes - self.held) as f64);
        self.held = bytes;
        Ok(())
    }

    /// Gives back what is over `bytes` of a share in the large pool.
    pub(crate) fn shrink_to(&mut self, bytes: usize) {
        let bytes = bytes.saturating_add(OVERHEAD);
        let Some(large) = &mut self.large else { return };
        if bytes < self.held {
            let more = large.num_permits().saturating_sub(bytes);
            drop(large.split(more));
            self.budget.in_flight.decrement((self.held - bytes) as f64);
            self.held = bytes;
        }
    }

    /// Tells whether others go without because the budget is spent.
    pub(crate) fn is_pressed(&self) -> bool {
        self.budget.is_pressed()
    }
}

fn as_permits(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

fn merge(held: &mut Option<OwnedSemaphorePermit>, got: OwnedSemaphorePermit) {
    match held {
        Some(held) => held.merge(got),
        None => *held = Some(got),
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.in_flight.decrement(self.held as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytesize::ByteSize;

    fn budget(wait: u64) -> Arc<Budget> {
        Budget::new(&HttpConfig {
            max_in_flight_bytes: ByteSize::mib(5),
            permit_wait: Duration::from_millis(wait),
            ..HttpConfig::default()
        })
    }

    fn permit(budget: &Arc<Budget>) -> Permit {
        Budget::permit(Arc::clone(budget))
    }

    #[tokio::test]
    async fn large_bodies_leave_room_for_small_ones() {
        let budget = budget(10);
        let mut large = permit(&budget);
        large.grow_to(4 << 20).await.unwrap();
        assert_eq!(permit(&budget).grow_to(1 << 20).await, Err(NoPermit::Exhausted));
        let mut small = permit(&budget);
        assert_eq!(small.grow_to(SMALL).await, Ok(()));
        drop(large);
        assert_eq!(permit(&budget).grow_to(1 << 20).await, Ok(()));
    }

    #[tokio::test]
    async fn a_share_grows_from_pool_to_pool_and_comes_back_whole() {
        let budget = budget(10);
        let mut growing = permit(&budget);
        for bytes in [100, 60_000, 70_000, 1 << 20, 4 << 20] {
            growing.grow_to(bytes).await.unwrap();
        }
        assert_eq!(
            growing.grow_to((4 << 20) + 1).await,
            Err(NoPermit::OverAll(4 << 20))
        );
        growing.shrink_to(2 << 20);
        assert_eq!(budget.large.available_permits(), (2 << 20) - OVERHEAD);
        growing.grow_to(3 << 20).await.unwrap();
        drop(growing);
        assert_eq!(budget.small.available_permits(), 1 << 20);
        assert_eq!(budget.large.available_permits(), 4 << 20);
    }

    #[tokio::test]
    async fn a_refusal_is_felt_as_pressure_for_a_second() {
        let budget = budget(10);
        assert!(!budget.is_pressed());
        let mut large = permit(&budget);
        large.grow_to(4 << 20).await.unwrap();
        assert_eq!(permit(&budget).grow_to(100_000).await, Err(NoPermit::Exhausted));
        assert!(budget.is_pressed());
        let deadline = Instant::now() + 5 * PRESSURE;
        while budget.is_pressed() {
            assert!(Instant::now() < deadline, "the pressure does not end");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
