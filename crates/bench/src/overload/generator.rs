//! Sends at a rate, whatever comes back.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{sleep, timeout};

use super::{MIX, Made};
use crate::load::Connection;
use crate::statistics::Waits;

/// How many requests are under way at most; one that is due beyond it is not sent.
const UNDER_WAY: usize = 3_000;
/// How often requests that are due are sent.
const TICK: Duration = Duration::from_millis(1);
/// How long an answer may take.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);

/// Requests at a rate.
#[derive(Clone, Debug)]
pub(crate) struct Flood {
    pub(crate) address: SocketAddr,
    pub(crate) requests: Vec<Made>,
    /// Requests a second.
    pub(crate) rate: f64,
    pub(crate) duration: Duration,
}

/// What came of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) severities: [OfSeverity; MIX.len()],
    /// Due while too many were under way.
    pub(crate) unsent: u64,
    /// Cut off without an answer, or given up; to its sender that is a refusal, and it counts as one.
    pub(crate) cut: u64,
    /// From the first request to the last that was due.
    pub(crate) elapsed: Duration,
    accepted_waits: Waits,
    refused_waits: Waits,
    /// When each `critical` request was refused or cut off, and when each `debug` request that was accepted was sent, in
    /// milliseconds since the start.
    critical_refused: Vec<u64>,
    debug_accepted: Vec<u64>,
}

/// Requests of one severity.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct OfSeverity {
    pub(crate) sent: u64,
    pub(crate) accepted: u64,
    pub(crate) refused: u64,
}

impl Tally {
    pub(crate) fn accepted(&self) -> u64 {
        self.severities.iter().map(|of| of.accepted).sum()
    }

    pub(crate) fn refused(&self) -> u64 {
        self.severities.iter().map(|of| of.refused).sum()
    }

    /// Returns what part of the requests that were due was sent.
    pub(crate) fn sent_share(&self) -> f64 {
        let sent: u64 = self.severities.iter().map(|of| of.sent).sum();
        sent as f64 / (sent + self.unsent).max(1) as f64
    }

    /// Notes a request that was not accepted, `wait` after it was due.
    fn refuse(&mut self, severity: usize, wait: Duration, since_start: Duration) {
        self.severities[severity].refused += 1;
        self.refused_waits.add(wait);
        if severity == MIX.len() - 1 {
            self.critical_refused.push(since_start.as_millis() as u64);
        }
    }

    pub(crate) fn accepted_wait(&mut self, share: f64) -> Option<f64> {
        self.accepted_waits.percentile(share)
    }

    pub(crate) fn refused_wait(&mut self, share: f64) -> Option<f64> {
        self.refused_waits.percentile(share)
    }

    /// Counts the `critical` requests that were refused while, within `window` before or after, a `debug` request was
    /// sent that was accepted.
    pub(crate) fn out_of_order(&mut self, window: Duration) -> usize {
        self.debug_accepted.sort_unstable();
        let window = window.as_millis() as u64;
        let near = |refused: &&u64| {
            let from = refused.saturating_sub(window);
            let first = self.debug_accepted.partition_point(|sent| *sent < from);
            self.debug_accepted
                .get(first)
                .is_some_and(|sent| *sent <= **refused + window)
        };
        self.critical_refused.iter().filter(near).count()
    }
}

struct Shared {
    flood: Flood,
    tally: RefCell<Tally>,
    idle: RefCell<Vec<Connection>>,
    under_way: Cell<usize>,
    start: Instant,
}

impl Flood {
    /// Sends from a thread of its own, and waits for every answer.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(crate) async fn run(self) -> Result<Tally> {
        let (done, outcome) = tokio::sync::oneshot::channel();
        std::thread::Builder::new()
            .name("flood".to_owned())
            .spawn(move || {
                let outcome = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .context("no runtime for the flood")
                    .map(|runtime| LocalSet::new().block_on(&runtime, self.run_here()));
                // Nobody waits any more when the measurement was given up.
                drop(done.send(outcome));
            })?;
        outcome.await.context("the flood ended without a result")?
    }

    async fn run_here(self) -> Tally {
        let shared = Rc::new(Shared {
            flood: self,
            tally: RefCell::default(),
            idle: RefCell::default(),
            under_way: Cell::new(0),
            start: Instant::now(),
        });
        let (rate, duration) = (shared.flood.rate, shared.flood.duration);
        let requests = shared.flood.requests.len();
        let mut sent = 0_u64;
        while shared.start.elapsed() < duration {
            let due = (shared.start.elapsed().as_secs_f64() * rate) as u64;
            while sent < due {
                let at = shared.start + Duration::from_secs_f64(sent as f64 / rate);
                let place = (sent % requests as u64) as usize;
                sent += 1;
                if shared.under_way.get() >= UNDER_WAY {
                    shared.tally.borrow_mut().unsent += 1;
                    continue;
                }
                shared.under_way.set(shared.under_way.get() + 1);
                let shared = Rc::clone(&shared);
                spawn_local(async move {
                    shared.exchange(place, at).await;
                    shared.under_way.set(shared.under_way.get() - 1);
                });
            }
            sleep(TICK).await;
        }
        let elapsed = shared.start.elapsed();
        while shared.under_way.get() > 0 {
            sleep(TICK).await;
        }
        let mut tally = shared.tally.take();
        tally.elapsed = elapsed;
        tally
    }
}

impl Shared {
    async fn exchange(&self, place: usize, due: Instant) {
        let made = &self.flood.requests[place];
        let idle = self.idle.borrow_mut().pop();
        self.tally.borrow_mut().severities[made.severity].sent += 1;
        let sent = self.start.elapsed().as_millis() as u64;
        let exchanging = async {
            let mut connection = match idle {
                Some(connection) => connection,
                None => Connection::open(self.flood.address).await?,
            };
            let answer = connection.exchange(&made.bytes).await?;
            anyhow::Ok((connection, answer))
        };
        let answered = timeout(ANSWER_DEADLINE, exchanging).await;
        let mut tally = self.tally.borrow_mut();
        let Ok(Ok((connection, answer))) = answered else {
            // An overloaded server answers before it has read the body, and closes: the answer may be lost with it.
            tally.cut += 1;
            tally.refuse(made.severity, due.elapsed(), self.start.elapsed());
            return;
        };
        if answer.keeps_open {
            self.idle.borrow_mut().push(connection);
        }
        if answer.status == 202 {
            tally.severities[made.severity].accepted += 1;
            tally.accepted_waits.add(due.elapsed());
            if made.severity == 0 {
                tally.debug_accepted.push(sent);
            }
        } else {
            tally.refuse(made.severity, due.elapsed(), self.start.elapsed());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_off_is_refused_and_what_is_not_sent_makes_the_load_smaller() {
        let mut tally = Tally::default();
        tally.severities[0].sent = 60;
        tally.unsent = 40;
        tally.refuse(MIX.len() - 1, Duration::from_secs(30), Duration::from_secs(40));
        tally.debug_accepted.push(40_050);
        assert_eq!((tally.refused(), tally.sent_share()), (1, 0.6));
        assert!(tally.refused_wait(0.99).is_some_and(|wait| wait > 29_000.0));
        assert_eq!(tally.out_of_order(Duration::from_millis(100)), 1);
    }

    #[test]
    fn a_critical_request_is_out_of_order_when_a_debug_one_got_in_around_it() {
        let mut tally = Tally {
            critical_refused: vec![1_000, 5_000],
            debug_accepted: vec![4_900, 20, 1_101],
            ..Tally::default()
        };
        assert_eq!(tally.out_of_order(Duration::from_millis(100)), 1);
        assert_eq!(tally.out_of_order(Duration::from_millis(101)), 2);
        assert_eq!(tally.out_of_order(Duration::from_millis(99)), 0);
    }
}
