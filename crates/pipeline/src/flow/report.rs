//! What the way of messages looks like at a moment.

use serde::{Serialize, Serializer};
use warren_domain::{BySeverity, SeverityCounts, Timestamp};

/// The stages of the way, and what is not known of them; written as JSON that `docs/api.md` describes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FlowReport {
    /// When this was so.
    pub at: Timestamp,
    /// The stages, in the order in which messages pass them.
    pub stages: Stages,
    /// Messages that were accepted, and are neither stored nor dead.
    pub in_flight: InFlight,
    /// What is not known, or known in part only; the gravest of a stage first.
    pub missing: Vec<Missing>,
}

/// The stages.
#[derive(Clone, Debug, PartialEq)]
pub struct Stages {
    /// Messages that were taken in.
    pub accepted: Accepted,
    /// Messages that wait for the store.
    pub queued: Queued,
    /// Messages that are stored.
    pub stored: Stored,
    /// Messages that nobody could store.
    pub dead: Dead,
}

impl Serialize for Stages {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.accepted, &self.queued, &self.stored, &self.dead).serialize(serializer)
    }
}

/// Messages between two stages: a broker that counts packets does not tell how many are in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct InFlight {
    /// At least so many; `None` if nobody says.
    pub at_least: Option<u64>,
    /// At most so many; `None` if nobody says, or not everybody does.
    pub at_most: Option<u64>,
}

/// The name of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StageName {
    /// Taken in.
    Accepted,
    /// In the queue of this process.
    Queued,
    /// In the broker.
    InRabbitmq,
    /// Stored.
    Stored,
    /// Not storable.
    Dead,
}

/// Messages that were taken in: answered with 202.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Accepted {
    /// Its name.
    pub stage: StageName,
    /// Since the programs that take in were started; `None` if none is known.
    #[serde(serialize_with = "by_severity")]
    pub total: Option<SeverityCounts>,
    /// In a second, a mean over the last seconds; `None` while it is not known.
    pub per_second: Option<f64>,
    /// Those of them that the broker has confirmed: all, but for what spools keep; what a spool kept when its program was
    /// started counts, too, once it is confirmed.
    #[serde(serialize_with = "by_severity")]
    pub confirmed: Option<SeverityCounts>,
    /// Confirmed in a second.
    pub confirmed_per_second: Option<f64>,
    /// Messages that were given to the broker, which has not answered yet.
    pub publishing: Option<u64>,
    /// Messages that are kept beside the broker while it is away; `None` if no program that is known keeps any.
    pub spooled: Option<u64>,
}

/// Messages that wait for the store, and those that are being stored.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Queued {
    /// Its name.
    pub stage: StageName,
    /// Packets that wait to be delivered; `None` if nobody says.
    pub packets: Option<u64>,
    /// Messages in them, where the broker can tell.
    pub messages: Option<u64>,
    /// Packets that were delivered and are not acknowledged yet.
    pub unacknowledged: Option<u64>,
    /// Messages that were delivered and are being stored.
    pub held: Option<u64>,
}

/// Messages that are stored.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stored {
    /// Its name.
    pub stage: StageName,
    /// Stored for the first time since the programs that store were started; `None` if none is known.
    #[serde(serialize_with = "by_severity")]
    pub total: Option<SeverityCounts>,
    /// In a second, a mean over the last seconds; `None` while it is not known.
    pub per_second: Option<f64>,
    /// Messages that were stored already when they came.
    pub duplicates: Option<u64>,
}

/// Messages that nobody could store.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Dead {
    /// Its name.
    pub stage: StageName,
    /// Messages that the store or, out of a spool, the broker refused since the programs were started, however often;
    /// `None` if no program is known that would count them.
    #[serde(serialize_with = "by_severity")]
    pub total: Option<SeverityCounts>,
    /// In a second, a mean over the last seconds; `None` while it is not known.
    pub per_second: Option<f64>,
    /// Dead letters of the store that wait for somebody; `None` while they are not counted.
    pub letters: Option<u64>,
    /// Those of spools, each with the program that has it; `None` if no program that is known has any.
    pub in_spools: Option<u64>,
}

/// Why something of a stage is not known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// The stage.
    pub stage: StageName,
    /// Why, for people.
    pub reason: String,
    /// What to do about it.
    pub hint: String,
}

fn by_severity<S: Serializer>(counts: &Option<SeverityCounts>, serializer: S) -> Result<S::Ok, S::Error> {
    match counts {
        None => serializer.serialize_none(),
        Some(counts) => BySeverity::from(*counts).serialize(serializer),
    }
}
