//! Chunks of callers' messages, and the packets they travel in.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use amqprs::BasicProperties;
use tokio::time::Instant;
use uuid::Uuid;
use warren_domain::ports::PublishError;
use warren_domain::{Severity, Source, TraceContext};

use crate::call::{Share, Ticket};
use crate::dead_letters::Letter;
use crate::packet::{self, MAX_TRACES};
use crate::topology::Topology;
use crate::window::Room;

/// Where something goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Address {
    /// To the exchange of the severity, with the source as routing key.
    Messages { severity: Severity, source: Source },
    /// To the dead letters; every one is a packet of its own, because every one has its own reason.
    DeadLetter(Arc<Letter>),
}

impl Address {
    /// Returns the exchange and the routing key.
    pub(crate) fn route(&self, topology: &Topology) -> (String, String) {
        match self {
            Self::Messages { severity, source } => (topology.exchange(*severity), source.as_str().to_owned()),
            Self::DeadLetter(letter) => (topology.dead(), letter.routing_key.clone()),
        }
    }
}

/// Lines of one call that go to one address; never split, at most a packet large unless it is a single message.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) address: Address,
    /// Whole lines, newlines included.
    pub(crate) lines: Vec<u8>,
    pub(crate) messages: usize,
    pub(crate) trace: Option<TraceContext>,
    /// When the caller stops waiting.
    pub(crate) deadline: Instant,
    pub(crate) ticket: Ticket,
    /// Held until the outcome is known.
    pub(crate) share: Share,
}

impl Chunk {
    /// Tells the outcome, and makes room for others first.
    pub(crate) fn tell(self, outcome: Result<(), PublishError>) {
        drop(self.share);
        self.ticket.tell(outcome);
    }
}

/// One AMQP message: what is published, and published again under the same id when its confirm is lost.
#[derive(Debug)]
pub(crate) struct Packet {
    pub(crate) id: String,
    pub(crate) address: Address,
    pub(crate) chunks: Vec<Chunk>,
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
    /// How often it was published.
    pub(crate) attempts: u32,
    /// When and in which round it was last published.
    pub(crate) published: Option<(Instant, u64)>,
    /// Why the broker sent it back, until the confirm that follows.
    pub(crate) returned: Option<String>,
}

impl Packet {
    fn new(chunk: Chunk) -> Self {
        Self {
            id: Uuid::now_v7().to_string(),
            address: chunk.address.clone(),
            messages: chunk.messages,
            bytes: chunk.lines.len(),
            chunks: vec![chunk],
            attempts: 0,
            published: None,
            returned: None,
        }
    }

    fn push(&mut self, chunk: Chunk) {
        self.messages += chunk.messages;
        self.bytes += chunk.lines.len();
        self.chunks.push(chunk);
    }

    /// Makes a packet of each chunk.
    pub(crate) fn apart(self) -> impl Iterator<Item = Self> {
        self.chunks.into_iter().map(Self::new)
    }

    /// Returns until when somebody waits for it.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.chunks.iter().map(|chunk| chunk.deadline).max()
    }

    /// Puts the lines of all chunks together.
    pub(crate) fn body(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(self.bytes);
        for chunk in &self.chunks {
            body.extend_from_slice(&chunk.lines);
        }
        body
    }

    pub(crate) fn properties(&self) -> BasicProperties {
        match &self.address {
            Address::DeadLetter(letter) => letter.properties(&self.id),
            Address::Messages { .. } => {
                let mut traces = Vec::new();
                for trace in self.chunks.iter().filter_map(|chunk| chunk.trace) {
                    if traces.len() < MAX_TRACES && !traces.contains(&trace) {
                        traces.push(trace);
                    }
                }
                packet::properties(&self.id, self.messages, &traces)
            }
        }
    }

    /// Gives every message another id.
    #[cfg(feature = "planted-bugs")]
    pub(crate) fn with_new_ids(mut self) -> Self {
        for chunk in &mut self.chunks {
            let before = std::mem::take(&mut chunk.lines);
            for line in before
                .split(|byte| *byte == b'\n')
                .filter(|line| !line.is_empty())
            {
                match warren_domain::Message::from_json(line) {
                    Ok(mut message) => {
                        message.id = warren_domain::MessageId::generate();
                        message.append_json_line(&mut chunk.lines);
                    }
                    Err(_) => chunk.lines.extend([line, b"\n"].concat()),
                }
            }
        }
        self
    }

    /// Tells every chunk the outcome.
    pub(crate) fn tell(self, outcome: &Result<(), PublishError>) {
        for chunk in self.chunks {
            chunk.tell(outcome.clone());
        }
    }
}

/// How large a packet may become.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PacketLimits {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

/// Takes chunks from the front, as many as there is room for, and merges those with the same address.
///
/// Chunks whose callers have stopped waiting are left out, and told what `overdue` says.
pub(crate) fn pack(
    chunks: &mut VecDeque<Chunk>,
    limits: PacketLimits,
    room: Room,
    now: Instant,
    overdue: impl Fn() -> PublishError,
) -> Vec<Packet> {
    let mut packets: Vec<Packet> = Vec::new();
    let mut open: HashMap<Address, usize> = HashMap::new();
    let mut bytes = 0;
    while let Some(chunk) = chunks.pop_front() {
        if chunk.deadline <= now {
            chunk.tell(Err(overdue()));
            continue;
        }
        let size = chunk.lines.len();
        let merged = matches!(chunk.address, Address::Messages { .. })
            .then(|| open.get(&chunk.address))
            .flatten()
            .and_then(|index| packets.get_mut(*index))
            .filter(|packet| {
                packet.messages + chunk.messages <= limits.messages && packet.bytes + size <= limits.bytes
            });
        if let Some(packet) = merged {
            packet.push(chunk);
        } else if packets.len() < room.packets && (packets.is_empty() || bytes < room.bytes) {
            open.insert(chunk.address.clone(), packets.len());
            packets.push(Packet::new(chunk));
        } else {
            chunks.push_front(chunk);
            break;
        }
        bytes += size;
    }
    packets
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::call::{Budget, Call};

    const LIMITS: PacketLimits = PacketLimits {
        messages: 10,
        bytes: 100,
    };

    /// Makes a chunk of `messages` lines, `bytes` long, that says in its lines which it is.
    fn chunk(number: u8, source: u8, messages: usize, bytes: usize, deadline: Instant) -> Chunk {
        let budget = Budget::new(1_000_000, 1_000_000, "test");
        Chunk {
            address: Address::Messages {
                severity: Severity::Info,
                source: format!("s{source}").parse().unwrap(),
            },
            lines: vec![number; bytes],
            messages,
            trace: None,
            deadline,
            ticket: Call::new().ticket(),
            share: budget.try_share(messages, bytes).unwrap(),
        }
    }

    fn overdue() -> PublishError {
        PublishError::unavailable("late")
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    fn room(packets: usize, bytes: usize) -> Room {
        Room { packets, bytes }
    }

    #[test]
    fn what_waits_together_travels_together() {
        let mut chunks: VecDeque<_> = (0..6).map(|n| chunk(n, n % 2, 1, 10, later())).collect();
        let packets = pack(&mut chunks, LIMITS, room(8, 1_000), Instant::now(), overdue);
        let bodies: Vec<_> = packets
            .iter()
            .map(|packet| (packet.messages, packet.body()[0]))
            .collect();
        assert_eq!(bodies, [(3, 0), (3, 1)]);
        assert_ne!(packets[0].id, packets[1].id);
        assert_eq!(packets[0].body().len(), packets[0].bytes);
    }

    #[cfg(feature = "planted-bugs")]
    #[test]
    fn planted_new_ids_are_new_and_change_nothing_else() {
        use warren_domain::{Message, MessageId};

        let lines =
            ["x", "y"].map(|body| format!("{{\"id\":\"{}\",\"body\":\"{body}\"}}\n", MessageId::generate()));
        let mut original = chunk(0, 0, 2, 10, later());
        original.lines = lines.concat().into_bytes();
        let messages = |packet: &Packet| {
            let body = packet.body();
            let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            lines
                .map(|line| Message::from_json(line).unwrap())
                .collect::<Vec<_>>()
        };
        let packet = Packet::new(original);
        let before = messages(&packet);
        let after = messages(&packet.with_new_ids());
        assert_eq!(before.len(), 2);
        for (before, after) in before.iter().zip(&after) {
            assert_ne!(before.id, after.id);
            assert_eq!(before.body, after.body);
        }
    }

    #[test]
    fn a_message_over_the_limit_travels_alone() {
        let sizes = [10, 500, 10];
        let mut chunks: VecDeque<_> = sizes
            .into_iter()
            .map(|size| chunk(0, 0, 1, size, later()))
            .collect();
        let packets = pack(&mut chunks, LIMITS, room(8, 10_000), Instant::now(), overdue);
        let sizes: Vec<_> = packets.iter().map(|packet| packet.bytes).collect();
        assert_eq!(sizes, [10, 500, 10]);
    }

    #[test]
    fn one_packet_is_let_through_however_large_it_is() {
        let mut chunks: VecDeque<_> = [500, 10]
            .into_iter()
            .map(|size| chunk(0, 0, 1, size, later()))
            .collect();
        assert_eq!(
            pack(&mut chunks, LIMITS, room(8, 1), Instant::now(), overdue).len(),
            1
        );
        assert_eq!(chunks.len(), 1);
    }

    #[test]
    fn nobody_waits_for_a_chunk_past_its_deadline() {
        let now = Instant::now();
        let mut chunks = VecDeque::from([chunk(0, 0, 1, 10, now), chunk(1, 0, 1, 10, later())]);
        let packets = pack(&mut chunks, LIMITS, room(8, 100), now, overdue);
        assert_eq!((packets.len(), packets[0].body()[0]), (1, 1));
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_no_bound_is_broken(
            sizes in prop::collection::vec((0..3_u8, 1..=10_usize, 1..=100_usize), 0..60),
            packets in 1..5_usize,
            bytes in 1..400_usize,
        ) {
            let deadline = later();
            let mut chunks: VecDeque<_> = (0..)
                .zip(&sizes)
                .map(|(number, (source, messages, bytes))| chunk(number, *source, *messages, *bytes, deadline))
                .collect();
            let mut seen = Vec::new();
            while !chunks.is_empty() {
                let round = pack(&mut chunks, LIMITS, room(packets, bytes), Instant::now(), overdue);
                prop_assert!((1..=packets).contains(&round.len()));
                for packet in &round {
                    prop_assert!(packet.messages <= LIMITS.messages && packet.bytes <= LIMITS.bytes);
                    let total: usize = packet.chunks.iter().map(|chunk| chunk.messages).sum();
                    prop_assert_eq!(packet.messages, total);
                    prop_assert!(packet.chunks.iter().all(|chunk| chunk.address == packet.address));
                    seen.extend(packet.chunks.iter().map(|chunk| chunk.lines[0]));
                }
            }
            seen.sort_unstable();
            prop_assert!(seen.into_iter().map(usize::from).eq(0..sizes.len()));
        }
    }
}
