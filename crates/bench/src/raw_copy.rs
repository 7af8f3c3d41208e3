//! The raw limit of the database: binary COPY by one plain client.
//!
//! The table has the columns and the primary key of the real one, and no partitions and no counts: the least that
//! keeps the rows. Batches of 5,000 rows, each a transaction.

use std::error::Error;
use std::pin::pin;
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::{BufMut as _, BytesMut};
use time::OffsetDateTime;
use tokio_postgres::Client;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::{IsNull, ToSql, Type, accepts, to_sql_checked};
use uuid::Uuid;

use crate::messages::{self, Mix};

/// Rows in each transaction, as many as a batch of the worker.
const BATCH: u64 = 5_000;

const TABLE: &str = "create table raw_messages (id uuid primary key, severity smallint not null, source text not null, \
     body text not null, attributes jsonb not null, occurred_at timestamptz not null, \
     received_at timestamptz not null, stored_at timestamptz not null)";

const COPY: &str = "copy raw_messages (id, severity, source, body, attributes, occurred_at, received_at, stored_at) \
     from stdin (format binary)";

/// Fills a table of its own and drops it again; returns how many rows were committed, and in what time.
///
/// # Errors
/// The database does not answer, or refuses.
pub(crate) async fn run(
    client: &Client,
    duration: Duration,
    most_rows: u64,
    mix: Mix,
) -> Result<(u64, Duration)> {
    client.batch_execute(TABLE).await?;
    let copied = copy_for(client, duration, most_rows, mix).await;
    client.batch_execute("drop table raw_messages").await?;
    copied
}

async fn copy_for(client: &Client, duration: Duration, most_rows: u64, mix: Mix) -> Result<(u64, Duration)> {
    let rows = messages::samples(256, mix);
    let types = [
        Type::UUID,
        Type::INT2,
        Type::TEXT,
        Type::TEXT,
        Type::JSONB,
        Type::TIMESTAMPTZ,
        Type::TIMESTAMPTZ,
        Type::TIMESTAMPTZ,
    ];
    let start = Instant::now();
    let mut copied = 0;
    while start.elapsed() < duration && copied < most_rows {
        let now = OffsetDateTime::now_utc();
        let mut writer = pin!(BinaryCopyInWriter::new(client.copy_in(COPY).await?, &types));
        for n in copied..copied + BATCH {
            let row = &rows[n as usize % rows.len()];
            let id = Uuid::now_v7();
            let attributes = Jsonb(&row.attributes);
            writer
                .as_mut()
                .write(&[
                    &id,
                    &row.severity_number,
                    &row.source,
                    &row.body,
                    &attributes,
                    &now,
                    &now,
                    &now,
                ])
                .await?;
        }
        copied += writer.as_mut().finish().await?;
    }
    Ok((copied, start.elapsed()))
}

/// JSON as text, sent as `jsonb` without being read first.
#[derive(Debug)]
struct Jsonb<'a>(&'a str);

impl ToSql for Jsonb<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        // The binary form of jsonb: the version, 1, and the text.
        out.put_u8(1);
        out.put_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }

    accepts!(JSONB);
    to_sql_checked!();
}
