//! The schema: its versions, how it gets to the newest, and the check that it is there.
//!
//! A version is the name of the last migration that was applied. Programs check it whenever they connect, and write
//! only to the version they know.

mod m0001_messages;
mod m0002_dead_letters;
mod m0003_idempotency;
mod m0004_deaths;
mod m0005_count_quarters;
mod m0006_words;
mod m0007_minutes;
mod script;

use sea_orm::DynIden;
use sea_orm::sea_query::{Alias, IntoIden};
use sea_orm_migration::{MigrationTrait, MigratorTrait};
use warren_domain::Timestamp;
use warren_domain::ports::StoreError;

use crate::config::{PostgresConfig, SessionLimits};
use crate::error::{Failure, ServerFault, from_orm, misconfigured, unavailable};
use crate::maintenance;
use crate::orm;
use crate::session::{Connector, Session};

/// Where applied migrations are noted down.
const TABLE: &str = "warren_migrations";

/// The SQLSTATE of a lock that was not had in time.
const LOCK_TIMED_OUT: &str = "55P03";

/// Held while migrating; "warren" in ASCII and a number. PostgreSQL keeps these locks per database.
const LOCK: i64 = 0x77_61_72_72_65_6e_01;

struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m0001_messages::Migration),
            Box::new(m0002_dead_letters::MIGRATION),
            Box::new(m0003_idempotency::MIGRATION),
            Box::new(m0004_deaths::MIGRATION),
            Box::new(m0005_count_quarters::MIGRATION),
            Box::new(m0006_words::MIGRATION),
            Box::new(m0007_minutes::MIGRATION),
        ]
    }

    fn migration_table_name() -> DynIden {
        Alias::new(TABLE).into_iden()
    }
}

/// What a migration did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrationReport {
    /// The version before, or `None` for a database that had no schema.
    pub before: Option<String>,
    /// The version now.
    pub now: String,
    /// The migrations that were applied, in order; none when the schema was the newest already.
    pub applied: Vec<String>,
    /// The partitions that were made for the coming days.
    pub partitions: Vec<String>,
}

/// Brings the schema to the version of this program and makes the partitions of the coming days.
///
/// Doing it twice changes nothing, and of several at once one works while the others wait, at most
/// `postgres.migrate_timeout`. Each migration is one transaction. The role needs the right to create tables in the
/// first schema of its `search_path`.
///
/// # Errors
/// [`StoreError::Unavailable`] when the server is away, or another migration or the maintenance takes too long,
/// [`StoreError::Misconfigured`] when settings or rights are wrong or the schema is newer than this program.
pub async fn migrate(config: &PostgresConfig) -> Result<MigrationReport, StoreError> {
    let connector = Connector::new(config).map_err(|error| StoreError::Misconfigured {
        reason: error.to_string(),
        cause: None,
    })?;
    let place = connector.place();
    let session = connector.open_unchecked(SessionLimits::migrating(config)).await?;
    let locked = session.run(&format!("select pg_advisory_lock({LOCK})")).await;
    if let Err(failure) = locked {
        return Err(match failure.state() {
            Some(LOCK_TIMED_OUT) => {
                let fault = format!(
                    "another migration has been at work for {:?}",
                    config.migrate_timeout
                );
                unavailable(place, &fault)
            }
            _ => failure.into_store_error(place),
        });
    }
    let found = applied(&session)
        .await
        .map_err(|failure| failure.into_store_error(place))?;
    let known = known();
    refuse_newer(&found, &known, place)?;
    let pending: Vec<_> = known
        .iter()
        .filter(|name| !found.contains(name))
        .cloned()
        .collect();
    if !pending.is_empty() {
        let orm = orm::connect(&connector, 1, orm::Limits::migrating(config)).await?;
        if let Err(error) = Migrator::up(&orm, None).await {
            return Err(refusal(from_orm(error, place), &session, config, place).await);
        }
        orm.close().await.map_err(|error| from_orm(error, place))?;
    }
    let partitions = maintenance::prepare_now(&connector, config, Timestamp::now()).await?;
    session.close().await;
    Ok(MigrationReport {
        before: found.last().cloned(),
        now: known.last().cloned().unwrap_or_default(),
        applied: pending,
        partitions,
    })
}

/// Says who has held a lock for too long, where it is the maintenance, which some migrations wait for.
async fn refusal(error: StoreError, session: &Session, config: &PostgresConfig, place: &str) -> StoreError {
    if !is_of_a_lock(&error) || !matches!(maintenance::is_under_way(session).await, Ok(true)) {
        return error;
    }
    let fault = format!(
        "a round of maintenance has been at work for {:?} (postgres.migrate_timeout); wait until it is over, or stop \
         every store-worker, and run `store-worker migrate` again",
        config.migrate_timeout
    );
    unavailable(place, &fault)
}

fn is_of_a_lock(error: &StoreError) -> bool {
    let StoreError::Unavailable {
        cause: Some(cause), ..
    } = error
    else {
        return false;
    };
    let fault = cause.downcast_ref::<ServerFault>();
    fault.is_some_and(|fault| fault.sqlstate() == LOCK_TIMED_OUT)
}

/// Returns the versions that this program knows, oldest first.
fn known() -> Vec<String> {
    Migrator::migrations()
        .iter()
        .map(|migration| migration.name().to_owned())
        .collect()
}

/// Returns the versions that were applied, oldest first; none when there is no schema at all.
pub(crate) async fn applied(session: &Session) -> Result<Vec<String>, Failure> {
    match session
        .texts(&format!("select version from {TABLE} order by version"))
        .await
    {
        Err(failure) if failure.state() == Some("42P01") => Ok(Vec::new()),
        outcome => outcome,
    }
}

/// Tells whether what was found is what this program writes to.
pub(crate) fn check(found: &[String], place: &str) -> Result<(), StoreError> {
    let known = known();
    refuse_newer(found, &known, place)?;
    if known.iter().all(|name| found.contains(name)) {
        return Ok(());
    }
    let needed = known.last().map_or("", String::as_str);
    let fault = match found.last() {
        None => format!("there is no schema, and this program needs {needed}; run `store-worker migrate`"),
        Some(version) => format!(
            "the schema is {version}, older than {needed}, which this program needs; run `store-worker migrate`"
        ),
    };
    Err(misconfigured(place, &fault, None))
}

fn refuse_newer(found: &[String], known: &[String], place: &str) -> Result<(), StoreError> {
    let Some(newer) = found.iter().rfind(|version| !known.contains(version)) else {
        return Ok(());
    };
    let newest = known.last().map_or("", String::as_str);
    let fault = format!(
        "the schema is {newer}, newer than {newest}, the last this program knows; run the release that made it with \
         `store-worker migrate`, or a later one"
    );
    Err(misconfigured(place, &fault, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_other_version_is_refused_with_the_command_to_run() {
        let known = known();
        assert!(known.is_sorted());
        assert!(check(&known, "db").is_ok());
        let newer = [known.clone(), vec!["m9999_later".to_owned()]].concat();
        for (found, said) in [
            (Vec::new(), "no schema"),
            (vec!["m0000_earlier".to_owned()], "m0000_earlier"),
            (newer, "m9999_later"),
        ] {
            let reason = check(&found, "db").unwrap_err().to_string();
            assert!(reason.contains(said), "{reason}");
            assert!(reason.contains("store-worker migrate"), "{reason}");
            assert!(reason.contains(known.last().unwrap()), "{reason}");
        }
    }
}
