//! Why something was not read, and what that means to whoever asked.

use std::path::Path;
use std::sync::Arc;

use sea_orm::sqlx;
use warren_domain::ports::{Cause, ReadError};

use crate::entity::message::NotAMessage;
use crate::error::{Fault, fault, result_code};

/// Why something was not read.
pub(super) enum Failure {
    Sqlite(sqlx::Error),
    /// A row that this program has not written.
    Foreign(NotAMessage),
    /// SQLite did not even take note that the time of the statement was over.
    Stuck,
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl Failure {
    /// Tells whether the time of the statement was over.
    pub(super) fn is_slow(&self) -> bool {
        const INTERRUPTED: i32 = 9;
        matches!(self, Self::Sqlite(error) if result_code(error) == Some(INTERRUPTED))
    }

    /// Becomes the port's error; `path` is the file.
    pub(super) fn into_read_error(self, path: &Path) -> ReadError {
        let path = path.display();
        let slow = self.is_slow();
        let error = match self {
            Self::Foreign(foreign) => {
                let cause: Cause = Arc::new(foreign);
                return ReadError::Misconfigured {
                    reason: format!("{path} holds a row that this program has not written"),
                    cause: Some(cause),
                };
            }
            Self::Stuck => {
                return ReadError::Unavailable {
                    reason: format!(
                        "reading {path} has timed out; its disk hangs, or another program has locked the file"
                    ),
                    cause: None,
                };
            }
            Self::Sqlite(error) => error,
        };
        let fault = fault(&error);
        let cause: Option<Cause> = Some(Arc::new(error));
        match fault {
            Fault::Passing if slow => ReadError::Unavailable {
                reason: format!("{path} was not read in time; its disk is slow, or very busy"),
                cause,
            },
            Fault::Passing | Fault::DiskFull | Fault::DiskBroken => ReadError::Unavailable {
                reason: format!("{path} cannot be read at the moment"),
                cause,
            },
            Fault::Broken | Fault::Value => ReadError::Misconfigured {
                reason: format!(
                    "{path} is not what this program wrote; check its rights, or restore it from a backup"
                ),
                cause,
            },
        }
    }
}
