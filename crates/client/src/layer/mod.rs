//! A `tracing` layer that logs events as messages.

mod fields;
mod source;

use std::borrow::Cow;

use serde_json::{Map, Value};
use tracing::field::Visit;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;
use warren_domain::Severity;

use crate::logger::Logger;
use crate::own_thread;
use fields::{EventFields, SpanFields};
use source::source_of;

/// The most spans of an event that are told, the innermost.
const MAX_SPANS: usize = 16;

/// What is never sent: what these say while they send would be sent again, and so on for ever.
const OF_THE_SENDING: [&str; 4] = [
    "warren_client",
    "warren_adapter_amqp",
    "warren_adapter_embedded",
    "amqprs",
];

/// Logs what a program says through `tracing`: each event becomes a message.
///
/// | Of the event | becomes |
/// | --- | --- |
/// | level | severity: TRACE and DEBUG `debug`, INFO `info`, WARN `warning`, ERROR `error` |
/// | field `severity`, such as `severity = "critical"` | severity, instead of the level's, where it names one; else an attribute |
/// | field `message` | body; without it `key=value` of its fields, without fields its name |
/// | other fields | attributes, numbers and booleans as such; a text over 16 KiB is cut, and after 64 fields no more are taken |
/// | its spans | attribute `spans`: name and fields of each, the outermost first; the 16 innermost, with 32 fields each and texts of up to 1 KiB; a field called `name` gives way to the span's |
/// | target | source, behind the logger's own unless that is `default`: `billing::api` of a logger `shop` is `shop.billing.api` |
///
/// What does not fit into a source becomes `_`, and it is cut at 200 bytes. A message that is too large all the same is
/// counted as rejected.
///
/// It never sends what the sending itself logs: not what is said on the sender's threads, whoever says it, nor what the
/// publishers' crates say anywhere ([`leave_out`](WarrenLayer::leave_out) adds to them). When the logger is full, it does
/// what its policy says: with [`WhenFull::Wait`](crate::WhenFull::Wait) the thread that logs waits.
#[derive(Clone, Debug)]
pub struct WarrenLayer {
    logger: Logger,
    left_out: Vec<String>,
    target: bool,
    spans: bool,
    location: bool,
    thread: bool,
}

impl WarrenLayer {
    /// Logs to `logger`; keep a clone of it to [`close`](Logger::close) it at the end.
    pub const fn new(logger: Logger) -> Self {
        Self {
            logger,
            left_out: Vec::new(),
            target: true,
            spans: true,
            location: false,
            thread: false,
        }
    }

    /// Leaves out what is said under a target, such as `sqlx`, and below it (`sqlx::query`). Default none.
    #[must_use]
    pub fn leave_out(mut self, target: impl Into<String>) -> Self {
        self.left_out.push(target.into());
        self
    }

    /// Gives every message the logger's own source, whatever its target.
    #[must_use]
    pub const fn without_target(mut self) -> Self {
        self.target = false;
        self
    }

    /// Leaves the attribute `spans` out.
    #[must_use]
    pub const fn without_spans(mut self) -> Self {
        self.spans = false;
        self
    }

    /// Adds the attributes `code.file.path` and `code.line.number`.
    #[must_use]
    pub const fn with_location(mut self) -> Self {
        self.location = true;
        self
    }

    /// Adds the attribute `thread.name`, where the thread has one.
    #[must_use]
    pub const fn with_thread(mut self) -> Self {
        self.thread = true;
        self
    }

    fn leaves_out(&self, target: &str) -> bool {
        let below = |of: &str| {
            target
                .strip_prefix(of)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        };
        OF_THE_SENDING.into_iter().any(below) || self.left_out.iter().any(|of| below(of))
    }

    fn details(&self, metadata: &Metadata<'_>, attributes: &mut Map<String, Value>) {
        if self.location
            && let (Some(file), Some(line)) = (metadata.file(), metadata.line())
        {
            attributes.insert("code.file.path".to_owned(), file.into());
            attributes.insert("code.line.number".to_owned(), line.into());
        }
        if self.thread
            && let Some(name) = std::thread::current().name()
        {
            attributes.insert("thread.name".to_owned(), name.into());
        }
    }
}

impl<S> Layer<S> for WarrenLayer
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if !self.spans || own_thread::is_marked() {
            return;
        }
        // Before the span's own lock is taken: showing a value may log.
        let mut fields = SpanFields::default();
        attributes.record(&mut fields as &mut dyn Visit);
        if let Some(span) = context.span(id) {
            // Another layer of this kind may have been here; it noted the same.
            span.extensions_mut().replace(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if !self.spans || own_thread::is_marked() {
            return;
        }
        let mut later = SpanFields::default();
        values.record(&mut later as &mut dyn Visit);
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<SpanFields>()
        {
            fields.extend(later);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        if own_thread::is_marked() {
            return;
        }
        let mut fields = EventFields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        // What came through the `log` crate has its own target in a field.
        let target = fields
            .log_target
            .take()
            .map_or(Cow::Borrowed(metadata.target()), Cow::Owned);
        if self.leaves_out(&target) {
            return;
        }
        let severity = fields
            .severity()
            .unwrap_or_else(|| severity_of(*metadata.level()));
        let body = fields.body(metadata.name());
        let mut attributes = fields.into_attributes();
        if self.spans && !attributes.contains_key("spans") {
            let spans = spans(event, &context);
            if !spans.is_empty() {
                attributes.insert("spans".to_owned(), Value::Array(spans));
            }
        }
        self.details(metadata, &mut attributes);
        let entry = self.logger.log(severity, body).attributes(attributes);
        // Logged at the end of the statement; the logger counts what became of it.
        if self.target {
            drop(entry.source(source_of(self.logger.source(), &target)));
        } else {
            drop(entry);
        }
    }
}

/// Lists the spans around an event, the outermost first.
fn spans<S>(event: &Event<'_>, context: &Context<'_, S>) -> Vec<Value>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let Some(scope) = context.event_scope(event) else {
        return Vec::new();
    };
    let mut spans: Vec<Value> = scope
        .take(MAX_SPANS)
        .map(|span| {
            let extensions = span.extensions();
            let fields = extensions.get::<SpanFields>().map(SpanFields::to_map);
            let mut map = fields.unwrap_or_default();
            map.insert("name".to_owned(), span.name().into());
            Value::Object(map)
        })
        .collect();
    spans.reverse();
    spans
}

const fn severity_of(level: Level) -> Severity {
    match level {
        Level::TRACE | Level::DEBUG => Severity::Debug,
        Level::INFO => Severity::Info,
        Level::WARN => Severity::Warning,
        Level::ERROR => Severity::Error,
    }
}
