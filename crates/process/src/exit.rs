//! Exit codes, so that a supervisor can tell a restart that may help from one that cannot.

use std::process::ExitCode;

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Everything was finished or given back: 0.
    Clean,
    /// Something failed while running; a restart may help: 1.
    Failure,
    /// The command line was wrong: 2, as clap has it.
    Usage,
    /// The configuration was wrong, and a restart cannot help: 78, `EX_CONFIG` of sysexits.h.
    Configuration,
}

impl Exit {
    /// Returns the number the operating system sees.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Clean => 0,
            Self::Failure => 1,
            Self::Usage => 2,
            Self::Configuration => 78,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
