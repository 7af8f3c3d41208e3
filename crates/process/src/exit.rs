//! Exit codes, so that a supervisor can tell a restart that may help from one that cannot.

use std::process::ExitCode;

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It did what it was asked to, such as to stop; what it could not finish before its deadline was cut off or given
    /// back, and is in the log: 0.
    Clean,
    /// Something failed while running; a restart may help: 1.
    Failure,
    /// What was asked for makes no sense, such as a wrong command line or a wrong input file: 2, which is clap's too.
    Usage,
    /// What was to be judged cannot be: 3.
    Undecided,
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
            Self::Undecided => 3,
            Self::Configuration => 78,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
