//! Who is refused first when there is too much.
//!
//! Room is reserved by severity: the fuller the server, the graver a message has to be. How full it is, is the larger
//! of two shares: requests of `http.max_in_flight_requests`, and bytes of the pool of small bodies. [`RESERVED`] has
//! the shares. A request that needs large room and says what it holds is measured by the bytes of the large pool, too,
//! when it comes to need it; how full that is, is nothing to small ones. A level goes up at once and comes down one step after each [`STEP`], so that a severity
//! is not refused and accepted in turn; and while a request waits in vain that may hold a `critical` message, nothing
//! less grave that is known to be so gets in before it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use metrics::{Gauge, gauge};
use tokio::time::Instant;
use warren_domain::Severity;

use crate::metrics::LEVEL;

/// From which share on, in percent, a severity is refused, by ascending severity; `critical` has all there is.
pub(crate) const RESERVED: [(Severity, u64); 4] = [
    (Severity::Debug, 50),
    (Severity::Info, 65),
    (Severity::Warning, 75),
    (Severity::Error, 85),
];
/// How long a level is kept at least before it comes down by one.
pub(crate) const STEP: Duration = Duration::from_millis(100);

/// What a request may hold, as far as is known before its body is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gravest {
    /// Nothing graver than this: it says so.
    Declared(Severity),
    /// Anything; its body is small and read at once, so that its messages can be told apart.
    Small,
    /// Anything; its body is large.
    Large,
}

impl Gravest {
    /// Returns what such a request counts as while it waits for large room.
    ///
    /// That it is large shows late in a body that is compressed, that comes in chunks, or that holds very many records;
    /// it was let in as a small one and is none.
    pub(crate) const fn in_large(self) -> Self {
        match self {
            Self::Small => Self::Large,
            known => known,
        }
    }

    /// Returns the level that is due while such a request finds no room: whatever is below it is refused.
    const fn level_without_room(self) -> u8 {
        match self {
            Self::Declared(severity) => severity.index() as u8,
            Self::Small => Severity::Critical.index() as u8,
            // It most likely holds none, so it is no reason to refuse more than the least grave.
            Self::Large => Severity::Info.index() as u8,
        }
    }
}

/// The level below which messages are refused: 0 refuses nothing, 4 all but `critical`.
#[derive(Debug)]
pub(crate) struct Pressure(Mutex<State>);

impl Default for Pressure {
    fn default() -> Self {
        Self(Mutex::new(State {
            level: 0,
            since: None,
            waiting: [0; 5],
            shown: gauge!(LEVEL),
        }))
    }
}

#[derive(Debug)]
struct State {
    level: u8,
    /// When the level was last found to be due, or came down.
    since: Option<Instant>,
    /// How many requests wait for room, by the level that is due meanwhile.
    waiting: [usize; 5],
    shown: Gauge,
}

impl State {
    fn wait(&mut self, level: u8, now: Instant) {
        self.waiting[usize::from(level)] += 1;
        self.settle(level, now);
    }

    fn end_wait(&mut self, level: u8, now: Instant) {
        self.waiting[usize::from(level)] -= 1;
        if self.level >= level {
            self.since = Some(now);
        }
    }

    fn settle(&mut self, due: u8, now: Instant) {
        let due = self
            .waiting
            .iter()
            .rposition(|waiting| *waiting > 0)
            .map_or(due, |level| due.max(level as u8));
        if due >= self.level {
            if due > self.level {
                self.shown.set(f64::from(due));
            }
            self.level = due;
            self.since = Some(now);
            return;
        }
        let Some(since) = self.since else { return };
        let steps = now.saturating_duration_since(since).as_millis() / STEP.as_millis();
        if steps > 0 {
            let steps = u8::try_from(steps).unwrap_or(u8::MAX);
            self.level = self.level.saturating_sub(steps).max(due);
            self.shown.set(f64::from(self.level));
            self.since = Some(now);
        }
    }
}

impl Pressure {
    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes how full the server is, in percent, and returns the least grave severity that is taken now.
    pub(crate) fn lowest_taken(&self, percent: u64, now: Instant) -> Severity {
        let level = self.with(|state| {
            state.settle(level_at(percent), now);
            state.level
        });
        severity_of(level)
    }

    /// Holds off whatever is less grave than `gravest` until the guard is dropped, and one step longer.
    pub(crate) fn wait(&self, gravest: Gravest, now: Instant) -> Waiting<'_> {
        let level = gravest.level_without_room();
        self.with(|state| state.wait(level, now));
        Waiting {
            pressure: self,
            level,
        }
    }
}

/// A request that waits for room.
#[derive(Debug)]
pub(crate) struct Waiting<'p> {
    pressure: &'p Pressure,
    level: u8,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.pressure
            .with(|state| state.end_wait(self.level, Instant::now()));
    }
}

/// Returns the least grave severity that is taken at a share of `percent`.
pub(crate) fn lowest_at(percent: u64) -> Severity {
    severity_of(level_at(percent))
}

/// Returns the level that is due at a share of `percent`.
fn level_at(percent: u64) -> u8 {
    RESERVED.iter().filter(|(_, from)| percent >= *from).count() as u8
}

/// Returns the least grave severity that is taken at a level.
fn severity_of(level: u8) -> Severity {
    Severity::ALL[usize::from(level).min(Severity::ALL.len() - 1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fuller_it_is_the_graver_a_message_has_to_be_and_critical_is_never_held_off() {
        for (percent, lowest) in [
            (0, Severity::Debug),
            (49, Severity::Debug),
            (50, Severity::Info),
            (65, Severity::Warning),
            (75, Severity::Error),
            (85, Severity::Critical),
            (100, Severity::Critical),
            (1_000, Severity::Critical),
        ] {
            let pressure = Pressure::default();
            assert_eq!(
                pressure.lowest_taken(percent, Instant::now()),
                lowest,
                "{percent} %"
            );
        }
    }

    #[test]
    fn a_level_goes_up_at_once_and_comes_down_step_by_step() {
        let (pressure, start) = (Pressure::default(), Instant::now());
        let at = |steps: u32, percent| pressure.lowest_taken(percent, start + STEP * steps);
        assert_eq!(at(0, 90), Severity::Critical);
        assert_eq!(pressure.lowest_taken(0, start + STEP / 2), Severity::Critical);
        assert_eq!(at(1, 0), Severity::Error);
        assert_eq!(at(2, 0), Severity::Warning);
        assert_eq!(at(2, 90), Severity::Critical);
        assert_eq!(at(3, 66), Severity::Error);
        // Never below what is due.
        assert_eq!(at(100, 66), Severity::Warning);
        assert_eq!(at(200, 0), Severity::Debug);
    }

    /// Returns the least grave severity that is taken at a moment when nothing is in flight.
    fn lowest(pressure: &Pressure, now: Instant) -> Severity {
        pressure.lowest_taken(0, now)
    }

    #[test]
    fn while_a_critical_message_waits_for_room_nothing_less_grave_gets_in_nor_right_after() {
        let (pressure, start) = (Pressure::default(), Instant::now());
        let level = Gravest::Declared(Severity::Critical).level_without_room();
        assert_eq!(level, Gravest::Small.level_without_room());
        pressure.with(|state| state.wait(level, start));
        assert_eq!(lowest(&pressure, start), Severity::Critical);
        assert_eq!(lowest(&pressure, start + 10 * STEP), Severity::Critical);
        pressure.with(|state| state.end_wait(level, start + 20 * STEP));
        assert_eq!(
            lowest(&pressure, start + 20 * STEP + STEP / 2),
            Severity::Critical
        );
        assert_eq!(lowest(&pressure, start + 21 * STEP), Severity::Error);
        assert_eq!(lowest(&pressure, start + 24 * STEP), Severity::Debug);
    }

    #[test]
    fn a_large_body_that_waits_keeps_out_only_the_least_grave() {
        let (pressure, now) = (Pressure::default(), Instant::now());
        let _large = pressure.wait(Gravest::Large, now);
        assert_eq!(lowest(&pressure, now), Severity::Info);
        let _small = pressure.wait(Gravest::Small, now);
        assert_eq!(lowest(&pressure, now), Severity::Critical);
    }
}
