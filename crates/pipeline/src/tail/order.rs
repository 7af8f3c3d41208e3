//! Messages that were heard a moment ago, put into the order of their ids.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use warren_domain::{Message, MessageId};

use crate::gather::weight;

/// How long a message waits for those that were taken in before it and are published after it: packets hold one severity
/// and one source each, so the messages of one request come in several.
const HOLD: Duration = Duration::from_millis(100);
/// How many messages, and bytes of them, wait at most; beyond them none does.
const MOST_MESSAGES: usize = 20_000;
const MOST_BYTES: u64 = 8 << 20;

/// What was heard and waits for what is before it.
#[derive(Debug, Default)]
pub(super) struct InOrder {
    waiting: BTreeMap<MessageId, Held>,
    bytes: u64,
}

#[derive(Debug)]
struct Held {
    message: Message,
    bytes: u64,
    heard: Instant,
}

impl InOrder {
    /// Puts a message where it belongs; returns what it weighs.
    pub(super) fn push(&mut self, message: Message, heard: Instant) -> u64 {
        let (id, bytes) = (message.id, weight(&message));
        let held = Held {
            message,
            bytes,
            heard,
        };
        self.bytes += bytes;
        if let Some(twice) = self.waiting.insert(id, held) {
            self.bytes -= twice.bytes;
        }
        bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Tells whether as much waits as may.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() > MOST_MESSAGES || self.bytes > MOST_BYTES
    }

    /// Takes what has waited for long enough, and what is before it; in order.
    pub(super) fn due(&mut self, now: Instant) -> impl Iterator<Item = Message> + use<> {
        let full = self.is_full();
        let is_due = |held: &Held| full || held.heard + HOLD <= now;
        let last = self.waiting.iter().rev().find(|(_, held)| is_due(held));
        let mut due = BTreeMap::new();
        if let Some(last) = last.map(|(id, _)| *id) {
            let mut rest = self.waiting.split_off(&last);
            due.append(&mut self.waiting);
            due.extend(rest.remove_entry(&last));
            self.waiting = rest;
        }
        self.bytes -= due.values().map(|held| held.bytes).sum::<u64>();
        due.into_values().map(|held| held.message)
    }

    /// Takes everything, in order.
    pub(super) fn all(&mut self) -> impl Iterator<Item = Message> + use<> {
        self.bytes = 0;
        std::mem::take(&mut self.waiting)
            .into_values()
            .map(|held| held.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(number: u8) -> Message {
        let line = format!("{{\"id\":\"019aa0c0-0000-7000-8000-0000000000{number:02x}\",\"body\":\"x\"}}");
        Message::from_json(line.as_bytes()).unwrap()
    }

    fn numbers(messages: impl Iterator<Item = Message>) -> Vec<u8> {
        messages
            .map(|message| message.id.as_uuid().as_bytes()[15])
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_a_moment_later_is_put_before_what_waits() {
        let mut order = InOrder::default();
        let began = Instant::now();
        let at = |millis| began + Duration::from_millis(millis);
        for (number, millis) in [(1, 0), (3, 0), (5, 10), (2, 90), (9, 90), (4, 95), (2, 95)] {
            order.push(message(number), at(millis));
        }
        assert_eq!(numbers(order.due(at(99))), [0_u8; 0]);
        // The fourth has not waited for long, but the fifth is behind it.
        assert_eq!(numbers(order.due(at(112))), [1, 2, 3, 4, 5]);
        assert!(!order.is_empty());
        assert_eq!(numbers(order.due(at(190))), [9]);
        assert_eq!((order.is_empty(), order.bytes), (true, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_waits_than_may() {
        let mut order = InOrder::default();
        let now = Instant::now();
        let body = "x".repeat(1 << 20);
        for number in 0..8_u8 {
            let line =
                format!("{{\"id\":\"019aa0c0-0000-7000-8000-0000000000{number:02x}\",\"body\":\"{body}\"}}");
            order.push(Message::from_json(line.as_bytes()).unwrap(), now);
            let due = numbers(order.due(now));
            assert_eq!(due.is_empty(), number < 7, "{number}");
        }
    }
}
