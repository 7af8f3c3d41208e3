//! Drops rows of the log that nobody needs any more.

use sea_orm::sqlx;
use warren_domain::{Severity, SeveritySet};

use super::script::Script;

/// How many rows one commit may drop, so that publishing never waits long for it.
const ROWS: i64 = 2_048;

/// How far the log is dropped: severity by severity, so that a slow group keeps only what it hears.
#[derive(Debug, Default)]
pub(super) struct Trim {
    /// For each severity: rows of it up to here are dropped.
    done: [i64; 5],
}

impl Trim {
    /// Writes the statement that drops the next rows that every group that hears them has passed.
    pub(super) fn write(
        &self,
        script: &mut Script,
        cursors: impl Iterator<Item = (SeveritySet, i64)>,
    ) -> Result<(), sqlx::Error> {
        let passed = passed_by_all(cursors);
        let Some((after, to)) = self.next(&passed) else {
            return Ok(());
        };
        script
            .statement(
                "delete from log where seq > ? and seq <= ? and seq <= case severity \
                 when 5 then ? when 9 then ? when 13 then ? when 17 then ? else ? end",
            )
            .bind(after)?
            .bind(to)?;
        for passed in passed {
            script.bind(passed)?;
        }
        Ok(())
    }

    /// Notes that the statement was committed.
    pub(super) fn committed(&mut self, cursors: impl Iterator<Item = (SeveritySet, i64)>) {
        let passed = passed_by_all(cursors);
        if let Some((_, to)) = self.next(&passed) {
            for (done, passed) in self.done.iter_mut().zip(passed) {
                *done = (*done).max(passed.min(to));
            }
        }
    }

    /// Tells whether more rows wait to be dropped than one commit takes.
    pub(super) fn is_behind(&self, cursors: impl Iterator<Item = (SeveritySet, i64)>) -> bool {
        self.next(&passed_by_all(cursors))
            .is_some_and(|(after, to)| to - after >= ROWS)
    }

    /// Returns the rows to look at: the next ones that somebody has passed and that are still there.
    fn next(&self, passed: &[i64; 5]) -> Option<(i64, i64)> {
        let behind = self
            .done
            .iter()
            .zip(passed)
            .filter(|(done, passed)| done < passed);
        let after = *behind.clone().map(|(done, _)| done).min()?;
        let to = *behind.map(|(_, passed)| passed).max()?;
        Some((after, to.min(after + ROWS)))
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
    use super::*;

    const ALL: SeveritySet = SeveritySet::ALL;

    fn critical() -> SeveritySet {
        [Severity::Critical].into_iter().collect()
    }

    #[test]
    fn a_slow_group_keeps_only_what_it_hears() {
        let mut trim = Trim::default();
        let cursors = || [(ALL, 100), (critical(), 10)].into_iter();
        assert_eq!(trim.next(&passed_by_all(cursors())), Some((0, 100)));
        trim.committed(cursors());
        assert_eq!(trim.done, [100, 100, 100, 100, 10]);
        assert_eq!(trim.next(&passed_by_all(cursors())), None);
        let later = || [(ALL, 120), (critical(), 50)].into_iter();
        assert_eq!(trim.next(&passed_by_all(later())), Some((10, 120)));
    }

    #[test]
    fn a_long_way_is_gone_in_steps() {
        let mut trim = Trim::default();
        let cursors = || [(ALL, 5_000)].into_iter();
        let mut steps = 0;
        while trim.next(&passed_by_all(cursors())).is_some() {
            assert_eq!(trim.is_behind(cursors()), trim.done[0] + ROWS <= 5_000);
            trim.committed(cursors());
            steps += 1;
        }
        assert_eq!((steps, trim.done), (3, [5_000; 5]));
    }
}
