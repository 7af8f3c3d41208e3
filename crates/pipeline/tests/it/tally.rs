//! What the tally loop counts, acknowledges and tells.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use warren_adapter_conformance::PATIENCE;
use warren_adapter_conformance::samples::{message, messages};
use warren_adapter_conformance::scripted::{
    ScriptedBook, ScriptedConsumer, ScriptedHealth, ScriptedLag, ScriptedQueue, Settled, scripted_queue,
};
use warren_domain::ports::{
    Cause, HealthCheck, Lag, MessageConsumer, NamedGroup, StartAt, TallyError, Unacknowledged, Unhealthy,
};
use warren_domain::{Message, Selection, Severity, SeveritySet, Timestamp};
use warren_pipeline::WorkerHealth;
use warren_pipeline::tally::{
    GroupReport, GroupState, TallyConfig, TallyHealth, TallyLoop, TallyParts, Until,
};

use crate::recorder::Recorded;
use crate::store_loop::acknowledged;

struct Running {
    queue: ScriptedQueue,
    later: Arc<Mutex<VecDeque<ScriptedConsumer>>>,
    broker: Arc<ScriptedHealth>,
    lag: Arc<ScriptedLag>,
    health: WorkerHealth,
    reports: watch::Receiver<GroupReport>,
    stop: CancellationToken,
    run: JoinHandle<()>,
}

impl Running {
    async fn stopped(self) -> (ScriptedQueue, GroupReport) {
        self.stop.cancel();
        self.ended().await
    }

    async fn ended(self) -> (ScriptedQueue, GroupReport) {
        timeout(PATIENCE, self.run).await.expect("the loop ends").unwrap();
        let report = self.reports.borrow().clone();
        (self.queue, report)
    }

    async fn until(&self, what: &str, wanted: impl Fn(&GroupReport) -> bool) -> GroupReport {
        let mut reports = self.reports.clone();
        let waiting = timeout(PATIENCE, reports.wait_for(|report| wanted(report)));
        let report = waiting.await.unwrap_or_else(|_| panic!("never reported: {what}"));
        report.unwrap().clone()
    }
}

fn quick() -> TallyConfig {
    TallyConfig {
        batch_wait: Duration::from_millis(1),
        retry_min: Duration::from_millis(1),
        retry_max: Duration::from_millis(5),
        drain_timeout: Duration::from_millis(200),
        lag_interval: Duration::from_millis(100),
        ..TallyConfig::default()
    }
}

fn run_group(selection: Selection, book: Arc<ScriptedBook>, config: TallyConfig, until: Until) -> Running {
    let (queue, consumer) = scripted_queue();
    let later = Arc::new(Mutex::new(VecDeque::from([consumer])));
    let (broker, lag) = (
        ScriptedHealth::healthy("broker"),
        Arc::new(ScriptedLag::default()),
    );
    let consumers = Arc::clone(&later);
    let subscribe = move || -> Result<Box<dyn MessageConsumer>, Cause> {
        let consumer = consumers.lock().unwrap().pop_front();
        Ok(Box::new(consumer.expect("the test has foreseen a subscription")))
    };
    let parts = TallyParts {
        group: NamedGroup {
            name: "some".parse().unwrap(),
            selection,
            start: StartAt::Oldest,
        },
        book,
        consumer_health: broker.clone(),
        lag: lag.clone(),
    };
    let tally_loop = TallyLoop::new(subscribe, parts, &config, until);
    let (health, reports, stop) = (
        tally_loop.health(),
        tally_loop.reports(),
        CancellationToken::new(),
    );
    let run = tokio::spawn(tally_loop.run(stop.clone()));
    Running {
        queue,
        later,
        broker,
        lag,
        health,
        reports,
        stop,
        run,
    }
}

fn run(book: Arc<ScriptedBook>, config: TallyConfig, until: Until) -> Running {
    run_group(Selection::of(SeveritySet::ALL), book, config, until)
}

fn failures(count: usize) -> impl Iterator<Item = TallyError> {
    (0..count).map(|_| TallyError {
        reason: "as scripted".to_owned(),
        cause: None,
    })
}

fn critical(count: usize) -> Vec<Message> {
    (0..count)
        .map(|_| message(Severity::Critical, "a", "b"))
        .collect()
}

#[tokio::test]
async fn each_message_is_counted_once_and_acknowledged_however_often_it_comes() {
    let mut running = run(ScriptedBook::new([]), quick(), Until::default());
    let sent = messages(100);
    for delivery in [&sent[..60], &sent[40..], &sent[..10]] {
        running.queue.feed(delivery.to_vec()).await;
    }
    assert_eq!(acknowledged(&running.queue.until_settled(3).await), 3);
    let report = running
        .until("all is counted", |report| report.duplicates == 30)
        .await;
    assert!(report.received.iter().all(|(_, n)| n == 20), "{report:?}");
    assert!(report.last_seen.iter().all(Option::is_some), "{report:?}");
    let (_, last) = running.stopped().await;
    assert_eq!((last.state, last.received.total()), (GroupState::Stopped, 100));
}

#[tokio::test]
async fn what_the_book_holds_is_not_told_before_it_is_read() {
    let recorded = Recorded::default();
    let _recording = metrics::set_default_local_recorder(&recorded);
    let mut running = run(ScriptedBook::new([]), quick(), Until::default());
    // It does not run before the test waits for something.
    let shown = |name: &str| recorded.has(&format!("warren_group_{name}_total"));
    assert!(shown("consumed_messages") && !shown("messages"));
    running.queue.feed(critical(3)).await;
    running.queue.until_settled(1).await;
    running.stopped().await;
    assert!(shown("messages"));
}

#[tokio::test]
async fn what_the_group_does_not_select_is_acknowledged_and_not_counted() {
    let recorded = Recorded::default();
    let _recording = metrics::set_default_local_recorder(&recorded);
    let selection = Selection {
        severities: [Severity::Error, Severity::Critical].into_iter().collect(),
        sources: vec!["billing.#".parse().unwrap()],
    };
    let mut running = run_group(selection, ScriptedBook::new([]), quick(), Until::default());
    let mut mixed = messages(50);
    mixed.push(message(Severity::Error, "shop", "of another source"));
    let mine = mixed
        .iter()
        .filter(|message| message.severity >= Severity::Error && message.source.as_str() == "billing.api")
        .count() as u64;
    running.queue.feed(mixed.clone()).await;
    assert_eq!(acknowledged(&running.queue.until_settled(1).await), 1);
    running.queue.feed(mixed).await;
    running.queue.until_settled(2).await;
    let (_, report) = running.stopped().await;
    assert!(mine > 0);
    assert_eq!((report.received.total(), report.duplicates), (mine, mine));
    assert_eq!(recorded.count("warren_group_unselected_total"), 102 - 2 * mine);
}

#[tokio::test]
async fn a_book_that_fails_is_waited_for_and_nothing_is_acknowledged_meanwhile() {
    let book = ScriptedBook::new(failures(20));
    let mut running = run(book.clone(), quick(), Until::default());
    running.queue.feed(messages(3)).await;
    book.called(10).await;
    assert_eq!(running.queue.settled(), []);
    let group = "some".parse().unwrap();
    let health = TallyHealth::of([(group, running.health.clone())]);
    let told = health.check().await.unwrap_err().to_string();
    assert!(
        told.contains("group some: paused") && told.contains("as scripted"),
        "{told}"
    );
    assert_eq!(acknowledged(&running.queue.until_settled(1).await), 1);
    assert_eq!(health.check().await, Ok(()));
    let (_, report) = running.stopped().await;
    assert_eq!((report.received.total(), report.duplicates), (3, 0));
}

#[tokio::test]
async fn a_book_that_is_away_for_long_sends_the_deliveries_back() {
    let config = TallyConfig {
        give_back_after: Duration::from_millis(30),
        ..quick()
    };
    let book = ScriptedBook::new(failures(100_000));
    let mut running = run(book, config, Until::default());
    let (second, consumer) = scripted_queue();
    running.later.lock().unwrap().push_back(consumer);
    running.queue.feed(messages(2)).await;
    assert_eq!(running.queue.until_settled(1).await, [(0, Settled::GivenBack)]);
    running.stopped().await;
    drop(second);
}

#[tokio::test]
async fn a_count_is_reached_by_whole_deliveries_and_no_more_is_taken() {
    let until = Until {
        count: Some(10),
        idle: None,
    };
    let mut running = run(ScriptedBook::new([]), quick(), until);
    let (twice, once) = (critical(4), critical(4));
    // The first four come twice: what came again does not bring the end nearer.
    for delivery in [&twice, &twice, &once, &critical(4), &critical(4), &critical(4)] {
        running.queue.feed(delivery.clone()).await;
    }
    let (queue, report) = running.ended().await;
    assert_eq!((report.received.total(), report.duplicates), (12, 4));
    assert_eq!(acknowledged(&queue.settled()), 4);
    assert_eq!(queue.settled().len(), 6, "the others were given back");
}

#[tokio::test]
async fn a_loop_that_is_idle_ends_by_itself_but_not_while_nothing_could_come() {
    let until = Until {
        count: None,
        idle: Some(Duration::from_millis(100)),
    };
    let mut running = run(ScriptedBook::new([]), quick(), until);
    running.broker.set(Err("away"));
    running
        .until("connecting", |report| report.state == GroupState::Connecting)
        .await;
    running.queue.feed(messages(5)).await;
    running.queue.until_settled(1).await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(
        !running.run.is_finished(),
        "it cannot be idle while it is not connected"
    );
    running.broker.set(Ok(()));
    let (_, report) = running.ended().await;
    assert_eq!((report.state, report.received.total()), (GroupState::Stopped, 5));
}

#[tokio::test]
async fn the_state_follows_the_consumer() {
    let running = run(ScriptedBook::new([]), quick(), Until::default());
    running
        .until("consuming", |report| report.state == GroupState::Consuming)
        .await;
    running.broker.set(Err("away"));
    running
        .until("connecting", |report| report.state == GroupState::Connecting)
        .await;
    running.stopped().await;
}

#[tokio::test]
async fn lag_is_told_and_its_age_estimated_where_the_broker_does_not_know_it() {
    let mut running = run(ScriptedBook::new([]), quick(), Until::default());
    let nothing = running
        .until("the lag", |report| report.lag.is_some())
        .await
        .lag
        .unwrap();
    assert_eq!((nothing.packets, nothing.oldest_seconds), (0, Some(0.0)));
    running.lag.set(Lag {
        packets: 3,
        messages: Some(30),
        oldest: None,
        unacknowledged: Unacknowledged {
            packets: 2,
            messages: Some(20),
        },
    });
    let waiting = |report: &GroupReport| report.lag.is_some_and(|lag| lag.packets == 3);
    let report = running.until("three packets", waiting).await;
    let lag = report.lag.unwrap();
    let held = report.unacknowledged.unwrap();
    assert_eq!((held.packets, held.messages), (2, Some(20)));
    assert_eq!(
        (lag.messages, lag.oldest_seconds),
        (Some(30), None),
        "nothing is known of their age"
    );
    let micros = Timestamp::now().unix_micros() - 60_000_000;
    let mut old = messages(1);
    old[0].received_at = Timestamp::from_unix_micros(micros).unwrap();
    running.queue.feed(old).await;
    let aged = |report: &GroupReport| report.lag.is_some_and(|lag| lag.oldest_seconds >= Some(60.0));
    running.until("as old as the newest delivered", aged).await;
    running.lag.set(Lag {
        packets: 3,
        messages: None,
        oldest: Some(Timestamp::now()),
        unacknowledged: Unacknowledged {
            packets: 2,
            messages: None,
        },
    });
    let young = |report: &GroupReport| report.lag.is_some_and(|lag| lag.oldest_seconds < Some(50.0));
    running.until("what the broker knows", young).await;
    let (_, stopped) = running.stopped().await;
    assert_eq!(
        stopped.unacknowledged,
        Some(Unacknowledged::default()),
        "it is settled or given back"
    );
}

#[tokio::test]
async fn what_is_not_known_any_more_is_no_number_any_more() {
    let recorded = Recorded::default();
    let _recording = metrics::set_default_local_recorder(&recorded);
    let running = run(ScriptedBook::new([]), quick(), Until::default());
    running.lag.set(Lag {
        packets: 3,
        unacknowledged: Unacknowledged {
            packets: 2,
            messages: None,
        },
        ..Lag::default()
    });
    let shown =
        || ["ready", "unacknowledged"].map(|name| recorded.gauge(&format!("warren_group_{name}_packets")));
    running
        .until("what waits", |report| {
            report.lag.is_some_and(|lag| lag.packets == 3)
        })
        .await;
    assert_eq!(shown(), [3.0, 2.0]);
    running.lag.fail(Unhealthy("away".to_owned()));
    running.broker.set(Err("away"));
    running
        .until("nothing known", |report| report.unacknowledged.is_none())
        .await;
    assert!(shown().iter().all(|figure| figure.is_nan()), "{:?}", shown());
    running.stopped().await;
}

#[tokio::test]
async fn what_other_members_count_is_told_too() {
    use warren_domain::ports::{Countable, TallyBook as _};
    let book = ScriptedBook::new([]);
    let running = run(book.clone(), quick(), Until::default());
    running
        .until("consuming", |report| report.state == GroupState::Consuming)
        .await;
    let others: Vec<_> = critical(7).iter().map(Countable::from).collect();
    book.count(&others).await.unwrap();
    running
        .until("their counts", |report| report.received.total() == 7)
        .await;
    running.stopped().await;
}
