//! What can be wrong with a link.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What can be wrong with a link, until it is healed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Every connection is reset, and so is every new one.
    Cut,
    /// Nothing passes, and nothing is lost: what was sent goes on its way when the link is healed, the end of a
    /// connection too. A network that loses every packet looks like that, for as long as both ends keep trying.
    Hole,
    /// Everything is taken and nothing is passed on. A connection that has lost something stays open until the link is
    /// healed, and is reset then. A middlebox that hangs and is restarted looks like that.
    Swallow,
    /// A [`Fault::Hole`] in one direction. New connections have none, as their first answer would not pass.
    HalfOpen(Direction),
    /// Everything arrives this much later, give or take a half of it, in order.
    Latency(#[serde(with = "humantime_serde")] Duration),
    /// All connections together carry this many bytes a second in each direction; 0 counts as 1.
    Bandwidth(u64),
    /// Everything arrives in pieces of at most this many bytes; 0 counts as 1.
    Slice(u64),
    /// Each connection is reset once this many more bytes have passed in the direction, and is not before the next one
    /// is due. Towards the client it cuts between a publish and its confirm.
    CutAfter {
        /// How many still pass, for each connection.
        bytes: u64,
        /// Which way they are counted.
        direction: Direction,
    },
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From whoever connects to the server behind the proxy.
    ToUpstream,
    /// From the server to whoever connects.
    ToClient,
}

impl Fault {
    /// Tells whether what goes in `direction` has to wait until the fault is over.
    pub(super) fn holds(self, direction: Direction) -> bool {
        match self {
            Self::Hole => true,
            Self::HalfOpen(held) => held == direction,
            Self::Cut
            | Self::Swallow
            | Self::Latency(_)
            | Self::Bandwidth(_)
            | Self::Slice(_)
            | Self::CutAfter { .. } => false,
        }
    }

    /// Tells whether a new connection comes to stand.
    pub(super) const fn connects(self) -> bool {
        !matches!(self, Self::Hole | Self::Swallow | Self::HalfOpen(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_names_faults_as_people_do() {
        let direction = Direction::ToClient;
        for (fault, json) in [
            (Fault::Cut, r#""cut""#),
            (Fault::HalfOpen(direction), r#"{"half_open":"to_client"}"#),
            (
                Fault::Latency(Duration::from_millis(200)),
                r#"{"latency":"200ms"}"#,
            ),
            (Fault::Bandwidth(8_000), r#"{"bandwidth":8000}"#),
            (
                Fault::CutAfter { bytes: 9, direction },
                r#"{"cut_after":{"bytes":9,"direction":"to_client"}}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&fault).unwrap(), json);
            assert_eq!(serde_json::from_str::<Fault>(json).unwrap(), fault);
        }
    }
}
