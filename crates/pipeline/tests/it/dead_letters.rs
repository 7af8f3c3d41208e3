//! Dead letters are kept before they are acknowledged, and removed only after their messages are published.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use warren_adapter_conformance::PATIENCE;
use warren_adapter_conformance::dead_letters::letter;
use warren_adapter_conformance::samples::{message, messages};
use warren_adapter_conformance::scripted::{PublishStep, ScriptedPublisher, ScriptedStore, Settled};
use warren_adapter_conformance::scripted_letters::ScriptedDeadLetters;
use warren_domain::ports::{
    DeadDelivery, DeadLetter, DeadLetterConsumer, DeadLetterCounts, DeadLetterFilter, DeadLetterId,
    DeadLetterPlace, DeadLetters, DeadLettersError, DeadSettlement, Death, HealthCheck, KeptLetter,
    LetterFacts, MessagePublisher, PublishError, Revision, SettleError, Unpublished,
};
use warren_domain::{Message, Severity, TraceContext};
use warren_pipeline::dead_letters::{Begun, DeadLetterJobs, JobAction, JobReport, JobState, KeepLoop};

use crate::recorder::Recorded;
use crate::store_loop::{quick, run};

/// Makes the letter of a message, that died at `second`.
fn letter_of(message: &Message, second: i64) -> DeadLetter {
    let mut line = Vec::new();
    message.append_json_line(&mut line);
    let letter = letter(&line, second);
    DeadLetter {
        facts: LetterFacts {
            id: DeadLetterId::of_message(message.id),
            severity: Some(message.severity),
            source: Some(message.source.clone()),
            ..letter.facts
        },
        ..letter
    }
}

async fn kept(messages: &[Message], garbage: usize) -> Arc<ScriptedDeadLetters> {
    let letters = ScriptedDeadLetters::new();
    let mut batch: Vec<_> = (0..)
        .zip(messages)
        .map(|(n, message)| letter_of(message, n))
        .collect();
    batch.extend((0..garbage).map(|n| letter(format!("garbage {n}").as_bytes(), 7)));
    letters.keep(&batch).await.unwrap();
    letters
}

async fn left(letters: &ScriptedDeadLetters) -> u64 {
    letters.count(&DeadLetterFilter::default()).await.unwrap().total()
}

async fn begun(jobs: &DeadLetterJobs, action: JobAction, filter: DeadLetterFilter) -> JobReport {
    match jobs.begin(action, filter).await.unwrap() {
        Begun::Job(report) => report,
        Begun::Busy(other) => panic!("busy with {other:?}"),
    }
}

async fn ended(jobs: &DeadLetterJobs, id: &str) -> JobReport {
    let ending = async {
        loop {
            let report = jobs.job(id).unwrap();
            if report.state != JobState::Running {
                return report;
            }
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, ending).await.expect("the job ends")
}

fn ids(messages: &[Message]) -> BTreeSet<String> {
    messages.iter().map(|message| message.id.to_string()).collect()
}

fn everything() -> DeadLetterFilter {
    DeadLetterFilter::default()
}

#[tokio::test]
async fn three_poison_rows_in_ten_thousand_cost_their_neighbours_nothing() {
    let sent = messages(10_000);
    let poison = [3, 4_711, 9_999].map(|place| sent[place].id);
    let store = ScriptedStore::new([]);
    poison.iter().for_each(|id| store.refuse(*id));
    let mut running = run(store.clone(), quick());
    for packet in sent.chunks(500) {
        running.queue.feed(packet.to_vec()).await;
    }
    let settled = timeout(PATIENCE, running.queue.until_settled(20)).await.unwrap();
    running.stopped().await;
    let mut dead = Vec::new();
    for (number, outcome) in settled {
        let Settled::Acknowledged(refused) = outcome else {
            panic!("{outcome:?}");
        };
        for refused in refused {
            assert_eq!(refused.reason.code, "refused_by_store");
            dead.push(sent[number * 500 + refused.index].id);
        }
    }
    dead.sort_unstable();
    let mut expected = poison.to_vec();
    expected.sort_unstable();
    assert_eq!(dead, expected, "each of them, and nothing else");
    assert_eq!(store.rows().len(), 9_997, "every neighbour, once");
}

#[tokio::test]
async fn a_redrive_publishes_every_message_under_its_id_and_removes_its_letter() {
    let sent = messages(1_234);
    let letters = kept(&sent, 0).await;
    let publisher = ScriptedPublisher::new([]);
    let jobs = DeadLetterJobs::new(letters.clone(), publisher.clone());
    let report = begun(&jobs, JobAction::Redrive, everything()).await;
    assert_eq!(
        (report.total, report.left, report.state),
        (1_234, 1_234, JobState::Running)
    );
    let report = ended(&jobs, &report.id).await;
    assert_eq!(report.state, JobState::Done);
    assert_eq!((report.done, report.left, report.changed), (1_234, 0, 0));
    assert_eq!((report.unreadable, report.failed), (0, 0));
    assert_eq!(ids(&publisher.taken()), ids(&sent));
    assert_eq!(publisher.taken().len(), sent.len());
    assert_eq!(left(&letters).await, 0);
    assert!(report.ended_at.is_some() && jobs.all().len() == 1);
    // Once more finds nothing.
    let again = begun(&jobs, JobAction::Redrive, everything()).await;
    assert_eq!(ended(&jobs, &again.id).await.total, 0);
    assert_eq!(publisher.taken().len(), sent.len());
}

#[tokio::test]
async fn what_cannot_be_read_stays_with_its_reason_and_holds_up_nobody() {
    let sent = messages(20);
    let letters = kept(&sent, 5).await;
    let zipped = DeadLetter {
        facts: LetterFacts {
            content_encoding: Some("gzip".into()),
            ..letter_of(&message(Severity::Info, "s", "x"), 3).facts
        },
        ..letter_of(&message(Severity::Info, "s", "x"), 3)
    };
    letters.keep(&[zipped, letter(b"", 1)]).await.unwrap();
    let publisher = ScriptedPublisher::new([]);
    let jobs = DeadLetterJobs::new(letters.clone(), publisher.clone());
    let report = begun(&jobs, JobAction::Redrive, everything()).await;
    let report = ended(&jobs, &report.id).await;
    assert_eq!((report.total, report.done, report.unreadable), (27, 20, 7));
    assert_eq!(ids(&publisher.taken()), ids(&sent));
    assert_eq!(left(&letters).await, 7);
    for part in ["JSON", "gzip", "nothing is in it"] {
        assert!(
            report.reasons.iter().any(|reason| reason.contains(part)),
            "{part}: {report:?}"
        );
    }
}

#[tokio::test]
async fn a_letter_of_many_lines_publishes_those_that_can_be_read_and_stays() {
    let sent = messages(3);
    let mut lines = Vec::new();
    sent.iter()
        .for_each(|message| message.append_json_line(&mut lines));
    let whole = letter(&lines, 1);
    lines.extend(b"\n  \nnot json");
    let letters = ScriptedDeadLetters::new();
    letters.keep(&[whole, letter(&lines, 2)]).await.unwrap();
    let publisher = ScriptedPublisher::new([]);
    let jobs = DeadLetterJobs::new(letters.clone(), publisher.clone());
    let report = begun(&jobs, JobAction::Redrive, everything()).await;
    let report = ended(&jobs, &report.id).await;
    assert_eq!((report.done, report.unreadable), (1, 1));
    assert_eq!(ids(&publisher.taken()), ids(&sent));
    assert_eq!(left(&letters).await, 1);
}

#[tokio::test]
async fn only_what_the_broker_has_taken_is_removed() {
    let sent = messages(10);
    let letters = kept(&sent, 0).await;
    let refused = PublishError::Refused {
        reason: "never".to_owned(),
    };
    let unroutable = PublishError::Unroutable {
        reason: "nowhere".to_owned(),
    };
    let publisher = ScriptedPublisher::new([
        PublishStep::FailAt(vec![0, 4], PublishError::unavailable("away")),
        PublishStep::FailAt(vec![1], refused),
    ]);
    let jobs = DeadLetterJobs::new(letters.clone(), publisher.clone());
    let report = begun(&jobs, JobAction::Redrive, everything()).await;
    let report = ended(&jobs, &report.id).await;
    assert_eq!((report.done, report.failed, report.left), (9, 1, 0));
    assert!(report.reasons[0].contains("never"), "{report:?}");
    assert_eq!(publisher.taken().len(), 9);
    assert_eq!(left(&letters).await, 1);
    let publisher = ScriptedPublisher::new([PublishStep::Fail(unroutable)]);
    let jobs = DeadLetterJobs::new(letters.clone(), publisher);
    let report = begun(&jobs, JobAction::Redrive, everything()).await;
    assert_eq!(ended(&jobs, &report.id).await.failed, 1);
    assert_eq!(left(&letters).await, 1);
}

/// A publisher behind which every message dies again before the redrive hears of its confirm.
#[derive(Debug)]
struct Refusing(Arc<ScriptedDeadLetters>);

#[async_trait]
impl MessagePublisher for Refusing {
    async fn publish(&self, messages: Vec<Message>, _: Option<TraceContext>) -> Result<(), Unpublished> {
        for message in messages {
            let again = DeadLetter {
                death: Death::of([message.id.as_uuid().as_bytes(), b"again"]),
                ..letter_of(&message, 99)
            };
            self.0.keep(&[again]).await.unwrap();
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_letter_that_dies_again_while_it_is_redriven_is_not_lost_and_not_met_twice() {
    let letters = kept(&messages(700), 0).await;
    let jobs = DeadLetterJobs::new(letters.clone(), Arc::new(Refusing(letters.clone())));
    let report = begun(&jobs, JobAction::Redrive, everything()).await;
    let report = ended(&jobs, &report.id).await;
    assert_eq!(
        (report.state, report.done, report.changed),
        (JobState::Done, 700, 700)
    );
    assert_eq!(left(&letters).await, 700);
    let page = letters.list(&everything(), None, 1).await.unwrap();
    assert_eq!(page[0].facts.attempts, 2);
}

#[tokio::test]
async fn a_job_waits_for_what_is_away_says_so_and_can_be_cancelled() {
    let letters = kept(&messages(5), 0).await;
    let away = std::iter::repeat_n(
        PublishStep::Fail(PublishError::unavailable("gone fishing")),
        10_000,
    );
    let publisher = ScriptedPublisher::new(away);
    let jobs = DeadLetterJobs::new(letters.clone(), publisher);
    let report = begun(&jobs, JobAction::Redrive, everything()).await;
    let waiting = async {
        while jobs.job(&report.id).unwrap().waiting.is_none() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, waiting)
        .await
        .expect("it says what it waits for");
    let told = jobs.job(&report.id).unwrap().waiting.unwrap();
    assert!(told.contains("gone fishing"), "{told}");
    // One at a time.
    let other = jobs.begin(JobAction::Purge, everything()).await.unwrap();
    assert!(matches!(other, Begun::Busy(running) if running.id == report.id));
    jobs.cancel(&report.id).unwrap();
    let report = ended(&jobs, &report.id).await;
    assert_eq!(
        (report.state, report.done, report.left),
        (JobState::Cancelled, 0, 5)
    );
    assert_eq!(left(&letters).await, 5);
    assert_eq!(jobs.job("unknown"), None);
    assert_eq!(jobs.cancel("unknown"), None);
    jobs.close(PATIENCE).await;
}

/// A publisher that tells the job to stop while it publishes, and then does what its script says.
#[derive(Debug)]
struct Cancelling {
    jobs: OnceLock<DeadLetterJobs>,
    script: Arc<ScriptedPublisher>,
}

#[async_trait]
impl MessagePublisher for Cancelling {
    async fn publish(&self, messages: Vec<Message>, trace: Option<TraceContext>) -> Result<(), Unpublished> {
        let jobs = self.jobs.get().unwrap();
        jobs.all().iter().for_each(|job| drop(jobs.cancel(&job.id)));
        self.script.publish(messages, trace).await
    }
}

#[tokio::test]
async fn a_job_that_is_told_to_stop_while_it_publishes_removes_and_counts_what_was_confirmed() {
    let recorded = Recorded::default();
    let _recording = metrics::set_default_local_recorder(&recorded);
    let sent = messages(600);
    for (script, confirmed) in [
        (Vec::new(), 500),
        (
            vec![PublishStep::FailAt(
                vec![0, 7, 499],
                PublishError::unavailable("gone fishing"),
            )],
            497,
        ),
    ] {
        let letters = kept(&sent, 0).await;
        let script = ScriptedPublisher::new(script);
        let publisher = Arc::new(Cancelling {
            jobs: OnceLock::new(),
            script: script.clone(),
        });
        let jobs = DeadLetterJobs::new(letters.clone(), publisher.clone());
        publisher.jobs.set(jobs.clone()).unwrap();
        let report = begun(&jobs, JobAction::Redrive, everything()).await;
        let report = ended(&jobs, &report.id).await;
        assert_eq!(
            (report.state, report.done, report.left),
            (JobState::Cancelled, confirmed, 600 - confirmed)
        );
        assert_eq!(script.taken().len() as u64, confirmed);
        assert_eq!(
            left(&letters).await,
            600 - confirmed,
            "no letter stays whose message was confirmed"
        );
    }
    assert_eq!(recorded.count("warren_dead_letters_redriven_total"), 2 * 500);
}

#[tokio::test]
async fn a_letter_of_many_messages_counts_as_each_of_them_and_each_try_counts() {
    let recorded = Recorded::default();
    let _recording = metrics::set_default_local_recorder(&recorded);
    let mut lines = Vec::new();
    messages(3)
        .iter()
        .for_each(|message| message.append_json_line(&mut lines));
    let letters = ScriptedDeadLetters::new();
    letters.keep(&[letter(&lines, 1)]).await.unwrap();
    let away = PublishStep::FailAt(vec![1, 2], PublishError::unavailable("away"));
    let jobs = DeadLetterJobs::new(letters.clone(), ScriptedPublisher::new([away]));
    let report = begun(&jobs, JobAction::Redrive, everything()).await;
    assert_eq!(ended(&jobs, &report.id).await.done, 1);
    assert_eq!(recorded.count("warren_dead_letters_redriven_total"), 3 + 2);
}

#[tokio::test]
async fn a_job_survives_letters_that_are_away_for_a_while() {
    let sent = messages(30);
    let letters = kept(&sent, 0).await;
    let publisher = ScriptedPublisher::new([]);
    let jobs = DeadLetterJobs::new(letters.clone(), publisher.clone());
    letters.fail([unavailable()]);
    assert!(jobs.begin(JobAction::Redrive, everything()).await.is_err());
    let report = begun(&jobs, JobAction::Redrive, everything()).await;
    letters.fail([unavailable(), unavailable()]);
    let report = ended(&jobs, &report.id).await;
    assert_eq!((report.state, report.done), (JobState::Done, 30));
    assert_eq!(left(&letters).await, 0);
}

#[tokio::test]
async fn nothing_is_published_of_letters_that_can_only_be_looked_at() {
    let letters = kept(&messages(10), 0).await;
    letters.set_read_only("it is a standby");
    let publisher = ScriptedPublisher::new([]);
    let jobs = DeadLetterJobs::new(letters, publisher.clone());
    for action in [JobAction::Redrive, JobAction::Purge] {
        let refused = jobs.begin(action, everything()).await.unwrap_err();
        assert!(matches!(refused, DeadLettersError::ReadOnly { .. }), "{refused}");
    }
    assert_eq!(publisher.taken(), []);
    assert!(jobs.all().is_empty());
}

#[tokio::test]
async fn a_purge_removes_what_its_filter_means_and_publishes_nothing() {
    let letters = kept(&messages(10), 1_200).await;
    let publisher = ScriptedPublisher::new([]);
    let jobs = DeadLetterJobs::new(letters.clone(), publisher.clone());
    let filter = DeadLetterFilter {
        source: "shop.#".parse().ok(),
        ..everything()
    };
    let meant = letters.count(&filter).await.unwrap().total();
    assert!((1_200..1_210).contains(&meant));
    let report = begun(&jobs, JobAction::Purge, filter).await;
    let report = ended(&jobs, &report.id).await;
    assert_eq!((report.total, report.done, report.left), (meant, meant, 0));
    assert_eq!(left(&letters).await, 1_210 - meant);
    assert_eq!(publisher.taken(), []);
}

/// Letters among which another one appears, with an old time of death, whenever a page of them was read.
#[derive(Debug)]
struct Growing {
    letters: Arc<ScriptedDeadLetters>,
    grown: AtomicUsize,
}

#[async_trait]
impl DeadLetters for Growing {
    async fn list(
        &self,
        filter: &DeadLetterFilter,
        after: Option<DeadLetterPlace>,
        limit: usize,
    ) -> Result<Vec<KeptLetter>, DeadLettersError> {
        let page = self.letters.list(filter, after, limit).await?;
        let n = self.grown.fetch_add(1, Ordering::Relaxed);
        self.letters
            .keep(&[letter(format!("late {n}").as_bytes(), -100)])
            .await?;
        Ok(page)
    }

    async fn read(&self, ids: &[DeadLetterId]) -> Result<Vec<(KeptLetter, Vec<u8>)>, DeadLettersError> {
        self.letters.read(ids).await
    }

    async fn show(
        &self,
        id: DeadLetterId,
        most: usize,
    ) -> Result<Option<(KeptLetter, Vec<u8>)>, DeadLettersError> {
        self.letters.show(id, most).await
    }

    async fn count(&self, filter: &DeadLetterFilter) -> Result<DeadLetterCounts, DeadLettersError> {
        self.letters.count(filter).await
    }

    async fn keep(&self, letters: &[DeadLetter]) -> Result<(), DeadLettersError> {
        self.letters.keep(letters).await
    }

    async fn remove(&self, letters: &[(DeadLetterId, Revision)]) -> Result<u64, DeadLettersError> {
        self.letters.remove(letters).await
    }
}

#[tokio::test]
async fn a_purge_removes_no_letter_that_was_not_counted() {
    let letters = Arc::new(Growing {
        letters: kept(&messages(10), 1_200).await,
        grown: AtomicUsize::new(0),
    });
    let jobs = DeadLetterJobs::new(letters.clone(), ScriptedPublisher::new([]));
    let seen = letters.count(&everything()).await.unwrap();
    // It dies between the count that somebody has confirmed and the job.
    letters.keep(&[letter(b"between", 50)]).await.unwrap();
    let confirmed = DeadLetterFilter {
        as_of: seen.newest,
        ..everything()
    };
    let report = begun(&jobs, JobAction::Purge, confirmed).await;
    let report = ended(&jobs, &report.id).await;
    assert_eq!((report.total, report.done, report.left), (1_210, 1_210, 0));
    let grown = letters.grown.load(Ordering::Relaxed) as u64;
    assert!(grown > 2);
    assert_eq!(left(&letters.letters).await, 1 + grown);
    // Nothing counted, nothing removed.
    let nothing = DeadLetterFilter {
        reasons: vec!["never seen".to_owned()],
        ..everything()
    };
    let report = begun(&jobs, JobAction::Purge, nothing).await;
    assert_eq!(ended(&jobs, &report.id).await.done, 0);
}

fn unavailable() -> DeadLettersError {
    DeadLettersError::Unavailable {
        reason: "as scripted".to_owned(),
        cause: None,
    }
}

/// A consumer that yields what it is fed, and tells what was acknowledged.
#[derive(Debug)]
struct Fed {
    deliveries: mpsc::Receiver<DeadDelivery>,
    closed: CancellationToken,
}

#[async_trait]
impl DeadLetterConsumer for Fed {
    async fn next(&mut self) -> Option<DeadDelivery> {
        self.deliveries.recv().await
    }

    async fn close(&mut self) {
        self.deliveries.close();
        self.closed.cancel();
    }
}

#[derive(Debug)]
struct Told(mpsc::Sender<bool>, bool);

#[async_trait]
impl DeadSettlement for Told {
    async fn acknowledge(mut self: Box<Self>) -> Result<(), SettleError> {
        self.1 = true;
        Ok(())
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.0.try_send(self.1).unwrap();
    }
}

#[tokio::test]
async fn letters_are_acknowledged_once_they_are_kept_and_wait_while_that_is_impossible() {
    let (feed, deliveries) = mpsc::channel(8);
    let (settled, mut told) = mpsc::channel(8);
    let closed = CancellationToken::new();
    let consumer = Fed {
        deliveries,
        closed: closed.clone(),
    };
    let letters = ScriptedDeadLetters::new();
    // Away when the loop begins, and twice when the first delivery is there.
    letters.fail([unavailable()]);
    let keeping = KeepLoop::new(Box::new(consumer), letters.clone(), &quick());
    let (health, stop) = (keeping.health(), CancellationToken::new());
    assert!(health.check().await.is_err());
    let running = tokio::spawn(keeping.run(stop.clone()));
    let batch: Vec<_> = (0..3).map(|n| letter(&[n], 1)).collect();
    let delivery = |letters: Vec<DeadLetter>| DeadDelivery {
        letters,
        settlement: Box::new(Told(settled.clone(), false)),
    };
    feed.send(delivery(batch.clone())).await.unwrap();
    assert_eq!(timeout(PATIENCE, told.recv()).await.unwrap(), Some(true));
    assert_eq!(left(&letters).await, 3);
    health.check().await.unwrap();
    // The acknowledgement was lost: they come again, and are the same letters.
    feed.send(delivery(batch)).await.unwrap();
    assert_eq!(timeout(PATIENCE, told.recv()).await.unwrap(), Some(true));
    assert_eq!(left(&letters).await, 3);

    letters.fail(std::iter::repeat_n(unavailable(), 100_000));
    feed.send(delivery(vec![letter(b"late", 1)])).await.unwrap();
    let paused = async {
        while health.check().await.is_ok() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, paused).await.expect("it says that it waits");
    let reason = health.check().await.unwrap_err().to_string();
    assert!(reason.contains("as scripted"), "{reason}");
    stop.cancel();
    timeout(PATIENCE, running).await.expect("the loop ends").unwrap();
    assert_eq!(told.recv().await, Some(false), "what was not kept is given back");
    assert!(closed.is_cancelled());
}
