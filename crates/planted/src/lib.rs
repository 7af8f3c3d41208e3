//! Bugs on purpose: what shows that the torture run would find them.
//!
//! A run that never failed proves little about the run. So the programs can be built with mistakes in them that people
//! make, each in one fenced place of the real code, behind the feature `planted-bugs`; [`VARIABLE`] says which one a
//! process has. The run has to find every one of them, by the invariant that it breaks.
//!
//! Nothing that ships has them: the feature is in no default, `deny.toml` lets nothing depend on this crate but the
//! run, and a build without debug assertions, as a release is, does not compile with it.

#[cfg(all(feature = "armed", not(debug_assertions)))]
compile_error!(
    "`planted-bugs` is for `torture teeth` alone, which builds with debug assertions: it must never ship"
);

#[cfg(feature = "armed")]
mod armed;

#[cfg(feature = "armed")]
pub use armed::{Planted, UnknownBug, plant, plant_from_environment, planted, planted_from_second_time};

/// The environment variable that names the bug of a process.
pub const VARIABLE: &str = "WARREN_PLANTED_BUG";

/// Makes the list of bugs.
macro_rules! bugs {
    ($($(#[doc = $doc:literal])+ $bug:ident = $name:literal,)+) => {
        /// A mistake that people make.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Bug {
            $($(#[doc = $doc])+ $bug,)+
        }

        impl Bug {
            /// Every bug there is.
            pub const ALL: &[Self] = &[$(Self::$bug,)+];

            /// Returns what the bug is called on a command line and in [`VARIABLE`].
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$bug => $name,)+
                }
            }

            /// Says in one sentence what goes wrong.
            #[must_use]
            pub const fn description(self) -> &'static str {
                match self {
                    $(Self::$bug => concat!($($doc),+).trim_ascii(),)+
                }
            }
        }
    };
}

bugs! {
    /// The publisher says yes when a packet is handed to the connection, not when the broker has confirmed it.
    AckBeforeConfirm = "ack-before-confirm",
    /// Packets are published without `mandatory`, so that the broker drops in silence what no queue takes.
    MandatoryOff = "mandatory-off",
    /// The worker acknowledges a delivery before the store has committed it.
    AckBeforeCommit = "ack-before-commit",
    /// The table of messages has no unique key, so that what is delivered again is stored again.
    NoUniqueKey = "no-unique-key",
    /// What is published again after a lost connection gets new message ids.
    NewIdOnRetry = "new-id-on-retry",
    /// The worker gives deliveries back at once whenever the database fails, which spends their delivery limit.
    RequeueOnDatabaseError = "requeue-on-database-error",
    /// The flag `multiple` of confirms and acknowledgements is ignored.
    MultipleIgnored = "multiple-ignored",
    /// Confirms are counted from the wrong number once the connection was reopened.
    TagOffByOneAfterReopen = "tag-off-by-one-after-reopen",
    /// What the spool holds is dropped from it when it is handed to the broker, not when that has confirmed it.
    SpoolDeletedBeforeConfirm = "spool-deleted-before-confirm",
    /// A batch that the store does not take is acknowledged all the same.
    BatchErrorDropsBatch = "batch-error-drops-batch",
    /// SQLite commits without waiting for the disk.
    FsyncSkipped = "fsync-skipped",
    /// The validator lets U+0000 through, which PostgreSQL cannot hold.
    ValidatorLetsNulPass = "validator-lets-nul-pass",
}

impl std::fmt::Display for Bug {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

impl std::str::FromStr for Bug {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.iter().copied().find(|bug| bug.name() == name);
        known.ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|bug| bug.name()).collect();
            format!(
                "no planted bug is called {name:?}; there are {}",
                names.join(", ")
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bug_has_a_name_of_its_own_and_is_found_by_it() {
        for bug in Bug::ALL {
            assert_eq!(bug.name().parse(), Ok(*bug));
            assert!(bug.description().ends_with('.'), "{}", bug.description());
        }
        let unknown = "no-such-bug".parse::<Bug>().unwrap_err();
        assert!(unknown.contains("mandatory-off"), "{unknown}");
    }
}
