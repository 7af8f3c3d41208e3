//! The exchanges and queues, declared as one design.
//!
//! Everything is declared again on every connection and after every unroutable packet: declaring what exists costs a
//! round trip and changes nothing, and whatever somebody deleted comes back. RabbitMQ refuses to declare a queue
//! again with other arguments; that is reported by name and retried, never worked around, because working around it
//! would lose what the arguments promise.

use std::time::Duration;

use amqprs::channel::{
    Channel, ExchangeDeclareArguments, QueueBindArguments, QueueDeclareArguments, QueueUnbindArguments,
};
use amqprs::{FieldTable, FieldValue};
use tokio::sync::mpsc;
use warren_domain::ports::{ConsumerGroup, GroupName};
use warren_domain::{Selection, Severity, SourcePattern};

use crate::config::AmqpConfig;
use crate::connection::{Event, Link};
use crate::error::LinkError;

/// How long all declarations together may take; the first quorum queue of a broker takes its time.
const DECLARE_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a dead letter may be looked at. RabbitMQ 4 drops a message of a quorum queue at its 20th delivery unless
/// told otherwise, 3.10 knows no "unlimited", and whoever lists dead letters gets and returns them.
const DEAD_DELIVERY_LIMIT: i64 = 1_000_000;

/// PRECONDITION_FAILED: it exists with other arguments. <https://www.rabbitmq.com/docs/channels#error-handling>
const PRECONDITION_FAILED: u16 = 406;

/// ACCESS_REFUSED: the user lacks a right.
const ACCESS_REFUSED: u16 = 403;

/// The names and arguments of all exchanges and queues of one prefix.
#[derive(Clone, Debug)]
pub(crate) struct Topology {
    prefix: String,
    store_delivery_limit: i64,
    store_strategy: &'static str,
    store_max_bytes: i64,
    dead_max_bytes: i64,
    group_max_bytes: i64,
    group_expires: i64,
}

/// Something to be declared, and what an operator calls it.
struct Declaration {
    what: String,
    /// The settings its arguments come from, where it has any.
    settings: &'static str,
    step: Step,
}

enum Step {
    Exchange(ExchangeDeclareArguments),
    Queue(QueueDeclareArguments),
    Bind(QueueBindArguments),
    Unbind(QueueUnbindArguments),
}

impl Topology {
    pub(crate) fn new(config: &AmqpConfig) -> Self {
        let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        Self {
            prefix: config.prefix.clone(),
            store_delivery_limit: config.store_delivery_limit.into(),
            store_strategy: config.store_dead_letter_strategy.as_str(),
            store_max_bytes: signed(config.store_max_bytes.as_u64()),
            dead_max_bytes: signed(config.dead_max_bytes.as_u64()),
            group_max_bytes: signed(config.group_max_bytes.as_u64()),
            group_expires: i64::try_from(config.group_expires.as_millis()).unwrap_or(i64::MAX),
        }
    }

    /// Returns the exchange of a severity.
    pub(crate) fn exchange(&self, severity: Severity) -> String {
        format!("{}.{severity}", self.prefix)
    }

    /// Returns the exchange, and at the same time the queue, of dead letters.
    pub(crate) fn dead(&self) -> String {
        format!("{}.dead", self.prefix)
    }

    /// Returns the queue of a consumer group.
    pub(crate) fn queue(&self, group: &ConsumerGroup) -> String {
        match group {
            ConsumerGroup::Store => format!("{}.store", self.prefix),
            ConsumerGroup::Named(group) => self.group_queue(&group.name),
        }
    }

    /// Returns the queue of a named group.
    pub(crate) fn group_queue(&self, name: &GroupName) -> String {
        format!("{}.group.{name}", self.prefix)
    }

    /// Declares what a publisher needs, and with a group its queue.
    ///
    /// The publisher's part holds the store queue too, so that no message is unroutable before the first worker runs.
    ///
    /// # Errors
    /// [`LinkError`]; the link is to be given up.
    pub(crate) async fn declare(
        &self,
        link: &mut Link,
        group: Option<&ConsumerGroup>,
    ) -> Result<(), LinkError> {
        let mut declarations = self.base();
        if let Some(group @ ConsumerGroup::Named(named)) = group {
            declarations.extend(self.group(&self.queue(group), &named.selection));
        }
        let channel = link.channel()?.clone();
        let declared = link
            .run(DECLARE_TIMEOUT, declare_all(channel, declarations))
            .await?;
        declared.map_err(|failure| failure.explained(&mut link.events))
    }

    /// Declares what a publisher needs on a channel of its own, so that a refusal does not disturb the link's.
    pub(crate) fn declare_aside(
        &self,
        link: &Link,
    ) -> impl Future<Output = Result<(), LinkError>> + Send + 'static {
        let (opening, declarations) = (link.side_channel(), self.base());
        let declared = link.run(DECLARE_TIMEOUT, async move {
            let (channel, mut events) = opening.await?;
            let declared = declare_all(channel, declarations).await;
            declared.map_err(|failure| failure.explained(&mut events))
        });
        async move { declared.await? }
    }

    fn base(&self) -> Vec<Declaration> {
        let (store, dead) = (self.queue(&ConsumerGroup::Store), self.dead());
        let mut declarations: Vec<_> = Severity::ALL
            .map(|severity| exchange(&self.exchange(severity)))
            .into();
        // The dead letters come first: the store queue dead-letters to them, and what it sends there must have a place.
        declarations.push(exchange(&dead));
        declarations.push(queue(
            &dead,
            "amqp.dead_max_bytes",
            [
                ("x-queue-type", FieldValue::from("quorum")),
                ("x-delivery-limit", FieldValue::l(DEAD_DELIVERY_LIMIT)),
                ("x-overflow", FieldValue::from("reject-publish")),
                ("x-max-length-bytes", FieldValue::l(self.dead_max_bytes)),
            ],
        ));
        declarations.push(bind(&dead, &dead, EVERY_SOURCE));
        declarations.push(queue(
            &store,
            "amqp.store_delivery_limit, amqp.store_dead_letter_strategy and amqp.store_max_bytes",
            [
                ("x-queue-type", FieldValue::from("quorum")),
                ("x-delivery-limit", FieldValue::l(self.store_delivery_limit)),
                ("x-dead-letter-exchange", FieldValue::from(dead.as_str())),
                // At least once needs reject-publish on this queue.
                ("x-dead-letter-strategy", FieldValue::from(self.store_strategy)),
                ("x-overflow", FieldValue::from("reject-publish")),
                ("x-max-length-bytes", FieldValue::l(self.store_max_bytes)),
            ],
        ));
        declarations
            .extend(Severity::ALL.map(|severity| bind(&store, &self.exchange(severity), EVERY_SOURCE)));
        declarations
    }

    /// A group's queue drops its oldest packets when it is full, and itself when nobody comes: a group that is
    /// forgotten never holds up intake. What it cannot deliver it drops too; the store has its own copy.
    fn group(&self, name: &str, selection: &Selection) -> Vec<Declaration> {
        let mut declarations = vec![queue(
            name,
            "amqp.store_delivery_limit, amqp.group_max_bytes and amqp.group_expires",
            [
                ("x-queue-type", FieldValue::from("quorum")),
                ("x-delivery-limit", FieldValue::l(self.store_delivery_limit)),
                ("x-overflow", FieldValue::from("drop-head")),
                ("x-max-length-bytes", FieldValue::l(self.group_max_bytes)),
                ("x-expires", FieldValue::l(self.group_expires)),
            ],
        )];
        let keys = keys(selection);
        let (mut wanted, mut unwanted) = (Vec::new(), Vec::new());
        for severity in Severity::ALL {
            let exchange = self.exchange(severity);
            let selected = selection.severities.contains(severity);
            for key in &keys {
                let list = if selected { &mut wanted } else { &mut unwanted };
                list.push((exchange.clone(), *key));
            }
            if !keys.contains(&EVERY_SOURCE) {
                unwanted.push((exchange, EVERY_SOURCE));
            }
        }
        // A group may have listened to others before; removing a binding that is not there succeeds. First what is
        // wanted: at no moment is a message missed that both the old and the new selection mean.
        declarations.extend(wanted.iter().map(|(exchange, key)| bind(name, exchange, key)));
        declarations.extend(unwanted.iter().map(|(exchange, key)| unbind(name, exchange, key)));
        declarations
    }
}

/// The binding key of every source.
const EVERY_SOURCE: &str = "#";

/// Returns the binding keys of a selection.
pub(crate) fn keys(selection: &Selection) -> Vec<&str> {
    if selection.sources.is_empty() {
        return vec![EVERY_SOURCE];
    }
    selection.sources.iter().map(SourcePattern::as_str).collect()
}

fn exchange(name: &str) -> Declaration {
    Declaration {
        what: format!("exchange {name}"),
        settings: "",
        step: Step::Exchange(
            ExchangeDeclareArguments::new(name, "topic")
                .durable(true)
                .finish(),
        ),
    }
}

fn queue<const N: usize>(
    name: &str,
    settings: &'static str,
    arguments: [(&str, FieldValue); N],
) -> Declaration {
    let mut table = FieldTable::new();
    for (key, value) in arguments {
        insert(&mut table, key, value);
    }
    Declaration {
        what: format!("queue {name}"),
        settings,
        step: Step::Queue(
            QueueDeclareArguments::durable_client_named(name)
                .arguments(table)
                .finish(),
        ),
    }
}

fn bind(queue: &str, exchange: &str, key: &str) -> Declaration {
    Declaration {
        what: format!("the binding of queue {queue} to exchange {exchange} by {key}"),
        settings: "",
        step: Step::Bind(QueueBindArguments::new(queue, exchange, key)),
    }
}

fn unbind(queue: &str, exchange: &str, key: &str) -> Declaration {
    Declaration {
        what: format!("the binding of queue {queue} to exchange {exchange} by {key}"),
        settings: "",
        step: Step::Unbind(QueueUnbindArguments::new(queue, exchange, key)),
    }
}

/// Inserts into a header or argument table; a key over 255 bytes, which none of ours is, is left out.
pub(crate) fn insert(table: &mut FieldTable, key: &str, value: FieldValue) {
    if let Ok(key) = key.try_into() {
        table.insert(key, value);
    }
}

/// A declaration that failed; the broker's own words are among the events of the channel.
struct Failure {
    what: String,
    settings: &'static str,
    error: amqprs::error::Error,
}

impl Failure {
    /// Tells why: amqprs only says that the channel is gone, the broker has said the reason before.
    fn explained(self, events: &mut mpsc::Receiver<Event>) -> LinkError {
        let Self {
            what,
            settings,
            error,
        } = self;
        while let Ok(event) = events.try_recv() {
            if let Event::Closed { code, reason } = event {
                return LinkError::Topology(explained(&what, settings, code, &reason));
            }
        }
        LinkError::Lost(format!(
            "the connection was lost while {what} was declared: {error}"
        ))
    }
}

async fn declare_all(channel: Channel, declarations: Vec<Declaration>) -> Result<(), Failure> {
    for Declaration { what, settings, step } in declarations {
        let declared = match step {
            Step::Exchange(arguments) => channel.exchange_declare(arguments).await,
            Step::Queue(arguments) => channel.queue_declare(arguments).await.map(|_| ()),
            Step::Bind(arguments) => channel.queue_bind(arguments).await,
            Step::Unbind(arguments) => channel.queue_unbind(arguments).await,
        };
        if let Err(error) = declared {
            return Err(Failure {
                what,
                settings,
                error,
            });
        }
    }
    Ok(())
}

fn explained(what: &str, settings: &str, code: u16, reason: &str) -> String {
    match code {
        PRECONDITION_FAILED if settings.is_empty() => format!(
            "{what} exists already, but is not what Warren needs ({reason}); delete it, or choose another amqp.prefix"
        ),
        PRECONDITION_FAILED => format!(
            "{what} exists already with other arguments ({reason}); set {settings} to what it was declared with, \
             or empty and delete the queue and let it be declared anew"
        ),
        ACCESS_REFUSED => format!(
            "{what} may not be declared ({reason}); give the user the rights to configure, write and read it"
        ),
        _ => format!("{what} cannot be declared: {reason} ({code})"),
    }
}

#[cfg(test)]
mod tests {
    use warren_domain::SeveritySet;
    use warren_domain::ports::{NamedGroup, StartAt};

    use super::*;

    #[test]
    fn names_begin_with_the_prefix() {
        let topology = Topology::new(&AmqpConfig {
            prefix: "p".to_owned(),
            ..AmqpConfig::default()
        });
        let group = ConsumerGroup::Named(NamedGroup {
            name: "a-b".parse().unwrap(),
            selection: Selection::of(SeveritySet::ALL),
            start: StartAt::Oldest,
        });
        assert_eq!(topology.exchange(Severity::Critical), "p.critical");
        assert_eq!(topology.queue(&ConsumerGroup::Store), "p.store");
        assert_eq!(topology.queue(&group), "p.group.a-b");
        assert_eq!(topology.dead(), "p.dead");
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let text = explained(
            "queue p.store",
            "amqp.store_max_bytes",
            406,
            "inequivalent arg 'x'",
        );
        assert!(text.contains("queue p.store") && text.contains("inequivalent arg 'x'"));
        assert!(text.contains("set amqp.store_max_bytes") && text.contains("delete"));
        assert!(explained("exchange p.info", "", 406, "type").contains("amqp.prefix"));
        assert!(explained("exchange p.info", "", 403, "no").contains("rights"));
    }
}
