//! Partitions, retention and the folding of counts.

use std::num::NonZeroU32;

use warren_adapter_conformance::samples::{assert_same_messages, message_made_at};
use warren_adapter_postgres::{PostgresConfig, PostgresStore};
use warren_domain::ports::{Counts, MessageReader, MessageStore, StoreError, StoreMaintenance, TimeRange};
use warren_domain::{Message, Selection, SeveritySet, Timestamp};

use crate::support::{Database, assert_quarters_are_exact, counts, find, with_database};

const DAY: i64 = 86_400_000_000;

fn moment(micros: i64) -> Timestamp {
    Timestamp::from_unix_micros(micros).unwrap()
}

/// Far ahead of any partition that the migration has made.
fn distant_midnight() -> i64 {
    (Timestamp::now().unix_micros() / DAY + 1_000) * DAY
}

async fn partition_of(database: &Database, message: &Message) -> String {
    let query = format!(
        "select tableoid::regclass::text from messages where id = '{}'",
        message.id
    );
    database.texts(&query).await.remove(0)
}

/// Each partition with its number of rows, as PostgreSQL lists them.
async fn partitions(database: &Database) -> Vec<String> {
    database
        .texts(
            "select inhrelid::regclass::text from pg_inherits where inhparent = 'messages'::regclass order by 1",
        )
        .await
}

#[tokio::test]
async fn a_migrated_database_has_the_partitions_of_yesterday_to_a_week_ahead() {
    with_database(|database| async move {
        let found = partitions(&database).await;
        assert_eq!(found.len(), 1 + 1 + 7 + 1, "{found:?}");
        let store = database.store();
        let now = message_made_at(Timestamp::now());
        store.store(std::slice::from_ref(&now)).await.unwrap();
        assert_ne!(partition_of(&database, &now).await, "messages_default");
        store.close().await;
    })
    .await;
}

#[tokio::test]
async fn messages_on_both_sides_of_midnight_fall_into_the_partitions_of_their_days() {
    with_database(|database| async move {
        let store = database.store();
        let midnight = (Timestamp::now().unix_micros() / DAY + 1) * DAY;
        let batch = [midnight - 1_000, midnight, midnight + DAY - 1_000]
            .map(|micros| message_made_at(moment(micros)));
        store.store(&batch).await.unwrap();
        let mut names = Vec::new();
        for message in &batch {
            names.push(partition_of(&database, message).await);
        }
        assert!(names[0] < names[1] && names[1] == names[2], "{names:?}");
        // A redelivery after midnight is still a duplicate.
        assert_eq!(store.store(&batch).await.unwrap().duplicates.total(), 3);
        store.close().await;
    })
    .await;
}

#[tokio::test]
async fn rows_in_the_default_partition_move_into_the_partition_made_for_their_day() {
    with_database(|database| async move {
        let (store, reader) = (database.store(), database.reader());
        let midnight = distant_midnight();
        let batch: Vec<_> = [
            midnight - DAY - 1_000,
            midnight - 1_000,
            midnight,
            midnight + 5,
            midnight + 40 * DAY,
        ]
        .into_iter()
        .map(|micros| message_made_at(moment(micros)))
        .collect();
        let ids: Vec<_> = batch.iter().map(|message| message.id).collect();
        store.store(&batch).await.unwrap();
        assert_eq!(partition_of(&database, &batch[2]).await, "messages_default");
        let stored_at = "select string_agg(stored_at::text, ',' order by id) from messages";
        let before = database.texts(stored_at).await;

        let maintained = store.maintain(moment(midnight + 3_600_000_000)).await.unwrap();
        assert_eq!(maintained.prepared.len(), 1 + 1 + 7);
        assert_eq!(partition_of(&database, &batch[0]).await, "messages_default");
        assert_eq!(partition_of(&database, &batch[1]).await, maintained.prepared[0]);
        assert_eq!(partition_of(&database, &batch[2]).await, maintained.prepared[1]);
        assert_eq!(partition_of(&database, &batch[3]).await, maintained.prepared[1]);
        assert_eq!(partition_of(&database, &batch[4]).await, "messages_default");

        assert_same_messages(&find(&reader, &ids).await, &batch);
        assert_eq!(
            database.texts(stored_at).await,
            before,
            "moving is not storing again"
        );
        assert_eq!(store.store(&batch).await.unwrap().duplicates.total(), 5);
        // One index for the key and one for the severity, nothing twice.
        let indexes = format!(
            "select count(*) from pg_indexes where tablename = '{}'",
            maintained.prepared[1]
        );
        assert_eq!(database.number(&indexes).await, 2);
        let attached = "select count(*) from pg_index i join pg_inherits h on h.inhrelid = i.indexrelid \
                        where i.indrelid = '{}'::regclass"
            .replace("{}", &maintained.prepared[1]);
        assert_eq!(database.number(&attached).await, 2);
        reader.close().await;
        store.close().await;
    })
    .await;
}

#[tokio::test]
async fn maintaining_twice_changes_nothing() {
    with_database(|database| async move {
        let store = PostgresStore::new(database.config(), Some(30)).unwrap();
        let now = moment(distant_midnight());
        let first = store.maintain(now).await.unwrap();
        assert_eq!(first.prepared.len(), 9);
        let second = store.maintain(now).await.unwrap();
        assert_eq!((second.prepared, second.removed), (Vec::new(), Vec::new()));
        let tomorrow = store.maintain(moment(now.unix_micros() + DAY)).await.unwrap();
        assert_eq!(tomorrow.prepared.len(), 1);
        store.close().await;
    })
    .await;
}

#[tokio::test]
async fn what_is_older_than_the_retention_goes_and_the_rest_stays() {
    with_database(|database| async move {
        let midnight = distant_midnight();
        let store = PostgresStore::new(database.config(), Some(3)).unwrap();
        let keeping = [
            PostgresStore::new(database.config(), None),
            PostgresStore::new(database.config(), Some(0)),
        ];
        for day in -6..=0 {
            store.maintain(moment(midnight + day * DAY)).await.unwrap();
        }
        // The first hour of each of the last ten days: those of the first two lie in the default partition.
        let batch: Vec<_> = (-9..=0)
            .map(|day| message_made_at(moment(midnight + day * DAY + 1_800_000_000)))
            .collect();
        keeping[0].as_ref().unwrap().store(&batch).await.unwrap();
        for store in &keeping {
            let maintained = store.as_ref().unwrap().maintain(moment(midnight)).await.unwrap();
            assert_eq!(maintained.removed, Vec::<String>::new());
        }
        assert_eq!(database.number("select count(*) from messages").await, 10);

        store.maintain(moment(midnight)).await.unwrap();
        let kept = database.texts("select id::text from messages order by id").await;
        let expected: Vec<_> = batch[6..].iter().map(|message| message.id.to_string()).collect();
        assert_eq!(kept, expected, "today and the three days before");
        let counted = "select sum(count)::bigint from message_counts";
        assert_eq!(
            database.number(counted).await,
            4,
            "the counts go with the messages"
        );
        store.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_step_of_the_maintenance_that_fails_does_not_keep_the_others_from_being_taken() {
    with_database(|database| async move {
        let midnight = distant_midnight();
        let (keeping, store) = (
            database.store(),
            PostgresStore::new(database.config(), Some(3)).unwrap(),
        );
        let old = keeping
            .maintain(moment(midnight - 10 * DAY))
            .await
            .unwrap()
            .prepared;
        let new = keeping.maintain(moment(midnight)).await.unwrap().prepared;
        let day = new.last().unwrap();
        // The last day cannot be made again: a table that is no partition has its name.
        database
            .run(&format!("drop table {day}; create table {day} ()"))
            .await;
        keeping.store(&[message_made_at(moment(midnight))]).await.unwrap();
        let failed = store.maintain(moment(midnight)).await;
        assert!(
            matches!(&failed, Err(StoreError::Misconfigured { reason, .. }) if reason.contains("42P07")),
            "{failed:?}"
        );
        let deltas = "select count(*) from message_count_deltas";
        assert_eq!(database.number(deltas).await, 0, "the counts are folded");
        assert!(
            !partitions(&database).await.contains(&old[0]),
            "an old day is dropped"
        );
        keeping.close().await;
        store.close().await;
    })
    .await;
}

#[tokio::test]
async fn several_processes_maintain_at_once_without_error() {
    with_database(|database| async move {
        let now = moment(distant_midnight());
        let stores: Vec<_> = (0..6)
            .map(|_| PostgresStore::new(database.config(), Some(1)).unwrap())
            .collect();
        let rounds = futures_util::future::join_all(stores.iter().map(|store| store.maintain(now))).await;
        let prepared: usize = rounds
            .into_iter()
            .map(|round| round.unwrap().prepared.len())
            .sum();
        assert_eq!(prepared, 9, "each partition was made once");
    })
    .await;
}

#[tokio::test]
async fn counts_are_the_same_before_and_after_folding() {
    with_database(|database| async move {
        let (store, reader) = (database.store(), database.reader());
        let now = Timestamp::now();
        let mut all = Vec::new();
        for round in 0..3 {
            let batch: Vec<_> = (0..500)
                .map(|n| message_made_at(moment(now.unix_micros() - n % 7 * 60_000_000)))
                .collect();
            store.store(&batch).await.unwrap();
            all.extend(batch);
            let counted = counts(&reader).await;
            assert_eq!(counted, all.iter().map(|message| message.severity).collect());
            if round < 2 {
                store.maintain(now).await.unwrap();
                assert_eq!(
                    database.number("select count(*) from message_count_deltas").await,
                    0
                );
                assert_quarters_are_exact(&database).await;
                assert_eq!(counts(&reader).await, counted);
            }
        }
        let this_minute = moment(now.unix_micros() / 60_000_000 * 60_000_000);
        let six_minutes_ago = moment(this_minute.unix_micros() - 6 * 60_000_000);
        let a_minute = Counts {
            selection: Selection::of(SeveritySet::ALL),
            range: TimeRange::new(six_minutes_ago, moment(six_minutes_ago.unix_micros() + 1)).unwrap(),
            minutes: NonZeroU32::MIN,
        };
        let buckets = reader.counts(&a_minute).await.unwrap();
        assert_eq!((buckets.len(), buckets[0].counts.total()), (1, 3 * 71));
        reader.close().await;
        store.close().await;
    })
    .await;
}

#[tokio::test]
async fn writers_and_maintenance_do_not_fail_each_other() {
    with_database(|database| async move {
        let midnight = distant_midnight();
        let store = database.store();
        let maintainer = PostgresStore::new(
            PostgresConfig {
                partitions_ahead_days: 30,
                ..database.config()
            },
            Some(1),
        )
        .unwrap();
        let writing = async {
            let mut sent = 0;
            for n in 0..40 {
                // The days whose partitions are being made meanwhile.
                let batch: Vec<_> = (0..250)
                    .map(|m| message_made_at(moment(midnight + (n + m) % 30 * DAY)))
                    .collect();
                while let Err(error) = store.store(&batch).await {
                    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
                }
                sent += 250;
            }
            sent
        };
        let maintaining = async {
            let mut prepared = 0;
            while prepared < 32 {
                match maintainer.maintain(moment(midnight)).await {
                    Ok(maintained) => prepared += maintained.prepared.len(),
                    // A writer held the lock for all the tries of a round; what was made stays made.
                    Err(error) => assert!(matches!(error, StoreError::Unavailable { .. }), "{error}"),
                }
                let made = "select count(*) - 10 from pg_inherits where inhparent = 'messages'::regclass";
                prepared = prepared.max(database.number(made).await.unsigned_abs() as usize);
            }
        };
        let (sent, ()) = tokio::join!(writing, maintaining);
        assert_eq!(database.number("select count(*) from messages").await, sent);
        assert_eq!(database.number("select count(*) from messages_default").await, 0);
        store.close().await;
    })
    .await;
}
