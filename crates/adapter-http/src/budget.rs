//! How many requests, and how many bytes of them, the process holds at once, and of which severities.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use metrics::{Gauge, gauge};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use warren_domain::Severity;

use crate::config::HttpConfig;
use crate::metrics::{IN_FLIGHT_BYTES, IN_FLIGHT_REQUESTS};
use crate::pressure::{Gravest, Pressure, lowest_at};

/// Bodies up to this size have a part of the budget for themselves.
pub(crate) const SMALL: usize = 64 << 10;
/// What belongs to a request besides its body, in bytes.
const OVERHEAD: usize = 512;
/// How long a refusal counts as pressure.
const PRESSURE: Duration = Duration::from_secs(1);

/// The bytes that requests may hold at once, counted as one copy of their bodies.
///
/// A request takes its share before its body is read and keeps it until its messages are confirmed. Small bodies have
/// a pool of their own, so that a few large ones cannot shut them out. The last of the room is reserved for the gravest
/// messages, as [`crate::pressure`] says.
#[derive(Debug)]
pub(crate) struct Budget {
    small: Arc<Semaphore>,
    large: Arc<Semaphore>,
    requests: Arc<Semaphore>,
    max_requests: usize,
    /// The size of the small pool.
    smallest: usize,
    /// The size of the large pool: what one request can hold at most.
    largest: usize,
    pressure: Pressure,
    wait: Duration,
    waiting: AtomicUsize,
    started: Instant,
    /// When a request was last refused, in milliseconds after `started`, and one more.
    refused: AtomicU64,
    in_flight: Gauge,
    requests_in_flight: Gauge,
}

/// Why there is no share of the budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoPermit {
    /// Not now: others hold it.
    Exhausted,
    /// Not now: as many requests are in flight as may be.
    TooMany,
    /// Not now: what room there is, is reserved for this severity and graver ones.
    Reserved(Severity),
    /// Never: the request alone is over all there is, this many bytes.
    OverAll(usize),
}

impl Budget {
    pub(crate) fn new(config: &HttpConfig) -> Arc<Self> {
        let (small, large) = config.pools();
        Arc::new(Self {
            small: Arc::new(Semaphore::new(small)),
            large: Arc::new(Semaphore::new(large)),
            requests: Arc::new(Semaphore::new(config.max_in_flight_requests)),
            max_requests: config.max_in_flight_requests,
            smallest: small,
            pressure: Pressure::default(),
            largest: large,
            wait: config.permit_wait,
            waiting: AtomicUsize::new(0),
            started: Instant::now(),
            refused: AtomicU64::new(0),
            in_flight: gauge!(IN_FLIGHT_BYTES),
            requests_in_flight: gauge!(IN_FLIGHT_REQUESTS),
        })
    }

    /// Lets a request in, before its body is read; its share holds no bytes yet.
    ///
    /// How full the pool of large bodies is, is asked when the share grows into it.
    ///
    /// # Errors
    /// [`NoPermit`]: at once when its severity is refused now, else after a short wait.
    pub(crate) async fn admit(budget: Arc<Self>, gravest: Gravest) -> Result<Permit, NoPermit> {
        gravest.at_least(budget.lowest_taken(0))?;
        let all = Arc::clone(&budget.requests);
        let request = budget
            .acquire(&all, 1, gravest)
            .await
            .map_err(|_| NoPermit::TooMany)?;
        budget.requests_in_flight.increment(1.0);
        Ok(Permit {
            budget,
            gravest,
            _request: request,
            held: 0,
            small: None,
            large: None,
        })
    }

    /// Returns the least grave severity that is taken now; `own` requests of whoever asks do not count.
    ///
    /// How full it is shows in the requests, and in the bytes of small bodies; large ones never fill their room.
    fn lowest_taken(&self, own: usize) -> Severity {
        let percent = taken(&self.requests, self.max_requests, own).max(taken(&self.small, self.smallest, 0));
        self.pressure.lowest_taken(percent, Instant::now())
    }

    /// Lets what is shown of the pressure come down though no request asks.
    pub(crate) fn settle(&self) {
        self.lowest_taken(0);
    }

    /// Tells whether others go without because the budget is spent, or what is left of it is reserved.
    fn is_pressed(&self, own: usize) -> bool {
        let refused = self.refused.load(Ordering::Relaxed);
        let now = self.started.elapsed().as_millis() as u64;
        self.waiting.load(Ordering::Relaxed) > 0
            || self.lowest_taken(own) > Severity::Debug
            || (refused > 0 && now.saturating_sub(refused) < PRESSURE.as_millis() as u64)
    }

    async fn acquire(
        &self,
        pool: &Arc<Semaphore>,
        permits: u32,
        gravest: Gravest,
    ) -> Result<OwnedSemaphorePermit, NoPermit> {
        if let Ok(permit) = Arc::clone(pool).try_acquire_many_owned(permits) {
            return Ok(permit);
        }
        let _waiting = Waiting::new(&self.waiting);
        let _held_off = self.pressure.wait(gravest, Instant::now());
        match timeout(self.wait, Arc::clone(pool).acquire_many_owned(permits)).await {
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
    gravest: Gravest,
    _request: OwnedSemaphorePermit,
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
            let got = budget.acquire(&budget.small, more, self.gravest).await?;
            merge(&mut self.small, got);
        } else {
            let in_large = self.large.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
            if in_large == 0 {
                self.gravest
                    .at_least(lowest_at(taken(&budget.large, budget.largest, 0)))?;
            }
            let more = as_permits(bytes.min(budget.largest).saturating_sub(in_large));
            // Whatever it was let in as: while it waits here, there may be all the room in the world for small ones.
            let got = budget
                .acquire(&budget.large, more, self.gravest.in_large())
                .await?;
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
        self.budget.is_pressed(1)
    }

    /// Returns the least grave severity that is taken now, as if this request came now.
    pub(crate) fn lowest_taken(&self) -> Severity {
        self.budget.lowest_taken(1)
    }
}

impl Gravest {
    /// Refuses what says it holds nothing as grave as `lowest`.
    fn at_least(self, lowest: Severity) -> Result<(), NoPermit> {
        match self {
            Self::Declared(severity) if severity < lowest => Err(NoPermit::Reserved(lowest)),
            _ => Ok(()),
        }
    }
}

/// Returns how much of `all` permits others than `own` have taken, in percent.
fn taken(pool: &Semaphore, all: usize, own: usize) -> u64 {
    let free = pool.available_permits() + own;
    (all.saturating_sub(free) as u64 * 100) / (all as u64).max(1)
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
        self.budget.requests_in_flight.decrement(1.0);
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

    async fn permit(budget: &Arc<Budget>) -> Permit {
        Budget::admit(Arc::clone(budget), Gravest::Small).await.unwrap()
    }

    async fn admit(budget: &Arc<Budget>, severity: Severity) -> Result<Permit, NoPermit> {
        Budget::admit(Arc::clone(budget), Gravest::Declared(severity)).await
    }

    #[tokio::test]
    async fn large_bodies_leave_room_for_small_ones() {
        let budget = budget(10);
        let mut large = permit(&budget).await;
        large.grow_to(4 << 20).await.unwrap();
        assert_eq!(
            permit(&budget).await.grow_to(1 << 20).await,
            Err(NoPermit::Exhausted)
        );
        let mut small = permit(&budget).await;
        assert_eq!(small.grow_to(SMALL).await, Ok(()));
        drop(large);
        assert_eq!(permit(&budget).await.grow_to(1 << 20).await, Ok(()));
    }

    #[tokio::test]
    async fn a_share_grows_from_pool_to_pool_and_comes_back_whole() {
        let budget = budget(10);
        let mut growing = permit(&budget).await;
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
        assert!(!budget.is_pressed(0));
        let mut large = permit(&budget).await;
        large.grow_to(4 << 20).await.unwrap();
        assert_eq!(
            permit(&budget).await.grow_to(100_000).await,
            Err(NoPermit::Exhausted)
        );
        assert!(budget.is_pressed(0));
        let deadline = Instant::now() + 5 * PRESSURE;
        while budget.is_pressed(0) {
            assert!(Instant::now() < deadline, "the pressure does not end");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    #[tokio::test]
    async fn what_grows_into_the_large_room_is_measured_by_it_and_holds_off_debug_alone() {
        let budget = budget(10_000);
        let mut first = permit(&budget).await;
        first.grow_to(3 << 20).await.unwrap();
        // 75 % of the large room is taken.
        for (severity, lowest) in [
            (Severity::Warning, Severity::Error),
            (Severity::Info, Severity::Error),
        ] {
            let mut declared = admit(&budget, severity).await.unwrap();
            declared.grow_to(SMALL).await.unwrap();
            assert_eq!(
                declared.grow_to(SMALL + 1).await,
                Err(NoPermit::Reserved(lowest)),
                "{severity}"
            );
        }
        let mut declared = admit(&budget, Severity::Error).await.unwrap();
        declared.grow_to(SMALL + 1).await.unwrap();

        let mut small = permit(&budget).await;
        small.grow_to(SMALL).await.unwrap();
        let growing = small.grow_to(2 << 20);
        tokio::select! {
            biased;
            grown = growing => panic!("there is no room, and yet: {grown:?}"),
            lowest = async { budget.lowest_taken(0) } => assert_eq!(lowest, Severity::Info),
        }
    }

    #[tokio::test]
    async fn the_more_requests_are_in_flight_the_graver_one_has_to_be() {
        let budget = Budget::new(&HttpConfig {
            max_in_flight_requests: 20,
            permit_wait: Duration::from_millis(10),
            ..HttpConfig::default()
        });
        let mut held: Vec<Permit> = Vec::new();
        let mut refused: Vec<(Severity, usize, NoPermit)> = Vec::new();
        while held.len() < 20 {
            for severity in Severity::ALL {
                let admitted = admit(&budget, severity).await;
                if let Err(error) = &admitted
                    && !refused.iter().any(|(known, ..)| *known == severity)
                {
                    refused.push((severity, held.len(), *error));
                }
                // Only what is graver stays, so that the server fills up.
                if severity == Severity::Critical {
                    held.extend(admitted);
                }
            }
        }
        assert_eq!(
            refused,
            [
                (Severity::Debug, 10, NoPermit::Reserved(Severity::Info)),
                (Severity::Info, 13, NoPermit::Reserved(Severity::Warning)),
                (Severity::Warning, 15, NoPermit::Reserved(Severity::Error)),
                (Severity::Error, 17, NoPermit::Reserved(Severity::Critical)),
            ]
        );
        assert_eq!(
            admit(&budget, Severity::Critical).await.err(),
            Some(NoPermit::TooMany)
        );
        held.clear();
        let deadline = Instant::now() + Duration::from_secs(10);
        while admit(&budget, Severity::Debug).await.is_err() {
            assert!(Instant::now() < deadline, "debug stays out");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for severity in Severity::ALL {
            assert!(admit(&budget, severity).await.is_ok(), "{severity} after debug");
        }
    }
}
