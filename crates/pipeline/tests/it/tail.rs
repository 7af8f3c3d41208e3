//! Watching through a hub: nothing is missing without being said, and nothing comes twice.

use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use warren_adapter_conformance::samples::{message, messages};
use warren_adapter_conformance::scripted_live::ScriptedLive;
use warren_domain::ports::LiveEvent;
use warren_domain::{Message, MessageId, Query, Selection, Severity, SeverityCounts, SeveritySet};
use warren_pipeline::tail::{
    Cursor, Gap, GapReason, Hub, NotReading, Reader, TailConfig, Told, Wanted, What,
};

fn small(keep_messages: usize) -> TailConfig {
    TailConfig {
        keep_messages,
        ..TailConfig::default()
    }
}

fn hub(config: TailConfig) -> (Arc<ScriptedLive>, Hub) {
    let live = ScriptedLive::new();
    (Arc::clone(&live), Hub::start(live, config))
}

pub(crate) fn wanting(severities: &str, query: &str) -> Wanted {
    Wanted {
        selection: Selection::of(severities.parse().unwrap()),
        query: query.parse().unwrap(),
    }
}

pub(crate) fn everything() -> Wanted {
    Wanted {
        selection: Selection::of(SeveritySet::ALL),
        query: Query::default(),
    }
}

async fn reader(hub: &Hub) -> Reader {
    hub.read(everything(), None).await.unwrap()
}

/// Reads until nothing has come for a second of the paused clock.
pub(crate) async fn all(reader: &mut Reader) -> Vec<Told> {
    let mut told = Vec::new();
    while let Ok(Some(more)) = timeout(Duration::from_secs(1), reader.next()).await {
        assert!(!more.is_empty());
        told.extend(more);
    }
    told
}

pub(crate) fn ids(told: &[Told]) -> Vec<MessageId> {
    let id = |told: &Told| match &told.what {
        What::Message(heard) => Some(heard.message.id),
        What::Gap(_) => None,
    };
    told.iter().filter_map(id).collect()
}

pub(crate) fn gaps(told: &[Told]) -> Vec<Gap> {
    let gap = |told: &Told| match told.what {
        What::Message(_) => None,
        What::Gap(gap) => Some(gap),
    };
    told.iter().filter_map(gap).collect()
}

pub(crate) fn ids_of(messages: &[Message]) -> Vec<MessageId> {
    messages.iter().map(|message| message.id).collect()
}

#[tokio::test(start_paused = true)]
async fn readers_share_one_listener_and_each_gets_what_it_wants_from_now_on() {
    let (live, hub) = hub(TailConfig::default());
    assert_eq!(live.begun(), 0, "nobody reads, so nothing is listened to");
    let mut first = reader(&hub).await;
    let before = messages(10);
    live.publish(&before);
    assert_eq!(ids(&all(&mut first).await), ids_of(&before));

    let mut readers = Vec::new();
    for _ in 0..100 {
        readers.push(reader(&hub).await);
    }
    let mut some = hub
        .read(wanting("error,critical", "\"message 4\""), None)
        .await
        .unwrap();
    let sent = messages(1_000);
    live.publish(&sent);
    for reader in &mut readers {
        let told = all(reader).await;
        assert_eq!(ids(&told), ids_of(&sent));
        assert_eq!(gaps(&told), []);
    }
    let wanted: Vec<_> = sent
        .iter()
        .filter(|message| message.severity >= Severity::Error && message.body.as_str().contains("message 4"))
        .map(|message| message.id)
        .collect();
    assert!(!wanted.is_empty());
    assert_eq!(ids(&all(&mut some).await), wanted);
    assert_eq!(live.begun(), 1);
    assert_eq!(hub.readers(), 102);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_stands_still_gets_all_that_is_kept_and_how_many_it_has_missed() {
    let (live, hub) = hub(small(100));
    let mut plain = reader(&hub).await;
    let mut grave = hub.read(wanting("critical", ""), None).await.unwrap();
    let mut picky = hub.read(wanting("critical", "message"), None).await.unwrap();
    let sent = messages(1_000);
    live.publish(&sent);
    sleep(Duration::from_secs(10)).await;

    let told = all(&mut plain).await;
    assert_eq!(ids(&told), ids_of(&sent[900..]));
    let [gap] = gaps(&told)[..] else { panic!("one gap") };
    assert!(matches!(told[0].what, What::Gap(_)), "the gap is where it is");
    assert_eq!((gap.skipped, gap.missed), (Some(900), Some(900)));
    assert_eq!(gap.reason, GapReason::SlowReader);
    assert!(gap.from <= gap.until);

    // A fifth of them is critical.
    let told = all(&mut grave).await;
    assert_eq!(ids(&told).len(), 20);
    let [gap] = gaps(&told)[..] else { panic!("one gap") };
    assert_eq!((gap.skipped, gap.missed), (Some(900), Some(180)));
    let [gap] = gaps(&all(&mut picky).await)[..] else {
        panic!("one gap")
    };
    assert_eq!((gap.skipped, gap.missed), (Some(900), None));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_has_missed_nothing_it_wants_is_told_of_no_gap() {
    let (live, hub) = hub(small(10));
    let mut grave = hub.read(wanting("critical", ""), None).await.unwrap();
    let debug: Vec<_> = (0..100).map(|_| message(Severity::Debug, "a", "x")).collect();
    live.publish(&debug);
    sleep(Duration::from_secs(10)).await;
    let sent = [message(Severity::Critical, "a", "x")];
    live.publish(&sent);
    let told = all(&mut grave).await;
    assert_eq!((ids(&told), gaps(&told)), (ids_of(&sent), vec![]));
}

#[tokio::test(start_paused = true)]
async fn whoever_comes_back_goes_on_behind_its_cursor() {
    let (live, hub) = hub(TailConfig::default());
    let mut one = reader(&hub).await;
    let sent = messages(500);
    live.publish(&sent[..300]);
    let told = all(&mut one).await;
    drop(one);
    live.publish(&sent[300..]);
    sleep(Duration::from_secs(10)).await;
    for (place, Told { cursor, .. }) in told.iter().enumerate().step_by(37) {
        let cursor: Cursor = cursor.to_string().parse().unwrap();
        let mut back = hub.read(everything(), Some(cursor)).await.unwrap();
        let told = all(&mut back).await;
        assert_eq!(ids(&told), ids_of(&sent[place + 1..]), "from {place}");
        assert_eq!(gaps(&told), []);
    }
    assert_eq!(live.begun(), 1, "it goes on listening for a while");
}

#[tokio::test(start_paused = true)]
async fn whoever_comes_back_too_late_or_to_another_process_is_told_so() {
    let (live, here) = hub(small(100));
    let mut one = reader(&here).await;
    let sent = messages(1_000);
    live.publish(&sent[..10]);
    let cursor = all(&mut one).await.pop().unwrap().cursor;
    live.publish(&sent[10..]);
    sleep(Duration::from_secs(1)).await;
    let mut late = here.read(everything(), Some(cursor)).await.unwrap();
    let told = all(&mut late).await;
    assert_eq!(ids(&told), ids_of(&sent[900..]));
    let [gap] = gaps(&told)[..] else { panic!("one gap") };
    assert_eq!((gap.missed, gap.reason), (Some(890), GapReason::LateReader));

    let (live, there) = hub(small(100));
    let mut moved = there.read(everything(), Some(cursor)).await.unwrap();
    live.publish(&sent[..10]);
    let told = all(&mut moved).await;
    assert_eq!(ids(&told), ids_of(&sent[..10]));
    let [gap] = gaps(&told)[..] else { panic!("one gap") };
    assert_eq!((gap.missed, gap.reason), (None, GapReason::OtherProcess));
}

#[tokio::test(start_paused = true)]
async fn what_was_not_heard_is_said_where_it_is_missing() {
    let (live, hub) = hub(TailConfig::default());
    let mut reader = reader(&hub).await;
    let sent = messages(4);
    live.publish(&sent[..1]);
    let missed = SeverityCounts::from_iter([Severity::Info; 7]);
    live.say(&LiveEvent::Missed {
        messages: Some(missed),
    });
    live.publish(&sent[1..2]);
    let reason = "the connection was lost".to_owned();
    live.say(&LiveEvent::Lost { reason });
    live.say(&LiveEvent::Listening);
    live.publish(&sent[2..3]);
    sleep(Duration::from_secs(1)).await;
    live.hang_up();
    sleep(Duration::from_secs(10)).await;
    live.publish(&sent[3..]);
    let told = all(&mut reader).await;
    let said: Vec<_> = told
        .iter()
        .map(|told| match &told.what {
            What::Message(heard) => heard.message.body.as_str().to_owned(),
            What::Gap(gap) => format!("{} {:?}", gap.reason.as_str(), gap.missed),
        })
        .collect();
    assert_eq!(
        said,
        [
            "message 0",
            "overrun Some(7)",
            "message 1",
            "broker_lost None",
            "message 2",
            "broker_lost None",
            "message 3"
        ]
    );
    assert_eq!(live.begun(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_comes_faster_than_it_may_be_read_is_passed_over_and_counted_for_each_who_reads() {
    let config = TailConfig {
        max_messages_per_second: 1_000,
        ..TailConfig::default()
    };
    let (live, hub) = hub(config);
    let mut everybody = reader(&hub).await;
    let mut errors = hub.read(wanting("error", ""), None).await.unwrap();
    let mut critical = hub.read(wanting("critical", ""), None).await.unwrap();
    let mut words = hub.read(wanting("error", "message"), None).await.unwrap();
    let severities = [Severity::Error, Severity::Info];
    let sent: Vec<_> = (0..5_000)
        .map(|n| message(severities[n % 2], "shop", &format!("message {n}")))
        .collect();
    live.publish(&sent);
    sleep(Duration::from_secs(3)).await;
    let last = [message(Severity::Critical, "shop", "message last")];
    live.publish(&last);

    let told = all(&mut everybody).await;
    let [gap] = gaps(&told)[..] else { panic!("one gap") };
    let read = ids(&told).len() - 1;
    assert!((1_000..=1_100).contains(&read), "{read}");
    assert_eq!(ids(&told)[..read], ids_of(&sent[..read]));
    assert_eq!(ids(&told)[read..], ids_of(&last));
    let missed = (5_000 - read) as u64;
    assert_eq!((gap.missed, gap.skipped), (Some(missed), Some(missed)));
    assert_eq!(gap.reason, GapReason::Overrun);

    let told = all(&mut errors).await;
    let [gap] = gaps(&told)[..] else { panic!("one gap") };
    assert_eq!(ids(&told).len() as u64 + gap.missed.unwrap(), 2_500);
    assert_eq!(gap.skipped, Some(missed));
    let told = all(&mut words).await;
    let [gap] = gaps(&told)[..] else { panic!("one gap") };
    assert_eq!((gap.missed, gap.skipped), (None, Some(missed)));
    let told = all(&mut critical).await;
    assert_eq!((ids(&told), gaps(&told)), (ids_of(&last), vec![]));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_listened_to_when_nobody_has_read_for_a_while() {
    let (live, hub) = hub(TailConfig::default());
    let mut one = reader(&hub).await;
    let sent = messages(2);
    live.publish(&sent[..1]);
    let cursor = all(&mut one).await.pop().unwrap().cursor;
    drop(one);
    sleep(TailConfig::default().linger + Duration::from_secs(1)).await;
    assert_eq!((hub.readers(), live.listening()), (0, 0));
    // Nobody has heard this.
    live.publish(&messages(10));
    let mut back = hub.read(everything(), Some(cursor)).await.unwrap();
    let mut new = reader(&hub).await;
    live.publish(&sent[1..]);
    let told = all(&mut back).await;
    assert_eq!(ids(&told), ids_of(&sent[1..]));
    let [gap] = gaps(&told)[..] else { panic!("one gap") };
    assert_eq!((gap.missed, gap.reason), (None, GapReason::Unattended));
    let told = all(&mut new).await;
    assert_eq!((ids(&told), gaps(&told)), (ids_of(&sent[1..]), vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_published_again_is_told_once() {
    let (live, hub) = hub(TailConfig::default());
    let mut reader = reader(&hub).await;
    let sent = messages(10);
    live.publish(&sent);
    live.publish(&sent[5..]);
    assert_eq!(ids(&all(&mut reader).await), ids_of(&sent));
}

#[tokio::test(start_paused = true)]
async fn whoever_cannot_read_is_told_why() {
    let (live, hub) = hub(TailConfig {
        max_readers: 2,
        ..TailConfig::default()
    });
    live.set_down(Some("it is being repaired"));
    let refused = hub.read(everything(), None).await.unwrap_err();
    let reason = "it is being repaired".to_owned();
    assert_eq!(refused, NotReading::Unavailable { reason });
    live.set_down(None);
    let (mut one, _two) = (reader(&hub).await, reader(&hub).await);
    let full = hub.read(everything(), None).await.unwrap_err();
    assert_eq!(full, NotReading::Full { most: 2 });
    drop(one);
    one = reader(&hub).await;

    // What has come before the end is told before it.
    let sent = messages(3);
    live.publish(&sent);
    sleep(Duration::from_millis(10)).await;
    hub.close();
    let told = one.next().await.unwrap();
    assert_eq!(ids(&told), ids_of(&sent));
    assert!(one.next().await.is_none());
    drop(one);
    let closed = hub.read(everything(), None).await.unwrap_err();
    assert_eq!(closed, NotReading::Closed);
}

#[tokio::test(start_paused = true)]
async fn whatever_the_pace_every_message_is_told_or_counted() {
    for seed in 0..20 {
        let mut dice = fastrand::Rng::with_seed(seed);
        let (live, hub) = hub(TailConfig {
            max_bytes_per_second: ByteSize::kib(dice.u64(64..1_024)),
            ..small(dice.usize(1..200))
        });
        let mut reader = reader(&hub).await;
        let (mut published, mut told, mut missed) = (0, 0, 0);
        for _ in 0..50 {
            let sent = messages(dice.usize(0..100));
            published += sent.len() as u64;
            live.publish(&sent);
            sleep(Duration::from_millis(dice.u64(0..50))).await;
            if dice.u8(0..4) == 0 {
                // Somebody who leaves with its cursor and comes back is no other reader.
                let cursor = reader.cursor();
                reader = hub.read(everything(), Some(cursor)).await.unwrap();
            }
            if dice.bool()
                && let Ok(Some(more)) = timeout(Duration::from_millis(100), reader.next()).await
            {
                told += ids(&more).len() as u64;
                missed += gaps(&more).iter().filter_map(|gap| gap.missed).sum::<u64>();
                reader.sent(more.len() * dice.usize(0..1_000));
            }
        }
        let rest = all(&mut reader).await;
        told += ids(&rest).len() as u64;
        missed += gaps(&rest).iter().filter_map(|gap| gap.missed).sum::<u64>();
        assert_eq!(told + missed, published, "seed {seed}");
    }
}

/// How many bytes a message takes where tests share them.
const EACH: usize = 1_000;

/// What one reader was told until the hub was closed.
#[derive(Debug, Default)]
struct Share {
    told: u64,
    missed: u64,
    gaps: Vec<Gap>,
}

impl Share {
    async fn of(mut reader: Reader) -> Self {
        let mut share = Self::default();
        while let Some(more) = reader.next().await {
            share.told += ids(&more).len() as u64;
            share.gaps.extend(gaps(&more));
            reader.sent(ids(&more).len() * EACH);
        }
        share.missed = share.gaps.iter().filter_map(|gap| gap.missed).sum();
        share
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_passes_over_gaps_of_the_hub_comes_to_what_comes_now_at_once() {
    // The first looks at what it passes over, the others need not.
    for (severities, query) in [("debug+", "message"), ("debug+", ""), ("error+", "")] {
        let (live, hub) = hub(TailConfig {
            max_bytes_per_second: ByteSize::kib(64),
            ..TailConfig::default()
        });
        let mut reader = hub.read(wanting(severities, query), None).await.unwrap();
        let sent = messages(2_001);
        live.publish(&sent[..1]);
        let told = all(&mut reader).await;
        // It has had its share for a minute.
        reader.sent(64 << 10 << 6);
        let (mut came, mut found) = (ids(&told).len(), Vec::new());
        for part in sent[1..].chunks(500) {
            live.publish(part);
            live.say(&LiveEvent::Missed {
                messages: Some(SeverityCounts::from_iter([Severity::Error; 7])),
            });
        }
        let began = Instant::now();
        let mut places = Vec::new();
        while began.elapsed() < Duration::from_secs(10) {
            if let Ok(Some(told)) = timeout(Duration::from_secs(1), reader.next()).await {
                came += ids(&told).len();
                found.extend(gaps(&told).into_iter().map(|gap| (gap, began.elapsed())));
                places.extend(told.iter().map(|told| told.cursor));
            }
        }
        // Whoever breaks off between two of them comes back in front of the next.
        for (told, place) in places.into_iter().enumerate().step_by(2) {
            let mut back = hub.read(wanting(severities, query), Some(place)).await.unwrap();
            let rest = gaps(&all(&mut back).await);
            let overruns = rest.iter().filter(|gap| gap.reason == GapReason::Overrun);
            assert_eq!(overruns.count(), 4 - told / 2, "behind {told}");
        }
        let reasons: Vec<_> = found.iter().map(|(gap, _)| gap.reason.as_str()).collect();
        assert_eq!(
            reasons,
            ["rate_limited", "overrun"].repeat(4),
            "{severities} {query}"
        );
        let (first, last) = (found[0].1, found[7].1);
        assert!(last - first < Duration::from_millis(500), "{first:?} to {last:?}");
        let limited = found
            .iter()
            .filter(|(gap, _)| gap.reason == GapReason::RateLimited);
        let missed: u64 = limited.filter_map(|(gap, _)| gap.missed).sum();
        let wanted = wanting(severities, query);
        let wanted = sent.iter().filter(|message| wanted.matches(message)).count();
        assert_eq!(came as u64 + missed, wanted as u64, "{severities} {query}");
        // It is behind everything: what comes then it gets.
        sleep(Duration::from_secs(60)).await;
        let more = [message(Severity::Critical, "shop", "message more")];
        live.publish(&more);
        assert_eq!(ids(&all(&mut reader).await), ids_of(&more));
    }
}

/// Publishes for so many seconds, a thousand messages in each, and ends it.
async fn flood(live: &ScriptedLive, hub: &Hub, seconds: usize) {
    for _ in 0..seconds * 10 {
        live.publish(&messages(100));
        sleep(Duration::from_millis(100)).await;
    }
    // Who waits for its share at the end is not sent the rest.
    sleep(Duration::from_secs(1)).await;
    hub.close();
}

#[tokio::test(start_paused = true)]
async fn readers_share_what_may_be_sent_and_each_is_told_exactly_how_many_it_was_not_sent() {
    const SECONDS: usize = 30;
    // Two readers could have everything.
    let (live, hub) = hub(TailConfig {
        max_bytes_per_second: ByteSize(2_000_000),
        ..TailConfig::default()
    });
    let mut greedy = JoinSet::new();
    for _ in 0..9 {
        greedy.spawn(Share::of(reader(&hub).await));
    }
    // A fifth of a fifth of a thousand a second: less than its share.
    let modest = hub
        .read(wanting("critical", "\"message 4\""), None)
        .await
        .unwrap();
    let modest = tokio::spawn(Share::of(modest));
    // Words are looked for in what is passed over, too.
    let picky = hub.read(wanting("debug+", "message"), None).await.unwrap();
    greedy.spawn(Share::of(picky));
    flood(&live, &hub, SECONDS).await;

    let published = (SECONDS * 1_000) as u64;
    let shares = greedy.join_all().await;
    let all: u64 = shares.iter().map(|share| share.told).sum();
    assert!(
        all * EACH as u64 <= 2_000_000 * (SECONDS as u64 + 2),
        "{all} were sent"
    );
    assert!(
        all * EACH as u64 >= 1_800_000 * (SECONDS as u64 - 1),
        "{all} were sent"
    );
    for share in &shares {
        assert_eq!(share.told + share.missed, published);
        assert!(
            share.told.abs_diff(all / 10) < all / 50,
            "{} of {all}",
            share.told
        );
        assert!(
            share.gaps.iter().all(|gap| gap.reason == GapReason::RateLimited),
            "{:?}",
            share.gaps
        );
        // Not for every message that is left out.
        assert!(share.gaps.len() <= SECONDS, "{}", share.gaps.len());
    }
    let modest = modest.await.unwrap();
    assert_eq!((modest.missed, modest.gaps.len()), (0, 0));
    assert!(modest.told > 0);
}

#[tokio::test(start_paused = true)]
async fn one_who_reads_alone_gets_all_of_a_burst_that_is_more_than_a_second_of_what_may_be_sent() {
    let (live, hub) = hub(TailConfig {
        max_bytes_per_second: ByteSize(1_000_000),
        ..TailConfig::default()
    });
    let alone = tokio::spawn(Share::of(reader(&hub).await));
    live.publish(&messages(2_000));
    sleep(Duration::from_secs(10)).await;
    hub.close();
    let alone = alone.await.unwrap();
    assert_eq!((alone.told, alone.gaps), (2_000, vec![]));
}

#[tokio::test(start_paused = true)]
async fn who_leaves_while_it_waits_for_its_share_and_comes_back_is_told_of_everything_once() {
    let (live, hub) = hub(TailConfig {
        max_bytes_per_second: ByteSize(100_000),
        ..TailConfig::default()
    });
    let mut one = reader(&hub).await;
    let (mut published, mut accounted) = (0, 0);
    for round in 0..200 {
        live.publish(&messages(100));
        published += 100;
        if let Ok(Some(more)) = timeout(Duration::from_millis(100), one.next()).await {
            accounted += ids(&more).len() as u64;
            accounted += gaps(&more).iter().filter_map(|gap| gap.missed).sum::<u64>();
            one.sent(ids(&more).len() * EACH);
        }
        if round % 7 == 0 {
            let cursor = one.cursor();
            one = hub.read(everything(), Some(cursor)).await.unwrap();
        }
    }
    hub.close();
    let rest = Share::of(one).await;
    assert_eq!(accounted + rest.told + rest.missed, published);
}
