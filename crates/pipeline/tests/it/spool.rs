use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{sleep, timeout};
use warren_adapter_conformance::scripted::{
    PublishStep, ScriptedHealth, ScriptedLag, ScriptedPublisher, ScriptedQueue, Settled, scripted_queue,
};
use warren_domain::ports::{HealthCheck, Lag, MessagePublisher, PublishError, Unpublished};
use warren_domain::{Draft, Message, MessageId, MessageLimits, Rejection, TraceContext};
use warren_pipeline::{Intake, Receipt, Spool, SpoolHealth, SpoolPorts};

const PATIENCE: Duration = Duration::from_secs(30);

/// The queue of a spool in memory: what it takes comes out of its consumer.
#[derive(Debug)]
struct Log {
    script: Arc<ScriptedPublisher>,
    queue: Mutex<ScriptedQueue>,
}

#[async_trait]
impl MessagePublisher for Log {
    async fn publish(&self, messages: Vec<Message>, trace: Option<TraceContext>) -> Result<(), Unpublished> {
        self.script.publish(messages.clone(), trace).await?;
        self.queue.lock().await.feed(messages).await;
        Ok(())
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
    script: Arc<ScriptedPublisher>,
}

#[async_trait]
impl MessagePublisher for Gated {
    async fn publish(&self, messages: Vec<Message>, trace: Option<TraceContext>) -> Result<(), Unpublished> {
        self.gate.acquire().await.unwrap().forget();
        self.script.publish(messages, trace).await
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
    let (mut queue, consumer) = scripted_queue();
    let waiting = Arc::new(ScriptedLag::default());
    waiting.set(Lag {
        packets: u64::from(!left_over.is_empty()),
        ..Lag::default()
    });
    if !left_over.is_empty() {
        queue.feed(left_over).await;
    }
    let log = Arc::new(Log {
        script: ScriptedPublisher::new(log),
        queue: Mutex::new(queue),
    });
    let spool_health = ScriptedHealth::healthy("spool");
    let ports = SpoolPorts {
        publisher: log.clone(),
        consumer: Box::new(consumer),
        lag: waiting,
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
async fn nothing_leaves_the_spool_before_the_broker_has_confirmed_it() {
    let script = ScriptedPublisher::new([away()]);
    let gate = Semaphore::new(1);
    let broker = Arc::new(Gated {
        gate,
        script: script.clone(),
    });
    let bed = bed(broker.clone(), [], Vec::new()).await;
    let receipt = accept(&bed, 1).await;
    // The drain has the delivery and has handed it over; the broker has not answered.
    timeout(PATIENCE, bed.log.queue.lock().await.until_taken(1))
        .await
        .unwrap();
    sleep(Duration::from_millis(100)).await;
    assert_eq!(bed.log.settled().await, []);
    broker.gate.add_permits(1);
    bed.log.until_settled(1).await;
    assert_eq!(taken(&script), ids(&receipt));
}

#[tokio::test]
async fn while_the_spool_holds_messages_nobody_waits_for_the_broker() {
    // The first call fails; all further ones hang for ever.
    let broker = Arc::new(Gated {
        gate: Semaphore::new(1),
        script: ScriptedPublisher::new([away()]),
    });
    let bed = bed(broker, [], Vec::new()).await;
    for _ in 0..10 {
        assert_eq!(accept(&bed, 1).await.spooled, 1);
    }
    assert_eq!(bed.log.settled().await, []);
}

#[tokio::test]
async fn new_messages_are_taken_while_the_spool_is_drained() {
    let script = ScriptedPublisher::new([away()]);
    let broker = Arc::new(Gated {
        gate: Semaphore::new(1),
        script: script.clone(),
    });
    let bed = bed(broker.clone(), [], Vec::new()).await;
    let mut accepted = Vec::new();
    for _ in 0..20 {
        accepted.extend(ids(&accept(&bed, 2).await));
        broker.gate.add_permits(1);
    }
    broker.gate.add_permits(Semaphore::MAX_PERMITS / 2);
    until_straight(&bed).await;
    let mut there = taken(&script);
    there.truncate(accepted.len());
    assert_eq!(there, accepted, "in the order in which they came");
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
async fn a_full_spool_that_is_being_drained_refuses_nobody() {
    let full = PublishStep::Fail(PublishError::unavailable("spool.max_bytes of 4 MiB is used up"));
    let broker = Arc::new(Gated {
        gate: Semaphore::new(0),
        script: ScriptedPublisher::new([]),
    });
    let left_over = warren_adapter_conformance::samples::messages(1);
    let bed = bed(broker.clone(), [full], left_over).await;
    let (receipt, ()) = tokio::join!(accept(&bed, 1), async { broker.gate.add_permits(2) });
    assert_eq!((receipt.accepted.len(), receipt.spooled), (1, 0));
    bed.log.until_settled(1).await;
    assert_eq!(taken(&broker.script).len(), 2);
}

#[tokio::test]
async fn what_an_earlier_run_left_is_drained_before_what_comes_now() {
    let script = ScriptedPublisher::new([]);
    let broker = Arc::new(Gated {
        gate: Semaphore::new(0),
        script: script.clone(),
    });
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
    timeout(PATIENCE, bed.log.queue.lock().await.until_taken(1))
        .await
        .unwrap();
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
