//! Gathers deliveries into a batch.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use futures_util::{StreamExt, stream};
use metrics::Gauge;
use serde_json::Value;
use warren_domain::ports::{Delivery, Refused, SettleError};
use warren_domain::{Message, Severity, SeverityCounts};

use crate::WorkerConfig;

/// How many deliveries are settled at a time that hold refused messages: each waits for its dead letters to be durable.
const SETTLED_AT_ONCE: usize = 16;

/// How many requests a batch is linked to; a batch of small requests has thousands.
const MAX_LINKS: usize = 16;

/// How many messages a loop holds, by severity: one gauge each.
#[derive(Clone)]
pub(crate) struct HeldGauges(Arc<[Gauge; 5]>);

impl HeldGauges {
    /// Sets all of them to nothing.
    pub(crate) fn new(of: impl FnMut(Severity) -> Gauge) -> Self {
        let gauges = Severity::ALL.map(of);
        gauges.iter().for_each(|gauge| gauge.set(0.0));
        Self(Arc::new(gauges))
    }
}

/// What a batch holds, as the gauges show it until it is dropped.
struct Held {
    counts: SeverityCounts,
    gauges: HeldGauges,
}

impl Held {
    fn add(&mut self, messages: &[Message]) {
        let more: SeverityCounts = messages.iter().map(|message| message.severity).collect();
        for ((_, n), gauge) in more.iter().zip(self.gauges.0.iter()).filter(|((_, n), _)| *n > 0) {
            gauge.increment(n as f64);
        }
        self.counts += more;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for ((_, n), gauge) in self.counts.iter().zip(self.gauges.0.iter()) {
            gauge.decrement(n as f64);
        }
    }
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.counts.fmt(f)
    }
}

/// Deliveries that have their effect together, and their messages in one slice.
#[derive(Debug)]
pub(crate) struct Batch {
    /// Every message, in the order of the deliveries.
    pub(crate) messages: Vec<Message>,
    /// Which of them may have had their effect before, ascending.
    redelivered: Vec<Range<usize>>,
    held: Held,
    /// The deliveries, their messages moved out, and where each one's messages begin.
    deliveries: Vec<(usize, Delivery)>,
    bytes: u64,
}

/// What is durably a dead letter, by whether its delivery may have been handled before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dead {
    pub(crate) first: SeverityCounts,
    pub(crate) again: SeverityCounts,
}

impl Batch {
    pub(crate) fn new(gauges: &HeldGauges) -> Self {
        Self {
            messages: Vec::new(),
            redelivered: Vec::new(),
            held: Held {
                counts: SeverityCounts::default(),
                gauges: gauges.clone(),
            },
            deliveries: Vec::new(),
            bytes: 0,
        }
    }

    /// Counts those messages of a part that may have had their effect before.
    pub(crate) fn redelivered_in(&self, part: &Range<usize>) -> SeverityCounts {
        let within = |range: &Range<usize>| range.start.max(part.start)..range.end.min(part.end);
        let ranges = self.redelivered.iter().map(within);
        let messages = ranges
            .filter(|range| !range.is_empty())
            .flat_map(|range| &self.messages[range]);
        messages.map(|message| message.severity).collect()
    }

    pub(crate) fn push(&mut self, mut delivery: Delivery) {
        self.held.add(&delivery.messages);
        let end = self.messages.len() + delivery.messages.len();
        if delivery.redelivered {
            self.redelivered.push(self.messages.len()..end);
        }
        self.bytes += delivery.messages.iter().map(weight).sum::<u64>();
        let begin = self.messages.len();
        self.messages.append(&mut delivery.messages);
        self.deliveries.push((begin, delivery));
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.deliveries.is_empty()
    }

    /// Tells whether one of the limits is reached.
    pub(crate) const fn is_full(&self, config: &WorkerConfig) -> bool {
        self.messages.len() >= config.batch_messages
            || self.deliveries.len() >= config.batch_deliveries
            || self.bytes >= config.batch_bytes.as_u64()
    }

    /// Lists the requests the messages came with, for linking: the first few, and how many more there are.
    pub(crate) fn links(&self) -> String {
        let mut seen = HashSet::new();
        let mut links = Vec::new();
        for trace in self.deliveries.iter().flat_map(|(_, delivery)| &delivery.traces) {
            if seen.insert(trace) && links.len() < MAX_LINKS {
                links.push(trace.to_string());
            }
        }
        let more = seen.len() - links.len();
        if more > 0 {
            links.push(format!("and {more} more"));
        }
        links.join(",")
    }

    /// Acknowledges every delivery; `refused` counts places among all messages, ascending.
    ///
    /// Those without refused messages first: dead letters may take their time, or fail.
    ///
    /// Returns what is durably a dead letter now, and why deliveries were not settled; those come again.
    pub(crate) async fn settle(self, refused: Vec<Refused>) -> (Dead, Vec<SettleError>) {
        let mut refused = refused.into_iter().peekable();
        let end = self.messages.len();
        let ends = self
            .deliveries
            .iter()
            .map(|(begin, _)| *begin)
            .skip(1)
            .chain([end])
            .collect::<Vec<_>>();
        let mut settling = Vec::new();
        for ((begin, delivery), end) in self.deliveries.into_iter().zip(ends) {
            let mut mine = Vec::new();
            while let Some(refused) = refused.next_if(|refused| refused.index < end) {
                mine.push(Refused {
                    index: refused.index - begin,
                    ..refused
                });
            }
            let counts: SeverityCounts = mine
                .iter()
                .map(|refused| self.messages[begin + refused.index].severity)
                .collect();
            settling.push((delivery, mine, counts));
        }
        let (good, bad): (Vec<_>, Vec<_>) = settling.into_iter().partition(|(_, mine, _)| mine.is_empty());
        let (mut dead, mut failures) = (Dead::default(), Vec::new());
        for (delivery, _, _) in good {
            failures.extend(delivery.ack().await.err());
        }
        let settling = stream::iter(bad).map(|(delivery, mine, counts)| async move {
            let again = delivery.redelivered;
            (again, counts, delivery.ack_except(mine).await)
        });
        let mut settled = settling.buffer_unordered(SETTLED_AT_ONCE);
        while let Some((again, counts, outcome)) = settled.next().await {
            match outcome {
                Ok(()) if again => dead.again += counts,
                Ok(()) => dead.first += counts,
                Err(failure) => failures.push(failure),
            }
        }
        (dead, failures)
    }
}

/// Estimates what a message holds, in bytes.
pub(crate) fn weight(message: &Message) -> u64 {
    const FIXED: u64 = 128;
    let attributes = message.attributes.as_map();
    FIXED + message.body.as_str().len() as u64 + attributes.iter().map(entry_weight).sum::<u64>()
}

fn entry_weight((key, value): (&String, &Value)) -> u64 {
    key.len() as u64 + value_weight(value)
}

fn value_weight(value: &Value) -> u64 {
    const FIXED: u64 = 32;
    FIXED
        + match value {
            Value::String(text) => text.len() as u64,
            Value::Array(items) => items.iter().map(value_weight).sum(),
            Value::Object(map) => map.iter().map(entry_weight).sum(),
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::Barrier;
    use tokio::time::timeout;
    use warren_adapter_conformance::samples::messages;
    use warren_domain::TraceContext;
    use warren_domain::ports::{DeadLetterReason, Settlement};

    use super::*;

    #[derive(Debug)]
    struct Unneeded;

    #[async_trait::async_trait]
    impl Settlement for Unneeded {
        async fn settle(self: Box<Self>, _: Vec<Refused>) -> Result<(), SettleError> {
            Ok(())
        }
    }

    fn trace(n: u64) -> TraceContext {
        let text = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{n:016x}-01");
        text.parse().unwrap()
    }

    fn batch(traces: impl IntoIterator<Item = u64>) -> Batch {
        let mut batch = Batch::new(&HeldGauges::new(|_| Gauge::noop()));
        for n in traces {
            batch.push(Delivery {
                messages: Vec::new(),
                redelivered: false,
                attempt: 1,
                traces: vec![trace(n)],
                settlement: Box::new(Unneeded),
            });
        }
        batch
    }

    #[test]
    fn a_batch_names_each_request_once_and_counts_those_beyond_the_first_few() {
        assert_eq!(batch([]).links(), "");
        assert_eq!(batch([1, 2, 1, 2]).links(), format!("{},{}", trace(1), trace(2)));
        let links = batch((1..=100).chain(1..=100)).links();
        assert!(links.starts_with(&trace(1).to_string()), "{links}");
        assert!(links.ends_with(&format!("{},and 84 more", trace(16))), "{links}");
    }

    /// Settles once all others of its barrier are about to.
    #[derive(Debug)]
    struct Together(Arc<Barrier>);

    #[async_trait::async_trait]
    impl Settlement for Together {
        async fn settle(self: Box<Self>, refused: Vec<Refused>) -> Result<(), SettleError> {
            assert_eq!(refused.len(), 1);
            self.0.wait().await;
            Ok(())
        }
    }

    /// Takes part in a barrier without waiting for it.
    #[derive(Debug)]
    struct Arrives(Arc<Barrier>);

    #[async_trait::async_trait]
    impl Settlement for Arrives {
        async fn settle(self: Box<Self>, refused: Vec<Refused>) -> Result<(), SettleError> {
            assert_eq!(refused.len(), 0);
            tokio::spawn(async move { self.0.wait().await });
            Ok(())
        }
    }

    #[tokio::test]
    async fn what_waits_for_dead_letters_holds_up_neither_good_deliveries_nor_each_other() {
        let barrier = Arc::new(Barrier::new(5));
        let mut batch = Batch::new(&HeldGauges::new(|_| Gauge::noop()));
        let mut push = |redelivered, settlement: Box<dyn Settlement>| {
            batch.push(Delivery {
                messages: messages(2),
                redelivered,
                attempt: 1,
                traces: Vec::new(),
                settlement,
            });
        };
        for redelivered in [false, true, true] {
            push(redelivered, Box::new(Together(Arc::clone(&barrier))));
        }
        push(false, Box::new(Arrives(Arc::clone(&barrier))));
        push(false, Box::new(Arrives(barrier)));
        let refused = [1, 2, 4].map(|index| Refused {
            index,
            reason: DeadLetterReason {
                code: "refused_by_store",
                detail: String::new(),
            },
        });
        let settling = batch.settle(refused.into());
        let (dead, failures) = timeout(Duration::from_secs(10), settling).await.unwrap();
        assert_eq!((dead.first.total(), dead.again.total()), (1, 2));
        assert!(failures.is_empty(), "{failures:?}");
    }
}
