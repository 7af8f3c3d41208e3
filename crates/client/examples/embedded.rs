//! Logs into the embedded log, in one process with its store and without any server, and reads it back.
//!
//! `cargo run -p warren-client --example embedded [folder]`

use std::path::PathBuf;
use std::time::Duration;

use warren_adapter_embedded::{Embedded, EmbeddedConfig};
use warren_client::Logger;
use warren_domain::SeverityCounts;
use warren_domain::ports::ConsumerGroup;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder = std::env::args_os()
        .nth(1)
        .map_or_else(|| "./shop-data".into(), PathBuf::from);
    println!("{}", run(folder).await?);
    Ok(())
}

/// Logs a few messages, takes them out of the queue into the store, and returns what to print.
pub(crate) async fn run(path: PathBuf) -> anyhow::Result<String> {
    let shown = path.display().to_string();
    let config = EmbeddedConfig {
        path,
        ..EmbeddedConfig::default()
    };
    let embedded = Embedded::open(config, None).await?;
    let logger = Logger::builder().source("shop").start(embedded.publisher())?;
    logger.info("shop opened");
    logger.critical("till is on fire").attribute("till", 3);
    let report = logger.close(Duration::from_secs(10)).await;

    // What a `warren` does all the time.
    let (store, mut consumer) = (embedded.store(), embedded.consumer(ConsumerGroup::Store));
    let mut stored = SeverityCounts::default();
    while stored.total() < report.stats.published.total()
        && let Ok(Some(delivery)) = tokio::time::timeout(Duration::from_secs(10), consumer.next()).await
    {
        stored += store.store(&delivery.messages).await?.inserted;
        delivery.ack().await?;
    }
    consumer.close().await;
    embedded.close().await;
    Ok(format!("{shown}\n  {report}\n  stored {}", stored.total()))
}
