//! What all programs had counted at one moment, as far as several programs have one.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use futures_util::future::try_join_all;
use warren_domain::{Severity, SeverityCounts};
use warren_pipeline::flow::{Backlog, Page};
use warren_process::peer::Peer;

/// How long a program may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

async fn ask(programs: &[Peer]) -> Result<Vec<Page>> {
    let asked = programs.iter().map(async |program| {
        let text = program.metrics(TIMEOUT).await.map_err(|reason| anyhow!(reason))?;
        Ok(Page::parse(&text))
    });
    try_join_all(asked).await
}

/// The programs whose books are looked at.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    /// Those that take messages in.
    pub(crate) ingests: Vec<Peer>,
    /// Those that store them; the same one may do both.
    pub(crate) workers: Vec<Peer>,
}

/// What all of them had counted.
///
/// Those that take in are asked before and after those that store: what they had accepted in the moment between lies
/// between the two.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cut {
    pub(crate) before: Vec<Page>,
    pub(crate) workers: Vec<Page>,
    pub(crate) after: Vec<Page>,
}

impl Cut {
    /// Asks all of them.
    ///
    /// # Errors
    /// One of them does not answer.
    pub(crate) async fn take(programs: &Programs) -> Result<Self> {
        Ok(Self {
            before: ask(&programs.ingests).await?,
            workers: ask(&programs.workers).await?,
            after: ask(&programs.ingests).await?,
        })
    }
}

/// Adds up what pages count of each severity.
pub(crate) fn counted(pages: &[Page], name: &str, labels: &[(&str, &str)]) -> SeverityCounts {
    let mut sum = SeverityCounts::default();
    pages
        .iter()
        .for_each(|page| sum += page.by_severity(name, labels));
    sum
}

/// Adds up what pages show under a name.
fn total(pages: &[Page], name: &str) -> u64 {
    pages.iter().filter_map(|page| page.sum(name, &[])).sum()
}

/// Returns how many messages so many packets of RabbitMQ hold, at most.
///
/// # Errors
/// Nobody says how large a packet may be.
fn messages_in(cut: &Cut, packets: u64) -> Result<u64> {
    if packets == 0 {
        return Ok(0);
    }
    let most = cut
        .after
        .iter()
        .filter_map(|page| page.sum("warren_amqp_packet_max_messages", &[]))
        .max();
    let most = most.context("no ingest-api says how many messages a packet may hold")?;
    Ok(packets.saturating_mul(most))
}

/// Returns how many messages lie in the broker's queue of dead letters, at most.
///
/// # Errors
/// Nobody says how large a packet may be.
pub(crate) fn dying(cut: &Cut) -> Result<u64> {
    let waiting = cut
        .workers
        .iter()
        .filter_map(|page| page.sum("warren_amqp_dead_packets", &[]))
        .max();
    let delivered = total(&cut.workers, "warren_amqp_dead_unsettled_packets");
    messages_in(cut, waiting.unwrap_or(0) + delivered)
}

/// What may be on its way, at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct InFlight {
    /// With the worker, or in its packets, of each severity.
    pub(crate) of: [u64; 5],
    /// Of all severities together.
    pub(crate) all: u64,
    /// Messages the worker holds.
    pub(crate) held: u64,
    /// Packets that wait in the queue.
    pub(crate) packets: u64,
}

impl InFlight {
    /// Reads what may be on its way at a moment.
    ///
    /// # Errors
    /// It cannot be known.
    pub(crate) fn read(cut: &Cut) -> Result<Self> {
        let backlog = Backlog::read(&cut.workers);
        let packets = backlog.packets.context(if backlog.is_uncertain {
            "no worker knows now what waits in the queue, such as without a connection to RabbitMQ; /readyz of each says why"
        } else {
            "no worker says what waits in the queue; name a `store-worker` (or a `warren`) that consumes from it"
        })?;
        let held = counted(&cut.workers, "warren_store_held_messages", &[]);
        let spooled = total(&cut.after, "warren_spool_messages");
        let waiting = match backlog.messages {
            Some(messages) => messages,
            None => messages_in(
                cut,
                packets + total(&cut.workers, "warren_amqp_unsettled_packets"),
            )?,
        };
        let elsewhere = waiting + spooled;
        Ok(Self {
            of: Severity::ALL.map(|severity| elsewhere + held.get(severity)),
            all: elsewhere + held.total(),
            held: held.total(),
            packets,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_in_flight_is_packets_times_their_size_and_exact_where_messages_are_known() {
        let cut = |worker: &str| Cut {
            workers: vec![Page::parse(worker)],
            after: vec![Page::parse("warren_amqp_packet_max_messages 500\n")],
            before: Vec::new(),
        };
        let read = |worker: &str| InFlight::read(&cut(worker));
        let packets = read("warren_store_backlog_packets 3\nwarren_amqp_unsettled_packets 1\n").unwrap();
        assert_eq!((packets.all, packets.of[0]), (2_000, 2_000));
        let messages = "warren_store_backlog_packets 3\nwarren_store_backlog_messages 30\n\
                        warren_store_held_messages{severity=\"debug\"} 4\n";
        let messages = read(messages).unwrap();
        assert_eq!((messages.all, messages.of[0], messages.of[1]), (34, 34, 30));
        assert_eq!(read("warren_store_backlog_packets 0\n").unwrap().all, 0);
        assert!(read("").unwrap_err().to_string().contains("store-worker"));
        let away = "warren_store_backlog_packets 0\nwarren_store_backlog_known 0\n";
        assert!(read(away).unwrap_err().to_string().contains("knows now"));
    }
}
