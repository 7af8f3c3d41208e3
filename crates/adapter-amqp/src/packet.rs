//! The packet: one AMQP message that holds one or many messages, one JSON object a line.
//!
//! A public format: any consumer splits the body at newlines. Routing key and exchange repeat the source and the
//! severity for the broker; whoever reads trusts the lines, which say them too.

use std::fmt::Write as _;
use std::ops::Range;

use amqprs::{BasicProperties, DELIVERY_MODE_PERSISTENT, FieldTable, FieldValue};
use memchr::memchr_iter;
use warren_domain::{Message, Rejection, Timestamp, TraceContext};

use crate::declaration::insert;

/// One JSON object a line. <https://github.com/ndjson/ndjson-spec>
pub(crate) const CONTENT_TYPE: &str = "application/x-ndjson";

/// The `type` of a packet; a later format gets another one, so that an older program does not misread it.
pub(crate) const PACKET_TYPE: &str = "warren.v1";

/// How many messages are in it, so that it can be counted without being read.
pub(crate) const COUNT: &str = "warren-count";

/// The first trace of a packet, where any program looks for it.
/// <https://www.w3.org/TR/trace-context-amqp/>
pub(crate) const TRACEPARENT: &str = "traceparent";

/// Further traces of a packet, separated by commas.
pub(crate) const TRACEPARENTS: &str = "warren-traceparents";

/// How often a quorum queue has delivered it before. <https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling>
pub(crate) const DELIVERY_COUNT: &str = "x-delivery-count";

/// The most traces a packet carries: 64 are 3.5 KiB, and a header over the frame size kills the connection.
pub(crate) const MAX_TRACES: usize = 64;

/// Makes the properties of a packet.
pub(crate) fn properties(message_id: &str, messages: usize, traces: &[TraceContext]) -> BasicProperties {
    let mut headers = FieldTable::new();
    insert(
        &mut headers,
        COUNT,
        FieldValue::l(i64::try_from(messages).unwrap_or(i64::MAX)),
    );
    if let [first, further @ ..] = traces {
        insert(&mut headers, TRACEPARENT, FieldValue::from(first.to_string()));
        if !further.is_empty() {
            let mut joined = String::new();
            for (index, trace) in further.iter().enumerate() {
                let separator = if index == 0 { "" } else { "," };
                // Writing into memory cannot fail.
                if write!(joined, "{separator}{trace}").is_err() {
                    break;
                }
            }
            insert(&mut headers, TRACEPARENTS, FieldValue::from(joined));
        }
    }
    stamped(message_id, headers)
        .with_message_type(PACKET_TYPE)
        .with_content_type(CONTENT_TYPE)
        .finish()
}

/// Makes the properties that everything we publish has: durable, with an id and a time.
///
/// The texts of properties have to be short strings, at most 255 bytes: amqprs panics beyond.
pub(crate) fn stamped(message_id: &str, headers: FieldTable) -> BasicProperties {
    let seconds = Timestamp::now().unix_micros() / 1_000_000;
    BasicProperties::default()
        .with_delivery_mode(DELIVERY_MODE_PERSISTENT)
        .with_message_id(message_id)
        .with_timestamp(u64::try_from(seconds).unwrap_or_default())
        .with_headers(headers)
        .finish()
}

/// Returns the traces of a packet, without repetition and at most [`MAX_TRACES`]; what is none is left out.
pub(crate) fn traces(properties: &BasicProperties) -> Vec<TraceContext> {
    let mut traces = Vec::new();
    let texts = [TRACEPARENT, TRACEPARENTS].into_iter().filter_map(|name| {
        let FieldValue::S(text) = header(properties, name)? else {
            return None;
        };
        Some(text.as_ref().as_str())
    });
    for trace in texts
        .flat_map(|text| text.split(','))
        .filter_map(|text| text.trim().parse().ok())
    {
        if traces.len() < MAX_TRACES && !traces.contains(&trace) {
            traces.push(trace);
        }
    }
    traces
}

/// Returns which delivery this is, as far as the broker counts; at least 1.
pub(crate) fn attempt(properties: &BasicProperties) -> u32 {
    let before = match header(properties, DELIVERY_COUNT) {
        Some(FieldValue::l(count)) => u32::try_from(*count).unwrap_or(0),
        Some(FieldValue::I(count)) => u32::try_from(*count).unwrap_or(0),
        Some(FieldValue::i(count)) => *count,
        Some(FieldValue::s(count)) => u32::try_from(*count).unwrap_or(0),
        Some(FieldValue::u(count)) => (*count).into(),
        Some(FieldValue::b(count)) => u32::try_from(*count).unwrap_or(0),
        Some(FieldValue::B(count)) => (*count).into(),
        _ => 0,
    };
    before.saturating_add(1)
}

fn header<'p>(properties: &'p BasicProperties, name: &str) -> Option<&'p FieldValue> {
    properties.headers()?.get(&name.try_into().ok()?)
}

/// What the body of a packet turned out to be.
#[derive(Debug, PartialEq)]
pub(crate) struct Decoded {
    /// The messages, and where each has its line.
    pub(crate) messages: Vec<Message>,
    /// The line of each message, in the body.
    pub(crate) lines: Vec<Range<usize>>,
    /// Lines that are no messages, and why.
    pub(crate) bad: Vec<(Range<usize>, Rejection)>,
}

/// Tells whether a packet calls itself something this program does not know.
pub(crate) fn unsupported(properties: &BasicProperties) -> Option<String> {
    match properties.message_type() {
        // Some clients send an empty one for none.
        Some(kind) if !kind.is_empty() && kind != PACKET_TYPE => Some(format!(
            "a packet of type {kind:?}, but this program reads {PACKET_TYPE} only"
        )),
        _ => match properties.content_encoding() {
            Some(encoding) if !encoding.is_empty() => Some(format!(
                "a packet in the content encoding {encoding:?}, which is not supported"
            )),
            _ => None,
        },
    }
}

/// Reads the lines of a body; blank ones say nothing.
pub(crate) fn decode(body: &[u8]) -> Decoded {
    let mut decoded = Decoded {
        messages: Vec::new(),
        lines: Vec::new(),
        bad: Vec::new(),
    };
    let mut start = 0;
    for end in memchr_iter(b'\n', body).chain([body.len()]) {
        let range = start..end;
        let line = &body[range.clone()];
        start = end + 1;
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        match Message::from_json(line) {
            Ok(message) => {
                decoded.messages.push(message);
                decoded.lines.push(range);
            }
            Err(rejection) => decoded.bad.push((range, rejection)),
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use warren_domain::MessageId;

    use super::*;

    fn line(body: &str) -> String {
        let message = serde_json::json!({"id": MessageId::generate().to_string(), "body": body});
        message.to_string()
    }

    fn bodies(decoded: &Decoded) -> Vec<&str> {
        decoded
            .messages
            .iter()
            .map(|message| message.body.as_str())
            .collect()
    }

    #[test]
    fn lines_end_with_lf_or_crlf_or_the_body() {
        let body = format!("{}\n\r\n{}\r\n  \n\n{}", line("a"), line("b"), line("c"));
        let decoded = decode(body.as_bytes());
        assert_eq!(bodies(&decoded), ["a", "b", "c"]);
        assert_eq!(decoded.bad, []);
        assert!(decode(b"").messages.is_empty());
    }

    #[test]
    fn a_bad_line_does_not_spoil_its_neighbours() {
        let body = format!("{}\nnot json\n{}\n{{\"body\":\"no id\"}}", line("a"), line("b"));
        let decoded = decode(body.as_bytes());
        assert_eq!(bodies(&decoded), ["a", "b"]);
        let bad: Vec<_> = decoded
            .bad
            .iter()
            .map(|(range, _)| &body[range.clone()])
            .collect();
        assert_eq!(bad, ["not json", "{\"body\":\"no id\"}"]);
        assert_eq!(&body[decoded.lines[0].clone()], body.lines().next().unwrap());
    }

    #[test]
    fn traces_travel_in_the_headers() {
        let trace = |n: u64| {
            let example = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
            example.parse::<TraceContext>().unwrap().child(n)
        };
        for count in [0, 1, 2, MAX_TRACES as u64] {
            let sent: Vec<_> = (1..=count).map(trace).collect();
            assert_eq!(traces(&properties("id", 1, &sent)), sent);
        }
        let mut headers = FieldTable::new();
        let text = format!("junk,{},{}, {}", trace(1), trace(1), trace(2));
        insert(&mut headers, TRACEPARENTS, FieldValue::from(text));
        let foreign = BasicProperties::default().with_headers(headers).finish();
        assert_eq!(traces(&foreign), [trace(1), trace(2)]);
    }

    #[test]
    fn attempts_count_from_one() {
        let counted = |value: FieldValue| {
            let mut headers = FieldTable::new();
            insert(&mut headers, DELIVERY_COUNT, value);
            attempt(&BasicProperties::default().with_headers(headers).finish())
        };
        assert_eq!(attempt(&BasicProperties::default()), 1);
        assert_eq!(counted(FieldValue::l(2)), 3);
        assert_eq!(counted(FieldValue::l(-1)), 1);
        assert_eq!(counted(FieldValue::l(i64::MAX)), 1);
        assert_eq!(counted(FieldValue::from("7")), 1);
    }

    #[test]
    fn only_another_type_is_unsupported() {
        let typed = |kind: &str| BasicProperties::default().with_message_type(kind).finish();
        assert_eq!(unsupported(&BasicProperties::default()), None);
        assert_eq!(unsupported(&typed(PACKET_TYPE)), None);
        assert_eq!(unsupported(&typed("")), None);
        assert!(unsupported(&typed("warren.v2")).is_some_and(|why| why.contains("warren.v2")));
        let zipped = BasicProperties::default().with_content_encoding("gzip").finish();
        assert!(unsupported(&zipped).is_some());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic_and_every_line_once(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let decoded = decode(&body);
            let lines = body.split(|byte| *byte == b'\n');
            let said = lines.filter(|line| !line.iter().all(u8::is_ascii_whitespace)).count();
            prop_assert_eq!(decoded.messages.len() + decoded.bad.len(), said);
        }

        #[test]
        fn a_packet_reads_back_equal(bodies in prop::collection::vec("\\PC*[\\n\\r\\u{85}\\u{2028}]?\\PC*", 1..20)) {
            let sent: Vec<_> = bodies.iter().map(|body| Message::from_json(line(body).as_bytes()).unwrap()).collect();
            let mut packet = Vec::new();
            sent.iter().for_each(|message| message.append_json_line(&mut packet));
            let decoded = decode(&packet);
            prop_assert_eq!(decoded.messages, sent);
            prop_assert_eq!(decoded.bad, []);
        }
    }
}
