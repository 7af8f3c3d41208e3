//! What a caller waits for: the outcome of every chunk of its messages.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use metrics::{Gauge, gauge};
use tokio::sync::{AcquireError, Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use warren_domain::ports::PublishError;

/// One call to publish, shared between the caller and the chunks it has handed over.
///
/// The caller may go away at any time: a chunk tells its outcome whether somebody waits for it or not.
#[derive(Debug, Default)]
pub(crate) struct Call {
    chunks: Mutex<Chunks>,
    all_told: Notify,
}

#[derive(Debug, Default)]
struct Chunks {
    outcomes: Vec<Option<Result<(), PublishError>>>,
    untold: usize,
}

impl Call {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Makes the ticket of the next chunk; chunks are numbered from 0.
    pub(crate) fn ticket(self: &Arc<Self>) -> Ticket {
        let mut chunks = self.chunks.lock().unwrap_or_else(PoisonError::into_inner);
        chunks.outcomes.push(None);
        chunks.untold += 1;
        Ticket {
            call: Some(Arc::clone(self)),
            chunk: chunks.outcomes.len() - 1,
        }
    }

    /// Waits until every chunk has told its outcome, at most until `deadline`; returns what is told, by chunk.
    ///
    /// To be called by one task, after the last ticket was made.
    pub(crate) async fn outcomes(&self, deadline: Instant) -> Vec<Option<Result<(), PublishError>>> {
        let told = async {
            // A notification may be left over from a moment when all chunks so far had told theirs.
            while self.untold() > 0 {
                self.all_told.notified().await;
            }
        };
        if timeout_at(deadline, told).await.is_err() {
            tracing::trace!("a call gave up waiting for its confirms");
        }
        let mut chunks = self.chunks.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut chunks.outcomes)
    }

    fn untold(&self) -> usize {
        let chunks = self.chunks.lock().unwrap_or_else(PoisonError::into_inner);
        chunks.untold
    }

    fn tell(&self, chunk: usize, outcome: Result<(), PublishError>) {
        let mut chunks = self.chunks.lock().unwrap_or_else(PoisonError::into_inner);
        // A caller that gave up has taken the outcomes along.
        if let Some(slot) = chunks.outcomes.get_mut(chunk) {
            *slot = Some(outcome);
        }
        chunks.untold -= 1;
        if chunks.untold == 0 {
            drop(chunks);
            self.all_told.notify_one();
        }
    }
}

/// A chunk's duty to tell its outcome; dropped, it tells that nobody knows.
#[derive(Debug)]
pub(crate) struct Ticket {
    call: Option<Arc<Call>>,
    chunk: usize,
}

impl Ticket {
    /// Tells the calls apart whose tickets are held at the same time.
    pub(crate) fn call(&self) -> usize {
        self.call.as_ref().map_or(0, |call| Arc::as_ptr(call).addr())
    }

    pub(crate) fn tell(mut self, outcome: Result<(), PublishError>) {
        if let Some(call) = self.call.take() {
            call.tell(self.chunk, outcome);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(call) = self.call.take() {
            call.tell(
                self.chunk,
                Err(PublishError::unavailable("the publisher was closed")),
            );
        }
    }
}

/// How many messages and bytes may wait for their confirms.
#[derive(Debug)]
pub(crate) struct Budget {
    messages: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    max_messages: u32,
    max_bytes: u32,
    gauges: Arc<Gauges>,
}

struct Gauges {
    messages: Gauge,
    bytes: Gauge,
}

impl fmt::Debug for Gauges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gauges")
    }
}

/// A chunk's share of the budget, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    messages: OwnedSemaphorePermit,
    bytes: OwnedSemaphorePermit,
    gauges: Arc<Gauges>,
}

impl Budget {
    pub(crate) fn new(max_messages: usize, max_bytes: u64, role: &'static str) -> Self {
        let (max_messages, max_bytes) = (
            u32::try_from(max_messages).unwrap_or(u32::MAX),
            u32::try_from(max_bytes).unwrap_or(u32::MAX),
        );
        Self {
            messages: Arc::new(Semaphore::new(max_messages as usize)),
            bytes: Arc::new(Semaphore::new(max_bytes as usize)),
            max_messages,
            max_bytes,
            gauges: Arc::new(Gauges {
                messages: gauge!("warren_amqp_pending_messages", "role" => role),
                bytes: gauge!("warren_amqp_pending_bytes", "role" => role),
            }),
        }
    }

    /// Takes a share if it is free. A chunk larger than the whole budget needs all of it.
    pub(crate) fn try_share(&self, messages: usize, bytes: usize) -> Option<Share> {
        let (messages, bytes) = self.wanted(messages, bytes);
        let messages = Arc::clone(&self.messages).try_acquire_many_owned(messages).ok()?;
        let bytes = Arc::clone(&self.bytes).try_acquire_many_owned(bytes).ok()?;
        Some(self.shared(messages, bytes))
    }

    /// Waits for a share, at most until `deadline`. A chunk larger than the whole budget gets all of it.
    ///
    /// # Errors
    /// [`PublishError::Unavailable`] at the deadline.
    pub(crate) async fn share(
        &self,
        messages: usize,
        bytes: usize,
        deadline: Instant,
    ) -> Result<Share, PublishError> {
        if let Some(share) = self.try_share(messages, bytes) {
            return Ok(share);
        }
        let (messages, bytes) = self.wanted(messages, bytes);
        let permits = async {
            let messages = Arc::clone(&self.messages).acquire_many_owned(messages).await?;
            let bytes = Arc::clone(&self.bytes).acquire_many_owned(bytes).await?;
            Ok::<_, AcquireError>((messages, bytes))
        };
        match timeout_at(deadline, permits).await {
            Ok(Ok((messages, bytes))) => Ok(self.shared(messages, bytes)),
            Ok(Err(_)) => Err(PublishError::unavailable("the publisher was closed")),
            Err(_) => Err(PublishError::unavailable(
                "amqp.max_pending_messages or amqp.max_pending_bytes wait for the broker already",
            )),
        }
    }

    fn wanted(&self, messages: usize, bytes: usize) -> (u32, u32) {
        let wanted = |n: usize, max: u32| u32::try_from(n).unwrap_or(max).min(max);
        (wanted(messages, self.max_messages), wanted(bytes, self.max_bytes))
    }

    fn shared(&self, messages: OwnedSemaphorePermit, bytes: OwnedSemaphorePermit) -> Share {
        self.gauges.messages.increment(messages.num_permits() as f64);
        self.gauges.bytes.increment(bytes.num_permits() as f64);
        Share {
            messages,
            bytes,
            gauges: Arc::clone(&self.gauges),
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.gauges.messages.decrement(self.messages.num_permits() as f64);
        self.gauges.bytes.decrement(self.bytes.num_permits() as f64);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(20)
    }

    #[tokio::test]
    async fn a_call_ends_when_every_chunk_has_told_its_outcome() {
        let call = Call::new();
        let (first, second, third) = (call.ticket(), call.ticket(), call.ticket());
        first.tell(Ok(()));
        second.tell(Err(PublishError::unavailable("x")));
        drop(third);
        let outcomes = call.outcomes(Instant::now() + Duration::from_secs(60)).await;
        assert!(matches!(
            &outcomes[..],
            [Some(Ok(())), Some(Err(_)), Some(Err(_))]
        ));
    }

    #[tokio::test]
    async fn a_call_that_gives_up_knows_what_it_was_told() {
        let call = Call::new();
        let (first, second) = (call.ticket(), call.ticket());
        first.tell(Ok(()));
        let outcomes = call.outcomes(soon()).await;
        assert!(matches!(&outcomes[..], [Some(Ok(())), None]));
        second.tell(Ok(()));
    }

    #[tokio::test]
    async fn a_chunk_that_tells_early_does_not_end_the_call() {
        let call = Call::new();
        call.ticket().tell(Ok(()));
        let late = call.ticket();
        assert!(matches!(&call.outcomes(soon()).await[..], [Some(Ok(())), None]));
        drop(late);
    }

    #[tokio::test]
    async fn what_exceeds_the_budget_waits_until_its_deadline() {
        let budget = Budget::new(10, 1_000, "test");
        let share = budget.share(1, 5_000, soon()).await.unwrap();
        let refused = budget.share(1, 1, soon()).await.unwrap_err();
        assert!(matches!(refused, PublishError::Unavailable { .. }));
        drop(share);
        budget.share(10, 1, soon()).await.unwrap();
    }
}
