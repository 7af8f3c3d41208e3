//! Rates of storing that are compared with each other, measured in turns.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use fastrand::Rng;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};
use warren_adapter_postgres::{PostgresReader, PostgresStore};
use warren_domain::ports::{Counts, MessageReader as _, Order, Search, StoreMaintenance as _, TimeRange};
use warren_domain::{Message, Selection, SeveritySet, Timestamp};

use super::Table;
use super::author::Author;
use super::fill::{BATCH, store_all};
use super::questions::part;
use crate::cost::settle;
use crate::statistics::median;

/// How many consoles are open beside it.
pub(crate) const CONSOLES: u32 = 10;
/// Each asks for the bars so often, as the console does…
const BARS: Duration = Duration::from_secs(4);
/// …and for the sources so often.
const SOURCES: Duration = Duration::from_secs(15);

/// Two rates, messages a second, each pair measured one right after the other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pairs(Vec<(f64, f64)>);

impl Pairs {
    pub(crate) fn add(&mut self, first: f64, second: f64) {
        self.0.push((first, second));
    }

    /// Returns the medians of the first and of the second rates.
    pub(crate) fn medians(&self) -> Option<(f64, f64)> {
        let (first, second): (Vec<_>, Vec<_>) = self.0.iter().copied().unzip();
        median(&first).zip(median(&second))
    }

    /// Returns the second rate by the first: the median of all pairs, the least and the greatest.
    pub(crate) fn ratios(&self) -> Option<[f64; 3]> {
        let ratios: Vec<_> = self.0.iter().map(|(first, second)| second / first).collect();
        let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let greatest = ratios.iter().copied().fold(0.0, f64::max);
        Some([median(&ratios)?, least, greatest])
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// Stores into a small table and into a large one.
///
/// # Errors
/// PostgreSQL failed.
pub(crate) async fn by_size(
    large: &Arc<PostgresStore>,
    small: &Arc<PostgresStore>,
    rows: u64,
    pairs: u32,
) -> Result<Pairs> {
    let mut measured = Pairs::default();
    for pair in 1..=pairs {
        eprintln!("  storing into the smaller and the larger table, {pair} of {pairs}");
        let first = rate(small, rows).await?;
        let second = rate(large, rows).await?;
        measured.add(first, second);
        for store in [small, large] {
            store.maintain(Timestamp::now()).await?;
        }
    }
    Ok(measured)
}

/// Stores alone, and beside consoles.
///
/// # Errors
/// PostgreSQL failed.
pub(crate) async fn beside_consoles(table: &Table, rows: u64, pairs: u32) -> Result<Pairs> {
    let mut measured = Pairs::default();
    for pair in 1..=pairs {
        eprintln!("  storing alone and beside {CONSOLES} consoles, {pair} of {pairs}");
        let alone = rate(&table.store, rows).await?;
        let consoles = consoles(Arc::clone(&table.reader), table.filled.last_day);
        let beside = rate_beside(&table.store, rows, consoles).await?;
        measured.add(alone, beside);
        table.store.maintain(Timestamp::now()).await?;
    }
    Ok(measured)
}

/// Stores alone, and while the maintenance makes the filters of the last day anew, without the pauses that it has else.
///
/// # Errors
/// PostgreSQL failed.
pub(crate) async fn beside_filters(table: &Table, rows: u64, pairs: u32) -> Result<Pairs> {
    const ALL_DUE: &str = "update message_minutes set indexed = null";
    let client = table.connect().await?;
    let mut measured = Pairs::default();
    for pair in 1..=pairs {
        eprintln!("  storing alone and while filters are made, {pair} of {pairs}");
        let alone = rate(&table.store, rows).await?;
        client.execute(ALL_DUE, &[]).await?;
        let store = Arc::clone(&table.store);
        let maintaining = async move {
            loop {
                store.maintain(Timestamp::now()).await?;
            }
        };
        let beside = rate_beside(&table.store, rows, maintaining).await?;
        measured.add(alone, beside);
    }
    Ok(measured)
}

/// Stores messages of now, which were made before; returns how many a second.
///
/// # Errors
/// PostgreSQL failed.
pub(super) async fn rate(store: &Arc<PostgresStore>, rows: u64) -> Result<f64> {
    let made = spawn_blocking(move || make(rows)).await??;
    settle().await?;
    let (sender, batches) = mpsc::channel(made.len().max(1));
    for batch in made {
        sender.send(batch).await.ok().context("nobody stores")?;
    }
    drop(sender);
    let begun = Instant::now();
    store_all(store, batches).await?;
    Ok(rows as f64 / begun.elapsed().as_secs_f64())
}

/// Does the same beside something else, on a task of its own, which must not end.
async fn rate_beside(
    store: &Arc<PostgresStore>,
    rows: u64,
    other: impl Future<Output = Result<()>> + Send + 'static,
) -> Result<f64> {
    let other = tokio::spawn(other);
    let measured = rate(store, rows).await;
    if other.is_finished() {
        other.await?.context("what was beside it failed")?;
    } else {
        other.abort();
    }
    measured
}

fn make(rows: u64) -> Result<Vec<Vec<Message>>> {
    let mut author = Author::new(fastrand::u64(..))?;
    let mut batches: Vec<Vec<Message>> = Vec::new();
    for number in 0..rows {
        // As far apart as they come when they come that fast.
        let written = author.write(number, Timestamp::now())?.message;
        match batches.last_mut() {
            Some(batch) if batch.len() < BATCH => batch.push(written),
            _ => batches.push(vec![written]),
        }
    }
    Ok(batches)
}

/// Asks what open consoles ask, for ever.
async fn consoles(reader: Arc<PostgresReader>, last_day: TimeRange) -> Result<()> {
    let (mut bars, mut sources) = (every(BARS / CONSOLES), every(SOURCES / CONSOLES));
    let mut rng = Rng::with_seed(305);
    loop {
        tokio::select! {
            _ = bars.tick() => bars_of(&reader, last_day, &mut rng).await?,
            _ = sources.tick() => {
                let range = part(last_day, 60, &mut rng)?;
                reader.sources(range, SeveritySet::ALL).await?;
            }
        }
    }
}

fn every(period: Duration) -> tokio::time::Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Draws the bars of an hour or of a day, and turns a page of the list.
async fn bars_of(reader: &PostgresReader, last_day: TimeRange, rng: &mut Rng) -> Result<()> {
    let minutes = if rng.bool() { 1 } else { 15 };
    let range = part(last_day, 60 * minutes, rng)?;
    let wanted = Counts {
        selection: Selection::of(SeveritySet::ALL),
        range,
        minutes: NonZeroU32::try_from(u32::try_from(minutes)?)?,
    };
    reader.counts(&wanted).await?;
    let newest = Search {
        selection: Selection::of("warning+".parse()?),
        query: warren_domain::Query::default(),
        range: TimeRange::ALL,
        order: Order::NewestFirst,
        from: None,
    };
    reader.find(&newest, 100).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_those_of_the_pairs() {
        let mut pairs = Pairs::default();
        assert_eq!(pairs.ratios(), None);
        for (first, second) in [(100.0, 50.0), (10.0, 10.0), (1_000.0, 900.0)] {
            pairs.add(first, second);
        }
        assert_eq!(pairs.ratios(), Some([0.9, 0.5, 1.0]));
        assert_eq!(pairs.medians(), Some((100.0, 50.0)));
    }
}
