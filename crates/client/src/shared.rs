//! What the clones of a logger and its sender share: the queue, and the ways to wait for it.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
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
    ///
    /// Whoever finds room first takes it: in a fair line this thread might wait for a task that only this thread could
    /// run.
    pub(crate) fn put_blocking(&self, message: Message) -> Result<(), NotLogged> {
        let mut held = Held::new(message, self.max_bytes);
        let severity = held.message.severity;
        let mut queue = self.queue();
        loop {
            held = match queue.offer(held) {
                Offer::NoRoom(held) if !own_thread::is_marked() => *held,
                // The sender would wait for itself.
                Offer::NoRoom(_) => {
                    queue.drop_one(severity);
                    return Err(NotLogged::Full);
                }
                Offer::Taken => break,
                Offer::TakenAndFlushed => {
                    self.announce();
                    break;
                }
                Offer::Dropped => return Err(NotLogged::Full),
                Offer::Closed => return Err(NotLogged::Closed),
            };
            queue = self
                .changed_blocking
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
        drop(queue);
        self.work.notify_one();
        Ok(())
    }

    /// Takes a message in; where the policy is to wait for room, this task waits.
    ///
    /// Dropped before that is done, also without ever having been polled, the message counts as dropped.
    pub(crate) fn put(
        self: &Arc<Self>,
        message: Message,
    ) -> impl Future<Output = Result<(), NotLogged>> + Send + use<> {
        let mut held = Held::new(message, self.max_bytes);
        let shared = Arc::clone(self);
        let mut uncounted = Uncounted {
            shared: Arc::clone(self),
            severity: Some(held.message.severity),
        };
        async move {
            loop {
                let mut changed = pin!(shared.changed.notified());
                // Before the look at the queue, or what happens right after it would be missed.
                changed.as_mut().enable();
                let offer = shared.queue().offer(held);
                let taken = match offer {
                    Offer::NoRoom(back) if !own_thread::is_marked() => {
                        held = *back;
                        changed.await;
                        continue;
                    }
                    // The sender would wait for itself.
                    Offer::NoRoom(_) => {
                        uncounted.drop_now();
                        return Err(NotLogged::Full);
                    }
                    Offer::Taken => {
                        shared.work.notify_one();
                        Ok(())
                    }
                    Offer::TakenAndFlushed => {
                        shared.work.notify_one();
                        shared.announce();
                        Ok(())
                    }
                    Offer::Dropped => Err(NotLogged::Full),
                    Offer::Closed => Err(NotLogged::Closed),
                };
                uncounted.is_counted();
                return taken;
            }
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
            // What would have to happen happens on this very thread.
            if own_thread::is_marked() {
                return false;
            }
            if timeout_at(deadline, changed).await.is_err() {
                return holds(&mut self.queue());
            }
        }
    }
}

/// Longer than any program runs, and short enough for every clock.
const LONG: Duration = Duration::from_secs(30 * 365 * 86_400);

/// A message whose caller may stop waiting for room at any moment.
#[derive(Debug)]
struct Uncounted {
    shared: Arc<Shared>,
    severity: Option<Severity>,
}

impl Uncounted {
    /// The queue has counted it.
    fn is_counted(&mut self) {
        self.severity = None;
    }

    /// Counts it as dropped, once.
    fn drop_now(&mut self) {
        if let Some(severity) = self.severity.take() {
            self.shared.queue().drop_one(severity);
        }
    }
}

impl Drop for Uncounted {
    fn drop(&mut self) {
        self.drop_now();
    }
}
