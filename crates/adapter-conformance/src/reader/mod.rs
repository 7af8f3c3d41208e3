//! The contract of [`MessageReader`].
//!
//! What has to be found is what [`Search::means`] among everything that was stored.

mod archive;

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use async_trait::async_trait;
use fastrand::Rng;
use serde_json::json;
use warren_domain::ports::{
    Bucket, Counts, Found, MOST_FOUND, MOST_FOUND_BYTES, MOST_PATTERNS, MOST_SOURCES, MessageReader,
    MessageStore, Order, Place, ReadError, Search, StoredMessage, TimeRange,
};
use warren_domain::{Message, MessageId, Query, Selection, Severity, SeverityCounts, SeveritySet, Timestamp};

use self::archive::Archive;
use crate::samples::{extremes, message, message_made_at, messages, same, with_attributes};

/// A store with nothing in it, isolated from every other test, and readers of it.
#[async_trait]
pub trait ReaderUnderTest: Send + Sync + 'static {
    /// Returns what stores messages.
    fn store(&self) -> Arc<dyn MessageStore>;

    /// Returns what finds them.
    fn reader(&self) -> Arc<dyn MessageReader>;

    /// Returns one that ends each search as soon as it has come any further.
    fn hasty_reader(&self) -> Arc<dyn MessageReader>;

    /// Makes counts take longer to be read than any reader waits, and returns one whose statements have 100 ms; `None` where
    /// no count is ever slow.
    async fn reader_of_slow_counts(&self) -> Option<Arc<dyn MessageReader>>;

    /// Does one round of the store's maintenance.
    async fn maintain(&self);

    /// Removes what the test has left.
    async fn tear_down(&self);
}

/// Runs every test of the reader's contract on what `$make` yields.
#[macro_export]
macro_rules! reader_suite {
    ($make:expr) => {
        $crate::suite!(
            reader,
            $make,
            an_empty_store_has_nothing_and_says_so,
            whatever_is_asked_for_is_found_whole_once_and_in_order,
            a_search_that_is_ended_goes_on_without_a_gap_and_without_a_repetition,
            what_is_rare_is_found_behind_more_counts_than_are_read_at_once,
            a_range_holds_its_beginning_and_not_its_end,
            ids_of_any_time_and_of_one_moment_are_found,
            texts_are_found_as_they_are,
            numbers_are_found_by_what_they_are_worth,
            attributes_are_found_by_their_name_and_by_their_path,
            a_message_is_fetched_with_the_time_it_was_stored,
            neighbours_are_what_lies_beside_a_message,
            a_page_of_large_messages_ends_early,
            a_page_holds_at_least_one_message_and_no_more_than_may_be,
            what_is_stored_while_pages_are_turned_changes_nothing_behind_them,
            what_is_stored_ahead_while_pages_are_turned_is_found,
            counts_are_those_of_the_messages,
            sources_are_those_of_the_messages,
            more_sources_than_are_listed_are_told_of,
            what_is_too_much_is_refused_with_its_limit,
            counts_that_are_not_read_in_time_are_too_much_unless_little_is_asked_for,
        );
    };
}

#[doc(hidden)]
pub async fn tear_down(subject: &dyn ReaderUnderTest) {
    subject.tear_down().await;
}

/// Asks for everything.
fn everything() -> Search {
    Search {
        selection: Selection::of(SeveritySet::ALL),
        query: Query::default(),
        range: TimeRange::ALL,
        order: Order::NewestFirst,
        from: None,
    }
}

fn asking(query: &str) -> Search {
    Search {
        query: query.parse().unwrap(),
        ..everything()
    }
}

fn at(micros: i64) -> Timestamp {
    Timestamp::from_unix_micros(micros).unwrap()
}

fn range(from: i64, until: i64) -> TimeRange {
    TimeRange::new(at(from), at(until)).unwrap()
}

fn ids(messages: &[Message]) -> Vec<MessageId> {
    messages.iter().map(|message| message.id).collect()
}

fn ids_found(found: &[StoredMessage]) -> Vec<MessageId> {
    found.iter().map(|stored| stored.message.id).collect()
}

/// Turns every page.
async fn all_pages(reader: &dyn MessageReader, search: &Search, limit: usize) -> Vec<StoredMessage> {
    let (mut search, mut all) = (search.clone(), Vec::new());
    loop {
        let Found { messages, next } = reader.find(&search, limit).await.unwrap();
        assert!(
            messages.len() <= limit,
            "{search:?}: {} of {limit}",
            messages.len()
        );
        all.extend(messages);
        let Some(next) = next else { return all };
        let further = match (search.from, search.order) {
            (None, _) => true,
            (Some(before), Order::NewestFirst) => next < before,
            (Some(before), Order::OldestFirst) => next > before,
        };
        assert!(further, "{search:?}: {next} is no further");
        search.from = Some(next);
    }
}

/// Returns what `search` means of `messages`, in its order.
fn meant<'m>(messages: &'m [Message], search: &Search) -> Vec<&'m Message> {
    let mut meant: Vec<_> = messages.iter().filter(|message| search.means(message)).collect();
    meant.sort_by_key(|message| message.id);
    if search.order == Order::NewestFirst {
        meant.reverse();
    }
    meant
}

/// Turns every page, and asserts that on them is what is meant.
async fn assert_found(reader: &dyn MessageReader, messages: &[Message], search: &Search, limit: usize) {
    let expected = meant(messages, search);
    let found = all_pages(reader, search, limit).await;
    let (found_ids, expected_ids) = (ids_found(&found), expected.iter().map(|message| message.id));
    assert!(
        found_ids.iter().copied().eq(expected_ids),
        "{} found, {} meant by {} in {search:?}",
        found.len(),
        expected.len(),
        search.query
    );
    for (found, expected) in found.iter().zip(expected) {
        assert!(same(&found.message, expected), "now {found:?}\n was {expected:?}");
    }
}

/// Asserts which of `messages` a query finds, both as their positions and as the oracle has it.
async fn assert_finds(subject: &dyn ReaderUnderTest, messages: &[Message], query: &str, positions: &[usize]) {
    let search = asking(query);
    let expected: Vec<_> = positions.iter().map(|position| messages[*position].id).collect();
    let found = all_pages(&*subject.reader(), &search, 100).await;
    let mut found = ids_found(&found);
    found.reverse();
    assert_eq!(found, expected, "{query}");
    assert_found(&*subject.reader(), messages, &search, 100).await;
}

pub async fn an_empty_store_has_nothing_and_says_so(subject: &dyn ReaderUnderTest) {
    let reader = subject.reader();
    for order in [Order::NewestFirst, Order::OldestFirst] {
        for query in ["", "word", "severity:error source:a.#"] {
            let search = Search {
                order,
                ..asking(query)
            };
            assert_eq!(reader.find(&search, 10).await.unwrap(), Found::default());
        }
    }
    assert_eq!(reader.fetch(MessageId::generate()).await.unwrap(), None);
    let counts = Counts {
        selection: Selection::of(SeveritySet::ALL),
        range: TimeRange::ALL,
        minutes: NonZeroU32::MAX,
    };
    assert_eq!(reader.counts(&counts).await.unwrap(), []);
    let sources = reader.sources(TimeRange::ALL, SeveritySet::ALL).await.unwrap();
    assert_eq!((sources.sources, sources.more), (Vec::new(), false));
}

pub async fn whatever_is_asked_for_is_found_whole_once_and_in_order(subject: &dyn ReaderUnderTest) {
    let mut archive = Archive::stored_in(subject, 1).await;
    let reader = subject.reader();
    for _ in 0..60 {
        let (search, limit) = archive.search();
        assert_found(&*reader, &archive.messages, &search, limit).await;
    }
    for order in [Order::NewestFirst, Order::OldestFirst] {
        let search = Search {
            order,
            ..everything()
        };
        assert_found(&*reader, &archive.messages, &search, 1_000).await;
    }
}

pub async fn a_search_that_is_ended_goes_on_without_a_gap_and_without_a_repetition(
    subject: &dyn ReaderUnderTest,
) {
    let mut archive = Archive::stored_in(subject, 2).await;
    let reader = subject.hasty_reader();
    for round in 0..20 {
        let (search, limit) = archive.search();
        assert_found(&*reader, &archive.messages, &search, limit).await;
        if round == 10 {
            subject.maintain().await;
        }
    }
}

pub async fn what_is_rare_is_found_behind_more_counts_than_are_read_at_once(subject: &dyn ReaderUnderTest) {
    let (now, minute) = (Timestamp::now().unix_micros(), 60_000_000);
    let day = 1_440 * minute;
    let made = |severity, source: &str, time: i64| Message {
        id: message_made_at(at(time)).id,
        ..message(severity, source, "one of many")
    };
    let rare = |time| made(Severity::Error, "rare.one", time);
    // Each a count of its own.
    let many = |end: i64| {
        let one = move |n: i64| made(Severity::Info, &format!("many.{n}"), end - n % 40 * minute);
        (0..2_600).map(one)
    };
    let mut messages = vec![
        rare(now - 400 * day),
        rare(now - 400 * day + 15 * minute),
        rare(now - 100 * day),
    ];
    messages.extend(many(now - 200 * day).chain(many(now)));
    for batch in messages.chunks(900) {
        subject.store().store(batch).await.unwrap();
    }
    for maintained in [false, true] {
        if maintained {
            subject.maintain().await;
            // Counted, but not maintained, far from and near to what is.
            let late = [now - 300 * day, now - 150 * day, now - 100 * day + 20 * minute].map(rare);
            subject.store().store(&late).await.unwrap();
            messages.extend(late);
        }
        for order in [Order::NewestFirst, Order::OldestFirst] {
            for query in [
                "severity:error",
                "source:rare.#",
                "severity:error \"of many\"",
                "severity:critical",
            ] {
                let search = Search {
                    order,
                    ..asking(query)
                };
                assert_found(&*subject.reader(), &messages, &search, 2).await;
                assert_found(&*subject.hasty_reader(), &messages, &search, 100).await;
            }
        }
    }
}

pub async fn a_range_holds_its_beginning_and_not_its_end(subject: &dyn ReaderUnderTest) {
    let now = Timestamp::now().unix_micros() / 60_000_000 * 60_000_000;
    let times = [now - 1_000, now, now + 1_000, now + 60_000_000];
    let messages: Vec<_> = times.iter().map(|time| message_made_at(at(*time))).collect();
    subject.store().store(&messages).await.unwrap();
    for from in times {
        for until in times {
            for (before, after) in [(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1), (-1, 1), (-999, 999)] {
                let (from, until) = (from + before, until + after);
                if from >= until {
                    continue;
                }
                let search = Search {
                    range: range(from, until),
                    ..everything()
                };
                assert_found(&*subject.reader(), &messages, &search, 10).await;
            }
        }
    }
}

pub async fn ids_of_any_time_and_of_one_moment_are_found(subject: &dyn ReaderUnderTest) {
    let now = Timestamp::now();
    let year = 365 * 86_400_000_000;
    let mut messages: Vec<_> = [
        Timestamp::MIN,
        at(59_999_000),
        at(60_000_000),
        at(now.unix_micros() - year),
        at(now.unix_micros() + year),
        Timestamp::MAX,
    ]
    .into_iter()
    .map(message_made_at)
    .collect();
    // Senders choose their ids, and may choose one time for all of them.
    messages.extend((0..500).map(|_| message_made_at(now)));
    subject.store().store(&messages).await.unwrap();
    for order in [Order::NewestFirst, Order::OldestFirst] {
        for (query, limit) in [
            ("", 7),
            ("made", 50),
            ("nothing", 50),
            ("source:clock", 499),
            ("source:other", 5),
        ] {
            let search = Search {
                order,
                ..asking(query)
            };
            assert_found(&*subject.reader(), &messages, &search, limit).await;
        }
    }
    for message in [&messages[0], &messages[5], &messages[9]] {
        let search = asking(&format!("id:{}", message.id));
        assert_found(&*subject.reader(), &messages, &search, 5).await;
    }
    assert_found(
        &*subject.reader(),
        &messages,
        &asking(&format!("id:{}", MessageId::generate())),
        5,
    )
    .await;
}

pub async fn texts_are_found_as_they_are(subject: &dyn ReaderUnderTest) {
    let bodies = [
        "100% of it",
        "100 of it",
        "a_b",
        "axb",
        r"back\slash",
        "it's 'quoted'",
        "say \"hello\"",
        "Straße É İ ſ \u{212a}",
        "strasse é i s k",
        "👩‍👩‍👧 e\u{301} \u{fffd}",
        "line\nbreak\ttab",
        "; drop table messages; --",
        "$1 $2 ?1 :a @b {} {0}",
        "[a-z]+ (.*) ^$ *",
        "",
    ];
    let messages: Vec<_> = bodies
        .iter()
        .map(|body| message(Severity::Info, "texts", body))
        .collect();
    subject.store().store(&messages).await.unwrap();
    for (query, positions) in [
        ("%", &[0][..]),
        ("\"100% OF\"", &[0]),
        ("_", &[2]),
        ("a_B", &[2]),
        ("\\", &[4]),
        (r"back\slash", &[4]),
        ("'", &[5]),
        ("\"'QUOTED'\"", &[5]),
        (r#""say \"HELLO\"""#, &[6]),
        ("straße", &[7]),
        ("É", &[7]),
        ("é", &[8]),
        ("İ", &[7]),
        ("\u{212a}", &[7]),
        ("\u{301}", &[9]),
        ("\u{fffd}", &[9]),
        ("👧", &[9]),
        ("\"line\nbreak\"", &[10]),
        ("\"drop table\"", &[11]),
        ("\"; --\"", &[11]),
        ("$1", &[12]),
        ("?1", &[12]),
        ("{0}", &[12]),
        ("\"[a-z]+\"", &[13]),
        ("(.*)", &[13]),
        ("\"^$\"", &[13]),
        ("absent", &[]),
    ] {
        assert_finds(subject, &messages, query, positions).await;
    }
    for query in ["-a", "-%", "-\\ -'", "it -100", "k K", "-absent"] {
        assert_found(&*subject.reader(), &messages, &asking(query), 4).await;
    }
    let long = "x".repeat(Query::MOST_BYTES);
    assert_found(&*subject.reader(), &messages, &asking(&long), 4).await;
    let many = "e ".repeat(Query::MOST_TERMS);
    assert_found(&*subject.reader(), &messages, &asking(&many), 4).await;
}

pub async fn numbers_are_found_by_what_they_are_worth(subject: &dyn ReaderUnderTest) {
    let values = [
        json!(1),
        json!(1.0),
        json!("1"),
        json!(0.1),
        json!(-0.0),
        json!(9_007_199_254_740_993_i64),
        json!(9_007_199_254_740_992.0),
        json!(u64::MAX),
        json!(1e17),
        json!(100_000_000_000_000_000_i64),
        json!(f64::MAX),
        json!(5e-324),
        json!([1]),
        json!({ "n": 1 }),
        json!(true),
        json!(null),
    ];
    let messages: Vec<_> = values
        .iter()
        .map(|value| with_attributes(message(Severity::Info, "numbers", "n"), json!({ "n": value })))
        .collect();
    subject.store().store(&messages).await.unwrap();
    for (query, positions) in [
        ("n=1", &[0, 1, 2][..]),
        ("n=1.0", &[0, 1]),
        ("n=1e0", &[0, 1]),
        ("n=\"1\"", &[2]),
        ("n=0.1", &[3]),
        ("n=0.10", &[3]),
        ("n=0", &[4]),
        ("n=9007199254740993", &[5, 6]),
        ("n=1e17", &[8, 9]),
        ("n=100000000000000000", &[8, 9]),
        ("n=5e-324", &[11]),
        ("n=true", &[14]),
        ("n=null", &[15]),
        ("n=\"null\"", &[]),
        ("n.n=1", &[13]),
        ("n.0=1", &[]),
    ] {
        assert_finds(subject, &messages, query, positions).await;
    }
    let largest = format!("n={:e}", f64::MAX);
    for query in [
        "n!=1",
        "-n=1",
        "n=9007199254740992.0",
        "n=18446744073709551615",
        "n=1.8446744073709552e19",
        &largest,
    ] {
        assert_found(&*subject.reader(), &messages, &asking(query), 5).await;
    }
}

pub async fn attributes_are_found_by_their_name_and_by_their_path(subject: &dyn ReaderUnderTest) {
    let attributes = [
        json!({ "http.status": 200 }),
        json!({ "http": { "status": 200 } }),
        json!({ "http": [{ "status": 200 }], "status": 200 }),
        json!({ "http": { "status": { "code": 200 } } }),
        json!({ "a b": "c d", "it's": "'; --", "%": "_" }),
        json!({ "": 1, "..": 2, "ключ": "значение", "q\"": "\\" }),
        json!({ "text": "http.status=200", "empty": "" }),
        json!({ "$.http.status": 200, "http'||'status": 200 }),
    ];
    let messages: Vec<_> = attributes
        .iter()
        .map(|attributes| with_attributes(message(Severity::Info, "attributes", "a"), attributes.clone()))
        .collect();
    subject.store().store(&messages).await.unwrap();
    for (query, positions) in [
        ("http.status=200", &[0, 1][..]),
        ("status=200", &[2]),
        ("http.0.status=200", &[]),
        ("http.status.code=200", &[3]),
        ("\"a b\"=\"c d\"", &[4]),
        ("\"it's\"=\"'; --\"", &[4]),
        ("\"%\"=_", &[4]),
        ("\"\"=1", &[5]),
        ("\"..\"=2", &[5]),
        ("ключ=значение", &[5]),
        (r#""q\""=\"#, &[5]),
        ("empty=\"\"", &[6]),
        ("$.http.status=200", &[7]),
        ("\"http'||'status\"=200", &[7]),
        ("http.status=\"200\"", &[]),
    ] {
        assert_finds(subject, &messages, query, positions).await;
    }
    for query in [
        "-http.status=200",
        "http.status!=200 status!=200",
        "-\"it's\"=\"'; --\"",
    ] {
        assert_found(&*subject.reader(), &messages, &asking(query), 3).await;
    }
}

pub async fn a_message_is_fetched_with_the_time_it_was_stored(subject: &dyn ReaderUnderTest) {
    let batch = [extremes(), messages(20)].concat();
    subject.store().store(&batch).await.unwrap();
    for message in &batch {
        let stored = subject.reader().fetch(message.id).await.unwrap().unwrap();
        assert!(same(&stored.message, message), "now {stored:?}\n was {message:?}");
        let age = stored
            .stored_at
            .unix_micros()
            .abs_diff(Timestamp::now().unix_micros());
        assert!(age < 60_000_000, "{stored:?}");
    }
    assert_eq!(subject.reader().fetch(MessageId::generate()).await.unwrap(), None);
}

pub async fn neighbours_are_what_lies_beside_a_message(subject: &dyn ReaderUnderTest) {
    let batch = messages(30);
    subject.store().store(&batch).await.unwrap();
    let (id, all) = (batch[15].id, ids(&batch));
    for (order, expected) in [
        (Order::OldestFirst, all[16..19].to_vec()),
        (Order::NewestFirst, vec![all[14], all[13], all[12]]),
    ] {
        let beside = Search {
            order,
            from: Some(Place::behind(id)),
            ..everything()
        };
        let found = subject.reader().find(&beside, 3).await.unwrap();
        assert_eq!(ids_found(&found.messages), expected);
    }
}

pub async fn a_page_of_large_messages_ends_early(subject: &dyn ReaderUnderTest) {
    let (body, attribute) = ("x".repeat(200 << 10), "x".repeat(60 << 10));
    let large = (0..60).map(|_| message(Severity::Info, "large.body", &body));
    let heavy = (0..200).map(|_| {
        let message = message(Severity::Info, "large.attributes", "x");
        with_attributes(message, json!({ "large": attribute }))
    });
    let batch: Vec<_> = large.chain(heavy).collect();
    for batch in batch.chunks(20) {
        subject.store().store(batch).await.unwrap();
    }
    let most = MOST_FOUND_BYTES + batch.iter().map(bytes).max().unwrap();
    for source in ["large.body", "large.attributes", "large.*"] {
        for order in [Order::NewestFirst, Order::OldestFirst] {
            let search = Search {
                order,
                ..asking(&format!("source:{source}"))
            };
            let page = subject.reader().find(&search, 1_000).await.unwrap();
            let found: usize = page.messages.iter().map(|stored| bytes(&stored.message)).sum();
            assert!(page.next.is_some() && found < most, "{source}: {found} bytes");
            assert!(found > MOST_FOUND_BYTES / 2, "{source}: {found} bytes");
            assert_found(&*subject.reader(), &batch, &search, 1_000).await;
        }
    }
}

pub async fn a_page_holds_at_least_one_message_and_no_more_than_may_be(subject: &dyn ReaderUnderTest) {
    let batch = messages(MOST_FOUND + 20);
    for batch in batch.chunks(400) {
        subject.store().store(batch).await.unwrap();
    }
    for (limit, expected) in [
        (0, 1),
        (1, 1),
        (MOST_FOUND + 10, MOST_FOUND),
        (usize::MAX, MOST_FOUND),
    ] {
        let page = subject.reader().find(&everything(), limit).await.unwrap();
        assert_eq!(page.messages.len(), expected, "limit {limit}");
        assert!(page.next.is_some());
    }
}

/// How much a message counts for towards the length of a page.
fn bytes(message: &Message) -> usize {
    let attributes = serde_json::to_vec(&message.attributes).unwrap();
    message.source.as_str().len() + message.body.as_str().len() + attributes.len()
}

pub async fn what_is_stored_while_pages_are_turned_changes_nothing_behind_them(
    subject: &dyn ReaderUnderTest,
) {
    let (reader, store) = (subject.reader(), subject.store());
    let first = messages(100);
    store.store(&first).await.unwrap();
    let (mut search, mut found, mut later) = (everything(), Vec::new(), Vec::new());
    loop {
        let page = reader.find(&search, 9).await.unwrap();
        found.extend(ids_found(&page.messages));
        let Some(next) = page.next else { break };
        search.from = Some(next);
        let batch = messages(10);
        store.store(&batch).await.unwrap();
        later.extend(batch);
        subject.maintain().await;
    }
    found.reverse();
    assert_eq!(found, ids(&first));
    assert_found(&*reader, &[first, later].concat(), &everything(), 100).await;
}

pub async fn what_is_stored_ahead_while_pages_are_turned_is_found(subject: &dyn ReaderUnderTest) {
    let (reader, store) = (subject.reader(), subject.store());
    let mut all = messages(60);
    store.store(&all).await.unwrap();
    let mut search = Search {
        order: Order::OldestFirst,
        ..asking("message")
    };
    let (mut found, mut pages) = (Vec::new(), 0);
    loop {
        let page = reader.find(&search, 9).await.unwrap();
        found.extend(ids_found(&page.messages));
        pages += 1;
        if pages <= 5 {
            assert!(page.next.is_some(), "there are more");
            let batch = messages(10);
            store.store(&batch).await.unwrap();
            all.extend(batch);
            subject.maintain().await;
        }
        let Some(next) = page.next else { break };
        search.from = Some(next);
    }
    assert_eq!(found, ids(&all));
}

pub async fn counts_are_those_of_the_messages(subject: &dyn ReaderUnderTest) {
    let mut archive = Archive::stored_in(subject, 3).await;
    let reader = subject.reader();
    for round in 0..60 {
        let (search, _) = archive.search();
        let span = search.range.until().unix_micros() - search.range.from().unix_micros();
        let least = u32::try_from(span / 60_000_000 / 1_000 + 1).unwrap();
        let width = *archive
            .rng
            .choice(&[1, 5, 7, 15, 30, 60, 1_440, 1_000_000])
            .unwrap();
        let wanted = Counts {
            selection: search.selection,
            range: search.range,
            minutes: NonZeroU32::new(width.max(least)).unwrap(),
        };
        let (minutes, width) = (wanted.range.minutes(), i64::from(wanted.minutes.get()));
        let mut expected: BTreeMap<i64, SeverityCounts> = BTreeMap::new();
        for message in archive
            .messages
            .iter()
            .filter(|message| wanted.selection.matches(message))
        {
            let minute = message.id.timestamp().unix_micros() / 60_000_000;
            if minutes.contains(&minute) {
                expected
                    .entry(minute / width)
                    .or_default()
                    .add(message.severity, 1);
            }
        }
        let expected: Vec<_> = expected
            .into_iter()
            .map(|(bucket, counts)| Bucket {
                start: at(bucket * width * 60_000_000),
                counts,
            })
            .collect();
        assert_eq!(reader.counts(&wanted).await.unwrap(), expected, "{wanted:?}");
        if round == 30 {
            subject.maintain().await;
        }
    }
}

pub async fn sources_are_those_of_the_messages(subject: &dyn ReaderUnderTest) {
    let mut archive = Archive::stored_in(subject, 4).await;
    let reader = subject.reader();
    for round in 0..40 {
        let (search, _) = archive.search();
        let (range, severities) = (search.range, search.selection.severities);
        let mut expected: BTreeMap<_, SeverityCounts> = BTreeMap::new();
        for message in &archive.messages {
            let minute = message.id.timestamp().unix_micros() / 60_000_000;
            if range.minutes().contains(&minute) && severities.contains(message.severity) {
                expected
                    .entry(message.source.clone())
                    .or_default()
                    .add(message.severity, 1);
            }
        }
        let listed = reader.sources(range, severities).await.unwrap();
        assert!(!listed.more);
        assert_eq!(
            listed.sources,
            expected.into_iter().collect::<Vec<_>>(),
            "{range:?} {severities:?}"
        );
        if round == 20 {
            subject.maintain().await;
        }
    }
}

pub async fn more_sources_than_are_listed_are_told_of(subject: &dyn ReaderUnderTest) {
    let batch: Vec<_> = (0..MOST_SOURCES)
        .map(|n| message(Severity::Info, &format!("source.{n:04}"), "one of many"))
        .collect();
    subject.store().store(&batch).await.unwrap();
    let reader = subject.reader();
    let listed = reader.sources(TimeRange::ALL, SeveritySet::ALL).await.unwrap();
    assert_eq!((listed.sources.len(), listed.more), (MOST_SOURCES, false));
    let last = message(Severity::Info, "source.zzz", "one more");
    subject.store().store(&[last]).await.unwrap();
    let listed = reader.sources(TimeRange::ALL, SeveritySet::ALL).await.unwrap();
    assert_eq!((listed.sources.len(), listed.more), (MOST_SOURCES, true));
    assert_eq!(listed.sources[MOST_SOURCES - 1].0.as_str(), "source.0999");
    // However many there are, a pattern finds them.
    let search = asking("source:source.# -source:*.0000");
    assert_eq!(all_pages(&*reader, &search, 400).await.len(), MOST_SOURCES);
}

pub async fn what_is_too_much_is_refused_with_its_limit(subject: &dyn ReaderUnderTest) {
    let reader = subject.reader();
    let mut rng = Rng::with_seed(5);
    let mut pattern = || {
        let segment = |rng: &mut Rng| ["*", "#", "abc-d", "x_y"][rng.usize(..4)];
        let segments: Vec<_> = (0..38).map(|_| segment(&mut rng)).collect();
        segments.join(".").parse().unwrap()
    };
    let mut selection = Selection {
        severities: SeveritySet::ALL,
        sources: (0..MOST_PATTERNS).map(|_| pattern()).collect(),
    };
    let search = |selection: &Selection| Search {
        selection: selection.clone(),
        ..everything()
    };
    let batch = messages(100);
    subject.store().store(&batch).await.unwrap();
    assert_found(&*reader, &batch, &search(&selection), 10).await;
    selection.sources.push("one.more".parse().unwrap());
    let refused = reader.find(&search(&selection), 10).await.unwrap_err();
    assert!(matches!(refused, ReadError::TooMuch { .. }), "{refused}");
    assert!(
        refused.to_string().contains(&MOST_PATTERNS.to_string()),
        "{refused}"
    );

    let counts = |minutes| Counts {
        selection: Selection::of(SeveritySet::ALL),
        range: range(0, 1_500 * 60_000_000 + 1),
        minutes: NonZeroU32::new(minutes).unwrap(),
    };
    assert_eq!(reader.counts(&counts(2)).await.unwrap(), []);
    let refused = reader.counts(&counts(1)).await.unwrap_err();
    assert!(matches!(refused, ReadError::TooMuch { .. }), "{refused}");
    assert!(refused.to_string().contains("1500"), "{refused}");
}

pub async fn counts_that_are_not_read_in_time_are_too_much_unless_little_is_asked_for(
    subject: &dyn ReaderUnderTest,
) {
    subject.store().store(&messages(50)).await.unwrap();
    let Some(reader) = subject.reader_of_slow_counts().await else {
        return;
    };
    let now = Timestamp::now().unix_micros();
    // Of an hour it is no fault of whoever asks.
    for (range, too_much) in [
        (TimeRange::ALL, true),
        (range(now - 3_600_000_000, now + 1), false),
    ] {
        let wanted = Counts {
            selection: Selection::of(SeveritySet::ALL),
            range,
            minutes: NonZeroU32::MAX,
        };
        for slow in [
            reader.counts(&wanted).await.unwrap_err(),
            reader.sources(range, SeveritySet::ALL).await.unwrap_err(),
        ] {
            let as_expected = match slow {
                ReadError::TooMuch { .. } => too_much,
                ReadError::Unavailable { .. } => !too_much,
                ReadError::Misconfigured { .. } => false,
            };
            assert!(as_expected, "{range:?}: {slow:?}");
            assert!(
                slow.to_string().contains("reader.statement_timeout of 100ms"),
                "{slow}"
            );
        }
    }
}
