//! Which way new messages go, and how that changes without one overtaking another.
//!
//! The way back is the difficult one: while calls come all the time, there is no moment at which nothing waits in the
//! spool and nobody puts anything by. So when little is left, new calls wait for a moment, a *turn*: those before them
//! end, the drain hands over what they have left, and then all go straight.

use std::time::Duration;

use metrics::{Gauge, gauge};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use crate::metrics::SPOOLING;

/// How long a turn may take; then messages pass through the spool as before.
pub(super) const TURN: Duration = Duration::from_millis(500);

/// How long a new call waits for a turn to end. It is more than a turn takes: nobody may slip into the spool while it
/// is looked at for the last time.
const TURN_PATIENCE: Duration = Duration::from_secs(1);

/// Which way new messages go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// To the broker.
    Straight,
    /// Into the spool.
    ThroughSpool {
        /// Why the broker takes nothing; `None` while it takes what is drained, or while nobody knows whether it would.
        broker: Option<String>,
    },
    /// To the broker, and nothing is put by any more: nobody would drain it.
    StraightAlone,
}

#[derive(Debug)]
struct State {
    way: Way,
    /// How many calls put messages by at the moment.
    entering: usize,
    turning: bool,
}

impl State {
    fn set(&mut self, way: Way, active: &Gauge) {
        let through = matches!(way, Way::ThroughSpool { .. });
        active.set(if through { 1.0 } else { 0.0 });
        self.turning &= through;
        self.way = way;
    }
}

/// The way new messages go, as all see it.
#[derive(Debug)]
pub(super) struct Ways {
    state: watch::Sender<State>,
    active: Gauge,
}

/// A call that puts messages by; until it is dropped nobody goes straight again.
#[derive(Debug)]
pub(super) struct Entering<'a>(&'a Ways);

impl Drop for Entering<'_> {
    fn drop(&mut self) {
        self.0.state.send_modify(|state| state.entering -= 1);
    }
}

impl Ways {
    pub(super) fn new(way: Way) -> Self {
        let mut state = State {
            way: Way::Straight,
            entering: 0,
            turning: false,
        };
        let active = gauge!(SPOOLING);
        state.set(way, &active);
        Self {
            state: watch::Sender::new(state),
            active,
        }
    }

    pub(super) fn now(&self) -> Way {
        self.state.borrow().way.clone()
    }

    /// Chooses the way of a new call; one that leads through the spool is held until the call has ended.
    pub(super) async fn choose(&self) -> (Way, Option<Entering<'_>>) {
        if self.state.borrow().turning {
            let mut state = self.state.subscribe();
            // Should the turn take too long, it is given up by whoever began it.
            timeout(TURN_PATIENCE, state.wait_for(|state| !state.turning))
                .await
                .ok();
        }
        self.enter(|_| {})
    }

    /// Notes that the broker takes nothing; whoever found that out puts its messages by.
    ///
    /// Both at once: else the spool would look empty before they are in it.
    pub(super) fn broker_is_away(&self, reason: String) -> Option<Entering<'_>> {
        let away = |state: &mut State| {
            if state.way != Way::StraightAlone {
                let broker = Some(reason);
                state.set(Way::ThroughSpool { broker }, &self.active);
                state.turning = false;
            }
        };
        self.enter(away).1
    }

    fn enter(&self, change: impl FnOnce(&mut State)) -> (Way, Option<Entering<'_>>) {
        let (mut way, mut entering) = (Way::Straight, None);
        self.state.send_modify(|state| {
            change(state);
            way = state.way.clone();
            if matches!(way, Way::ThroughSpool { .. }) {
                state.entering += 1;
                entering = Some(Entering(self));
            }
        });
        (way, entering)
    }

    /// Notes that the broker takes what is drained, or that nobody asks it any more.
    pub(super) fn broker_may_take(&self) {
        self.state.send_if_modified(|state| {
            if let Way::ThroughSpool { broker } = &mut state.way {
                *broker = None;
            }
            false
        });
    }

    /// Has messages go straight and nothing put by any more.
    pub(super) fn give_up(&self) {
        self.state
            .send_modify(|state| state.set(Way::StraightAlone, &self.active));
    }

    /// Has new calls wait.
    pub(super) fn begin_turn(&self) {
        self.state
            .send_modify(|state| state.turning = matches!(state.way, Way::ThroughSpool { .. }));
    }

    pub(super) fn turning(&self) -> bool {
        self.state.borrow().turning
    }

    /// Lets those that wait pass through the spool.
    pub(super) fn give_up_turn(&self) {
        self.state.send_modify(|state| state.turning = false);
    }

    /// Waits until no call puts anything by, at most until `deadline`; tells whether that is so.
    pub(super) async fn nobody_enters(&self, deadline: Instant) -> bool {
        let mut state = self.state.subscribe();
        let ended = timeout_at(deadline, state.wait_for(|state| state.entering == 0)).await;
        matches!(ended, Ok(Ok(_)))
    }

    /// Has new calls go straight, if the turn still stands and nobody has entered meanwhile; returns which way they went.
    pub(super) fn go_straight(&self) -> Option<Way> {
        let mut was = None;
        self.state.send_if_modified(|state| {
            if state.turning && state.entering == 0 {
                was = Some(state.way.clone());
                state.set(Way::Straight, &self.active);
            }
            was.is_some()
        });
        was
    }
}
