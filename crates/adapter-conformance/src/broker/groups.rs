//! Named groups: what they select, where they begin, how far behind they are.

use std::collections::HashSet;

use tokio::time::timeout;
use warren_domain::ports::{ConsumerGroup, GroupLag, Lag, MessageConsumer, NamedGroup, StartAt};
use warren_domain::{Message, MessageId, Selection, Severity, Timestamp};

use super::{BrokerUnderTest, next, publish, take};
use crate::PATIENCE;
use crate::samples::{assert_same_messages, message, messages};

fn named(name: &str, severities: impl IntoIterator<Item = Severity>) -> ConsumerGroup {
    selecting(
        name,
        Selection::of(severities.into_iter().collect()),
        StartAt::Oldest,
    )
}

fn selecting(name: &str, selection: Selection, start: StartAt) -> ConsumerGroup {
    ConsumerGroup::Named(NamedGroup {
        name: name.parse().unwrap(),
        selection,
        start,
    })
}

/// Makes a group exist: its first member fetches once, and what comes is kept for the test.
async fn started(broker: &dyn BrokerUnderTest, group: ConsumerGroup) -> Box<dyn MessageConsumer> {
    started_by(broker, group, "probe").await
}

/// Makes a group exist that selects the source `probe`.
async fn started_by(
    broker: &dyn BrokerUnderTest,
    group: ConsumerGroup,
    probe: &str,
) -> Box<dyn MessageConsumer> {
    let mut consumer = broker.consumer(group).await;
    // A probe of a severity the group listens to shows that it exists; nothing else tells for every adapter.
    for attempt in 0.. {
        let probes: Vec<_> = Severity::ALL
            .map(|severity| message(severity, probe, "are you there?"))
            .into();
        publish(broker, &probes).await;
        let patience = std::time::Duration::from_millis(500);
        if let Ok(Some(first)) = timeout(patience, consumer.next()).await {
            first.ack().await.expect("an acknowledgement is taken");
            break;
        }
        assert!(attempt < 60, "the group never got a message");
    }
    // Whatever probes are still on their way end before the marker.
    let marker: Vec<_> = Severity::ALL
        .map(|severity| message(severity, probe, "now it begins"))
        .into();
    publish(broker, &marker).await;
    let mut awaited: HashSet<MessageId> = marker.iter().map(|message| message.id).collect();
    while let Ok(Some(delivery)) = timeout(std::time::Duration::from_millis(500), consumer.next()).await {
        delivery.messages.iter().for_each(|message| {
            awaited.remove(&message.id);
        });
        delivery.ack().await.expect("an acknowledgement is taken");
    }
    assert!(awaited.len() < Severity::ALL.len(), "no marker reached the group");
    consumer
}

pub async fn a_named_group_gets_its_severities_only(broker: &dyn BrokerUnderTest) {
    let heard = [Severity::Debug, Severity::Critical];
    let mut consumer = started(broker, named("loud-and-quiet", heard)).await;
    let sent = messages(100);
    publish(broker, &sent).await;
    let expected: Vec<_> = sent
        .into_iter()
        .filter(|message| heard.contains(&message.severity))
        .collect();
    assert_same_messages(&take(&mut *consumer, expected.len()).await, &expected);
}

pub async fn a_named_group_gets_the_sources_it_selects_only(broker: &dyn BrokerUnderTest) {
    let selection = Selection {
        severities: [Severity::Info, Severity::Error].into_iter().collect(),
        sources: ["billing.#", "*.web.*"]
            .map(|pattern| pattern.parse().unwrap())
            .to_vec(),
    };
    let group = selecting("billing", selection.clone(), StartAt::Oldest);
    let mut consumer = started_by(broker, group, "billing").await;
    let sent = messages(200);
    publish(broker, &sent).await;
    let mut expected = sent;
    expected.retain(|message| selection.matches(message));
    assert!(!expected.is_empty());
    assert_same_messages(&take(&mut *consumer, expected.len()).await, &expected);
}

pub async fn every_group_gets_its_own_copy(broker: &dyn BrokerUnderTest) {
    let mut one = started(broker, named("one", Severity::ALL)).await;
    let mut other = started(broker, named("other", Severity::ALL)).await;
    // What made `other` exist reached `one` as well.
    while let Ok(Some(delivery)) = timeout(std::time::Duration::from_millis(500), one.next()).await {
        delivery.ack().await.expect("an acknowledgement is taken");
    }
    let sent = messages(100);
    publish(broker, &sent).await;
    assert_same_messages(&take(&mut *one, sent.len()).await, &sent);
    assert_same_messages(&take(&mut *other, sent.len()).await, &sent);
}

/// Makes a group exist that nobody attends any more, and publishes `waiting`.
async fn unattended(broker: &dyn BrokerUnderTest, group: ConsumerGroup, waiting: &[Message]) {
    let mut consumer = started(broker, group).await;
    consumer.close().await;
    drop(consumer);
    publish(broker, waiting).await;
}

pub async fn whoever_begins_at_the_oldest_message_gets_what_waited(broker: &dyn BrokerUnderTest) {
    let waiting = messages(20);
    unattended(broker, named("one", Severity::ALL), &waiting).await;
    let mut consumer = broker.consumer(named("one", Severity::ALL)).await;
    assert_same_messages(&take(&mut *consumer, waiting.len()).await, &waiting);
}

pub async fn whoever_begins_with_the_next_message_gets_nothing_that_waited(broker: &dyn BrokerUnderTest) {
    let waiting = messages(20);
    unattended(broker, named("one", Severity::ALL), &waiting).await;
    let everything = Selection::of(Severity::ALL.into_iter().collect());
    let mut consumer = broker.consumer(selecting("one", everything, StartAt::New)).await;
    let mut taken = Vec::new();
    for attempt in 0.. {
        // What is published before it has begun is dropped with the rest.
        publish(broker, &[message(Severity::Info, "probe", "are you there?")]).await;
        let patience = std::time::Duration::from_millis(500);
        if let Ok(Some(delivery)) = timeout(patience, consumer.next()).await {
            taken.extend(delivery.messages.iter().map(|message| message.id));
            delivery.ack().await.expect("an acknowledgement is taken");
            break;
        }
        assert!(attempt < 60, "the consumer never got a message");
    }
    let next = messages(20);
    publish(broker, &next).await;
    while !next.iter().all(|message| taken.contains(&message.id)) {
        taken.extend(take(&mut *consumer, 1).await.iter().map(|message| message.id));
    }
    let old = waiting.iter().find(|message| taken.contains(&message.id));
    assert!(old.is_none(), "what waited was delivered");
}

pub async fn a_group_that_comes_back_selects_anew(broker: &dyn BrokerUnderTest) {
    let waiting = messages(50);
    let before = [Severity::Info, Severity::Error];
    unattended(broker, named("one", before), &waiting).await;
    let selection = Selection::of([Severity::Error, Severity::Critical].into_iter().collect());
    let group = selecting("one", selection.clone(), StartAt::Oldest);
    let mut consumer = broker.consumer(group).await;
    let of = |severity: Severity, messages: &[Message]| {
        let chosen = messages.iter().filter(|message| message.severity == severity);
        chosen.cloned().collect::<Vec<_>>()
    };
    // What both selections mean has waited. Of the rest an adapter may deliver some.
    let expected = of(Severity::Error, &waiting);
    let mut taken = Vec::new();
    while of(Severity::Error, &taken).len() < expected.len() {
        taken.extend(take(&mut *consumer, 1).await);
    }
    assert_same_messages(&of(Severity::Error, &taken), &expected);
    // It has begun, so from now on it is all that the new selection means, and nothing else.
    let sent = messages(50);
    let later: HashSet<_> = sent.iter().map(|message| message.id).collect();
    publish(broker, &sent).await;
    let mut expected = sent;
    expected.retain(|message| selection.matches(message));
    let mut taken = Vec::new();
    while taken.len() < expected.len() {
        let mut more = take(&mut *consumer, 1).await;
        more.retain(|message| later.contains(&message.id));
        taken.append(&mut more);
    }
    assert_same_messages(&taken, &expected);
}

/// Asks until `holds`; what waits is known with a delay.
async fn lag_becomes(lag: &dyn GroupLag, what: &str, holds: impl Fn(&Lag) -> bool) -> Lag {
    let asking = async {
        loop {
            let said = lag.lag().await.expect("the lag is told");
            if holds(&said) {
                break said;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let said = timeout(PATIENCE, asking).await;
    said.unwrap_or_else(|_| panic!("the lag never is {what}"))
}

pub async fn the_lag_of_a_group_is_what_waits_and_goes_to_nothing(broker: &dyn BrokerUnderTest) {
    let mut consumer = started(broker, named("one", Severity::ALL)).await;
    let lag = broker.lag(&"one".parse().unwrap());
    let none = |messages: Option<u64>| messages.is_none_or(|count| count == 0);
    let nothing = |lag: &Lag| {
        let held = lag.unacknowledged;
        lag.packets == 0 && none(lag.messages) && held.packets == 0 && none(held.messages)
    };
    let said = lag_becomes(&*lag, "nothing", nothing).await;
    assert_eq!(said.oldest, None, "nothing waits");

    let (held, began) = (broker.prefetch().unwrap_or(0), Timestamp::now());
    let count = held + 20;
    for n in 0..count {
        // Each call is a packet of its own.
        publish(broker, &[message(Severity::Info, "a", &n.to_string())]).await;
    }
    if broker.prefetch().is_some() {
        // Some may be fetched ahead, and held without having been asked for.
        let (least, most) = (20, count as u64);
        let said = lag_becomes(&*lag, "what waits", |lag| (least..=most).contains(&lag.packets)).await;
        assert!(
            said.messages.is_none_or(|messages| messages == said.packets),
            "{said:?}"
        );
        let since_then = |oldest: Timestamp| oldest >= began && oldest <= Timestamp::now();
        assert!(said.oldest.is_none_or(since_then), "{said:?}");
    }
    // What is held does not wait, and what waits is not held.
    let first = next(&mut *consumer).await;
    let all = |lag: &Lag| lag.packets + lag.unacknowledged.packets == count as u64;
    let said = lag_becomes(&*lag, "what waits and what is held", all).await;
    let held = said.unacknowledged;
    assert!(held.packets > 0, "{said:?}");
    assert!(
        held.messages.is_none_or(|messages| messages == held.packets),
        "{said:?}"
    );
    let taken = first.messages.len();
    first.ack().await.expect("an acknowledgement is taken");
    take(&mut *consumer, count - taken).await;
    let said = lag_becomes(&*lag, "nothing", nothing).await;
    assert_eq!(said.oldest, None, "nothing waits");
}
