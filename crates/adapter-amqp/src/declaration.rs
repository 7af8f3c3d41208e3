//! Exchanges, queues and bindings to be declared, and why they cannot be.

use std::time::Duration;

use amqprs::channel::{
    Channel, ExchangeDeclareArguments, QueueBindArguments, QueueDeclareArguments, QueueUnbindArguments,
};
use amqprs::{FieldTable, FieldValue};
use tokio::sync::mpsc;

use crate::connection::{Event, Link};
use crate::error::LinkError;

/// ACCESS_REFUSED: the user lacks a right.
const ACCESS_REFUSED: u16 = 403;

/// PRECONDITION_FAILED: it exists with other arguments. <https://www.rabbitmq.com/docs/channels#error-handling>
const PRECONDITION_FAILED: u16 = 406;

/// Something to be declared, and what an operator calls it.
pub(crate) struct Declaration {
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

/// A durable topic exchange.
pub(crate) fn exchange(name: &str) -> Declaration {
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

/// An exchange that everything bound to it gets everything of, and that goes with the last binding.
pub(crate) fn passing_exchange(name: &str) -> Declaration {
    Declaration {
        what: format!("exchange {name}"),
        settings: "",
        step: Step::Exchange(
            ExchangeDeclareArguments::new(name, "fanout")
                .auto_delete(true)
                .finish(),
        ),
    }
}

/// A durable queue.
pub(crate) fn queue<const N: usize>(
    name: &str,
    settings: &'static str,
    arguments: [(&str, FieldValue); N],
) -> Declaration {
    Declaration {
        what: format!("queue {name}"),
        settings,
        step: Step::Queue(
            QueueDeclareArguments::durable_client_named(name)
                .arguments(table(arguments))
                .finish(),
        ),
    }
}

/// A queue of this connection's own, which goes with it.
pub(crate) fn own_queue<const N: usize>(name: &str, arguments: [(&str, FieldValue); N]) -> Declaration {
    Declaration {
        what: format!("queue {name}"),
        settings: "",
        step: Step::Queue(
            QueueDeclareArguments::new(name)
                .exclusive(true)
                .auto_delete(true)
                .arguments(table(arguments))
                .finish(),
        ),
    }
}

fn table<const N: usize>(arguments: [(&str, FieldValue); N]) -> FieldTable {
    let mut table = FieldTable::new();
    for (key, value) in arguments {
        insert(&mut table, key, value);
    }
    table
}

pub(crate) fn bind(queue: &str, exchange: &str, key: &str) -> Declaration {
    Declaration {
        what: format!("the binding of queue {queue} to exchange {exchange} by {key}"),
        settings: "",
        step: Step::Bind(QueueBindArguments::new(queue, exchange, key)),
    }
}

pub(crate) fn unbind(queue: &str, exchange: &str, key: &str) -> Declaration {
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
pub(crate) struct Failure {
    what: String,
    settings: &'static str,
    error: amqprs::error::Error,
}

impl Failure {
    /// Tells why: amqprs only says that the channel is gone, the broker has said the reason before.
    pub(crate) fn explained(self, events: &mut mpsc::Receiver<Event>) -> LinkError {
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

/// Declares everything on the link's own channel, within `limit`.
///
/// # Errors
/// [`LinkError`]; the link is to be given up.
pub(crate) async fn declare(
    link: &mut Link,
    limit: Duration,
    declarations: Vec<Declaration>,
) -> Result<(), LinkError> {
    let channel = link.channel()?.clone();
    let declared = link.run(limit, declare_all(channel, declarations)).await?;
    declared.map_err(|failure| failure.explained(&mut link.events))
}

/// Declares everything on `channel`, up to the first that fails.
pub(crate) async fn declare_all(channel: Channel, declarations: Vec<Declaration>) -> Result<(), Failure> {
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
    use super::*;

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
