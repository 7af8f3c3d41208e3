//! Filters of what bodies have in them: that searches use them, and miss nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fastrand::Rng;
use metrics_exporter_prometheus::PrometheusBuilder;
use warren_adapter_conformance::samples::message_made_at;
use warren_adapter_postgres::{PostgresConfig, PostgresReader, PostgresStore, ReaderConfig};
use warren_domain::ports::{
    MessageReader, MessageStore, Order as Sorted, Search, StoreError, StoreMaintenance, TimeRange,
};
use warren_domain::{Body, Message, MessageLimits, Selection, Severity, SeveritySet, Timestamp};

use crate::support::{Database, connect, eventually, with_database};

const MINUTE: i64 = 60_000_000;
const DAY: i64 = 24 * 60 * MINUTE;

/// The start of a minute that is over.
fn old_minute() -> i64 {
    (Timestamp::now().unix_micros() / MINUTE - 60) * MINUTE
}

fn moment(micros: i64) -> Timestamp {
    Timestamp::from_unix_micros(micros).unwrap()
}

fn saying(body: &str, micros: i64) -> Message {
    Message {
        body: Body::new(body.to_owned(), &MessageLimits::CEILING).unwrap(),
        ..message_made_at(moment(micros))
    }
}

/// Messages over one minute, each with a number of its own.
fn numbered(count: usize, minute: i64) -> Vec<Message> {
    let apart = MINUTE / i64::try_from(count).unwrap();
    (0_i64..)
        .take(count)
        .map(|n| saying(&format!("order number-{n:06} declined"), minute + n * apart))
        .collect()
}

fn asking(query: &str) -> Search {
    Search {
        selection: Selection::of(SeveritySet::ALL),
        query: query.parse().unwrap(),
        range: TimeRange::ALL,
        order: Sorted::NewestFirst,
        from: None,
    }
}

/// Turns all pages.
async fn all(reader: &PostgresReader, mut search: Search, page: usize) -> Vec<Message> {
    let mut found = Vec::new();
    loop {
        let listed = reader.find(&search, page).await.unwrap();
        found.extend(listed.messages.into_iter().map(|stored| stored.message));
        search.from = listed.next;
        if search.from.is_none() {
            return found;
        }
    }
}

async fn found(reader: &PostgresReader, query: &str) -> usize {
    all(reader, asking(query), 100).await.len()
}

/// Makes every filter say that there is nothing.
async fn empty_the_filters(database: &Database) {
    let empty = "update message_words set filter = decode(repeat('00', octet_length(filter)), 'hex')";
    assert!(
        database.admin.execute(empty, &[]).await.unwrap() > 0,
        "there are filters"
    );
}

async fn maintain(store: &PostgresStore) {
    store.maintain(Timestamp::now()).await.unwrap();
}

const FILTERS: &str = "select count(*) from message_words";
const DUE: &str = "select count(*) from message_minutes where indexed is distinct from stored";

#[tokio::test]
async fn a_search_heeds_the_filters_of_a_minute_until_a_late_message_comes() {
    with_database(|database| async move {
        let (store, reader, minute) = (database.store(), database.reader(), old_minute());
        store.store(&numbered(500, minute)).await.unwrap();
        maintain(&store).await;
        assert_eq!(database.number(DUE).await, 0);
        for (query, expected) in [
            ("number-000123", 1),
            ("NUMBER-00012", 10),
            ("000123 declined", 1),
            ("0001", 100 + 10 + 1),
            ("number-000123 -declined", 0),
            ("kangaroo", 0),
            ("-kangaroo", 500),
            ("de", 500),
        ] {
            assert_eq!(found(&reader, query).await, expected, "{query}");
        }
        empty_the_filters(&database).await;
        assert_eq!(
            found(&reader, "number-000123").await,
            0,
            "the filters are not heeded"
        );
        assert_eq!(found(&reader, "de").await, 500, "too short for a filter");
        assert_eq!(
            found(&reader, "-kangaroo").await,
            500,
            "a filter does not tell what is absent"
        );

        store
            .store(&[saying("late and alone", minute + 1_000)])
            .await
            .unwrap();
        assert_eq!(found(&reader, "number-000123").await, 1, "they are out of date");
        assert_eq!(found(&reader, "late and").await, 1);
        maintain(&store).await;
        assert_eq!(
            database.number("select min(stored) from message_words").await,
            501
        );
        assert_eq!(found(&reader, "number-000123").await, 1, "they are anew");
        assert_eq!(found(&reader, "late and").await, 1);
        store.close().await;
        reader.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_minute_that_is_not_over_or_has_little_gets_no_filter() {
    with_database(|database| async move {
        let store = database.store();
        let now = Timestamp::now().unix_micros();
        store.store(&numbered(300, now / MINUTE * MINUTE)).await.unwrap();
        store.store(&numbered(10, old_minute())).await.unwrap();
        maintain(&store).await;
        assert_eq!(
            (database.number(FILTERS).await, database.number(DUE).await),
            (0, 1)
        );
        store.maintain(moment(now + 5 * MINUTE)).await.unwrap();
        assert_eq!(
            (database.number(FILTERS).await, database.number(DUE).await),
            (1, 0)
        );
        store.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_minute_of_which_not_all_rows_are_in_sight_gets_no_filter() {
    with_database(|database| async move {
        let (store, reader, minute) = (database.store(), database.reader(), old_minute());
        let messages = numbered(200, minute);
        store.store(&messages).await.unwrap();
        let moving = format!(
            "create table aside as select * from messages where id = '{0}'; delete from messages where id = '{0}'",
            messages[123].id
        );
        database.run(&moving).await;
        maintain(&store).await;
        assert_eq!(
            (database.number(FILTERS).await, database.number(DUE).await),
            (0, 0)
        );
        database.run("insert into messages select * from aside").await;
        assert_eq!(found(&reader, "number-000123").await, 1);
        // And one that has more than were counted.
        store.store(&numbered(200, minute + MINUTE)).await.unwrap();
        database
            .run("update message_count_deltas set count = count - 1 where ctid = (select min(ctid) from message_count_deltas)")
            .await;
        maintain(&store).await;
        assert_eq!(
            (database.number(FILTERS).await, database.number(DUE).await),
            (0, 0)
        );
        store.close().await;
        reader.close().await;
    })
    .await;
}

#[tokio::test]
async fn minutes_that_are_settled_have_the_first_turn_and_the_newest_go_first() {
    with_database(|database| async move {
        let (store, hour_ago) = (database.store(), old_minute());
        for minutes in [0, 1, 55, 56] {
            let messages = numbered(100, hour_ago + minutes * MINUTE);
            store.store(&messages).await.unwrap();
        }
        maintain(&store).await;
        let order = format!(
            "select ((date_part('epoch', minute) - {}) / 60)::text from message_words order by xmin::text::bigint",
            hour_ago / 1_000_000
        );
        assert_eq!(database.texts(&order).await, ["1", "0", "56", "55"]);
        store.close().await;
    })
    .await;
}

#[tokio::test]
async fn the_rows_of_a_minute_that_has_millions_are_not_read() {
    with_database(|database| async move {
        let store = database.store();
        store.store(&numbered(100, old_minute())).await.unwrap();
        database
            .run("update message_count_deltas set count = count + 3000000 where ctid = (select min(ctid) from message_count_deltas)")
            .await;
        // Whoever reads them has to wait, and fails.
        let holding = connect(&database.url).await;
        let locking = "begin; lock table messages in access exclusive mode";
        holding.batch_execute(locking).await.unwrap();
        maintain(&store).await;
        assert_eq!(
            (database.number(FILTERS).await, database.number(DUE).await),
            (0, 0)
        );
        store.close().await;
    })
    .await;
}

#[tokio::test]
async fn each_row_of_a_large_minute_is_read_once() {
    const ROWS: i64 = 16_000;
    with_database(|database| async move {
        let (store, minute) = (database.store(), old_minute());
        for messages in numbered(ROWS as usize, minute).chunks(4_000) {
            store.store(messages).await.unwrap();
        }
        maintain(&store).await;
        assert_eq!(database.number(FILTERS).await, 4);
        let read = "select coalesce(sum(idx_tup_fetch), 0)::bigint from pg_stat_user_tables where relname like 'messages\\_%'";
        // A connection tells what it has done once it is closed.
        eventually("it is known what was read", || async {
            database.number(read).await >= ROWS
        })
        .await;
        let read = database.number(read).await;
        assert!(read < ROWS * 3 / 2, "{read} rows read");
        store.close().await;
    })
    .await;
}

#[tokio::test]
async fn the_filters_of_a_large_minute_are_of_parts_of_it() {
    with_database(|database| async move {
        let (store, reader, minute) = (database.store(), database.reader(), old_minute());
        store.store(&numbered(9_000, minute)).await.unwrap();
        let long = |n: i64| saying(&format!("long-{n:03} {}", "x".repeat(10_000)), minute + MINUTE + n * 1_000);
        store.store(&(0..250).map(long).collect::<Vec<_>>()).await.unwrap();
        maintain(&store).await;
        let parts = database
            .texts("select string_agg(part::text, ' ' order by part) from message_words group by minute order by minute")
            .await;
        assert_eq!(parts, ["0 1 2", "0 1 2"], "by rows, and by bytes");
        for n in [0, 4_095, 4_096, 8_999] {
            assert_eq!(found(&reader, &format!("number-{n:06}")).await, 1, "{n}");
        }
        for n in [0, 104, 105, 249] {
            assert_eq!(found(&reader, &format!("long-{n:03}")).await, 1, "{n}");
        }
        assert_eq!(found(&reader, "declined").await, 9_000);
        // Of each minute, all but one part.
        let some = "update message_words set filter = decode(repeat('00', octet_length(filter)), 'hex') where part <> 1";
        assert_eq!(database.admin.execute(some, &[]).await.unwrap(), 4);
        for order in [Sorted::NewestFirst, Sorted::OldestFirst] {
            let search = Search {
                order,
                ..asking("declined")
            };
            assert_eq!(all(&reader, search, 1_000).await.len(), 4_096);
        }
        store.close().await;
        reader.close().await;
    })
    .await;
}

#[tokio::test]
async fn without_the_index_nothing_is_made_and_later_all_of_it_is() {
    with_database(|database| async move {
        let off = PostgresConfig {
            word_index: false,
            ..database.config()
        };
        let store = PostgresStore::new(off.clone(), None).unwrap();
        store.store(&numbered(200, old_minute())).await.unwrap();
        maintain(&store).await;
        assert_eq!(
            (database.number(FILTERS).await, database.number(DUE).await),
            (0, 1)
        );
        let on = database.store();
        maintain(&on).await;
        assert_eq!(
            (database.number(FILTERS).await, database.number(DUE).await),
            (1, 0)
        );
        empty_the_filters(&database).await;
        let reader = PostgresReader::new(&off, &ReaderConfig::default()).unwrap();
        assert_eq!(
            found(&reader, "number-000123").await,
            1,
            "a reader without it does not ask"
        );
        for store in [store, on] {
            store.close().await;
        }
        reader.close().await;
    })
    .await;
}

#[tokio::test]
async fn filters_rule_out_nothing_once_a_count_differs_by_what_is_not_folded() {
    with_database(|database| async move {
        let (store, reader, minute) = (database.store(), database.reader(), old_minute());
        store.store(&numbered(100, minute)).await.unwrap();
        maintain(&store).await;
        empty_the_filters(&database).await;
        for (query, expected) in [("declined", 0), ("declined severity>=debug", 0), ("-declined", 0)] {
            assert_eq!(found(&reader, query).await, expected, "{query}");
        }
        // Folded, it is the same: the minute is not looked at by filters that know nothing of it.
        for fold in [false, true] {
            store.store(&[saying("one more", minute + 5)]).await.unwrap();
            if fold {
                let off = PostgresConfig {
                    word_index: false,
                    ..database.config()
                };
                let folding = PostgresStore::new(off, None).unwrap();
                maintain(&folding).await;
                folding.close().await;
            }
            assert_eq!(found(&reader, "declined").await, 100);
        }
        assert_eq!(found(&reader, "one more").await, 2);
        store.close().await;
        reader.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_minute_whose_count_is_not_folded_yet_stays_due() {
    with_database(|database| async move {
        let (store, minute) = (database.store(), old_minute());
        store.store(&numbered(100, minute)).await.unwrap();
        maintain(&store).await;
        let again = "update message_minutes set indexed = null";
        database.run(again).await;
        store.store(&[saying("one more", minute + 5)]).await.unwrap();
        // Nothing is folded while somebody holds what it would be added to.
        let config = PostgresConfig {
            maintenance_lock_timeout: Duration::from_millis(200),
            ..database.config()
        };
        let hasty = PostgresStore::new(config, None).unwrap();
        database
            .run("begin; lock table message_counts_quarters in share mode")
            .await;
        let error = hasty.maintain(Timestamp::now()).await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
        database.run("rollback").await;
        let indexed = "select count(*) from message_minutes where indexed is not null";
        assert_eq!(database.number(indexed).await, 0);
        maintain(&store).await;
        let filters = "select concat_ws(' ', m.stored, indexed, w.stored) from message_minutes m join message_words w using (minute)";
        assert_eq!(database.texts(filters).await, ["101 101 101"]);
        for store in [store, hasty] {
            store.close().await;
        }
    })
    .await;
}

#[tokio::test]
async fn filters_go_before_the_counts_that_they_were_right_by() {
    with_database(|database| async move {
        let minute = old_minute() - 5 * DAY;
        let (store, reader) = (database.store(), database.reader());
        store.store(&numbered(100, minute)).await.unwrap();
        maintain(&store).await;
        assert_eq!(database.number(FILTERS).await, 1);
        let config = PostgresConfig {
            maintenance_lock_timeout: Duration::from_millis(200),
            ..database.config()
        };
        let forgetting = PostgresStore::new(config, Some(3)).unwrap();
        // While somebody holds a filter, the counts stay, too.
        database.run("begin; select from message_words for update").await;
        let error = forgetting.maintain(Timestamp::now()).await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
        let counted = "select coalesce(sum(count), 0)::bigint from message_counts_minutes";
        assert_eq!(database.number(counted).await, 100);
        database.run("rollback").await;
        maintain(&forgetting).await;
        assert_eq!(database.number("select count(*) from messages").await, 0);
        assert_eq!(
            (database.number(FILTERS).await, database.number(DUE).await),
            (0, 0)
        );
        // As many as there were, and others.
        let others: Vec<_> = (0..100)
            .map(|n| saying(&format!("other-{n:04}"), minute + n))
            .collect();
        store.store(&others).await.unwrap();
        assert_eq!(found(&reader, "other-").await, 100);
        for store in [store, forgetting] {
            store.close().await;
        }
        reader.close().await;
    })
    .await;
}

#[tokio::test]
async fn whatever_was_stored_is_found_while_filters_are_made() {
    with_database(|database| async move {
        let (store, reader, minute) = (Arc::new(database.store()), database.reader(), old_minute());
        store.store(&numbered(300, minute)).await.unwrap();
        let done = Arc::new(AtomicBool::new(false));
        let maintaining = tokio::spawn({
            let (store, done) = (Arc::clone(&store), Arc::clone(&done));
            async move {
                let mut rounds = 0;
                while !done.load(Ordering::Relaxed) {
                    maintain(&store).await;
                    rounds += 1;
                }
                rounds
            }
        });
        for n in 0..150 {
            let body = format!("arrival-{n:05}");
            store
                .store(&[saying(&body, minute + i64::from(n) * 300_000)])
                .await
                .unwrap();
            assert_eq!(found(&reader, &body).await, 1, "{body}");
        }
        done.store(true, Ordering::Relaxed);
        assert!(maintaining.await.unwrap() > 3);
        assert!(database.number(FILTERS).await > 0);
        let store = Arc::into_inner(store).unwrap();
        store.close().await;
        reader.close().await;
    })
    .await;
}

/// A text of words of few letters, so that searches meet some of it. Only A to Z are the same as a to z: neither `É` as `é`
/// nor the sign for kelvin as a `k`.
fn some_text(rng: &mut Rng, words: usize) -> String {
    let letters: Vec<char> = "abcABCéÉİßẞ\u{212a}\u{fffd}1 ".chars().collect();
    (0..words * 4)
        .map(|_| letters[rng.usize(..letters.len())])
        .collect()
}

/// The first says little.
const SOURCES: [&str; 2] = ["rare", "common"];

fn some_query(rng: &mut Rng, stored: &[Message]) -> String {
    let mut terms: Vec<String> = Vec::new();
    for _ in 0..rng.usize(1..3) {
        let text: String = if rng.bool() && !stored.is_empty() {
            let body: Vec<char> = stored[rng.usize(..stored.len())].body.as_str().chars().collect();
            let from = rng.usize(..body.len());
            body[from..].iter().take(rng.usize(1..9)).collect()
        } else {
            some_text(rng, 1)
        };
        let negated = if rng.u8(..6) == 0 { "-" } else { "" };
        let text = if rng.bool() {
            text.to_ascii_uppercase()
        } else {
            text
        };
        terms.push(format!("{negated}\"{text}\""));
    }
    // Filters know nothing of these.
    terms.extend(match rng.u8(..6) {
        0 => Some("severity>=error".to_owned()),
        1 => Some(format!("source:{}", SOURCES[rng.usize(..2)])),
        _ => None,
    });
    terms.join(" ")
}

#[tokio::test]
async fn searches_find_what_is_meant_whatever_came_when() {
    with_database(|database| async move {
        let (store, reader, minute) = (database.store(), database.reader(), old_minute());
        let mut rng = Rng::with_seed(307);
        let mut stored: Vec<Message> = Vec::new();
        let mut narrowed = 0;
        for round in 0..40 {
            let count = if rng.bool() {
                rng.usize(60..200)
            } else {
                rng.usize(1..5)
            };
            let within = rng.i64(1..=4);
            let batch: Vec<_> = (0..count)
                .map(|_| {
                    let at = minute + rng.i64(0..within * MINUTE);
                    let words = rng.usize(1..8);
                    let source = SOURCES[usize::from(rng.u8(..200) > 0)];
                    Message {
                        severity: Severity::ALL[rng.usize(..Severity::ALL.len())],
                        source: source.parse().unwrap(),
                        ..saying(&some_text(&mut rng, words), at)
                    }
                })
                .collect();
            store.store(&batch).await.unwrap();
            stored.extend(batch);
            if rng.bool() {
                maintain(&store).await;
            }
            narrowed += database.number(FILTERS).await;
            for _ in 0..5 {
                let query = some_query(&mut rng, &stored);
                let from = minute + rng.i64(0..2 * MINUTE);
                let search = Search {
                    range: TimeRange::new(moment(from), moment(from + rng.i64(MINUTE..5 * MINUTE))).unwrap(),
                    order: if rng.bool() {
                        Sorted::NewestFirst
                    } else {
                        Sorted::OldestFirst
                    },
                    ..asking(&query)
                };
                let mut expected: Vec<_> = stored.iter().filter(|message| search.means(message)).collect();
                expected.sort_by_key(|message| message.id);
                if search.order == Sorted::NewestFirst {
                    expected.reverse();
                }
                let page = rng.usize(1..40);
                let found = all(&reader, search, page).await;
                let ids = |messages: &mut dyn Iterator<Item = &Message>| {
                    messages.map(|message| message.id).collect::<Vec<_>>()
                };
                assert_eq!(
                    ids(&mut found.iter()),
                    ids(&mut expected.into_iter()),
                    "{query} in round {round}"
                );
            }
        }
        assert!(narrowed > 0);
        store.close().await;
        reader.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_minute_that_fails_keeps_no_other_from_its_filters_and_shows_as_due() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let numbers = recorder.handle();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let due = move || {
        let page = numbers.render();
        let value = |name: &str| {
            let line = page
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.map(|value| value.parse::<f64>().unwrap())
        };
        (
            value("warren_postgres_words_due_minutes"),
            value("warren_postgres_words_due_seconds"),
        )
    };
    with_database(|database| async move {
        let config = |word_index| PostgresConfig {
            word_index,
            maintenance_lock_timeout: Duration::from_millis(200),
            ..database.config()
        };
        let [off, store] = [false, true].map(|on| PostgresStore::new(config(on), None).unwrap());
        for n in 0..10 {
            store
                .store(&numbered(100, old_minute() - n * MINUTE))
                .await
                .unwrap();
        }
        maintain(&off).await;
        assert_eq!(
            (database.number(FILTERS).await, database.number(DUE).await),
            (0, 10)
        );
        assert_eq!(
            due(),
            (None, None),
            "who makes no filters knows of none that wait"
        );
        // Somebody holds the fifth newest.
        database
            .run(
                "begin; select from message_minutes where minute = (
                    select minute from message_minutes order by minute desc offset 4 limit 1
                ) for update",
            )
            .await;
        let error = store.maintain(Timestamp::now()).await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
        assert_eq!(
            (database.number(FILTERS).await, database.number(DUE).await),
            (9, 1)
        );
        let (minutes, seconds) = due();
        assert_eq!(minutes, Some(1.0));
        // It is an hour and four minutes old, and ended two minutes before it was due.
        let age = (Timestamp::now().unix_micros() - (old_minute() - 4 * MINUTE)) as f64 / 1e6;
        let least = age - 3.0 * 60.0 - 60.0;
        assert!(
            seconds.is_some_and(|seconds| (least..age).contains(&seconds)),
            "{seconds:?} of {age}"
        );
        database.run("rollback").await;
        maintain(&store).await;
        assert_eq!(
            (database.number(FILTERS).await, database.number(DUE).await),
            (10, 0)
        );
        assert_eq!(due(), (Some(0.0), Some(0.0)));
        for store in [store, off] {
            store.close().await;
        }
    })
    .await;
}
