//! What counting does with a batch.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use metrics::{Counter, Gauge, counter, histogram};
use tokio::sync::watch;
use tracing::{Span, debug_span, warn};
use warren_domain::ports::{Countable, NamedGroup, Refused, Tally, TallyBook, Unhealthy};
use warren_domain::{Message, Severity};

use super::activity::Activity;
use super::metrics::{COUNT_SECONDS, GroupCounters, RETRIES, UNSELECTED, UNSETTLED};
use super::report::GroupReport;
use crate::consume_loop::Effect;
use crate::gather::{Batch, Dead};
use crate::outage::{GaveUp, Outage};
use crate::write::cause;

/// Counts what a group selects into its book, and tells the others what the book says then.
#[derive(Debug)]
pub(super) struct Counting {
    pub(super) group: NamedGroup,
    pub(super) book: Arc<dyn TallyBook>,
    pub(super) activity: Activity,
    pub(super) reported: Reported,
    pub(super) counters: GroupCounters,
}

/// The latest report of a group; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Reported(
    pub(super) Arc<watch::Sender<GroupReport>>,
    pub(super) GroupCounters,
);

impl Reported {
    /// Takes what the book says.
    pub(super) fn take(&self, tally: &Tally) {
        self.take_and(tally, |_| {});
    }

    /// Takes what the book says, and changes more of the report with it.
    pub(super) fn take_and(&self, tally: &Tally, change: impl FnOnce(&mut GroupReport)) {
        self.1.know_book();
        self.change(|report| {
            report.take(tally);
            change(report);
        });
    }

    /// Changes the report, and says so to everybody who watches it.
    pub(super) fn change(&self, change: impl FnOnce(&mut GroupReport)) {
        self.0.send_modify(|report| {
            change(report);
            report.at = warren_domain::Timestamp::now();
            self.1.show(report);
        });
    }
}

impl Counting {
    /// Keeps what the group selects; a queue may still be bound to more than that.
    fn select(&self, messages: &[Message]) -> Vec<Countable> {
        let selected = messages
            .iter()
            .filter(|message| self.group.selection.matches(message));
        let batch: Vec<_> = selected.map(Countable::from).collect();
        let others = messages.len() - batch.len();
        if others > 0 {
            self.counter(UNSELECTED).increment(others as u64);
        }
        batch
    }

    fn counter(&self, name: &'static str) -> Counter {
        counter!(name, "group" => self.group.name.to_string())
    }
}

#[async_trait]
impl Effect for Counting {
    const NEEDS: &'static str = "the book of counts";

    async fn ready(&self) -> Result<(), Unhealthy> {
        let tally = self.book.tally().await.map_err(|e| Unhealthy(e.to_string()))?;
        self.reported.take(&tally);
        Ok(())
    }

    fn span(&self, messages: usize, links: &str) -> Span {
        debug_span!("count_batch", group = %self.group.name, messages, links)
    }

    async fn apply(&self, batch: &Batch, mut outage: Outage) -> Result<Vec<Refused>, GaveUp> {
        let batch = self.select(&batch.messages);
        let counted = loop {
            let tried = Instant::now();
            match self.book.count(&batch).await {
                Ok(counted) => {
                    histogram!(COUNT_SECONDS).record(tried.elapsed().as_secs_f64());
                    outage.succeeded();
                    break counted;
                }
                Err(failure) => {
                    self.counter(RETRIES).increment(1);
                    let reason = format!("paused: {failure}");
                    let say = || {
                        let cause = cause(&failure);
                        warn!(error = %failure, cause, "pausing until the book can be written");
                    };
                    outage.wait(tried, reason, say).await?;
                }
            }
        };
        self.counters.consumed(&counted.counted);
        self.activity.counted(counted.counted.total());
        self.reported.take(&counted.tally);
        Ok(Vec::new())
    }

    fn held(&self, _: Severity) -> Gauge {
        Gauge::noop()
    }

    fn dead_lettered(&self, _: &Dead) {}

    fn unsettled(&self, deliveries: usize) {
        self.counter(UNSETTLED).increment(deliveries as u64);
    }
}
