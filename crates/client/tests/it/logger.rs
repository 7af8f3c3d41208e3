//! What a logger promises about each call.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde_json::json;
use tokio::time::timeout;
use warren_client::{
    Logger, Message, MessageId, MessageLimits, MessagePublisher, NotLogged, PublishError, Severity,
    StartError, Timestamp, Unpublished,
};
use warren_domain::TraceContext;

use crate::support::{Gate, PATIENCE, all, assert_adds_up, body, by_id, counts, quick, refused, unroutable};

#[tokio::test]
async fn each_call_becomes_a_message_of_its_severity() {
    let gate = Gate::open();
    let logger = quick()
        .source("shop")
        .attribute("host", "web-1")
        .start(gate.clone())
        .unwrap();
    let before = Timestamp::now();
    logger.debug("one");
    logger.info("two").attribute("host", "web-2");
    logger.warning("three").attributes([("a", 1), ("b", 2)]);
    let billing = logger
        .with_source("billing.api".parse().unwrap())
        .with_attribute("order", 42);
    billing.error("four").attribute("paid", false);
    let id = MessageId::generate();
    let moment = Timestamp::from_unix_micros(7).unwrap();
    let sent = logger.critical("five").id(id).occurred_at(moment).await;
    assert_eq!(sent, Ok(id));
    let report = logger.close(PATIENCE).await;
    assert!(report.is_complete(), "{report:?}");

    let mut messages = gate.published();
    messages.sort_by_key(|message| message.severity);
    let told: Vec<_> = messages
        .iter()
        .map(|message| {
            let attributes = serde_json::Value::Object(message.attributes.as_map().clone());
            (
                message.severity.as_str(),
                message.source.as_str(),
                message.body.as_str(),
                attributes,
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            ("debug", "shop", "one", json!({"host": "web-1"})),
            ("info", "shop", "two", json!({"host": "web-2"})),
            (
                "warning",
                "shop",
                "three",
                json!({"host": "web-1", "a": 1, "b": 2})
            ),
            (
                "error",
                "billing.api",
                "four",
                json!({"host": "web-1", "order": 42, "paid": false})
            ),
            ("critical", "shop", "five", json!({"host": "web-1"})),
        ]
    );
    assert_eq!(messages[4].occurred_at, moment);
    assert!((before..=Timestamp::now()).contains(&messages[0].occurred_at));
    assert_eq!(
        report.stats.published,
        counts(Severity::ALL.map(|severity| (severity, 1)))
    );
}

#[tokio::test]
async fn what_is_unavailable_is_published_again_under_its_id_and_its_neighbours_are_not() {
    let away = || PublishError::unavailable("away");
    let gate = Gate::answering([body("held up", away()), body("held up", away())]);
    let logger = quick().batches_in_flight(1).start(gate.clone()).unwrap();
    let one = logger.info("first").send().unwrap();
    gate.called(1).await;
    let two = logger.info("held up").send().unwrap();
    let three = logger.info("beside it").send().unwrap();
    logger.flush(PATIENCE).await.unwrap();
    let calls = gate.calls();
    assert_eq!(calls[0], [one]);
    assert_eq!(calls.iter().flatten().filter(|id| **id == three).count(), 1);
    let times = calls.iter().flatten().filter(|id| **id == two).count();
    assert!((2..=3).contains(&times), "{calls:?}");
    assert_eq!(by_id(gate.published()).len(), 3);
    assert_eq!(logger.stats().trouble, None);
}

#[tokio::test]
async fn a_refused_message_fails_with_its_reason_and_the_rest_goes_on() {
    let gate = Gate::answering([all(refused())]);
    let logger = quick().start(gate.clone()).unwrap();
    logger.error("never");
    logger.flush(PATIENCE).await.unwrap();
    logger.error("fine");
    let report = logger.close(PATIENCE).await;
    assert_eq!(report.stats.failed, counts([(Severity::Error, 1)]));
    assert_eq!(report.stats.published, counts([(Severity::Error, 1)]));
    let reason = report.stats.last_failure.as_deref();
    assert_eq!(reason, Some("the broker refuses the message: never"));
    assert!(!report.is_complete());
}

#[tokio::test]
async fn an_unroutable_message_is_repeated_for_a_while_and_then_fails() {
    let gate = Gate::answering([all(unroutable()), all(unroutable())]);
    let patient = quick().start(gate.clone()).unwrap();
    patient.info("mended in time");
    assert!(patient.close(PATIENCE).await.is_complete());
    assert_eq!(gate.calls().len(), 3);

    let gate = Gate::answering([all(unroutable())]);
    let hasty = quick()
        .unroutable_for(Duration::ZERO)
        .start(gate.clone())
        .unwrap();
    hasty.info("not mended");
    let stats = hasty.close(PATIENCE).await.stats;
    assert_eq!((stats.failed.total(), gate.calls().len()), (1, 1));
}

#[tokio::test]
async fn bad_input_is_an_error_where_there_is_one_and_counted_where_not() {
    let limits = MessageLimits {
        body_bytes: 10,
        attributes_bytes: 20,
        attributes_depth: 2,
    };
    let logger = quick().limits(limits).start(Gate::open()).unwrap();
    let error = logger.error("longer than ten").send().unwrap_err();
    assert_eq!(
        error.to_string(),
        "it cannot be logged: /body: a body of 15 bytes, over the limit of 10"
    );
    let deep = logger.info("x").attribute("a", json!([[1]])).await;
    assert!(matches!(deep, Err(NotLogged::Rejected(_))), "{deep:?}");
    logger.warning("x").attribute("a", "longer than twenty bytes");
    logger.info("fine");
    let report = logger.close(PATIENCE).await;
    let expected = [Severity::Error, Severity::Info, Severity::Warning];
    assert_eq!(report.stats.rejected, expected.into_iter().collect());
    assert_eq!(report.stats.published.total(), 1);
}

#[tokio::test]
async fn a_flush_waits_for_what_came_before_it_and_says_why_it_does_not_end() {
    let gate = Gate::closed();
    let logger = quick().start(gate.clone()).unwrap();
    logger.info("held");
    let overdue = logger.flush(Duration::from_millis(20)).await.unwrap_err();
    assert_eq!((overdue.waiting, overdue.trouble), (1, None));
    let flushing = {
        let logger = logger.clone();
        tokio::spawn(async move { logger.flush(PATIENCE).await })
    };
    gate.called(1).await;
    assert!(!flushing.is_finished());
    gate.let_through();
    assert_eq!(flushing.await.unwrap(), Ok(()));
    assert_eq!(logger.stats().published.total(), 1);
    // Nothing is on its way: at once.
    logger.flush(Duration::ZERO).await.unwrap();
}

#[test]
fn a_program_without_a_runtime_flushes_and_closes_too() {
    let gate = Gate::answering([all(PublishError::unavailable("not yet"))]);
    let logger = quick().start(gate.clone()).unwrap();
    logger.info("one").send().unwrap();
    logger.flush_blocking(PATIENCE).unwrap();
    logger.info("two");
    let report = logger.close_blocking(PATIENCE);
    assert!(report.is_complete(), "{report:?}");
    assert_eq!(gate.published().len(), 2);
}

#[tokio::test]
async fn a_close_gives_up_in_time_and_its_numbers_are_final() {
    let gate = Gate::closed();
    let logger = quick().batches_in_flight(1).start(gate.clone()).unwrap();
    logger.critical("handed over");
    gate.called(1).await;
    logger.error("still waiting");
    let began = Instant::now();
    let report = logger.close(Duration::from_millis(50)).await;
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!(report.abandoned.total(), 2);
    assert_eq!(report.stats.failed, counts([(Severity::Critical, 1)]));
    assert_eq!(report.stats.dropped, counts([(Severity::Error, 1)]));
    let reason = report.stats.last_failure.clone().unwrap();
    assert!(
        reason.starts_with("not confirmed before the logger was closed"),
        "{reason}"
    );
    assert_eq!(logger.info("too late").send(), Err(NotLogged::Closed));
    gate.let_through();
    let again = logger.close(PATIENCE).await;
    assert_eq!(again.stats.failed, report.stats.failed);
    assert_eq!(again.stats.dropped.total(), 2);
}

#[test]
fn dropping_the_last_clone_sends_what_is_left_and_never_hangs() {
    let gate = Gate::open();
    let logger = quick().start(gate.clone()).unwrap();
    let clone = logger.clone();
    logger.info("left");
    drop(logger);
    clone.info("more");
    drop(clone);
    assert_eq!(gate.published().len(), 2);

    let gate = Gate::closed();
    let logger = quick().drop_wait(Duration::from_millis(50)).start(gate).unwrap();
    logger.info("stuck");
    let began = Instant::now();
    drop(logger);
    assert!(began.elapsed() < Duration::from_secs(5));
}

/// Panics at its first call.
#[derive(Debug, Default)]
struct Panicking(std::sync::atomic::AtomicBool);

#[async_trait]
impl MessagePublisher for Panicking {
    async fn publish(&self, _: Vec<Message>, _: Option<TraceContext>) -> Result<(), Unpublished> {
        assert!(self.0.swap(true, std::sync::atomic::Ordering::Relaxed), "as told");
        Ok(())
    }
}

#[tokio::test]
async fn a_publisher_that_panics_fails_its_batch_and_nothing_else() {
    let logger = quick().start(Panicking::default()).unwrap();
    logger.info("unlucky");
    logger.flush(PATIENCE).await.unwrap();
    logger.info("fine");
    let stats = logger.close(PATIENCE).await.stats;
    assert_eq!((stats.failed.total(), stats.published.total()), (1, 1));
    assert!(stats.last_failure.unwrap().contains("panicked"));
}

#[tokio::test]
async fn a_publisher_that_does_not_answer_is_asked_again() {
    let gate = Gate::closed();
    let logger = quick()
        .publish_timeout(Duration::from_millis(20))
        .start(gate.clone())
        .unwrap();
    let id = logger.info("patience").send().unwrap();
    gate.called(2).await;
    assert!(
        logger
            .stats()
            .trouble
            .unwrap()
            .contains("did not answer within 20ms")
    );
    gate.let_through();
    assert!(logger.close(PATIENCE).await.is_complete());
    assert!(gate.calls().iter().all(|call| call == &[id]));
}

async fn panics() -> Result<Panicking, Infallible> {
    panic!("as told")
}

#[tokio::test]
async fn a_logger_that_cannot_start_says_why() {
    let error = |builder: warren_client::LoggerBuilder| builder.start(Gate::open()).unwrap_err().to_string();
    assert_eq!(
        error(Logger::builder().source("a..b")),
        "the source \"a..b\" has an empty segment; use segments of A-Z, a-z, 0-9, _ and - joined by dots"
    );
    assert_eq!(
        error(Logger::builder().max_messages(0)),
        "max_messages is 0; use 1 to 10000000"
    );
    assert!(error(Logger::builder().batches_in_flight(65)).contains("use 1 to 64"));
    let (long, short) = (Duration::from_secs(2), Duration::from_secs(1));
    assert!(error(Logger::builder().retry_pauses(long, short)).contains("the shorter one first"));

    let failing = || async { Err::<Panicking, _>("no such broker") };
    let failed = Logger::builder().start_with(failing);
    assert!(matches!(failed, Err(StartError::Publisher(cause)) if cause.to_string() == "no such broker"));
    let never = Logger::builder()
        .start_timeout(Duration::from_millis(20))
        .start_with(std::future::pending::<Result<Panicking, Infallible>>);
    assert!(matches!(never, Err(StartError::TimedOut(_))));
    let panicking = Logger::builder().start_with(panics);
    assert!(matches!(panicking, Err(StartError::Publisher(_))));
}

#[test]
fn a_publisher_made_by_the_sender_has_its_tasks_there() {
    /// Publishes through a task, as one with a connection does.
    #[derive(Debug)]
    struct Tasked(tokio::sync::mpsc::Sender<tokio::sync::oneshot::Sender<()>>);

    #[async_trait]
    impl MessagePublisher for Tasked {
        async fn publish(&self, _: Vec<Message>, _: Option<TraceContext>) -> Result<(), Unpublished> {
            let (done, is_done) = tokio::sync::oneshot::channel();
            self.0.send(done).await.unwrap();
            is_done.await.unwrap();
            Ok(())
        }
    }

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let logger = quick()
            .max_messages(2)
            .when_full(warren_client::WhenFull::Wait)
            .start_with(|| async {
                let (sender, mut receiver) =
                    tokio::sync::mpsc::channel::<tokio::sync::oneshot::Sender<()>>(1);
                tokio::spawn(async move {
                    while let Some(done) = receiver.recv().await {
                        done.send(()).unwrap();
                    }
                });
                Ok::<_, Infallible>(Tasked(sender))
            })
            .unwrap();
        // The only thread of this runtime waits for room again and again.
        for _ in 0..200 {
            logger.info("on and on");
        }
        let report = timeout(PATIENCE, logger.close(PATIENCE)).await.unwrap();
        assert!(report.is_complete());
        assert_adds_up(&report.stats, &counts([(Severity::Info, 200)]));
    });
}
