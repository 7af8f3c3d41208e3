//! Whatever the validator takes reads back equal.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Map, Number, Value};
use warren_adapter_conformance::samples::{assert_same_messages, message};
use warren_domain::{Attributes, Body, Message, MessageLimits, Severity, Timestamp};

use crate::support::{directory, drain, envelope, ids, open, publish, stored};

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        vec(any::<char>(), 0..40).prop_map(String::from_iter),
        vec(
            prop_oneof![
                Just('\0'),
                Just('\n'),
                Just('\r'),
                Just('"'),
                Just('\\'),
                Just('\u{2028}'),
                Just('\u{feff}'),
                Just('\u{10ffff}'),
                Just('e'),
                Just('\u{301}'),
            ],
            0..20
        )
        .prop_map(String::from_iter),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>()
            .prop_filter_map("finite", Number::from_f64)
            .prop_map(Value::Number),
        text().prop_map(Value::String),
    ];
    leaf.prop_recursive(6, 40, 5, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Value::Array),
            btree_map(text(), inner, 0..5).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

prop_compose! {
    fn any_message()(
        severity in 0..5_usize,
        source in "[A-Za-z0-9_-]{1,20}(\\.[A-Za-z0-9_-]{1,20}){0,3}",
        body in text(),
        attributes in btree_map(text(), value(), 0..5),
        occurred_at in 0..=Timestamp::MAX.unix_micros(),
        received_at in 0..=Timestamp::MAX.unix_micros(),
    ) -> Option<Message> {
        let attributes: Map<String, Value> = attributes.into_iter().collect();
        Some(Message {
            source: source.parse().unwrap(),
            body: Body::new(body, &MessageLimits::default()).unwrap(),
            // Two keys may become equal when U+0000 is replaced; such a draft is refused.
            attributes: Attributes::new(attributes, &MessageLimits::default()).ok()?,
            occurred_at: Timestamp::from_unix_micros(occurred_at).unwrap(),
            received_at: Timestamp::from_unix_micros(received_at).unwrap(),
            ..message(Severity::ALL[severity], "a", "")
        })
    }
}

#[test]
fn whatever_the_validator_takes_reads_back_equal() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let directory = directory();
    let embedded = runtime.block_on(open(directory.path()));
    let mut runner = TestRunner::new(Config {
        cases: 24,
        failure_persistence: None,
        ..Config::default()
    });
    runner
        .run(&vec(any_message(), 1..60), |sent| {
            let sent: Vec<_> = sent.into_iter().flatten().collect();
            runtime.block_on(async {
                publish(&embedded, &sent).await;
                drain(&embedded).await;
                let found = stored(&embedded, &ids(&sent)).await;
                assert_same_messages(&found, &sent);
            });
            Ok(())
        })
        .unwrap();
    runtime.block_on(embedded.close());
}

#[test]
fn the_envelope_of_whatever_the_validator_takes_is_the_message_without_body_and_attributes() {
    let mut runner = TestRunner::new(Config {
        failure_persistence: None,
        ..Config::default()
    });
    runner
        .run(
            &any_message().prop_filter_map("accepted", |message| message),
            |message| {
                let mut line = Vec::new();
                message.append_json_line(&mut line);
                prop_assert_eq!(Message::envelope_from_json(&line), Ok(envelope(&message)));
                Ok(())
            },
        )
        .unwrap();
}
