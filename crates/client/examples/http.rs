//! Logs over HTTP to a running `warren` or `ingest-api`, and says what became of it.
//!
//! `cargo run -p warren-client --example http [http://127.0.0.1:8080]`

use std::time::Duration;

use warren_client::{HttpPublisher, Logger};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let server = std::env::args().nth(1);
    let server = server.as_deref().unwrap_or("http://127.0.0.1:8080");
    println!("{}", run(server).await?);
    Ok(())
}

/// Logs a few messages and returns what to print.
pub(crate) async fn run(server: &str) -> anyhow::Result<String> {
    let publisher = HttpPublisher::builder(server).build()?;
    let endpoint = publisher.endpoint().to_owned();
    let logger = Logger::builder().source("shop").start(publisher)?;

    logger.info("shop opened");
    logger
        .warning("stock is low")
        .attribute("article", "A-17")
        .attribute("left", 3);
    let billing = logger.with_source("shop.billing".parse()?);
    let id = billing.error("card declined").attribute("order", 42).await?;

    let report = logger.close(Duration::from_secs(15)).await;
    let trouble = report.stats.last_failure.as_deref().unwrap_or("none");
    Ok(format!(
        "{endpoint}\n  {report}\n  failures: {trouble}\n  the declined card is message {id}"
    ))
}
