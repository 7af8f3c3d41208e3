//! What every way to watch has to keep.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::timeout;
use warren_domain::ports::{LiveEvent, LiveMessages, LiveStream, MessagePublisher};
use warren_domain::{Message, Severity, SeverityCounts};

use crate::PATIENCE;
use crate::samples::{message, messages};

/// A broker that can be watched, isolated from every other test.
#[async_trait]
pub trait LiveUnderTest: Send + Sync + 'static {
    /// Returns the way in.
    fn publisher(&self) -> Arc<dyn MessagePublisher>;

    /// Returns the way to watch.
    fn live(&self) -> Arc<dyn LiveMessages>;

    /// Removes whatever the test leaves behind.
    async fn tear_down(&self);
}

/// Makes a test of every clause of [`LiveMessages`].
#[macro_export]
macro_rules! live_suite {
    ($make:expr) => {
        $crate::suite!(
            live,
            $make,
            what_is_published_from_now_on_comes_once_and_in_order,
            every_listener_hears_everything,
            a_listener_that_was_slow_hears_the_last_and_how_many_are_missing,
            what_is_passed_over_is_counted_by_severity,
        );
    };
}

#[doc(hidden)]
pub async fn tear_down(subject: &dyn LiveUnderTest) {
    subject.tear_down().await;
}

async fn publish(subject: &dyn LiveUnderTest, messages: &[Message]) {
    let publisher = subject.publisher();
    let published = publisher.publish(messages.to_vec(), None);
    timeout(PATIENCE, published)
        .await
        .expect("publish ends in time")
        .expect("every message is published");
}

async fn next(stream: &mut dyn LiveStream) -> LiveEvent {
    let event = timeout(PATIENCE, stream.next()).await.expect("something comes");
    event.expect("the stream is open")
}

async fn listening(subject: &dyn LiveUnderTest) -> Box<dyn LiveStream> {
    let mut stream = subject.live().listen().await.expect("it can be watched");
    assert_eq!(next(&mut *stream).await, LiveEvent::Listening);
    stream
}

async fn heard(stream: &mut dyn LiveStream, count: usize) -> Vec<Message> {
    let mut heard = Vec::new();
    while heard.len() < count {
        match next(stream).await {
            LiveEvent::Message(message) => heard.push(*message),
            other => panic!("{other:?}"),
        }
    }
    heard
}

pub async fn what_is_published_from_now_on_comes_once_and_in_order(subject: &dyn LiveUnderTest) {
    publish(subject, &messages(10)).await;
    let mut stream = listening(subject).await;
    let sent: Vec<_> = (0..1_000)
        .map(|n| message(Severity::Info, "shop", &n.to_string()))
        .collect();
    publish(subject, &sent).await;
    assert_eq!(heard(&mut *stream, sent.len()).await, sent);
    for severity in Severity::ALL {
        let sent = [message(severity, "a.b", "x")];
        publish(subject, &sent).await;
        assert_eq!(heard(&mut *stream, 1).await, sent);
    }
    stream.close().await;
}

pub async fn every_listener_hears_everything(subject: &dyn LiveUnderTest) {
    let (mut one, mut other) = (listening(subject).await, listening(subject).await);
    let mut sent = messages(200);
    publish(subject, &sent).await;
    sent.sort_by_key(|message| message.id);
    for stream in [&mut one, &mut other] {
        let mut heard = heard(&mut **stream, sent.len()).await;
        heard.sort_by_key(|message| message.id);
        assert_eq!(heard, sent);
    }
    // One that has gone holds up nobody.
    drop(one);
    let sent = [message(Severity::Error, "a", "x")];
    publish(subject, &sent).await;
    assert_eq!(heard(&mut *other, 1).await, sent);
    other.close().await;
}

pub async fn a_listener_that_was_slow_hears_the_last_and_how_many_are_missing(subject: &dyn LiveUnderTest) {
    // More than any adapter keeps for a listener.
    const MESSAGES: u64 = 12_000;
    let mut stream = listening(subject).await;
    let body = "x".repeat(2_000);
    let mut last = None;
    for _ in 0..MESSAGES / 1_000 {
        let sent: Vec<_> = (0..1_000)
            .map(|_| message(Severity::Info, "shop", &body))
            .collect();
        publish(subject, &sent).await;
        last = sent.last().map(|message| message.id);
    }
    let (mut accounted, mut missed, mut exact) = (0, 0, true);
    loop {
        match next(&mut *stream).await {
            LiveEvent::Message(message) => {
                accounted += 1;
                if Some(message.id) == last {
                    break;
                }
            }
            LiveEvent::Missed { messages } => {
                exact &= messages.is_some();
                missed += messages.map_or(0, |messages| messages.get(Severity::Info));
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(
        !exact || accounted + missed == MESSAGES,
        "{accounted} and {missed}"
    );
    assert!(missed > 0 || !exact, "nothing was missed");
    stream.close().await;
}

pub async fn what_is_passed_over_is_counted_by_severity(subject: &dyn LiveUnderTest) {
    let mut stream = listening(subject).await;
    let sent: Vec<_> = (0..1_000)
        .map(|n| message(Severity::ALL[n % 5], "shop", &n.to_string()))
        .collect();
    let last = [message(Severity::Critical, "last", "x")];
    publish(subject, &sent).await;
    publish(subject, &last).await;
    // What has come when the first of them is here may be any part of it.
    let LiveEvent::Message(first) = next(&mut *stream).await else {
        panic!("no message");
    };
    let mut counted = SeverityCounts::from_iter([first.severity]);
    let counting = async {
        while counted.total() < 1_001 {
            counted += stream.pass_over();
            match timeout(Duration::from_millis(50), stream.next()).await {
                Err(_) => {}
                Ok(Some(LiveEvent::Message(message))) => counted.add(message.severity, 1),
                Ok(other) => panic!("{other:?}"),
            }
        }
    };
    timeout(PATIENCE, counting)
        .await
        .expect("everything comes in time");
    let expected: SeverityCounts = sent.iter().chain(&last).map(|message| message.severity).collect();
    assert_eq!(counted, expected);
    assert_eq!(stream.pass_over(), SeverityCounts::default());
    // What comes then is heard as ever.
    let more = [message(Severity::Error, "shop", "more")];
    publish(subject, &more).await;
    assert_eq!(heard(&mut *stream, 1).await, more);
    stream.close().await;
}
