//! What the clones of a logger and its sender share: the queue, and the ways to wait for it.

use std::pin::pin;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::timeout_at;
use tokio_util::sync::CancellationToken;
use warren_domain::{Message, MessageLimits, Severity};

use crate::entry::NotLogged;
use crate::own_thread;
use crate::queue::{Held, Offer, Phase, Queue};

/// The queue under its lock.
///
/// The lock is held for a few moves only and never across a wait, and nothing is logged under it.
#[derive(Debug)]
pub(crate) struct Shared {
    queue: Mutex<Queue>,
    /// The most bytes that are held.
    max_bytes: usize,
    pub(crate) limits: MessageLimits,
    /// Something was settled or ended: for callers on threads of their own, and for those in a runtime.
    changed_blocking: Condvar,
    changed: Notify,
    /// Something waits to be sent, or the end has come.
    pub(crate) work: Notify,
    /// The sender is to stop where it is.
    pub(crate) stop: CancellationToken,
}

impl Shared {
    pub(crate) fn new(queue: Queue, max_bytes: usize, limits: MessageLimits) -> Self {
        Self {
            queue: Mutex::new(queue),
            max_bytes,
            limits,
            changed_blocking: Condvar::new(),
            changed: Notify::new(),
            work: Notify::new(),
            stop: CancellationToken::new(),
        }
    }

    pub(crate) fn queue(&self) -> MutexGuard<'_, Queue> {
        // The books are whole between any two lines that could panic.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes everybody who waits for room, for a flush or for the end.
    pub(crate) fn announce(&self) {
        self.changed_blocking.notify_all();
        self.changed.notify_waiters();
    }

    /// Takes a message in; where the policy is to wait for room, this thread waits.
    pub(crate) fn put_blocking(&self, message: Message) -> Result<(), NotLogged> {
        let mut held = Held::new(message, self.max_bytes);
        let severity = held.message.severity;
        let mut turn = None;
        let mut queue = self.queue();
        let taken = loop {
            held = match queue.offer(held, turn) {
                Offer::NoRoom(held) if !own_thread::is_marked() => *held,
                // The sender would wait for itself.
                Offer::NoRoom(_) => {
                    queue.drop_one(severity);
                    break Err(NotLogged::Full);
                }
                Offer::Taken => break Ok(()),
                Offer::Dropped => break Err(NotLogged::Full),
                Offer::Closed => break Err(NotLogged::Closed),
            };
            turn = turn.or_else(|| Some(queue.take_turn()));
            queue = self
                .changed_blocking
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        };
        if let Some(turn) = turn {
            queue.leave_turn(turn);
        }
        drop(queue);
        self.put_done(taken.is_ok(), turn.is_some());
        taken
    }

    /// Takes a message in; where the policy is to wait for room, this task waits.
    ///
    /// Dropped while it waits, the message counts as dropped.
    pub(crate) async fn put(&self, message: Message) -> Result<(), NotLogged> {
        let mut held = Held::new(message, self.max_bytes);
        let mut waiting: Option<Waiting<'_>> = None;
        loop {
            let mut changed = pin!(self.changed.notified());
            // Before the look at the queue, or what happens right after it would be missed.
            changed.as_mut().enable();
            let turn = waiting.as_ref().map(|waiting| waiting.turn);
            let offer = self.queue().offer(held, turn);
            let taken = match offer {
                Offer::NoRoom(back) => {
                    waiting.get_or_insert_with(|| Waiting::new(self, back.message.severity));
                    held = *back;
                    changed.await;
                    continue;
                }
                Offer::Taken => Ok(()),
                Offer::Dropped => Err(NotLogged::Full),
                Offer::Closed => Err(NotLogged::Closed),
            };
            if let Some(waiting) = &mut waiting {
                waiting.counted = true;
            }
            self.put_done(taken.is_ok(), false);
            return taken;
        }
    }

    fn put_done(&self, taken: bool, waited: bool) {
        if taken {
            self.work.notify_one();
        }
        if waited {
            // The next one in line may fit too.
            self.announce();
        }
    }

    /// Begins the end: takes nothing more, sends what there is.
    pub(crate) fn begin_close(&self) {
        self.queue().enter(Phase::Closing);
        self.work.notify_one();
        self.announce();
    }

    /// Gives up what is left and stops the sender.
    pub(crate) fn abandon(&self) {
        self.queue().abandon();
        self.stop.cancel();
        self.announce();
    }

    /// Waits on this thread until `holds`, at most for `time`; tells whether it does.
    pub(crate) fn wait_blocking(&self, time: Duration, mut holds: impl FnMut(&mut Queue) -> bool) -> bool {
        let deadline = Instant::now().checked_add(time);
        let mut queue = self.queue();
        loop {
            if holds(&mut queue) {
                return true;
            }
            let left = deadline.map_or(LONG, |deadline| {
                deadline.saturating_duration_since(Instant::now()).min(LONG)
            });
            // What would have to happen happens on this very thread.
            if left.is_zero() || own_thread::is_marked() {
                return false;
            }
            let (woken, _) = self
                .changed_blocking
                .wait_timeout(queue, left)
                .unwrap_or_else(PoisonError::into_inner);
            queue = woken;
        }
    }

    /// Waits in this task until `holds`, at most for `time`; tells whether it does.
    pub(crate) async fn wait(&self, time: Duration, mut holds: impl FnMut(&mut Queue) -> bool) -> bool {
        let now = tokio::time::Instant::now();
        let deadline = now.checked_add(time).unwrap_or(now + LONG);
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if holds(&mut self.queue()) {
                return true;
            }
            if timeout_at(deadline, changed).await.is_err() {
                return holds(&mut self.queue());
            }
        }
    }
}

/// Longer than any program runs, and short enough for every clock.
const LONG: Duration = Duration::from_secs(30 * 365 * 86_400);

/// A task's place among those that wait for room.
#[derive(Debug)]
struct Waiting<'a> {
    shared: &'a Shared,
    severity: Severity,
    turn: u64,
    counted: bool,
}

impl<'a> Waiting<'a> {
    fn new(shared: &'a Shared, severity: Severity) -> Self {
        Self {
            shared,
            severity,
            turn: shared.queue().take_turn(),
            counted: false,
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut queue = self.shared.queue();
        queue.leave_turn(self.turn);
        if !self.counted {
            queue.drop_one(self.severity);
        }
        drop(queue);
        self.shared.announce();
    }
}
