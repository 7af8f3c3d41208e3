//! Ports that do as they are told, for tests of what stands above them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use warren_domain::ports::{
    Countable, Counted, Delivery, GroupLag, HealthCheck, Lag, Maintained, MessageConsumer, MessagePublisher,
    MessageStore, PublishError, Refused, SettleError, Settlement, StoreError, StoreMaintenance, Stored,
    Tally, TallyBook, TallyError, Unhealthy, Unpublished,
};
use warren_domain::{Idempotency, Message, MessageId, Timestamp, TraceContext};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a [`ScriptedPublisher`] does at one call.
#[derive(Clone, Debug)]
pub enum PublishStep {
    /// Takes every message.
    Take,
    /// Takes every message after a while.
    TakeAfter(Duration),
    /// Takes none.
    Fail(PublishError),
    /// Takes all but those at these places.
    FailAt(Vec<usize>, PublishError),
}

/// A publisher that follows a script and then takes everything.
#[derive(Debug, Default)]
pub struct ScriptedPublisher {
    script: Mutex<VecDeque<PublishStep>>,
    taken: Mutex<Vec<(Message, Option<TraceContext>)>>,
}

impl ScriptedPublisher {
    /// Makes a publisher that goes through `script`, a step a call.
    pub fn new(script: impl IntoIterator<Item = PublishStep>) -> Arc<Self> {
        Arc::new(Self {
            script: Mutex::new(script.into_iter().collect()),
            taken: Mutex::default(),
        })
    }

    /// Puts `steps` at the end of the script.
    pub fn then(&self, steps: impl IntoIterator<Item = PublishStep>) {
        lock(&self.script).extend(steps);
    }

    /// Returns what was taken so far.
    pub fn taken(&self) -> Vec<Message> {
        lock(&self.taken)
            .iter()
            .map(|(message, _)| message.clone())
            .collect()
    }

    /// Returns the traces of what was taken so far, one for each message.
    pub fn traces(&self) -> Vec<Option<TraceContext>> {
        lock(&self.taken).iter().map(|(_, trace)| *trace).collect()
    }
}

#[async_trait]
impl MessagePublisher for ScriptedPublisher {
    async fn publish(&self, messages: Vec<Message>, trace: Option<TraceContext>) -> Result<(), Unpublished> {
        let step = lock(&self.script).pop_front().unwrap_or(PublishStep::Take);
        let failed = match step {
            PublishStep::Take => Vec::new(),
            PublishStep::TakeAfter(wait) => {
                sleep(wait).await;
                Vec::new()
            }
            PublishStep::Fail(error) => Unpublished::all(messages.len(), &error).errors,
            PublishStep::FailAt(places, error) => {
                places.into_iter().map(|place| (place, error.clone())).collect()
            }
        };
        let lost: HashSet<_> = failed.iter().map(|(place, _)| *place).collect();
        let kept = messages
            .into_iter()
            .enumerate()
            .filter(|(place, _)| !lost.contains(place));
        lock(&self.taken).extend(kept.map(|(_, message)| (message, trace)));
        if failed.is_empty() {
            Ok(())
        } else {
            Err(Unpublished { errors: failed })
        }
    }
}

/// A store in memory that fails when it is told to.
#[derive(Debug)]
pub struct ScriptedStore {
    rows: Mutex<HashMap<MessageId, Message>>,
    failures: Mutex<VecDeque<StoreError>>,
    refused: Mutex<HashSet<MessageId>>,
    held_off: Mutex<HashSet<MessageId>>,
    panics: Mutex<HashSet<MessageId>>,
    refuses_all: AtomicBool,
    calls: watch::Sender<usize>,
}

impl ScriptedStore {
    /// Makes a store whose first calls fail with `failures`, one each.
    pub fn new(failures: impl IntoIterator<Item = StoreError>) -> Arc<Self> {
        Arc::new(Self {
            rows: Mutex::default(),
            failures: Mutex::new(failures.into_iter().collect()),
            refused: Mutex::default(),
            held_off: Mutex::default(),
            panics: Mutex::default(),
            refuses_all: AtomicBool::new(false),
            calls: watch::Sender::new(0),
        })
    }

    /// Makes the store refuse everything, or no longer; what is refused by name stays so.
    pub fn refuse_all(&self, refuses: bool) {
        self.refuses_all.store(refuses, Ordering::SeqCst);
    }

    /// Ends what [`ScriptedStore::refuse`] began.
    pub fn accept(&self, id: MessageId) {
        lock(&self.refused).remove(&id);
    }

    /// Makes the store refuse every batch that holds the message `id`.
    pub fn refuse(&self, id: MessageId) {
        lock(&self.refused).insert(id);
    }

    /// Makes the store unavailable to every batch that holds the message `id`, until it is let in.
    pub fn hold_off(&self, id: MessageId) {
        lock(&self.held_off).insert(id);
    }

    /// Ends what [`ScriptedStore::hold_off`] began.
    pub fn let_in(&self, id: MessageId) {
        lock(&self.held_off).remove(&id);
    }

    /// Makes the store panic over the next batch that holds the message `id`.
    pub fn panic_over(&self, id: MessageId) {
        lock(&self.panics).insert(id);
    }

    /// Returns what is stored.
    pub fn rows(&self) -> Vec<Message> {
        lock(&self.rows).values().cloned().collect()
    }

    /// Returns how often it was called.
    pub fn calls(&self) -> usize {
        *self.calls.borrow()
    }

    /// Waits until it was called `count` times.
    pub async fn called(&self, count: usize) {
        let mut calls = self.calls.subscribe();
        // The sender lives in self, so this cannot fail while self is borrowed.
        calls.wait_for(|calls| *calls >= count).await.unwrap();
    }
}

#[async_trait]
impl MessageStore for ScriptedStore {
    async fn store(&self, batch: &[Message]) -> Result<Stored, StoreError> {
        self.calls.send_modify(|calls| *calls += 1);
        if let Some(failure) = lock(&self.failures).pop_front() {
            return Err(failure);
        }
        let panics = batch.iter().any(|message| lock(&self.panics).remove(&message.id));
        assert!(!panics, "as scripted");
        let held_off = lock(&self.held_off);
        if batch.iter().any(|message| held_off.contains(&message.id)) {
            return Err(StoreError::Unavailable {
                reason: "held off, as scripted".to_owned(),
                cause: None,
            });
        }
        let refused = lock(&self.refused);
        let refuses_all = self.refuses_all.load(Ordering::SeqCst);
        if refuses_all || batch.iter().any(|message| refused.contains(&message.id)) {
            return Err(StoreError::Rejected {
                reason: "as scripted".to_owned(),
                cause: None,
            });
        }
        let mut rows = lock(&self.rows);
        let mut stored = Stored::default();
        let known: Vec<_> = rows.values().filter_map(|row| row.idempotency).collect();
        let mut tokens: HashSet<_> = known.iter().map(|known| known.token).collect();
        let contents: HashSet<_> = known.iter().map(|known| (known.request, known.digest)).collect();
        let mut new = Vec::new();
        for message in batch {
            let again = message.idempotency.is_some_and(|it| !tokens.insert(it.token));
            if again || rows.contains_key(&message.id) {
                stored.duplicates.add(message.severity, 1);
                stored.repeated += u64::from(again);
            } else {
                rows.insert(message.id, message.clone());
                stored.inserted.add(message.severity, 1);
                new.extend(message.idempotency);
            }
        }
        stored.conflicting = Idempotency::conflicting(new.into_iter().map(|new| {
            let other = |(request, digest): &(u64, u64)| *request == new.request && *digest != new.digest;
            (new, contents.iter().any(other))
        }));
        Ok(stored)
    }
}

/// A book in memory that remembers every id, and fails when it is told to.
#[derive(Debug)]
pub struct ScriptedBook {
    entries: Mutex<(HashSet<u128>, Tally)>,
    failures: Mutex<VecDeque<TallyError>>,
    calls: watch::Sender<usize>,
}

impl ScriptedBook {
    /// Makes a book whose first calls of `count` fail with `failures`, one each.
    pub fn new(failures: impl IntoIterator<Item = TallyError>) -> Arc<Self> {
        Arc::new(Self {
            entries: Mutex::default(),
            failures: Mutex::new(failures.into_iter().collect()),
            calls: watch::Sender::new(0),
        })
    }

    /// Makes the next calls of `count` fail with `failures`, one each.
    pub fn fail(&self, failures: impl IntoIterator<Item = TallyError>) {
        lock(&self.failures).extend(failures);
    }

    /// Waits until `count` was called so many times.
    pub async fn called(&self, count: usize) {
        let mut calls = self.calls.subscribe();
        // The sender lives in self, so this cannot fail while self is borrowed.
        calls.wait_for(|calls| *calls >= count).await.unwrap();
    }
}

#[async_trait]
impl TallyBook for ScriptedBook {
    async fn count(&self, batch: &[Countable]) -> Result<Counted, TallyError> {
        self.calls.send_modify(|calls| *calls += 1);
        if let Some(failure) = lock(&self.failures).pop_front() {
            return Err(failure);
        }
        let (ids, tally) = &mut *lock(&self.entries);
        let mut outcome = Counted::default();
        for message in batch {
            if ids.insert(message.identity) {
                outcome.counted.add(message.severity, 1);
                tally.last_counted[message.severity.index()] = Some(Timestamp::now());
            } else {
                outcome.duplicates.add(message.severity, 1);
            }
        }
        tally.counts += outcome.counted;
        tally.duplicates += outcome.duplicates;
        outcome.tally = *tally;
        Ok(outcome)
    }

    async fn tally(&self) -> Result<Tally, TallyError> {
        Ok(lock(&self.entries).1)
    }
}

/// What waits for a group, as a test says it.
#[derive(Debug)]
pub struct ScriptedLag(Mutex<Result<Lag, Unhealthy>>);

impl Default for ScriptedLag {
    fn default() -> Self {
        Self(Mutex::new(Ok(Lag::default())))
    }
}

impl ScriptedLag {
    /// Changes what it says.
    pub fn set(&self, lag: Lag) {
        *lock(&self.0) = Ok(lag);
    }

    /// Lets it not know from now on.
    pub fn fail(&self, reason: Unhealthy) {
        *lock(&self.0) = Err(reason);
    }
}

#[async_trait]
impl GroupLag for ScriptedLag {
    async fn lag(&self) -> Result<Lag, Unhealthy> {
        lock(&self.0).clone()
    }
}

/// Maintenance that does nothing, and fails when it is told to.
#[derive(Debug)]
pub struct ScriptedMaintenance {
    failures: Mutex<VecDeque<StoreError>>,
    rounds: watch::Sender<usize>,
}

impl ScriptedMaintenance {
    /// Makes maintenance whose first rounds fail with `failures`, one each.
    pub fn new(failures: impl IntoIterator<Item = StoreError>) -> Arc<Self> {
        Arc::new(Self {
            failures: Mutex::new(failures.into_iter().collect()),
            rounds: watch::Sender::new(0),
        })
    }

    /// Waits until `count` rounds have begun.
    pub async fn begun(&self, count: usize) {
        let mut rounds = self.rounds.subscribe();
        // The sender lives in self, so this cannot fail while self is borrowed.
        rounds.wait_for(|rounds| *rounds >= count).await.unwrap();
    }
}

#[async_trait]
impl StoreMaintenance for ScriptedMaintenance {
    async fn maintain(&self, _now: Timestamp) -> Result<Maintained, StoreError> {
        self.rounds.send_modify(|rounds| *rounds += 1);
        match lock(&self.failures).pop_front() {
            Some(failure) => Err(failure),
            None => Ok(Maintained::default()),
        }
    }
}

/// A check that says what it is told to.
#[derive(Debug)]
pub struct ScriptedHealth {
    name: &'static str,
    state: Mutex<Result<(), Unhealthy>>,
}

impl ScriptedHealth {
    /// Makes a healthy dependency.
    pub fn healthy(name: &'static str) -> Arc<Self> {
        Arc::new(Self {
            name,
            state: Mutex::new(Ok(())),
        })
    }

    /// Changes what it says.
    pub fn set(&self, state: Result<(), &str>) {
        *lock(&self.state) = state.map_err(|reason| Unhealthy(reason.to_owned()));
    }
}

#[async_trait]
impl HealthCheck for ScriptedHealth {
    fn name(&self) -> &'static str {
        self.name
    }

    async fn check(&self) -> Result<(), Unhealthy> {
        lock(&self.state).clone()
    }
}

/// What became of a delivery of a [`ScriptedConsumer`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// Acknowledged, with these messages as dead letters.
    Acknowledged(Vec<Refused>),
    /// Dropped unsettled.
    GivenBack,
    /// Settled in vain, with these messages as dead letters that are not kept.
    Failed(Vec<Refused>),
}

/// A consumer that yields what its [`ScriptedQueue`] is fed.
#[derive(Debug)]
pub struct ScriptedConsumer {
    deliveries: mpsc::Receiver<Delivery>,
    taken: watch::Sender<usize>,
}

/// The other end of a [`ScriptedConsumer`].
#[derive(Debug)]
pub struct ScriptedQueue {
    deliveries: mpsc::Sender<Delivery>,
    settled: watch::Sender<Vec<(usize, Settled)>>,
    taken: watch::Sender<usize>,
    failures: Arc<Mutex<VecDeque<SettleError>>>,
    loses_dead_letters: Arc<AtomicBool>,
    fed: usize,
}

/// Makes a consumer and the queue that feeds it.
pub fn scripted_queue() -> (ScriptedQueue, ScriptedConsumer) {
    let (sender, deliveries) = mpsc::channel(1_024);
    let taken = watch::Sender::new(0);
    let queue = ScriptedQueue {
        deliveries: sender,
        settled: watch::Sender::new(Vec::new()),
        taken: taken.clone(),
        failures: Arc::default(),
        loses_dead_letters: Arc::default(),
        fed: 0,
    };
    (queue, ScriptedConsumer { deliveries, taken })
}

impl ScriptedQueue {
    /// Puts a delivery of `messages` into the queue; returns its number, counted from 0.
    pub async fn feed(&mut self, messages: Vec<Message>) -> usize {
        let number = self.fed;
        self.fed += 1;
        let settlement = ScriptedSettlement {
            number,
            settled: self.settled.clone(),
            failures: Arc::clone(&self.failures),
            loses_dead_letters: Arc::clone(&self.loses_dead_letters),
            done: false,
        };
        let delivery = Delivery {
            messages,
            redelivered: false,
            attempt: 1,
            traces: Vec::new(),
            settlement: Box::new(settlement),
        };
        self.deliveries.send(delivery).await.unwrap();
        number
    }

    /// Makes the next settlements fail with `failures`, one each.
    pub fn fail_settlements(&self, failures: impl IntoIterator<Item = SettleError>) {
        lock(&self.failures).extend(failures);
    }

    /// Makes every settlement with dead letters fail, or no longer.
    pub fn lose_dead_letters(&self, loses: bool) {
        self.loses_dead_letters.store(loses, Ordering::SeqCst);
    }

    /// Waits until the consumer has yielded `count` deliveries.
    pub async fn until_taken(&self, count: usize) {
        let mut taken = self.taken.subscribe();
        // A sender lives in self, so this cannot fail while self is borrowed.
        taken.wait_for(|taken| *taken >= count).await.unwrap();
    }

    /// Returns what became of the deliveries so far, in the order it happened.
    pub fn settled(&self) -> Vec<(usize, Settled)> {
        self.settled.borrow().clone()
    }

    /// Returns what follows [`ScriptedQueue::settled`].
    pub fn settlements(&self) -> watch::Receiver<Vec<(usize, Settled)>> {
        self.settled.subscribe()
    }

    /// Ends the consumer once it has yielded what it was fed.
    pub fn close(&mut self) {
        self.deliveries = mpsc::channel(1).0;
    }

    /// Waits until `count` deliveries are settled or given back.
    pub async fn until_settled(&self, count: usize) -> Vec<(usize, Settled)> {
        let mut settled = self.settled.subscribe();
        // The sender lives in self, so this cannot fail while self is borrowed.
        settled
            .wait_for(|settled| settled.len() >= count)
            .await
            .unwrap()
            .clone()
    }
}

#[async_trait]
impl MessageConsumer for ScriptedConsumer {
    async fn next(&mut self) -> Option<Delivery> {
        let delivery = self.deliveries.recv().await?;
        self.taken.send_modify(|taken| *taken += 1);
        Some(delivery)
    }

    async fn close(&mut self) {
        self.deliveries.close();
        while self.deliveries.try_recv().is_ok() {}
    }
}

#[derive(Debug)]
struct ScriptedSettlement {
    number: usize,
    settled: watch::Sender<Vec<(usize, Settled)>>,
    failures: Arc<Mutex<VecDeque<SettleError>>>,
    loses_dead_letters: Arc<AtomicBool>,
    done: bool,
}

#[async_trait]
impl Settlement for ScriptedSettlement {
    async fn settle(mut self: Box<Self>, refused: Vec<Refused>) -> Result<(), SettleError> {
        self.done = true;
        let loses = !refused.is_empty() && self.loses_dead_letters.load(Ordering::SeqCst);
        let lost = loses.then(|| SettleError::Unavailable {
            reason: "they cannot be kept, as scripted".to_owned(),
            cause: None,
        });
        let (number, failure) = (self.number, lock(&self.failures).pop_front().or(lost));
        let (settled, outcome) = match failure {
            Some(failure) => (Settled::Failed(refused), Err(failure)),
            None => (Settled::Acknowledged(refused), Ok(())),
        };
        self.settled.send_modify(|all| all.push((number, settled)));
        outcome
    }
}

impl Drop for ScriptedSettlement {
    fn drop(&mut self) {
        if !self.done {
            let number = self.number;
            self.settled
                .send_modify(|settled| settled.push((number, Settled::GivenBack)));
        }
    }
}
