//! Tokens: a record that comes again under the key of its request is stored once, whatever its id.
//!
//! The transaction that stores keyed messages begins by claiming their tokens, so a token is taken exactly as long as
//! its message is stored.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use sea_orm::sqlx::sqlite::SqliteConnection;
use sea_orm::sqlx::{self, Row};
use uuid::Uuid;
use warren_domain::ports::StoreError;
use warren_domain::{Idempotency, Message, Timestamp};

use super::Store;

/// What a token takes in the file, the entry in the index by time included.
const TOKEN_BYTES: u64 = 150;
/// How many tokens one statement claims, or one transaction removes.
const TOKENS: usize = 2_000;
/// How many such removals one round of maintenance runs; the next round goes on.
const REMOVALS: usize = 250;

/// What a transaction has left to store once tokens are claimed.
#[derive(Debug)]
pub(super) struct Claimed<'r, 'm> {
    pub(super) messages: Cow<'r, [&'m Message]>,
    /// How many were not claimed: their token was taken.
    pub(super) repeated: u64,
    /// How many came under a key that was known with other content.
    pub(super) conflicting: u64,
    /// About what the tokens take in the file.
    pub(super) bytes: u64,
}

/// Claims the tokens of `messages`; costs nothing when there are none.
pub(super) async fn claim<'r, 'm>(
    connection: &mut SqliteConnection,
    messages: &'r [&'m Message],
) -> Result<Claimed<'r, 'm>, sqlx::Error> {
    let keyed: Vec<_> = messages
        .iter()
        .filter(|message| message.idempotency.is_some())
        .collect();
    if keyed.is_empty() {
        return Ok(Claimed {
            messages: Cow::Borrowed(messages),
            repeated: 0,
            conflicting: 0,
            bytes: 0,
        });
    }
    let known = contents_known_otherwise(connection, &keyed).await?;
    let mut claimed = HashSet::new();
    let now = Timestamp::now().unix_micros();
    for part in keyed.chunks(TOKENS) {
        let offers: Vec<_> = part
            .iter()
            .filter_map(|message| {
                let Idempotency {
                    token,
                    request,
                    digest,
                } = message.idempotency?;
                Some((
                    request.cast_signed(),
                    Uuid::from_bytes(token).simple().to_string(),
                    digest.cast_signed(),
                    message.id.as_uuid().simple().to_string(),
                    message.received_at.unix_micros(),
                ))
            })
            .collect();
        let rows = sqlx::query(
            "insert into idempotency_keys \
             select value ->> 0, unhex(value ->> 1), value ->> 2, unhex(value ->> 3), value ->> 4, ? \
             from json_each(?) where true on conflict do nothing returning message",
        )
        .bind(now)
        .bind(json(&offers)?)
        .fetch_all(&mut *connection)
        .await?;
        for row in rows {
            claimed.insert(row.try_get::<Uuid, _>(0)?);
        }
    }
    let left: Vec<_> = messages
        .iter()
        .copied()
        .filter(|message| message.idempotency.is_none() || claimed.contains(&message.id.as_uuid()))
        .collect();
    let new = left.iter().filter_map(|message| {
        let idempotency = message.idempotency?;
        Some((
            idempotency,
            known.contains(&(idempotency.request, idempotency.digest)),
        ))
    });
    Ok(Claimed {
        repeated: (messages.len() - left.len()) as u64,
        conflicting: Idempotency::conflicting(new),
        bytes: claimed.len() as u64 * TOKEN_BYTES,
        messages: Cow::Owned(left),
    })
}

/// Returns those of the requests and their contents whose request is known with another content.
async fn contents_known_otherwise(
    connection: &mut SqliteConnection,
    keyed: &[&&Message],
) -> Result<HashSet<(u64, u64)>, sqlx::Error> {
    let contents: HashMap<_, _> = keyed
        .iter()
        .filter_map(|message| message.idempotency)
        .map(|it| {
            (
                (it.request, it.digest),
                (it.request.cast_signed(), it.digest.cast_signed()),
            )
        })
        .collect();
    let contents: Vec<_> = contents.into_values().collect();
    sqlx::query(
        "select value ->> 0, value ->> 1 from json_each(?) as content where exists (\
         select 1 from idempotency_keys where request = content.value ->> 0 and digest <> content.value ->> 1)",
    )
    .bind(json(&contents)?)
    .fetch_all(connection)
    .await?
    .iter()
    .map(|row| {
        let number = |column: usize| row.try_get::<i64, _>(column).map(i64::cast_unsigned);
        Ok((number(0)?, number(1)?))
    })
    .collect()
}

fn json(value: &impl serde::Serialize) -> Result<String, sqlx::Error> {
    serde_json::to_string(value).map_err(|error| sqlx::Error::Encode(error.into()))
}

impl Store {
    /// Removes the tokens that no repeat can need any more, a little at a time.
    pub(super) async fn forget_tokens(&self, now: Timestamp) -> Result<(), StoreError> {
        self.forget(now).await.map_err(|error| self.error(error))
    }

    async fn forget(&self, now: Timestamp) -> Result<(), sqlx::Error> {
        // When the youngest of the last stored records was received: so far the queue has got.
        let newest: Option<i64> = sqlx::query(
            "select max(received_at) from \
             (select received_at from idempotency_keys order by stored_at desc limit 1000)",
        )
        .fetch_one(self.database.read_pool())
        .await?
        .try_get(0)?;
        let Some(newest) = newest.and_then(Timestamp::from_unix_micros) else {
            return Ok(());
        };
        let end = Idempotency::forgotten_before(newest, now, self.idempotency_keep);
        for _ in 0..REMOVALS {
            let mut connection = self.database.writer().await?;
            let removed = sqlx::query(
                "delete from idempotency_keys where (request, token) in (\
                 select request, token from idempotency_keys where stored_at < ? order by stored_at limit ?)",
            )
            .bind(end.unix_micros())
            .bind(TOKENS as i64)
            .execute(&mut *connection)
            .await?;
            if removed.rows_affected() < TOKENS as u64 {
                break;
            }
        }
        Ok(())
    }
}
