//! What a publisher publishes to, apart from each other: one may stand still while the others move.

use std::ops::{BitAnd, BitOrAssign};

use tokio::time::Instant;
use warren_domain::Severity;

use crate::packing::Address;

/// How many lanes there are: one for each severity, and one for the dead letters.
const LANES: usize = Severity::ALL.len() + 1;

/// A set of lanes: the exchanges of the severities, and that of the dead letters.
///
/// A queue that confirms nothing, a group's without a majority, say, holds up what is routed to it: the severities it is
/// bound to, and no others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lanes(u8);

impl Lanes {
    /// All there are.
    pub(crate) const ALL: Self = Self((1 << LANES) - 1);

    /// The lane of the dead letters.
    pub(crate) const DEAD: Self = Self(1 << (LANES - 1));

    /// Returns the lane of a severity.
    pub(crate) const fn of(severity: Severity) -> Self {
        Self(1 << severity.index())
    }

    /// Returns the lane that leads to an address.
    pub(crate) const fn to(address: &Address) -> Self {
        match address {
            Address::Messages { severity, .. } => Self::of(*severity),
            Address::DeadLetter(_) => Self::DEAD,
        }
    }

    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns those that are not in `others`.
    pub(crate) const fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    fn each(self) -> impl Iterator<Item = usize> {
        (0..LANES).filter(move |place| self.0 & (1 << place) != 0)
    }
}

impl BitAnd for Lanes {
    type Output = Self;

    fn bitand(self, others: Self) -> Self {
        Self(self.0 & others.0)
    }
}

impl BitOrAssign for Lanes {
    fn bitor_assign(&mut self, others: Self) {
        self.0 |= others.0;
    }
}

impl FromIterator<Self> for Lanes {
    fn from_iter<I: IntoIterator<Item = Self>>(lanes: I) -> Self {
        let mut all = Self::default();
        lanes.into_iter().for_each(|lanes| all |= lanes);
        all
    }
}

/// When something last happened on each lane.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LastAt([Option<Instant>; LANES]);

impl LastAt {
    pub(crate) fn set(&mut self, lanes: Lanes, at: Instant) {
        lanes.each().for_each(|place| self.0[place] = Some(at));
    }

    /// Returns the lanes on which it happened at `moment` or later.
    pub(crate) fn since(&self, moment: Instant) -> Lanes {
        self.with(|at| at >= moment)
    }

    /// Returns the lanes on which it ever happened.
    pub(crate) fn ever(&self) -> Lanes {
        self.with(|_| true)
    }

    fn with(&self, holds: impl Fn(Instant) -> bool) -> Lanes {
        let places = (0..LANES).filter(|place| self.0[*place].is_some_and(&holds));
        places.map(|place| Lanes(1 << place)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn lanes_are_told_apart_by_severity_and_time() {
        let (error, critical) = (Lanes::of(Severity::Error), Lanes::of(Severity::Critical));
        let both: Lanes = [error, critical].into_iter().collect();
        assert_eq!(both.without(error), critical);
        assert!((both & Lanes::DEAD).is_empty());
        let (mut last, start) = (LastAt::default(), Instant::now());
        let later = start + Duration::from_secs(1);
        last.set(both, start);
        last.set(critical, later);
        assert_eq!((last.ever(), last.since(start)), (both, both));
        assert_eq!(last.since(later), critical);
    }
}
