//! What is older than `retention_days` goes, a little at a time.

use sea_orm::sqlx;
use time::OffsetDateTime;
use uuid::Uuid;
use warren_domain::Timestamp;
use warren_domain::ports::StoreError;

use super::Store;
use crate::database::{checkpoint, shrink};
use crate::queue::keep_free;

/// How many messages one transaction deletes; batches are stored in between.
const CHUNK: i64 = 2_000;
/// How many such transactions one round runs; the next round goes on.
const CHUNKS: usize = 250;
const SHRINK_PAGES: u32 = 64;
const SHRINK_STEPS: usize = 64;
const DAY_MICROS: i64 = 86_400_000_000;

impl Store {
    /// Deletes what is too old by the time in its id; says what was removed.
    pub(super) async fn remove_outdated(&self, now: Timestamp) -> Result<Option<String>, StoreError> {
        let Some(days) = self.retention_days else {
            return Ok(None);
        };
        let Some(end) = Timestamp::from_unix_micros(now.unix_micros() - i64::from(days) * DAY_MICROS) else {
            return Ok(None);
        };
        let mut removed = 0;
        for _ in 0..CHUNKS {
            let chunk = self.remove_before(end).await.map_err(|error| self.error(error))?;
            removed += chunk;
            if chunk < CHUNK.unsigned_abs() {
                self.remove_counts_before(end)
                    .await
                    .map_err(|error| self.error(error))?;
                break;
            }
        }
        Ok((removed > 0).then(|| format!("{removed} messages from before {}", day(end))))
    }

    async fn remove_before(&self, end: Timestamp) -> Result<u64, sqlx::Error> {
        let mut connection = self.database.writer().await?;
        let deleted = sqlx::query(
            "delete from messages where rowid in (select rowid from messages where id < ? order by id limit ?)",
        )
        .bind(first_id(end))
        .bind(CHUNK)
        .execute(&mut *connection)
        .await?;
        Ok(deleted.rows_affected())
    }

    async fn remove_counts_before(&self, end: Timestamp) -> Result<(), sqlx::Error> {
        let mut connection = self.database.writer().await?;
        sqlx::query("delete from message_counts where minute < ?")
            .bind(end.unix_micros() / 60_000_000)
            .execute(&mut *connection)
            .await?;
        Ok(())
    }

    /// Gives free pages back to the file system.
    pub(super) async fn shrink(&self) -> Result<(), sqlx::Error> {
        let mut steps = 0;
        self.measure().await?;
        while steps < SHRINK_STEPS && !keep_free(self.space.store()) {
            let mut connection = self.database.writer().await?;
            let more = shrink(&mut connection, SHRINK_PAGES).await?;
            self.measure().await?;
            steps += 1;
            if !more {
                break;
            }
        }
        if steps > 0 {
            checkpoint(&mut *self.database.writer().await?).await?;
        }
        Ok(())
    }
}

/// Returns the smallest id of version 7 made at `moment`.
fn first_id(moment: Timestamp) -> Uuid {
    let millis = u128::from((moment.unix_micros() / 1_000).unsigned_abs());
    Uuid::from_u128(millis << 80)
}

fn day(moment: Timestamp) -> String {
    let seconds = moment.unix_micros() / 1_000_000;
    OffsetDateTime::from_unix_timestamp(seconds)
        .map_or_else(|_| moment.to_string(), |moment| moment.date().to_string())
}
