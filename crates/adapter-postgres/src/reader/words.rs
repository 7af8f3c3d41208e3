//! Which of the rows before it a search has to look at, by the filters of words.

use std::collections::HashMap;

use tokio_postgres::Row;
use warren_domain::ports::Order;
use warren_domain::search::{IdRange, Meaning, MinuteCount};

use super::statements::Statement;
use crate::error::Failure;
use crate::words::filter::hashes;
use crate::words::narrow::{Block, narrow};

/// How many minutes filters are asked about at once.
const MOST_MINUTES: i64 = 20_000;

/// What one search knows of filters.
#[derive(Debug)]
pub(super) struct Words {
    hashes: Vec<i32>,
    /// How many messages the minutes have that were counted last.
    counted: HashMap<i64, u64>,
}

impl Words {
    /// Begins a search; one that does not heed filters unless it may.
    pub(super) fn of(meaning: &Meaning<'_>, may: bool) -> Self {
        let wanted = meaning.texts.iter().filter(|(_, negated)| may && !negated);
        Self {
            hashes: hashes(wanted.map(|(text, _)| *text)),
            counted: HashMap::new(),
        }
    }

    /// Takes the counts that were read last; filters are read after them.
    pub(super) fn counted(&mut self, minutes: &[MinuteCount]) {
        self.counted = minutes.iter().map(|count| (count.minute, count.stored)).collect();
    }

    /// Asks what the filters say of some ids, unless that is known to be nothing.
    pub(super) fn ask(&self, ids: IdRange) -> Option<Statement<'_>> {
        let mut minutes = ids.minutes();
        let asks = !self.hashes.is_empty()
            && minutes.end - minutes.start <= MOST_MINUTES
            && minutes.any(|minute| self.counted.contains_key(&minute));
        asks.then(|| Statement::words(&self.hashes, ids))
    }

    /// Returns the parts of these ids that have to be looked at, in order.
    pub(super) fn parts(&self, ids: IdRange, order: Order, rows: &[Row]) -> Result<Vec<IdRange>, Failure> {
        let blocks = rows.iter().map(block).collect::<Result<Vec<_>, _>>()?;
        Ok(narrow(ids, order, &self.counted, &blocks))
    }
}

fn block(row: &Row) -> Result<Block, tokio_postgres::Error> {
    let stored: i64 = row.try_get(1)?;
    Ok(Block {
        minute: row.try_get(0)?,
        stored: stored.unsigned_abs(),
        first: row.try_get(2)?,
        last: row.try_get(3)?,
        may: row.try_get(4)?,
    })
}
