//! Ends statements whose time is over, or that nobody waits for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sea_orm::sqlx;
use sea_orm::sqlx::sqlite::SqliteConnection;

/// After how many of its instructions SQLite asks whether to go on: some tens of microseconds.
const INSTRUCTIONS: i32 = 1_000;

/// Ends what a connection is at, once it is dropped.
#[derive(Debug)]
pub(super) struct Watch {
    began: Instant,
    /// Until when SQLite may go on, microseconds after it began.
    until: Arc<AtomicU64>,
}

/// How long one statement may take. Dropped before it has ended, it ends it.
#[derive(Debug)]
pub(super) struct Limit(Arc<AtomicU64>);

impl Watch {
    /// Watches a connection; whoever watched it before does no longer.
    pub(super) async fn over(connection: &mut SqliteConnection) -> Result<Self, sqlx::Error> {
        let (began, until) = (Instant::now(), Arc::new(AtomicU64::new(u64::MAX)));
        let limit = Arc::clone(&until);
        let goes_on = move || micros(began.elapsed()) < limit.load(Ordering::Relaxed);
        let mut handle = connection.lock_handle().await?;
        handle.set_progress_handler(INSTRUCTIONS, goes_on);
        Ok(Self { began, until })
    }

    /// Gives the next statement a time. The one before has to be over: one that was ended by its limit may not have noticed
    /// yet, and would go on; whoever watches anew waits for it.
    pub(super) fn allow(&self, time: Duration) -> Limit {
        let until = micros(self.began.elapsed() + time);
        self.until.store(until, Ordering::Relaxed);
        Limit(Arc::clone(&self.until))
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use sea_orm::sqlx::ConnectOptions;
    use sea_orm::sqlx::sqlite::SqliteConnectOptions;

    use super::*;
    use crate::error::result_code;

    const ENDLESS: &str =
        "with recursive n (n) as (select 1 union all select n + 1 from n) select count(*) from n";

    async fn connection() -> SqliteConnection {
        SqliteConnectOptions::new().connect().await.unwrap()
    }

    #[tokio::test]
    async fn a_statement_whose_time_is_over_is_ended_and_the_next_one_has_its_own() {
        let mut connection = connection().await;
        let watch = Watch::over(&mut connection).await.unwrap();
        for _ in 0..2 {
            let limit = watch.allow(Duration::from_millis(50));
            let error = sqlx::query(ENDLESS).fetch_all(&mut connection).await.unwrap_err();
            assert_eq!(result_code(&error), Some(9), "{error}");
            drop(limit);
            let _limit = watch.allow(Duration::from_secs(10));
            let few = "select count(*) from json_each('[1,2,3]')";
            sqlx::query(few).fetch_one(&mut connection).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_statement_that_nobody_waits_for_is_ended() {
        let mut connection = connection().await;
        let watch = Watch::over(&mut connection).await.unwrap();
        let limit = watch.allow(Duration::from_secs(600));
        let given_up = async {
            let _limit = limit;
            sqlx::query(ENDLESS).fetch_all(&mut connection).await
        };
        let waited = tokio::time::timeout(Duration::from_millis(50), given_up).await;
        assert!(waited.is_err());
        let watch = Watch::over(&mut connection).await.unwrap();
        let _limit = watch.allow(Duration::from_secs(10));
        let next = sqlx::query("select 1").fetch_one(&mut connection);
        tokio::time::timeout(Duration::from_secs(10), next)
            .await
            .unwrap()
            .unwrap();
    }
}
