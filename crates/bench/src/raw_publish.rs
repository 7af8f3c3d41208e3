//! The raw limit of the broker: one AMQP message a record, each confirmed, through amqprs alone.
//!
//! A quorum queue behind the default exchange, persistent messages, one connection, one channel: the least that a
//! client can do to have a record safe in RabbitMQ.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use amqprs::callbacks::ChannelCallback;
use amqprs::channel::{
    BasicPublishArguments, Channel, ConfirmSelectArguments, QueueDeclareArguments, QueueDeleteArguments,
};
use amqprs::{Ack, BasicProperties, Cancel, CloseChannel, FieldTable, Nack, Return};
use anyhow::{Context as _, Result, bail, ensure};
use async_trait::async_trait;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use warren_e2e::rabbit;

use crate::messages::{self, Mix};
use crate::statistics::Waits;

/// How long the last confirms may take.
const DRAIN_DEADLINE: Duration = Duration::from_secs(60);

/// What is published and how fast.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawPublish {
    /// How many messages may be unconfirmed at once.
    pub(crate) window: usize,
    /// Messages a second; `None`: as many as the window lets through.
    pub(crate) rate: Option<f64>,
    pub(crate) duration: Duration,
    pub(crate) most_messages: u64,
    pub(crate) mix: Mix,
}

/// What came of it.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    pub(crate) confirmed: u64,
    pub(crate) elapsed: Duration,
    /// From handing a message to the client library to its confirm.
    pub(crate) waits: Waits,
}

impl RawPublish {
    /// Publishes to a queue of its own and removes it again.
    ///
    /// # Errors
    /// The broker does not answer, or did not confirm everything.
    pub(crate) async fn run(self, url: &str) -> Result<Published> {
        on_queue(url, async |channel, queue| self.publish(channel, queue).await).await
    }

    /// Publishes to `queue`, which stays full; a channel can be used for this once.
    ///
    /// # Errors
    /// As [`RawPublish::run`].
    pub(crate) async fn publish(self, channel: &Channel, queue: &str) -> Result<Published> {
        let confirms = Arc::new(Confirms {
            free: Semaphore::new(self.window),
            open: Mutex::default(),
        });
        channel.register_callback(Callback(Arc::clone(&confirms))).await?;
        channel.confirm_select(ConfirmSelectArguments::default()).await?;
        let messages: Vec<_> = messages::samples(256, self.mix)
            .iter()
            .map(|s| s.json().into_bytes())
            .collect();
        let arguments = BasicPublishArguments::new("", queue);
        let properties = BasicProperties::default().with_persistence(true).finish();
        let start = Instant::now();
        let mut sent = 0;
        for message in messages.iter().cycle() {
            if start.elapsed() > self.duration || sent == self.most_messages {
                break;
            }
            let due = self.due(start, sent).await;
            let free = timeout(DRAIN_DEADLINE, confirms.free.acquire())
                .await
                .context("no confirm comes")??;
            free.forget();
            confirms.begin(due);
            channel
                .basic_publish(properties.clone(), message.clone(), arguments.clone())
                .await?;
            sent += 1;
        }
        let all = u32::try_from(self.window)?;
        let drained = timeout(DRAIN_DEADLINE, confirms.free.acquire_many(all)).await;
        drop(drained.context("the last confirms do not come")??);
        let elapsed = start.elapsed();
        let open = std::mem::take(&mut *confirms.lock());
        if let Some(failure) = open.failure {
            bail!("the broker did not take a message: {failure}");
        }
        ensure!(
            open.confirmed == sent,
            "{sent} sent and {} confirmed",
            open.confirmed
        );
        Ok(Published {
            confirmed: sent,
            elapsed,
            waits: open.waits,
        })
    }

    /// Waits until message `place` is due; as with the HTTP load, a timer's lateness is not counted.
    async fn due(self, start: Instant, place: u64) -> Instant {
        let due = self
            .rate
            .map(|rate| start + Duration::from_secs_f64(place as f64 / rate));
        match due {
            Some(due) if due > Instant::now() => sleep(due - Instant::now()).await,
            Some(due) => return due,
            None => {}
        }
        Instant::now()
    }
}

/// Declares a quorum queue of its own for `work`, and removes it again.
///
/// # Errors
/// As `work` does, or when the broker does not answer.
pub(crate) async fn on_queue<T>(url: &str, work: impl AsyncFnOnce(&Channel, &str) -> Result<T>) -> Result<T> {
    let (connection, channel) = rabbit::open(url).await?;
    let queue = format!("bench-raw-{:012x}", fastrand::u64(..1 << 48));
    let mut arguments = FieldTable::new();
    arguments.insert(
        "x-queue-type".try_into()?,
        amqprs::FieldValue::S("quorum".try_into()?),
    );
    let declare = QueueDeclareArguments::new(&queue)
        .durable(true)
        .arguments(arguments)
        .finish();
    channel.queue_declare(declare).await?;
    let done = work(&channel, &queue).await;
    let deleted = channel.queue_delete(QueueDeleteArguments::new(&queue)).await;
    rabbit::close(connection, channel).await;
    deleted.context("cannot delete the queue")?;
    done
}

/// What is published and not yet confirmed.
struct Confirms {
    free: Semaphore,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    /// When each message was due, from the lowest unconfirmed delivery tag on; `None` once confirmed.
    due: VecDeque<Option<Instant>>,
    /// The delivery tag before the first of `due`.
    before: u64,
    confirmed: u64,
    waits: Waits,
    failure: Option<String>,
}

impl Confirms {
    fn lock(&self) -> std::sync::MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, due: Instant) {
        self.lock().due.push_back(Some(due));
    }

    fn confirm(&self, tag: u64, multiple: bool) {
        let mut open = self.lock();
        let last = tag.saturating_sub(open.before) as usize;
        let first = if multiple { 1 } else { last };
        let mut freed = 0;
        for place in first.max(1)..=last.min(open.due.len()) {
            if let Some(due) = open.due[place - 1].take() {
                open.waits.add(due.elapsed());
                freed += 1;
            }
        }
        while open.due.front() == Some(&None) {
            open.due.pop_front();
            open.before += 1;
        }
        open.confirmed += freed as u64;
        drop(open);
        self.free.add_permits(freed);
    }

    fn fail(&self, what: String) {
        self.lock().failure = Some(what);
        // Whoever waits for room or for the end is woken, and finds the failure.
        self.free.add_permits(Semaphore::MAX_PERMITS / 2);
    }
}

struct Callback(Arc<Confirms>);

#[async_trait]
impl ChannelCallback for Callback {
    async fn close(&mut self, _: &Channel, close: CloseChannel) -> Result<(), amqprs::error::Error> {
        self.0.fail(close.to_string());
        Ok(())
    }

    async fn cancel(&mut self, _: &Channel, _: Cancel) -> Result<(), amqprs::error::Error> {
        Ok(())
    }

    async fn flow(&mut self, _: &Channel, active: bool) -> Result<bool, amqprs::error::Error> {
        Ok(active)
    }

    async fn publish_ack(&mut self, _: &Channel, ack: Ack) {
        self.0.confirm(ack.delivery_tag(), ack.mutiple());
    }

    async fn publish_nack(&mut self, _: &Channel, nack: Nack) {
        self.0
            .fail(format!("delivery {} was refused", nack.delivery_tag()));
    }

    async fn publish_return(&mut self, _: &Channel, returned: Return, _: BasicProperties, _: Vec<u8>) {
        self.0.fail(returned.reply_text().to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confirms_one_by_one_and_all_at_once_add_up() {
        let confirms = Confirms {
            free: Semaphore::new(0),
            open: Mutex::default(),
        };
        for _ in 0..5 {
            confirms.begin(Instant::now());
        }
        confirms.confirm(2, false);
        assert_eq!(confirms.free.available_permits(), 1);
        confirms.confirm(4, true);
        assert_eq!(
            (confirms.free.available_permits(), confirms.lock().before),
            (4, 4)
        );
        confirms.begin(Instant::now());
        confirms.confirm(6, true);
        let open = confirms.lock();
        assert_eq!((open.confirmed, open.due.len()), (6, 0));
    }
}
