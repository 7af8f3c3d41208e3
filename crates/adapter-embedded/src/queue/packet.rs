//! Messages as the log holds them: one JSON object a line, many lines a row.

use warren_domain::{Message, Severity, TraceContext};

/// How many different requests one row remembers.
const MAX_TRACES: usize = 16;

/// How large a row may grow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PacketLimits {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

/// Some messages of one severity, as lines.
#[derive(Debug)]
pub(crate) struct Packet {
    pub(crate) severity: Severity,
    pub(crate) messages: usize,
    pub(crate) lines: Vec<u8>,
    pub(crate) traces: Vec<TraceContext>,
}

impl Packet {
    fn takes(&self, other: &Self, limits: PacketLimits) -> bool {
        self.messages + other.messages <= limits.messages
            && self.lines.len() + other.lines.len() <= limits.bytes
    }

    fn append(&mut self, other: Self) {
        self.messages += other.messages;
        self.lines.extend_from_slice(&other.lines);
        for trace in other.traces {
            if self.traces.len() < MAX_TRACES && !self.traces.contains(&trace) {
                self.traces.push(trace);
            }
        }
    }
}

/// Writes messages into packets within `limits`; one message over them has a packet of its own.
pub(crate) fn pack(messages: Vec<Message>, trace: Option<TraceContext>, limits: PacketLimits) -> Vec<Packet> {
    let mut packets: Vec<Packet> = Vec::new();
    let mut open: [Option<usize>; 5] = [None; 5];
    for message in messages {
        let severity = message.severity;
        let place = open[severity.index()].filter(|place| packets[*place].messages < limits.messages);
        let lines = if let Some(packet) = place.map(|place| &mut packets[place]) {
            let end = packet.lines.len();
            message.append_json_line(&mut packet.lines);
            if packet.lines.len() <= limits.bytes {
                packet.messages += 1;
                continue;
            }
            // One line too many: it begins the next packet.
            packet.lines.split_off(end)
        } else {
            let mut line = Vec::new();
            message.append_json_line(&mut line);
            line
        };
        open[severity.index()] = Some(packets.len());
        packets.push(Packet {
            severity,
            messages: 1,
            lines,
            traces: trace.into_iter().collect(),
        });
    }
    packets
}

/// Joins packets of different callers into as few rows as `limits` allow.
#[derive(Debug)]
pub(crate) struct Rows {
    limits: PacketLimits,
    rows: Vec<Packet>,
    open: [Option<usize>; 5],
}

impl Rows {
    pub(crate) const fn new(limits: PacketLimits) -> Self {
        Self {
            limits,
            rows: Vec::new(),
            open: [None; 5],
        }
    }

    pub(crate) fn push(&mut self, packet: Packet) {
        let open = &mut self.open[packet.severity.index()];
        match open.map(|place| &mut self.rows[place]) {
            Some(row) if row.takes(&packet, self.limits) => row.append(packet),
            _ => {
                *open = Some(self.rows.len());
                self.rows.push(packet);
            }
        }
    }

    pub(crate) fn into_inner(self) -> Vec<Packet> {
        self.rows
    }
}

/// Writes trace contexts as the log holds them.
pub(crate) fn write_traces(traces: &[TraceContext]) -> String {
    let texts: Vec<_> = traces.iter().map(ToString::to_string).collect();
    texts.join(" ")
}

/// Reads trace contexts; what is none is left out, for a trace is an aid and no part of a message.
pub(crate) fn read_traces(text: &str) -> Vec<TraceContext> {
    text.split_ascii_whitespace()
        .filter_map(|trace| trace.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use warren_domain::{Draft, MessageLimits, Timestamp};

    const LIMITS: PacketLimits = PacketLimits {
        messages: 3,
        bytes: 2_000,
    };

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

    fn read(packets: &[Packet]) -> Vec<Message> {
        packets
            .iter()
            .flat_map(|packet| packet.lines.split_inclusive(|byte| *byte == b'\n'))
            .map(|line| Message::from_json(line).unwrap())
            .collect()
    }

    #[test]
    fn packets_hold_one_severity_and_keep_the_limits() {
        let mut messages: Vec<_> = (0..20)
            .map(|n| message(Severity::ALL[n % 3], &"x".repeat(n * 20)))
            .collect();
        messages.push(message(Severity::Error, &"y".repeat(5_000)));
        messages.push(message(Severity::Error, "z"));
        let packets = pack(messages.clone(), None, LIMITS);
        for packet in &packets {
            assert!(packet.messages <= LIMITS.messages);
            assert!(packet.lines.len() <= LIMITS.bytes || packet.messages == 1);
            assert!(
                read(std::slice::from_ref(packet))
                    .iter()
                    .all(|message| message.severity == packet.severity)
            );
        }
        let mut read = read(&packets);
        read.sort_by_key(|message| message.id);
        messages.sort_by_key(|message| message.id);
        assert_eq!(read, messages);
    }

    #[test]
    fn packets_of_several_callers_share_a_row_and_remember_each_request() {
        let trace = |n: u64| {
            format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{n:016x}-01")
                .parse()
                .unwrap()
        };
        let mut rows = Rows::new(LIMITS);
        for n in 1..=4 {
            for packet in pack(vec![message(Severity::Info, "a")], Some(trace(n)), LIMITS) {
                rows.push(packet);
            }
        }
        let rows = rows.into_inner();
        assert_eq!(rows.iter().map(|row| row.messages).collect::<Vec<_>>(), [3, 1]);
        assert_eq!(rows[0].traces, [trace(1), trace(2), trace(3)]);
        assert_eq!(read_traces(&write_traces(&rows[0].traces)), rows[0].traces);
        assert_eq!(read(&rows).len(), 4);
    }
}
