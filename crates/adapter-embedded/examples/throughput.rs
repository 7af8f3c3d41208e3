//! Prints how many messages a second go into the queue and through to the store on this machine.
//!
//! `cargo run --release -p warren-adapter-embedded --example throughput [directory]`
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use warren_adapter_embedded::{Embedded, EmbeddedConfig};
use warren_domain::ports::ConsumerGroup;
use warren_domain::{Draft, Message, MessageLimits, Severity, Timestamp};

const RUN: Duration = Duration::from_secs(4);

fn messages(count: usize) -> Vec<Message> {
    (0..count)
        .map(|n| {
            let draft = Draft {
                severity: Some(Severity::ALL[n % 5]),
                source: Some(format!("bench.source-{}", n % 20).parse().unwrap()),
                body: Some("x".repeat(300)),
                ..Draft::default()
            };
            draft
                .into_message(&MessageLimits::default(), Timestamp::now())
                .unwrap()
        })
        .collect()
}

#[tokio::main]
async fn main() {
    let path = std::env::args_os()
        .nth(1)
        .map_or_else(|| "./warren-bench".into(), PathBuf::from);
    println!("publishers  batch  stored while publishing  accepted/s  stored/s    p50 ms  p99 ms  max ms");
    for (publishers, batch) in [(1, 1), (64, 1), (64, 100), (16, 1_000)] {
        for storing in [false, true] {
            run(&path, publishers, batch, storing).await;
        }
    }
    catch_up(&path).await;
}

async fn run(path: &std::path::Path, publishers: usize, batch: usize, storing: bool) {
    drop(std::fs::remove_dir_all(path));
    let config = EmbeddedConfig {
        path: path.to_owned(),
        ..EmbeddedConfig::default()
    };
    let embedded = Arc::new(Embedded::open(config, None).await.unwrap());
    let stored = Arc::new(AtomicU64::new(0));
    let storer = storing.then(|| tokio::spawn(store(Arc::clone(&embedded), Arc::clone(&stored))));
    let (began, mut tasks) = (Instant::now(), JoinSet::new());
    for _ in 0..publishers {
        let publisher = embedded.publisher();
        tasks.spawn(async move {
            let mut waits = Vec::new();
            while began.elapsed() < RUN {
                let messages = messages(batch);
                let asked = Instant::now();
                publisher.publish(messages, None).await.unwrap();
                waits.push(asked.elapsed());
            }
            waits
        });
    }
    let mut waits = tasks.join_all().await.concat();
    let (elapsed, stored) = (began.elapsed().as_secs_f64(), stored.load(Ordering::Relaxed));
    waits.sort_unstable();
    let quantile = |q: f64| waits[((waits.len() - 1) as f64 * q) as usize].as_secs_f64() * 1e3;
    println!(
        "{publishers:>10}  {batch:>5}  {storing:>23}  {:>10.0}  {:>8.0}  {:>8.2}  {:>6.2}  {:>6.2}",
        (waits.len() * batch) as f64 / elapsed,
        stored as f64 / elapsed,
        quantile(0.5),
        quantile(0.99),
        quantile(1.0),
    );
    if let Some(storer) = storer {
        storer.abort();
    }
    embedded.close().await;
}

/// Stores in batches of 2,000 or of what came within 5 ms, acknowledges afterwards.
async fn store(embedded: Arc<Embedded>, stored: Arc<AtomicU64>) {
    let store = embedded.store();
    let mut consumer = embedded.consumer(ConsumerGroup::Store);
    while let Some(first) = consumer.next().await {
        let mut deliveries = vec![first];
        let mut rows = deliveries[0].messages.len();
        let deadline = tokio::time::Instant::now() + Duration::from_millis(5);
        while rows < 2_000 {
            match tokio::time::timeout_at(deadline, consumer.next()).await {
                Ok(Some(delivery)) => {
                    rows += delivery.messages.len();
                    deliveries.push(delivery);
                }
                _ => break,
            }
        }
        let batch: Vec<_> = deliveries
            .iter_mut()
            .flat_map(|delivery| std::mem::take(&mut delivery.messages))
            .collect();
        store.store(&batch).await.unwrap();
        for delivery in deliveries {
            delivery.ack().await.unwrap();
        }
        stored.fetch_add(batch.len() as u64, Ordering::Relaxed);
    }
}

async fn catch_up(path: &std::path::Path) {
    const BACKLOG: usize = 300_000;
    drop(std::fs::remove_dir_all(path));
    let config = EmbeddedConfig {
        path: path.to_owned(),
        ..EmbeddedConfig::default()
    };
    let embedded = Arc::new(Embedded::open(config, None).await.unwrap());
    for _ in 0..BACKLOG / 1_000 {
        embedded.publisher().publish(messages(1_000), None).await.unwrap();
    }
    let stored = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let storer = tokio::spawn(store(Arc::clone(&embedded), Arc::clone(&stored)));
    while stored.load(Ordering::Relaxed) < BACKLOG as u64 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!(
        "catching up on {BACKLOG}: {:.0} stored/s",
        BACKLOG as f64 / began.elapsed().as_secs_f64()
    );
    storer.abort();
    embedded.close().await;
    drop(std::fs::remove_dir_all(path));
}
