//! The steps of a search, as PostgreSQL does them.

use std::ops::Range;

use tokio_postgres::Row;
use uuid::Uuid;
use warren_domain::ports::Order;
use warren_domain::search::{
    Breath, CountedMinutes, IdRange, Leap, Listed, Meaning, MinuteCount, SearchSteps,
};

use super::reading::{Beginning, Reading};
use super::statements::{QUARTER, Statement};
use super::stored_message;
use super::words::{WordIndex, Words};
use crate::error::Failure;

/// PostgreSQL ended the statement: its time was over.
pub(super) const TIMED_OUT: &str = "57014";

/// One search on one connection.
pub(super) struct Steps<'s> {
    pub(super) reading: &'s Reading<'s>,
    pub(super) beginning: &'s Beginning,
    pub(super) meaning: &'s Meaning<'s>,
    pub(super) words: Words<'s>,
    pub(super) order: Order,
    /// The server, fit to be shown.
    pub(super) place: &'s str,
}

impl Steps<'_> {
    async fn rows(&self, statement: &Statement<'_>) -> Result<Vec<Row>, Failure> {
        self.reading.rows_after(self.beginning, statement).await
    }
}

impl SearchSteps for Steps<'_> {
    type Failure = Failure;

    fn is_slow(failure: &Failure) -> bool {
        failure.state() == Some(TIMED_OUT)
    }

    async fn count(&mut self, minutes: Range<i64>, most: usize) -> Result<CountedMinutes, Failure> {
        let asked = match self.words.ask(most) {
            Some((hashes, most)) => {
                let asking = Statement::words(self.meaning, hashes, self.order, &minutes, most);
                Some(self.rows(&asking).await)
            }
            None => None,
        };
        match asked {
            Some(Ok(rows)) => return self.words.counted(self.order, &rows),
            Some(Err(failure)) if WordIndex::is_at_fault(&failure) => {
                self.words.do_without(failure, self.place);
            }
            Some(Err(failure)) => return Err(failure),
            None => {}
        }
        let counting = Statement::walk_counts(self.meaning, self.order, &minutes, most);
        let mut counted = CountedMinutes::default();
        for row in self.rows(&counting).await? {
            let (minute, stored, meant): (i64, i64, i64) =
                (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            counted.through = row.try_get(3)?;
            if meant > 0 {
                counted.minutes.push(MinuteCount {
                    minute,
                    stored: stored.unsigned_abs(),
                    meant: meant.unsigned_abs(),
                });
            }
        }
        Ok(counted)
    }

    async fn leap(&mut self, minutes: Range<i64>, most: usize) -> Result<Leap, Failure> {
        let leaping = Statement::leap(self.meaning, self.order, &minutes, most);
        let rows = self.rows(&leaping).await?;
        let [row] = &rows[..] else {
            return Ok(Leap::Nowhere);
        };
        let (quarter, appended, edge): (Option<i64>, Option<i64>, Option<i64>) =
            (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let newest = self.order == Order::NewestFirst;
        let first_minute = |quarter: i64| if newest { quarter + QUARTER - 1 } else { quarter };
        let found = [quarter.map(first_minute), appended].into_iter().flatten();
        let nearest = if newest { found.max() } else { found.min() };
        let edge = edge.map(first_minute);
        let beyond =
            |found: &i64| edge.is_some_and(|edge| if newest { *found <= edge } else { *found >= edge });
        Ok(match (nearest.filter(|found| !beyond(found)), edge) {
            (Some(found), _) => Leap::To(found),
            (None, Some(edge)) => Leap::Past(edge),
            (None, None) => Leap::Over,
        })
    }

    async fn edge(&mut self, ids: IdRange, passing: usize) -> Result<Option<Uuid>, Failure> {
        let parts = self.words.parts(ids, self.order);
        if parts.is_empty() {
            return Ok(None);
        }
        let rows = self.rows(&Statement::edge(&parts, self.order, passing)).await?;
        Ok(rows.first().map(|row| row.try_get(0)).transpose()?)
    }

    async fn look(&mut self, ids: IdRange, most: usize, most_bytes: usize) -> Result<Listed, Failure> {
        let parts = self.words.parts(ids, self.order);
        if parts.is_empty() {
            return Ok(Listed {
                messages: Vec::new(),
                cut: false,
            });
        }
        let looking = Statement::look(self.meaning, &parts, self.order, most, most_bytes);
        let rows = self.rows(&looking).await?;
        let mut listed = Listed {
            messages: Vec::with_capacity(rows.len()),
            cut: rows.len() >= most,
        };
        let mut breath = Breath::default();
        for row in &rows {
            let bytes: i64 = row.try_get(8)?;
            listed.cut |= usize::try_from(bytes).is_ok_and(|bytes| bytes >= most_bytes);
            listed.messages.push(stored_message(row, self.place)?);
            breath.after(row.raw_size_bytes()).await;
        }
        Ok(listed)
    }
}
