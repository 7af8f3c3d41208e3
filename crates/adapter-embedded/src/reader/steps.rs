//! The steps of a search, as SQLite does them.

use std::ops::Range;

use sea_orm::sqlx::Row;
use uuid::Uuid;
use warren_domain::ports::Order;
use warren_domain::search::{CountedMinutes, IdRange, Listed, Meaning, MinuteCount, SearchSteps};

use super::failure::Failure;
use super::reading::Reading;
use super::statements::Statement;
use super::stored_message;

/// One search on one connection.
pub(super) struct Steps<'s> {
    pub(super) reading: Reading,
    pub(super) meaning: &'s Meaning<'s>,
    pub(super) order: Order,
}

impl SearchSteps for Steps<'_> {
    type Failure = Failure;

    fn is_slow(failure: &Failure) -> bool {
        failure.is_slow()
    }

    async fn count(&mut self, minutes: Range<i64>, most: usize) -> Result<CountedMinutes, Failure> {
        let counting = Statement::walk_counts(self.meaning, self.order, &minutes, most);
        let mut counted = CountedMinutes::default();
        for row in self.reading.rows(&counting).await? {
            let (stored, meant): (i64, i64) = (row.try_get(1)?, row.try_get(2)?);
            counted.through = row.try_get(3)?;
            if meant > 0 {
                counted.minutes.push(MinuteCount {
                    minute: row.try_get(0)?,
                    stored: stored.unsigned_abs(),
                    meant: meant.unsigned_abs(),
                });
            }
        }
        Ok(counted)
    }

    async fn edge(&mut self, ids: IdRange, passing: usize) -> Result<Option<Uuid>, Failure> {
        let edge = Statement::edge(ids, self.order, passing);
        let rows = self.reading.rows(&edge).await?;
        Ok(rows.first().map(|row| row.try_get(0)).transpose()?)
    }

    async fn look(&mut self, ids: IdRange, most: usize, most_bytes: usize) -> Result<Listed, Failure> {
        let looking = Statement::look(self.meaning, ids, self.order, most);
        let (mut messages, mut bytes) = (Vec::new(), 0);
        let take = |row| -> Result<bool, Failure> {
            let stored = stored_message(&row)?;
            bytes += stored.bytes();
            messages.push(stored);
            Ok(bytes < most_bytes)
        };
        self.reading.each(&looking, take).await?;
        let cut = messages.len() >= most || bytes >= most_bytes;
        Ok(Listed { messages, cut })
    }
}
