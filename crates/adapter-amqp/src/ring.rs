//! What came for a live tail and was not taken yet: bounded, and honest about what it had to drop.

use std::collections::VecDeque;
use std::mem::discriminant;

use warren_domain::Message;

use crate::tail::TailEvent;

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RingLimits {
    /// Messages, and what is said between them.
    pub(crate) entries: usize,
    /// Bytes of the lines of the messages; one message is let through whatever its size.
    pub(crate) bytes: usize,
}

/// Messages in the order they came, and what is said between them; the oldest are dropped when it is full.
///
/// Every message pushed is popped, or counted in the [`TailEvent::Missed`] that is popped in its place.
#[derive(Debug)]
pub(crate) struct Ring {
    limits: RingLimits,
    entries: VecDeque<Entry>,
    bytes: usize,
    /// Messages dropped from the front.
    missed: u64,
    /// What was said between the dropped messages: each kind once, the last of it.
    said: Vec<TailEvent>,
    /// How many messages were pushed.
    received: u64,
    closed: bool,
}

#[derive(Debug)]
enum Entry {
    Message(Box<Message>, usize),
    Said(TailEvent),
}

impl Ring {
    pub(crate) const fn new(limits: RingLimits) -> Self {
        Self {
            limits,
            entries: VecDeque::new(),
            bytes: 0,
            missed: 0,
            said: Vec::new(),
            received: 0,
            closed: false,
        }
    }

    /// Appends a message whose line has `bytes`.
    pub(crate) fn push(&mut self, message: Message, bytes: usize) {
        self.received += 1;
        self.bytes += bytes;
        self.entries.push_back(Entry::Message(Box::new(message), bytes));
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
    pub(crate) fn pop(&mut self) -> Option<TailEvent> {
        if self.missed > 0 {
            let messages = std::mem::take(&mut self.missed);
            return Some(TailEvent::Missed { messages });
        }
        if !self.said.is_empty() {
            return Some(self.said.remove(0));
        }
        Some(match self.entries.pop_front()? {
            Entry::Message(message, bytes) => {
                self.bytes -= bytes;
                TailEvent::Message(message)
            }
            Entry::Said(said) => said,
        })
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

    fn make_room(&mut self) {
        let RingLimits { entries, bytes } = self.limits;
        while self.entries.len() > 1 && (self.entries.len() > entries || self.bytes > bytes) {
            match self.entries.pop_front() {
                Some(Entry::Message(_, bytes)) => {
                    self.bytes -= bytes;
                    self.missed += 1;
                }
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
    use warren_domain::MessageId;

    use super::*;

    const LIMITS: RingLimits = RingLimits {
        entries: 10,
        bytes: 100,
    };

    fn message(number: u64) -> Message {
        let line = format!("{{\"id\":\"{}\",\"body\":\"{number}\"}}", MessageId::generate());
        Message::from_json(line.as_bytes()).unwrap()
    }

    fn undecodable(lines: u64) -> TailEvent {
        TailEvent::Undecodable {
            lines,
            reason: "no message".to_owned(),
        }
    }

    fn bodies(ring: &mut Ring) -> Vec<String> {
        std::iter::from_fn(|| ring.pop())
            .map(|event| match event {
                TailEvent::Message(message) => message.body.as_str().to_owned(),
                other => format!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn what_is_missing_is_said_where_it_is_missing() {
        let mut ring = Ring::new(LIMITS);
        for number in 0..13 {
            ring.push(message(number), 1);
        }
        let taken = bodies(&mut ring);
        assert_eq!(taken[0], "Missed { messages: 3 }");
        assert_eq!(
            taken[1..],
            (3..13).map(|number| number.to_string()).collect::<Vec<_>>()
        );
        assert_eq!((ring.received(), ring.bytes), (13, 0));
    }

    #[test]
    fn a_large_message_drops_what_was_there_and_stays_itself() {
        let mut ring = Ring::new(LIMITS);
        for number in 0..5 {
            ring.push(message(number), 20);
        }
        ring.push(message(5), 1_000);
        assert_eq!(bodies(&mut ring), ["Missed { messages: 5 }", "5"]);
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
            ring.push(message(number), 1);
            ring.say(TailEvent::Reconnected);
        }
        let taken = bodies(&mut ring);
        assert_eq!(taken.iter().filter(|said| said.starts_with("Missed")).count(), 1);
        assert!(taken.len() <= 10 + 1 + 3, "{taken:?}");
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
        fn every_message_is_taken_or_counted_in_its_place(
            steps in prop::collection::vec((0..4_u8, 0..60_usize), 0..300),
        ) {
            let mut ring = Ring::new(LIMITS);
            let (mut pushed, mut next) = (0_u64, 0_u64);
            let mut take = |ring: &mut Ring| {
                match ring.pop() {
                    Some(TailEvent::Missed { messages }) => next += messages,
                    Some(TailEvent::Message(message)) => {
                        assert_eq!(message.body.as_str(), next.to_string());
                        next += 1;
                    }
                    Some(_) => {}
                    None => return None,
                }
                Some(next)
            };
            for (step, size) in steps {
                match step {
                    0 | 1 => {
                        ring.push(message(pushed), size);
                        pushed += 1;
                    }
                    2 => ring.say(TailEvent::Overrun),
                    _ => {
                        take(&mut ring);
                    }
                }
                prop_assert!(ring.entries.len() <= LIMITS.entries);
                prop_assert!(ring.bytes <= LIMITS.bytes);
            }
            let mut last = None;
            while let Some(next) = take(&mut ring) {
                last = Some(next);
            }
            prop_assert!(last.is_none_or(|next| next == pushed));
            prop_assert_eq!(ring.received(), pushed);
        }
    }
}
