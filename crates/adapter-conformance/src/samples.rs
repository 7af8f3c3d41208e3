//! Messages for tests.

use serde_json::{Map, Value, json};
use warren_domain::{
    Attributes, Body, IdempotencyKey, KeyedRequest, Message, MessageId, MessageLimits, Severity, Source,
    Timestamp,
};

/// Makes an ordinary message of `severity` from `source` that says `body`.
pub fn message(severity: Severity, source: &str, body: &str) -> Message {
    Message {
        id: MessageId::generate(),
        severity,
        source: source.parse().unwrap(),
        body: Body::new(body.to_owned(), &MessageLimits::CEILING).unwrap(),
        attributes: Attributes::default(),
        occurred_at: Timestamp::now(),
        received_at: Timestamp::now(),
        idempotency: None,
    }
}

/// Returns a message with these attributes, which are an object.
pub fn with_attributes(message: Message, attributes: Value) -> Message {
    Message {
        attributes: Attributes::new(object(attributes), &MessageLimits::CEILING).unwrap(),
        ..message
    }
}

/// Makes `count` messages that go through the severities and a few sources in turn.
pub fn messages(count: usize) -> Vec<Message> {
    let sources = ["default", "billing.api", "shop.web.checkout", "sensor-7"];
    (0..count)
        .map(|n| {
            message(
                Severity::ALL[n % 5],
                sources[n / 5 % sources.len()],
                &format!("message {n}"),
            )
        })
        .collect()
}

/// Returns `records` as the messages of a request that came under `key`, first seen at `moment`.
pub fn keyed(key: &str, moment: Timestamp, records: &[Message]) -> Vec<Message> {
    let mut request = KeyedRequest::new(&IdempotencyKey::new(key.as_bytes()).unwrap(), moment);
    let mut messages = records.to_vec();
    for message in &mut messages {
        request.identify(message, None);
    }
    request.finish(&mut messages);
    messages
}

/// Makes messages whose every field is at an edge of what is allowed.
pub fn extremes() -> Vec<Message> {
    let texts = [
        "",
        " ",
        "\u{1}\u{7f}\r\n\t\\\"'",
        "naïve façade — Grüße, Ελλάδα, Україна, שָׁלוֹם, السلام عليكم, हिन्दी, 日本語, 한국어, ไทย",
        "👩‍👩‍👧‍👦🏳️‍🌈🇺🇳 e\u{301} \u{202e}override\u{202c} \u{feff}\u{fffd}\u{10ffff}",
        "'; drop table messages; -- \\copy \\. \\N",
        "{\"body\":\"not me\"}\n{\"id\":1}",
    ];
    let numbers = json!({
        "zero": 0, "negative": -1, "smallest": i64::MIN, "largest": u64::MAX, "tenth": 0.1, "third": 1.0 / 3.0,
        "huge": 1e300, "most": f64::MAX, "least": f64::MIN_POSITIVE, "subnormal": 5e-324, "seventeen": 1e17,
    });
    let shapes = json!({
        "": "the empty key", "a.b": {"c/d~e": [null, true, false, [], {}, [[["deep"]]]]}, "キー": "値",
        "'; --": "\\u0000 is not U+0000", "order": ["b", "a"], "numbers": numbers,
    });
    let mut messages: Vec<_> = texts
        .iter()
        .zip(Severity::ALL.iter().cycle())
        .map(|(text, severity)| message(*severity, "edge", text))
        .collect();
    let edge = |body: String, attributes: Value, moment: Timestamp| Message {
        source: "x".repeat(Source::MAX_BYTES).parse().unwrap(),
        body: Body::new(body, &MessageLimits::CEILING).unwrap(),
        attributes: Attributes::new(object(attributes), &MessageLimits::CEILING).unwrap(),
        occurred_at: moment,
        received_at: moment,
        ..message(Severity::Error, "edge", "")
    };
    messages.push(edge("attributes".to_owned(), shapes, Timestamp::MIN));
    messages.push(edge("long ☃".repeat(32 << 10), json!({}), Timestamp::MAX));
    messages.push(edge("deep".to_owned(), nested(30), Timestamp::now()));
    messages
}

/// Makes a message whose id says that it was made at `moment`.
pub fn message_made_at(moment: Timestamp) -> Message {
    let id = MessageId::generate().as_uuid().as_u128();
    let millis = u128::try_from(moment.unix_micros() / 1_000).unwrap();
    let id = (id & ((1 << 80) - 1)) | millis << 80;
    let text = format!("{id:032x}");
    let id = [
        &text[..8],
        &text[8..12],
        &text[12..16],
        &text[16..20],
        &text[20..],
    ]
    .join("-");
    Message {
        id: id.parse().unwrap(),
        ..message(Severity::Info, "clock", "made then")
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("not an object: {other}"),
    }
}

fn nested(levels: usize) -> Value {
    (0..levels).fold(json!({}), |inner, _| json!({ "in": inner }))
}

/// Asserts that both lists hold equal messages, whatever their order.
///
/// Numbers are equal when they are the same number: a store may give `1e17` back as `100000000000000000`.
pub fn assert_same_messages(actual: &[Message], expected: &[Message]) {
    let by_id = |messages: &[Message]| {
        let mut sorted: Vec<_> = messages.to_vec();
        sorted.sort_by_key(|message| message.id);
        sorted
    };
    let (actual, expected) = (by_id(actual), by_id(expected));
    let ids = |messages: &[Message]| messages.iter().map(|message| message.id).collect::<Vec<_>>();
    assert_eq!(ids(&actual), ids(&expected), "other messages than expected");
    for (actual, expected) in actual.iter().zip(&expected) {
        assert!(
            same(actual, expected),
            "a message was altered:\n  now {actual:?}\n  was {expected:?}"
        );
    }
}

/// Tells whether two messages are equal, numbers compared by value.
pub fn same(one: &Message, other: &Message) -> bool {
    let without_attributes = |message: &Message| Message {
        attributes: Attributes::default(),
        ..message.clone()
    };
    without_attributes(one) == without_attributes(other)
        && same_map(one.attributes.as_map(), other.attributes.as_map())
}

fn same_map(one: &Map<String, Value>, other: &Map<String, Value>) -> bool {
    one.len() == other.len()
        && one
            .iter()
            .all(|(key, value)| other.get(key).is_some_and(|twin| same_value(value, twin)))
}

/// Tells whether two JSON values are equal, numbers compared by value.
pub fn same_value(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one == other || one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same_value(one, other))
        }
        (Value::Object(one), Value::Object(other)) => same_map(one, other),
        _ => one == other,
    }
}
