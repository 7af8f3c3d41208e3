//! The contract of [`MessageStore`].

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::JoinSet;
use tokio::time::timeout;
use warren_domain::ports::{MessageStore, StoreError, Stored};
use warren_domain::{Message, MessageId, Severity, SeverityCounts, Timestamp};

use crate::PATIENCE;
use crate::samples::{assert_same_messages, extremes, keyed, message, message_made_at, messages};

/// A store with nothing in it, isolated from every other test.
#[async_trait]
pub trait StoreUnderTest: Send + Sync + 'static {
    /// Returns the store.
    fn store(&self) -> Arc<dyn MessageStore>;

    /// Returns every stored message with one of `ids`, one for each row.
    async fn find(&self, ids: &[MessageId]) -> Vec<Message>;

    /// Returns the sum over the counts that the store keeps for charts.
    async fn counts(&self) -> SeverityCounts;

    /// Makes the store refuse the message `id`; `false`: this store cannot be made to.
    async fn refuse(&self, _id: MessageId) -> bool {
        false
    }

    /// Does one round of the store's maintenance as if it were `now`, with tokens kept for at least one day and less than
    /// ten; `false`: this store forgets nothing.
    async fn forget(&self, _now: Timestamp) -> bool {
        false
    }

    /// Removes what the test has left.
    async fn tear_down(&self);
}

/// Runs every test of the store's contract on what `$make` yields.
#[macro_export]
macro_rules! store_suite {
    ($make:expr) => {
        $crate::suite!(
            store,
            $make,
            a_stored_message_reads_back_with_every_field_equal,
            storing_nothing_succeeds,
            a_batch_stored_again_adds_nothing,
            the_first_message_under_an_id_wins,
            a_message_twice_in_a_batch_is_stored_once,
            a_batch_of_old_and_new_stores_the_new,
            a_large_batch_is_stored_whole,
            messages_of_any_age_are_stored_once,
            concurrent_batches_that_overlap_store_each_message_once,
            a_future_that_is_dropped_stores_its_batch_whole_or_not_at_all,
            a_batch_with_a_refused_message_leaves_nothing_and_its_neighbours_are_stored_without_it,
            a_keyed_message_is_stored_once_whatever_its_id,
            a_keyed_message_delivered_again_is_stored_once,
            a_keyed_message_twice_in_a_batch_is_stored_once,
            equal_records_of_one_keyed_request_are_all_stored,
            a_batch_of_keyed_and_other_messages_stores_the_new_of_both,
            concurrent_repeats_of_a_keyed_request_store_each_record_once,
            another_content_under_a_key_is_stored_and_counted_as_a_conflict,
            a_keyed_message_that_is_refused_leaves_no_token,
            a_keyed_batch_whose_future_is_dropped_is_stored_whole_or_not_at_all,
            a_token_is_forgotten_by_what_gets_through,
        );
    };
}

#[doc(hidden)]
pub async fn tear_down(store: &dyn StoreUnderTest) {
    store.tear_down().await;
}

fn ids(messages: &[Message]) -> Vec<MessageId> {
    messages.iter().map(|message| message.id).collect()
}

fn counts(messages: &[Message]) -> SeverityCounts {
    messages.iter().map(|message| message.severity).collect()
}

fn stored(inserted: &[Message], duplicates: &[Message]) -> Stored {
    Stored {
        inserted: counts(inserted),
        duplicates: counts(duplicates),
        ..Stored::default()
    }
}

pub async fn a_stored_message_reads_back_with_every_field_equal(subject: &dyn StoreUnderTest) {
    let batch = extremes();
    assert_eq!(subject.store().store(&batch).await.unwrap(), stored(&batch, &[]));
    assert_same_messages(&subject.find(&ids(&batch)).await, &batch);
    assert_eq!(subject.counts().await, counts(&batch));
}

pub async fn storing_nothing_succeeds(subject: &dyn StoreUnderTest) {
    assert_eq!(subject.store().store(&[]).await.unwrap(), Stored::default());
}

pub async fn a_batch_stored_again_adds_nothing(subject: &dyn StoreUnderTest) {
    let batch = messages(100);
    subject.store().store(&batch).await.unwrap();
    for _ in 0..3 {
        assert_eq!(subject.store().store(&batch).await.unwrap(), stored(&[], &batch));
    }
    assert_same_messages(&subject.find(&ids(&batch)).await, &batch);
    assert_eq!(
        subject.counts().await,
        counts(&batch),
        "a duplicate is never counted"
    );
}

pub async fn the_first_message_under_an_id_wins(subject: &dyn StoreUnderTest) {
    let first = message(Severity::Info, "a", "first");
    let second = Message {
        id: first.id,
        ..message(Severity::Error, "b", "second")
    };
    subject.store().store(std::slice::from_ref(&first)).await.unwrap();
    let outcome = subject
        .store()
        .store(std::slice::from_ref(&second))
        .await
        .unwrap();
    assert_eq!(outcome, stored(&[], std::slice::from_ref(&second)));
    assert_same_messages(&subject.find(&[first.id]).await, &[first]);
}

pub async fn a_message_twice_in_a_batch_is_stored_once(subject: &dyn StoreUnderTest) {
    let first = message(Severity::Info, "a", "first");
    let second = Message {
        id: first.id,
        ..message(Severity::Error, "b", "second")
    };
    let other = message(Severity::Debug, "c", "other");
    let outcome = subject
        .store()
        .store(&[first.clone(), other.clone(), second.clone()])
        .await
        .unwrap();
    assert_eq!(outcome, stored(&[first.clone(), other.clone()], &[second]));
    assert_same_messages(&subject.find(&[first.id, other.id]).await, &[first, other]);
}

pub async fn a_batch_of_old_and_new_stores_the_new(subject: &dyn StoreUnderTest) {
    let (old, new) = (messages(50), messages(50));
    subject.store().store(&old).await.unwrap();
    let mixed: Vec<_> = old
        .iter()
        .zip(&new)
        .flat_map(|(old, new)| [new.clone(), old.clone()])
        .collect();
    assert_eq!(subject.store().store(&mixed).await.unwrap(), stored(&new, &old));
    assert_same_messages(&subject.find(&ids(&mixed)).await, &mixed);
    assert_eq!(subject.counts().await, counts(&mixed));
}

pub async fn a_large_batch_is_stored_whole(subject: &dyn StoreUnderTest) {
    let batch = messages(20_000);
    assert_eq!(subject.store().store(&batch).await.unwrap(), stored(&batch, &[]));
    assert_eq!(subject.find(&ids(&batch)).await.len(), batch.len());
}

pub async fn messages_of_any_age_are_stored_once(subject: &dyn StoreUnderTest) {
    let day = 86_400_000_000;
    let midnight = Timestamp::now().unix_micros() / day * day;
    let moments = [
        0,
        1_000,
        midnight - 1_000,
        midnight,
        midnight + day - 1_000,
        midnight + day,
        midnight + 400 * day,
    ];
    let batch: Vec<_> = moments
        .into_iter()
        .map(|micros| message_made_at(Timestamp::from_unix_micros(micros).unwrap()))
        .chain([message_made_at(Timestamp::MAX)])
        .collect();
    assert_eq!(subject.store().store(&batch).await.unwrap(), stored(&batch, &[]));
    assert_eq!(subject.store().store(&batch).await.unwrap(), stored(&[], &batch));
    assert_same_messages(&subject.find(&ids(&batch)).await, &batch);
}

pub async fn concurrent_batches_that_overlap_store_each_message_once(subject: &dyn StoreUnderTest) {
    let all = messages(1_000);
    let mut writers = JoinSet::new();
    for writer in 0..8 {
        let store = subject.store();
        // Each writer takes the messages in an order of its own.
        let mut mine = all.clone();
        mine.rotate_left(writer * 125);
        if writer % 2 == 1 {
            mine.reverse();
        }
        writers.spawn(async move {
            let mut inserted = SeverityCounts::default();
            for batch in mine.chunks(90) {
                let outcome = store_with_patience(&*store, batch).await;
                inserted += outcome.inserted;
            }
            inserted
        });
    }
    let mut inserted = SeverityCounts::default();
    for writer in writers.join_all().await {
        inserted += writer;
    }
    assert_eq!(
        inserted,
        counts(&all),
        "each message was reported as inserted once"
    );
    assert_same_messages(&subject.find(&ids(&all)).await, &all);
    assert_eq!(subject.counts().await, counts(&all));
}

/// Stores a batch; a deadlock or a serialization failure is an answer the contract allows: wait and repeat.
async fn store_with_patience(store: &dyn MessageStore, batch: &[Message]) -> Stored {
    let storing = async {
        loop {
            match store.store(batch).await {
                Ok(stored) => return stored,
                Err(StoreError::Unavailable { .. }) => tokio::task::yield_now().await,
                Err(other) => panic!("{other}"),
            }
        }
    };
    timeout(PATIENCE, storing)
        .await
        .expect("the batch is stored in time")
}

pub async fn a_future_that_is_dropped_stores_its_batch_whole_or_not_at_all(subject: &dyn StoreUnderTest) {
    let store = subject.store();
    for micros in [0, 100, 300, 1_000, 2_000, 4_000, 8_000, 16_000] {
        let batch = messages(500);
        let _ended = timeout(Duration::from_micros(micros), store.store(&batch)).await;
        let again = store_with_patience(&*store, &batch).await;
        assert!(
            again == stored(&batch, &[]) || again == stored(&[], &batch),
            "a part of it was stored: {again:?}"
        );
        assert_same_messages(&subject.find(&ids(&batch)).await, &batch);
    }
}

pub async fn a_batch_with_a_refused_message_leaves_nothing_and_its_neighbours_are_stored_without_it(
    subject: &dyn StoreUnderTest,
) {
    let mut batch = messages(10);
    if !subject.refuse(batch[4].id).await {
        return;
    }
    let store = subject.store();
    for _ in 0..2 {
        let refusal = store.store(&batch).await;
        assert!(matches!(refusal, Err(StoreError::Rejected { .. })), "{refusal:?}");
        assert_eq!(subject.find(&ids(&batch)).await, []);
    }
    batch.remove(4);
    assert_eq!(store.store(&batch).await.unwrap(), stored(&batch, &[]));
    assert_eq!(subject.counts().await, counts(&batch));
}

/// Returns the messages as a store gives them back: of their tokens it keeps what it needs to itself.
fn without_tokens(messages: &[Message]) -> Vec<Message> {
    let stored = messages.iter().map(|message| Message {
        idempotency: None,
        ..message.clone()
    });
    stored.collect()
}

/// Two times of one keyed request, whose ids differ and whose tokens do not.
fn twice_keyed(key: &str, records: &[Message]) -> [Vec<Message>; 2] {
    let now = Timestamp::now();
    let later = Timestamp::from_unix_micros(now.unix_micros() + 1_000).unwrap();
    [keyed(key, now, records), keyed(key, later, records)]
}

fn repeated(duplicates: &[Message]) -> Stored {
    Stored {
        repeated: duplicates.len() as u64,
        ..stored(&[], duplicates)
    }
}

pub async fn a_keyed_message_is_stored_once_whatever_its_id(subject: &dyn StoreUnderTest) {
    let store = subject.store();
    let mut all = Vec::new();
    for (key, size) in [("one", 1), ("few", 30), ("many", 3_000)] {
        let [first, mut again] = twice_keyed(key, &messages(size));
        assert_eq!(store.store(&first).await.unwrap(), stored(&first, &[]), "{key}");
        // Another time, in another order and in other parts.
        again.reverse();
        for part in again.chunks(size.div_ceil(3)) {
            assert_eq!(store.store(part).await.unwrap(), repeated(part), "{key}");
        }
        assert_eq!(
            subject.find(&ids(&again)).await,
            [],
            "{key}: a repeat adds no message"
        );
        assert_same_messages(&subject.find(&ids(&first)).await, &without_tokens(&first));
        all.extend(first);
    }
    assert_eq!(
        subject.counts().await,
        counts(&all),
        "a duplicate is never counted"
    );
}

pub async fn a_keyed_message_delivered_again_is_stored_once(subject: &dyn StoreUnderTest) {
    let store = subject.store();
    let [batch, _] = twice_keyed("k", &messages(500));
    store.store(&batch).await.unwrap();
    for _ in 0..2 {
        assert_eq!(store.store(&batch).await.unwrap(), repeated(&batch));
    }
    assert_eq!(subject.counts().await, counts(&batch));
}

pub async fn a_keyed_message_twice_in_a_batch_is_stored_once(subject: &dyn StoreUnderTest) {
    let [first, again] = twice_keyed("k", &messages(300));
    let both = [first.clone(), again.clone()].concat();
    let expected = Stored {
        repeated: 300,
        ..stored(&first, &again)
    };
    assert_eq!(subject.store().store(&both).await.unwrap(), expected);
    assert_eq!(subject.find(&ids(&both)).await.len(), 300);
    assert_eq!(subject.counts().await, counts(&first));
}

pub async fn equal_records_of_one_keyed_request_are_all_stored(subject: &dyn StoreUnderTest) {
    let record = message(Severity::Warning, "a", "the same");
    let [first, again] = twice_keyed("k", &vec![record; 300]);
    let store = subject.store();
    assert_eq!(store.store(&first).await.unwrap(), stored(&first, &[]));
    assert_eq!(store.store(&again).await.unwrap(), repeated(&again));
}

pub async fn a_batch_of_keyed_and_other_messages_stores_the_new_of_both(subject: &dyn StoreUnderTest) {
    let store = subject.store();
    // Few and many: a store may write them in different ways.
    for (key, size) in [("few", 5), ("many", 600)] {
        let (old, new) = (messages(size), messages(size));
        let [taken, again] = twice_keyed(&format!("{key} taken"), &messages(size));
        let [fresh, _] = twice_keyed(&format!("{key} fresh"), &messages(size));
        store.store(&[&old[..], &taken].concat()).await.unwrap();
        let batch = [&old[..], &new, &again, &fresh].concat();
        let expected = Stored {
            repeated: size as u64,
            ..stored(&[&new[..], &fresh].concat(), &[&old[..], &again].concat())
        };
        assert_eq!(store.store(&batch).await.unwrap(), expected, "{key}");
        let there = [old, new, taken, fresh].concat();
        assert_same_messages(&subject.find(&ids(&there)).await, &without_tokens(&there));
        assert_eq!(subject.find(&ids(&again)).await, []);
    }
}

pub async fn concurrent_repeats_of_a_keyed_request_store_each_record_once(subject: &dyn StoreUnderTest) {
    let (records, now) = (messages(1_000), Timestamp::now().unix_micros());
    let mut writers = JoinSet::new();
    for writer in 0..8 {
        let store = subject.store();
        let moment = Timestamp::from_unix_micros(now + 1_000 * writer).unwrap();
        let mut mine = keyed("k", moment, &records);
        mine.rotate_left(125 * usize::try_from(writer).unwrap());
        if writer % 2 == 1 {
            mine.reverse();
        }
        // Some of two requests at once, and some that nobody else has.
        mine.extend(keyed(&format!("writer {writer}"), moment, &records[..100]));
        writers.spawn(async move {
            let (mut inserted, mut again) = (SeverityCounts::default(), 0);
            for batch in mine.chunks(90) {
                let outcome = store_with_patience(&*store, batch).await;
                inserted += outcome.inserted;
                again += outcome.repeated;
                assert_eq!(outcome.conflicting, 0);
            }
            (mine, inserted, again)
        });
    }
    let (mut all, mut inserted, mut again) = (Vec::new(), SeverityCounts::default(), 0);
    for (mine, some, repeats) in writers.join_all().await {
        all.extend(mine);
        inserted += some;
        again += repeats;
    }
    assert_eq!(
        inserted.total(),
        1_000 + 8 * 100,
        "each record was reported as inserted once"
    );
    assert_eq!(again, 7 * 1_000);
    assert_eq!(subject.find(&ids(&all)).await.len(), 1_000 + 8 * 100);
    assert_eq!(subject.counts().await, inserted);
}

pub async fn another_content_under_a_key_is_stored_and_counted_as_a_conflict(subject: &dyn StoreUnderTest) {
    let store = subject.store();
    let (records, others) = (messages(20), messages(30)[20..].to_vec());
    let [first, again] = twice_keyed("k", &records);
    store.store(&first[..10]).await.unwrap();
    assert_eq!(
        store.store(&first[10..]).await.unwrap(),
        stored(&first[10..], &[]),
        "the same request"
    );
    let [part, _] = twice_keyed("k", &records[..5]);
    assert_eq!(store.store(&part).await.unwrap().conflicting, 0, "a part of it");

    // Half of it is known, and the new half is another content.
    let [mixed, _] = twice_keyed("k", &[&records[10..], &others[..]].concat());
    let expected = Stored {
        repeated: 10,
        conflicting: 10,
        ..stored(&mixed[10..], &mixed[..10])
    };
    assert_eq!(store.store(&mixed).await.unwrap(), expected);
    assert_eq!(store.store(&again).await.unwrap(), repeated(&again));
    let [other_key, _] = twice_keyed("l", &others);
    assert_eq!(store.store(&other_key).await.unwrap(), stored(&other_key, &[]));

    // Two contents that come in one batch.
    let both = [
        twice_keyed("m", &records)[0].clone(),
        twice_keyed("m", &others)[0].clone(),
    ]
    .concat();
    let outcome = store.store(&both).await.unwrap();
    assert!(
        [10, 20].contains(&outcome.conflicting),
        "one of the two is the other one: {outcome:?}"
    );
    assert_eq!(outcome.inserted, counts(&both));
}

pub async fn a_keyed_message_that_is_refused_leaves_no_token(subject: &dyn StoreUnderTest) {
    for (key, size) in [("few", 10), ("many", 600)] {
        let [mut batch, again] = twice_keyed(key, &messages(size));
        if !subject.refuse(batch[4].id).await {
            return;
        }
        let store = subject.store();
        for _ in 0..2 {
            let refusal = store.store(&batch).await;
            assert!(matches!(refusal, Err(StoreError::Rejected { .. })), "{refusal:?}");
        }
        batch.remove(4);
        assert_eq!(store.store(&batch).await.unwrap(), stored(&batch, &[]));
        // Under another id the store has nothing against it.
        let outcome = store.store(&again).await.unwrap();
        assert_eq!(outcome.inserted, counts(&again[4..5]), "{key}: {outcome:?}");
        assert_eq!(outcome.repeated, size as u64 - 1);
        assert_eq!(subject.find(&[again[4].id]).await.len(), 1);
    }
}

pub async fn a_keyed_batch_whose_future_is_dropped_is_stored_whole_or_not_at_all(
    subject: &dyn StoreUnderTest,
) {
    let store = subject.store();
    for micros in [0, 100, 300, 1_000, 2_000, 4_000, 8_000, 16_000] {
        let [batch, again] = twice_keyed(&format!("{micros}"), &messages(500));
        let _ended = timeout(Duration::from_micros(micros), store.store(&batch)).await;
        let outcome = store_with_patience(&*store, &again).await;
        assert!(
            outcome == stored(&again, &[]) || outcome == repeated(&again),
            "a part of it was stored: {outcome:?}"
        );
        let both = [batch, again].concat();
        assert_eq!(subject.find(&ids(&both)).await.len(), 500);
    }
}

pub async fn a_token_is_forgotten_by_what_gets_through(subject: &dyn StoreUnderTest) {
    let day = |days: i64| {
        Timestamp::from_unix_micros(Timestamp::now().unix_micros() + days * 86_400_000_000).unwrap()
    };
    let store = subject.store();
    let record = [message(Severity::Info, "a", "once")];
    let times: Vec<_> = (0..4)
        .map(|day_after| keyed("k", day(day_after), &record))
        .collect();
    store.store(&times[0]).await.unwrap();
    if !subject.forget(day(0)).await {
        return;
    }
    // Ten days later nothing has got through: what waits may have been received a minute after it.
    assert!(subject.forget(day(10)).await);
    assert_eq!(store.store(&times[1]).await.unwrap(), repeated(&times[1]));
    // Now something has that was received ten days later.
    let newer: Vec<_> = keyed("l", day(10), &messages(5))
        .into_iter()
        .map(|message| Message {
            received_at: day(10),
            ..message
        })
        .collect();
    store.store(&newer).await.unwrap();
    assert!(subject.forget(day(1)).await);
    assert_eq!(
        store.store(&times[1]).await.unwrap(),
        repeated(&times[1]),
        "kept for more than a day"
    );
    assert!(subject.forget(day(10)).await);
    assert_eq!(store.store(&times[2]).await.unwrap(), stored(&times[2], &[]));
    // And where nothing comes any more, it is not kept for ever.
    assert!(subject.forget(day(60)).await);
    assert_eq!(store.store(&times[3]).await.unwrap(), stored(&times[3], &[]));
}
