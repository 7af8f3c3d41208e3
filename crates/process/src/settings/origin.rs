//! Where a value came from, in words an operator can act on.

use std::fmt;
use std::path::PathBuf;

/// Where the value of a setting came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody gave it.
    Default,
    /// A line of the configuration file.
    File {
        /// The file, as it was named.
        path: PathBuf,
        /// The line of the key, counted from one.
        line: usize,
    },
    /// An environment variable.
    Variable(String),
    /// A file named by an environment variable that ends in `_FILE`.
    VariableFile {
        /// The variable, with its `_FILE`.
        variable: String,
        /// The file it names.
        path: PathBuf,
    },
    /// A flag of the command line, as it was written.
    Flag(String),
}

impl Origin {
    /// Writes `key` as it must be spelled where this value came from.
    pub(super) fn spell(&self, key: &str) -> String {
        match self {
            Self::Variable(_) => variable_name(key),
            Self::VariableFile { .. } => format!("{}_FILE", variable_name(key)),
            _ => key.to_owned(),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::VariableFile { variable, path } => {
                write!(
                    f,
                    "file {} named by the environment variable {variable}",
                    path.display()
                )
            }
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// What every environment variable of Warren begins with.
pub(super) const PREFIX: &str = "WARREN_";

/// Returns the environment variable of a setting: `http.listen` is `WARREN_HTTP__LISTEN`.
#[must_use]
pub fn variable_name(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_ascii_uppercase())
}
