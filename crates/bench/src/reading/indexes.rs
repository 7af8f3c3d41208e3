//! What indexes of texts cost whoever stores, and what they give whoever searches: the filters of words beside those that
//! PostgreSQL has.
//!
//! Each has a database of its own with the same messages. Batches are stored in turns, into each of them one after the other.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::task::spawn_blocking;
use tokio_postgres::Client;
use uuid::Uuid;
use warren_adapter_postgres::PostgresReader;
use warren_domain::search::IdRange;
use warren_e2e::postgres::connect;
use warren_test_servers::PrivatePostgres;

use super::author::{ABSENT, RARE};
use super::questions::look_for;
use super::report::describe;
use super::storing::rate;
use super::{Table, table};
use crate::asked::PAGE;
use crate::report::thousands;
use crate::statistics::{Waits, median};

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Indexes {
    /// How many messages there are before anything is asked.
    pub(crate) messages: u64,
    /// Over how many days they are spread.
    pub(crate) days: u32,
    /// How often each question is asked; by those that look at every row, a tenth of it.
    pub(crate) asked: usize,
    /// How often batches are stored into each.
    pub(crate) turns: u32,
}

/// An index of texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Nothing,
    Filters,
    Words,
    Trigrams,
}

/// What one of them costs and gives.
#[derive(Debug)]
struct Row {
    kind: Kind,
    /// Messages a second, each turn.
    rates: Vec<f64>,
    bytes_per_message: f64,
    /// How long it took to make it afterwards, of a message.
    made: Option<Duration>,
    rare: Waits,
    absent: Waits,
}

/// What was measured.
#[derive(Debug)]
pub(crate) struct Comparison {
    description: String,
    rows: Vec<Row>,
    left_out: Vec<Kind>,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Nothing, Self::Filters, Self::Words, Self::Trigrams];

    const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "no index of texts",
            Self::Filters => "Warren's filters, made afterwards",
            Self::Words => "GIN, to_tsvector('simple', body)",
            Self::Trigrams => "GIN, trigrams (pg_trgm)",
        }
    }

    /// What makes the index, before anything is stored.
    const fn making(self) -> &'static str {
        match self {
            Self::Nothing | Self::Filters => "",
            Self::Words => "create index messages_body on messages using gin (to_tsvector('simple', body))",
            Self::Trigrams => {
                "create extension pg_trgm; create index messages_body on messages using gin (body gin_trgm_ops)"
            }
        }
    }

    /// The condition for a text in SQL; none where a reader of ours asks.
    const fn condition(self) -> Option<&'static str> {
        match self {
            Self::Nothing | Self::Filters => None,
            Self::Words => Some("to_tsvector('simple', body) @@ plainto_tsquery('simple', $3)"),
            Self::Trigrams => Some("body ilike '%' || $3 || '%'"),
        }
    }

    const fn size(self) -> &'static str {
        match self {
            Self::Nothing => "select 0::float8",
            Self::Filters => "select pg_total_relation_size('message_words')::float8",
            Self::Words | Self::Trigrams => {
                "select sum(pg_relation_size(relid))::float8 from pg_partition_tree('messages_body')"
            }
        }
    }
}

impl Indexes {
    /// Fills a database for each index, stores into them in turns, and asks each.
    ///
    /// # Errors
    /// PostgreSQL failed, or an answer misses something.
    pub(crate) async fn run(self) -> Result<Comparison> {
        eprintln!("  starting a PostgreSQL");
        let server = spawn_blocking(PrivatePostgres::start).await??;
        let outcome = Box::pin(self.on(&server.url())).await;
        spawn_blocking(move || drop(server)).await?;
        outcome
    }

    async fn on(self, url: &str) -> Result<Comparison> {
        let mut comparison = Comparison {
            description: describe(url, self.messages, self.days).await?,
            rows: Vec::new(),
            left_out: Vec::new(),
        };
        let mut tables = Vec::new();
        for kind in Kind::ALL {
            if kind == Kind::Trigrams && !has_trigrams(url).await? {
                comparison.left_out.push(kind);
                continue;
            }
            eprintln!("  filling: {}", kind.name());
            let table = table(url, self.messages, self.days, kind.making()).await?;
            comparison.rows.push(self.ask(kind, &table).await?);
            tables.push(table);
        }
        let rows = self.messages / 25;
        for turn in 1..=self.turns {
            eprintln!("  storing, {turn} of {}", self.turns);
            for (row, table) in comparison.rows.iter_mut().zip(&tables) {
                row.rates.push(rate(&table.store, rows).await?);
            }
        }
        for table in tables {
            table.remove().await?;
        }
        Ok(comparison)
    }

    async fn ask(self, kind: Kind, table: &Table) -> Result<Row> {
        let mut row = Row {
            kind,
            rates: Vec::new(),
            bytes_per_message: 0.0,
            made: None,
            rare: Waits::default(),
            absent: Waits::default(),
        };
        if kind == Kind::Filters {
            let (made, _) = table.keep_fit().await?;
            row.made = Some(made / u32::try_from(self.messages)?);
        }
        let client = table.connect().await?;
        let bytes: f64 = client.query_one(kind.size(), &[]).await?.try_get(0)?;
        row.bytes_per_message = bytes / self.messages as f64;
        let plain = kind == Kind::Nothing;
        let asked = if plain {
            (self.asked / 10).max(1)
        } else {
            self.asked
        };
        // As readers are set up.
        client
            .batch_execute("set max_parallel_workers_per_gather = 0; set jit = off; set enable_seqscan = off")
            .await?;
        let rare = table.filled.rare.min(PAGE);
        for (text, found, waits) in [(RARE, rare, &mut row.rare), (ABSENT, 0, &mut row.absent)] {
            for time in 0..=asked {
                let took = match kind.condition() {
                    Some(condition) => look_by_sql(&client, table, condition, text, found).await?,
                    None => {
                        let reader: &PostgresReader = if plain { &table.plain_reader } else { &table.reader };
                        look_for(table, reader, &(text.to_owned(), found)).await?.took
                    }
                };
                // The first fills caches.
                if time > 0 {
                    waits.add(took);
                }
            }
        }
        Ok(row)
    }
}

async fn has_trigrams(url: &str) -> Result<bool> {
    let client = connect(url).await?;
    let there = "select from pg_available_extensions where name = 'pg_trgm'";
    Ok(client.query_opt(there, &[]).await?.is_some())
}

/// Looks for a text in the last day through an index of PostgreSQL's.
async fn look_by_sql(
    client: &Client,
    table: &Table,
    condition: &str,
    text: &str,
    expected: usize,
) -> Result<Duration> {
    let ids = IdRange::of_time(table.filled.last_day);
    let (from, until): (Uuid, Uuid) = (ids.from(), ids.until());
    let looking = format!(
        "select id, severity, source, body, attributes::text, occurred_at, received_at, stored_at from messages
        where id >= $1 and id < $2 and {condition} order by id desc limit {PAGE}"
    );
    let begun = Instant::now();
    let found = client.query(&looking, &[&from, &until, &text]).await?.len();
    let took = begun.elapsed();
    ensure!(found == expected, "{found} found of {expected}");
    Ok(took)
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.description)?;
        writeln!(
            f,
            "\n{:<34} {:>9} {:>7} {:>14} {:>16} {:>12} {:>12}",
            "Index", "stored/s", "ratio", "bytes/message", "made, µs/message", "rare p50 ms", "absent p50 ms"
        )?;
        let plain = self.rows.first().and_then(|row| median(&row.rates));
        for row in &self.rows {
            let Some((rate, plain)) = median(&row.rates).zip(plain) else {
                continue;
            };
            let made = row.made.map_or_else(
                || "-".to_owned(),
                |made| format!("{:.1}", made.as_secs_f64() * 1e6),
            );
            let wait = |waits: &Waits| waits.clone().percentile(0.5).unwrap_or(0.0);
            writeln!(
                f,
                "{:<34} {:>9} {:>6.2}× {:>14.1} {:>16} {:>12.1} {:>12.1}",
                row.kind.name(),
                thousands(rate),
                rate / plain,
                row.bytes_per_message,
                made,
                wait(&row.rare),
                wait(&row.absent)
            )?;
        }
        for kind in &self.left_out {
            writeln!(f, "{:<34} this PostgreSQL does not have it", kind.name())?;
        }
        Ok(())
    }
}
