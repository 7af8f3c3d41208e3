use super::*;
use warren_domain::{Draft, MessageLimits, Timestamp};

fn message(severity: Severity, body: &str) -> Message {
    let draft = Draft {
        severity: Some(severity),
        body: Some(body.to_owned()),
        ..Draft::default()
    };
    draft
        .into_message(&MessageLimits::default(), Timestamp::now())
        .unwrap()
}

fn queue(messages: usize, when_full: WhenFull) -> Queue {
    let bounds = Bounds {
        messages,
        bytes: 1 << 20,
    };
    Queue::new(bounds, when_full)
}

fn offer(queue: &mut Queue, severity: Severity) -> Offer {
    queue.offer(Held::new(message(severity, "x"), 1 << 20))
}

const ALL: Bounds = Bounds {
    messages: usize::MAX,
    bytes: usize::MAX,
};

fn bodies(batch: &[Held]) -> Vec<&str> {
    batch.iter().map(|held| held.message.body.as_str()).collect()
}

#[test]
fn the_gravest_are_taken_first_and_each_severity_in_order() {
    let mut queue = queue(10, WhenFull::Wait);
    for (severity, body) in [
        (Severity::Debug, "d1"),
        (Severity::Error, "e1"),
        (Severity::Debug, "d2"),
        (Severity::Error, "e2"),
    ] {
        queue.offer(Held::new(message(severity, body), 1 << 20));
    }
    let most = Bounds { messages: 3, ..ALL };
    assert_eq!(bodies(&queue.take(most)), ["e1", "e2", "d1"]);
    assert_eq!(bodies(&queue.take(most)), ["d2"]);
}

#[test]
fn a_graver_newcomer_takes_the_place_of_the_latest_of_the_lowest() {
    let mut queue = queue(3, WhenFull::DropLowest);
    for (severity, body) in [
        (Severity::Info, "i1"),
        (Severity::Debug, "d1"),
        (Severity::Debug, "d2"),
        (Severity::Critical, "c1"),
    ] {
        assert!(matches!(
            queue.offer(Held::new(message(severity, body), 1 << 20)),
            Offer::Taken
        ));
    }
    // Nothing is less grave than debug, and nothing equally grave gives way.
    assert!(matches!(offer(&mut queue, Severity::Debug), Offer::Dropped));
    let stats = queue.stats();
    assert_eq!(stats.dropped, [Severity::Debug; 2].into_iter().collect());
    assert_eq!(stats.accepted.total(), 3);
    assert_eq!(bodies(&queue.take(ALL)), ["c1", "i1", "d1"]);
}

#[test]
fn what_was_handed_over_is_never_dropped() {
    let mut queue = queue(2, WhenFull::DropLowest);
    offer(&mut queue, Severity::Debug);
    let batch = queue.take(ALL);
    offer(&mut queue, Severity::Debug);
    assert!(matches!(offer(&mut queue, Severity::Critical), Offer::Taken));
    assert!(matches!(offer(&mut queue, Severity::Error), Offer::Dropped));
    let again = queue.settle(batch, |_| Some(PublishError::unavailable("away")), |_| true);
    assert_eq!(
        (again.len(), queue.trouble()),
        (1, Some("the broker cannot take messages now: away"))
    );
    assert!(matches!(offer(&mut queue, Severity::Error), Offer::Dropped));
    assert!(queue.settle(again, |_| None, |_| true).is_empty());
    assert_eq!(queue.trouble(), None);
    assert!(matches!(offer(&mut queue, Severity::Error), Offer::Taken));
}

#[test]
fn nothing_is_dropped_where_that_would_not_make_enough_room() {
    let bounds = Bounds {
        messages: 100,
        bytes: 4_000,
    };
    let mut queue = Queue::new(bounds, WhenFull::DropLowest);
    let large = |severity, length: usize| Held::new(message(severity, &"x".repeat(length)), 4_000);
    assert!(matches!(queue.offer(large(Severity::Error, 2_000)), Offer::Taken));
    assert!(matches!(queue.offer(large(Severity::Debug, 100)), Offer::Taken));
    assert!(matches!(
        queue.offer(large(Severity::Critical, 9_000)),
        Offer::Taken
    ));
    // Its place was the whole queue; now only something graver could have it.
    assert_eq!(queue.stats().dropped.total(), 2);
    assert!(matches!(queue.offer(large(Severity::Error, 10)), Offer::Dropped));
    let dropped = queue.stats().dropped;
    assert_eq!(
        (dropped.get(Severity::Error), dropped.get(Severity::Debug)),
        (2, 1)
    );
}

#[test]
fn with_the_policy_to_wait_a_newcomer_comes_back_until_there_is_room() {
    let mut queue = queue(1, WhenFull::Wait);
    offer(&mut queue, Severity::Debug);
    let Offer::NoRoom(held) = offer(&mut queue, Severity::Critical) else {
        panic!("there is no room");
    };
    let batch = queue.take(ALL);
    queue.settle(batch, |_| None, |_| true);
    assert!(matches!(queue.offer(*held), Offer::Taken));
    let stats = queue.stats();
    assert_eq!((stats.accepted.total(), stats.dropped.total()), (2, 0));
}

#[test]
fn a_mark_is_passed_once_all_before_it_is_answered_for() {
    let mut queue = queue(10, WhenFull::DropLowest);
    let nothing = queue.mark();
    assert!(queue.has_passed(nothing));
    offer(&mut queue, Severity::Info);
    let one = queue.mark();
    let same = queue.mark();
    let batch = queue.take(ALL);
    offer(&mut queue, Severity::Info);
    let two = queue.mark();
    assert!(!queue.has_passed(one) && !queue.has_passed(same));
    queue.settle(batch, |_| None, |_| true);
    assert!(queue.has_passed(one) && queue.has_passed(same) && !queue.has_passed(two));
    queue.abandon();
    assert!(queue.has_passed(two));
}

#[test]
fn a_newcomer_that_ends_a_flush_says_so() {
    let mut queue = queue(3, WhenFull::DropLowest);
    offer(&mut queue, Severity::Debug);
    let mark = queue.mark();
    offer(&mut queue, Severity::Debug);
    offer(&mut queue, Severity::Error);
    assert_eq!(queue.take(Bounds { messages: 1, ..ALL }).len(), 1);
    // The latest goes first, and nobody waits for that.
    assert!(matches!(offer(&mut queue, Severity::Critical), Offer::Taken));
    assert!(!queue.has_passed(mark));
    assert!(matches!(
        offer(&mut queue, Severity::Critical),
        Offer::TakenAndFlushed
    ));
    assert!(queue.has_passed(mark));
}

#[test]
fn spare_capacity_and_the_leaf_of_a_map_have_weight() {
    let mut text = String::with_capacity(5_000);
    text.push('x');
    assert!(value_weight(&Value::String(text)) >= 5_000);
    assert!(value_weight(&Value::Array(Vec::with_capacity(100))) >= 100 * size_of::<Value>());
    assert_eq!(map_weight(&Map::new()), 0);
    let one = Map::from_iter([("a".to_owned(), Value::Null)]);
    assert!(map_weight(&one) >= 600);
}

#[test]
fn every_call_is_in_the_books_exactly_once() {
    let mut queue = queue(4, WhenFull::DropLowest);
    let mut calls = 0;
    for round in 0..200 {
        for severity in [3, 0, 4, 1, 2, 0].map(|index| Severity::ALL[index]) {
            offer(&mut queue, severity);
            calls += 1;
        }
        queue.reject(Severity::Info);
        calls += 1;
        if round % 3 == 0 {
            let batch = queue.take(Bounds { messages: 2, ..ALL });
            let refused = PublishError::Refused {
                reason: "no".to_owned(),
            };
            queue.settle(batch, |place| (place == 1).then(|| refused.clone()), |_| false);
        }
        let stats = queue.stats();
        assert_eq!(
            stats.accepted.total() + stats.dropped.total() + stats.rejected.total(),
            calls
        );
    }
    queue.abandon();
    let stats = queue.stats();
    assert_eq!(stats.waiting.total(), 0);
    assert_eq!(
        stats.accepted.total() + stats.dropped.total() + stats.rejected.total(),
        calls
    );
    assert!(matches!(offer(&mut queue, Severity::Critical), Offer::Closed));
}
