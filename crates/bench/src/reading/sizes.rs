//! How large what is kept is.

use anyhow::Result;
use tokio_postgres::Client;

/// How large a part is.
#[derive(Clone, Debug)]
pub(crate) struct Size {
    pub(crate) part: String,
    pub(crate) bytes: f64,
    pub(crate) per_message: f64,
}

const SIZES: &str = "
with days as (
    select inhrelid as day from pg_inherits where inhparent = 'messages'::regclass
), parts (place, part, bytes) as (
    select 1, 'messages', sum(pg_table_size(day)) from days
    union all
    select 2, case when indisprimary then 'index on id' else 'index on severity and id' end,
        sum(pg_relation_size(indexrelid))
    from days join pg_index on indrelid = day group by indisprimary
    union all
    select 3, name, pg_total_relation_size(name::regclass)
    from unnest($1::text[]) as names (name) where to_regclass(name) is not null
)
select part, bytes::float8, bytes::float8 / (select count(*) from messages) from parts order by place, bytes desc";

const TABLES: [&str; 5] = [
    "message_minutes",
    "message_counts_minutes",
    "message_counts_quarters",
    "message_count_deltas",
    "message_words",
];

/// Measures the tables and indices.
///
/// # Errors
/// PostgreSQL failed.
pub(crate) async fn of(client: &Client) -> Result<Vec<Size>> {
    let tables: Vec<_> = TABLES.iter().map(|name| (*name).to_owned()).collect();
    let rows = client.query(SIZES, &[&tables]).await?;
    rows.iter()
        .map(|row| {
            Ok(Size {
                part: row.try_get(0)?,
                bytes: row.try_get(1)?,
                per_message: row.try_get(2)?,
            })
        })
        .collect()
}
