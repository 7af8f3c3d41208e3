//! What happens when there is no room.

use std::future::IntoFuture;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::timeout;
use warren_client::{
    Logger, Message, MessagePublisher, NotLogged, Severity, SeverityCounts, Unpublished, WhenFull,
};
use warren_domain::TraceContext;

use crate::support::{Gate, PATIENCE, assert_adds_up, counts, quick};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_wait_for_room_are_let_in_and_nothing_is_dropped() {
    let gate = Gate::closed();
    let logger = quick()
        .max_messages(4)
        .when_full(WhenFull::Wait)
        .start(gate.clone())
        .unwrap();
    let tasks: Vec<_> = (0..20)
        .map(|n| {
            let logger = logger.clone();
            tokio::spawn(async move { logger.info(format!("task {n}")).await })
        })
        .collect();
    let threads: Vec<_> = (0..5)
        .map(|n| {
            let logger = logger.clone();
            thread::spawn(move || logger.error(format!("thread {n}")).send())
        })
        .collect();
    // At most four at a time are let in before the first is published.
    gate.called(1).await;
    assert!(logger.stats().accepted.total() <= 4);
    gate.let_through();
    for task in tasks {
        timeout(PATIENCE, task).await.unwrap().unwrap().unwrap();
    }
    for thread in threads {
        thread.join().unwrap().unwrap();
    }
    let report = logger.close(PATIENCE).await;
    assert!(report.is_complete(), "{report:?}");
    assert_eq!(
        gate.published_by_severity(),
        counts([(Severity::Info, 20), (Severity::Error, 5)])
    );
}

#[test]
fn a_thread_that_waits_never_waits_for_a_task_that_only_it_could_run() {
    let gate = Gate::closed();
    let logger = quick()
        .max_messages(1)
        .when_full(WhenFull::Wait)
        .start(gate.clone())
        .unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        logger.info("first").await.unwrap();
        let mut task = logger.info("a task, waiting").into_future();
        assert!(futures_util::poll!(&mut task).is_pending());
        let opening = thread::spawn(move || gate.let_through());
        logger.info("the thread, behind it").send().unwrap();
        timeout(PATIENCE, task).await.unwrap().unwrap();
        opening.join().unwrap();
    });
    assert!(logger.close_blocking(PATIENCE).is_complete());
}

#[tokio::test]
async fn who_stops_waiting_is_counted_as_dropped() {
    let gate = Gate::closed();
    let logger = quick()
        .max_messages(1)
        .when_full(WhenFull::Wait)
        .start(gate.clone())
        .unwrap();
    logger.info("first").await.unwrap();
    let waiting = timeout(Duration::from_millis(20), logger.error("second").into_future());
    waiting.await.unwrap_err();
    assert_eq!(logger.stats().dropped, counts([(Severity::Error, 1)]));
    gate.let_through();
    logger.info("third").await.unwrap();
    let stats = logger.close(PATIENCE).await.stats;
    assert_adds_up(&stats, &counts([(Severity::Info, 2), (Severity::Error, 1)]));
    assert_eq!(stats.published.total(), 2);
}

#[tokio::test]
async fn a_future_that_is_never_polled_sends_nothing_and_counts_as_dropped() {
    let gate = Gate::open();
    let logger = quick().start(gate.clone()).unwrap();
    drop(logger.info("x").into_future());
    assert_eq!(logger.stats().dropped, counts([(Severity::Info, 1)]));
    drop(logger.error("x".repeat(300_000)).into_future());
    let stats = logger.close(PATIENCE).await.stats;
    assert_adds_up(&stats, &counts([(Severity::Info, 1), (Severity::Error, 1)]));
    assert_eq!((stats.dropped.total(), stats.rejected.total()), (1, 1));
    assert!(gate.published().is_empty());
}

#[tokio::test]
async fn who_waits_while_the_logger_is_closed_is_told() {
    let gate = Gate::closed();
    let logger = quick()
        .max_messages(1)
        .when_full(WhenFull::Wait)
        .start(gate.clone())
        .unwrap();
    logger.info("first").await.unwrap();
    let waiting = {
        let logger = logger.clone();
        thread::spawn(move || logger.info("second").send())
    };
    let report = logger.close(Duration::from_millis(20)).await;
    assert_eq!(waiting.join().unwrap(), Err(NotLogged::Closed));
    assert_eq!(report.stats.failed.total(), 1);
}

#[tokio::test]
async fn the_lowest_severity_gives_way_also_when_it_is_already_waiting() {
    let gate = Gate::closed();
    let logger = quick()
        .max_messages(4)
        .batches_in_flight(1)
        .start(gate.clone())
        .unwrap();
    logger.debug("handed over");
    gate.called(1).await;
    for body in ["d1", "d2"] {
        logger.debug(body);
    }
    logger.info("i1");
    logger.critical("c1");
    assert_eq!(logger.debug("d3").send(), Err(NotLogged::Full));
    logger.error("e1");
    logger.warning("w1");
    let full = logger.stats();
    assert_eq!(full.dropped, counts([(Severity::Debug, 3), (Severity::Info, 1)]));
    gate.let_through();
    let stats = logger.close(PATIENCE).await.stats;
    let mut bodies: Vec<_> = gate
        .published()
        .iter()
        .map(|m| m.body.as_str().to_owned())
        .collect();
    bodies.sort();
    assert_eq!(bodies, ["c1", "e1", "handed over", "w1"]);
    assert_eq!(stats.dropped, full.dropped);
}

#[test]
fn the_numbers_are_exact_however_many_threads_log() {
    for when_full in [WhenFull::DropLowest, WhenFull::Wait] {
        let gate = Gate::open();
        let logger = quick()
            .max_messages(100)
            .batch_messages(10)
            .when_full(when_full)
            .start(gate.clone())
            .unwrap();
        let threads: Vec<_> = (0..6)
            .map(|thread| {
                let logger = logger.clone();
                thread::spawn(move || {
                    for n in 0..3_000 {
                        logger.log(Severity::ALL[(n + thread) % 5], "x");
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        let report = logger.close_blocking(PATIENCE);
        assert_adds_up(
            &report.stats,
            &counts(Severity::ALL.map(|severity| (severity, 3_600))),
        );
        assert_eq!(report.stats.published, gate.published_by_severity());
        assert_eq!(report.stats.failed, SeverityCounts::default());
        if when_full == WhenFull::Wait {
            assert!(report.is_complete());
        }
    }
}

/// Logs to the logger that it publishes for.
#[derive(Debug, Default)]
struct Chatty(Arc<OnceLock<Logger>>);

#[async_trait]
impl MessagePublisher for Chatty {
    async fn publish(&self, _: Vec<Message>, _: Option<TraceContext>) -> Result<(), Unpublished> {
        if let Some(logger) = self.0.get() {
            for _ in 0..10 {
                logger.debug("I am publishing");
                assert_eq!(logger.debug("I am publishing").await, Err(NotLogged::Full));
            }
            logger.flush(PATIENCE).await.unwrap_err();
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_publisher_that_logs_to_its_own_logger_never_waits_for_itself() {
    let chatty = Chatty::default();
    let slot = Arc::clone(&chatty.0);
    let logger = quick()
        .max_messages(1)
        .when_full(WhenFull::Wait)
        .start(chatty)
        .unwrap();
    slot.set(logger.clone()).unwrap();
    logger.info("begin");
    logger.flush(PATIENCE).await.unwrap();
    assert_eq!(logger.stats().dropped, counts([(Severity::Debug, 20)]));
    let report = logger.close(PATIENCE).await;
    assert_eq!(report.stats.published, counts([(Severity::Info, 1)]));
}
