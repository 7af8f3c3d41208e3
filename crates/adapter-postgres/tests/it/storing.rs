//! What becomes of a batch.

use std::sync::Arc;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Map, Value};
use tokio::task::JoinSet;
use warren_adapter_conformance::samples::{assert_same_messages, message, messages};
use warren_domain::ports::{MessageStore, StoreError, Stored};
use warren_domain::{
    Attributes, Body, Message, MessageId, MessageLimits, Severity, SeverityCounts, Timestamp,
};

use crate::support::{Database, find, with_database};

fn counts(messages: &[Message]) -> SeverityCounts {
    messages.iter().map(|message| message.severity).collect()
}

fn ids(messages: &[Message]) -> Vec<MessageId> {
    messages.iter().map(|message| message.id).collect()
}

/// Asserts that the counts for charts are what counting the rows yields, minute by minute.
async fn assert_counts_are_exact(database: &Database) {
    let wrong = database
        .number(
            "select count(*) from (
                 select message_minute(id) as minute, severity, source, count(*) as count from messages group by 1, 2, 3
             ) as counted
             full join message_counts using (minute, severity, source)
             where counted.count is distinct from message_counts.count",
        )
        .await;
    assert_eq!(wrong, 0, "counts that differ from the rows");
}

/// Both ways into the table: a few rows go by unnest, many by COPY.
const SIZES: [usize; 2] = [20, 1_000];

#[tokio::test]
async fn a_batch_with_duplicates_stores_the_rest_and_counts_each_message_once() {
    with_database(|database| async move {
        for size in SIZES {
            let store = database.store();
            let old = messages(size);
            let stored = store.store(&old).await.unwrap();
            assert_eq!((stored.inserted, stored.duplicates.total()), (counts(&old), 0));

            // Old, new, and new twice over.
            let new = messages(size);
            let batch = [&old[..size / 2], &new[..], &new[..size / 4]].concat();
            let stored = store.store(&batch).await.unwrap();
            let repeated = [&old[..size / 2], &new[..size / 4]].concat();
            let expected = Stored {
                inserted: counts(&new),
                duplicates: counts(&repeated),
                ..Stored::default()
            };
            assert_eq!(stored, expected);
            let again = store.store(&batch).await.unwrap();
            assert_eq!((again.inserted.total(), again.duplicates), (0, counts(&batch)));
            // New ones only, after duplicates have been met.
            for _ in 0..2 {
                let fresh = messages(size);
                assert_eq!(store.store(&fresh).await.unwrap().inserted, counts(&fresh));
            }
            store.close().await;
        }
        assert_counts_are_exact(&database).await;
    })
    .await;
}

#[tokio::test]
async fn a_refused_row_keeps_the_whole_batch_out_and_its_neighbours_go_in_without_it() {
    with_database(|database| async move {
        database
            .run("alter table messages add constraint no_poison check (body <> 'poison')")
            .await;
        let store = database.store();
        for size in SIZES {
            let mut batch = messages(size);
            batch[size / 2] = message(Severity::Error, "a", "poison");
            let before = database.number("select count(*) from messages").await;
            for _ in 0..2 {
                let error = store.store(&batch).await.unwrap_err();
                assert!(matches!(error, StoreError::Rejected { .. }), "{error}");
                assert!(error.to_string().contains("no_poison"), "{error}");
            }
            assert_eq!(database.number("select count(*) from messages").await, before);
            batch.remove(size / 2);
            assert_eq!(store.store(&batch).await.unwrap().inserted, counts(&batch));
        }
        // A refusal leaves the connection whole: nothing was opened beside the one that met it.
        let sessions = "select count(*) from pg_stat_activity \
                        where application_name = 'warren' and datname = current_database()";
        assert_eq!(database.number(sessions).await, 1);
        assert_counts_are_exact(&database).await;
        store.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_trigger_that_raises_refuses_the_row_and_its_values_stay_out_of_the_error() {
    with_database(|database| async move {
        database
            .before_insert(
                "raise exception 'not here' using detail = new.body",
                "new.body = 'the secret'",
            )
            .await;
        let store = database.store();
        let error = store
            .store(&[message(Severity::Error, "a", "the secret")])
            .await
            .unwrap_err();
        assert!(matches!(error, StoreError::Rejected { .. }), "{error}");
        assert!(!format!("{error:?}").contains("the secret"), "{error:?}");
        store.close().await;
    })
    .await;
}

#[tokio::test]
async fn two_stores_with_the_same_messages_store_each_once() {
    with_database(|database| async move {
        let all = Arc::new(messages(6_000));
        let mut writers = JoinSet::new();
        for writer in 0..4 {
            let store = database.store();
            let all = Arc::clone(&all);
            writers.spawn(async move {
                let mut seen = Stored::default();
                // Each pair of writers has the same batches; the pairs' batches overlap by half.
                let all: Vec<_> = all
                    .iter()
                    .cycle()
                    .skip(writer / 2 * 400)
                    .take(6_000)
                    .cloned()
                    .collect();
                for batch in all.chunks(800) {
                    let stored = loop {
                        match store.store(batch).await {
                            Ok(stored) => break stored,
                            Err(StoreError::Unavailable { .. }) => tokio::task::yield_now().await,
                            Err(other) => panic!("{other}"),
                        }
                    };
                    seen.inserted += stored.inserted;
                    seen.duplicates += stored.duplicates;
                }
                store.close().await;
                seen
            });
        }
        let mut seen = Stored::default();
        for writer in writers.join_all().await {
            seen.inserted += writer.inserted;
            seen.duplicates += writer.duplicates;
        }
        assert_eq!(seen.inserted, counts(&all));
        assert_eq!(seen.duplicates.total(), 3 * 6_000);
        assert_eq!(database.number("select count(*) from messages").await, 6_000);
        assert_counts_are_exact(&database).await;
    })
    .await;
}

#[tokio::test]
async fn a_batch_too_large_for_one_statement_is_stored_whole() {
    with_database(|database| async move {
        let store = database.store();
        // 32 MiB in so few rows that they go by unnest, which takes half of that at once.
        let body = Body::new("☃ snow".repeat(65_536), &MessageLimits::CEILING).unwrap();
        let text = Value::from("x".repeat(512 << 10));
        let attributes =
            Attributes::new(Map::from_iter([("a".to_owned(), text)]), &MessageLimits::CEILING).unwrap();
        let batch: Vec<_> = messages(32)
            .into_iter()
            .map(|message| Message {
                body: body.clone(),
                attributes: attributes.clone(),
                ..message
            })
            .collect();
        assert_eq!(store.store(&batch).await.unwrap().inserted, counts(&batch));
        assert_eq!(store.store(&batch).await.unwrap().duplicates, counts(&batch));
        assert_eq!(database.number("select count(*) from messages").await, 32);
        // A row refused in the last part takes the first part with it.
        let mut refused: Vec<_> = batch
            .iter()
            .map(|old| Message {
                id: MessageId::generate(),
                ..old.clone()
            })
            .collect();
        database
            .run("alter table messages add constraint no_poison check (source <> 'poison')")
            .await;
        refused[31].source = "poison".parse().unwrap();
        let error = store.store(&refused).await.unwrap_err();
        assert!(matches!(error, StoreError::Rejected { .. }), "{error}");
        assert_eq!(database.number("select count(*) from messages").await, 32);
        assert_counts_are_exact(&database).await;
        store.close().await;
    })
    .await;
}

fn json() -> impl Strategy<Value = Value> {
    let number = prop_oneof![
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (-1e20..1e20_f64).prop_map(|n| Value::from(n.trunc())),
        (0..40_i32, -9..9_i32)
            .prop_map(|(exponent, digit)| Value::from(f64::from(digit) * 10_f64.powi(exponent))),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        number,
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn any_message() -> impl Strategy<Value = Message> {
    let attributes = prop::collection::btree_map(any::<String>(), json(), 0..5)
        .prop_map(|map| Attributes::new(map.into_iter().collect(), &MessageLimits::CEILING))
        .prop_filter_map("keys that become equal", Result::ok);
    let moment =
        (0..=Timestamp::MAX.unix_micros()).prop_map(|micros| Timestamp::from_unix_micros(micros).unwrap());
    let severity = prop::sample::select(Severity::ALL.to_vec());
    (severity, any::<String>(), attributes, moment.clone(), moment).prop_map(
        |(severity, body, attributes, occurred_at, received_at)| Message {
            body: Body::new(body, &MessageLimits::CEILING).unwrap(),
            attributes,
            occurred_at,
            received_at,
            ..message(severity, "any.source", "")
        },
    )
}

#[tokio::test]
async fn whatever_is_stored_reads_back_with_every_field_equal() {
    with_database(|database| async move {
        let (store, reader) = (database.store(), database.reader());
        let mut runner = TestRunner::deterministic();
        let mut batch: Vec<_> = (0..1_500)
            .map(|_| any_message().new_tree(&mut runner).unwrap().current())
            .collect();
        let by_unnest = batch.split_off(1_350);
        for batch in [batch, by_unnest] {
            store.store(&batch).await.unwrap();
            assert_same_messages(&find(&reader, &ids(&batch)).await, &batch);
        }
        reader.close().await;
        store.close().await;
    })
    .await;
}
