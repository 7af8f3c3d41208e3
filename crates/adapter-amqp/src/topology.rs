//! The exchanges and queues, declared as one design.
//!
//! Everything is declared again on every connection and after every unroutable packet: declaring what exists costs a
//! round trip and changes nothing, and whatever somebody deleted comes back. RabbitMQ refuses to declare a queue
//! again with other arguments; that is reported by name and retried, never worked around, because working around it
//! would lose what the arguments promise.

use std::time::Duration;

use amqprs::FieldValue;
use warren_domain::ports::{ConsumerGroup, GroupName};
use warren_domain::{Selection, Severity, SourcePattern};

use crate::config::AmqpConfig;
use crate::connection::Link;
use crate::declaration::{Declaration, bind, declare, declare_all, exchange, queue, unbind};
use crate::error::LinkError;

/// How long all declarations together may take; the first quorum queue of a broker takes its time.
pub(crate) const DECLARE_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a dead letter may be looked at. RabbitMQ 4 drops a message of a quorum queue at its 20th delivery unless
/// told otherwise, 3.10 knows no "unlimited", and whoever lists dead letters gets and returns them.
const DEAD_DELIVERY_LIMIT: i64 = 1_000_000;

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

    /// Returns the severity of an exchange of that.
    pub(crate) fn severity(&self, exchange: &str) -> Option<Severity> {
        let name = exchange.strip_prefix(&self.prefix)?.strip_prefix('.')?;
        Severity::ALL
            .into_iter()
            .find(|severity| severity.as_str() == name)
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

    /// Returns a name for the queue of a live tail; no two are the same.
    pub(crate) fn tail_queue(&self) -> String {
        format!("{}.tail.{:016x}", self.prefix, fastrand::u64(..))
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
        declare(link, DECLARE_TIMEOUT, declarations).await
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
pub(crate) const EVERY_SOURCE: &str = "#";

/// Returns the binding keys of a selection.
pub(crate) fn keys(selection: &Selection) -> Vec<&str> {
    if selection.sources.is_empty() {
        return vec![EVERY_SOURCE];
    }
    selection.sources.iter().map(SourcePattern::as_str).collect()
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
        assert_eq!(topology.severity("p.critical"), Some(Severity::Critical));
        for other in ["p.dead", "p.Critical", "pcritical", "critical", ""] {
            assert_eq!(topology.severity(other), None, "{other}");
        }
        assert_eq!(topology.queue(&ConsumerGroup::Store), "p.store");
        assert_eq!(topology.queue(&group), "p.group.a-b");
        assert_eq!(topology.dead(), "p.dead");
    }
}
