//! What the tests share: a directory of their own, and short ways to use what is in it.

use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::timeout;
use warren_adapter_embedded::{Embedded, EmbeddedConfig, ReaderConfig};
use warren_domain::ports::{
    ConsumerGroup, Counts, DeadLetterFilter, DeadLetters, Delivery, KeptLetter, MOST_LISTED, MessageConsumer,
    MessageReader, NamedGroup, StartAt, TimeRange,
};
use warren_domain::{
    Attributes, Body, Message, MessageId, MessageLimits, Selection, Severity, SeverityCounts, SeveritySet,
};

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn directory() -> TempDir {
    tempfile::tempdir().unwrap()
}

pub(crate) fn config(directory: &Path) -> EmbeddedConfig {
    EmbeddedConfig {
        path: directory.join("data"),
        ..EmbeddedConfig::default()
    }
}

pub(crate) async fn open(directory: &Path) -> Embedded {
    Embedded::open(config(directory), None).await.unwrap()
}

pub(crate) async fn publish(embedded: &Embedded, messages: &[Message]) {
    embedded
        .publisher()
        .publish(messages.to_vec(), None)
        .await
        .unwrap();
}

pub(crate) async fn next(consumer: &mut dyn MessageConsumer) -> Delivery {
    timeout(PATIENCE, consumer.next()).await.unwrap().unwrap()
}

/// Takes and acknowledges until `count` messages have come.
pub(crate) async fn take(consumer: &mut dyn MessageConsumer, count: usize) -> Vec<Message> {
    let mut taken = Vec::new();
    while taken.len() < count {
        let mut delivery = next(consumer).await;
        taken.append(&mut delivery.messages);
        delivery.ack().await.unwrap();
    }
    taken
}

/// Moves whatever waits into the store, until nothing has come for a while.
pub(crate) async fn drain(embedded: &Embedded) -> usize {
    let store = embedded.store();
    let mut consumer = embedded.consumer(ConsumerGroup::Store);
    let mut drained = 0;
    while let Ok(Some(delivery)) = timeout(Duration::from_millis(500), consumer.next()).await {
        store.store(&delivery.messages).await.unwrap();
        drained += delivery.messages.len();
        delivery.ack().await.unwrap();
    }
    drained
}

/// Returns every dead letter with its bytes.
pub(crate) async fn letters(embedded: &Embedded) -> Vec<(KeptLetter, Vec<u8>)> {
    letters_in(&*embedded.dead_letters()).await
}

pub(crate) async fn letters_in(letters: &dyn DeadLetters) -> Vec<(KeptLetter, Vec<u8>)> {
    let listed = letters
        .list(&DeadLetterFilter::default(), None, MOST_LISTED)
        .await
        .unwrap();
    let ids: Vec<_> = listed.iter().map(|letter| letter.facts.id).collect();
    letters.read(&ids).await.unwrap()
}

pub(crate) fn ids(messages: &[Message]) -> Vec<MessageId> {
    messages.iter().map(|message| message.id).collect()
}

/// Returns the messages with these ids that are stored.
pub(crate) async fn stored(embedded: &Embedded, ids: &[MessageId]) -> Vec<Message> {
    let reader = embedded.reader(&ReaderConfig::default());
    let found = reader.messages(ids).await.unwrap();
    found.into_iter().map(|stored| stored.message).collect()
}

/// Returns the counts of all that is stored.
pub(crate) async fn counts(embedded: &Embedded) -> SeverityCounts {
    let everything = Counts {
        selection: Selection::of(SeveritySet::ALL),
        range: TimeRange::ALL,
        minutes: NonZeroU32::MAX,
    };
    let reader = embedded.reader(&ReaderConfig::default());
    let buckets = reader.counts(&everything).await.unwrap();
    buckets
        .first()
        .map_or_else(SeverityCounts::default, |all| all.counts)
}

/// Returns the message without what it says.
pub(crate) fn envelope(message: &Message) -> Message {
    Message {
        body: Body::new(String::new(), &MessageLimits::default()).unwrap(),
        attributes: Attributes::default(),
        ..message.clone()
    }
}

pub(crate) fn named(name: &str, severities: impl IntoIterator<Item = Severity>) -> ConsumerGroup {
    ConsumerGroup::Named(NamedGroup {
        name: name.parse().unwrap(),
        selection: Selection::of(severities.into_iter().collect()),
        start: StartAt::Oldest,
    })
}

/// Waits until `condition` holds.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(timeout(PATIENCE, waiting).await.is_ok(), "never happened: {what}");
}
