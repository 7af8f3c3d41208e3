//! Takes records in: makes messages of them and hands them to the publisher.

use std::sync::Arc;

use metrics::counter;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, warn};
use warren_domain::ports::{MessagePublisher, PublishError};
use warren_domain::{
    Draft, Message, MessageId, MessageLimits, Rejection, SeverityCounts, Timestamp, TraceContext,
};

use crate::metrics::{RECEIVED, REJECTED, UNPUBLISHED, count_by_severity};

/// Takes records in and says of each whether it is durable now.
///
/// Cloning is cheap; the clones share everything.
#[derive(Clone, Debug)]
pub struct Intake {
    publisher: Arc<dyn MessagePublisher>,
    limits: MessageLimits,
    publishing: TaskTracker,
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
}

impl Intake {
    /// Makes an intake that hands messages within `limits` to `publisher`.
    pub fn new(publisher: Arc<dyn MessagePublisher>, limits: MessageLimits) -> Self {
        Self {
            publisher,
            limits,
            publishing: TaskTracker::new(),
        }
    }

    /// Makes messages of `records` and waits until the publisher has answered for each.
    ///
    /// One bad record never spoils its neighbours. The records are read one by one, so that a large request exists
    /// only once in memory. Dropping the future is safe: what was handed over is published and counted all the same.
    pub async fn accept(
        &self,
        records: impl IntoIterator<Item = Result<Draft, Rejection>>,
        trace: Option<TraceContext>,
    ) -> Receipt {
        let received_at = Timestamp::now();
        let mut receipt = Receipt::default();
        let mut messages = Vec::new();
        for (place, record) in records.into_iter().enumerate() {
            match record.and_then(|draft| draft.into_message(&self.limits, received_at)) {
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
        if messages.is_empty() {
            return receipt;
        }

        // A task of its own: a client that goes away drops this future, and the books must balance nevertheless.
        let publisher = Arc::clone(&self.publisher);
        let publishing = self
            .publishing
            .spawn(publish(publisher, messages, trace).in_current_span());
        let errors = match publishing.await {
            Ok(errors) => errors,
            Err(panic) => {
                let error = PublishError::unavailable("the publisher failed; see the log");
                warn!(error = %panic, "publishing ended without an answer");
                (0..receipt.accepted.len())
                    .map(|index| (index, error.clone()))
                    .collect()
            }
        };
        receipt.move_out(errors);
        receipt
    }

    /// Waits until the publisher has answered for everything handed over; new requests must have ended before.
    pub async fn drain(&self) {
        self.publishing.close();
        self.publishing.wait().await;
    }
}

/// Publishes and counts; returns the errors by place among `messages`.
async fn publish(
    publisher: Arc<dyn MessagePublisher>,
    messages: Vec<Message>,
    trace: Option<TraceContext>,
) -> Vec<(usize, PublishError)> {
    let severities: Vec<_> = messages.iter().map(|message| message.severity).collect();
    let errors = match publisher.publish(messages, trace).await {
        Ok(()) => Vec::new(),
        Err(unpublished) => unpublished.errors,
    };
    let mut counts: SeverityCounts = severities.iter().copied().collect();
    if !errors.is_empty() {
        let mut failed = vec![false; severities.len()];
        for (index, error) in &errors {
            failed[*index] = true;
            counter!(UNPUBLISHED, "verdict" => verdict(error)).increment(1);
        }
        counts = severities
            .into_iter()
            .zip(&failed)
            .filter(|(_, failed)| !**failed)
            .map(|(s, _)| s)
            .collect();
    }
    count_by_severity(RECEIVED, &counts);
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
    /// Moves what was not published out of the accepted; `errors` counts places among the accepted.
    fn move_out(&mut self, errors: Vec<(usize, PublishError)>) {
        if errors.is_empty() {
            return;
        }
        let mut errors = errors.into_iter().peekable();
        let candidates = std::mem::take(&mut self.accepted);
        for (index, (place, id)) in candidates.into_iter().enumerate() {
            match errors.next_if(|(failed, _)| *failed == index) {
                Some((_, error)) => self.unpublished.push((place, id, error)),
                None => self.accepted.push((place, id)),
            }
        }
    }
}
