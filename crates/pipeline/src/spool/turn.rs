//! When the drain has caught up.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::info;

use super::Shared;
use super::drain::ROUND;
use super::way::{TURN, Way};

/// How long new calls are left alone after a turn that was given up.
const NEXT_TURN: Duration = Duration::from_secs(5);

/// Leads new messages back to the straight way, see [`super::way`].
pub(super) struct Turn {
    shared: Arc<Shared>,
    /// When the turn that was begun is given up.
    until: Option<Instant>,
    not_before: Instant,
}

/// What is left in the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// Nothing, or so little that new messages wait for it: it is to be handed over at once.
    Little,
    /// More than that, or it cannot be told.
    Much,
}

impl Turn {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            until: None,
            not_before: Instant::now(),
        }
    }

    /// Goes on with a turn, or begins one if little is left. The drain must hold nothing that the broker has not
    /// answered for.
    pub(super) async fn go_on(&mut self) -> Left {
        let ways = &self.shared.ways;
        if !matches!(ways.now(), Way::ThroughSpool { .. }) {
            self.until = None;
            return Left::Little;
        }
        // One that the broker's absence has ended is over.
        self.until = self.until.filter(|_| ways.turning());
        let until = match self.until {
            Some(until) => until,
            None if Instant::now() < self.not_before => return Left::Much,
            None => {
                if self.waiting().await.is_none_or(|packets| packets >= ROUND as u64) {
                    return Left::Much;
                }
                ways.begin_turn();
                *self.until.insert(Instant::now() + TURN)
            }
        };
        // However long it took to hand over what was left: a turn that has come to its end is not given up.
        if ways.nobody_enters(until).await && self.waiting().await == Some(0) {
            if ways.go_straight() == Some(Way::ThroughSpool { broker: None }) {
                info!("the spool is drained; messages go straight to the broker");
            }
            self.until = None;
            return Left::Little;
        }
        if Instant::now() < until {
            return Left::Little;
        }
        ways.give_up_turn();
        self.until = None;
        self.not_before = Instant::now() + NEXT_TURN;
        Left::Much
    }

    /// Returns how many packets wait; `None`: it cannot be told, and the spool's own health says why.
    async fn waiting(&self) -> Option<u64> {
        self.shared.lag.lag().await.ok().map(|lag| lag.packets)
    }
}
