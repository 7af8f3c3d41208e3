//! Prints how many messages a second a book counts on this machine.
//!
//! `cargo run --release -p warren-adapter-embedded --example tally [directory]`
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::time::Instant;

use warren_adapter_embedded::EmbeddedTally;
use warren_domain::ports::{Countable, TallyBook};
use warren_domain::{MessageId, Severity};

const WINDOW: usize = 1_000_000;

fn batches(batch: usize, total: usize) -> Vec<Vec<Countable>> {
    let message = |n: usize| Countable {
        identity: MessageId::generate().as_uuid().as_u128(),
        severity: Severity::ALL[n % 5],
    };
    let batches = 0..total / batch;
    batches.map(|_| (0..batch).map(message).collect()).collect()
}

#[tokio::main]
async fn main() {
    let path = std::env::args_os()
        .nth(1)
        .map_or_else(|| "./warren-bench-tally".into(), PathBuf::from);
    drop(std::fs::remove_dir_all(&path));
    let group = "all".parse().unwrap();
    println!("  batch  messages/s  commits/s");
    for (batch, total) in [(10_000, 3_000_000), (1_000, 500_000), (100, 50_000), (1, 2_000)] {
        let book = EmbeddedTally::open(&path, &group, WINDOW, "the argument")
            .await
            .unwrap();
        let batches = batches(batch, total);
        let began = Instant::now();
        for batch in &batches {
            book.count(batch).await.unwrap();
        }
        let seconds = began.elapsed().as_secs_f64();
        println!(
            "{batch:>7}  {:>10.0}  {:>9.0}",
            total as f64 / seconds,
            batches.len() as f64 / seconds
        );
        book.close().await;
    }
    let began = Instant::now();
    let book = EmbeddedTally::open(&path, &group, WINDOW, "the argument")
        .await
        .unwrap();
    println!("opened with {WINDOW} ids in {:?}", began.elapsed());
    book.close().await;
    drop(std::fs::remove_dir_all(path));
}
