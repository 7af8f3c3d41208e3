use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Mutex, Semaphore, watch};
use tokio::time::{sleep, timeout};
use warren_adapter_conformance::scripted::{
    PublishStep, ScriptedConsumer, ScriptedHealth, ScriptedPublisher, ScriptedQueue, Settled, scripted_queue,
};
use warren_domain::ports::{
    Delivery, GroupLag, HealthCheck, Lag, MessageConsumer, MessagePublisher, PublishError, SettleError,
    Unhealthy, Unpublished,
};
use warren_domain::{Draft, Message, MessageId, MessageLimits, Rejection, Timestamp, TraceContext};
use warren_pipeline::{Intake, Receipt, Spool, SpoolHealth, SpoolPorts};

use crate::recorder::Recorded;

const PATIENCE: Duration = Duration::from_secs(30);

/// The queue of a spool in memory: what it takes comes out of its consumer, and waits until then.
#[derive(Debug)]
struct Log {
    script: Arc<ScriptedPublisher>,
    queue: Mutex<ScriptedQueue>,
    waiting: AtomicUsize,
    /// It cannot be told what waits.
    unreadable: AtomicBool,
    asked: watch::Sender<usize>,
    /// What putting by waits for.
    door: Semaphore,
}

#[async_trait]
impl MessagePublisher for Log {
    async fn publish(&self, messages: Vec<Message>, trace: Option<TraceContext>) -> Result<(), Unpublished> {
        let _open = self.door.acquire().await.unwrap();
        let mut kept = messages.clone();
        let outcome = self.script.publish(messages, trace).await;
        if let Err(unpublished) = &outcome {
            for (place, _) in unpublished.errors.iter().rev() {
                kept.remove(*place);
            }
        }
        if !kept.is_empty() {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            self.queue.lock().await.feed(kept).await;
        }
        outcome
    }
}

#[async_trait]
impl GroupLag for Log {
    async fn lag(&self) -> Result<Lag, Unhealthy> {
        self.asked.send_modify(|asked| *asked += 1);
        if self.unreadable.load(Ordering::SeqCst) {
            return Err(Unhealthy("spool.db cannot be read".to_owned()));
        }
        Ok(Lag {
            packets: self.waiting.load(Ordering::SeqCst) as u64,
            ..Lag::default()
        })
    }
}

/// The way out of a [`Log`], with no more than so many deliveries out at a time.
#[derive(Debug)]
struct Prefetching {
    deliveries: ScriptedConsumer,
    log: Arc<Log>,
    settled: watch::Receiver<Vec<(usize, Settled)>>,
    given: usize,
    prefetch: usize,
}

#[async_trait]
impl MessageConsumer for Prefetching {
    async fn next(&mut self) -> Option<Delivery> {
        let (given, prefetch) = (self.given, self.prefetch);
        self.settled
            .wait_for(|settled| given < settled.len() + prefetch)
            .await
            .unwrap();
        let delivery = self.deliveries.next().await?;
        self.given += 1;
        self.log.waiting.fetch_sub(1, Ordering::SeqCst);
        Some(delivery)
    }

    async fn close(&mut self) {
        self.deliveries.close().await;
    }
}

impl Log {
    async fn settled(&self) -> Vec<(usize, Settled)> {
        self.queue.lock().await.settled()
    }

    async fn until_settled(&self, count: usize) -> Vec<(usize, Settled)> {
        let queue = self.queue.lock().await;
        timeout(PATIENCE, queue.until_settled(count)).await.unwrap()
    }
}

/// A broker that lets a call through for each permit, and then does what its script says.
#[derive(Debug)]
struct Gated {
    gate: Semaphore,
    calls: watch::Sender<usize>,
    script: Arc<ScriptedPublisher>,
}

#[async_trait]
impl MessagePublisher for Gated {
    async fn publish(&self, messages: Vec<Message>, trace: Option<TraceContext>) -> Result<(), Unpublished> {
        self.calls.send_modify(|calls| *calls += 1);
        self.gate.acquire().await.unwrap().forget();
        self.script.publish(messages, trace).await
    }
}

impl Bed {
    async fn until_taken(&self, count: usize) {
        let queue = self.log.queue.lock().await;
        timeout(PATIENCE, queue.until_taken(count)).await.unwrap();
    }
}

struct Bed {
    intake: Intake,
    spool: Spool,
    log: Arc<Log>,
    spool_health: Arc<ScriptedHealth>,
}

/// Sets an intake up with a spool in front of `broker`; the spool's queue follows `log` before it takes everything.
async fn bed(
    broker: Arc<dyn MessagePublisher>,
    log: impl IntoIterator<Item = PublishStep>,
    left_over: Vec<Message>,
) -> Bed {
    let left_over = Vec::from_iter((!left_over.is_empty()).then_some(left_over));
    bed_of(broker, log, left_over, usize::MAX / 2).await
}

/// The same, with packets that an earlier run left and with no more than `prefetch` of them out at a time.
async fn bed_of(
    broker: Arc<dyn MessagePublisher>,
    log: impl IntoIterator<Item = PublishStep>,
    left_over: Vec<Vec<Message>>,
    prefetch: usize,
) -> Bed {
    let (mut queue, deliveries) = scripted_queue();
    let waiting = AtomicUsize::new(left_over.len());
    for packet in left_over {
        queue.feed(packet).await;
    }
    let settled = queue.settlements();
    let log = Arc::new(Log {
        script: ScriptedPublisher::new(log),
        queue: Mutex::new(queue),
        waiting,
        unreadable: AtomicBool::new(false),
        asked: watch::Sender::new(0),
        door: Semaphore::new(Semaphore::MAX_PERMITS / 2),
    });
    let spool_health = ScriptedHealth::healthy("spool");
    let ports = SpoolPorts {
        publisher: log.clone(),
        consumer: Box::new(Prefetching {
            deliveries,
            log: log.clone(),
            settled,
            given: 0,
            prefetch,
        }),
        lag: log.clone(),
        health: spool_health.clone(),
    };
    let spool = Spool::start(broker.clone(), ports).await;
    Bed {
        intake: Intake::new(broker, MessageLimits::default()).with_spool(spool.clone()),
        spool,
        log,
        spool_health,
    }
}

/// Returns packets that an earlier run left.
fn packets(count: usize) -> Vec<Vec<Message>> {
    let packet = || warren_adapter_conformance::samples::messages(1);
    std::iter::repeat_with(packet).take(count).collect()
}

fn ids_of(packets: &[Vec<Message>]) -> Vec<MessageId> {
    packets.iter().flatten().map(|message| message.id).collect()
}

fn records(count: usize) -> Vec<Result<Draft, Rejection>> {
    let record = || Draft::from_json(br#"{"body":"hello"}"#);
    std::iter::repeat_with(record).take(count).collect()
}

async fn accept(bed: &Bed, count: usize) -> Receipt {
    let accepting = bed.intake.accept(records(count), None);
    timeout(PATIENCE, accepting).await.unwrap()
}

fn ids(receipt: &Receipt) -> Vec<MessageId> {
    receipt.accepted.iter().map(|(_, id)| *id).collect()
}

fn taken(broker: &ScriptedPublisher) -> Vec<MessageId> {
    broker.taken().iter().map(|message| message.id).collect()
}

fn away() -> PublishStep {
    PublishStep::Fail(PublishError::unavailable("the broker is away"))
}

fn gated(permits: usize, script: impl IntoIterator<Item = PublishStep>) -> Arc<Gated> {
    Arc::new(Gated {
        gate: Semaphore::new(permits),
        calls: watch::Sender::new(0),
        script: ScriptedPublisher::new(script),
    })
}

impl Gated {
    async fn until_called(&self, count: usize) {
        let mut calls = self.calls.subscribe();
        let called = timeout(PATIENCE, calls.wait_for(|calls| *calls >= count)).await;
        assert!(matches!(called, Ok(Ok(_))));
    }
}

/// Returns what is said of a broker whose connection stands.
async fn remark(bed: &Bed) -> Option<String> {
    let health = SpoolHealth::new(ScriptedHealth::healthy("rabbitmq"), bed.spool.clone());
    assert_eq!(health.check().await, Ok(()));
    health.remark()
}

/// Waits until `bed` sends new messages straight to the broker again.
async fn until_straight(bed: &Bed) {
    let straight = async {
        while accept(bed, 1).await.spooled > 0 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, straight).await.unwrap();
}

#[tokio::test]
async fn what_the_broker_cannot_take_is_accepted_into_the_spool_and_handed_over_in_order_once_it_is_back() {
    let broker = ScriptedPublisher::new([away(), away(), away(), away()]);
    let bed = bed(broker.clone(), [], Vec::new()).await;
    let (first, second) = (accept(&bed, 2).await, accept(&bed, 3).await);
    assert_eq!((first.spooled, second.spooled), (2, 3));
    assert!(first.unpublished.is_empty() && second.unpublished.is_empty());
    let settled = bed.log.until_settled(2).await;
    assert_eq!(settled, [0, 1].map(|n| (n, Settled::Acknowledged(Vec::new()))));
    assert_eq!(taken(&broker), [ids(&first), ids(&second)].concat());
    until_straight(&bed).await;
}

#[tokio::test]
async fn what_the_broker_may_have_before_it_gets_it_out_of_the_spool_is_counted() {
    let recorded = Recorded::default();
    let _recording = metrics::set_default_local_recorder(&recorded);
    let unroutable = PublishError::Unroutable {
        reason: "nowhere".to_owned(),
    };
    // Asked first, then drained three times: only what is unroutable surely did not arrive.
    let broker = ScriptedPublisher::new([away(), away(), PublishStep::Fail(unroutable)]);
    let bed = bed(broker.clone(), [], Vec::new()).await;
    let receipt = accept(&bed, 2).await;
    bed.log.until_settled(1).await;
    assert_eq!(taken(&broker), ids(&receipt));
    assert_eq!(recorded.count("warren_spool_repeated_messages_total"), 2 + 2);
}

#[tokio::test]
async fn nothing_leaves_the_spool_before_the_broker_has_confirmed_it() {
    let broker = gated(1, [away()]);
    let script = broker.script.clone();
    let bed = bed(broker.clone(), [], Vec::new()).await;
    let receipt = accept(&bed, 1).await;
    // The drain has the delivery and has handed it over; the broker has not answered.
    bed.until_taken(1).await;
    sleep(Duration::from_millis(100)).await;
    assert_eq!(bed.log.settled().await, []);
    broker.gate.add_permits(1);
    bed.log.until_settled(1).await;
    assert_eq!(taken(&script), ids(&receipt));
}

#[tokio::test]
async fn while_the_spool_holds_messages_nobody_waits_for_the_broker() {
    // The first call fails; all further ones hang for ever.
    let broker = gated(1, [away()]);
    let bed = bed(broker, [], Vec::new()).await;
    for _ in 0..10 {
        assert_eq!(accept(&bed, 1).await.spooled, 1);
    }
    assert_eq!(bed.log.settled().await, []);
}

#[tokio::test]
async fn new_messages_are_taken_while_the_spool_is_drained_and_overtake_nothing_of_it() {
    let broker = gated(0, []);
    // Rows so large that no more than four of them are out at a time, and more of them than a round holds.
    let left_over = packets(150);
    let bed = bed_of(broker.clone(), [], left_over.clone(), 4).await;
    let mut expected = ids_of(&left_over);
    for settled in [0, 8, 48, 100] {
        broker
            .gate
            .add_permits(settled - (broker.script.taken().len().min(settled)));
        bed.log.until_settled(settled).await;
        let receipt = accept(&bed, 2).await;
        assert_eq!(receipt.spooled, 2, "{settled} of 150 packets were drained");
        expected.extend(ids(&receipt));
    }
    assert!(
        remark(&bed)
            .await
            .unwrap()
            .contains("what was spooled is drained")
    );
    broker.gate.add_permits(Semaphore::MAX_PERMITS / 2);
    until_straight(&bed).await;
    let mut there = taken(&broker.script);
    there.truncate(expected.len());
    assert_eq!(there, expected, "in the order in which they came");
}

#[tokio::test]
async fn what_has_piled_up_during_an_outage_is_drained_before_anything_goes_straight() {
    // The drain has taken one packet, and the broker says no to it until 200 more wait.
    let broker = gated(1, [away(), away()]);
    let bed = bed(broker.clone(), [], Vec::new()).await;
    let mut expected = ids(&accept(&bed, 1).await);
    broker.until_called(2).await;
    for _ in 0..200 {
        expected.extend(ids(&accept(&bed, 1).await));
    }
    // A refusal, and what was asked first; the other 200 are not let through yet.
    broker.gate.add_permits(2);
    bed.log.until_settled(1).await;
    let receipt = accept(&bed, 1).await;
    assert_eq!(receipt.spooled, 1);
    expected.extend(ids(&receipt));
    broker.gate.add_permits(Semaphore::MAX_PERMITS / 2);
    until_straight(&bed).await;
    let mut there = taken(&broker.script);
    there.truncate(expected.len());
    assert_eq!(there, expected);
}

#[tokio::test]
async fn the_spool_is_drained_to_its_end_under_a_load_that_never_pauses() {
    let bed = Arc::new(bed_of(ScriptedPublisher::new([]), [], packets(100), 64).await);
    let clients = (0..8).map(|_| {
        let bed = Arc::clone(&bed);
        async move { while accept(&bed, 1).await.spooled > 0 {} }
    });
    timeout(PATIENCE, futures_util::future::join_all(clients))
        .await
        .unwrap();
}

#[tokio::test]
async fn messages_that_are_being_put_by_count_as_waiting() {
    let broker = ScriptedPublisher::new([away()]);
    let bed = bed(broker.clone(), [], Vec::new()).await;
    bed.log.door.forget_permits(usize::MAX);
    // The broker is found away, and the disk takes its time.
    let (first, second) = tokio::join!(accept(&bed, 1), async {
        // It has been looked several times whether anything waits.
        let mut asked = bed.log.asked.subscribe();
        let often = timeout(PATIENCE, asked.wait_for(|asked| *asked >= 3)).await;
        assert!(matches!(often, Ok(Ok(_))));
        drop(often);
        let second = accept(&bed, 1);
        let opened = async {
            tokio::task::yield_now().await;
            bed.log.door.add_permits(10);
        };
        tokio::join!(second, opened).0
    });
    assert_eq!((first.spooled, second.accepted.len()), (1, 1));
    let both = async {
        while taken(&broker).len() < 2 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, both).await.unwrap();
    assert_eq!(taken(&broker), [ids(&first), ids(&second)].concat());
}

#[tokio::test]
async fn the_age_of_the_oldest_message_counts_what_the_drain_holds() {
    let recorded = Recorded::default();
    let _guard = metrics::set_default_local_recorder(&recorded);
    let mut left_over = packets(1);
    let hour = 3_600_000_000;
    left_over[0][0].received_at = Timestamp::from_unix_micros(Timestamp::now().unix_micros() - hour).unwrap();
    let bed = bed_of(gated(0, []), [], left_over, 64).await;
    bed.until_taken(1).await;
    // The queue alone has nothing to tell: all it had is out.
    let known = async {
        while recorded.gauge("warren_spool_oldest_seconds") < 3_600.0 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, known).await.unwrap();
    assert_eq!(recorded.gauge("warren_spool_messages"), 1.0);
}

#[tokio::test]
async fn what_has_no_queue_and_what_is_refused_is_not_spooled() {
    for error in [
        PublishError::Unroutable {
            reason: "no queue".into(),
        },
        PublishError::Refused {
            reason: "too large".into(),
        },
    ] {
        let broker = ScriptedPublisher::new([PublishStep::Fail(error)]);
        let bed = bed(broker, [], Vec::new()).await;
        let receipt = accept(&bed, 2).await;
        assert_eq!((receipt.spooled, receipt.unpublished.len()), (0, 2));
    }
}

#[tokio::test]
async fn only_the_messages_the_broker_did_not_take_are_spooled() {
    let broker = ScriptedPublisher::new([PublishStep::FailAt(
        vec![1, 3],
        PublishError::unavailable("not confirmed in time"),
    )]);
    let bed = bed(broker.clone(), [], Vec::new()).await;
    let receipt = accept(&bed, 4).await;
    assert_eq!((receipt.spooled, receipt.accepted.len()), (2, 4));
    bed.log.until_settled(1).await;
    let ids = ids(&receipt);
    assert_eq!(taken(&broker), [ids[0], ids[2], ids[1], ids[3]]);
}

#[tokio::test]
async fn a_spool_that_is_full_too_makes_the_answer_name_both() {
    let full = PublishStep::Fail(PublishError::unavailable("spool.max_bytes of 4 MiB is used up"));
    let broker = ScriptedPublisher::new(vec![away(); 100]);
    let bed = bed(broker, [full.clone(), PublishStep::Take, full], Vec::new()).await;
    // The first goes the straight way, the last finds a spool that waits for the broker already.
    for spooled in [0, 1, 0] {
        let receipt = accept(&bed, 1).await;
        assert_eq!(receipt.spooled, spooled);
        if let [(.., error)] = &receipt.unpublished[..] {
            let error = error.to_string();
            assert!(
                error.contains("the broker is away") && error.contains("spool.max_bytes"),
                "{error}"
            );
        }
    }
}

#[tokio::test]
async fn a_spool_that_can_neither_be_read_nor_written_keeps_nobody_from_a_broker_that_is_back() {
    let broken = PublishStep::Fail(PublishError::unavailable("spool.db cannot be written"));
    let broker = ScriptedPublisher::new(vec![away(); 5]);
    let bed = bed(broker.clone(), vec![broken; 100], Vec::new()).await;
    bed.log.unreadable.store(true, Ordering::SeqCst);
    let accepted = async {
        loop {
            let receipt = accept(&bed, 1).await;
            let Some((.., error)) = receipt.unpublished.first() else {
                return receipt;
            };
            let error = error.to_string();
            assert!(
                error.contains("the broker is away") && error.contains("spool.db"),
                "{error}"
            );
            sleep(Duration::from_millis(50)).await;
        }
    };
    let receipt = timeout(PATIENCE, accepted).await.unwrap();
    assert_eq!((receipt.spooled, taken(&broker)), (0, ids(&receipt)));
}

#[tokio::test]
async fn the_broker_is_asked_for_what_the_spool_refuses_and_for_nothing_else() {
    let full = PublishStep::FailAt(
        vec![0, 2],
        PublishError::unavailable("spool.max_bytes is used up"),
    );
    let broker = gated(0, []);
    let left_over = warren_adapter_conformance::samples::messages(1);
    let bed = bed(broker.clone(), [full], left_over.clone()).await;
    let (receipt, ()) = tokio::join!(accept(&bed, 3), async { broker.gate.add_permits(3) });
    assert_eq!((receipt.accepted.len(), receipt.spooled), (3, 1));
    let there = async || {
        while taken(&broker.script).len() < 4 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, there()).await.unwrap();
    let (mut there, mut expected) = (taken(&broker.script), ids(&receipt));
    expected.push(left_over[0].id);
    there.sort_unstable();
    expected.sort_unstable();
    assert_eq!(there, expected);
}

#[tokio::test]
async fn a_full_spool_that_is_being_drained_refuses_nobody() {
    let full = PublishStep::Fail(PublishError::unavailable("spool.max_bytes of 4 MiB is used up"));
    let broker = gated(0, []);
    let left_over = warren_adapter_conformance::samples::messages(1);
    let bed = bed(broker.clone(), [full], left_over).await;
    let (receipt, ()) = tokio::join!(accept(&bed, 1), async { broker.gate.add_permits(2) });
    assert_eq!((receipt.accepted.len(), receipt.spooled), (1, 0));
    bed.log.until_settled(1).await;
    assert_eq!(taken(&broker.script).len(), 2);
}

#[tokio::test]
async fn what_an_earlier_run_left_is_drained_before_what_comes_now() {
    let broker = gated(0, []);
    let script = broker.script.clone();
    let left_over = warren_adapter_conformance::samples::messages(3);
    let bed = bed(broker.clone(), [], left_over.clone()).await;
    let receipt = accept(&bed, 1).await;
    assert_eq!(receipt.spooled, 1);
    broker.gate.add_permits(100);
    bed.log.until_settled(2).await;
    let mut expected: Vec<_> = left_over.iter().map(|message| message.id).collect();
    expected.extend(ids(&receipt));
    assert_eq!(taken(&script), expected);
}

#[tokio::test]
async fn a_spooled_message_that_the_broker_will_never_take_becomes_a_dead_letter() {
    let recorded = Recorded::default();
    let _recording = metrics::set_default_local_recorder(&recorded);
    let never = PublishStep::FailAt(
        vec![1],
        PublishError::Refused {
            reason: "too large".into(),
        },
    );
    let broker = ScriptedPublisher::new([away(), never]);
    let bed = bed(broker, [], Vec::new()).await;
    accept(&bed, 3).await;
    let settled = bed.log.until_settled(1).await;
    let (0, Settled::Acknowledged(refused)) = &settled[0] else {
        panic!("{settled:?}");
    };
    assert_eq!((refused.len(), refused[0].index), (1, 1));
    assert_eq!(refused[0].reason.code, "refused_by_broker");
    assert!(refused[0].reason.detail.contains("too large"));
    assert_eq!(recorded.count("warren_spool_dead_lettered_messages_total"), 1);
}

#[tokio::test]
async fn a_spooled_message_without_a_queue_waits_until_there_is_one() {
    let unroutable = || {
        PublishStep::Fail(PublishError::Unroutable {
            reason: "no queue".into(),
        })
    };
    let broker = ScriptedPublisher::new([away(), unroutable(), unroutable()]);
    let bed = bed(broker.clone(), [], Vec::new()).await;
    let receipt = accept(&bed, 1).await;
    assert_eq!(
        bed.log.until_settled(1).await,
        [(0, Settled::Acknowledged(Vec::new()))]
    );
    assert_eq!(taken(&broker), ids(&receipt));
}

#[tokio::test]
async fn a_spool_stops_at_once_while_the_broker_is_away_and_keeps_what_it_has() {
    let broker = ScriptedPublisher::new(vec![away(); 10_000]);
    let bed = bed(broker, [], Vec::new()).await;
    accept(&bed, 2).await;
    bed.until_taken(1).await;
    timeout(PATIENCE, bed.spool.stop(10 * PATIENCE)).await.unwrap();
    assert_eq!(bed.log.settled().await, [(0, Settled::GivenBack)]);
}

#[tokio::test]
async fn a_spool_that_stops_hands_over_what_the_broker_takes() {
    let broker = ScriptedPublisher::new([away(), away()]);
    let bed = bed(broker.clone(), [], Vec::new()).await;
    let receipt = accept(&bed, 2).await;
    bed.log.until_settled(1).await;
    bed.spool.stop(PATIENCE).await;
    assert_eq!(taken(&broker), ids(&receipt));
}

#[tokio::test]
async fn it_is_ready_while_the_broker_or_the_spool_takes_messages_and_says_which() {
    let bed = bed(ScriptedPublisher::new([]), [], Vec::new()).await;
    let rabbitmq = ScriptedHealth::healthy("rabbitmq");
    let health = SpoolHealth::new(rabbitmq.clone(), bed.spool.clone());
    assert_eq!(health.name(), "rabbitmq");
    assert_eq!((health.check().await, health.remark()), (Ok(()), None));
    rabbitmq.set(Err("cannot be reached"));
    assert_eq!(health.check().await, Ok(()));
    let remark = health.remark().unwrap();
    assert!(
        remark.contains("cannot be reached") && remark.contains("spooled"),
        "{remark}"
    );
    bed.spool_health.set(Err("the disk is full"));
    let unhealthy = health.check().await.unwrap_err().to_string();
    assert!(
        unhealthy.contains("cannot be reached") && unhealthy.contains("the disk is full"),
        "{unhealthy}"
    );
    rabbitmq.set(Ok(()));
    assert_eq!(health.check().await, Ok(()));
    assert!(health.remark().unwrap().contains("the disk is full"));
}

#[tokio::test]
async fn a_broker_that_refuses_all_it_is_handed_is_seen_though_its_connection_stands() {
    let broker = ScriptedPublisher::new(vec![
        PublishStep::Fail(PublishError::unavailable(
            "the queue is full"
        ));
        10_000
    ]);
    let bed = bed(broker, [], Vec::new()).await;
    accept(&bed, 1).await;
    let remark = remark(&bed).await.unwrap();
    assert!(
        remark.contains("the queue is full") && remark.contains("messages are spooled"),
        "{remark}"
    );
    bed.spool_health.set(Err("spool.max_bytes is used up"));
    let health = SpoolHealth::new(ScriptedHealth::healthy("rabbitmq"), bed.spool.clone());
    let unhealthy = health.check().await.unwrap_err().to_string();
    assert!(
        unhealthy.contains("the queue is full") && unhealthy.contains("spool.max_bytes"),
        "{unhealthy}"
    );
}

#[tokio::test]
async fn a_spool_that_nobody_reads_any_more_is_not_filled_and_says_so() {
    let broker = ScriptedPublisher::new([away()]);
    let bed = bed(broker.clone(), [], Vec::new()).await;
    accept(&bed, 1).await;
    bed.log.until_settled(1).await;
    bed.log.queue.lock().await.close();
    until_straight(&bed).await;
    let said = async {
        while !remark(&bed)
            .await
            .is_some_and(|remark| remark.contains("waits for a restart"))
        {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, said).await.unwrap();
    broker.then([away()]);
    let receipt = accept(&bed, 1).await;
    assert_eq!((receipt.spooled, receipt.unpublished.len()), (0, 1));
    assert_eq!(
        accept(&bed, 1).await.accepted.len(),
        1,
        "the broker is asked each time"
    );
    let rabbitmq = ScriptedHealth::healthy("rabbitmq");
    rabbitmq.set(Err("cannot be reached"));
    let unhealthy = SpoolHealth::new(rabbitmq, bed.spool.clone())
        .check()
        .await
        .unwrap_err();
    assert!(
        unhealthy.to_string().contains("waits for a restart"),
        "{unhealthy}"
    );
}

#[tokio::test]
async fn a_spool_that_stops_does_not_try_again_what_it_cannot_keep() {
    let never = || {
        PublishStep::Fail(PublishError::Refused {
            reason: "too large".into(),
        })
    };
    let broker = gated(0, []);
    broker.script.then([never(), never(), never()]);
    let bed = bed_of(broker.clone(), [], packets(2), 1).await;
    bed.until_taken(1).await;
    bed.log
        .queue
        .lock()
        .await
        .fail_settlements([SettleError::Unavailable {
            reason: "the disk fails".into(),
            cause: None,
        }]);
    let (stopped, ()) = tokio::join!(timeout(PATIENCE, bed.spool.stop(10 * PATIENCE)), async {
        tokio::task::yield_now().await;
        broker.gate.add_permits(10);
    });
    stopped.unwrap();
    let settled = bed.log.settled().await;
    assert!(
        matches!(settled[..], [(0, Settled::Failed(_)), (1, Settled::GivenBack)]),
        "{settled:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn dead_letters_that_cannot_be_kept_hold_up_nobody_else() {
    let never = PublishStep::Fail(PublishError::Refused {
        reason: "too large".into(),
    });
    // One in each round.
    let (rounds, round) = (6, 64);
    let broker = gated(0, []);
    for _ in 0..rounds {
        broker.script.then([never.clone()]);
        broker.script.then(vec![PublishStep::Take; round - 1]);
    }
    let bed = bed_of(broker.clone(), [], packets(rounds * round), usize::MAX / 2).await;
    bed.log.queue.lock().await.lose_dead_letters(true);
    broker.gate.add_permits(Semaphore::MAX_PERMITS / 2);
    let good = rounds * (round - 1);
    let failed = |settled: &[(usize, Settled)]| {
        let failed = |(_, settled): &&(usize, Settled)| matches!(settled, Settled::Failed(_));
        settled.iter().filter(failed).count()
    };
    let settled = bed.log.until_settled(good + 1).await;
    assert_eq!(failed(&settled), 1, "nothing waited until that is tried again");

    bed.log.queue.lock().await.lose_dead_letters(false);
    let settled = bed.log.until_settled(rounds * round).await;
    assert_eq!(failed(&settled), 1);
    let kept =
        |(_, settled): &&(usize, Settled)| matches!(settled, Settled::Acknowledged(dead) if dead.len() == 1);
    assert_eq!(settled.iter().filter(kept).count(), rounds - 1);
}
