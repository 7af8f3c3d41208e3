//! Partitions made ahead and dropped when their time is over, and counts folded.
//!
//! Everything here is done by one process at a time, under an advisory lock that the others do not wait for; each step
//! is a transaction of its own and finds out first what is left to do, so that a round that was cut off is simply
//! finished by the next one.

use std::time::Duration;

use futures_util::future::BoxFuture;
use metrics::counter;
use time::OffsetDateTime;
use tokio::time::sleep;
use tokio_postgres::types::ToSql;
use warren_domain::ports::{Maintained, StoreError};
use warren_domain::{Idempotency, Timestamp};

use crate::config::{PostgresConfig, SessionLimits};
use crate::entity::message::timestamp;
use crate::error::Failure;
use crate::metrics as measured;
use crate::partitions::Day;
use crate::row::{COLUMNS, Moment};
use crate::session::{Connector, Session};
use crate::words::build as words;

/// Held while maintaining; "warren" in ASCII and a number.
const LOCK: i64 = 0x77_61_72_72_65_6e_02;

/// How often a step that did not get its lock is tried in one round.
const TRIES: u32 = 3;
/// The pause before a step is tried again is at least this long and at most twice as long.
const PAUSE: Duration = Duration::from_millis(250);

/// How many rows one statement removes or folds, so that none runs long or holds much.
const SLICE: i64 = 50_000;
/// How many such statements a round has; the next round goes on.
const SLICES: u32 = 200;

/// Does one round; returns `None` when somebody else is maintaining.
pub(crate) async fn round(
    connector: &Connector,
    config: &PostgresConfig,
    retention_days: Option<u32>,
    now: Timestamp,
) -> Result<Option<Maintained>, StoreError> {
    let session = connector.open(SessionLimits::maintaining(config)).await?;
    let outcome = round_on(&session, connector.place(), config, retention_days, now).await;
    match outcome {
        Ok(maintained) => {
            session.close().await;
            Ok(maintained)
        }
        Err(failure) => Err(failure.into_store_error(connector.place())),
    }
}

/// Makes the partitions of the coming days, whoever else may be maintaining; returns those it made.
pub(crate) async fn prepare_now(
    connector: &Connector,
    config: &PostgresConfig,
    now: Timestamp,
) -> Result<Vec<String>, StoreError> {
    let session = connector.open(SessionLimits::maintaining(config)).await?;
    let work = async {
        if lock(&session).await? {
            prepare(&session, config, now).await
        } else {
            Ok(Vec::new())
        }
    };
    let made = work
        .await
        .map_err(|failure: Failure| failure.into_store_error(connector.place()))?;
    session.close().await;
    Ok(made)
}

async fn round_on(
    session: &Session,
    place: &str,
    config: &PostgresConfig,
    retention_days: Option<u32>,
    now: Timestamp,
) -> Result<Option<Maintained>, Failure> {
    if !lock(session).await? {
        words::tell_nothing();
        return Ok(None);
    }
    // Again: a migration that was under way until now has had the lock.
    session.check_schema(place).await?;
    let mut steps = Steps {
        session,
        failure: None,
    };
    // First what needs no lock on the tables: a dump that runs for hours must not keep the counts from being folded.
    steps.next(fold_counts(session)).await?;
    steps.next(forget_tokens(session, config, now)).await?;
    let prepared = steps.next(prepare(session, config, now)).await?;
    let mut removed = None;
    if let Some(days @ 1..) = retention_days {
        let first_kept = Day::of(now).before(days);
        removed = steps.next(drop_before(session, first_kept)).await?;
        steps.next(remove_strays(session, first_kept)).await?;
        steps.next(remove_counts(session, first_kept)).await?;
    }
    // Last, because it may take its time.
    if config.word_index {
        words::round(&mut steps, now).await?;
    }
    match steps.failure {
        Some(failure) => Err(failure),
        None => Ok(Some(Maintained {
            prepared: prepared.unwrap_or_default(),
            removed: removed.unwrap_or_default(),
        })),
    }
}

/// Steps that do not depend on each other: one that fails does not keep the others from being taken.
pub(crate) struct Steps<'s> {
    pub(crate) session: &'s Session,
    /// The first failure, told when all steps are done.
    failure: Option<Failure>,
}

impl Steps<'_> {
    /// Takes a step; returns `None` when it failed.
    ///
    /// # Errors
    /// The first failure of all, once the session is of no more use.
    pub(crate) async fn next<T>(
        &mut self,
        step: impl Future<Output = Result<T, Failure>>,
    ) -> Result<Option<T>, Failure> {
        let failure = match step.await {
            Ok(done) => return Ok(Some(done)),
            Err(failure) => failure,
        };
        let usable = failure.state().is_some() && self.session.run("rollback").await.is_ok();
        let first = self.failure.take().unwrap_or(failure);
        if usable {
            self.failure = Some(first);
            Ok(None)
        } else {
            Err(first)
        }
    }
}

/// Takes the lock for as long as the session lives; `false` when somebody else has it.
async fn lock(session: &Session) -> Result<bool, Failure> {
    let taken = session
        .texts(&format!("select pg_try_advisory_lock({LOCK})"))
        .await?;
    Ok(taken == ["t"])
}

/// Tells whether somebody else is maintaining at the moment.
pub(crate) async fn is_under_way(session: &Session) -> Result<bool, Failure> {
    if !lock(session).await? {
        return Ok(true);
    }
    session
        .texts(&format!("select pg_advisory_unlock({LOCK})"))
        .await?;
    Ok(false)
}

/// Returns the days that have a partition.
async fn days(session: &Session) -> Result<Vec<Day>, Failure> {
    let names = session
        .texts(
            "select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid \
             where i.inhparent = 'messages'::regclass",
        )
        .await?;
    Ok(names.iter().filter_map(|name| Day::of_partition(name)).collect())
}

async fn prepare(session: &Session, config: &PostgresConfig, now: Timestamp) -> Result<Vec<String>, Failure> {
    let (existing, today) = (days(session).await?, Day::of(now));
    let wanted = today
        .before(1)
        .through(today.after(config.partitions_ahead_days.into()));
    let mut made = Vec::new();
    for day in wanted.filter(|day| !existing.contains(day)) {
        retrying(session, || Box::pin(make_partition(session, day))).await?;
        made.push(day.partition());
    }
    Ok(made)
}

/// Makes the partition of a day and moves there what the default partition has of it.
///
/// Writers to other days go on meanwhile; those to the default partition wait for the lock, and one that was on its
/// way there with a row of this very day is told to try again (see `error`).
async fn make_partition(session: &Session, day: Day) -> Result<(), Failure> {
    let (name, from, to) = (day.partition(), day.first_id(), day.after(1).first_id());
    session
        .run(&format!(
            "begin;
             create table {name} (like messages including all);
             lock table messages_default in access exclusive mode"
        ))
        .await?;
    let moved = session
        .within(async {
            let statement = format!(
                "with moved as (
                     delete from messages_default where id >= $1 and id < $2 returning {COLUMNS}, stored_at
                 )
                 insert into {name} ({COLUMNS}, stored_at) select {COLUMNS}, stored_at from moved"
            );
            Ok(session.client().execute(&statement, &[&from, &to]).await?)
        })
        .await?;
    session
        .run(&format!(
            "alter table messages attach partition {name} for values from ('{from}') to ('{to}');
             commit"
        ))
        .await?;
    counter!(measured::MOVED).increment(moved);
    Ok(())
}

/// Drops a day. The lock on `messages` that this takes lets nobody else past, hence the short wait for it.
async fn drop_partition(session: &Session, day: Day) -> Result<(), Failure> {
    session.run(&format!("drop table {}", day.partition())).await
}

/// Adds what was appended to the counts by minute and by quarter of an hour, and to those of whole minutes, and removes it, in slices of one statement
/// each.
async fn fold_counts(session: &Session) -> Result<(), Failure> {
    const FOLD: &str = "\
        with gone as (
            delete from message_count_deltas
            where ctid = any(array(select ctid from message_count_deltas limit $1))
            returning minute, severity, source, count
        ), minutes as (
            insert into message_counts_minutes as folded (minute, severity, source, count)
            select minute, severity, source, sum(count) from gone group by 1, 2, 3 order by 1, 2, 3
            on conflict (minute, severity, source) do update set count = folded.count + excluded.count
        ), totals as (
            insert into message_minutes as folded (minute, stored)
            select minute, sum(count) from gone group by 1 order by 1
            on conflict (minute) do update set stored = folded.stored + excluded.stored
        ), quarters as (
            insert into message_counts_quarters as folded (quarter, severity, source, count)
            select to_timestamp(floor(date_part('epoch', minute) / 900) * 900), severity, source, sum(count)
            from gone group by 1, 2, 3 order by 1, 2, 3
            on conflict (quarter, severity, source) do update set count = folded.count + excluded.count
        )
        select count(*) from gone";
    let folded = in_slices(session, FOLD, &[&SLICE]).await?;
    counter!(measured::FOLDED).increment(folded);
    Ok(())
}

/// Removes the tokens that no repeat can need any more.
async fn forget_tokens(session: &Session, config: &PostgresConfig, now: Timestamp) -> Result<(), Failure> {
    // When the youngest of the last stored records was received: so far the queue has got.
    const NEWEST: &str = "\
        select max(received_at) from (
            select received_at from idempotency_keys order by stored_at desc limit 1000
        ) as newest";
    const FORGET: &str = "\
        with gone as (
            delete from idempotency_keys
            where ctid = any(array(
                select ctid from idempotency_keys where stored_at < $2 order by stored_at limit $1
            ))
            returning 1
        )
        select count(*) from gone";
    let newest: Option<OffsetDateTime> = session
        .within(async { Ok(session.client().query_one(NEWEST, &[]).await?.try_get(0)?) })
        .await?;
    let Some(newest) = newest.and_then(timestamp) else {
        return Ok(());
    };
    let end = Idempotency::forgotten_before(newest, now, config.idempotency_keep);
    let forgotten = in_slices(session, FORGET, &[&SLICE, &Moment(end)]).await?;
    counter!(measured::FORGOTTEN).increment(forgotten);
    Ok(())
}

/// Drops the partitions of the days before `first_kept`; returns what it dropped.
async fn drop_before(session: &Session, first_kept: Day) -> Result<Vec<String>, Failure> {
    let mut expired = days(session).await?;
    expired.retain(|day| *day < first_kept);
    expired.sort_unstable();
    let mut dropped = Vec::new();
    for day in expired {
        retrying(session, || Box::pin(drop_partition(session, day))).await?;
        dropped.push(day.partition());
    }
    Ok(dropped)
}

/// Removes what is older than `first_kept` from the default partition.
async fn remove_strays(session: &Session, first_kept: Day) -> Result<(), Failure> {
    const STRAYS: &str = "\
        with gone as (
            delete from messages_default where id in (
                select id from messages_default where id < $2 order by id limit $1
            ) returning 1
        )
        select count(*) from gone";
    in_slices(session, STRAYS, &[&SLICE, &first_kept.first_id()]).await?;
    Ok(())
}

/// Removes the counts of the time before `first_kept`, and before them the filters that are proved right by them.
async fn remove_counts(session: &Session, first_kept: Day) -> Result<(), Failure> {
    if !words::remove_before(session, first_kept.start(), SLICES).await? {
        return Ok(());
    }
    for (table, time, key) in [
        ("message_minutes", "minute", "minute"),
        ("message_counts_minutes", "minute", "minute, severity, source"),
        ("message_counts_quarters", "quarter", "quarter, severity, source"),
    ] {
        let remove = format!(
            "with gone as (
                delete from {table} where ({key}) in (
                    select {key} from {table} where {time} < $2 order by {time} limit $1
                ) returning 1
            )
            select count(*) from gone"
        );
        in_slices(session, &remove, &[&SLICE, &Moment(first_kept.start())]).await?;
    }
    Ok(())
}

/// Repeats a statement that handles up to [`SLICE`] rows and returns how many, until it finds fewer or the round has
/// had enough; returns how many it handled in all.
async fn in_slices(
    session: &Session,
    statement: &str,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<u64, Failure> {
    let mut all = 0;
    for _ in 0..SLICES {
        let handled: i64 = session
            .within(async {
                let row = session.client().query_one(statement, parameters).await?;
                Ok(row.try_get(0)?)
            })
            .await?;
        all += u64::try_from(handled).unwrap_or(0);
        if handled < SLICE {
            break;
        }
    }
    Ok(all)
}

/// Tries a transaction a few times when it does not get its lock, with a pause in which writers go first.
async fn retrying<'s>(
    session: &'s Session,
    mut step: impl FnMut() -> BoxFuture<'s, Result<(), Failure>>,
) -> Result<(), Failure> {
    let mut tries = 1;
    loop {
        match step().await {
            Err(failure) if failure.state() == Some("55P03") && tries < TRIES => {
                session.run("rollback").await?;
                tries += 1;
                sleep(PAUSE.mul_f64(1.0 + fastrand::f64())).await;
            }
            outcome => return outcome,
        }
    }
}
