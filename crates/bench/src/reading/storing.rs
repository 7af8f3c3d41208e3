//! Rates of storing that are compared with each other, measured in turns.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use warren_adapter_postgres::PostgresStore;
use warren_domain::ports::StoreMaintenance as _;
use warren_domain::{Message, Timestamp};

use super::Table;
use super::author::Author;
use super::fill::{BATCH, store_all};
use crate::cost::settle;
use crate::statistics::median;

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

/// Measures two rates by turns, the second when it is asked for `true`. Which of a pair comes first alternates: what the
/// first leaves behind is a burden to each of them as often as to the other.
///
/// # Errors
/// As `rate` does.
pub(crate) async fn by_turns(
    what: &str,
    pairs: u32,
    mut rate: impl AsyncFnMut(bool) -> Result<f64>,
) -> Result<Pairs> {
    let mut measured = Pairs::default();
    for pair in 1..=pairs {
        eprintln!("  storing {what}, {pair} of {pairs}");
        if pair % 2 == 1 {
            let first = rate(false).await?;
            measured.add(first, rate(true).await?);
        } else {
            let second = rate(true).await?;
            measured.add(rate(false).await?, second);
        }
    }
    Ok(measured)
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
    by_turns(
        "into the smaller and the larger table",
        pairs,
        async |into_large| {
            let store = if into_large { large } else { small };
            let rate = rate(store, rows).await;
            store.maintain(Timestamp::now()).await?;
            rate
        },
    )
    .await
}

/// Stores alone, and while the maintenance makes the filters of the last day anew, without the pauses that it has else.
///
/// # Errors
/// PostgreSQL failed.
pub(crate) async fn beside_filters(table: &Table, rows: u64, pairs: u32) -> Result<Pairs> {
    const ALL_DUE: &str = "update message_minutes set indexed = null";
    let client = table.connect().await?;
    by_turns("while filters are made", pairs, async |beside| {
        if !beside {
            return rate(&table.store, rows).await;
        }
        client.execute(ALL_DUE, &[]).await?;
        let store = Arc::clone(&table.store);
        let maintaining = async move {
            loop {
                store.maintain(Timestamp::now()).await?;
            }
        };
        rate_beside(&table.store, rows, maintaining).await
    })
    .await
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn which_of_a_pair_is_measured_first_alternates() {
        let mut asked = Vec::new();
        let measured = by_turns("", 2, async |second| {
            asked.push(second);
            Ok(if second { 1.0 } else { 2.0 })
        });
        let measured = measured.await.unwrap();
        assert_eq!(measured.ratios(), Some([0.5, 0.5, 0.5]));
        assert_eq!(asked, [false, true, true, false]);
    }

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
