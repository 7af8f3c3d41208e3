//! Sorts what goes wrong into what the caller has to do.
//!
//! The five characters of SQLSTATE decide, never a message's text: texts are translated and change between releases.
//! What is not known is taken for passing, so that nothing is dead-lettered or given up by mistake.
//!
//! Reasons name the server, the fault and the remedy. They hold no value of any row: PostgreSQL puts those into
//! the detail and the context of an error, which are left behind here, because bodies are never logged.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use sea_orm::{DbErr, RuntimeErr, sqlx};
use warren_domain::ports::StoreError;

use crate::partitions::{DEFAULT_PARTITION, Day};

/// What the caller has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Wait and repeat.
    Unavailable,
    /// Stop and say so.
    Misconfigured,
    /// This row will never be taken.
    Rejected,
}

/// Sorts an SQLSTATE.
pub(crate) fn verdict(state: &str) -> Verdict {
    match state.get(..2).unwrap_or(state) {
        // Never the row's fault: a column that is not Warren's must not be null, or the server reads another binary
        // format than Warren writes.
        _ if matches!(state, "23502" | "22P03" | "22P04") => Verdict::Misconfigured,
        // Data exceptions, constraints, limits of the program (a row too large), views' check options.
        "22" | "23" | "44" | "54" => Verdict::Rejected,
        // `raise exception` in a trigger: a rule of whoever runs the database.
        "P0" if state == "P0001" => Verdict::Rejected,
        // Not supported, invalid grantor or role, login, names and rights, foreign data, external routines, triggers
        // and functions that are themselves broken.
        "0A" | "0L" | "0P" | "28" | "2F" | "38" | "39" | "3D" | "3F" | "42" | "F0" | "HV" | "P0" => {
            Verdict::Misconfigured
        }
        // Corrupted data or index: writing on would make it worse.
        "XX" if state != "XX000" => Verdict::Misconfigured,
        _ => Verdict::Unavailable,
    }
}

/// Says what an SQLSTATE means here, and what to do.
fn explain(state: &str) -> &'static str {
    match state {
        "22P03" | "22P04" => {
            "it does not read PostgreSQL's binary formats as Warren writes them; see which server this is"
        }
        "23502" => "a column that Warren does not fill must not be null; give it a default, or allow nulls",
        "23505" => "a unique constraint that is not Warren's refuses it",
        "23514" => "a check constraint refuses it",
        "25006" => "it takes no writes, as a standby does; postgres.url must lead to the primary",
        "28000" | "28P01" => "it refuses the user or the password; correct postgres.url",
        "3D000" => "there is no such database; create it, or correct postgres.url",
        "40001" => {
            "another transaction stood in the way, on a standby what its primary has done; ask again, and where that is \
             not enough let the standby wait for its readers: hot_standby_feedback, or a longer max_standby_streaming_delay"
        }
        "40P01" => "another transaction stood in the way",
        "42501" => {
            "the role lacks a right; grant it, or run `store-worker migrate` as the owner of the tables"
        }
        "42P01" | "42703" | "42883" | "3F000" => {
            "a table, column or function is missing; run `store-worker migrate`, and check the role's search_path"
        }
        "53100" => "its disk is full",
        "53300" => "it has no connection to spare; raise max_connections, or close others",
        "55P03" => "something holds a lock on the tables for longer than the lock timeout",
        "57014" => "the statement ran into its time limit",
        "57P01" | "57P02" | "57P03" => "it is starting, stopping or restarting",
        "P0001" => "a trigger refuses it",
        "XX001" | "XX002" => {
            "some of what it has stored is damaged; its log says where. Look after its disk, and restore it from a backup"
        }
        _ => match state.get(..2).unwrap_or(state) {
            "08" => "the connection failed",
            "22" => "a value is beyond what its column can hold",
            "23" => "a constraint refuses it",
            "28" => "it refuses the login; correct postgres.url",
            "42" | "0A" => {
                "it does not know the statement; run `store-worker migrate`, or see which server this is"
            }
            "53" => "it lacks memory, disk or connections",
            "54" => "the row is over a limit of PostgreSQL's",
            "57" => "an operator stepped in",
            "XX" => "it reports an error within itself; see its log",
            _ => "it reports an error; see its log",
        },
    }
}

/// Why an exchange with PostgreSQL failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// PostgreSQL or the connection says so.
    Driver(tokio_postgres::Error),
    /// No answer within the client's own limit.
    Silent(Duration),
    /// Found out by this crate, verdict included.
    Known(StoreError),
}

impl Failure {
    pub(crate) fn state(&self) -> Option<&str> {
        match self {
            Self::Driver(error) => error.code().map(tokio_postgres::error::SqlState::code),
            Self::Silent(_) | Self::Known(_) => None,
        }
    }

    /// Tells whether the server had taken rows in, and did not like one of them: its data, a constraint, or a trigger.
    pub(crate) fn is_about_a_row(&self) -> bool {
        let about_a_row = |state: &str| ["22", "23", "P0"].iter().any(|class| state.starts_with(class));
        self.state().is_some_and(about_a_row)
    }

    /// Tells whether the connection is still good: the server answered, and only this statement failed.
    pub(crate) fn spares_connection(&self) -> bool {
        self.state().is_some_and(|state| {
            verdict(state) == Verdict::Rejected || matches!(state, "40001" | "40P01" | "55P03" | "57014")
        })
    }

    /// Becomes the port's error; `place` is the server, fit to be shown.
    pub(crate) fn into_store_error(self, place: &str) -> StoreError {
        let error = match self {
            Self::Known(error) => return error,
            Self::Silent(limit) => {
                return unavailable(
                    place,
                    &format!("no answer within {limit:?}; the connection was closed"),
                );
            }
            Self::Driver(error) => error,
        };
        let Some(fault) = error.as_db_error() else {
            return without_state(error, place);
        };
        let fault = ServerFault {
            state: fault.code().code().to_owned(),
            message: presentable(fault.code().code(), fault.message()),
            relation: fault.table().map(str::to_owned),
            constraint: fault.constraint().map(str::to_owned),
        };
        fault.into_store_error(place)
    }
}

// A bare `?` carries an error along; which verdict it means is decided in `into_store_error`.
impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Driver(error)
    }
}

impl From<std::io::Error> for Failure {
    /// Writing a row into memory failed: it is too large for PostgreSQL's formats.
    fn from(error: std::io::Error) -> Self {
        Self::Known(StoreError::Rejected {
            reason: "a message cannot be written in PostgreSQL's binary format".to_owned(),
            cause: Some(Arc::new(error)),
        })
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Known(error)
    }
}

/// An error that PostgreSQL reported, without the parts that hold values of rows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("SQLSTATE {state}: {message}")]
pub struct ServerFault {
    state: String,
    message: String,
    relation: Option<String>,
    constraint: Option<String>,
}

impl ServerFault {
    /// Returns the five characters that say what kind of error it is.
    pub fn sqlstate(&self) -> &str {
        &self.state
    }

    fn into_store_error(self, place: &str) -> StoreError {
        let verdict = match (self.state.as_str(), &self.constraint, self.relation.as_deref()) {
            // A partition's bounds refuse a row, which is no constraint with a name. The table itself: it has no
            // partition for the row at all. A partition: the row was on its way into the default one while the
            // maintenance made the right one, and finds it the next time. Any other: somebody's trigger says so.
            ("23514", None, Some("messages")) => {
                return misconfigured(
                    place,
                    "messages has no partition for the row; run `store-worker migrate`, which makes them",
                    Some(Arc::new(self)),
                );
            }
            ("23514", None, Some(relation)) if is_partition(relation) => Verdict::Unavailable,
            (state, _, _) => verdict(state),
        };
        let mut reason = match (verdict, self.state.as_str()) {
            (Verdict::Unavailable, "23514") => "a partition was being made".to_owned(),
            (_, state) => explain(state).to_owned(),
        };
        let where_found = match (&self.relation, &self.constraint) {
            (Some(relation), Some(constraint)) => format!(", constraint {constraint} of {relation}"),
            (Some(relation), None) => format!(", table {relation}"),
            (None, Some(constraint)) => format!(", constraint {constraint}"),
            (None, None) => String::new(),
        };
        reason.push_str(&format!(" (SQLSTATE {}{where_found})", self.state));
        let cause: Option<warren_domain::ports::Cause> = Some(Arc::new(self));
        let reason = at(place, &reason);
        match verdict {
            Verdict::Unavailable => StoreError::Unavailable { reason, cause },
            Verdict::Misconfigured => StoreError::Misconfigured { reason, cause },
            Verdict::Rejected => StoreError::Rejected { reason, cause },
        }
    }
}

fn is_partition(relation: &str) -> bool {
    relation == DEFAULT_PARTITION || Day::of_partition(relation).is_some()
}

/// Returns the message of a fault as far as it can hold no value of a row.
fn presentable(state: &str, message: &str) -> String {
    const MOST: usize = 300;
    if state.starts_with("22") {
        return "a value that cannot be stored".to_owned();
    }
    message.chars().take(MOST).collect()
}

/// Sorts an error that did not come with an SQLSTATE: the connection's, TLS's, or the login's.
fn without_state(error: tokio_postgres::Error, place: &str) -> StoreError {
    let inner = error.source().map(|source| {
        let certificate = source
            .downcast_ref::<std::io::Error>()
            .and_then(|io| io.get_ref())
            .and_then(|inner| inner.downcast_ref::<rustls::Error>())
            .is_some_and(|tls| matches!(tls, rustls::Error::InvalidCertificate(_)));
        (certificate, source.is::<std::io::Error>())
    });
    match inner {
        Some((true, _)) => misconfigured(
            place,
            "its certificate is not trusted; set postgres.tls_ca_file to the CA that signed it, and check that \
             the host in postgres.url is the one it is for",
            Some(Arc::new(error)),
        ),
        // Neither the network nor the server: an argument about how to log in or to encrypt.
        Some((false, false)) => misconfigured(
            place,
            "no agreement on login or encryption; check the password and the sslmode in postgres.url",
            Some(Arc::new(error)),
        ),
        Some((false, true)) => StoreError::Unavailable {
            reason: at(place, "the connection failed"),
            cause: Some(Arc::new(error)),
        },
        None => StoreError::Unavailable {
            reason: at(place, "the connection was closed"),
            cause: Some(Arc::new(error)),
        },
    }
}

/// Sorts an error of sea-orm, whose `Display` repeats its source and may repeat a row.
pub(crate) fn from_orm(error: DbErr, place: &str) -> StoreError {
    let database = match &error {
        DbErr::Conn(RuntimeErr::SqlxError(inner))
        | DbErr::Exec(RuntimeErr::SqlxError(inner))
        | DbErr::Query(RuntimeErr::SqlxError(inner)) => from_sqlx(inner, place),
        DbErr::ConnectionAcquire(_) => Some(unavailable(place, "no connection in time")),
        _ => None,
    };
    database.unwrap_or_else(|| misconfigured(place, "sea-orm cannot do it", Some(Arc::new(error))))
}

pub(crate) fn from_sqlx(error: &sqlx::Error, place: &str) -> Option<StoreError> {
    match error {
        sqlx::Error::Database(fault) => {
            let state = fault.code().unwrap_or_default().into_owned();
            let fault = ServerFault {
                message: presentable(&state, fault.message()),
                relation: fault.table().map(str::to_owned),
                constraint: fault.constraint().map(str::to_owned),
                state,
            };
            Some(fault.into_store_error(place))
        }
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => {
            Some(unavailable(place, "the connection failed"))
        }
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => {
            Some(unavailable(place, "no connection in time"))
        }
        sqlx::Error::Tls(_) => Some(misconfigured(
            place,
            "no agreement on encryption; check sslmode in postgres.url and postgres.tls_ca_file",
            None,
        )),
        _ => None,
    }
}

/// Makes [`StoreError::Unavailable`].
pub(crate) fn unavailable(place: &str, fault: &str) -> StoreError {
    StoreError::Unavailable {
        reason: at(place, fault),
        cause: None,
    }
}

/// Makes [`StoreError::Misconfigured`].
pub(crate) fn misconfigured(
    place: &str,
    fault: &str,
    cause: Option<Arc<dyn StdError + Send + Sync>>,
) -> StoreError {
    StoreError::Misconfigured {
        reason: at(place, fault),
        cause,
    }
}

fn at(place: &str, fault: &str) -> String {
    format!("PostgreSQL at {place}: {fault}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(state: &str, relation: Option<&str>, constraint: Option<&str>) -> StoreError {
        ServerFault {
            state: state.to_owned(),
            message: presentable(state, "the secret value"),
            relation: relation.map(str::to_owned),
            constraint: constraint.map(str::to_owned),
        }
        .into_store_error("db:5432/warren")
    }

    #[test]
    fn the_sqlstate_decides_what_the_caller_does() {
        use Verdict::{Misconfigured, Rejected, Unavailable};
        for (verdict_expected, states) in [
            (
                Unavailable,
                &[
                    "08000", "08001", "08003", "08004", "08006", "08P01", "25006", "25P02", "25P03", "26000",
                    "40001", "40P01", "53000", "53100", "53200", "53300", "53400", "55006", "55P03", "57000",
                    "57014", "57P01", "57P02", "57P03", "57P05", "58000", "58030", "XX000", "99999", "",
                ][..],
            ),
            (
                Misconfigured,
                &[
                    "0A000", "28000", "28P01", "3D000", "3F000", "42501", "42601", "42703", "42883", "42P01",
                    "42P07", "42804", "F0000", "P0000", "XX001", "XX002", "23502", "22P03", "22P04",
                ],
            ),
            (
                Rejected,
                &[
                    "22001", "22003", "22008", "22021", "22P02", "22P05", "23503", "23505", "23514", "23P01",
                    "44000", "54000", "54001", "P0001",
                ],
            ),
        ] {
            for state in states {
                assert_eq!(verdict(state), verdict_expected, "{state}");
            }
        }
    }

    #[test]
    fn a_row_on_its_way_while_its_partition_is_made_is_not_refused() {
        assert!(matches!(
            fault("23514", Some("messages_default"), None),
            StoreError::Unavailable { .. }
        ));
        assert!(matches!(
            fault("23514", Some("messages"), None),
            StoreError::Misconfigured { .. }
        ));
        assert!(matches!(
            fault("23514", Some("messages_20261122"), None),
            StoreError::Unavailable { .. }
        ));
        for (relation, constraint) in [
            (Some("messages_20261122"), Some("short")),
            (Some("audit"), None),
            (None, None),
        ] {
            assert!(matches!(
                fault("23514", relation, constraint),
                StoreError::Rejected { .. }
            ));
        }
    }

    #[test]
    fn a_reason_says_where_what_and_what_to_do() {
        assert_eq!(
            fault("3D000", None, None).to_string(),
            "the store is not set up for this program: PostgreSQL at db:5432/warren: there is no such database; \
             create it, or correct postgres.url (SQLSTATE 3D000)"
        );
        assert_eq!(
            fault("23514", Some("messages_20261122"), Some("short")).to_string(),
            "the store refuses a message: PostgreSQL at db:5432/warren: a check constraint refuses it (SQLSTATE 23514, \
             constraint short of messages_20261122)"
        );
    }

    #[test]
    fn values_of_rows_stay_behind() {
        let error = fault("22P02", None, None);
        assert!(!format!("{error:?}").contains("secret"));
    }
}
