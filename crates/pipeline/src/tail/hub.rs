//! The one who listens for all readers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::gauge;
use tokio::select;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{info, warn};
use warren_domain::ports::{LiveEvent, LiveMessages, LiveStream};
use warren_domain::{Message, SeverityCounts, Timestamp};

use super::budget::{Budget, Ration};
use super::catch_up::TailStore;
use super::config::TailConfig;
use super::cursor::Cursor;
use super::kept::{GapReason, Kept};
use super::metrics::READERS;
use super::order::InOrder;
use super::reader::{Reader, Wanted};
use crate::Backoff;

/// How often readers are woken at most: a hundred of them, woken for every packet, would cost more than what they read.
/// Nobody sees that a message came so much later.
const WAKE_EVERY: Duration = Duration::from_millis(25);
/// It is longer by so much for each of many…
const WAKE_EACH: Duration = Duration::from_millis(1);
/// …up to this.
const WAKE_LATEST: Duration = Duration::from_millis(100);
/// How long a reader waits for the hub to listen before it is refused: longer than an attempt to connect may take, by
/// `amqp.connect_timeout` as it is, so that the reason is known by then.
const PATIENCE: Duration = Duration::from_secs(6);
/// How long beginning to listen may take.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(10);
/// How many of those who come back ask the store at once.
const ASKING: usize = 2;
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Why nobody can read now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotReading {
    /// As many read as may; wait and come again.
    #[error("{most} read already, which is tail.max_readers")]
    Full {
        /// How many.
        most: usize,
    },
    /// What is listened to does not answer; wait and come again.
    #[error("what is published cannot be listened to now: {reason}")]
    Unavailable {
        /// What is the matter, for people.
        reason: String,
    },
    /// The hub is closed.
    #[error("this process is stopping")]
    Closed,
}

/// Listens for all readers of this process, while there are any.
///
/// Cloning is cheap; the clones share everything, and dropping the last of them closes it.
#[derive(Clone, Debug)]
pub struct Hub {
    shared: Arc<Shared>,
    _closing: Arc<DropGuard>,
}

/// What readers are woken by.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Why nothing is heard; `None` while it listens.
    away: Option<String>,
    pub(super) closed: bool,
}

/// What the hub, its task and its readers share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) id: u64,
    pub(super) state: watch::Sender<State>,
    kept: Mutex<Kept>,
    pub(super) budget: Budget,
    pub(super) store: Option<TailStore>,
    /// Who comes back asks the store in turns.
    pub(super) asking: Semaphore,
    readers: watch::Sender<usize>,
    pub(super) config: TailConfig,
    pub(super) closing: CancellationToken,
}

impl Shared {
    pub(super) fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, messages: impl Iterator<Item = Message>) {
        let now = Timestamp::now();
        let mut kept = self.kept();
        for message in messages {
            kept.message(message, now);
        }
    }

    /// Returns how many read now.
    pub(super) fn readers(&self) -> usize {
        *self.readers.borrow()
    }

    fn set_away(&self, reason: impl Into<String>) {
        let reason = reason.into();
        self.state.send_modify(|state| state.away = Some(reason));
    }
}

/// A reader's place among those that may read.
#[derive(Debug)]
pub(super) struct Slot(Arc<Shared>);

impl Slot {
    fn take(shared: &Arc<Shared>) -> Option<Self> {
        let most = shared.config.max_readers;
        let taken = shared.readers.send_if_modified(|readers| {
            let room = *readers < most;
            *readers += usize::from(room);
            room
        });
        taken.then(|| {
            gauge!(READERS).increment(1);
            Self(Arc::clone(shared))
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.readers.send_modify(|readers| *readers -= 1);
        gauge!(READERS).decrement(1);
    }
}

impl Hub {
    /// Starts it; it listens once somebody reads. Needs a tokio runtime.
    pub fn start(live: Arc<dyn LiveMessages>, config: TailConfig) -> Self {
        Self::start_with(live, None, config)
    }

    /// Starts one that tells from the store what is behind the cursor of somebody who comes back, where it does not keep
    /// that itself.
    pub fn start_beside_store(live: Arc<dyn LiveMessages>, store: TailStore, config: TailConfig) -> Self {
        Self::start_with(live, Some(store), config)
    }

    fn start_with(live: Arc<dyn LiveMessages>, store: Option<TailStore>, config: TailConfig) -> Self {
        let id = fastrand::u64(1..);
        let shared = Arc::new(Shared {
            id,
            state: watch::Sender::new(State {
                away: Some("it has not begun to listen yet".to_owned()),
                closed: false,
            }),
            kept: Mutex::new(Kept::new(id, &config, Timestamp::now())),
            budget: Budget::new(&config),
            store,
            asking: Semaphore::new(ASKING),
            readers: watch::Sender::new(0),
            config,
            closing: CancellationToken::new(),
        });
        let task = Task {
            shared: Arc::clone(&shared),
            live,
            ration: Ration::new(&shared.config),
            missing: None,
            heard: InOrder::default(),
        };
        tokio::spawn(task.run());
        Self {
            _closing: Arc::new(shared.closing.clone().drop_guard()),
            shared,
        }
    }

    /// Begins to read what is wanted: behind `from`, else what is confirmed from now on.
    ///
    /// Waits until it listens, a few seconds at most. What is missing behind `from` is told as a gap.
    ///
    /// # Errors
    /// [`NotReading`].
    pub async fn read(&self, wanted: Wanted, from: Option<Cursor>) -> Result<Reader, NotReading> {
        let shared = &self.shared;
        let most = shared.config.max_readers;
        let slot = Slot::take(shared).ok_or(NotReading::Full { most })?;
        let mut state = shared.state.subscribe();
        let ready = state.wait_for(|state| state.closed || state.away.is_none());
        // Whatever ended the wait, what is so now decides: it may have come to listen at the last moment.
        drop(timeout(PATIENCE, ready).await);
        let now = shared.state.borrow();
        if now.closed {
            return Err(NotReading::Closed);
        }
        if let Some(reason) = now.away.clone() {
            return Err(NotReading::Unavailable { reason });
        }
        drop(now);
        Ok(Reader::new(Arc::clone(shared), slot, wanted, from))
    }

    /// Returns how many read now.
    pub fn readers(&self) -> usize {
        self.shared.readers()
    }

    /// Ends it: readers are told what has come, and then that this is all.
    pub fn close(&self) {
        self.shared.closing.cancel();
    }
}

/// Listens until the hub is closed.
struct Task {
    shared: Arc<Shared>,
    live: Arc<dyn LiveMessages>,
    ration: Ration,
    /// Why what is published now is not heard; `None` while it is, and before it ever was.
    missing: Option<GapReason>,
    /// What waits for what is before it.
    heard: InOrder,
}

impl Task {
    async fn run(mut self) {
        let closing = self.shared.closing.clone();
        select! {
            () = closing.cancelled() => {}
            () = self.listen_while_somebody_reads() => {}
        }
        self.keep_all();
        self.shared.state.send_modify(|state| state.closed = true);
    }

    async fn listen_while_somebody_reads(&mut self) {
        let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
        let mut readers = self.shared.readers.subscribe();
        loop {
            // Its sender is in what this task shares.
            if readers.wait_for(|readers| *readers > 0).await.is_err() {
                return;
            }
            match timeout(LISTEN_TIMEOUT, self.live.listen()).await {
                Ok(Ok(mut stream)) => {
                    if self.hear(&mut *stream, &mut backoff).await {
                        stream.close().await;
                        continue;
                    }
                    self.lose("what was listened to has ended");
                }
                Ok(Err(unhealthy)) => self.lose(&unhealthy.0),
                Err(_) => self.lose(&format!("nothing answered within {LISTEN_TIMEOUT:?}")),
            }
            sleep(backoff.next_wait()).await;
        }
    }

    /// Hears until nobody has read for a while; `false`: the stream has ended before.
    async fn hear(&mut self, stream: &mut dyn LiveStream, backoff: &mut Backoff) -> bool {
        let shared = Arc::clone(&self.shared);
        let mut readers = shared.readers.subscribe();
        let (mut wake_at, mut woken) = (None, Instant::now());
        let leaving = |readers: usize| (readers == 0).then(|| Instant::now() + shared.config.linger);
        let mut leave_at = leaving(*readers.borrow_and_update());
        let mut passing_until = None;
        loop {
            select! {
                biased;
                () = until(wake_at) => {
                    woken = Instant::now();
                    self.keep_due(woken);
                    wake_at = (!self.heard.is_empty()).then(|| woken + wake_every(shared.readers()));
                    shared.state.send_modify(|_| {});
                }
                () = until(leave_at) => {
                    self.keep_all();
                    self.missing = Some(GapReason::Unattended);
                    shared.set_away("it begins to listen again");
                    return true;
                }
                changed = readers.changed() => {
                    if changed.is_err() {
                        return true;
                    }
                    leave_at = leaving(*readers.borrow_and_update());
                }
                () = until(passing_until) => {
                    passing_until = None;
                    self.passed(stream.pass_over());
                    wake_at = wake_at.or_else(|| Some(woken + wake_every(shared.readers())));
                }
                event = stream.next(), if passing_until.is_none() => {
                    let Some(event) = event else { return false };
                    if event == LiveEvent::Listening {
                        backoff.reset();
                    }
                    passing_until = self.take(event);
                    wake_at = wake_at.or_else(|| Some(woken + wake_every(shared.readers())));
                }
            }
        }
    }

    /// Takes what is said. `Some`: what comes until then is passed over.
    fn take(&mut self, event: LiveEvent) -> Option<Instant> {
        if let LiveEvent::Message(message) = event {
            let now = Instant::now();
            let bytes = self.heard.push(*message, now);
            if self.heard.is_full() {
                self.keep_due(now);
            }
            return self.ration.spend(bytes, now);
        }
        self.keep_all();
        let now = Timestamp::now();
        match event {
            LiveEvent::Message(_) => {}
            LiveEvent::Missed { messages } => self.shared.kept().gap(messages, GapReason::Overrun, now),
            LiveEvent::Listening => {
                {
                    let mut kept = self.shared.kept();
                    if let Some(reason) = self.missing.take() {
                        kept.gap(None, reason, now);
                    }
                    kept.quiet_until(now);
                }
                let was_away = self.shared.state.borrow().away.is_some();
                if was_away {
                    info!("listening to what is published, for tails");
                }
                self.shared.state.send_modify(|state| state.away = None);
            }
            LiveEvent::Lost { reason } => self.lose(&reason),
        }
        None
    }

    /// Notes what came and was not read.
    fn passed(&mut self, messages: SeverityCounts) {
        self.keep_all();
        if messages.total() > 0 {
            let now = Timestamp::now();
            self.shared.kept().gap(Some(messages), GapReason::Overrun, now);
        }
    }

    fn keep_due(&mut self, now: Instant) {
        let due = self.heard.due(now);
        self.shared.keep(due);
    }

    fn keep_all(&mut self) {
        let all = self.heard.all();
        self.shared.keep(all);
    }

    /// Notes that nothing is heard any more, or still not.
    fn lose(&mut self, reason: &str) {
        self.keep_all();
        // Readers that came before it listened the first time have missed nothing.
        let was_away = self.shared.state.borrow().away.clone();
        match was_away {
            None => {
                warn!(reason, "what is published is not heard, tails have a gap here");
                self.missing = Some(GapReason::Disconnected);
            }
            Some(said) if said != reason => warn!(reason, "tails cannot listen to what is published"),
            Some(_) => {}
        }
        self.shared.set_away(reason);
    }
}

fn wake_every(readers: usize) -> Duration {
    let readers = u32::try_from(readers).unwrap_or(u32::MAX);
    WAKE_EACH.saturating_mul(readers).clamp(WAKE_EVERY, WAKE_LATEST)
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
