//! What could not be read: counted, and said in the log where an operator has to mend something.

use std::error::Error;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use metrics::counter;
use warren_domain::ports::{DeadLettersError, ReadError};

use crate::metrics::READS_FAILED;
use crate::problem::Problem;

/// How long what was said is not said again: consoles ask every few seconds.
const QUIET: Duration = Duration::from_secs(600);

/// How many reasons are remembered.
const REASONS: usize = 16;

/// What is the same for an operator, whatever was read.
const MISCONFIGURED: &str = "misconfigured";

/// An error of which an operator may have to be told.
pub(crate) trait ReadFailure: Error + Into<Problem> {
    /// What could not be read, in the numbers.
    const OF: &'static str;

    /// What it can be in the numbers.
    const KINDS: [&'static str; 3];

    /// Returns what it is in the numbers; where waiting does not help, [`MISCONFIGURED`].
    fn kind(&self) -> &'static str;
}

impl ReadFailure for ReadError {
    const OF: &'static str = "messages";
    const KINDS: [&'static str; 3] = ["unavailable", MISCONFIGURED, "too_much"];

    fn kind(&self) -> &'static str {
        match self {
            Self::Unavailable { .. } => "unavailable",
            Self::Misconfigured { .. } => MISCONFIGURED,
            Self::TooMuch { .. } => "too_much",
        }
    }
}

impl ReadFailure for DeadLettersError {
    const OF: &'static str = "dead_letters";
    const KINDS: [&'static str; 3] = ["unavailable", MISCONFIGURED, "read_only"];

    fn kind(&self) -> &'static str {
        match self {
            Self::Unavailable { .. } => "unavailable",
            Self::Misconfigured { .. } => MISCONFIGURED,
            Self::ReadOnly { .. } => "read_only",
        }
    }
}

/// Says in the log what clients alone would learn otherwise, each reason once in [`QUIET`].
#[derive(Debug)]
pub(crate) struct Trouble(Mutex<Vec<(String, Instant)>>);

impl Trouble {
    pub(crate) fn with<E: ReadFailure>() -> Self {
        // Present from the start: what grows from nothing to one is no increase.
        for kind in E::KINDS {
            counter!(READS_FAILED, "of" => E::OF, "kind" => kind).increment(0);
        }
        Self(Mutex::default())
    }

    /// Makes of what has failed what the client is told.
    pub(crate) fn heed<T, E: ReadFailure>(&self, outcome: Result<T, E>) -> Result<T, Problem> {
        outcome.map_err(|error| {
            let kind = error.kind();
            counter!(READS_FAILED, "of" => E::OF, "kind" => kind).increment(1);
            if kind == MISCONFIGURED && self.is_news(error.to_string(), Instant::now()) {
                tracing::error!(cause = error.source(), "{error}");
            }
            error.into()
        })
    }

    fn is_news(&self, reason: String, now: Instant) -> bool {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        said.retain(|(_, at)| now.duration_since(*at) < QUIET);
        if said.iter().any(|(known, _)| *known == reason) {
            return false;
        }
        if said.len() == REASONS {
            said.remove(0);
        }
        said.push((reason, now));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_said_once_in_a_while_and_a_bounded_number_is_remembered() {
        let (trouble, began) = (Trouble::with::<ReadError>(), Instant::now());
        let news = |reason: &str, after| trouble.is_news(reason.to_owned(), began + after);
        assert!(news("no right to counts", Duration::ZERO));
        assert!(news("no right to messages", Duration::ZERO));
        assert!(!news("no right to counts", Duration::from_secs(5)));
        assert!(!news("no right to messages", Duration::from_secs(5)));
        assert!(news("no right to counts", QUIET));
        for n in 0..REASONS {
            assert!(news(&n.to_string(), QUIET));
        }
        assert!(news("no right to counts", QUIET));
    }
}
