//! The way of a message from the broker to whoever stores or counts it.

use std::fmt;
use std::str::FromStr;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{Cause, Unhealthy};
use crate::{Message, Selection, Severity, Timestamp, TraceContext};

/// The name of a consumer group: 1–64 bytes of `[a-z0-9_-]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupName(Box<str>);

impl GroupName {
    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text that is no group name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a group name is 1–64 characters of a–z, 0–9, _ and -")]
pub struct InvalidGroupName;

impl FromStr for GroupName {
    type Err = InvalidGroupName;

    fn from_str(text: &str) -> Result<Self, InvalidGroupName> {
        let valid =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-';
        let taken = (1..=64).contains(&text.len()) && text.bytes().all(valid);
        if taken {
            Ok(Self(text.into()))
        } else {
            Err(InvalidGroupName)
        }
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Who consumes together: every group gets its own copy of each message, its members share the copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsumerGroup {
    /// The way into the store: every severity, never expiring, and the one that intake waits for when it is full.
    Store,
    /// Any other group, bounded so that an unattended one can never hold up intake.
    Named(NamedGroup),
}

/// A group that counts, watches, or does whatever its owner likes, beside the way into the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedGroup {
    /// Its name.
    pub name: GroupName,
    /// What it listens to; adapters may deliver more while it changes, see [`MessageConsumer::next`].
    pub selection: Selection,
    /// Where a member that begins now begins.
    pub start: StartAt,
}

impl NamedGroup {
    /// Returns the four groups that Warren ships: `all`, `debug-info`, `critical` and `error`, from the oldest message.
    pub fn shipped() -> [Self; 4] {
        use Severity::{Critical, Debug, Error, Info};
        [
            ("all", &Severity::ALL[..]),
            ("debug-info", &[Debug, Info]),
            ("critical", &[Critical]),
            ("error", &[Error]),
        ]
        .map(|(name, severities)| Self {
            name: GroupName(name.into()),
            selection: Selection::of(severities.iter().copied().collect()),
            start: StartAt::Oldest,
        })
    }
}

/// Where a consumer begins that has not consumed before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StartAt {
    /// At the oldest message that is kept for the group: everything since its first member came, less what was
    /// settled.
    #[default]
    Oldest,
    /// At the next message: what waits for the group when this consumer begins is dropped, for all its members.
    New,
}

/// Yields what a consumer group is to handle, at least once each.
#[async_trait]
pub trait MessageConsumer: fmt::Debug + Send + 'static {
    /// Waits for the next delivery.
    ///
    /// Nothing is fetched before the first call. At most the adapter's prefetch is out unsettled; then this waits
    /// until something is settled. A lost connection is mended inside, with backoff, and shows in the adapter's
    /// [`super::HealthCheck`]; what was unsettled is delivered again. Records that are no messages never appear
    /// here: the adapter dead-letters them itself. Cancel safe.
    ///
    /// A named group whose selection has changed may still be delivered what it selected before; whoever must not
    /// handle it asks [`Selection::matches`].
    ///
    /// `None`: [`MessageConsumer::close`] was called, or the adapter is gone for good.
    async fn next(&mut self) -> Option<Delivery>;

    /// Stops fetching and gives back whatever was fetched but not yet yielded.
    ///
    /// Deliveries already yielded can still be settled until they and the consumer are dropped.
    async fn close(&mut self);
}

/// Some messages that arrived together and are settled together.
///
/// Settled by value: acknowledged once, or dropped and so delivered again.
#[derive(Debug)]
pub struct Delivery {
    /// The messages, at least one.
    pub messages: Vec<Message>,
    /// Tells that these messages may have been delivered before; `false` proves nothing.
    pub redelivered: bool,
    /// How many times it has been delivered, this time included, as far as the broker knows; at least 1.
    pub attempt: u32,
    /// The requests the messages came with, without repetition; bounded by the adapter.
    pub traces: Vec<TraceContext>,
    /// How it is settled.
    pub settlement: Box<dyn Settlement>,
}

impl Delivery {
    /// Tells the broker that every message has had its effect.
    ///
    /// # Errors
    /// See [`Settlement::settle`].
    pub async fn ack(self) -> Result<(), SettleError> {
        self.settlement.settle(Vec::new()).await
    }

    /// Puts the messages at `refused` among the dead letters, durably, and then acknowledges the whole delivery.
    ///
    /// # Errors
    /// See [`Settlement::settle`].
    pub async fn ack_except(self, refused: Vec<Refused>) -> Result<(), SettleError> {
        self.settlement.settle(refused).await
    }

    /// Puts every message among the dead letters, durably, and then acknowledges.
    ///
    /// # Errors
    /// See [`Settlement::settle`].
    pub async fn dead_letter(self, reason: DeadLetterReason) -> Result<(), SettleError> {
        let refused = (0..self.messages.len())
            .map(|index| Refused {
                index,
                reason: reason.clone(),
            })
            .collect();
        self.settlement.settle(refused).await
    }
}

/// A message of a delivery that nobody can store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its place in [`Delivery::messages`].
    pub index: usize,
    /// Why.
    pub reason: DeadLetterReason,
}

/// Why something became a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetterReason {
    /// What kind of fault, for programs and metric labels: `undecodable`, `refused_by_store`.
    pub code: &'static str,
    /// What is wrong, for people.
    pub detail: String,
}

/// The adapter's side of a [`Delivery`]; implemented by adapters, called through it.
#[async_trait]
pub trait Settlement: fmt::Debug + Send + Sync {
    /// Makes dead letters of `refused`, waits until they are durable, and acknowledges the delivery.
    ///
    /// `Ok` of an acknowledgement means it was handed over: a crash right after may still bring the delivery
    /// again, so effects must be idempotent. Adapters gather acknowledgements: many calls cost one exchange.
    ///
    /// # Errors
    /// The delivery is not known to be settled: see [`SettleError`].
    async fn settle(self: Box<Self>, refused: Vec<Refused>) -> Result<(), SettleError>;
}

/// Why a delivery is not known to be settled: it comes again, unless what was on its way still succeeds.
///
/// It may come at once, and every time counts: whoever gets it repeatedly waits before handling it again.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SettleError {
    /// The connection it came on is gone; nothing is to be done.
    #[error("the connection the delivery came on is gone")]
    ConnectionLost,
    /// The dead letters could not be made durable.
    #[error("dead letters cannot be kept now: {reason}")]
    Unavailable {
        /// What is the matter, for people.
        reason: String,
        /// The technology's error, where there is one.
        #[source]
        cause: Option<Cause>,
    },
}

/// Tells how far behind a consumer group is.
#[async_trait]
pub trait GroupLag: fmt::Debug + Send + Sync + 'static {
    /// Asks what waits for the group and what its members hold; answers within two seconds.
    ///
    /// # Errors
    /// [`Unhealthy`]: it cannot be told now, and why.
    async fn lag(&self) -> Result<Lag, Unhealthy>;
}

/// What waits for a consumer group, and what its members hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// The packets that are ready to be delivered; none that a member holds is among them.
    pub packets: u64,
    /// The messages in them, where the adapter can tell without opening them.
    pub messages: Option<u64>,
    /// When the oldest of them was received, where the adapter can tell; `None` too when nothing waits.
    pub oldest: Option<Timestamp>,
    /// What was delivered and is not settled yet.
    pub unacknowledged: Unacknowledged,
}

/// What was delivered to members of a consumer group and is not settled yet.
///
/// What is fetched ahead counts where the broker takes it for delivered. Where members are processes of their own, each
/// knows what it holds itself, and the group's is the sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unacknowledged {
    /// The packets.
    pub packets: u64,
    /// The messages in them, where the adapter can tell.
    pub messages: Option<u64>,
}

/// Looks at the queues of consumer groups from outside, as somebody who is in none of them.
#[async_trait]
pub trait GroupQueues: fmt::Debug + Send + Sync + 'static {
    /// Returns what is to be seen of the queue of each group, in the order of `groups`.
    ///
    /// Looking changes nothing: it makes no queue, takes nothing out of one, and keeps none alive. Answers within the
    /// adapter's documented time. Dropping the future is safe.
    ///
    /// # Errors
    /// [`Unhealthy`]: it cannot be told now, and why.
    async fn look(&self, groups: &[GroupName]) -> Result<Vec<Option<GroupQueue>>, Unhealthy>;
}

/// What is to be seen of the queue of a group; a group whose first member never came, or whose queue has expired, has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupQueue {
    /// The packets that are ready to be delivered; not those that were delivered and are not settled yet.
    pub packets: u64,
    /// How many consume from it.
    pub members: u64,
}
