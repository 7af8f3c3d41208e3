//! The sender: a thread and a runtime of its own, which publish what waits.

use std::error::Error;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::runtime::{self, Runtime};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};
use warren_domain::ports::{MessagePublisher, PublishError, Unpublished};

use crate::backoff::Backoff;
use crate::builder::{LoggerBuilder, StartError};
use crate::logger::Logger;
use crate::own_thread;
use crate::queue::{Bounds, Held, Phase, Queue};
use crate::shared::Shared;

/// How long the publisher's own tasks may take to say farewell after the last message.
const FAREWELL: Duration = Duration::from_secs(1);

/// How the sender goes about it.
#[derive(Clone, Copy, Debug)]
struct Manner {
    batch: Bounds,
    batches_in_flight: usize,
    retry_min: Duration,
    retry_max: Duration,
    unroutable_for: Duration,
    publish_timeout: Duration,
}

impl Manner {
    fn of(builder: &LoggerBuilder) -> Self {
        // Half of what is held stays free to be dropped or to wait, so that a hanging publisher does not hold it all; a
        // batch has at least one message, however small the half.
        let share = |all: usize| (all / 2 / builder.batches_in_flight).max(1);
        Self {
            batch: Bounds {
                messages: builder.batch_messages.min(share(builder.max_messages)),
                bytes: builder.batch_bytes.min(share(builder.max_bytes)),
            },
            batches_in_flight: builder.batches_in_flight,
            retry_min: builder.retry_min,
            retry_max: builder.retry_max,
            unroutable_for: builder.unroutable_for,
            publish_timeout: builder.publish_timeout,
        }
    }
}

/// Starts the thread, waits until the publisher is made.
pub(crate) fn start<F, Fut, P, E>(builder: LoggerBuilder, make: F) -> Result<Logger, StartError>
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = Result<P, E>>,
    P: MessagePublisher,
    E: Into<Box<dyn Error + Send + Sync>>,
{
    let manner = Manner::of(&builder);
    let bounds = Bounds {
        messages: builder.max_messages,
        bytes: builder.max_bytes,
    };
    let queue = Queue::new(bounds, builder.when_full);
    let shared = Arc::new(Shared::new(queue, builder.max_bytes, builder.limits));
    let (made, mut is_made) = oneshot::channel();
    // Without a buffer: a publisher that is ready when nobody waits any more is not left running.
    let (ready, is_ready) = std::sync::mpsc::sync_channel(0);
    let sending = Arc::clone(&shared);
    let body = move || {
        own_thread::mark();
        let runtime = match runtime::Builder::new_current_thread()
            .enable_all()
            .on_thread_start(own_thread::mark)
            .build()
        {
            Ok(runtime) => runtime,
            Err(error) => {
                report(&ready, Err(StartError::Thread(error)));
                return;
            }
        };
        let making = async {
            tokio::select! {
                publisher = make() => publisher.map_err(|error| StartError::Publisher(error.into())).map(Some),
                // Nobody waits for it any more.
                _ = &mut is_made => Ok(None),
            }
        };
        match runtime.block_on(making) {
            Ok(Some(publisher)) => {
                if report(&ready, Ok(())) {
                    run(&runtime, sending, Arc::new(publisher), manner);
                }
            }
            Ok(None) => {}
            Err(error) => {
                report(&ready, Err(error));
            }
        }
        runtime.shutdown_background();
    };
    thread::Builder::new()
        .name("warren-logger".to_owned())
        .spawn(body)
        .map_err(StartError::Thread)?;
    match is_ready.recv_timeout(builder.start_timeout) {
        Ok(started) => started?,
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
            return Err(StartError::TimedOut(builder.start_timeout));
        }
        Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => {
            return Err(StartError::Publisher("making it panicked".into()));
        }
    }
    // Kept until here: its end tells the thread that nobody waits.
    drop::<oneshot::Sender<()>>(made);
    let source = builder.source.unwrap_or_default();
    Ok(Logger::new(shared, source, builder.attributes, builder.drop_wait))
}

/// Tells whoever starts the logger; returns whether somebody still waits for it.
fn report(
    ready: &std::sync::mpsc::SyncSender<Result<(), StartError>>,
    started: Result<(), StartError>,
) -> bool {
    ready.send(started).is_ok()
}

/// Publishes until the logger is closed; then says farewell.
fn run(runtime: &Runtime, shared: Arc<Shared>, publisher: Arc<dyn MessagePublisher>, manner: Manner) {
    // Also when something panics: nobody may wait for a sender that is gone.
    let finish = Finish(Arc::clone(&shared));
    runtime.block_on(async {
        let sending = send(&shared, &publisher, manner);
        shared.stop.run_until_cancelled(sending).await;
        drop(publisher);
        let farewell = async {
            while tokio::runtime::Handle::current().metrics().num_alive_tasks() > 0 {
                sleep(Duration::from_millis(2)).await;
            }
        };
        let farewell = shared.stop.run_until_cancelled(farewell);
        drop(timeout(FAREWELL, farewell).await);
    });
    drop(finish);
}

/// Tells everybody that the sender is gone.
struct Finish(Arc<Shared>);

impl Drop for Finish {
    fn drop(&mut self) {
        let mut queue = self.0.queue();
        if !queue.is_empty() {
            queue.abandon();
        }
        queue.enter(Phase::Finished);
        drop(queue);
        self.0.announce();
    }
}

/// Hands what waits to the publisher, several batches at a time, until the logger is closed and empty.
async fn send(shared: &Arc<Shared>, publisher: &Arc<dyn MessagePublisher>, manner: Manner) {
    let mut batches = JoinSet::new();
    loop {
        while batches.len() < manner.batches_in_flight {
            let batch = shared.queue().take(manner.batch);
            if batch.is_empty() {
                break;
            }
            batches.spawn(deliver(Arc::clone(shared), Arc::clone(publisher), batch, manner));
        }
        let full = batches.len() >= manner.batches_in_flight;
        if batches.is_empty() && {
            let queue = shared.queue();
            queue.phase() > Phase::Open && queue.is_empty()
        } {
            return;
        }
        tokio::select! {
            Some(_) = batches.join_next() => {}
            () = shared.work.notified(), if !full => {}
        }
    }
}

/// Publishes a batch again and again until each of its messages is published or given up.
async fn deliver(
    shared: Arc<Shared>,
    publisher: Arc<dyn MessagePublisher>,
    mut batch: Vec<Held>,
    manner: Manner,
) {
    let mut backoff = Backoff::new(manner.retry_min, manner.retry_max);
    let mut unroutable_since: Option<Instant> = None;
    loop {
        let outcome = publish(&*publisher, &batch, manner.publish_timeout).await;
        let now = Instant::now();
        let mut errors = outcome.err().unwrap_or_default();
        if errors
            .iter()
            .flatten()
            .any(|error| matches!(error, PublishError::Unroutable { .. }))
        {
            unroutable_since.get_or_insert(now);
        } else {
            unroutable_since = None;
        }
        let patient = unroutable_since.is_none_or(|since| now.duration_since(since) < manner.unroutable_for);
        let (before, after);
        {
            let mut queue = shared.queue();
            before = queue.trouble().is_some();
            let verdict = |place: usize| errors.get_mut(place).and_then(Option::take);
            batch = queue.settle(batch, verdict, |error| match error {
                PublishError::Unavailable { .. } => true,
                PublishError::Unroutable { .. } => patient,
                PublishError::Refused { .. } => false,
            });
            after = queue.trouble().map(str::to_owned);
        }
        shared.announce();
        match after {
            Some(reason) if !before => {
                warn!(
                    reason,
                    "messages cannot be published; they are kept and published again"
                );
            }
            None if before => info!("messages are published again"),
            _ => {}
        }
        if batch.is_empty() {
            return;
        }
        sleep(backoff.pause()).await;
    }
}

/// Calls the publisher; returns for each place why it was not published.
async fn publish(
    publisher: &dyn MessagePublisher,
    batch: &[Held],
    time: Duration,
) -> Result<(), Vec<Option<PublishError>>> {
    // A copy: what is not published is published again.
    let messages = batch.iter().map(|held| held.message.clone()).collect();
    let call = AssertUnwindSafe(timeout(time, publisher.publish(messages, None))).catch_unwind();
    let unpublished = match call.await {
        Ok(Ok(Ok(()))) => return Ok(()),
        Ok(Ok(Err(unpublished))) => unpublished,
        Ok(Err(_)) => {
            let error = PublishError::unavailable(format!("the publisher did not answer within {time:?}"));
            Unpublished::all(batch.len(), &error)
        }
        // Whatever it was, it would happen again.
        Err(_) => {
            let reason = "the publisher panicked".to_owned();
            Unpublished::all(batch.len(), &PublishError::Refused { reason })
        }
    };
    let mut errors = vec![None; batch.len()];
    for (place, error) in unpublished.errors {
        if let Some(slot) = errors.get_mut(place) {
            *slot = Some(error);
        }
    }
    Err(errors)
}
