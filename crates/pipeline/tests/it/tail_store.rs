//! Watching is gone on with from the store: by another process, and where the hub keeps no more.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::sleep;
use warren_adapter_conformance::samples::{message, messages};
use warren_adapter_conformance::scripted_live::ScriptedLive;
use warren_adapter_conformance::scripted_reader::ScriptedReader;
use warren_domain::ports::{GroupLag, Lag, MessageStore, ReadError, Unhealthy};
use warren_domain::{Message, Severity};
use warren_pipeline::tail::{Cursor, GapReason, Hub, Reader, TailConfig, TailStore};

use crate::tail::{all, everything, gaps, ids, ids_of, wanting};

/// What waits for those who store, as a test says.
#[derive(Debug, Default)]
struct Backlog(AtomicU64);

#[async_trait]
impl GroupLag for Backlog {
    async fn lag(&self) -> Result<Lag, Unhealthy> {
        Ok(Lag {
            packets: self.0.load(Ordering::Relaxed),
            ..Lag::default()
        })
    }
}

/// A store, and processes that watch beside it.
#[derive(Default)]
struct Site {
    store: ScriptedReader,
    backlog: Arc<Backlog>,
}

impl Site {
    fn process(&self, config: TailConfig) -> (Arc<ScriptedLive>, Hub) {
        let live = ScriptedLive::new();
        let store = TailStore {
            reader: Arc::new(self.store.clone()),
            backlog: Arc::clone(&self.backlog) as _,
        };
        (Arc::clone(&live), Hub::start_beside_store(live, store, config))
    }

    async fn store(&self, messages: &[Message]) {
        self.store.store(messages).await.unwrap();
    }
}

/// Reads some messages, and returns the place behind them.
async fn read_some(hub: &Hub, live: &ScriptedLive, sent: &[Message]) -> Cursor {
    let mut reader = hub.read(everything(), None).await.unwrap();
    live.publish(sent);
    let told = all(&mut reader).await;
    assert_eq!(ids(&told), ids_of(sent));
    told.last().unwrap().cursor.to_string().parse().unwrap()
}

async fn back(hub: &Hub, cursor: Cursor) -> Reader {
    hub.read(everything(), Some(cursor)).await.unwrap()
}

/// Longer than it takes to catch up, with a store that answers.
async fn caught_up(reader: &mut Reader) -> Vec<warren_pipeline::tail::Told> {
    let mut told = Vec::new();
    for _ in 0..5 {
        told.extend(all(reader).await);
    }
    told
}

#[tokio::test(start_paused = true)]
async fn another_process_goes_on_from_the_store_and_then_with_what_it_hears() {
    let site = Site::default();
    let (live, here) = site.process(TailConfig::default());
    let sent = messages(600);
    let cursor = read_some(&here, &live, &sent[..200]).await;
    // While nobody listens…
    site.store(&sent[..400]).await;
    let (live, there) = site.process(TailConfig::default());
    let mut other = there.read(everything(), None).await.unwrap();
    // …and while another does, some stored before they are heard, some after.
    site.store(&sent[400..450]).await;
    live.publish(&sent[400..500]);
    assert_eq!(ids(&all(&mut other).await), ids_of(&sent[400..500]));
    let mut back = back(&there, cursor).await;
    site.store(&sent[400..500]).await;
    live.publish(&sent[500..]);
    let told = caught_up(&mut back).await;
    site.store(&sent[500..]).await;
    assert_eq!((ids(&told), gaps(&told)), (ids_of(&sent[200..]), vec![]));
    // From here on it is one as every other.
    let more = messages(10);
    live.publish(&more);
    let told = all(&mut back).await;
    assert_eq!(ids(&told), ids_of(&more));
    let mut again = there.read(everything(), Some(told[4].cursor)).await.unwrap();
    assert_eq!(ids(&all(&mut again).await), ids_of(&more[5..]));
}

#[tokio::test(start_paused = true)]
async fn the_messages_of_one_request_are_told_in_order_whatever_the_order_of_their_packets() {
    let site = Site::default();
    let (live, here) = site.process(TailConfig::default());
    let mut reader = here.read(everything(), None).await.unwrap();
    let sent = messages(100);
    site.store(&sent).await;
    let (odd, even): (Vec<_>, Vec<_>) = sent.iter().cloned().enumerate().partition(|(n, _)| n % 2 == 1);
    for half in [odd, even] {
        let half: Vec<_> = half.into_iter().map(|(_, message)| message).collect();
        live.publish(&half);
    }
    let told = all(&mut reader).await;
    assert_eq!(ids(&told), ids_of(&sent));
    // So wherever it breaks off, nothing before the place comes behind it.
    let (_, there) = site.process(TailConfig::default());
    for place in [0, 17, 50, 98] {
        let told = caught_up(&mut back(&there, told[place].cursor).await).await;
        assert_eq!((ids(&told), gaps(&told)), (ids_of(&sent[place + 1..]), vec![]));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_filtered_is_filtered_in_the_store_too() {
    let site = Site::default();
    let (live, here) = site.process(TailConfig::default());
    let sent = messages(500);
    let cursor = read_some(&here, &live, &sent[..100]).await;
    site.store(&sent).await;
    let (_, there) = site.process(TailConfig::default());
    let wanted = wanting("error,critical", "\"message 4\"");
    let mut back = there.read(wanted.clone(), Some(cursor)).await.unwrap();
    let told = caught_up(&mut back).await;
    let expected: Vec<_> = sent[100..]
        .iter()
        .filter(|sent| wanted.matches(sent))
        .map(|sent| sent.id)
        .collect();
    assert!(!expected.is_empty());
    assert_eq!((ids(&told), gaps(&told)), (expected, vec![]));
}

#[tokio::test(start_paused = true)]
async fn whoever_comes_back_too_late_for_what_is_kept_gets_it_from_the_store() {
    let site = Site::default();
    let (live, hub) = site.process(TailConfig {
        keep_messages: 100,
        ..TailConfig::default()
    });
    let sent = messages(1_000);
    let cursor = read_some(&hub, &live, &sent[..50]).await;
    live.publish(&sent[50..]);
    site.store(&sent).await;
    sleep(Duration::from_secs(10)).await;
    let told = caught_up(&mut back(&hub, cursor).await).await;
    assert_eq!((ids(&told), gaps(&told)), (ids_of(&sent[50..]), vec![]));
}

#[tokio::test(start_paused = true)]
async fn whoever_comes_back_when_nothing_was_listened_to_gets_it_from_the_store() {
    let site = Site::default();
    let (live, hub) = site.process(TailConfig::default());
    let sent = messages(300);
    let cursor = read_some(&hub, &live, &sent[..50]).await;
    sleep(TailConfig::default().linger + Duration::from_secs(1)).await;
    assert_eq!(live.listening(), 0);
    site.store(&sent).await;
    let told = caught_up(&mut back(&hub, cursor).await).await;
    assert_eq!((ids(&told), gaps(&told)), (ids_of(&sent[50..]), vec![]));
}

#[tokio::test(start_paused = true)]
async fn what_was_taken_in_before_the_place_and_published_behind_it_is_a_gap() {
    let site = Site::default();
    let (live, here) = site.process(TailConfig::default());
    let sent = messages(100);
    let mut heard = sent[..50].to_vec();
    heard.remove(30);
    let cursor = read_some(&here, &live, &heard).await;
    site.store(&sent).await;
    let (_, there) = site.process(TailConfig::default());
    let told = caught_up(&mut back(&there, cursor).await).await;
    assert_eq!(ids(&told), ids_of(&sent[50..]));
    let [gap] = gaps(&told)[..] else { panic!("one gap") };
    assert_eq!((gap.missed, gap.reason), (None, GapReason::OtherProcess));
    assert!(gap.from <= sent[30].id.timestamp() && sent[30].id.timestamp() <= gap.until);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_stored_yet_is_waited_for_and_a_gap_when_that_takes_too_long() {
    for (drains, gap) in [(true, false), (false, true)] {
        let site = Site::default();
        let (live, here) = site.process(TailConfig::default());
        let sent = messages(100);
        let cursor = read_some(&here, &live, &sent[..50]).await;
        site.store(&sent[..60]).await;
        site.backlog.0.store(1, Ordering::Relaxed);
        let (_, there) = site.process(TailConfig::default());
        let mut back = back(&there, cursor).await;
        let mut told = all(&mut back).await;
        assert_eq!(ids(&told), [], "nothing is told before everything is stored");
        for _ in 0..3 {
            told.extend(all(&mut back).await);
        }
        if drains {
            site.backlog.0.store(0, Ordering::Relaxed);
            told.extend(all(&mut back).await);
            // What is held is stored a moment later.
            site.store(&sent).await;
        }
        for _ in 0..12 {
            told.extend(all(&mut back).await);
        }
        let stored = if drains { &sent[50..] } else { &sent[50..60] };
        assert_eq!(ids(&told), ids_of(stored));
        let gaps: Vec<_> = gaps(&told).iter().map(|gap| gap.missed).collect();
        assert_eq!(gaps, if gap { vec![None] } else { vec![] });
    }
}

#[tokio::test(start_paused = true)]
async fn more_than_may_be_told_is_counted() {
    let site = Site::default();
    let config = || TailConfig {
        resume_messages: 250,
        ..TailConfig::default()
    };
    let (live, here) = site.process(config());
    let sent = messages(1_000);
    let cursor = read_some(&here, &live, &sent[..50]).await;
    site.store(&sent).await;
    let (_, there) = site.process(config());
    let told = caught_up(&mut back(&there, cursor).await).await;
    assert_eq!(ids(&told), ids_of(&sent[50..300]));
    let [gap] = gaps(&told)[..] else { panic!("one gap") };
    assert_eq!(gap.missed, Some(700));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_cannot_be_read_leaves_a_gap_and_the_hub_tells_what_it_knows_itself() {
    let away = || ReadError::Misconfigured {
        reason: "no rights".to_owned(),
        cause: None,
    };
    let site = Site::default();
    let (live, hub) = site.process(TailConfig {
        keep_messages: 100,
        ..TailConfig::default()
    });
    let sent = messages(1_000);
    let cursor = read_some(&hub, &live, &sent[..50]).await;
    live.publish(&sent[50..]);
    sleep(Duration::from_secs(1)).await;
    site.store.fail([away()]);
    let told = caught_up(&mut back(&hub, cursor).await).await;
    assert_eq!(ids(&told), ids_of(&sent[900..]));
    let [gap] = gaps(&told)[..] else { panic!("one gap") };
    assert_eq!((gap.missed, gap.reason), (Some(850), GapReason::LateReader));

    let (live, there) = site.process(TailConfig::default());
    site.store.fail([away()]);
    let mut back = back(&there, cursor).await;
    let more = [message(Severity::Info, "a", "x")];
    live.publish(&more);
    let told = caught_up(&mut back).await;
    assert_eq!(ids(&told), ids_of(&more));
    let [gap] = gaps(&told)[..] else { panic!("one gap") };
    assert_eq!((gap.missed, gap.reason), (None, GapReason::OtherProcess));
}

#[tokio::test(start_paused = true)]
async fn whoever_breaks_off_while_it_is_told_from_the_store_goes_on_there() {
    let site = Site::default();
    let (live, here) = site.process(TailConfig::default());
    let sent = messages(1_000);
    let cursor = read_some(&here, &live, &sent[..50]).await;
    site.store(&sent).await;
    let (_, there) = site.process(TailConfig::default());
    let first = back(&there, cursor).await.next().await.unwrap();
    assert!(first.len() < 900);
    let cursor = first[first.len() / 2].cursor;
    let (_, elsewhere) = site.process(TailConfig::default());
    let told = caught_up(&mut back(&elsewhere, cursor).await).await;
    let from = 50 + first.len() / 2 + 1;
    assert_eq!((ids(&told), gaps(&told)), (ids_of(&sent[from..]), vec![]));
}
