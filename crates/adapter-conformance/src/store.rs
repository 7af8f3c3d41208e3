//! The contract of [`MessageStore`].

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::JoinSet;
use tokio::time::timeout;
use warren_domain::ports::{MessageStore, StoreError, Stored};
use warren_domain::{Message, MessageId, Severity, SeverityCounts, Timestamp};

use crate::PATIENCE;
use crate::samples::{assert_same_messages, extremes, message, message_made_at, messages};

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
