//! What becomes of events.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use serde_json::{Value, json};
use tracing::dispatcher::with_default as with_dispatch;
use tracing::subscriber::with_default;
use tracing::{Dispatch, debug, error, info, info_span, trace, warn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry;
use warren_client::{Message, MessageLimits, MessagePublisher, Severity, Unpublished, WarrenLayer, WhenFull};
use warren_domain::TraceContext;

use crate::support::{Gate, PATIENCE, counts, quick};

/// Runs `work` with a layer, and returns what it logged by severity, in order.
fn logged(change: impl FnOnce(WarrenLayer) -> WarrenLayer, work: impl FnOnce()) -> Vec<Message> {
    let gate = Gate::open();
    let logger = quick().source("shop").start(gate.clone()).unwrap();
    let subscriber = registry().with(change(WarrenLayer::new(logger.clone())));
    with_default(subscriber, work);
    assert!(logger.close_blocking(PATIENCE).is_complete());
    let mut messages = gate.published();
    messages.sort_by_key(|message| message.id);
    messages
}

fn attributes(message: &Message) -> Value {
    Value::Object(message.attributes.as_map().clone())
}

#[test]
fn levels_become_severities_and_a_field_may_say_otherwise() {
    let messages = logged(
        |layer| layer,
        || {
            trace!("a");
            debug!("b");
            info!("c");
            warn!("d");
            error!("e");
            error!(severity = "critical", "f");
            info!(severity = %Severity::Warning, "g");
            info!(severity = "loud", "h");
            info!(severity = 3, "i");
        },
    );
    let told: Vec<_> = messages
        .iter()
        .map(|m| (m.body.as_str(), m.severity.as_str()))
        .collect();
    assert_eq!(
        told,
        [
            ("a", "debug"),
            ("b", "debug"),
            ("c", "info"),
            ("d", "warning"),
            ("e", "error"),
            ("f", "critical"),
            ("g", "warning"),
            ("h", "info"),
            ("i", "info")
        ]
    );
    assert_eq!(attributes(&messages[5]), json!({}));
    assert_eq!(attributes(&messages[7]), json!({"severity": "loud"}));
    assert_eq!(attributes(&messages[8]), json!({"severity": 3}));
}

#[test]
fn fields_keep_their_types_and_an_event_without_a_message_says_its_fields() {
    let messages = logged(
        |layer| layer,
        || {
            let error: Box<dyn std::error::Error> = "broken".into();
            let (big, small) = (u128::MAX, 7_i128);
            info!(order = 42, negative = -1, ratio = 0.5, paid = true, who = "ann", r#type = ?Some(1), error = &*error, big, small, "typed");
            info!(order = 42, who = "ann");
        },
    );
    assert_eq!(
        attributes(&messages[0]),
        json!({"order": 42, "negative": -1, "ratio": 0.5, "paid": true, "who": "ann", "type": "Some(1)",
               "error": "broken", "big": u128::MAX.to_string(), "small": 7})
    );
    assert_eq!(messages[1].body.as_str(), "order=42 who=ann");
    assert_eq!(attributes(&messages[1]), json!({"order": 42, "who": "ann"}));
}

#[test]
fn spans_tell_their_names_and_fields_the_outermost_first() {
    let work = || {
        let request = info_span!("request", method = "GET", user = tracing::field::Empty);
        let _request = request.enter();
        request.record("user", "ann");
        let _query = info_span!("query", rows = 3).entered();
        info!("inside");
    };
    let messages = logged(|layer| layer, work);
    assert_eq!(
        attributes(&messages[0]),
        json!({"spans": [{"name": "request", "method": "GET", "user": "ann"}, {"name": "query", "rows": 3}]})
    );
    let messages = logged(WarrenLayer::without_spans, work);
    assert_eq!(attributes(&messages[0]), json!({}));
}

#[test]
fn what_spans_and_fields_hold_is_bounded() {
    let long = "ü".repeat(100_000);
    let messages = logged(
        |layer| layer,
        || {
            let guards: Vec<_> = (0..100).map(|n| info_span!("level", n, long).entered()).collect();
            info!(long, "deep");
            // Left in the order they were entered in, which a registry minds.
            guards.into_iter().rev().for_each(drop);
        },
    );
    let attributes = messages[0].attributes.as_map();
    let spans = attributes["spans"].as_array().unwrap();
    assert_eq!(
        (spans.len(), &spans[0]["n"], &spans[15]["n"]),
        (16, &json!(84), &json!(99))
    );
    assert!(attributes["long"].as_str().unwrap().len() <= (16 << 10) + 3);
    let bytes = serde_json::to_vec(attributes).unwrap().len();
    assert!(bytes < MessageLimits::default().attributes_bytes);
}

#[test]
fn targets_become_sources_and_places_are_told_on_request() {
    let messages = logged(
        |layer| layer.leave_out("noisy"),
        || {
            info!(target: "billing::api", "a");
            info!(target: "shop::web", "b");
            info!(target: "noisy::inner", "never");
            info!(target: "noisy", "never");
            info!(target: "noisy_not", "c");
            info!(target: "amqprs::net", "never");
        },
    );
    let sources: Vec<_> = messages.iter().map(|m| m.source.as_str()).collect();
    assert_eq!(sources, ["shop.billing.api", "shop.web", "shop.noisy_not"]);

    let messages = logged(
        |layer| layer.without_target().with_location().with_thread(),
        || info!("a"),
    );
    assert_eq!(messages[0].source.as_str(), "shop");
    let attributes = attributes(&messages[0]);
    assert!(
        attributes["code.file.path"]
            .as_str()
            .unwrap()
            .ends_with("layer.rs")
    );
    assert!(attributes["code.line.number"].is_u64() && attributes["thread.name"].is_string());
}

/// A value that logs when it is shown.
struct Talkative;

impl std::fmt::Debug for Talkative {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        info!("I am being shown");
        f.write_str("shown")
    }
}

#[test]
fn a_value_that_logs_when_it_is_shown_neither_blocks_nor_panics() {
    let messages = logged(
        |layer| layer,
        || {
            let _span = info_span!("span", value = ?Talkative).entered();
            info!(value = ?Talkative, "said");
        },
    );
    let said = messages.iter().filter(|m| m.body.as_str() == "said").count();
    assert!(said == 1, "{messages:?}");
}

#[test]
fn two_layers_do_not_disturb_each_other() {
    let (one, two) = (Gate::open(), Gate::open());
    let loggers = [&one, &two].map(|gate| quick().start(Arc::clone(gate)).unwrap());
    let subscriber = registry()
        .with(WarrenLayer::new(loggers[0].clone()))
        .with(WarrenLayer::new(loggers[1].clone()));
    with_default(subscriber, || {
        let _span = info_span!("span", n = 1).entered();
        info!("twice");
    });
    for (logger, gate) in loggers.iter().zip([one, two]) {
        assert!(logger.close_blocking(PATIENCE).is_complete());
        assert_eq!(
            attributes(&gate.published()[0]),
            json!({"spans": [{"name": "span", "n": 1}]})
        );
    }
}

/// Logs through tracing whenever it publishes: in the call, in a task and on a thread for blocking work.
#[derive(Debug, Default)]
struct Logging(Arc<OnceLock<Dispatch>>);

#[async_trait]
impl MessagePublisher for Logging {
    async fn publish(&self, _: Vec<Message>, _: Option<TraceContext>) -> Result<(), Unpublished> {
        let say = || {
            let dispatch = self.0.get().cloned().unwrap();
            move || with_dispatch(&dispatch, || error!("I am publishing"))
        };
        say()();
        let (task, blocking) = (say(), say());
        tokio::spawn(async move { task() }).await.unwrap();
        tokio::task::spawn_blocking(blocking).await.unwrap();
        Ok(())
    }
}

#[test]
fn what_the_sending_itself_logs_is_never_sent() {
    let publisher = Logging::default();
    let slot = Arc::clone(&publisher.0);
    // With the policy to wait and room for one, anything it sent of its own would wait for ever.
    let logger = quick()
        .when_full(WhenFull::Wait)
        .max_messages(1)
        .start(publisher)
        .unwrap();
    let layer = WarrenLayer::new(logger.clone());
    let dispatch = slot.get_or_init(|| Dispatch::new(registry().with(layer)));
    with_dispatch(dispatch, || {
        for _ in 0..20 {
            info!("said by the application");
        }
    });
    let report = logger.close_blocking(PATIENCE);
    assert!(report.is_complete(), "{report:?}");
    assert_eq!(report.stats.published, counts([(Severity::Info, 20)]));
}
