//! Fills a table as the worker does, with messages of the last days.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result};
use tokio::sync::{Mutex, mpsc};
use tokio::task::{JoinSet, spawn_blocking};
use warren_adapter_postgres::PostgresStore;
use warren_domain::ports::{MessageStore as _, StoreMaintenance as _, TimeRange};
use warren_domain::{Message, Timestamp};

use super::author::{Author, RARE_EVERY};

/// Rows in each transaction, as many as a batch of the worker.
pub(crate) const BATCH: usize = 5_000;
/// How many batches are stored at once, as by one worker.
pub(crate) const AT_ONCE: usize = 2;

const DAY_MICROS: i64 = 86_400_000_000;

/// What a table was filled with.
#[derive(Clone, Debug)]
pub(crate) struct Filled {
    /// From the first message to behind the last.
    pub(crate) range: TimeRange,
    /// The last 24 hours of it.
    pub(crate) last_day: TimeRange,
    /// How many messages of the last day have the rare word.
    pub(crate) rare: usize,
    /// The request that one message of the last day is about.
    pub(crate) request: String,
    /// Messages a second.
    pub(crate) rate: f64,
}

/// Stores messages, evenly over the last days.
///
/// # Errors
/// PostgreSQL failed.
pub(crate) async fn fill(store: &Arc<PostgresStore>, messages: u64, days: u32) -> Result<Filled> {
    let end = Timestamp::now().unix_micros();
    let start = end - i64::from(days) * DAY_MICROS;
    // As if the maintenance had been at work all the time.
    for day in (0..=days).rev() {
        store.maintain(time(end - i64::from(day) * DAY_MICROS)?).await?;
    }
    let (batches, stored) = mpsc::channel(AT_ONCE);
    let writing = spawn_blocking(move || write(messages, start, end, &batches));
    let begun = Instant::now();
    store_all(store, stored).await?;
    let took = begun.elapsed();
    let (request, rare) = writing.await??;
    Ok(Filled {
        range: TimeRange::new(time(start)?, time(end)?)?,
        last_day: TimeRange::new(time(end - DAY_MICROS)?, time(end)?)?,
        rare,
        request,
        rate: messages as f64 / took.as_secs_f64(),
    })
}

fn time(micros: i64) -> Result<Timestamp> {
    Timestamp::from_unix_micros(micros).context("no time that a message can have")
}

fn write(
    messages: u64,
    start: i64,
    end: i64,
    batches: &mpsc::Sender<Vec<Message>>,
) -> Result<(String, usize)> {
    let mut author = Author::new(messages)?;
    let (mut batch, mut request, mut rare) = (Vec::with_capacity(BATCH), String::new(), 0);
    // In the middle of the last day.
    let wanted = messages - messages * (DAY_MICROS / 2).unsigned_abs() / (end - start).unsigned_abs();
    for number in 0..messages {
        let at = start + ((end - start) as f64 * (number as f64 / messages as f64)) as i64;
        let written = author.write(number, time(at)?)?;
        if number == wanted {
            request = written.request;
        }
        if number % RARE_EVERY == RARE_EVERY / 2 && at / 1_000 * 1_000 >= end - DAY_MICROS {
            rare += 1;
        }
        batch.push(written.message);
        if batch.len() == BATCH || number + 1 == messages {
            if number % 1_000_000 > 1_000_000 - 1 - BATCH as u64 {
                eprintln!("  {} messages", number + 1);
            }
            let full = std::mem::replace(&mut batch, Vec::with_capacity(BATCH));
            batches.blocking_send(full).ok().context("storing has ended")?;
        }
    }
    Ok((request, rare))
}

/// Stores batches, some at once, until there are no more.
///
/// # Errors
/// PostgreSQL failed.
pub(crate) async fn store_all(
    store: &Arc<PostgresStore>,
    batches: mpsc::Receiver<Vec<Message>>,
) -> Result<()> {
    let batches = Arc::new(Mutex::new(batches));
    let mut tasks = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (store, batches) = (Arc::clone(store), Arc::clone(&batches));
        tasks.spawn(async move {
            loop {
                let next = batches.lock().await.recv().await;
                let Some(batch) = next else {
                    return anyhow::Ok(());
                };
                store.store(&batch).await?;
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}
