//! The way out of the log.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sea_orm::sqlx;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use warren_domain::ports::{
    ConsumerGroup, Delivery, MessageConsumer, Refused, SettleError, Settlement, StartAt,
};
use warren_domain::{Message, Rejection, Selection, SeveritySet};

use super::dead_letter::{DeadLine, Origin};
use super::group::{Delivered, Group, Membership};
use super::head::Head;
use super::packet::read_traces;
use super::rows::LogRow;
use super::{Burial, Command, Joining, Queue, STORE_GROUP, known_as};
use crate::error::{chain, explain, fault};

const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);
const UNHEARD_BACKOFF: Duration = Duration::from_secs(1);

/// How much of each message a member of a group reads.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reading {
    /// All of it.
    Whole,
    /// All but body and attributes.
    Envelope,
}

impl Reading {
    fn message(self, line: &[u8]) -> Result<Message, Rejection> {
        match self {
            Self::Whole => Message::from_json(line),
            // What cannot be read has the same fault for every group.
            Self::Envelope => Message::envelope_from_json(line).or_else(|_| Message::from_json(line)),
        }
    }
}

/// A member of a consumer group.
///
/// Members of one group share its rows: each row goes to one of them, and comes again, to any, when it is dropped.
pub(crate) struct Consumer {
    queue: Arc<Queue>,
    reading: Reading,
    joining: Joining,
    membership: Option<Membership>,
    backoff: Backoff,
    head: watch::Receiver<Head>,
    deliveries: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    closed: CancellationToken,
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("group", &self.joining.name)
            .finish_non_exhaustive()
    }
}

impl Consumer {
    pub(crate) fn new(queue: Arc<Queue>, group: ConsumerGroup, reading: Reading) -> Self {
        let joining = match group {
            ConsumerGroup::Store => Joining {
                name: STORE_GROUP.to_owned(),
                selection: Selection::of(SeveritySet::ALL),
                start: StartAt::Oldest,
            },
            ConsumerGroup::Named(mut group) => {
                // The same patterns in another order are no other selection.
                group.selection.sources.sort_unstable();
                group.selection.sources.dedup();
                Joining {
                    name: group.name.as_str().to_owned(),
                    selection: group.selection,
                    start: group.start,
                }
            }
        };
        Self {
            reading,
            joining,
            membership: None,
            backoff: Backoff::default(),
            head: queue.head.clone(),
            deliveries: Arc::new(Semaphore::new(queue.limits.prefetch)),
            bytes: Arc::new(Semaphore::new(queue.limits.prefetch_bytes as usize)),
            closed: queue.closing.child_token(),
            queue,
        }
    }

    /// Waits for the next delivery; `None`: the queue is gone.
    async fn deliver(&mut self) -> Option<Delivery> {
        loop {
            self.backoff.wait().await;
            let (group, row, delivered, permits) = self.row().await?;
            let claim = Claim::new(&self.queue, &group, &row, delivered, permits);
            // Whoever stops waiting for the disk does not hear that it fails; the row, which then comes again at once,
            // is not to be spun on.
            self.backoff.begin(UNHEARD_BACKOFF);
            let delivery = claim.into_delivery(row, delivered, self.reading).await;
            self.backoff.until = None;
            match delivery {
                Ok(Some(delivery)) => return Some(delivery),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(error = chain(&error), "undecodable lines could not be kept");
                    self.backoff.begin(LONGEST_BACKOFF);
                }
            }
        }
    }

    /// Waits for the next row and for room to have it out. Cancel safe: it is out only when this returns it.
    async fn row(&mut self) -> Option<(Arc<Group>, LogRow, Delivered, [OwnedSemaphorePermit; 2])> {
        while self.membership.is_none() {
            match self.join().await? {
                Ok(membership) => self.membership = Some(membership),
                Err(error) => {
                    self.backoff.failed(&self.joining.name, &error);
                    self.backoff.wait().await;
                }
            }
        }
        let Membership { group, returns } = self.membership.as_mut()?;
        let one = Arc::clone(&self.deliveries).acquire_owned().await.ok()?;
        loop {
            returns.mark_unchanged();
            let head = *self.head.borrow_and_update();
            if let Some((seq, size)) = group.peek() {
                let size = u32::try_from(size)
                    .unwrap_or(u32::MAX)
                    .min(self.queue.limits.prefetch_bytes);
                let room = Arc::clone(&self.bytes).acquire_many_owned(size).await.ok()?;
                if let Some((row, delivered)) = group.take(seq) {
                    return Some((Arc::clone(group), row, delivered, [one, room]));
                }
                // Another member was faster.
                continue;
            }
            match group.fetch(self.queue.database.read_pool(), &head).await {
                Ok(true) => self.backoff = Backoff::default(),
                Ok(false) => tokio::select! {
                    changed = self.head.changed() => changed.ok()?,
                    changed = returns.changed() => changed.ok()?,
                },
                Err(error) => {
                    self.backoff.failed(group.name(), &error);
                    self.backoff.wait().await;
                }
            }
        }
    }

    async fn join(&self) -> Option<Result<Membership, Arc<sqlx::Error>>> {
        let (reply, membership) = oneshot::channel();
        let command = Command::Join {
            joining: self.joining.clone(),
            reply,
        };
        self.queue.commands.send(command).await.ok()?;
        membership.await.ok()
    }
}

#[async_trait]
impl MessageConsumer for Consumer {
    async fn next(&mut self) -> Option<Delivery> {
        let closed = self.closed.clone();
        tokio::select! {
            biased;
            () = closed.cancelled() => None,
            delivery = self.deliver() => delivery,
        }
    }

    async fn close(&mut self) {
        self.closed.cancel();
        self.membership = None;
    }
}

/// A row that is out; comes again when it is dropped unsettled.
struct Claim {
    queue: Arc<Queue>,
    group: Arc<Group>,
    origin: Origin,
    /// The lines of the messages, in their order, and where each is in the row.
    lines: Vec<u8>,
    places: Vec<Place>,
    undecodable: Vec<DeadLine>,
    _permits: [OwnedSemaphorePermit; 2],
    settled: bool,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    number: usize,
    begin: usize,
    end: usize,
}

impl Claim {
    fn new(
        queue: &Arc<Queue>,
        group: &Arc<Group>,
        row: &LogRow,
        delivered: Delivered,
        permits: [OwnedSemaphorePermit; 2],
    ) -> Self {
        Self {
            queue: Arc::clone(queue),
            group: Arc::clone(group),
            origin: Origin {
                group: group.name().to_owned(),
                queue: known_as(group.name(), queue.limits.section).to_owned(),
                seq: row.seq,
                severity: row.severity,
                received_at: row.received_at,
                attempt: delivered.attempt,
            },
            lines: Vec::new(),
            places: Vec::new(),
            undecodable: Vec::new(),
            _permits: permits,
            settled: false,
        }
    }

    /// Reads the row; one without any message for the group is settled at once.
    async fn into_delivery(
        mut self,
        row: LogRow,
        delivered: Delivered,
        reading: Reading,
    ) -> Result<Option<Delivery>, SettleError> {
        let messages = self.read(row.lines, reading);
        if messages.is_empty() {
            Box::new(self).settle(Vec::new()).await?;
            return Ok(None);
        }
        Ok(Some(Delivery {
            messages,
            redelivered: delivered.redelivered,
            attempt: delivered.attempt,
            traces: read_traces(&row.traces),
            settlement: Box::new(self),
        }))
    }

    fn read(&mut self, lines: Vec<u8>, reading: Reading) -> Vec<Message> {
        let mut messages = Vec::new();
        let mut begin = 0;
        for (number, line) in lines.split_inclusive(|byte| *byte == b'\n').enumerate() {
            let end = begin + line.len();
            match reading.message(line) {
                // A row holds messages of many sources; what the group does not select is settled with the rest.
                Ok(message) if !self.group.selection().matches(&message) => {}
                Ok(message) => {
                    messages.push(message);
                    self.places.push(Place { number, begin, end });
                }
                Err(rejection) => self.undecodable.push(DeadLine {
                    place: number,
                    code: "undecodable".to_owned(),
                    detail: rejection.to_string(),
                    line: line.to_vec(),
                }),
            }
            begin = end;
        }
        self.lines = lines;
        messages
    }

    fn dead_lines(&mut self, refused: Vec<Refused>) -> Vec<DeadLine> {
        let mut dead = std::mem::take(&mut self.undecodable);
        for Refused { index, reason } in refused {
            let Some(place) = self.places.get(index) else {
                continue;
            };
            let line = self.lines[place.begin..place.end].to_vec();
            dead.push(DeadLine {
                place: place.number,
                code: reason.code.to_owned(),
                detail: reason.detail,
                line,
            });
        }
        dead
    }

    async fn bury(mut self: Box<Self>, lines: Vec<DeadLine>) -> Result<(), SettleError> {
        let (reply, outcome) = oneshot::channel();
        let burial = Burial {
            group: Arc::clone(&self.group),
            origin: self.origin.clone(),
            lines,
            reply,
        };
        let patience = self.queue.limits.publish_timeout;
        let permit = timeout(patience, self.queue.commands.reserve())
            .await
            .map_err(|_| unavailable(format!("the queue took no command within {patience:?}")))?
            .map_err(|_| SettleError::ConnectionLost)?;
        permit.send(Command::Bury(burial));
        // From here on the writer settles the row or gives it back, whatever becomes of this future.
        self.settled = true;
        match timeout(patience, outcome).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(error))) => Err(SettleError::Unavailable {
                reason: explain(fault(&error), self.queue.database.path()),
                cause: Some(error),
            }),
            Ok(Err(_)) => Err(SettleError::ConnectionLost),
            Err(_) => Err(unavailable(format!(
                "they were not on the disk within {patience:?}"
            ))),
        }
    }
}

#[async_trait]
impl Settlement for Claim {
    async fn settle(mut self: Box<Self>, refused: Vec<Refused>) -> Result<(), SettleError> {
        if self.queue.closing.is_cancelled() {
            return Err(SettleError::ConnectionLost);
        }
        let dead = self.dead_lines(refused);
        if !dead.is_empty() {
            return self.bury(dead).await;
        }
        self.settled = true;
        self.group.settle(self.origin.seq);
        self.queue.settled.notify_one();
        Ok(())
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.settled {
            self.group.give_back(self.origin.seq);
        }
    }
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim")
            .field("group", &self.origin.group)
            .field("seq", &self.origin.seq)
            .finish_non_exhaustive()
    }
}

fn unavailable(reason: String) -> SettleError {
    SettleError::Unavailable { reason, cause: None }
}

/// Waits longer after each failure, and says so once.
///
/// A wait outlives the call in which it began: whoever gives up on [`MessageConsumer::next`] after a moment, and calls
/// it again, waits as long as everybody else.
#[derive(Debug, Default)]
struct Backoff {
    failures: u32,
    until: Option<Instant>,
}

impl Backoff {
    fn failed(&mut self, group: &str, error: &sqlx::Error) {
        if self.failures == 0 {
            tracing::warn!(
                group,
                error = chain(error),
                "the queue cannot be read; trying again"
            );
        }
        let longest = FIRST_BACKOFF
            .saturating_mul(1 << self.failures.min(10))
            .min(LONGEST_BACKOFF);
        self.failures += 1;
        self.begin(longest);
    }

    fn begin(&mut self, longest: Duration) {
        self.until = Some(Instant::now() + jittered(longest));
    }

    /// Waits for the end of what was begun.
    async fn wait(&mut self) {
        if let Some(until) = self.until {
            sleep_until(until).await;
            self.until = None;
        }
    }
}

/// Returns between a half and the whole of `longest`.
fn jittered(longest: Duration) -> Duration {
    longest.mul_f64(0.5 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wait_goes_on_though_nobody_waits_for_it_to_end() {
        let began = Instant::now();
        let mut backoff = Backoff::default();
        backoff.begin(FIRST_BACKOFF);
        let mut given_up = 0;
        while timeout(Duration::from_millis(1), backoff.wait()).await.is_err() {
            given_up += 1;
        }
        assert!(began.elapsed() >= FIRST_BACKOFF / 2 && given_up > 0);
        assert_eq!(backoff.until, None);
    }
}
