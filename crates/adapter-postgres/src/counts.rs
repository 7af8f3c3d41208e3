//! Counts by minute, severity and source, so that charts never scan messages.
//!
//! The minute is the one in the message's id, by which messages are found and kept, so that a chart and a search
//! over the same time agree to the message.
//!
//! Each transaction appends what it adds to `message_count_deltas`, and the maintenance folds that into
//! `message_counts_minutes`, and into `message_counts_quarters` by quarters of an hour, which charts of a day and more are
//! drawn from; the view `message_counts` is the sum of the first two. Updating the shared rows in each transaction was
//! tried: all writers count the same severities and sources in the same minute, so each waits for the other's flush,
//! which takes most of the gain of a second connection and, with four writers and a disk that flushes in 10 ms, more
//! than half of the rate; and one writer that hangs in its transaction holds up all others. Appending costs some 5 %.

use std::collections::HashMap;

use tokio_postgres::types::ToSql;
use warren_domain::{Message, Severity, Timestamp};

use crate::row::{Moment, severity_number};

/// Appends the counts of a batch; takes the columns of [`Deltas`].
pub(crate) const INSERT: &str = "insert into message_count_deltas (minute, severity, source, count) \
    select * from unnest($1::timestamptz[], $2::smallint[], $3::text[], $4::bigint[])";

const MINUTE_MICROS: i64 = 60_000_000;

/// What a batch adds to the counts, a column each.
#[derive(Debug, Default)]
pub(crate) struct Deltas<'a> {
    minutes: Vec<Moment>,
    severities: Vec<i16>,
    sources: Vec<&'a str>,
    counts: Vec<i64>,
}

impl<'a> Deltas<'a> {
    pub(crate) fn of(rows: &[&'a Message]) -> Self {
        let mut tally: HashMap<(Timestamp, Severity, &str), i64> = HashMap::new();
        for message in rows {
            let key = (minute(message), message.severity, message.source.as_str());
            *tally.entry(key).or_default() += 1;
        }
        let mut deltas = Self::default();
        for ((minute, severity, source), count) in tally {
            deltas.minutes.push(Moment(minute));
            deltas.severities.push(severity_number(severity));
            deltas.sources.push(source);
            deltas.counts.push(count);
        }
        deltas
    }

    /// Returns the parameters of [`INSERT`].
    pub(crate) fn parameters(&self) -> [&(dyn ToSql + Sync); 4] {
        [&self.minutes, &self.severities, &self.sources, &self.counts]
    }
}

/// Returns the start of the minute that a message's id carries.
fn minute(message: &Message) -> Timestamp {
    let micros = message.id.timestamp().unix_micros();
    Timestamp::from_unix_micros(micros - micros % MINUTE_MICROS).unwrap_or(Timestamp::MIN)
}
