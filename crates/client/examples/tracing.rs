//! Ships what a program says through `tracing` to a running `warren` or `ingest-api`.
//!
//! `cargo run -p warren-client --example tracing [http://127.0.0.1:8080]`

use std::time::Duration;

use tracing::level_filters::LevelFilter;
use tracing::{error, info, info_span, warn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use warren_client::{HttpPublisher, Logger, WarrenLayer};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let server = std::env::args().nth(1);
    let server = server.as_deref().unwrap_or("http://127.0.0.1:8080");

    let publisher = HttpPublisher::builder(server).build()?;
    let logger = Logger::builder().source("shop").start(publisher)?;
    // On the terminal as before, and to Warren beside it.
    tracing_subscriber::registry()
        .with(tracing_subscriber::fmt::layer())
        .with(WarrenLayer::new(logger.clone()))
        .with(LevelFilter::INFO)
        .init();

    info!("shop opened");
    let order = info_span!("order", id = 42, customer = "ann");
    order.in_scope(|| {
        warn!(attempt = 1, "card terminal is slow");
        error!(attempt = 2, "card declined");
    });
    error!(severity = "critical", till = 3, "till is on fire");

    let report = logger.close(Duration::from_secs(15)).await;
    println!("{server}\n  {report}");
    Ok(())
}
