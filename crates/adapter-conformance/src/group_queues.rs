//! What everybody who looks at the queues of groups from outside has to keep.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use warren_domain::ports::{
    ConsumerGroup, GroupName, GroupQueue, GroupQueues, MessageConsumer, NamedGroup, StartAt,
};
use warren_domain::{Selection, Severity, SeveritySet};

use crate::PATIENCE;
use crate::broker::{BrokerUnderTest, next, publish};
use crate::samples::message;

/// A broker whose queues can be looked at, isolated from every other test.
pub trait GroupQueuesUnderTest: BrokerUnderTest {
    /// Returns the way to look.
    fn queues(&self) -> Arc<dyn GroupQueues>;
}

/// Makes a test of every clause of [`GroupQueues`].
#[macro_export]
macro_rules! group_queues_suite {
    ($make:expr) => {
        $crate::suite!(
            group_queues,
            $make,
            looking_at_no_group_finds_none,
            groups_are_told_in_the_order_in_which_they_are_asked_for,
            what_waits_and_how_many_consume_is_seen,
            looking_makes_no_queue,
            looking_takes_nothing_out,
        );
    };
}

#[doc(hidden)]
pub async fn tear_down(subject: &dyn GroupQueuesUnderTest) {
    subject.tear_down().await;
}

fn name(name: &str) -> GroupName {
    name.parse().unwrap()
}

/// Looks until `holds`; what is seen is known with a delay.
async fn until(
    queues: &dyn GroupQueues,
    groups: &[GroupName],
    holds: impl Fn(&[Option<GroupQueue>]) -> bool,
) -> Vec<Option<GroupQueue>> {
    let looking = async {
        loop {
            let seen = queues.look(groups).await.expect("it can be told");
            assert_eq!(seen.len(), groups.len());
            if holds(&seen) {
                break seen;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, looking)
        .await
        .unwrap_or_else(|_| panic!("{groups:?} never are as they should be"))
}

const fn queue(packets: u64, members: u64) -> Option<GroupQueue> {
    Some(GroupQueue { packets, members })
}

/// Makes a member of a group, whose queue is there from now on.
async fn member(subject: &dyn GroupQueuesUnderTest, group: &str, members: u64) -> Box<dyn MessageConsumer> {
    let named = NamedGroup {
        name: name(group),
        selection: Selection::of(SeveritySet::ALL),
        start: StartAt::Oldest,
    };
    let mut consumer = subject.consumer(ConsumerGroup::Named(named)).await;
    // Nothing comes yet; the first call makes it a member.
    assert!(timeout(Duration::from_millis(1), consumer.next()).await.is_err());
    let lag = subject.lag(&name(group));
    let begun = async {
        // Before it has begun, nobody can tell.
        while lag.lag().await.is_err() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, begun).await.expect("the group begins");
    let there = |seen: &[Option<GroupQueue>]| seen[0].is_some_and(|queue| queue.members == members);
    until(&*subject.queues(), &[name(group)], there).await;
    consumer
}

/// Publishes packets of one message each.
async fn publish_apart(subject: &dyn GroupQueuesUnderTest, count: usize) {
    for n in 0..count {
        let sent = [message(Severity::Info, "a", &n.to_string())];
        publish(subject, &sent).await;
    }
}

pub async fn looking_at_no_group_finds_none(subject: &dyn GroupQueuesUnderTest) {
    assert_eq!(subject.queues().look(&[]).await.unwrap(), []);
}

pub async fn groups_are_told_in_the_order_in_which_they_are_asked_for(subject: &dyn GroupQueuesUnderTest) {
    let _one = member(subject, "one", 1).await;
    let mut other = member(subject, "other", 1).await;
    other.close().await;
    drop(other);
    let groups = ["nobody", "other", "one", "nobody-else", "other"].map(name);
    let expected = [None, queue(0, 0), queue(0, 1), None, queue(0, 0)];
    until(&*subject.queues(), &groups, |seen| seen == expected).await;
}

pub async fn what_waits_and_how_many_consume_is_seen(subject: &dyn GroupQueuesUnderTest) {
    let (queues, groups) = (subject.queues(), [name("one")]);
    let mut one = member(subject, "one", 1).await;
    let mut other = member(subject, "one", 2).await;
    one.close().await;
    drop(one);
    until(&*queues, &groups, |seen| seen == [queue(0, 1)]).await;
    // What is delivered does not wait.
    publish_apart(subject, 1).await;
    let held = next(&mut *other).await;
    until(&*queues, &groups, |seen| seen == [queue(0, 1)]).await;
    held.ack().await.expect("an acknowledgement is taken");
    other.close().await;
    drop(other);
    publish_apart(subject, 3).await;
    until(&*queues, &groups, |seen| seen == [queue(3, 0)]).await;
}

pub async fn looking_makes_no_queue(subject: &dyn GroupQueuesUnderTest) {
    let (queues, groups) = (subject.queues(), [name("one")]);
    assert_eq!(queues.look(&groups).await.unwrap(), [None]);
    publish_apart(subject, 1).await;
    assert_eq!(queues.look(&groups).await.unwrap(), [None]);
    // A group that has begun has nothing of before.
    let _one = member(subject, "one", 1).await;
    until(&*queues, &groups, |seen| seen == [queue(0, 1)]).await;
}

pub async fn looking_takes_nothing_out(subject: &dyn GroupQueuesUnderTest) {
    let (queues, groups) = (subject.queues(), [name("one")]);
    let mut first = member(subject, "one", 1).await;
    first.close().await;
    drop(first);
    publish_apart(subject, 3).await;
    until(&*queues, &groups, |seen| seen == [queue(3, 0)]).await;
    for _ in 0..10 {
        assert_eq!(queues.look(&groups).await.unwrap(), [queue(3, 0)]);
    }
    let mut second = member(subject, "one", 1).await;
    for _ in 0..3 {
        let delivery = next(&mut *second).await;
        assert!(!delivery.redelivered && delivery.attempt == 1, "{delivery:?}");
        delivery.ack().await.expect("an acknowledgement is taken");
    }
}
