//! Makes the filters of minutes that are over, and removes those of days that are.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use metrics::counter;
use time::OffsetDateTime;
use tokio::task::yield_now;
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

const DUE: &str = "select minute from message_words_due where minute < $1 order by minute desc limit $2";

/// Statistics lag behind a table that grows, and a minute is read in the order of the key whatever they say: a bitmap has no
/// order, and with it the whole rest of the minute would be read for each part. What a crash takes back of filters is due
/// again, so nobody waits for the disk.
const BEGIN: &str = "begin isolation level repeatable read; set local enable_seqscan = off; \
    set local enable_bitmapscan = off; set local jit = off; set local max_parallel_workers_per_gather = 0; \
    set local synchronous_commit = off";

const STORED: &str = "select coalesce(sum(count), 0)::bigint from (
        select count from message_counts_minutes where minute = $1
        union all select count from message_count_deltas where minute = $1
    ) as counts";

const ROWS: &str = "select id, body from (
        select id, body, sum(octet_length(body)) over (order by id rows unbounded preceding) as bytes
        from (select id, body from messages where id > $1 and id < $2 order by id limit $3) as next
    ) as measured
    where bytes - octet_length(body) < $4 order by id";

const KEEP: &str = "insert into message_words (minute, part, stored, first_id, last_id, filter)
    values ($1, $2, $3, $4, $5, $6)";

const FORGET: &str = "delete from message_words where minute = $1";

const DONE: &str = "delete from message_words_due where minute = $1";

/// Makes filters for minutes that have changed and are over, until the round's time is.
///
/// Each minute is a transaction, so a round that is cut off has done what it has done, and one that fails keeps no other from
/// its filters.
///
/// # Errors
/// The first failure of all, once the session is of no more use.
pub(crate) async fn round(steps: &mut Steps<'_>, now: Timestamp) -> Result<(), Failure> {
    let mut filter = Filter::new();
    let mut left = ROUND;
    for age in [SETTLED, OVER] {
        let begun = Instant::now();
        let most = left.min(if age == SETTLED { ROUND / 2 } else { ROUND });
        let due = steps.next(due(steps.session, before(now, age))).await?;
        for minute in due.unwrap_or_default() {
            if begun.elapsed() > most {
                break;
            }
            steps
                .next(self::minute(steps.session, minute, &mut filter))
                .await?;
        }
        left -= begun.elapsed().min(most);
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

/// Returns the moment that minutes begin before which ended so long ago.
fn before(now: Timestamp, age: Duration) -> Timestamp {
    Timestamp::from_unix_micros(now.unix_micros() - micros(age) - MINUTE_MICROS).unwrap_or(Timestamp::MIN)
}

/// Makes the filters of a minute, as it is now.
async fn minute(session: &Session, minute: OffsetDateTime, filter: &mut Filter) -> Result<(), Failure> {
    session.run(BEGIN).await?;
    let stored: i64 = session
        .within(async {
            let rows = session
                .client()
                .query_typed(STORED, &[(&minute, Type::TIMESTAMPTZ)])
                .await?;
            Ok(rows.first().map_or(Ok(0), |row| row.try_get(0))?)
        })
        .await?;
    run(session, FORGET, &[(&minute, Type::TIMESTAMPTZ)]).await?;
    let mut messages = 0;
    if WORTH_IT.contains(&stored) {
        messages = parts(session, minute, stored, filter).await?;
        if messages != stored {
            // Both are of one snapshot. Where rows are out of sight, as in a partition that was detached, filters of the others
            // would be right by a count that is of all.
            tracing::warn!(
                %minute, stored, messages,
                "a minute has not as many messages as were counted, and gets no filters: searches for words look at all of it"
            );
            run(session, FORGET, &[(&minute, Type::TIMESTAMPTZ)]).await?;
        }
    }
    run(session, DONE, &[(&minute, Type::TIMESTAMPTZ)]).await?;
    session.run("commit").await?;
    counter!(measured::INDEXED).increment(messages.unsigned_abs());
    Ok(())
}

/// Makes the filters of a minute, one after the other; returns how many messages they are of.
///
/// Once it has found more than the minute is said to have, it leaves off.
async fn parts(
    session: &Session,
    minute: OffsetDateTime,
    stored: i64,
    filter: &mut Filter,
) -> Result<i64, Failure> {
    let (mut after, end) = ids(minute);
    // Neither is more than 2^20.
    let (most_rows, most_bytes) = (MOST_ROWS as i64, MOST_BYTES as i64);
    let mut messages = 0;
    for part in 0_i32.. {
        let rows = session
            .within(async {
                let parameters: [(&(dyn ToSql + Sync), Type); 4] = [
                    (&after, Type::UUID),
                    (&end, Type::UUID),
                    (&most_rows, Type::INT8),
                    (&most_bytes, Type::INT8),
                ];
                Ok(session.client().query_typed(ROWS, &parameters).await?)
            })
            .await?;
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else {
            break;
        };
        let (first_id, last_id): (Uuid, Uuid) = (first.try_get(0)?, last.try_get(0)?);
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
        let made = filter.take();
        let values: [(&(dyn ToSql + Sync), Type); 6] = [
            (&minute, Type::TIMESTAMPTZ),
            (&part, Type::INT4),
            (&stored, Type::INT8),
            (&first_id, Type::UUID),
            (&last_id, Type::UUID),
            (&made, Type::BYTEA),
        ];
        run(session, KEEP, &values).await?;
        if (rows.len() < MOST_ROWS && bytes < MOST_BYTES) || messages > stored {
            break;
        }
        after = last_id;
    }
    Ok(messages)
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
    const DUE: &str = "delete from message_words_due where minute < $1";
    run(session, DUE, &[(&Moment(first_kept), Type::TIMESTAMPTZ)]).await?;
    for _ in 0..slices {
        let parameters: [(&(dyn ToSql + Sync), Type); 2] =
            [(&Moment(first_kept), Type::TIMESTAMPTZ), (&SLICE, Type::INT8)];
        if run(session, WORDS, &parameters).await? < SLICE.unsigned_abs() {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn run(
    session: &Session,
    text: &str,
    parameters: &[(&(dyn ToSql + Sync), Type)],
) -> Result<u64, Failure> {
    session
        .within(async {
            // Typed, so that it is planned with its values; the answer of a statement without rows is how many it touched.
            let statement = format!("with touched as ({text} returning 1) select count(*) from touched");
            let rows = session.client().query_typed(&statement, parameters).await?;
            let touched: i64 = rows.first().map_or(Ok(0), |row| row.try_get(0))?;
            Ok(touched.unsigned_abs())
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
