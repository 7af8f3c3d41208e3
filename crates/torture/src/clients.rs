//! The clients: they send at a fixed rate whatever is answered, and repeat what is unknown until it is answered.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use fastrand::Rng;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use warren_e2e::http::{Answer, Client};

use crate::ledger::{Ledger, Verdict};
use crate::messages::{Batch, Messages};

/// How long a client waits for one answer.
const DEADLINE: Duration = Duration::from_secs(8);

/// The most requests under way at once. What is due beyond that is not sent: clients have memory too.
const MOST_REQUESTS: usize = 400;

/// The sizes of requests, and how many messages of a hundred travel in them.
const SIZES: [(u64, u64); 4] = [(1, 8), (10, 27), (100, 35), (1_000, 30)];

/// The time between two canaries of one intake.
pub const CANARY_PAUSE: Duration = Duration::from_millis(50);

/// One request in so many is sent again although it was answered with 202.
const AGAIN: u8 = 100;

/// One request in so many has an `Idempotency-Key`, and its messages no ids.
const KEYED: u8 = 20;

/// Everybody who sends.
#[derive(Debug)]
pub struct Clients {
    ledger: Arc<Ledger>,
    /// One address an intake.
    addresses: Vec<SocketAddr>,
    idle: Vec<Mutex<Vec<Client>>>,
    next_message: AtomicU64,
    next_request: AtomicU64,
    next_poison: AtomicU64,
    next_keyed: AtomicU64,
    due: AtomicU64,
    held_back: AtomicU64,
    canaries: Mutex<Vec<Canary>>,
    /// When those were sent that have no answer yet, by their number.
    singing: watch::Sender<BTreeMap<u64, Instant>>,
    /// Canaries without an answer, to be sent again at the end.
    open: Mutex<Vec<Batch>>,
}

/// A single message to one intake, and what came of it.
#[derive(Clone, Copy, Debug)]
pub struct Canary {
    /// Which intake.
    pub instance: usize,
    /// The message.
    pub number: u64,
    /// When it was sent.
    pub sent: Instant,
    /// When the answer was there.
    pub answered: Instant,
    /// The status; none when no whole answer came.
    pub status: Option<u16>,
}

impl Clients {
    /// Prepares clients of the intakes at these addresses.
    pub fn new(ledger: Arc<Ledger>, addresses: Vec<SocketAddr>) -> Self {
        Self {
            ledger,
            idle: addresses.iter().map(|_| Mutex::default()).collect(),
            addresses,
            next_message: AtomicU64::new(0),
            next_request: AtomicU64::new(0),
            next_poison: AtomicU64::new(0),
            next_keyed: AtomicU64::new(0),
            due: AtomicU64::new(0),
            held_back: AtomicU64::new(0),
            canaries: Mutex::default(),
            singing: watch::Sender::default(),
            open: Mutex::default(),
        }
    }

    /// Returns the book.
    pub const fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// Returns how many requests were due.
    pub fn due(&self) -> u64 {
        self.due.load(Ordering::Relaxed)
    }

    /// Returns how many requests were not sent, because too many were under way.
    pub fn held_back(&self) -> u64 {
        self.held_back.load(Ordering::Relaxed)
    }

    /// Returns how many messages have been dealt out.
    pub fn dealt(&self) -> u64 {
        self.next_message.load(Ordering::Relaxed)
    }

    fn batch(&self, size: u64) -> Batch {
        let begin = self.next_message.fetch_add(size, Ordering::Relaxed);
        self.ledger.messages().batch(self.request(), begin..begin + size)
    }

    fn keyed_batch(&self, size: u64) -> Batch {
        let begin = self.next_keyed.fetch_add(size, Ordering::Relaxed);
        let own = begin..begin + size;
        self.ledger.messages().keyed_batch(self.request(), own)
    }

    fn request(&self) -> u64 {
        self.next_request.fetch_add(1, Ordering::Relaxed)
    }

    /// Sends `rate` messages a second until `stop`, then settles what is under way.
    ///
    /// # Errors
    /// A request was not answered for good within `patience` after `stop`.
    pub async fn run(
        self: &Arc<Self>,
        seed: u64,
        rate: u64,
        stop: &CancellationToken,
        patience: Duration,
    ) -> Result<()> {
        let room = Arc::new(Semaphore::new(MOST_REQUESTS));
        let mut lanes = JoinSet::new();
        for (size, share) in SIZES {
            let (clients, room, stop) = (Arc::clone(self), Arc::clone(&room), stop.clone());
            let rng = Rng::with_seed(seed ^ size);
            let pause = Duration::from_secs_f64(size as f64 * 100.0 / (rate * share) as f64);
            lanes.spawn(async move { clients.lane(size, pause, rng, &room, &stop, patience).await });
        }
        while let Some(ended) = lanes.join_next().await {
            ended??;
        }
        Ok(())
    }

    async fn lane(
        self: Arc<Self>,
        size: u64,
        pause: Duration,
        mut rng: Rng,
        room: &Arc<Semaphore>,
        stop: &CancellationToken,
        patience: Duration,
    ) -> Result<()> {
        let mut due = interval(pause);
        let mut requests = JoinSet::new();
        loop {
            tokio::select! {
                _ = due.tick() => {}
                Some(ended) = requests.join_next() => {
                    ended??;
                    continue;
                }
                () = stop.cancelled() => break,
            }
            self.due.fetch_add(1, Ordering::Relaxed);
            let Ok(permit) = Arc::clone(room).try_acquire_owned() else {
                self.held_back.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            let (clients, rng, stop) = (Arc::clone(&self), rng.fork(), stop.clone());
            requests.spawn(async move {
                let _permit = permit;
                let mut rng = rng;
                let batch = match rng.u8(..KEYED) {
                    0 => clients.keyed_batch(size),
                    _ => clients.batch(size),
                };
                clients.settle(&batch, rng, &stop, patience).await
            });
        }
        while let Some(ended) = requests.join_next().await {
            ended??;
        }
        Ok(())
    }

    /// Sends one request to any intake until it is answered for good.
    async fn settle(
        &self,
        batch: &Batch,
        mut rng: Rng,
        stop: &CancellationToken,
        patience: Duration,
    ) -> Result<()> {
        let mut times = if rng.u8(..AGAIN) == 0 { 2 } else { 1 };
        let mut deadline = None;
        loop {
            let instance = rng.usize(..self.addresses.len());
            let answer = self.send(instance, batch).await;
            match self.ledger.answered(batch, instance, &answer) {
                Verdict::Done => {
                    times -= 1;
                    if times == 0 {
                        return Ok(());
                    }
                }
                Verdict::Again(wait) => {
                    if stop.is_cancelled()
                        && Instant::now() > *deadline.get_or_insert_with(|| Instant::now() + patience)
                    {
                        let last = match answer {
                            Ok(answer) => format!("{} {}", answer.status, answer.text_start()),
                            Err(error) => format!("{error:#}"),
                        };
                        bail!(
                            "request {} found no answer within {patience:?}; last: {last}",
                            batch.request
                        );
                    }
                    sleep(wait.mul_f64(rng.f64().mul_add(0.5, 0.5))).await;
                }
            }
        }
    }

    async fn send(&self, instance: usize, batch: &Batch) -> Result<Answer> {
        let request = self.ledger.messages().request(batch)?;
        let idle = || self.idle[instance].lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle().pop();
        let mut client =
            kept.unwrap_or_else(|| Client::new(self.addresses[instance]).with_deadline(DEADLINE));
        self.ledger.sent(batch);
        let answer = client.send(&request).await;
        if answer.is_ok() {
            idle().push(client);
        }
        answer
    }

    /// Posts messages that the database refuses for ever, each among good ones.
    ///
    /// # Errors
    /// They found no answer within 30 s.
    pub async fn post_poison(&self, count: u64) -> Result<()> {
        for _ in 0..count {
            let mut batch = self.batch(20);
            let poison = Messages::poison(self.next_poison.fetch_add(1, Ordering::Relaxed));
            batch.numbers.insert(7, poison);
            let (rng, stop) = (Rng::with_seed(poison), CancellationToken::new());
            stop.cancel();
            self.settle(&batch, rng, &stop, Duration::from_secs(30)).await?;
        }
        Ok(())
    }

    /// Sends single messages to each intake at short intervals, each once, until `stop`.
    pub async fn sing(self: &Arc<Self>, stop: &CancellationToken) {
        let mut due = interval(CANARY_PAUSE);
        let mut canaries = JoinSet::new();
        let room = Arc::new(Semaphore::new(MOST_REQUESTS));
        while !stop.is_cancelled() {
            due.tick().await;
            while canaries.try_join_next().is_some() {}
            for instance in 0..self.addresses.len() {
                let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
                    continue;
                };
                let clients = Arc::clone(self);
                canaries.spawn(async move {
                    let _permit = permit;
                    clients.canary(instance).await;
                });
            }
        }
        canaries.join_all().await;
    }

    async fn canary(&self, instance: usize) {
        let batch = loop {
            let batch = self.batch(1);
            if !self.ledger.messages().is_bad(batch.numbers[0]) {
                break batch;
            }
        };
        let sent = Instant::now();
        self.singing.send_modify(|singing| {
            singing.insert(batch.numbers[0], sent);
        });
        let answer = self.send(instance, &batch).await;
        let canary = Canary {
            instance,
            number: batch.numbers[0],
            sent,
            answered: Instant::now(),
            status: answer.as_ref().ok().map(|answer| answer.status),
        };
        let verdict = self.ledger.answered(&batch, instance, &answer);
        if verdict != Verdict::Done {
            lock(&self.open).push(batch);
        }
        lock(&self.canaries).push(canary);
        self.singing.send_modify(|singing| {
            singing.remove(&canary.number);
        });
    }

    /// Waits until every canary that was sent before a moment is answered or given up.
    ///
    /// # Errors
    /// One of them is neither, long after it should have been given up.
    pub async fn canaries_before(&self, moment: Instant) -> Result<()> {
        let none = |singing: &BTreeMap<u64, Instant>| singing.values().all(|sent| *sent >= moment);
        let mut singing = self.singing.subscribe();
        timeout(DEADLINE * 2, singing.wait_for(none))
            .await
            .context("a canary is neither answered nor given up")??;
        Ok(())
    }

    /// Sends the canaries again that found no answer, until they do.
    ///
    /// # Errors
    /// One of them found none within `patience`.
    pub async fn settle_canaries(self: &Arc<Self>, patience: Duration) -> Result<()> {
        let open = std::mem::take(&mut *lock(&self.open));
        let stop = CancellationToken::new();
        stop.cancel();
        let room = Arc::new(Semaphore::new(32));
        let mut requests = JoinSet::new();
        for batch in open {
            let (clients, stop, room) = (Arc::clone(self), stop.clone(), Arc::clone(&room));
            requests.spawn(async move {
                let _permit = room.acquire_owned().await?;
                clients
                    .settle(&batch, Rng::with_seed(batch.request), &stop, patience)
                    .await
            });
        }
        while let Some(ended) = timeout(patience * 4, requests.join_next()).await? {
            ended??;
        }
        Ok(())
    }

    /// Returns the canaries of one intake that were sent at or after a moment.
    pub fn canaries_since(&self, instance: usize, moment: Instant) -> Vec<Canary> {
        let canaries = lock(&self.canaries);
        let of = |canary: &&Canary| canary.instance == instance && canary.sent >= moment;
        canaries.iter().filter(of).copied().collect()
    }

    /// Returns the canaries of one intake that were answered at or after a moment, whenever they were sent.
    pub fn answers_since(&self, instance: usize, moment: Instant) -> Vec<Canary> {
        let canaries = lock(&self.canaries);
        let of = |canary: &&Canary| canary.instance == instance && canary.answered >= moment;
        canaries.iter().filter(of).copied().collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
