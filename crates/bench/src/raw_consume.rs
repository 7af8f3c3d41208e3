//! The raw limit of consuming: one AMQP message a record, acknowledged and forgotten, through amqprs alone.
//!
//! The prefetch and the acknowledgements are those that the plainest client is fastest with: 2,000 out at once, one
//! acknowledgement for 500. It reads no line, recognises no duplicate, keeps nothing.

use std::time::{Duration, Instant};

use amqprs::channel::{BasicAckArguments, BasicConsumeArguments, BasicQosArguments, Channel};
use anyhow::{Context as _, Result};
use tokio::time::timeout;
use warren_e2e::rabbit;

use crate::cost::{Costs, Watch, settle};
use crate::messages::Mix;
use crate::raw_publish::{RawPublish, on_queue};
use crate::servers::Servers;

const PREFETCH: u16 = 2_000;
const ACKNOWLEDGED_AT_ONCE: u64 = 500;

/// The most messages that the queue is filled with: one AMQP message each, filling takes ten times as long as emptying.
const MOST_MESSAGES: u64 = 200_000;

/// How long the next delivery may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Fills a queue, and returns how many messages it held, how long a consumer took to acknowledge all of them, and what
/// that cost.
///
/// # Errors
/// The broker does not answer, or delivers less than it took.
pub(crate) async fn run(servers: &Servers, most_messages: u64, mix: Mix) -> Result<(u64, Duration, Costs)> {
    on_queue(&servers.amqp, async |channel, queue| {
        let fill = RawPublish {
            window: 1_024,
            rate: None,
            duration: Duration::from_secs(120),
            most_messages: most_messages.min(MOST_MESSAGES),
            mix,
        };
        let filled = fill.publish(channel, queue).await?.confirmed;
        let (connection, channel) = rabbit::open(&servers.amqp).await?;
        settle().await?;
        let watch = Watch::start(&servers.with(&[]))?;
        let start = Instant::now();
        let consumed = consume(&channel, queue, filled).await;
        let elapsed = start.elapsed();
        let costs = watch.end()?;
        rabbit::close(connection, channel).await;
        consumed?;
        Ok((filled, elapsed, costs))
    })
    .await
}

async fn consume(channel: &Channel, queue: &str, count: u64) -> Result<()> {
    channel
        .basic_qos(BasicQosArguments::new(0, PREFETCH, false))
        .await?;
    let (_, mut deliveries) = channel
        .basic_consume_rx(BasicConsumeArguments::new(queue, "bench"))
        .await?;
    for number in 1..=count {
        let delivery = timeout(PATIENCE, deliveries.recv())
            .await
            .with_context(|| format!("nothing more came after {} of {count} messages", number - 1))?
            .context("the broker ended the deliveries")?;
        if number % ACKNOWLEDGED_AT_ONCE == 0 || number == count {
            let tag = delivery
                .deliver
                .context("a delivery without its method")?
                .delivery_tag();
            channel.basic_ack(BasicAckArguments::new(tag, true)).await?;
        }
    }
    Ok(())
}
