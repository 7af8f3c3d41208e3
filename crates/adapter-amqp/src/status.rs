//! What is known about the broker: for health, and for refusing at once instead of after a timeout.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use metrics::{Gauge, counter, gauge};
use tokio::time::Instant;
use warren_domain::ports::{HealthCheck, PublishError, Unhealthy};

use crate::error::Lost;

/// How long the broker may be away before calls are refused at once: a restart of a connection goes unnoticed, an
/// outage does not make every client wait for its whole deadline.
const PATIENCE: Duration = Duration::from_millis(400);

/// How long a packet may be unconfirmed before the broker counts as unhealthy.
const SLOW: Duration = Duration::from_secs(2);

/// What is known about the broker, shared between the task that knows and whoever asks.
pub(crate) struct Status {
    state: Mutex<State>,
    connected: Gauge,
    role: &'static str,
}

#[derive(Debug)]
struct State {
    link: LinkState,
    /// Since when the oldest packet on its way waits for its confirm.
    unconfirmed_since: Option<Instant>,
    /// The last connection was given up because nothing was confirmed, and nothing has been since: RabbitMQ takes
    /// connections, but no messages, while it is short of memory or disk, or while the queue does not run.
    stalled: bool,
    /// When a call was last let in to show whether a broker that stalled takes messages again.
    tried_at: Option<Instant>,
    /// What is wrong with the exchanges and queues, though the connection stands.
    fault: Option<String>,
}

#[derive(Debug)]
enum LinkState {
    Idle,
    Away { since: Instant, reason: String },
    Connected,
}

impl Status {
    /// A status of a connection that nobody has asked for yet.
    pub(crate) fn idle(role: &'static str) -> Self {
        let connected = gauge!("warren_amqp_connected", "role" => role);
        connected.set(0.0);
        Self {
            state: Mutex::new(State {
                link: LinkState::Idle,
                unconfirmed_since: None,
                stalled: false,
                tried_at: None,
                fault: None,
            }),
            connected,
            role,
        }
    }

    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes that there is no connection; the first reason's time counts.
    pub(crate) fn away(&self, reason: impl Into<String>) {
        let reason = reason.into();
        self.connected.set(0.0);
        self.with(|state| {
            let since = match &state.link {
                LinkState::Away { since, .. } => *since,
                LinkState::Idle | LinkState::Connected => Instant::now(),
            };
            state.link = LinkState::Away { since, reason };
            state.unconfirmed_since = None;
        });
    }

    /// Notes that a connection that stood was given up.
    pub(crate) fn lost(&self, lost: &Lost) {
        counter!("warren_amqp_lost_connections_total", "role" => self.role, "reason" => lost.kind)
            .increment(1);
        self.away(&*lost.reason);
    }

    /// Notes that there is a connection and everything is declared.
    pub(crate) fn connected(&self) {
        self.connected.set(1.0);
        counter!("warren_amqp_connections_total", "role" => self.role, "outcome" => "opened").increment(1);
        self.with(|state| {
            state.link = LinkState::Connected;
            state.tried_at = None;
            state.fault = None;
        });
    }

    /// Notes that an attempt to connect failed.
    ///
    /// Returns whether the reason is news, and so worth a line in the log.
    pub(crate) fn failed(&self, reason: &str) -> bool {
        counter!("warren_amqp_connections_total", "role" => self.role, "outcome" => "failed").increment(1);
        let known = self
            .with(|state| matches!(&state.link, LinkState::Away { reason: known, .. } if known == reason));
        self.away(reason);
        !known
    }

    /// Notes that a connection was given up because nothing was confirmed on it in time.
    pub(crate) fn stalled(&self) {
        self.with(|state| state.stalled = true);
    }

    /// Notes since when the oldest packet waits; `proven` when something was confirmed.
    pub(crate) fn unconfirmed_since(&self, since: Option<Instant>, proven: bool) {
        self.with(|state| {
            state.unconfirmed_since = since;
            state.stalled &= !proven;
        });
    }

    /// Notes what is wrong with the exchanges and queues, or that nothing is; returns whether that is news.
    pub(crate) fn fault(&self, fault: Option<String>) -> bool {
        self.with(|state| {
            let news = state.fault != fault;
            state.fault = fault;
            news
        })
    }

    /// Tells why something was not confirmed in time, as far as is known.
    pub(crate) fn overdue(&self) -> PublishError {
        self.with(|state| match &state.link {
            LinkState::Away { reason, .. } => PublishError::unavailable(reason.clone()),
            LinkState::Idle | LinkState::Connected => {
                PublishError::unavailable("RabbitMQ did not confirm it in time")
            }
        })
    }

    /// Returns why a call is better refused at once, if it is.
    ///
    /// After a stall, one call on each connection shows whether RabbitMQ takes messages again, and nobody else need
    /// wait for that; should it give up before anything of it is on its way, another one is let in.
    pub(crate) fn refusal(&self, now: Instant) -> Option<PublishError> {
        let longer = |since: &Instant, patience| now.duration_since(*since) > patience;
        self.with(|state| match &state.link {
            LinkState::Away { since, reason } if state.stalled || longer(since, PATIENCE) => {
                Some(PublishError::unavailable(reason.clone()))
            }
            LinkState::Connected if state.stalled => {
                let tried = state.tried_at.is_some_and(|at| !longer(&at, PATIENCE));
                if state.unconfirmed_since.is_none() && !tried {
                    state.tried_at = Some(now);
                    return None;
                }
                Some(PublishError::unavailable(
                    "RabbitMQ takes connections, but no messages: a memory or disk alarm, or a queue that does not run?",
                ))
            }
            _ => None,
        })
    }
}

impl std::fmt::Debug for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.with(|state| state.fmt(f))
    }
}

#[async_trait]
impl HealthCheck for Status {
    fn name(&self) -> &'static str {
        "rabbitmq"
    }

    async fn check(&self) -> Result<(), Unhealthy> {
        self.check_at(Instant::now())
    }
}

impl Status {
    fn check_at(&self, now: Instant) -> Result<(), Unhealthy> {
        self.with(|state| match (&state.link, &state.fault) {
            (LinkState::Idle, _) => Err(Unhealthy("nothing has been asked of RabbitMQ yet".to_owned())),
            (LinkState::Away { reason, .. }, _) => Err(Unhealthy(reason.clone())),
            (LinkState::Connected, Some(fault)) => Err(Unhealthy(fault.clone())),
            (LinkState::Connected, None) => match state.unconfirmed_since {
                Some(since) if now.duration_since(since) > SLOW => Err(Unhealthy(format!(
                    "RabbitMQ has not confirmed a packet for {} s; look for memory and disk alarms",
                    now.duration_since(since).as_secs()
                ))),
                _ => Ok(()),
            },
        })
    }
}

/// Writes an error and what caused it in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_refused_at_once_and_a_hiccup_is_not() {
        let (status, start) = (Status::idle("test"), Instant::now());
        assert!(status.refusal(start + PATIENCE).is_none());
        status.away("gone");
        assert!(status.refusal(start + PATIENCE / 2).is_none());
        assert!(status.failed("still gone"));
        assert!(!status.failed("still gone"));
        let refusal = status.refusal(Instant::now() + PATIENCE * 2);
        assert!(refusal.is_some_and(|error| error.to_string().contains("still gone")));
        assert_eq!(status.check_at(start), Err(Unhealthy("still gone".to_owned())));
        status.connected();
        assert!(status.refusal(start + PATIENCE * 2).is_none());
        assert_eq!(status.check_at(start), Ok(()));
    }

    #[test]
    fn a_broker_that_stalled_is_refused_until_it_confirms_something() {
        let (status, start) = (Status::idle("test"), Instant::now());
        let later = start + SLOW * 2;
        status.connected();
        status.unconfirmed_since(Some(start), false);
        assert!(status.refusal(later).is_none());
        assert!(status.check_at(later).is_err());
        status.stalled();
        assert!(status.refusal(start).is_some());
        // Reconnecting proves nothing, and what is published first on a new connection has to be let in.
        status.away("gave it up");
        assert!(status.refusal(start).is_some());
        status.connected();
        assert!(status.refusal(later).is_none());
        assert!(status.refusal(later).is_some());
        assert!(status.refusal(later + PATIENCE * 2).is_none());
        status.unconfirmed_since(Some(later), false);
        assert!(status.refusal(later + PATIENCE * 4).is_some());
        status.unconfirmed_since(None, true);
        assert!(status.refusal(later).is_none());
        assert_eq!(status.check_at(later), Ok(()));
    }

    #[test]
    fn a_broken_topology_is_unhealthy() {
        let (status, now) = (Status::idle("test"), Instant::now());
        assert!(status.check_at(now).is_err());
        status.connected();
        status.fault(Some("queue gone".to_owned()));
        assert_eq!(status.check_at(now), Err(Unhealthy("queue gone".to_owned())));
        status.fault(None);
        assert_eq!(status.check_at(now), Ok(()));
    }
}
