//! The contract of [`MessagePublisher`] and [`MessageConsumer`], which only together can be observed.

mod groups;

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::task::JoinSet;
use tokio::time::timeout;
use warren_domain::ports::{
    ConsumerGroup, DeadLetterReason, Delivery, GroupLag, GroupName, MessageConsumer, MessagePublisher,
    Refused,
};
use warren_domain::{Message, Severity, Timestamp, TraceContext};

use crate::PATIENCE;
use crate::samples::{assert_same_messages, extremes, keyed, message, messages};

/// A broker with nothing in it, isolated from every other test.
#[async_trait]
pub trait BrokerUnderTest: Send + Sync + 'static {
    /// Returns the publisher.
    fn publisher(&self) -> Arc<dyn MessagePublisher>;

    /// Makes a new member of `group`; the group exists once its first member has called `next`.
    async fn consumer(&self, group: ConsumerGroup) -> Box<dyn MessageConsumer>;

    /// Returns what tells how far a group is behind for which a consumer was made.
    fn lag(&self, group: &GroupName) -> Arc<dyn GroupLag>;

    /// Returns every dead letter: the code of its reason, and the message as it was kept.
    async fn dead_letters(&self) -> Vec<(String, Message)>;

    /// Returns how many deliveries of one consumer may be out unsettled; `None`: too many to try.
    fn prefetch(&self) -> Option<usize> {
        None
    }

    /// Removes what the test has left.
    async fn tear_down(&self);
}

/// Runs every test of the broker's contract on what `$make` yields.
#[macro_export]
macro_rules! broker_suite {
    ($make:expr) => {
        $crate::suite!(
            broker,
            $make,
            a_published_message_is_delivered_with_every_field_equal,
            publishing_nothing_succeeds,
            a_publication_larger_than_a_packet_arrives_whole,
            concurrent_publishers_lose_nothing,
            a_publish_future_that_is_dropped_disturbs_nobody,
            a_named_group_gets_its_severities_only,
            a_named_group_gets_the_sources_it_selects_only,
            every_group_gets_its_own_copy,
            whoever_begins_at_the_oldest_message_gets_what_waited,
            whoever_begins_with_the_next_message_gets_nothing_that_waited,
            a_group_that_comes_back_selects_anew,
            the_lag_of_a_group_is_what_waits_and_goes_to_nothing,
            an_acknowledged_delivery_does_not_come_again,
            a_delivery_that_is_dropped_comes_again,
            a_delivery_that_is_dropped_comes_again_to_a_consumer_that_goes_on,
            a_closed_consumer_yields_nothing_more_and_its_deliveries_can_be_settled,
            members_of_a_group_share_its_messages,
            no_more_is_out_than_the_prefetch_allows,
            deliveries_can_be_settled_in_any_order,
            a_refused_message_is_a_dead_letter_and_its_neighbours_are_not,
            a_dead_lettered_delivery_does_not_come_again,
            the_trace_of_a_request_reaches_its_delivery,
        );
    };
}

#[doc(hidden)]
pub use groups::{
    a_group_that_comes_back_selects_anew, a_named_group_gets_its_severities_only,
    a_named_group_gets_the_sources_it_selects_only, every_group_gets_its_own_copy,
    the_lag_of_a_group_is_what_waits_and_goes_to_nothing,
    whoever_begins_at_the_oldest_message_gets_what_waited,
    whoever_begins_with_the_next_message_gets_nothing_that_waited,
};

#[doc(hidden)]
pub async fn tear_down(broker: &dyn BrokerUnderTest) {
    broker.tear_down().await;
}

pub(crate) async fn publish<B: BrokerUnderTest + ?Sized>(broker: &B, messages: &[Message]) {
    publish_within(broker, messages, None).await;
}

async fn publish_within<B: BrokerUnderTest + ?Sized>(
    broker: &B,
    messages: &[Message],
    trace: Option<TraceContext>,
) {
    let publisher = broker.publisher();
    let published = publisher.publish(messages.to_vec(), trace);
    timeout(PATIENCE, published)
        .await
        .expect("publish ends in time")
        .expect("every message is published");
}

pub(crate) async fn next(consumer: &mut dyn MessageConsumer) -> Delivery {
    let delivery = timeout(PATIENCE, consumer.next())
        .await
        .expect("a delivery comes in time");
    let delivery = delivery.expect("the consumer is open");
    assert!(!delivery.messages.is_empty(), "a delivery without messages");
    assert!(delivery.attempt >= 1, "attempts count from 1");
    delivery
}

/// Takes deliveries until they hold `count` messages; acknowledges each.
async fn take(consumer: &mut dyn MessageConsumer, count: usize) -> Vec<Message> {
    let mut taken = Vec::new();
    while taken.len() < count {
        let mut delivery = next(consumer).await;
        taken.append(&mut delivery.messages);
        delivery.ack().await.expect("an acknowledgement is taken");
    }
    taken
}

pub async fn a_published_message_is_delivered_with_every_field_equal(broker: &dyn BrokerUnderTest) {
    let mut sent = extremes();
    sent.extend(keyed("k", Timestamp::now(), &messages(3)));
    publish(broker, &sent).await;
    let mut consumer = broker.consumer(ConsumerGroup::Store).await;
    assert_same_messages(&take(&mut *consumer, sent.len()).await, &sent);
}

pub async fn publishing_nothing_succeeds(broker: &dyn BrokerUnderTest) {
    publish(broker, &[]).await;
}

pub async fn a_publication_larger_than_a_packet_arrives_whole(broker: &dyn BrokerUnderTest) {
    let sent = messages(3_000);
    publish(broker, &sent).await;
    let mut consumer = broker.consumer(ConsumerGroup::Store).await;
    assert_same_messages(&take(&mut *consumer, sent.len()).await, &sent);
}

pub async fn concurrent_publishers_lose_nothing(broker: &dyn BrokerUnderTest) {
    let mut publishers = JoinSet::new();
    for _ in 0..32 {
        let publisher = broker.publisher();
        publishers.spawn(async move {
            let mut sent = Vec::new();
            for n in 1..=10 {
                let batch = messages(n);
                publisher
                    .publish(batch.clone(), None)
                    .await
                    .expect("every message is published");
                sent.extend(batch);
            }
            sent
        });
    }
    let sent = timeout(PATIENCE, publishers.join_all())
        .await
        .expect("publishers end")
        .concat();
    let mut consumer = broker.consumer(ConsumerGroup::Store).await;
    assert_same_messages(&take(&mut *consumer, sent.len()).await, &sent);
}

pub async fn a_publish_future_that_is_dropped_disturbs_nobody(broker: &dyn BrokerUnderTest) {
    let (abandoned, kept) = (messages(50), messages(50));
    for message in &abandoned {
        let publisher = broker.publisher();
        let mut publishing = Box::pin(publisher.publish(vec![message.clone()], None));
        // Polled once, so that it has begun, then dropped.
        let _ended = timeout(std::time::Duration::ZERO, &mut publishing).await;
    }
    publish(broker, &kept).await;
    let expected: HashSet<_> = kept.iter().map(|message| message.id).collect();
    let mut consumer = broker.consumer(ConsumerGroup::Store).await;
    let mut seen = HashSet::new();
    while !expected.is_subset(&seen) {
        seen.extend(take(&mut *consumer, 1).await.iter().map(|message| message.id));
    }
}

pub async fn an_acknowledged_delivery_does_not_come_again(broker: &dyn BrokerUnderTest) {
    let (first, second) = (messages(10), messages(10));
    publish(broker, &first).await;
    let mut consumer = broker.consumer(ConsumerGroup::Store).await;
    take(&mut *consumer, first.len()).await;
    consumer.close().await;
    drop(consumer);
    publish(broker, &second).await;
    let mut consumer = broker.consumer(ConsumerGroup::Store).await;
    assert_same_messages(&take(&mut *consumer, second.len()).await, &second);
}

pub async fn a_delivery_that_is_dropped_comes_again(broker: &dyn BrokerUnderTest) {
    let sent = [message(Severity::Info, "a", "comes twice")];
    publish(broker, &sent).await;
    let mut consumer = broker.consumer(ConsumerGroup::Store).await;
    let delivery = next(&mut *consumer).await;
    assert_same_messages(&delivery.messages, &sent);
    drop(delivery);
    consumer.close().await;
    drop(consumer);
    let mut consumer = broker.consumer(ConsumerGroup::Store).await;
    let again = next(&mut *consumer).await;
    assert_same_messages(&again.messages, &sent);
    assert!(again.redelivered, "a second delivery says so");
    again.ack().await.expect("an acknowledgement is taken");
}

pub async fn a_delivery_that_is_dropped_comes_again_to_a_consumer_that_goes_on(broker: &dyn BrokerUnderTest) {
    let sent = [message(Severity::Info, "a", "comes twice")];
    publish(broker, &sent).await;
    let mut consumer = broker.consumer(ConsumerGroup::Store).await;
    let first = next(&mut *consumer).await;
    let attempt = first.attempt;
    drop(first);
    let again = next(&mut *consumer).await;
    assert_same_messages(&again.messages, &sent);
    assert!(again.redelivered, "a second delivery says so");
    assert!(again.attempt >= attempt, "attempts are not forgotten");
    again.ack().await.expect("an acknowledgement is taken");
}

pub async fn a_closed_consumer_yields_nothing_more_and_its_deliveries_can_be_settled(
    broker: &dyn BrokerUnderTest,
) {
    let (held, left) = (messages(1), messages(1));
    publish(broker, &held).await;
    let mut consumer = broker.consumer(ConsumerGroup::Store).await;
    let delivery = next(&mut *consumer).await;
    publish(broker, &left).await;
    consumer.close().await;
    let after = timeout(PATIENCE, consumer.next())
        .await
        .expect("a closed consumer answers");
    assert!(after.is_none(), "a closed consumer yields nothing");
    delivery.ack().await.expect("an acknowledgement is taken");
    drop(consumer);
    let mut consumer = broker.consumer(ConsumerGroup::Store).await;
    assert_same_messages(&take(&mut *consumer, 1).await, &left);
}

pub async fn members_of_a_group_share_its_messages(broker: &dyn BrokerUnderTest) {
    let mut one = broker.consumer(ConsumerGroup::Store).await;
    let mut other = broker.consumer(ConsumerGroup::Store).await;
    let sent = messages(50);
    for message in &sent {
        publish(broker, std::slice::from_ref(message)).await;
    }
    let mut taken = Vec::new();
    while taken.len() < sent.len() {
        let delivery = timeout(PATIENCE, async {
            tokio::select! {
                delivery = one.next() => delivery,
                delivery = other.next() => delivery,
            }
        });
        let delivery = delivery.await.expect("a delivery comes in time");
        let mut delivery = delivery.expect("the consumers are open");
        taken.append(&mut delivery.messages);
        delivery.ack().await.expect("an acknowledgement is taken");
    }
    assert_same_messages(&taken, &sent);
}

pub async fn no_more_is_out_than_the_prefetch_allows(broker: &dyn BrokerUnderTest) {
    let Some(prefetch) = broker.prefetch() else {
        return;
    };
    for _ in 0..=prefetch {
        publish(broker, &messages(1)).await;
    }
    let mut consumer = broker.consumer(ConsumerGroup::Store).await;
    let mut out = Vec::new();
    for _ in 0..prefetch {
        out.push(next(&mut *consumer).await);
    }
    let one_more = timeout(std::time::Duration::from_millis(300), consumer.next()).await;
    assert!(one_more.is_err(), "more is out than the prefetch allows");
    let settled = out.pop().expect("something is out");
    settled.ack().await.expect("an acknowledgement is taken");
    next(&mut *consumer)
        .await
        .ack()
        .await
        .expect("an acknowledgement is taken");
}

pub async fn deliveries_can_be_settled_in_any_order(broker: &dyn BrokerUnderTest) {
    let mut consumer = broker.consumer(ConsumerGroup::Store).await;
    let mut held = Vec::new();
    for n in 0..8 {
        publish(broker, &[message(Severity::Info, "a", &n.to_string())]).await;
        held.push(next(&mut *consumer).await);
    }
    // Every other one from the back; the rest is given back.
    let mut given_back = Vec::new();
    for (n, delivery) in held.into_iter().enumerate().rev() {
        if n % 2 == 0 {
            delivery.ack().await.expect("an acknowledgement is taken");
        } else {
            given_back.extend(delivery.messages.clone());
        }
    }
    consumer.close().await;
    drop(consumer);
    let mut consumer = broker.consumer(ConsumerGroup::Store).await;
    assert_same_messages(&take(&mut *consumer, given_back.len()).await, &given_back);
}

fn refusal(index: usize) -> Refused {
    Refused {
        index,
        reason: DeadLetterReason {
            code: "refused_by_store",
            detail: "no row for it — ☃".to_owned(),
        },
    }
}

pub async fn a_refused_message_is_a_dead_letter_and_its_neighbours_are_not(broker: &dyn BrokerUnderTest) {
    // One severity and source, so that they may share a packet; adapters need not pack them together.
    let sent: Vec<_> = (0..10)
        .map(|n| message(Severity::Error, "a", &n.to_string()))
        .collect();
    publish(broker, &sent).await;
    let mut consumer = broker.consumer(ConsumerGroup::Store).await;
    let (mut seen, mut refused) = (0, Vec::new());
    while seen < sent.len() {
        let delivery = next(&mut *consumer).await;
        seen += delivery.messages.len();
        refused.push(delivery.messages[0].clone());
        delivery
            .ack_except(vec![refusal(0)])
            .await
            .expect("a dead letter is kept");
    }
    let letters = broker.dead_letters().await;
    assert!(
        letters.iter().all(|(code, _)| code == "refused_by_store"),
        "the reason is kept"
    );
    assert_same_messages(
        &letters
            .into_iter()
            .map(|(_, message)| message)
            .collect::<Vec<_>>(),
        &refused,
    );
}

pub async fn a_dead_lettered_delivery_does_not_come_again(broker: &dyn BrokerUnderTest) {
    let (bad, good) = (messages(1), messages(1));
    publish(broker, &bad).await;
    let mut consumer = broker.consumer(ConsumerGroup::Store).await;
    let delivery = next(&mut *consumer).await;
    delivery
        .dead_letter(refusal(0).reason)
        .await
        .expect("a dead letter is kept");
    consumer.close().await;
    drop(consumer);
    publish(broker, &good).await;
    let mut consumer = broker.consumer(ConsumerGroup::Store).await;
    assert_same_messages(&take(&mut *consumer, 1).await, &good);
    assert_eq!(broker.dead_letters().await.len(), 1);
}

pub async fn the_trace_of_a_request_reaches_its_delivery(broker: &dyn BrokerUnderTest) {
    let trace: TraceContext = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        .parse()
        .unwrap();
    publish_within(broker, &messages(1), Some(trace)).await;
    let mut consumer = broker.consumer(ConsumerGroup::Store).await;
    let delivery = next(&mut *consumer).await;
    assert_eq!(delivery.traces, [trace]);
    delivery.ack().await.expect("an acknowledgement is taken");
}
