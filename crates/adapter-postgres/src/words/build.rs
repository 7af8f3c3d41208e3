//! Makes the filters of minutes that are over, and removes those of days that are.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use futures_util::future::{join, join3};
use metrics::{counter, gauge};
use time::OffsetDateTime;
use tokio::task::yield_now;
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;
use warren_domain::Timestamp;

use super::filter::Filter;
use crate::error::Failure;
use crate::maintenance::Steps;
use crate::metrics as measured;
use crate::row::Moment;
use crate::session::Session;

/// For how long one round makes filters; the last minute it has begun it finishes.
const ROUND: Duration = Duration::from_secs(10);
/// For how long while it is behind. What else the round does has to wait meanwhile, the folding of counts above all.
const LONG_ROUND: Duration = Duration::from_secs(30);
/// It is behind while more minutes than this are settled and due.
const BEHIND: usize = 10;
/// How many minutes a part of a round takes up at most.
const MOST_MINUTES: i64 = 10_000;
/// How long after its end a minute is taken for over: by then its rows are stored, unless a queue holds them.
const OVER: Duration = Duration::from_secs(120);
/// And how long for settled: clients that keep messages back have sent them, so its filters stay right. Half of a round belongs to
/// such minutes, so that younger ones, which may have to be made anew in each round, do not keep them waiting for ever.
const SETTLED: Duration = Duration::from_secs(600);

/// How many rows a filter is of at most…
const MOST_ROWS: usize = 4_096;
/// …and how many bytes of their bodies; it may be longer by one body.
const MOST_BYTES: usize = 1 << 20;
/// After how many rows another task may have the thread.
const BREATH: usize = 256;
/// How many rows a minute has that gets filters. One of fewer is looked at as quickly as its filter; one of more would
/// be half a minute in one transaction or longer, before which no row can be vacuumed, and again whenever it grows.
const WORTH_IT: RangeInclusive<i64> = 64..=2_000_000;

/// How many filters one statement removes, of up to half a MiB each.
const SLICE: i64 = 1_000;

const DUE: &str = "select minute from message_minutes where indexed is distinct from stored and minute < $1
    order by minute desc limit $2";

const LEFT: &str = "select count(*), min(minute) from message_minutes
    where indexed is distinct from stored and minute < $1";

/// Statistics lag behind a table that grows, and a minute is read in the order of the key whatever they say: a bitmap has no
/// order, and with it the whole rest of the minute would be read for each part. What a crash takes back of filters is due
/// again, so nobody waits for the disk.
const BEGIN: &str = "begin isolation level repeatable read; set local enable_seqscan = off; \
    set local enable_bitmapscan = off; set local jit = off; set local max_parallel_workers_per_gather = 0; \
    set local synchronous_commit = off";

const STORED: &str = "select stored from message_minutes where minute = $1";

const APPENDED: &str = "select coalesce(sum(count), 0)::bigint from message_count_deltas where minute = $1";

const ROWS: &str = "select id, body from (
        select id, body, sum(octet_length(body)) over (order by id rows unbounded preceding) as bytes
        from (select id, body from messages where id > $1 and id < $2 order by id limit $3) as next
    ) as measured
    where bytes - octet_length(body) < $4 order by id";

const KEEP: &str = "insert into message_words (minute, part, stored, first_id, last_id, filter)
    values ($1, $2, $3, $4, $5, $6)";

const FORGET: &str = "delete from message_words where minute = $1";

/// Fails if somebody has folded counts of the minute meanwhile.
const DONE: &str = "update message_minutes set indexed = stored where minute = $1";

/// Makes filters for minutes that have changed and are over, until the round's time is.
///
/// Each minute is a transaction, so a round that is cut off has done what it has done, and one that fails keeps no other from
/// its filters.
///
/// # Errors
/// The first failure of all, once the session is of no more use.
pub(crate) async fn round(steps: &mut Steps<'_>, now: Timestamp) -> Result<(), Failure> {
    let mut filter = Filter::new();
    let settled = steps.next(due(steps.session, before(now, SETTLED))).await?;
    // What failed is kept by the steps, which fail the round in the end; the minutes beside it get their filters.
    let settled = settled.unwrap_or_default();
    let time = if settled.len() > BEHIND { LONG_ROUND } else { ROUND };
    let begun = Instant::now();
    make(steps, &settled, time / 2, &mut filter).await?;
    let others = steps.next(due(steps.session, before(now, OVER))).await?;
    let left = time.saturating_sub(begun.elapsed());
    make(steps, &others.unwrap_or_default(), left, &mut filter).await?;
    if let Some((minutes, oldest)) = steps.next(left_over(steps.session, before(now, OVER))).await? {
        let oldest = oldest.map_or(now.unix_micros(), |oldest| oldest.unix_timestamp() * 1_000_000);
        let age = before(now, OVER).unix_micros() - oldest;
        tell(minutes, Duration::from_micros(u64::try_from(age).unwrap_or(0)));
    }
    Ok(())
}

/// Makes the filters of these minutes, one after the other, for so long.
async fn make(
    steps: &mut Steps<'_>,
    minutes: &[OffsetDateTime],
    time: Duration,
    filter: &mut Filter,
) -> Result<(), Failure> {
    let begun = Instant::now();
    for minute in minutes {
        if begun.elapsed() > time {
            break;
        }
        steps.next(self::minute(steps.session, *minute, filter)).await?;
    }
    Ok(())
}

/// Returns the minutes before a moment that are to be looked at again, the newest first.
async fn due(session: &Session, before: Timestamp) -> Result<Vec<OffsetDateTime>, Failure> {
    let parameters: [(&(dyn ToSql + Sync), Type); 2] =
        [(&Moment(before), Type::TIMESTAMPTZ), (&MOST_MINUTES, Type::INT8)];
    session
        .within(async {
            let rows = session.client().query_typed(DUE, &parameters).await?;
            Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
        })
        .await
}

/// Returns how many minutes before a moment are due, and the oldest of them.
async fn left_over(session: &Session, before: Timestamp) -> Result<(i64, Option<OffsetDateTime>), Failure> {
    let parameters: [(&(dyn ToSql + Sync), Type); 1] = [(&Moment(before), Type::TIMESTAMPTZ)];
    session
        .within(async {
            let rows = session.client().query_typed(LEFT, &parameters).await?;
            let Some(row) = rows.first() else {
                return Ok((0, None));
            };
            Ok((row.try_get(0)?, row.try_get(1)?))
        })
        .await
}

/// Shows how far behind the index is.
fn tell(minutes: i64, age: Duration) {
    gauge!(measured::DUE_MINUTES).set(minutes as f64);
    gauge!(measured::DUE_SECONDS).set(age.as_secs_f64());
}

/// Shows that this process does not know how far behind the index is, because another one maintains.
pub(crate) fn tell_nothing() {
    tell(0, Duration::ZERO);
}

/// Returns the moment that minutes begin before which ended so long ago.
fn before(now: Timestamp, age: Duration) -> Timestamp {
    Timestamp::from_unix_micros(now.unix_micros() - micros(age) - MINUTE_MICROS).unwrap_or(Timestamp::MIN)
}

/// Makes the filters of a minute, as it is now.
///
/// Messages that were stored since counts were folded last leave it due, whatever it has: the next round knows of them.
async fn minute(session: &Session, minute: OffsetDateTime, filter: &mut Filter) -> Result<(), Failure> {
    let of_minute: [(&(dyn ToSql + Sync), Type); 1] = [(&minute, Type::TIMESTAMPTZ)];
    // Sent at once, each time; what fails makes what follows fail.
    let (begun, stored, forgotten) = join3(
        session.run(BEGIN),
        number(session, STORED, &of_minute),
        run(session, FORGET, &of_minute),
    )
    .await;
    begun?;
    let stored = stored?;
    forgotten?;
    let (mut messages, mut last) = (0, None);
    if WORTH_IT.contains(&stored) {
        (messages, last) = parts(session, minute, stored, filter).await?;
        if messages != stored {
            // Both are of one snapshot.
            if messages == stored + number(session, APPENDED, &of_minute).await? {
                return session.run("rollback").await;
            }
            // Where rows are out of sight, as in a partition that was detached, filters of the others would be right by a count
            // that is of all.
            tracing::warn!(
                %minute, stored, messages,
                "a minute has not as many messages as were counted, and gets no filters: searches for words look at all of it"
            );
            last = None;
            run(session, FORGET, &of_minute).await?;
        }
    }
    let keeping = async {
        match &last {
            Some(part) => keep(session, minute, stored, part).await,
            None => Ok(()),
        }
    };
    let (kept, done, ended) = join3(keeping, run(session, DONE, &of_minute), session.run("commit")).await;
    kept?;
    done?;
    ended?;
    counter!(measured::INDEXED).increment(messages.unsigned_abs());
    Ok(())
}

/// A part of a minute, and its filter.
struct Part {
    number: i32,
    first: Uuid,
    last: Uuid,
    filter: Vec<u8>,
}

/// Makes the filters of a minute, one after the other, and keeps all but the last, which it returns; and how many messages they
/// are of.
///
/// Once it has found more than the minute is said to have, it leaves off.
async fn parts(
    session: &Session,
    minute: OffsetDateTime,
    stored: i64,
    filter: &mut Filter,
) -> Result<(i64, Option<Part>), Failure> {
    let (mut after, end) = ids(minute);
    let (mut messages, mut made) = (0, None::<Part>);
    for part in 0_i32.. {
        let keeping = async {
            match &made {
                Some(part) => keep(session, minute, stored, part).await,
                None => Ok(()),
            }
        };
        let (kept, rows) = join(keeping, rows(session, after, end)).await;
        kept?;
        let rows = rows?;
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else {
            return Ok((messages, None));
        };
        let (first, last): (Uuid, Uuid) = (first.try_get(0)?, last.try_get(0)?);
        // At most as many as were asked for.
        messages += rows.len() as i64;
        let mut bytes = 0;
        for rows in rows.chunks(BREATH) {
            for row in rows {
                let body: &str = row.try_get(1)?;
                bytes += body.len();
                filter.add(body);
            }
            yield_now().await;
        }
        made = Some(Part {
            number: part,
            first,
            last,
            filter: filter.take(),
        });
        if (rows.len() < MOST_ROWS && bytes < MOST_BYTES) || messages > stored {
            break;
        }
        after = last;
    }
    Ok((messages, made))
}

/// Reads the next rows of a minute, as many as a filter is of.
async fn rows(session: &Session, after: Uuid, end: Uuid) -> Result<Vec<Row>, Failure> {
    // Neither is more than 2^20.
    let (most_rows, most_bytes) = (MOST_ROWS as i64, MOST_BYTES as i64);
    let parameters: [(&(dyn ToSql + Sync), Type); 4] = [
        (&after, Type::UUID),
        (&end, Type::UUID),
        (&most_rows, Type::INT8),
        (&most_bytes, Type::INT8),
    ];
    session
        .within(async { Ok(session.client().query_typed(ROWS, &parameters).await?) })
        .await
}

async fn keep(session: &Session, minute: OffsetDateTime, stored: i64, part: &Part) -> Result<(), Failure> {
    let values: [(&(dyn ToSql + Sync), Type); 6] = [
        (&minute, Type::TIMESTAMPTZ),
        (&part.number, Type::INT4),
        (&stored, Type::INT8),
        (&part.first, Type::UUID),
        (&part.last, Type::UUID),
        (&part.filter, Type::BYTEA),
    ];
    run(session, KEEP, &values).await?;
    Ok(())
}

/// Removes the filters of the time before a day; returns whether there are none any more.
///
/// # Errors
/// As the statements.
pub(crate) async fn remove_before(
    session: &Session,
    first_kept: Timestamp,
    slices: u32,
) -> Result<bool, Failure> {
    const WORDS: &str = "delete from message_words where (minute, part) in (
            select minute, part from message_words where minute < $1 order by minute limit $2
        )";
    for _ in 0..slices {
        let parameters: [(&(dyn ToSql + Sync), Type); 2] =
            [(&Moment(first_kept), Type::TIMESTAMPTZ), (&SLICE, Type::INT8)];
        if run(session, WORDS, &parameters).await? < SLICE.unsigned_abs() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Runs a statement that changes rows; returns how many.
async fn run(
    session: &Session,
    text: &str,
    parameters: &[(&(dyn ToSql + Sync), Type)],
) -> Result<u64, Failure> {
    let statement = format!("with touched as ({text} returning 1) select count(*) from touched");
    Ok(number(session, &statement, parameters).await?.unsigned_abs())
}

/// Returns the number that a query yields, or 0 without one.
async fn number(
    session: &Session,
    query: &str,
    parameters: &[(&(dyn ToSql + Sync), Type)],
) -> Result<i64, Failure> {
    session
        .within(async {
            // Typed, so that it is planned with its values.
            let rows = session.client().query_typed(query, parameters).await?;
            Ok(rows.first().map_or(Ok(0), |row| row.try_get(0))?)
        })
        .await
}

const MINUTE_MICROS: i64 = 60_000_000;

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// Returns the ids that those of a minute lie between; no message has one of these two.
fn ids(minute: OffsetDateTime) -> (Uuid, Uuid) {
    let minute = u128::from(minute.unix_timestamp().max(0).unsigned_abs() / 60);
    let first = |minute: u128| Uuid::from_u128((minute * 60_000) << 80);
    (first(minute), first(minute + 1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use warren_domain::MessageId;

    use super::*;

    proptest! {
        #[test]
        fn an_id_lies_between_those_of_its_minute(millis in 0_u128..4_000_000_000_000, rest in any::<u128>()) {
            let rest = rest & 0x0fff_3fff_ffff_ffff_ffff | 0x7000_8000_0000_0000_0000;
            let id = MessageId::try_from(Uuid::from_u128(millis << 80 | rest)).unwrap();
            let seconds = id.timestamp().unix_micros() / MINUTE_MICROS * 60;
            let (after, end) = ids(OffsetDateTime::from_unix_timestamp(seconds).unwrap());
            prop_assert!(after < id.as_uuid() && id.as_uuid() < end);
        }
    }
}
