//! What came for a live tail and was not taken yet: bounded, and honest about what it had to drop.

use std::collections::VecDeque;
use std::mem::discriminant;

use warren_domain::SeverityCounts;

use crate::tail::TailEvent;

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RingLimits {
    /// Messages, and what is said between them.
    pub(crate) entries: u64,
    /// Bytes of the packets.
    pub(crate) bytes: usize,
}

/// A packet that nobody has read yet.
#[derive(Debug, PartialEq)]
pub(crate) struct Unread {
    /// How many lines it has, by the severities that they were published under.
    pub(crate) messages: SeverityCounts,
    pub(crate) body: Vec<u8>,
}

/// Packets in the order they came, and what is said between them; the oldest are dropped when it is full, but for the last.
///
/// Every message pushed is popped, passed over, or counted in the [`TailEvent::Missed`] that is popped in its place.
#[derive(Debug)]
pub(crate) struct Ring {
    limits: RingLimits,
    entries: VecDeque<Entry>,
    /// How many messages the packets have, and how many bytes.
    messages: u64,
    bytes: usize,
    /// Messages dropped from the front.
    missed: SeverityCounts,
    /// What was said between the dropped messages: each kind once, the last of it.
    said: Vec<TailEvent>,
    /// How many messages were pushed.
    received: u64,
    closed: bool,
}

/// Something that waits.
#[derive(Debug, PartialEq)]
pub(crate) enum Entry {
    Packet(Unread),
    Said(TailEvent),
}

impl Ring {
    pub(crate) fn new(limits: RingLimits) -> Self {
        Self {
            limits,
            entries: VecDeque::new(),
            messages: 0,
            bytes: 0,
            missed: SeverityCounts::default(),
            said: Vec::new(),
            received: 0,
            closed: false,
        }
    }

    /// Appends a packet.
    pub(crate) fn push(&mut self, packet: Unread) {
        let messages = packet.messages.total();
        self.received += messages;
        self.messages += messages;
        self.bytes += packet.body.len();
        self.entries.push_back(Entry::Packet(packet));
        self.make_room();
    }

    /// Appends something to be said.
    pub(crate) fn say(&mut self, said: TailEvent) {
        match (self.entries.back_mut(), said) {
            (
                Some(Entry::Said(TailEvent::Undecodable { lines, .. })),
                TailEvent::Undecodable { lines: more, .. },
            ) => *lines += more,
            (_, said) => self.entries.push_back(Entry::Said(said)),
        }
        self.make_room();
    }

    /// Takes what is next.
    pub(crate) fn pop(&mut self) -> Option<Entry> {
        if self.missed.total() > 0 {
            let messages = std::mem::take(&mut self.missed);
            return Some(Entry::Said(TailEvent::Missed { messages }));
        }
        if !self.said.is_empty() {
            return Some(Entry::Said(self.said.remove(0)));
        }
        self.pop_entry()
    }

    /// Drops every packet that waits; returns how many messages that were, those included that were dropped before.
    pub(crate) fn pass_over(&mut self) -> SeverityCounts {
        let mut passed = std::mem::take(&mut self.missed);
        self.entries.retain(|entry| match entry {
            Entry::Packet(packet) => {
                passed += packet.messages;
                false
            }
            Entry::Said(_) => true,
        });
        (self.messages, self.bytes) = (0, 0);
        passed
    }

    /// Returns how many messages were pushed so far.
    pub(crate) const fn received(&self) -> u64 {
        self.received
    }

    /// Notes that nothing more comes.
    pub(crate) fn close(&mut self) {
        self.closed = true;
    }

    /// Tells whether nothing more comes.
    pub(crate) const fn is_closed(&self) -> bool {
        self.closed
    }

    fn pop_entry(&mut self) -> Option<Entry> {
        let entry = self.entries.pop_front()?;
        if let Entry::Packet(packet) = &entry {
            self.messages -= packet.messages.total();
            self.bytes -= packet.body.len();
        }
        Some(entry)
    }

    fn is_too_full(&self) -> bool {
        let entries = self.messages + self.entries.len() as u64;
        self.entries.len() > 1 && (entries > self.limits.entries || self.bytes > self.limits.bytes)
    }

    fn make_room(&mut self) {
        while self.is_too_full() {
            match self.pop_entry() {
                Some(Entry::Packet(packet)) => self.missed += packet.messages,
                Some(Entry::Said(said)) => self.keep_said(said),
                None => return,
            }
        }
    }

    fn keep_said(&mut self, mut said: TailEvent) {
        let same = |known: &TailEvent| discriminant(known) == discriminant(&said);
        if let Some(place) = self.said.iter().position(same) {
            let known = self.said.remove(place);
            if let (TailEvent::Undecodable { lines, .. }, TailEvent::Undecodable { lines: before, .. }) =
                (&mut said, known)
            {
                *lines += before;
            }
        }
        self.said.push(said);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use warren_domain::Severity;

    use super::*;

    const LIMITS: RingLimits = RingLimits {
        entries: 20,
        bytes: 100,
    };

    fn counts(severity: Severity, messages: u64) -> SeverityCounts {
        let mut counts = SeverityCounts::default();
        counts.add(severity, messages);
        counts
    }

    fn packet(messages: u64, number: u64, bytes: usize) -> Unread {
        Unread {
            messages: counts(Severity::Info, messages),
            body: format!("{number:<bytes$}").into_bytes(),
        }
    }

    fn undecodable(lines: u64) -> TailEvent {
        TailEvent::Undecodable {
            lines,
            reason: "no message".to_owned(),
        }
    }

    fn taken(ring: &mut Ring) -> Vec<String> {
        std::iter::from_fn(|| ring.pop())
            .map(|entry| match entry {
                Entry::Packet(packet) => String::from_utf8(packet.body).unwrap().trim().to_owned(),
                Entry::Said(TailEvent::Missed { messages }) => format!("missed {}", messages.total()),
                Entry::Said(other) => format!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn what_is_missing_is_said_where_it_is_missing() {
        let mut ring = Ring::new(LIMITS);
        for number in 0..13 {
            ring.push(packet(1, number, 1));
        }
        assert_eq!(taken(&mut ring)[..2], ["missed 3", "3"]);
        assert_eq!((ring.received(), ring.bytes, ring.messages), (13, 0, 0));
        // Fewer packets of more messages.
        for number in 0..5 {
            ring.push(packet(6, number, 1));
        }
        assert_eq!(taken(&mut ring), ["missed 18", "3", "4"]);
    }

    #[test]
    fn a_large_packet_drops_what_was_there_and_stays_itself() {
        let mut ring = Ring::new(LIMITS);
        for number in 0..5 {
            ring.push(packet(1, number, 20));
        }
        ring.push(packet(1, 5, 1_000));
        assert_eq!(taken(&mut ring), ["missed 5", "5"]);
    }

    #[test]
    fn what_is_passed_over_is_counted_by_severity_and_what_was_said_stays() {
        let mut ring = Ring::new(LIMITS);
        for number in 0..12 {
            ring.push(packet(1, number, 1));
        }
        ring.say(TailEvent::Overrun);
        ring.push(Unread {
            messages: counts(Severity::Error, 3),
            body: b"x".to_vec(),
        });
        let passed = ring.pass_over();
        assert_eq!(passed.get(Severity::Info), 12, "those included that were dropped");
        assert_eq!((passed.get(Severity::Error), passed.total()), (3, 15));
        ring.push(packet(1, 99, 1));
        assert_eq!(taken(&mut ring), ["Overrun", "99"]);
        assert_eq!(ring.pass_over().total(), 0);
    }

    #[test]
    fn what_was_said_between_dropped_messages_is_still_said_once_and_in_order() {
        let mut ring = Ring::new(LIMITS);
        for number in 0..100 {
            ring.say(TailEvent::Disconnected {
                reason: number.to_string(),
            });
            ring.say(undecodable(1));
            ring.say(undecodable(2));
            ring.push(packet(1, number, 1));
            ring.say(TailEvent::Reconnected);
        }
        let taken = taken(&mut ring);
        assert_eq!(taken.iter().filter(|said| said.starts_with("missed")).count(), 1);
        assert!(taken.len() <= 20 + 1 + 3, "{taken:?}");
        let lines: u64 = taken
            .iter()
            .filter_map(|said| said.strip_prefix("Undecodable { lines: "))
            .map(|said| said.split(',').next().unwrap().parse::<u64>().unwrap())
            .sum();
        assert_eq!(lines, 300);
        assert_eq!(taken.last().unwrap(), "Reconnected");
    }

    proptest! {
        #[test]
        fn every_message_is_taken_passed_over_or_counted_in_its_place(
            steps in prop::collection::vec((0..10_u8, 0..60_usize, 1..8_u64), 0..300),
        ) {
            let mut ring = Ring::new(LIMITS);
            let (mut pushed, mut next) = (0_u64, 0_u64);
            let take = |ring: &mut Ring, next: &mut u64| {
                match ring.pop() {
                    Some(Entry::Said(TailEvent::Missed { messages })) => *next += messages.total(),
                    Some(Entry::Packet(packet)) => {
                        let body = String::from_utf8(packet.body).unwrap();
                        assert_eq!(body.trim(), next.to_string());
                        *next += packet.messages.total();
                    }
                    Some(Entry::Said(_)) => {}
                    None => return false,
                }
                true
            };
            for (step, size, messages) in steps {
                match step {
                    0..=5 => {
                        ring.push(packet(messages, pushed, size));
                        pushed += messages;
                    }
                    6 => ring.say(TailEvent::Overrun),
                    7 => next += ring.pass_over().total(),
                    _ => {
                        take(&mut ring, &mut next);
                    }
                }
                prop_assert!(ring.messages + ring.entries.len() as u64 <= LIMITS.entries);
                prop_assert!(ring.bytes <= LIMITS.bytes);
                let waiting = ring.missed.total() + ring.messages;
                prop_assert_eq!(next + waiting, pushed);
            }
            while take(&mut ring, &mut next) {}
            prop_assert_eq!(next, pushed);
            prop_assert_eq!(ring.received(), pushed);
        }
    }
}
