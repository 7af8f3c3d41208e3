//! What the store loop does, and says of itself, when something goes wrong.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use warren_adapter_conformance::PATIENCE;
use warren_adapter_conformance::samples::messages;
use warren_adapter_conformance::scripted::{
    ScriptedConsumer, ScriptedHealth, ScriptedStore, Settled, scripted_queue,
};
use warren_domain::ports::{Cause, Delivery, HealthCheck, MessageConsumer, SettleError};
use warren_pipeline::{StoreLoop, WorkerConfig};

use crate::recorder::Recorded;
use crate::store_loop::{Running, acknowledged, quick, run, unavailable};

const PAUSED: &str = "warren_store_paused";
const DEAD: &str = "warren_store_dead_lettered_messages_total";

/// One delivery a batch.
fn one_by_one() -> WorkerConfig {
    WorkerConfig {
        batch_deliveries: 1,
        ..quick()
    }
}

async fn until_paused(running: &Running) -> String {
    loop {
        match running.health.check().await {
            Err(unhealthy) if unhealthy.0.contains("paused") => return unhealthy.0,
            _ => tokio::task::yield_now().await,
        }
    }
}

async fn until_well(running: &Running) {
    let waiting = async {
        while running.health.check().await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, waiting).await.expect("the loop is well again");
}

#[tokio::test]
async fn a_store_that_comes_back_with_a_refusal_is_back() {
    let recorded = Recorded::default();
    let _recording = metrics::set_default_local_recorder(&recorded);
    let store = ScriptedStore::new([unavailable(), unavailable()]);
    let mut running = run(store.clone(), quick());
    let sent = messages(1);
    store.refuse(sent[0].id);
    running.queue.feed(sent).await;
    running.queue.until_settled(1).await;
    until_well(&running).await;
    assert_eq!(recorded.gauge(PAUSED), 0.0);
    running.stopped().await;
    assert_eq!(recorded.count(DEAD), 1);
}

#[tokio::test]
async fn while_one_batch_waits_for_the_store_another_does_not_call_it_back() {
    let recorded = Recorded::default();
    let _recording = metrics::set_default_local_recorder(&recorded);
    let store = ScriptedStore::new([]);
    let mut running = run(store.clone(), one_by_one());
    let (one, other) = (messages(1), messages(1));
    let ids = [one[0].id, other[0].id];
    ids.iter().for_each(|id| store.hold_off(*id));
    running.queue.feed(one).await;
    running.queue.feed(other).await;
    store.called(8).await;
    until_paused(&running).await;
    store.let_in(ids[0]);
    assert_eq!(acknowledged(&running.queue.until_settled(1).await), 1);
    assert!(running.health.check().await.is_err());
    assert_eq!(recorded.gauge(PAUSED), 1.0);
    store.let_in(ids[1]);
    running.queue.until_settled(2).await;
    until_well(&running).await;
    assert_eq!(recorded.gauge(PAUSED), 0.0);
    running.stopped().await;
}

#[tokio::test]
async fn after_giving_back_it_pauses_and_is_well_again_once_it_consumes() {
    let recorded = Recorded::default();
    let _recording = metrics::set_default_local_recorder(&recorded);
    let store = ScriptedStore::new([]);
    let config = WorkerConfig {
        give_back_after: Duration::from_millis(20),
        retry_max: Duration::from_millis(500),
        ..quick()
    };
    let mut running = run(store.clone(), config);
    let (second, consumer) = scripted_queue();
    running.later.lock().unwrap().push_back(consumer);
    let sent = messages(1);
    store.hold_off(sent[0].id);
    running.queue.feed(sent.clone()).await;
    assert_eq!(running.queue.until_settled(1).await, [(0, Settled::GivenBack)]);
    let given_back = Instant::now();
    // The store's health is well, as that of a database is whose disk is full.
    assert!(running.health.check().await.is_err());
    store.let_in(sent[0].id);
    let mut second = second;
    second.feed(sent).await;
    assert_eq!(acknowledged(&second.until_settled(1).await), 1);
    assert!(given_back.elapsed() >= Duration::from_millis(40), "not at once");
    until_well(&running).await;
    assert_eq!(recorded.gauge(PAUSED), 0.0);
    running.stopped().await;
}

#[tokio::test]
async fn a_store_that_panics_costs_a_redelivery_and_a_pause() {
    let recorded = Recorded::default();
    let _recording = metrics::set_default_local_recorder(&recorded);
    let store = ScriptedStore::new([unavailable()]);
    let config = WorkerConfig {
        retry_min: Duration::from_millis(400),
        retry_max: Duration::from_millis(400),
        ..quick()
    };
    let mut running = run(store.clone(), config);
    let sent = messages(1);
    store.panic_over(sent[0].id);
    running.queue.feed(sent.clone()).await;
    assert_eq!(running.queue.until_settled(1).await, [(0, Settled::GivenBack)]);
    let given_back = Instant::now();
    running.queue.feed(sent).await;
    assert_eq!(acknowledged(&running.queue.until_settled(2).await), 1);
    assert!(given_back.elapsed() >= Duration::from_millis(35), "not at once");
    until_well(&running).await;
    assert_eq!(recorded.gauge(PAUSED), 0.0);
    running.stopped().await;
}

#[tokio::test]
async fn a_dead_letter_that_is_not_kept_is_not_counted_and_its_delivery_comes_again_after_a_pause() {
    let recorded = Recorded::default();
    let _recording = metrics::set_default_local_recorder(&recorded);
    let store = ScriptedStore::new([]);
    let config = WorkerConfig {
        retry_min: Duration::from_millis(400),
        retry_max: Duration::from_millis(400),
        ..quick()
    };
    let mut running = run(store.clone(), config);
    let sent = messages(2);
    store.refuse(sent[1].id);
    running.queue.fail_settlements([SettleError::Unavailable {
        reason: "as scripted".to_owned(),
        cause: None,
    }]);
    running.queue.feed(sent.clone()).await;
    let settled = running.queue.until_settled(1).await;
    assert!(matches!(&settled[..], [(0, Settled::Failed(refused))] if refused.len() == 1));
    let failed = Instant::now();
    assert_eq!(recorded.count(DEAD), 0);
    running.queue.feed(sent).await;
    running.queue.until_settled(2).await;
    assert!(failed.elapsed() >= Duration::from_millis(35), "not at once");
    running.stopped().await;
    assert_eq!(recorded.count(DEAD), 1);
}

#[tokio::test]
async fn a_consumer_that_ends_is_replaced_and_what_it_yielded_is_stored() {
    let store = ScriptedStore::new([]);
    let mut running = run(store.clone(), quick());
    let (mut second, consumer) = scripted_queue();
    running.later.lock().unwrap().push_back(consumer);
    running.queue.feed(messages(3)).await;
    let first = std::mem::replace(&mut running.queue, scripted_queue().0);
    first.until_settled(1).await;
    // The first consumer's queue is gone for good.
    drop(first);
    second.feed(messages(4)).await;
    assert_eq!(acknowledged(&second.until_settled(1).await), 1);
    assert_eq!(store.rows().len(), 7);
    running.stopped().await;
}

/// A consumer that cannot be closed.
#[derive(Debug)]
struct Stuck(ScriptedConsumer);

#[async_trait]
impl MessageConsumer for Stuck {
    async fn next(&mut self) -> Option<Delivery> {
        self.0.next().await
    }

    async fn close(&mut self) {
        std::future::pending::<()>().await;
    }
}

#[tokio::test]
async fn what_is_held_is_stored_although_the_consumer_does_not_close() {
    let store = ScriptedStore::new([]);
    let (mut queue, consumer) = scripted_queue();
    let consumer = std::sync::Mutex::new(Some(consumer));
    let subscribe = move || -> Result<Box<dyn MessageConsumer>, Cause> {
        Ok(Box::new(Stuck(consumer.lock().unwrap().take().unwrap())))
    };
    let config = WorkerConfig {
        batch_wait: Duration::from_secs(600),
        ..quick()
    };
    let health: Arc<dyn HealthCheck> = ScriptedHealth::healthy("store");
    let store_loop = StoreLoop::new(subscribe, store.clone(), health, config);
    let stop = CancellationToken::new();
    let run = tokio::spawn(store_loop.run(stop.clone()));
    queue.feed(messages(7)).await;
    queue.until_taken(1).await;
    stop.cancel();
    timeout(PATIENCE, run).await.expect("the loop ends").unwrap();
    assert_eq!(acknowledged(&queue.settled()), 1);
    assert_eq!(store.rows().len(), 7);
}
