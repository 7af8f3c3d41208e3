use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use warren_adapter_conformance::PATIENCE;
use warren_adapter_conformance::samples::{assert_same_messages, messages};
use warren_adapter_conformance::scripted::{
    ScriptedConsumer, ScriptedHealth, ScriptedQueue, ScriptedStore, Settled, scripted_queue,
};
use warren_domain::Message;
use warren_domain::ports::{Cause, HealthCheck, MessageConsumer, StoreError};
use warren_pipeline::{StoreLoop, WorkerConfig, WorkerHealth};

pub(crate) struct Running {
    pub(crate) queue: ScriptedQueue,
    pub(crate) later: Arc<Mutex<VecDeque<ScriptedConsumer>>>,
    pub(crate) store_health: Arc<ScriptedHealth>,
    pub(crate) health: WorkerHealth,
    pub(crate) stop: CancellationToken,
    pub(crate) run: JoinHandle<()>,
}

impl Running {
    pub(crate) async fn stopped(self) -> ScriptedQueue {
        self.stop.cancel();
        timeout(PATIENCE, self.run).await.expect("the loop ends").unwrap();
        self.queue
    }
}

pub(crate) fn quick() -> WorkerConfig {
    WorkerConfig {
        retry_min: Duration::from_millis(1),
        retry_max: Duration::from_millis(5),
        drain_timeout: Duration::from_millis(200),
        ..WorkerConfig::default()
    }
}

pub(crate) fn run(store: Arc<ScriptedStore>, config: WorkerConfig) -> Running {
    let (queue, consumer) = scripted_queue();
    let later = Arc::new(Mutex::new(VecDeque::from([consumer])));
    let store_health = ScriptedHealth::healthy("store");
    let consumers = Arc::clone(&later);
    let subscribe = move || -> Result<Box<dyn MessageConsumer>, Cause> {
        let consumer = consumers.lock().unwrap().pop_front();
        Ok(Box::new(consumer.expect("the test has foreseen a subscription")))
    };
    let store_loop = StoreLoop::new(subscribe, store, store_health.clone(), config);
    let (health, stop) = (store_loop.health(), CancellationToken::new());
    let run = tokio::spawn(store_loop.run(stop.clone()));
    Running {
        queue,
        later,
        store_health,
        health,
        stop,
        run,
    }
}

pub(crate) fn unavailable() -> StoreError {
    StoreError::Unavailable {
        reason: "as scripted".to_owned(),
        cause: None,
    }
}

pub(crate) fn acknowledged(settled: &[(usize, Settled)]) -> usize {
    settled
        .iter()
        .filter(|(_, outcome)| *outcome == Settled::Acknowledged(Vec::new()))
        .count()
}

#[tokio::test]
async fn a_delivery_is_acknowledged_after_it_is_stored() {
    let store = ScriptedStore::new([]);
    let mut running = run(store.clone(), quick());
    let sent = messages(25);
    for delivery in sent.chunks(5) {
        running.queue.feed(delivery.to_vec()).await;
    }
    let settled = running.queue.until_settled(5).await;
    assert_eq!(acknowledged(&settled), 5);
    assert_same_messages(&store.rows(), &sent);
    running.stopped().await;
}

#[tokio::test]
async fn a_store_that_is_away_is_waited_for_and_nothing_is_acknowledged_meanwhile() {
    let store = ScriptedStore::new((0..20).map(|_| unavailable()));
    let mut running = run(store.clone(), quick());
    running.queue.feed(messages(3)).await;
    store.called(10).await;
    assert_eq!(running.queue.settled(), []);
    assert!(
        running
            .health
            .check()
            .await
            .unwrap_err()
            .to_string()
            .contains("as scripted")
    );
    let settled = running.queue.until_settled(1).await;
    assert_eq!(acknowledged(&settled), 1);
    assert_eq!(running.health.check().await, Ok(()));
    assert_eq!(store.rows().len(), 3);
    running.stopped().await;
}

#[tokio::test]
async fn a_row_that_the_store_refuses_costs_its_neighbours_nothing() {
    let store = ScriptedStore::new([]);
    let mut running = run(store.clone(), quick());
    let sent = messages(500);
    let bad: Vec<&Message> = vec![&sent[0], &sent[137], &sent[138], &sent[499]];
    bad.iter().for_each(|message| store.refuse(message.id));
    for delivery in sent.chunks(100) {
        running.queue.feed(delivery.to_vec()).await;
    }
    let settled = running.queue.until_settled(5).await;
    let mut dead = Vec::new();
    for (number, outcome) in settled {
        let Settled::Acknowledged(refused) = outcome else {
            panic!("a delivery was given back")
        };
        for refused in refused {
            assert_eq!(
                (refused.reason.code, refused.reason.detail.as_str()),
                ("refused_by_store", "as scripted")
            );
            dead.push(sent[number * 100 + refused.index].clone());
        }
    }
    assert_same_messages(&dead, &bad.into_iter().cloned().collect::<Vec<_>>());
    assert_eq!(store.rows().len(), 496);
    running.stopped().await;
}

#[tokio::test]
async fn nothing_is_consumed_before_the_store_answers() {
    let store = ScriptedStore::new([]);
    let (mut queue, consumer) = scripted_queue();
    queue.feed(messages(1)).await;
    let store_health = ScriptedHealth::healthy("store");
    store_health.set(Err("starting"));
    let slot = Mutex::new(Some(consumer));
    let subscribed = Arc::new(Mutex::new(false));
    let seen = Arc::clone(&subscribed);
    let subscribe = move || -> Result<Box<dyn MessageConsumer>, Cause> {
        *seen.lock().unwrap() = true;
        Ok(Box::new(slot.lock().unwrap().take().unwrap()))
    };
    let store_loop = StoreLoop::new(subscribe, store.clone(), store_health.clone(), quick());
    let (health, stop) = (store_loop.health(), CancellationToken::new());
    let run = tokio::spawn(store_loop.run(stop.clone()));
    while !health.check().await.unwrap_err().to_string().contains("starting") {
        tokio::task::yield_now().await;
    }
    assert!(!*subscribed.lock().unwrap());
    store_health.set(Ok(()));
    assert_eq!(acknowledged(&queue.until_settled(1).await), 1);
    stop.cancel();
    run.await.unwrap();
}

#[tokio::test]
async fn after_a_long_outage_deliveries_go_back_until_the_store_answers() {
    let store = ScriptedStore::new((0..1_000).map(|_| unavailable()));
    let mut running = run(
        store,
        WorkerConfig {
            give_back_after: Duration::from_millis(30),
            ..quick()
        },
    );
    running.store_health.set(Ok(()));
    // The loop subscribes anew after it has given back: by then a second consumer must be there.
    let (second, consumer) = scripted_queue();
    running.later.lock().unwrap().push_back(consumer);
    running.queue.feed(messages(2)).await;
    assert_eq!(running.queue.until_settled(1).await, [(0, Settled::GivenBack)]);
    running.stopped().await;
    drop(second);
}

#[tokio::test]
async fn a_stopping_worker_finishes_what_it_holds() {
    let store = ScriptedStore::new([]);
    let mut running = run(
        store.clone(),
        WorkerConfig {
            batch_wait: Duration::from_secs(600),
            ..quick()
        },
    );
    running.queue.feed(messages(7)).await;
    // Held because the batch may still grow for ten minutes; the stop ends that.
    running.queue.until_taken(1).await;
    let queue = running.stopped().await;
    assert_eq!(acknowledged(&queue.settled()), 1);
    assert_eq!(store.rows().len(), 7);
}

#[tokio::test]
async fn a_stopping_worker_gives_back_what_it_cannot_store_in_time() {
    let store = ScriptedStore::new((0..100_000).map(|_| unavailable()));
    let mut running = run(store.clone(), quick());
    running.queue.feed(messages(7)).await;
    store.called(1).await;
    let queue = running.stopped().await;
    assert_eq!(queue.settled(), [(0, Settled::GivenBack)]);
}
