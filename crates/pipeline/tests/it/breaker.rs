//! What the store loop does when suddenly many rows are refused: holds them, says so, and goes on by itself.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use warren_adapter_conformance::PATIENCE;
use warren_adapter_conformance::samples::messages;
use warren_adapter_conformance::scripted::{ScriptedStore, Settled, scripted_queue};
use warren_domain::Message;
use warren_domain::ports::{HealthCheck, SettleError};
use warren_pipeline::WorkerConfig;

use crate::recorder::Recorded;
use crate::store_loop::{Running, acknowledged, quick, run};

const OPEN: &str = "warren_store_breaker_open";
const TRIPS: &str = "warren_store_breaker_trips_total";
const DEAD: &str = "warren_store_dead_lettered_messages_total";
const STORED: &str = "warren_store_inserted_messages_total";
const DUPLICATES: &str = "warren_store_duplicate_messages_total";

async fn until_held(running: &Running) -> String {
    let waiting = async {
        loop {
            match running.health.check().await {
                Err(unhealthy) if unhealthy.0.contains("suddenly refuses") => return unhealthy.0,
                _ => tokio::task::yield_now().await,
            }
        }
    };
    timeout(PATIENCE, waiting).await.expect("the loop holds")
}

async fn until_well(running: &Running) {
    let waiting = async {
        while running.health.check().await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, waiting).await.expect("the loop is well again");
}

fn dead(settled: &[(usize, Settled)]) -> usize {
    let refused = settled.iter().map(|(_, outcome)| match outcome {
        Settled::Acknowledged(refused) | Settled::Failed(refused) => refused.len(),
        Settled::GivenBack => 0,
    });
    refused.sum()
}

fn stored(store: &Arc<ScriptedStore>) -> HashSet<warren_domain::MessageId> {
    store.rows().into_iter().map(|message| message.id).collect()
}

#[tokio::test]
async fn a_store_that_suddenly_refuses_everything_makes_no_dead_letters_and_is_waited_for() {
    let recorded = Recorded::default();
    let _recording = metrics::set_default_local_recorder(&recorded);
    let store = ScriptedStore::new([]);
    let mut running = run(store.clone(), quick());
    running.queue.feed(messages(500)).await;
    running.queue.until_settled(1).await;
    store.refuse_all(true);
    for _ in 0..4 {
        running.queue.feed(messages(500)).await;
    }
    let reason = until_held(&running).await;
    assert!(reason.contains("as scripted"), "{reason}");
    assert!(reason.contains("worker.breaker_refused"), "{reason}");
    assert_eq!((recorded.gauge(OPEN), recorded.count(TRIPS)), (1.0, 1));
    // Many tries later nothing is settled, and nothing a dead letter.
    let calls = store.calls();
    store.called(calls + 20).await;
    assert_eq!(running.queue.settled().len(), 1);
    assert!(running.health.check().await.is_err());
    store.refuse_all(false);
    let settled = running.queue.until_settled(5).await;
    assert_eq!((acknowledged(&settled), dead(&settled)), (5, 0));
    until_well(&running).await;
    assert_eq!(recorded.gauge(OPEN), 0.0);
    running.stopped().await;
    assert_eq!(recorded.count(DEAD), 0);
    assert_eq!(recorded.count(STORED), 2_500);
    assert_eq!(store.rows().len(), 2_500);
}

#[tokio::test]
async fn a_few_poison_rows_are_no_alarm_however_large_their_share() {
    let store = ScriptedStore::new([]);
    let mut running = run(store.clone(), quick());
    for _ in 0..5 {
        let batch = messages(10);
        store.refuse(batch[3].id);
        running.queue.feed(batch).await;
    }
    let settled = running.queue.until_settled(5).await;
    assert_eq!((dead(&settled), store.rows().len()), (5, 45));
    until_well(&running).await;
    running.stopped().await;
}

#[tokio::test]
async fn many_poison_rows_are_no_alarm_while_their_share_is_small() {
    let store = ScriptedStore::new([]);
    let mut running = run(store.clone(), quick());
    let sent = messages(10_000);
    sent.iter()
        .step_by(150)
        .skip(1)
        .for_each(|message| store.refuse(message.id));
    for delivery in sent.chunks(500) {
        running.queue.feed(delivery.to_vec()).await;
    }
    let settled = running.queue.until_settled(20).await;
    assert_eq!((dead(&settled), store.rows().len()), (66, 9_934));
    running.stopped().await;
}

#[tokio::test]
async fn after_hours_of_good_messages_many_refusals_in_a_row_are_an_alarm_all_the_same() {
    let store = ScriptedStore::new([]);
    let config = WorkerConfig {
        breaker_refused: 5,
        breaker_share: 0.5,
        ..quick()
    };
    let mut running = run(store.clone(), config);
    running.queue.feed(messages(5_000)).await;
    running.queue.until_settled(1).await;
    store.refuse_all(true);
    // One at a time, as they come to a quiet system.
    for number in 0..5 {
        running.queue.feed(messages(1)).await;
        running.queue.until_settled(2 + number).await;
    }
    running.queue.feed(messages(1)).await;
    until_held(&running).await;
    assert_eq!(dead(&running.queue.settled()), 5);
    store.refuse_all(false);
    running.queue.until_settled(7).await;
    assert_eq!(dead(&running.queue.settled()), 5);
    running.stopped().await;
}

#[tokio::test]
async fn a_real_poison_row_among_what_was_refused_keeps_nothing_back_and_is_a_dead_letter_at_last() {
    let recorded = Recorded::default();
    let _recording = metrics::set_default_local_recorder(&recorded);
    let store = ScriptedStore::new([]);
    let mut running = run(store.clone(), quick());
    let sent: Vec<Message> = messages(300);
    // The first one that is tried again is poison of its own, so that another one has to open the way.
    let poison = [0, 1, 2, 250].map(|place| sent[place].id);
    poison.iter().for_each(|id| store.refuse(*id));
    store.refuse_all(true);
    running.queue.feed(sent.clone()).await;
    until_held(&running).await;
    store.refuse_all(false);
    let settled = running.queue.until_settled(1).await;
    let Settled::Acknowledged(refused) = &settled[0].1 else {
        panic!("given back")
    };
    let places: Vec<_> = refused.iter().map(|refused| refused.index).collect();
    assert_eq!(places, [0, 1, 2, 250]);
    assert_eq!(stored(&store).len(), 296);
    running.stopped().await;
    assert_eq!(recorded.count(DEAD), 4);
    // Also the one that opened the way is counted once.
    assert_eq!((recorded.count(STORED), recorded.count(DUPLICATES)), (296, 0));
}

#[tokio::test]
async fn what_is_held_goes_back_once_and_is_not_consumed_again_before_the_store_takes_it() {
    let store = ScriptedStore::new([]);
    let config = WorkerConfig {
        give_back_after: Duration::from_millis(50),
        ..quick()
    };
    let mut running = run(store.clone(), config);
    let (mut second, consumer) = scripted_queue();
    let sent = messages(200);
    store.refuse_all(true);
    running.queue.feed(sent.clone()).await;
    assert_eq!(running.queue.until_settled(1).await, [(0, Settled::GivenBack)]);
    // The store's own health is well all the time; only what it refused tells.
    let calls = store.calls();
    store.called(calls + 20).await;
    running.later.lock().unwrap().push_back(consumer);
    until_held(&running).await;
    store.refuse_all(false);
    second.feed(sent).await;
    let settled = second.until_settled(1).await;
    assert_eq!((acknowledged(&settled), dead(&settled)), (1, 0));
    assert_eq!(store.rows().len(), 200);
    running.stopped().await;
}

#[tokio::test]
async fn good_batches_go_on_while_another_holds_what_is_refused() {
    let store = ScriptedStore::new([]);
    let config = WorkerConfig {
        batch_deliveries: 1,
        ..quick()
    };
    let mut running = run(store.clone(), config);
    let refused = messages(100);
    refused.iter().for_each(|message| store.refuse(message.id));
    running.queue.feed(refused.clone()).await;
    until_held(&running).await;
    for _ in 0..10 {
        running.queue.feed(messages(100)).await;
    }
    let settled = running.queue.until_settled(10).await;
    assert_eq!((acknowledged(&settled), dead(&settled)), (10, 0));
    assert!(running.health.check().await.is_err());
    refused.iter().for_each(|message| store.accept(message.id));
    running.queue.until_settled(11).await;
    assert_eq!(store.rows().len(), 1_100);
    running.stopped().await;
}

#[tokio::test]
async fn whoever_runs_it_can_have_everything_dead_lettered() {
    let recorded = Recorded::default();
    let _recording = metrics::set_default_local_recorder(&recorded);
    let store = ScriptedStore::new([]);
    let config = WorkerConfig {
        breaker_refused: 0,
        ..quick()
    };
    let mut running = run(store.clone(), config);
    store.refuse_all(true);
    running.queue.feed(messages(300)).await;
    let settled = running.queue.until_settled(1).await;
    assert_eq!(dead(&settled), 300);
    running.stopped().await;
    assert_eq!((recorded.count(DEAD), recorded.count(TRIPS)), (300, 0));
}

#[tokio::test]
async fn a_store_that_goes_away_while_refused_rows_are_held_is_waited_for_too() {
    let store = ScriptedStore::new([]);
    let mut running = run(store.clone(), quick());
    let sent = messages(100);
    store.refuse_all(true);
    running.queue.feed(sent.clone()).await;
    until_held(&running).await;
    sent.iter().for_each(|message| store.hold_off(message.id));
    let calls = store.calls();
    store.called(calls + 10).await;
    store.refuse_all(false);
    assert_eq!(running.queue.settled(), []);
    sent.iter().for_each(|message| store.let_in(message.id));
    let settled = running.queue.until_settled(1).await;
    assert_eq!((acknowledged(&settled), store.rows().len()), (1, 100));
    running.stopped().await;
}

#[tokio::test]
async fn poison_that_comes_again_and_again_because_its_letters_cannot_be_written_is_counted_once() {
    let recorded = Recorded::default();
    let _recording = metrics::set_default_local_recorder(&recorded);
    let store = ScriptedStore::new([]);
    let mut running = run(store.clone(), quick());
    let poison = messages(11);
    poison.iter().for_each(|message| store.refuse(message.id));
    let away = || SettleError::Unavailable {
        reason: "as scripted".to_owned(),
        cause: None,
    };
    running.queue.fail_settlements((0..10).map(|_| away()));
    for round in 1..=11 {
        running.queue.feed(poison.clone()).await;
        running.queue.until_settled(round).await;
    }
    until_well(&running).await;
    running.queue.feed(messages(10)).await;
    let settled = running.queue.until_settled(12).await;
    assert_eq!(acknowledged(&settled), 1);
    running.stopped().await;
    assert_eq!((recorded.count(TRIPS), recorded.count(DEAD)), (0, 11));
}

#[tokio::test]
async fn however_much_of_what_is_held_is_poison_one_good_row_among_it_opens_the_way() {
    let store = ScriptedStore::new([]);
    let config = WorkerConfig {
        batch_deliveries: 1,
        ..quick()
    };
    let mut running = run(store.clone(), config);
    let batches = [messages(51), messages(51)];
    store.refuse_all(true);
    for batch in &batches {
        let good = &batch[40];
        let poison = batch.iter().filter(|message| message.id != good.id);
        poison.for_each(|message| store.refuse(message.id));
        running.queue.feed(batch.clone()).await;
    }
    until_held(&running).await;
    let calls = store.calls();
    store.called(calls + 20).await;
    store.refuse_all(false);
    let both_good = async {
        while store.rows().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, both_good)
        .await
        .expect("a good one of those that are held is tried");
    running.stopped().await;
}
