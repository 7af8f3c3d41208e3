//! What keeps the log small: no group but the way into the store may hold it up.

use std::sync::Arc;

use metrics::counter;
use sea_orm::sqlx::{self, AssertSqlSafe, Row};
use warren_domain::ports::StartAt;
use warren_domain::{Selection, SeveritySet, Timestamp};

use super::Joining;
use super::group::{Group, Membership, Position};
use super::groups::write_severities;
use super::head::Amount;
use super::rows::heard;
use super::writer::Writer;
use crate::database::{checkpoint, shrink};
use crate::error::chain;
use crate::metrics::GROUP_DROPPED;
use crate::section::Section;
use crate::space::Footprint;

/// How many free pages one statement gives back; publishing waits for it.
const SHRINK_PAGES: u32 = 64;
/// How many such statements one round of upkeep runs.
const SHRINK_STEPS: usize = 16;
const SKIP_ROWS: usize = 1_000;

/// Tells whether the free pages of a file are few enough to keep: they are soon written again.
pub(crate) const fn keep_free(footprint: Footprint) -> bool {
    const ALWAYS: u64 = 4 << 20;
    footprint.free <= ALWAYS || footprint.free <= footprint.used / 8
}

impl Writer {
    /// Finds a group, or makes it: a new one begins at the oldest row that the log still holds, or behind the last.
    ///
    /// A group without members that comes back with another selection goes on where it was, with the new one. Whoever
    /// begins with what comes next drops what waits, for the other members too.
    pub(super) async fn join(&mut self, joining: Joining) -> Result<Membership, sqlx::Error> {
        let Joining {
            name,
            selection,
            start,
        } = joining;
        let known = self.groups.get(&name).cloned();
        let group = match known {
            Some(known) if *known.selection() == selection => known,
            Some(known) if known.has_members() => {
                tracing::warn!(
                    group = name,
                    heard = ?known.selection(),
                    asked = ?selection,
                    "members of one consumer group ask for different messages; what the first one selects holds"
                );
                known
            }
            Some(known) => {
                let mut at = known.position();
                if known.severities() != selection.severities {
                    at.passed = self.passed_at(at.cursor, selection.severities).await?;
                }
                self.found(name, selection, at).await?
            }
            None => {
                let at = self.beginning(selection.severities, start).await?;
                self.found(name, selection, at).await?
            }
        };
        if start == StartAt::New {
            let messages = group.skip_waiting(&self.head.borrow());
            self.parts.settled.notify_one();
            if messages > 0 {
                tracing::info!(
                    group = group.name(),
                    messages,
                    "a consumer begins with what comes next; what waited was dropped"
                );
            }
        }
        Ok(group.join(Timestamp::now().unix_micros()))
    }

    /// Returns where a group begins that was not there before.
    async fn beginning(&mut self, severities: SeveritySet, start: StartAt) -> Result<Position, sqlx::Error> {
        let head = *self.head.borrow();
        let cursor = match start {
            StartAt::New => head.seq,
            StartAt::Oldest => sqlx::query("select ifnull((select min(seq) - 1 from log), ?)")
                .bind(head.seq)
                .fetch_one(self.pen.get()?)
                .await?
                .try_get(0)?,
        };
        Ok(Position {
            cursor,
            passed: self.passed_at(cursor, severities).await?,
            delivered_to: cursor,
        })
    }

    /// Returns what a group of `severities` has passed that stands at `cursor`; reads what is behind it in the log, and
    /// nothing is published meanwhile.
    async fn passed_at(&mut self, cursor: i64, severities: SeveritySet) -> Result<Amount, sqlx::Error> {
        let sql = format!(
            "select ifnull(sum(messages), 0), ifnull(sum(length(lines)), 0), count(*) from log \
             where seq > ? and {}",
            heard(severities)
        );
        let row = sqlx::query(AssertSqlSafe(sql))
            .bind(cursor)
            .fetch_one(self.pen.get()?)
            .await?;
        let number = |index: usize| row.try_get::<i64, _>(index).map(i64::unsigned_abs);
        let waiting = Amount {
            messages: number(0)?,
            bytes: number(1)?,
            packets: number(2)?,
        };
        Ok(self.head.borrow().offered_to(severities) - waiting)
    }

    /// Writes a group down, in place of one of the same name.
    async fn found(
        &mut self,
        name: String,
        selection: Selection,
        at: Position,
    ) -> Result<Arc<Group>, sqlx::Error> {
        let now = Timestamp::now().unix_micros();
        sqlx::query(
            "insert or replace into groups (name, severities, cursor, passed_messages, passed_bytes, \
             passed_packets, delivered_to, attended_at) values (?,?,?,?,?,?,-1,?)",
        )
        .bind(&name)
        .bind(write_severities(selection.severities))
        .bind(at.cursor)
        .bind(at.passed.messages as i64)
        .bind(at.passed.bytes as i64)
        .bind(at.passed.packets as i64)
        .bind(now)
        .execute(self.pen.get()?)
        .await?;
        let group = Arc::new(Group::new(name, selection, at, now));
        self.groups.insert(Arc::clone(&group));
        Ok(group)
    }

    /// Drops named groups that nobody attends and what lags too far behind; gives free pages back.
    ///
    /// Does nothing once the disk has failed.
    pub(super) async fn tend(&mut self) {
        if self.parts.condition.broken().is_some() {
            self.report();
            return;
        }
        self.probe().await;
        let tended = self.tend_groups().await;
        if let Err(error) = self.heeded(tended) {
            tracing::warn!(
                error = chain(&error),
                "the queue's consumer groups cannot be tended"
            );
        }
        self.measure_or_log().await;
        if !self.is_full() {
            self.parts.condition.set_room();
        }
        let shrunk = self.shrink().await;
        if let Err(error) = self.heeded(shrunk) {
            tracing::warn!(
                error = chain(&error),
                "free pages of the queue cannot be given back"
            );
        }
        self.report();
    }

    async fn tend_groups(&mut self) -> Result<(), sqlx::Error> {
        let now = Timestamp::now().unix_micros();
        let expiry = i64::try_from(self.parts.limits.group_expiry.as_micros()).unwrap_or(i64::MAX);
        let full = self.is_full();
        let store = self.groups.store().position().cursor;
        let named: Vec<_> = self.groups.named().map(Arc::clone).collect();
        for group in named {
            if now - group.attended_at(now) > expiry {
                self.expire(&group).await?;
                continue;
            }
            group.note_attendance(now, expiry / 10);
            let lag = group.lag(&self.head.borrow());
            if full && group.position().cursor < store {
                self.drop_from(&group, 0, store).await?;
            } else if lag.bytes > self.parts.limits.group_bytes {
                let keep = self.parts.limits.group_bytes / 10 * 9;
                self.drop_from(&group, keep, i64::MAX).await?;
            }
        }
        Ok(())
    }

    /// Tells whether there is no room for another good commit: sooner than anybody is refused.
    fn is_full(&self) -> bool {
        let waiting = self.groups.store().lag(&self.head.borrow()).bytes;
        let space = &self.parts.space;
        let commit = self.parts.limits.commit_bytes.min(space.max() / 32);
        space.admit(commit, waiting).is_err()
    }

    async fn expire(&mut self, group: &Group) -> Result<(), sqlx::Error> {
        sqlx::query("delete from groups where name = ?")
            .bind(group.name())
            .execute(self.pen.get()?)
            .await?;
        self.groups.remove(group.name());
        self.parts.settled.notify_one();
        tracing::info!(
            group = group.name(),
            "nobody attended the consumer group within embedded.group_expiry; it is dropped"
        );
        Ok(())
    }

    /// Moves a group on, to where `keep` bytes lag behind or to the row `to`, whichever comes first.
    async fn drop_from(&mut self, group: &Group, keep: u64, to: i64) -> Result<(), sqlx::Error> {
        let head = *self.head.borrow();
        let offered = head.offered_to(group.severities());
        let Position {
            mut cursor,
            mut passed,
            ..
        } = group.position();
        let sql = format!(
            "select seq, messages, length(lines) from log where seq > ? and seq <= ? and {} order by seq \
             limit {SKIP_ROWS}",
            heard(group.severities())
        );
        loop {
            let rows = sqlx::query(AssertSqlSafe(sql.as_str()))
                .bind(cursor)
                .bind(to)
                .fetch_all(self.pen.get()?)
                .await?;
            for row in &rows {
                if (offered - passed).bytes <= keep {
                    break;
                }
                cursor = row.try_get(0)?;
                passed += Amount::of_row(row, 1)?;
            }
            if rows.len() < SKIP_ROWS || (offered - passed).bytes <= keep {
                break;
            }
        }
        let dropped = group.skip_to(cursor, passed);
        counter!(GROUP_DROPPED, "group" => group.name().to_owned()).increment(dropped);
        self.parts.settled.notify_one();
        tracing::warn!(
            group = group.name(),
            messages = dropped,
            "the consumer group lags too far behind; its oldest messages were dropped"
        );
        Ok(())
    }

    /// Gives free pages back to the file system, so that the store may have their room.
    async fn shrink(&mut self) -> Result<(), sqlx::Error> {
        let mut steps = 0;
        while steps < SHRINK_STEPS && (self.is_full() || !keep_free(self.parts.space.queue())) {
            let more = shrink(self.pen.get()?, SHRINK_PAGES).await?;
            self.measure().await?;
            steps += 1;
            if !more {
                break;
            }
        }
        if steps > 0 {
            checkpoint(self.pen.get()?).await?;
        }
        Ok(())
    }

    fn report(&self) {
        if self.parts.limits.section == Section::Spool {
            // Its one reader reports what waits.
            return;
        }
        let head = *self.head.borrow();
        for group in self.groups.iter() {
            let name = group.name().to_owned();
            let lag = group.lag(&head).messages;
            metrics::gauge!(crate::metrics::QUEUE_MESSAGES, "group" => name).set(lag as f64);
        }
    }
}
