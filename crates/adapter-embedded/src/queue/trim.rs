//! Drops rows of the log that nobody needs any more.

use sea_orm::sqlx::sqlite::SqliteConnection;
use sea_orm::sqlx::{self, Row};
use warren_domain::{Severity, SeveritySet};

use super::head::Head;
use super::script::Script;

/// How many rows one commit may look at, so that publishing never waits long for it.
const ROWS: i64 = 2_048;

/// How far the log is dropped: severity by severity, so that a slow group keeps only what it hears.
#[derive(Debug)]
pub(super) struct Trim {
    /// For each severity: rows of it up to here are dropped.
    done: [i64; 5],
}

/// What one commit drops: of the rows behind `after` and up to `to`, those that every group that hears them has
/// passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    after: i64,
    to: i64,
    passed: [i64; 5],
}

impl Trim {
    /// Begins where the log begins: an old log has dropped far more rows than it holds.
    pub(super) async fn open(connection: &mut SqliteConnection, head: &Head) -> Result<Self, sqlx::Error> {
        let first: i64 = sqlx::query("select ifnull((select min(seq) from log), ?)")
            .bind(head.seq + 1)
            .fetch_one(connection)
            .await?
            .try_get(0)?;
        Ok(Self { done: [first - 1; 5] })
    }

    /// Returns the next step, if there is one.
    ///
    /// It is measured in rows that are there: where a slow group has held back a few, most numbers between them have
    /// no row any more.
    pub(super) async fn step(
        &self,
        connection: &mut SqliteConnection,
        cursors: impl Iterator<Item = (SeveritySet, i64)>,
    ) -> Result<Option<Step>, sqlx::Error> {
        let Some(mut step) = self.whole_way(cursors) else {
            return Ok(None);
        };
        if step.to - step.after > ROWS {
            let last =
                sqlx::query("select seq from log where seq > ? and seq <= ? order by seq limit 1 offset ?")
                    .bind(step.after)
                    .bind(step.to)
                    .bind(ROWS - 1)
                    .fetch_optional(connection)
                    .await?;
            if let Some(last) = last {
                step.to = last.try_get(0)?;
            }
        }
        Ok(Some(step))
    }

    /// Notes that a step was committed.
    pub(super) fn committed(&mut self, step: &Step) {
        for (done, passed) in self.done.iter_mut().zip(step.passed) {
            *done = (*done).max(passed.min(step.to));
        }
    }

    /// Tells whether more rows may wait to be dropped than one commit takes.
    pub(super) fn is_behind(&self, cursors: impl Iterator<Item = (SeveritySet, i64)>) -> bool {
        self.whole_way(cursors)
            .is_some_and(|step| step.to - step.after >= ROWS)
    }

    /// Returns the step from what is dropped to what somebody has passed, however many rows that is.
    fn whole_way(&self, cursors: impl Iterator<Item = (SeveritySet, i64)>) -> Option<Step> {
        let passed = passed_by_all(cursors);
        let behind = self
            .done
            .iter()
            .zip(passed)
            .filter(|(done, passed)| *done < passed);
        let after = *behind.clone().map(|(done, _)| done).min()?;
        let to = behind.map(|(_, passed)| passed).max()?;
        Some(Step { after, to, passed })
    }
}

impl Step {
    /// Writes the statement that drops the rows.
    pub(super) fn write(&self, script: &mut Script) -> Result<(), sqlx::Error> {
        script
            .statement(
                "delete from log where seq > ? and seq <= ? and seq <= case severity \
                 when 5 then ? when 9 then ? when 13 then ? when 17 then ? else ? end",
            )
            .bind(self.after)?
            .bind(self.to)?;
        for passed in self.passed {
            script.bind(passed)?;
        }
        Ok(())
    }
}

/// For each severity, returns the row that every group that hears it has passed.
fn passed_by_all(cursors: impl Iterator<Item = (SeveritySet, i64)>) -> [i64; 5] {
    let mut passed = [i64::MAX; 5];
    for (severities, cursor) in cursors {
        for severity in severities.iter() {
            let passed = &mut passed[severity.index()];
            *passed = cursor.min(*passed);
        }
    }
    debug_assert!(
        Severity::ALL
            .iter()
            .all(|severity| passed[severity.index()] < i64::MAX),
        "the way into the store hears everything"
    );
    passed
}

#[cfg(test)]
mod tests {
    use sea_orm::sqlx::Connection;

    use super::*;

    const ALL: SeveritySet = SeveritySet::ALL;

    fn critical() -> SeveritySet {
        [Severity::Critical].into_iter().collect()
    }

    #[test]
    fn a_slow_group_keeps_only_what_it_hears() {
        let mut trim = Trim { done: [0; 5] };
        let cursors = || [(ALL, 100), (critical(), 10)].into_iter();
        let ends = |step: Step| (step.after, step.to);
        let step = trim.whole_way(cursors()).unwrap();
        assert_eq!(ends(step), (0, 100));
        trim.committed(&step);
        assert_eq!(trim.done, [100, 100, 100, 100, 10]);
        assert_eq!(trim.whole_way(cursors()), None);
        let later = [(ALL, 120), (critical(), 50)].into_iter();
        assert_eq!(trim.whole_way(later).map(ends), Some((10, 120)));
    }

    async fn log(rows: impl Iterator<Item = i64>) -> SqliteConnection {
        let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        sqlx::query("create table log (seq integer primary key, severity integer)")
            .execute(&mut connection)
            .await
            .unwrap();
        for seq in rows {
            sqlx::query("insert into log values (?, 9)")
                .bind(seq)
                .execute(&mut connection)
                .await
                .unwrap();
        }
        connection
    }

    /// Goes the whole way; returns how many steps that took.
    async fn steps(trim: &mut Trim, connection: &mut SqliteConnection, passed: i64) -> usize {
        let cursors = || [(ALL, passed)].into_iter();
        let mut steps = 0;
        while let Some(step) = trim.step(connection, cursors()).await.unwrap() {
            let mut script = Script::begin();
            step.write(&mut script).unwrap();
            script.commit(connection).await.unwrap();
            trim.committed(&step);
            steps += 1;
        }
        assert!(!trim.is_behind(cursors()));
        steps
    }

    async fn rows(connection: &mut SqliteConnection) -> i64 {
        let count = sqlx::query("select count(*) from log")
            .fetch_one(connection)
            .await;
        count.unwrap().get(0)
    }

    #[tokio::test]
    async fn a_long_way_is_gone_in_steps() {
        let mut connection = log(1..=5_000).await;
        let mut trim = Trim { done: [0; 5] };
        assert!(trim.is_behind([(ALL, 5_000)].into_iter()));
        assert_eq!(steps(&mut trim, &mut connection, 5_000).await, 3);
        assert_eq!((trim.done, rows(&mut connection).await), ([5_000; 5], 0));
    }

    #[tokio::test]
    async fn an_old_log_is_not_searched_where_it_has_no_rows() {
        const OLD: i64 = 1 << 40;
        let mut connection = log([7].into_iter().chain(OLD..OLD + 100)).await;
        let head = Head::at(OLD + 99, Default::default());
        let mut trim = Trim::open(&mut connection, &head).await.unwrap();
        assert_eq!(trim.done, [6; 5]);
        assert_eq!(steps(&mut trim, &mut connection, OLD + 99).await, 1);
        assert_eq!(rows(&mut connection).await, 0);

        let trim = Trim::open(&mut connection, &head).await.unwrap();
        assert_eq!(trim.whole_way([(ALL, OLD + 99)].into_iter()), None);
    }
}
