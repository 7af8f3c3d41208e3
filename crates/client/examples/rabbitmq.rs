//! Logs straight to RabbitMQ, each message to the exchange of its severity, and says what became of it.
//!
//! `cargo run -p warren-client --example rabbitmq [amqp://guest:guest@127.0.0.1:5672/%2f] [prefix]`

use std::time::Duration;

use warren_adapter_amqp::{AmqpConfig, AmqpPublisher};
use warren_client::{Logger, Severity, WhenFull};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut config = AmqpConfig::default();
    let mut arguments = std::env::args().skip(1);
    if let Some(url) = arguments.next() {
        config.url = url.into();
    }
    if let Some(prefix) = arguments.next() {
        config.prefix = prefix;
    }
    println!("{}", run(config).await?);
    Ok(())
}

/// Logs a burst of every severity and returns what to print.
pub(crate) async fn run(config: AmqpConfig) -> anyhow::Result<String> {
    let prefix = config.prefix.clone();
    // Made inside, so that its connection lives on the sender's own thread: nothing that this program does, not even
    // waiting for room, can hold it up.
    let logger = Logger::builder()
        .source("shop")
        .when_full(WhenFull::Wait)
        .start_with(|| async { AmqpPublisher::start(config) })?;

    for n in 0..10_000_usize {
        let severity = Severity::ALL[n % 5];
        logger.log(severity, "an ordinary day").attribute("n", n).await?;
    }

    let report = logger.close(Duration::from_secs(30)).await;
    Ok(format!(
        "exchanges {prefix}.debug to {prefix}.critical\n  {report}"
    ))
}
