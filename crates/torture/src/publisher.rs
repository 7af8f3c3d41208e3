//! Publishes past the intake, and knows what the broker did with each packet.

use std::fmt;
use std::time::Duration;

use amqprs::callbacks::ChannelCallback;
use amqprs::channel::{BasicPublishArguments, Channel, ConfirmSelectArguments};
use amqprs::connection::Connection;
use amqprs::{Ack, BasicProperties, Cancel, CloseChannel, DELIVERY_MODE_PERSISTENT, Nack, Return};
use anyhow::{Context as _, Result, ensure};
use async_trait::async_trait;
use tokio::sync::Mutex;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::timeout;
use warren_e2e::rabbit;

/// How long the broker may take for one packet.
const DEADLINE: Duration = Duration::from_secs(20);

/// One packet is under way, and the broker says at most two things about it.
const MOST_TOLD: usize = 2;

/// What the broker did with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirm {
    /// It has it, in every queue that it is for.
    Ack,
    /// A queue refused it.
    Nack,
    /// No queue is for it.
    Returned,
}

/// A channel that publishes one packet after the other, persistent, mandatory and confirmed.
pub struct Publisher {
    connection: Connection,
    channel: Channel,
    confirms: Mutex<Receiver<Confirm>>,
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").finish_non_exhaustive()
    }
}

impl Publisher {
    /// Opens one.
    ///
    /// # Errors
    /// The broker does not answer.
    pub async fn open(url: &str) -> Result<Self> {
        let (connection, channel) = rabbit::open(url).await?;
        let (sender, confirms) = self::channel(MOST_TOLD);
        channel.register_callback(Told(sender)).await?;
        channel.confirm_select(ConfirmSelectArguments::default()).await?;
        Ok(Self {
            connection,
            channel,
            confirms: Mutex::new(confirms),
        })
    }

    /// Publishes a packet and waits for what the broker says.
    ///
    /// # Errors
    /// It says nothing.
    pub async fn publish(&self, exchange: &str, key: &str, body: Vec<u8>) -> Result<Confirm> {
        let properties = BasicProperties::default()
            .with_delivery_mode(DELIVERY_MODE_PERSISTENT)
            .with_message_type("warren.v1")
            .finish();
        let arguments = BasicPublishArguments::new(exchange, key).mandatory(true).finish();
        let mut confirms = self.confirms.lock().await;
        self.channel
            .basic_publish(properties, body, arguments)
            .await
            .context("cannot publish")?;
        let next = timeout(DEADLINE, async {
            let first = confirms.recv().await?;
            // A packet that comes back is confirmed as well, afterwards.
            if first == Confirm::Returned {
                confirms.recv().await?;
            }
            Some(first)
        });
        next.await
            .with_context(|| format!("RabbitMQ confirmed nothing within {DEADLINE:?}"))?
            .context("RabbitMQ closed the channel")
    }

    /// Publishes a packet that the broker has to take.
    ///
    /// # Errors
    /// It does not.
    pub async fn publish_surely(&self, exchange: &str, key: &str, body: Vec<u8>) -> Result<()> {
        let confirm = self.publish(exchange, key, body).await?;
        ensure!(
            confirm == Confirm::Ack,
            "RabbitMQ did not take a packet for {exchange}: {confirm:?}"
        );
        Ok(())
    }

    /// Closes it.
    pub async fn close(self) {
        rabbit::close(self.connection, self.channel).await;
    }
}

/// Hands on what the broker says.
struct Told(Sender<Confirm>);

impl Told {
    async fn tell(&self, confirm: Confirm) {
        // Nobody waits any more when the publisher is gone.
        self.0.send(confirm).await.ok();
    }
}

#[async_trait]
impl ChannelCallback for Told {
    async fn close(&mut self, _: &Channel, _: CloseChannel) -> Result<(), amqprs::error::Error> {
        Ok(())
    }

    async fn cancel(&mut self, _: &Channel, _: Cancel) -> Result<(), amqprs::error::Error> {
        Ok(())
    }

    async fn flow(&mut self, _: &Channel, active: bool) -> Result<bool, amqprs::error::Error> {
        Ok(active)
    }

    async fn publish_ack(&mut self, _: &Channel, _: Ack) {
        self.tell(Confirm::Ack).await;
    }

    async fn publish_nack(&mut self, _: &Channel, _: Nack) {
        self.tell(Confirm::Nack).await;
    }

    async fn publish_return(&mut self, _: &Channel, _: Return, _: BasicProperties, _: Vec<u8>) {
        self.tell(Confirm::Returned).await;
    }
}
