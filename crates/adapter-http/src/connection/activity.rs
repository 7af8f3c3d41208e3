//! What a connection is doing, and until when it may.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::reading::TakeWithin;

/// How long a connection may stay in each of its states.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    pub(crate) first_request: Duration,
    pub(crate) header: Duration,
    pub(crate) idle: Duration,
}

/// No byte has come yet.
const NEW: u8 = 0;
/// Some bytes of a request's head have come.
const HEAD: u8 = 1;
/// A request is being answered; its own timeouts hold.
const SERVING: u8 = 2;
/// A request was answered, and no byte of another one has come.
const IDLE: u8 = 3;

/// How long a client may take nothing of an answer without an end once the server stops.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What a connection is doing, written by its wire and its service, read by its driver.
///
/// All three run in the same task; the atomics are only there because a task may move between threads.
#[derive(Debug)]
pub(super) struct Activity {
    opened: Instant,
    state: AtomicU8,
    /// Since when, in microseconds after `opened`.
    since: AtomicU64,
    peer_is_gone: AtomicBool,
    /// The answer has to be taken in time.
    timed: AtomicBool,
    /// By when.
    take_by: Mutex<Option<(TakeWithin, Instant)>>,
    /// The answer has no end of its own.
    endless: AtomicBool,
    /// The server stops.
    leaving: AtomicBool,
    /// The answer is of use only to a client that is still there.
    wanted_only: AtomicBool,
    /// It is not.
    hung_up: AtomicBool,
}

impl Activity {
    pub(super) fn new() -> Self {
        Self {
            opened: Instant::now(),
            state: AtomicU8::new(NEW),
            since: AtomicU64::new(0),
            peer_is_gone: AtomicBool::new(false),
            timed: AtomicBool::new(false),
            take_by: Mutex::new(None),
            endless: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            wanted_only: AtomicBool::new(false),
            hung_up: AtomicBool::new(false),
        }
    }

    fn enter(&self, state: u8) {
        self.state.store(state, Ordering::Relaxed);
        self.since
            .store(self.opened.elapsed().as_micros() as u64, Ordering::Relaxed);
    }

    fn state(&self) -> u8 {
        self.state.load(Ordering::Relaxed)
    }

    /// Bytes have come.
    pub(super) fn received(&self) {
        if matches!(self.state(), NEW | IDLE) {
            self.enter(HEAD);
        }
    }

    /// The peer sends nothing more, or cannot be reached.
    pub(super) fn peer_gone(&self) {
        self.peer_is_gone.store(true, Ordering::Relaxed);
    }

    /// Bytes have gone out.
    pub(super) fn sent(&self) {
        // In the head of a request only a refusal goes out, and it is the last thing that does.
        if matches!(self.state(), HEAD | IDLE) {
            self.enter(IDLE);
        }
    }

    /// A request's head is complete; it may be one whose answer is of no use once its client has hung up.
    pub(super) fn begin(&self, wanted_only: bool) {
        self.wanted_only.store(wanted_only, Ordering::Relaxed);
        self.state.store(SERVING, Ordering::Relaxed);
    }

    /// Tells whether somebody has to look whether the client is still there: while its answer is made, and as long as one
    /// goes on that has no end.
    pub(super) fn wants_watching(&self) -> bool {
        let answering = match self.state() {
            SERVING => true,
            IDLE => self.endless.load(Ordering::Relaxed),
            _ => false,
        };
        answering && self.wanted_only.load(Ordering::Relaxed)
    }

    /// The client has sent something more, so it is there.
    pub(super) fn is_there(&self) {
        self.wanted_only.store(false, Ordering::Relaxed);
    }

    /// The client sends nothing more while its answer is made, or goes on.
    pub(super) fn hang_up(&self) {
        self.peer_gone();
        self.hung_up.store(true, Ordering::Relaxed);
    }

    /// Tells whether nobody waits for the answer that is made.
    pub(super) fn has_hung_up(&self) -> bool {
        self.hung_up.load(Ordering::Relaxed)
    }

    /// An answer is ready to be sent; it may have no end, or have to be taken in time.
    pub(super) fn end(&self, endless: bool, within: Option<TakeWithin>) {
        self.endless.store(endless, Ordering::Relaxed);
        self.timed.store(within.is_some(), Ordering::Relaxed);
        if let Some(within) = within {
            let by = Instant::now() + within.time;
            *self.take_by.lock().unwrap_or_else(PoisonError::into_inner) = Some((within, by));
        }
        self.enter(IDLE);
    }

    /// Returns by when the answer has to be taken, if it is one of those and has not been.
    fn take_by(&self) -> Option<Instant> {
        if !self.timed.load(Ordering::Relaxed) {
            return None;
        }
        let mut take_by = self.take_by.lock().unwrap_or_else(PoisonError::into_inner);
        match &*take_by {
            Some((within, by)) if within.is_held() => Some(*by),
            _ => {
                *take_by = None;
                self.timed.store(false, Ordering::Relaxed);
                None
            }
        }
    }

    /// The server stops.
    pub(super) fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
        if self.state() == IDLE && self.endless.load(Ordering::Relaxed) {
            // What is left to say comes only now.
            self.enter(IDLE);
        }
    }

    /// Tells whether somebody may still be sending.
    pub(super) fn may_linger(&self) -> bool {
        !self.peer_is_gone.load(Ordering::Relaxed)
    }

    /// Returns when the present state has lasted too long, and what that is called.
    pub(super) fn deadline(&self, timeouts: &Timeouts) -> Option<(Instant, &'static str)> {
        let (limit, reason) = match self.state() {
            NEW => (timeouts.first_request, "first_request"),
            HEAD => (timeouts.header, "header"),
            IDLE if self.endless.load(Ordering::Relaxed) && self.leaving.load(Ordering::Relaxed) => {
                (timeouts.idle.min(LAST_WORDS), "drain")
            }
            IDLE => (timeouts.idle, "idle"),
            _ => return None,
        };
        let since = Duration::from_micros(self.since.load(Ordering::Relaxed));
        let deadline = self.opened + since + limit;
        match self.take_by() {
            Some(by) if by < deadline => Some((by, "answer")),
            _ => Some((deadline, reason)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUTS: Timeouts = Timeouts {
        first_request: Duration::from_secs(10),
        header: Duration::from_secs(5),
        idle: Duration::from_secs(60),
    };

    fn due(activity: &Activity) -> Option<(Duration, &'static str)> {
        activity
            .deadline(&TIMEOUTS)
            .map(|(at, reason)| (at - activity.opened, reason))
    }

    #[test]
    fn a_head_is_timed_from_its_first_byte_and_an_answer_ends_it() {
        let activity = Activity::new();
        assert_eq!(due(&activity), Some((TIMEOUTS.first_request, "first_request")));
        activity.received();
        let first = due(&activity);
        assert!(first.is_some_and(|(at, reason)| at >= TIMEOUTS.header && reason == "header"));
        // Further bytes buy no time.
        while activity.opened.elapsed() < Duration::from_millis(2) {
            activity.received();
        }
        assert_eq!(due(&activity), first);
        activity.begin(false);
        activity.received();
        assert_eq!(due(&activity), None);
        activity.end(false, None);
        assert!(due(&activity).is_some_and(|(at, reason)| at >= TIMEOUTS.idle && reason == "idle"));
    }

    #[test]
    fn a_client_that_takes_nothing_of_an_answer_without_an_end_does_not_hold_up_a_stop() {
        let activity = Activity::new();
        activity.end(true, None);
        assert!(due(&activity).is_some_and(|(at, reason)| at >= TIMEOUTS.idle && reason == "idle"));
        activity.leave();
        assert!(due(&activity).is_some_and(|(at, reason)| at < TIMEOUTS.header && reason == "drain"));
        activity.end(false, None);
        assert!(due(&activity).is_some_and(|(_, reason)| reason == "idle"));
    }

    #[test]
    fn a_client_that_still_takes_its_answer_is_not_idle() {
        let activity = Activity::new();
        activity.end(false, None);
        let first = due(&activity);
        while activity.opened.elapsed() < Duration::from_millis(2) {
            activity.sent();
        }
        assert!(due(&activity) > first);
    }
}
