//! The store, and which way each batch takes.
//!
//! # The write path
//!
//! Three things decide how fast rows get in: how many of them share a statement and a flush, what PostgreSQL has to do
//! for each, and what this program has to. Of the ways there are,
//!
//! - `insert_many` of sea-orm binds a parameter a value: it spends ten times this program's CPU, and is bounded by
//!   65,535 parameters a statement;
//! - `insert … select from unnest(…) on conflict (id) do nothing` binds an array a column, and takes what is
//!   stored already for what it is;
//! - binary COPY into a temporary table, and from there into the table, is no faster than unnest: every row is
//!   written twice;
//! - binary COPY straight into the table is the fastest, half as fast again as unnest, but fails as a whole on the first
//!   message that is stored already.
//!
//! So a batch is copied straight into the table, in the hope that all of it is new, and repeated by unnest when it is not.
//! Only redeliveries bring stored messages, and they come in a row: after a batch that held one, the next goes by
//! unnest at once, until one is all new again. A batch of a few rows goes by unnest as well: that is one statement, which
//! is its own transaction, and so one round trip where COPY needs three. `cargo xtask bench` prints what comes of it beside
//! COPY by a client that does nothing else.
//!
//! COPY is one statement however large the batch is, and so has one statement timeout. A batch that runs into it would
//! do so for ever; it goes by unnest, which cuts it into statements of a bounded number of rows, each with a timeout of its
//! own, within one transaction. So do those after it, for a while.
//!
//! Both ways go over tokio-postgres. sqlx, below sea-orm, does not set `TCP_NODELAY` (as of 0.9.0): a statement longer than
//! a segment waits some 40 ms for the server's delayed acknowledgement, each time. sea-orm has what fits a segment:
//! migrations, entities, queries.
//!
//! # What a transaction holds
//!
//! The rows, their counts (`counts`) and, of keyed messages, their tokens (`claims`). All or nothing is PostgreSQL's; durable is its answer to COMMIT, with
//! `synchronous_commit` on. When that answer does not arrive nobody knows, and the batch is stored again: its ids find out.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use metrics::{counter, histogram};
use tokio::time::timeout;
use warren_domain::ports::{
    HealthCheck, Maintained, MessageStore, StoreError, StoreMaintenance, Stored, Unhealthy,
};
use warren_domain::{Message, SeverityCounts, Timestamp};

use crate::claims::{self, Claimed};
use crate::config::{ConfigError, PostgresConfig, SessionLimits};
use crate::error::Failure;
use crate::pool::{Lease, Pool};
use crate::session::{Connector, WriteSession};
use crate::{copy, maintenance, metrics as measured, row, unnest};

/// A batch of fewer rows than this goes by unnest, in one round trip.
const COPY_FROM_ROWS: usize = 200;

/// SQLSTATE of a statement that was cancelled, by its timeout mostly.
const RAN_OUT: &str = "57014";

/// For how long nothing is copied after a statement that ran into the statement timeout.
const SLOW: Duration = Duration::from_secs(60);

/// For how long a batch that was stored proves that PostgreSQL is well.
const FRESH: Duration = Duration::from_secs(5);
/// How long a look at PostgreSQL may take; `/readyz` promises an answer within two seconds.
const LOOK: Duration = Duration::from_millis(1_500);

/// Stores messages in PostgreSQL.
///
/// `store` takes at most `acquire_timeout` + `connect_timeout` + 4 × (`statement_timeout` + 1 s): 30 s with the default
/// settings, and far less when the server answers at all. A batch of more than 500 rows or 16 MiB that goes by unnest is
/// several statements, each with its own limit; after one that ran into it they are of fewer rows for a while.
#[derive(Debug)]
pub struct PostgresStore {
    connector: Connector,
    config: PostgresConfig,
    retention_days: Option<u32>,
    pool: Pool,
    /// The last batch held messages that were stored already.
    redelivering: AtomicBool,
    /// How much PostgreSQL gets done in one statement.
    pace: Mutex<Pace>,
    known: Mutex<Known>,
}

/// What a transaction did.
#[derive(Debug)]
struct Written {
    inserted: SeverityCounts,
    repeated: u64,
    conflicting: u64,
}

impl Written {
    const fn of(claimed: &Claimed<'_, '_>, inserted: SeverityCounts) -> Self {
        Self {
            inserted,
            repeated: claimed.repeated,
            conflicting: claimed.conflicting,
        }
    }
}

/// What the last batches have shown about PostgreSQL.
#[derive(Debug, Default)]
struct Known {
    well_at: Option<Instant>,
    fault: Option<String>,
}

/// How much one statement gets done within the statement timeout.
///
/// A batch that ran into it is repeated, and would run into it for ever if it came the same way again.
#[derive(Debug)]
struct Pace {
    /// How many rows a statement takes that is not a COPY.
    rows: usize,
    slow_until: Option<Instant>,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            rows: unnest::MOST_ROWS,
            slow_until: None,
        }
    }
}

impl Pace {
    fn is_slow(&self) -> bool {
        self.slow_until.is_some_and(|until| Instant::now() < until)
    }

    /// Tells whether a batch may be copied, in one statement.
    fn copies(&self) -> bool {
        !self.is_slow() && self.rows == unnest::MOST_ROWS
    }

    fn copy_ran_out(&mut self) {
        self.slow_until = Some(Instant::now() + SLOW);
    }

    /// Returns how many rows a statement takes now.
    const fn rows(&self) -> usize {
        self.rows
    }

    /// Notes how long a statement took that was in time: one that had plenty of it left may take twice as many rows. So a
    /// database that was slow for a moment is written at its old speed a few batches later.
    fn statement_was_in_time(&mut self, took: Duration, limit: Duration) {
        if took * 4 <= limit {
            self.rows = (self.rows * 2).min(unnest::MOST_ROWS);
        }
    }

    /// Notes that a statement of at most so many rows took too long.
    fn statement_ran_out(&mut self, rows: usize) {
        self.rows = self.rows.min((rows / 2).max(1));
        self.slow_until = Some(Instant::now() + SLOW);
    }
}

impl PostgresStore {
    /// Checks the settings and reads certificates; connects when the first batch comes.
    ///
    /// `retention_days`: messages are removed when the UTC day of their id lies further back; `None` or 0 keeps them
    /// for ever.
    ///
    /// # Errors
    /// Every setting that cannot be used.
    pub fn new(config: PostgresConfig, retention_days: Option<u32>) -> Result<Self, ConfigError> {
        let connector = Connector::new(&config)?;
        Ok(Self {
            pool: Pool::new(
                connector.clone(),
                &config,
                SessionLimits::writing(&config),
                config.write_connections,
            ),
            connector,
            config,
            retention_days,
            redelivering: AtomicBool::new(false),
            pace: Mutex::default(),
            known: Mutex::default(),
        })
    }

    /// Stops taking batches, lets those under way finish, and closes every connection.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    async fn store_rows(&self, rows: &[&Message]) -> Result<Written, StoreError> {
        let mut again = true;
        loop {
            let lease = self.pool.acquire().await?;
            let failure = match self.write(&lease, rows).await {
                Ok(written) => {
                    lease.give_back();
                    return Ok(written);
                }
                Err(failure) => failure,
            };
            // A COPY that was not done in time has cost its session; smaller statements on another one may be.
            let copy_ran_out = lease.is_closed() && failure.state() == Some(RAN_OUT);
            self.recover(lease, &failure).await;
            if !(copy_ran_out && std::mem::take(&mut again)) {
                return Err(failure.into_store_error(self.connector.place()));
            }
        }
    }

    /// Stores rows one way or the other; returns what was new.
    async fn write(&self, session: &WriteSession, rows: &[&Message]) -> Result<Written, Failure> {
        let keyed = claims::are_in(rows);
        let begun = Instant::now();
        let claimed = if keyed {
            claims::begin(session, rows).await?
        } else {
            Claimed::nothing(rows)
        };
        let many = claimed.rows.len() >= COPY_FROM_ROWS;
        if many && !self.redelivering.load(Ordering::Relaxed) && self.paced(|pace| pace.copies()) {
            match copy::store(session, &claimed.rows, keyed).await {
                Ok(()) => {
                    histogram!(measured::STORE_SECONDS, "path" => "copy").record(begun.elapsed());
                    let inserted = claimed.rows.iter().map(|row| row.severity).collect();
                    return Ok(Written::of(&claimed, inserted));
                }
                Err(failure) if failure.state() == Some("23505") => {
                    counter!(measured::CONFLICTS).increment(1);
                }
                Err(failure) if failure.state() == Some(RAN_OUT) => {
                    self.paced(Pace::copy_ran_out);
                    if session.is_closed() {
                        return Err(failure);
                    }
                }
                Err(failure) => return Err(failure),
            }
            // The tokens are free again, and may be taken by somebody else meanwhile.
            session.run("rollback").await?;
            if keyed {
                let claimed = claims::begin(session, rows).await?;
                return self.write_by_unnest(session, &claimed, keyed).await;
            }
        }
        self.write_by_unnest(session, &claimed, keyed).await
    }

    async fn write_by_unnest(
        &self,
        session: &WriteSession,
        claimed: &Claimed<'_, '_>,
        begun: bool,
    ) -> Result<Written, Failure> {
        let started = Instant::now();
        let most = self.paced(|pace| pace.rows());
        let stored = unnest::store(session, &claimed.rows, begun, most).await;
        if let Err(failure) = &stored
            && failure.state() == Some(RAN_OUT)
        {
            self.paced(|pace| pace.statement_ran_out(claimed.rows.len().min(most)));
        }
        let inserted = stored?;
        let took = started.elapsed();
        let statements = u32::try_from(claimed.rows.len().div_ceil(most)).unwrap_or(u32::MAX);
        let each = took / statements.max(1);
        self.paced(|pace| pace.statement_was_in_time(each, self.config.statement_timeout));
        histogram!(measured::STORE_SECONDS, "path" => "unnest").record(took);
        let all_new = inserted.total() == claimed.rows.len() as u64;
        self.redelivering.store(!all_new, Ordering::Relaxed);
        Ok(Written::of(claimed, inserted))
    }

    fn paced<T>(&self, look: impl FnOnce(&mut Pace) -> T) -> T {
        look(&mut self.pace.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Keeps the connection after a failure that left it whole.
    async fn recover(&self, lease: Lease<'_>, failure: &Failure) {
        if failure.spares_connection() && !lease.is_closed() && lease.run("rollback").await.is_ok() {
            lease.give_back();
        }
    }

    fn learn(&self, outcome: Result<(), String>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(()) => {
                *known = Known {
                    well_at: Some(Instant::now()),
                    fault: None,
                }
            }
            Err(fault) => {
                *known = Known {
                    well_at: None,
                    fault: Some(fault),
                }
            }
        }
    }

    fn was_well_just_now(&self) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.well_at.is_some_and(|at| at.elapsed() < FRESH)
    }

    /// Looks whether PostgreSQL takes writes, and from us: by the statement that stores, which is then taken back.
    ///
    /// Rights, a standby, a lock on a table, a trigger and a missing partition show themselves so, because nothing
    /// is asked but what a batch asks. What only a commit would show does not: a full disk mostly, and a synchronous
    /// replica that is away. A commit for every look would leave a row, or a session that waits for that replica.
    async fn look(&self) -> Result<(), StoreError> {
        let place = self.connector.place();
        let lease = self.pool.acquire().await?;
        let looked = async {
            lease.check_schema(place).await?;
            unnest::rehearse(&lease).await?;
            claims::rehearse(&lease).await
        };
        // Given back only when all is well: what a session was told about writing when it began may be over for the
        // next one.
        match looked.await.map_err(|failure| failure.into_store_error(place)) {
            Ok(()) => {
                lease.give_back();
                Ok(())
            }
            // Some rule of the database's does not like this one message, and so was asked.
            Err(StoreError::Rejected { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

#[async_trait]
impl MessageStore for PostgresStore {
    async fn store(&self, batch: &[Message]) -> Result<Stored, StoreError> {
        if batch.is_empty() {
            return Ok(Stored::default());
        }
        let (rows, mut duplicates) = row::distinct(batch);
        match self.store_rows(&rows).await {
            Ok(Written {
                inserted,
                repeated,
                conflicting,
            }) => {
                self.learn(Ok(()));
                for (severity, count) in rows
                    .iter()
                    .map(|row| row.severity)
                    .collect::<SeverityCounts>()
                    .iter()
                {
                    duplicates.add(severity, count.saturating_sub(inserted.get(severity)));
                }
                Ok(Stored {
                    inserted,
                    duplicates,
                    repeated,
                    conflicting,
                })
            }
            Err(error) => {
                match &error {
                    // The server is well; a message is not.
                    StoreError::Rejected { .. } => self.learn(Ok(())),
                    StoreError::Unavailable { .. } | StoreError::Misconfigured { .. } => {
                        self.learn(Err(error.to_string()));
                    }
                }
                Err(measured::failed(error))
            }
        }
    }
}

#[async_trait]
impl StoreMaintenance for PostgresStore {
    async fn maintain(&self, now: Timestamp) -> Result<Maintained, StoreError> {
        let begun = Instant::now();
        let round = maintenance::round(&self.connector, &self.config, self.retention_days, now).await;
        let outcome = match &round {
            Ok(Some(_)) => "done",
            Ok(None) => "busy",
            Err(_) => "failed",
        };
        histogram!(measured::MAINTENANCE_SECONDS, "outcome" => outcome).record(begun.elapsed());
        Ok(round.map_err(measured::failed)?.unwrap_or_default())
    }
}

#[async_trait]
impl HealthCheck for PostgresStore {
    fn name(&self) -> &'static str {
        "postgres"
    }

    async fn check(&self) -> Result<(), Unhealthy> {
        if self.was_well_just_now() {
            return Ok(());
        }
        match timeout(LOOK, self.look()).await {
            Ok(Ok(())) => {
                self.learn(Ok(()));
                Ok(())
            }
            Ok(Err(error)) => {
                self.learn(Err(error.to_string()));
                Err(Unhealthy(error.to_string()))
            }
            Err(_) => {
                let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
                let silent = || {
                    format!(
                        "PostgreSQL at {}: no answer within {LOOK:?}",
                        self.connector.place()
                    )
                };
                Err(Unhealthy(known.fault.clone().unwrap_or_else(silent)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_get_smaller_until_they_are_in_time_and_larger_again_when_they_have_time_left() {
        let limit = Duration::from_secs(4);
        let mut pace = Pace::default();
        let mut sizes = Vec::new();
        for _ in 0..12 {
            let rows = pace.rows();
            pace.statement_ran_out(rows);
            sizes.push(pace.rows());
        }
        assert_eq!(
            sizes[..3],
            [
                unnest::MOST_ROWS / 2,
                unnest::MOST_ROWS / 4,
                unnest::MOST_ROWS / 8
            ]
        );
        assert_eq!(sizes.last(), Some(&1));
        pace.statement_was_in_time(Duration::from_millis(1_001), limit);
        assert_eq!(pace.rows(), 1, "twice as many might not be in time");
        let mut batches = 0;
        while pace.rows() < unnest::MOST_ROWS {
            pace.statement_was_in_time(Duration::from_secs(1), limit);
            batches += 1;
        }
        assert_eq!(batches, 9);
        assert!(!pace.copies(), "a COPY has no size to get smaller by");
    }
}
