//! Sends at a rate, whatever comes back.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};

use super::{MIX, Made};
use crate::load::Connection;
use crate::own_thread::on_own_thread;
use crate::statistics::Waits;

/// How many requests are under way at most; one that is due beyond it is not sent.
const UNDER_WAY: usize = 3_000;
/// How late a request is still sent: what the load has missed for want of a processor, it does not make up for at once.
const LATEST: Duration = Duration::from_millis(20);
/// How often requests that are due are sent.
const TICK: Duration = Duration::from_millis(1);
/// How long a connection that waits is used again, well below the server's own limit.
const LONGEST_IDLE: Duration = Duration::from_secs(20);
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
    /// Due while too many were under way, or noticed too late.
    pub(crate) unsent: u64,
    /// Cut off without an answer, or given up; to its sender that is a refusal, and it counts as one.
    pub(crate) cut: u64,
    /// Connections that were opened.
    pub(crate) connections: u64,
    /// From the first request to the last that was due.
    pub(crate) elapsed: Duration,
    accepted_waits: Waits,
    /// The latest that a request was noticed to be due.
    pub(crate) latest: Duration,
    refused_waits: Waits,
    /// Of those, the ones that do not say what they hold.
    undeclared_waits: Waits,
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

    /// Notes a request that was not accepted, `wait` after it was sent.
    fn refuse(&mut self, made: &Made, wait: Duration, since_start: Duration) {
        let severity = made.severity;
        self.severities[severity].refused += 1;
        self.refused_waits.add(wait);
        if !made.declared {
            self.undeclared_waits.add(wait);
        }
        if severity == MIX.len() - 1 {
            self.critical_refused.push(since_start.as_millis() as u64);
        }
    }

    fn note_late(&mut self, late: Duration) {
        self.latest = self.latest.max(late);
    }

    pub(crate) fn accepted_wait(&mut self, share: f64) -> Option<f64> {
        self.accepted_waits.percentile(share)
    }

    pub(crate) fn refused_wait(&mut self, share: f64) -> Option<f64> {
        self.refused_waits.percentile(share)
    }

    /// Returns how long refusals took of requests that do not say what they hold, which have to be read.
    pub(crate) fn undeclared_wait(&mut self, share: f64) -> Option<f64> {
        self.undeclared_waits.percentile(share)
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
    /// Connections that wait for a request, and since when.
    idle: RefCell<Vec<(Connection, Instant)>>,
    under_way: Cell<usize>,
    start: Instant,
}

impl Flood {
    /// Sends from a thread of its own, and waits for every answer.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(crate) async fn run(self) -> Result<Tally> {
        on_own_thread("flood", true, || async { Ok(self.run_here().await) }).await
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
                let late = at.elapsed();
                shared.tally.borrow_mut().note_late(late);
                if shared.under_way.get() >= UNDER_WAY || late > LATEST {
                    shared.tally.borrow_mut().unsent += 1;
                    continue;
                }
                shared.under_way.set(shared.under_way.get() + 1);
                let shared = Rc::clone(&shared);
                spawn_local(async move {
                    shared.exchange(place).await;
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
    async fn exchange(&self, place: usize) {
        let made = &self.flood.requests[place];
        let idle = self.idle.borrow_mut().pop();
        // The server closes what is silent for long; a request on such a connection would have no answer.
        let idle = idle.filter(|(_, since)| since.elapsed() < LONGEST_IDLE);
        let begun = Instant::now();
        self.tally.borrow_mut().severities[made.severity].sent += 1;
        let sent = (begun - self.start).as_millis() as u64;
        let exchanging = async {
            let mut connection = match idle {
                Some((connection, _)) => connection,
                None => {
                    self.tally.borrow_mut().connections += 1;
                    Connection::open(self.flood.address).await?
                }
            };
            let answer = connection.exchange(&made.bytes).await?;
            anyhow::Ok((connection, answer))
        };
        let answered = timeout(ANSWER_DEADLINE, exchanging).await;
        let mut tally = self.tally.borrow_mut();
        let Ok(Ok((connection, answer))) = answered else {
            // An overloaded server answers before it has read the body, and closes: the answer may be lost with it.
            tally.cut += 1;
            tally.refuse(made, begun.elapsed(), self.start.elapsed());
            return;
        };
        if answer.keeps_open {
            self.idle.borrow_mut().push((connection, Instant::now()));
        }
        if answer.status == 202 {
            tally.severities[made.severity].accepted += 1;
            tally.accepted_waits.add(begun.elapsed());
            if made.severity == 0 {
                tally.debug_accepted.push(sent);
            }
        } else {
            tally.refuse(made, begun.elapsed(), self.start.elapsed());
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
        let made = Made {
            bytes: bytes::Bytes::new(),
            severity: MIX.len() - 1,
            declared: true,
        };
        tally.refuse(&made, Duration::from_secs(30), Duration::from_secs(40));
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
