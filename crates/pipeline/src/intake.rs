//! Takes records in: makes messages of them and hands them to the publisher.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use metrics::{counter, gauge};
use tokio_util::task::TaskTracker;
use tracing::{Instrument, warn};
use warren_domain::ports::{MessagePublisher, PublishError, Unpublished};
use warren_domain::{
    Draft, IdempotencyKey, KeyedRequest, Message, MessageId, MessageLimits, Rejection, Severity,
    SeverityCounts, Timestamp, TraceContext,
};

use crate::metrics::{KEYED, PUBLISHING, RECEIVED, REJECTED, SeverityCounters, UNPUBLISHED};
use crate::recent_keys::RecentKeys;
use crate::spool::Spool;
use crate::unabandoned::Unabandoned;

/// Takes records in and says of each whether it is durable now.
///
/// Cloning is cheap; the clones share everything.
#[derive(Clone, Debug)]
pub struct Intake {
    publisher: Arc<dyn MessagePublisher>,
    spool: Option<Spool>,
    limits: MessageLimits,
    publishing: TaskTracker,
    received: SeverityCounters,
    keys: Arc<RecentKeys>,
}

/// The messages of one request, ready to be published, and what became of its other records.
#[derive(Debug)]
pub struct Prepared {
    messages: Vec<Message>,
    receipt: Receipt,
}

/// What became of each record of a request; every record's place is in exactly one of the lists, ascending.
#[derive(Debug, Default)]
pub struct Receipt {
    /// Durable: stored exactly once, or a dead letter with a reason.
    pub accepted: Vec<(usize, MessageId)>,
    /// No messages; surely not stored.
    pub rejected: Vec<(usize, Rejection)>,
    /// Valid, but not known to be durable; sending them again with the same id is safe.
    pub unpublished: Vec<(usize, MessageId, PublishError)>,
    /// How many of the accepted rest in the spool until the broker is back.
    pub spooled: usize,
}

impl Prepared {
    /// Refuses every message less grave than `lowest`, as if the publisher had: there is no room for it now.
    pub fn refuse_below(&mut self, lowest: Severity, error: &PublishError) {
        if self.messages.iter().all(|message| message.severity >= lowest) {
            return;
        }
        let errors: Vec<_> = (self.messages.iter())
            .map(|message| (message.severity < lowest).then(|| error.clone()))
            .collect();
        for severity in self.messages.iter().map(|message| message.severity) {
            if severity < lowest {
                count_unpublished(severity, "overload");
            }
        }
        self.messages.retain(|message| message.severity >= lowest);
        self.receipt.move_out(errors);
    }
}

impl Intake {
    /// Makes an intake that hands messages within `limits` to `publisher`.
    ///
    /// Make it after the metrics recorder is installed: it keeps handles of counters.
    pub fn new(publisher: Arc<dyn MessagePublisher>, limits: MessageLimits) -> Self {
        Self {
            publisher,
            spool: None,
            limits,
            publishing: TaskTracker::new(),
            received: SeverityCounters::new(RECEIVED),
            keys: Arc::default(),
        }
    }

    /// Has `spool`, which must be that of the same publisher, put by what the broker cannot take now.
    #[must_use]
    pub fn with_spool(self, spool: Spool) -> Self {
        Self {
            spool: Some(spool),
            ..self
        }
    }

    /// Makes messages of `records` and waits until the publisher has answered for each: [`Intake::prepare`] and
    /// [`Intake::publish`] in one.
    pub async fn accept(
        &self,
        records: impl IntoIterator<Item = Result<Draft, Rejection>>,
        trace: Option<TraceContext>,
    ) -> Receipt {
        self.publish(self.prepare(records, None), trace, ()).await
    }

    /// Makes messages of `records`; one bad record never spoils its neighbours.
    ///
    /// All of it is work for the processor, some microseconds a record: of a large request it belongs on a thread of
    /// its own. The records are read one by one, so that a large request exists only once in memory.
    ///
    /// Records that have no id of their own get one that follows from `key`, if there is one, and what a store needs to
    /// recognise them when they come again under it.
    pub fn prepare(
        &self,
        records: impl IntoIterator<Item = Result<Draft, Rejection>>,
        key: Option<&IdempotencyKey>,
    ) -> Prepared {
        let received_at = Timestamp::now();
        let mut keyed = key.map(|key| KeyedRequest::new(key, self.keys.first_seen(key, received_at)));
        let mut receipt = Receipt::default();
        let mut messages = Vec::new();
        for (place, record) in records.into_iter().enumerate() {
            let message = record.and_then(|draft| {
                let (id, occurred_at) = (draft.id, draft.occurred_at);
                let mut message = draft.into_message(&self.limits, received_at)?;
                if let (Some(request), None) = (&mut keyed, id) {
                    request.identify(&mut message, occurred_at);
                }
                Ok(message)
            });
            match message {
                Ok(message) => {
                    receipt.accepted.push((place, message.id));
                    messages.push(message);
                }
                Err(rejection) => {
                    counter!(REJECTED, "code" => rejection.code.as_str()).increment(1);
                    receipt.rejected.push((place, rejection));
                }
            }
        }
        if let Some(request) = keyed {
            request.finish(&mut messages);
            let keyed = messages.iter().filter(|message| message.idempotency.is_some());
            counter!(KEYED).increment(keyed.count() as u64);
        }
        Prepared { messages, receipt }
    }

    /// Publishes what was prepared, and waits until the publisher has answered for each message.
    ///
    /// Dropping the future is safe: what it has begun is published and counted all the same. `held` is dropped once
    /// the publisher has answered, also when nobody waits any more.
    pub fn publish<H: Send + 'static>(
        &self,
        prepared: Prepared,
        trace: Option<TraceContext>,
        held: H,
    ) -> impl Future<Output = Receipt> + Send + 'static {
        let Prepared {
            messages,
            mut receipt,
        } = prepared;
        let (publisher, received) = (Arc::clone(&self.publisher), self.received.clone());
        let spool = self.spool.clone();
        let tracked = self.publishing.token();
        let publishing = async move {
            let _held = (held, tracked);
            if !messages.is_empty() {
                let severities: Vec<_> = messages.iter().map(|message| message.severity).collect();
                // Dropped last: at no moment is a message neither here nor in the other counts.
                let _under_way = UnderWay::new(severities.iter().copied().collect());
                let published = match spool {
                    Some(spool) => {
                        let (published, spooled) = spool.publish(messages, trace).await;
                        receipt.spooled = spooled;
                        published
                    }
                    None => publish_each(&*publisher, messages, trace).await,
                };
                match published {
                    Ok(()) => received.add(&SeverityCounts::from_iter(severities)),
                    Err(errors) => {
                        for (severity, error) in severities.iter().zip(&errors) {
                            if let Some(error) = error {
                                count_unpublished(*severity, verdict(error));
                            }
                        }
                        let durable = severities.into_iter().zip(&errors);
                        let durable = durable.filter(|(_, error)| error.is_none());
                        received.add(&durable.map(|(severity, _)| severity).collect());
                        receipt.move_out(errors);
                    }
                }
            }
            receipt
        };
        Unabandoned::new(publishing.in_current_span())
    }

    /// Waits until the publisher has answered for everything handed over; new requests must have ended before.
    pub async fn drain(&self) {
        self.publishing.close();
        self.publishing.wait().await;
    }
}

/// Publishes; an error holds a place for each message, empty for those that are durable, and at least one that is not.
pub(crate) async fn publish_each(
    publisher: &dyn MessagePublisher,
    messages: Vec<Message>,
    trace: Option<TraceContext>,
) -> Result<(), Vec<Option<PublishError>>> {
    let count = messages.len();
    let mut publishing = pin!(async { publisher.publish(messages, trace).await });
    // A publisher that panics is a defect, whose text the panic hook logs; the client still has to hear something.
    let answer = poll_fn(|cx| {
        let polled = catch_unwind(AssertUnwindSafe(|| publishing.as_mut().poll(cx)));
        polled.unwrap_or_else(|_| {
            let error = PublishError::unavailable("the publisher failed; see the log");
            Poll::Ready(Err(Unpublished::all(count, &error)))
        })
    });
    answer.await.map_err(|unpublished| by_place(unpublished, count))
}

fn count_unpublished(severity: Severity, verdict: &'static str) {
    counter!(UNPUBLISHED, "severity" => severity.as_str(), "verdict" => verdict).increment(1);
}

/// Messages whose publisher has not answered, as a gauge shows them until this is dropped.
struct UnderWay(SeverityCounts);

impl UnderWay {
    fn new(counts: SeverityCounts) -> Self {
        for (severity, n) in counts.iter().filter(|(_, n)| *n > 0) {
            gauge!(PUBLISHING, "severity" => severity.as_str()).increment(n as f64);
        }
        Self(counts)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        for (severity, n) in self.0.iter().filter(|(_, n)| *n > 0) {
            gauge!(PUBLISHING, "severity" => severity.as_str()).decrement(n as f64);
        }
    }
}

/// Sorts the errors of a call of `count` messages by the place of their message.
///
/// A publisher that does not keep the port's order, repeats a place or names one that does not exist must not make a
/// failed message an accepted one.
fn by_place(unpublished: Unpublished, count: usize) -> Vec<Option<PublishError>> {
    let mut errors = vec![None; count];
    let mut failed = false;
    for (place, error) in unpublished.errors {
        match errors.get_mut(place) {
            Some(known) => {
                failed = true;
                *known = Some(error);
            }
            None => warn!(place, count, %error, "the publisher names a message it was not given"),
        }
    }
    if !failed {
        warn!(count, "the publisher failed and names no message of the call");
        errors.fill(Some(PublishError::unavailable(
            "the publisher does not say which messages it took",
        )));
    }
    errors
}

const fn verdict(error: &PublishError) -> &'static str {
    match error {
        PublishError::Unavailable { .. } => "unavailable",
        PublishError::Unroutable { .. } => "unroutable",
        PublishError::Refused { .. } => "refused",
    }
}

impl Receipt {
    /// Moves what was not published out of the accepted; there is one place in `errors` for each of them.
    fn move_out(&mut self, errors: Vec<Option<PublishError>>) {
        for ((place, id), error) in std::mem::take(&mut self.accepted).into_iter().zip(errors) {
            match error {
                Some(error) => self.unpublished.push((place, id, error)),
                None => self.accepted.push((place, id)),
            }
        }
        // Some may have been moved out before.
        self.unpublished.sort_unstable_by_key(|(place, ..)| *place);
    }
}
