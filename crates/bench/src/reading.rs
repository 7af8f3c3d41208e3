//! Finding messages among many in PostgreSQL, and what that costs whoever stores.
//!
//! The messages are stored as the worker stores them, by the adapter, into the partitions of the last days; then the
//! questions that people and the console ask are asked one after the other, as often as wanted, each time about something else.
//! What is found is checked: a quick answer that misses something is no answer. Rates of storing that are compared are measured in
//! turns, on a PostgreSQL of this run alone.

pub(crate) mod author;
mod fill;
mod indexes;
mod questions;
mod report;
mod sizes;
mod storing;
mod watched;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::task::spawn_blocking;
use tokio_postgres::Client;
use warren_adapter_postgres::{PostgresConfig, PostgresReader, PostgresStore, ReaderConfig, migrate};
use warren_domain::Timestamp;
use warren_domain::ports::StoreMaintenance as _;
use warren_e2e::environment;
use warren_e2e::postgres::{TestDatabase, connect};
use warren_test_servers::PrivatePostgres;

use self::fill::{Filled, fill};
pub(crate) use self::indexes::Indexes;
use self::report::Report;
use crate::cost::settle;
use crate::servers::Servers;

/// How many minutes are over and have no filters yet.
const DUE: &str = "select count(*) from message_minutes
    where indexed is distinct from stored and minute < now() - interval '4 minutes'";

/// How many times fewer messages the smaller table has whose rate of storing is compared.
const SMALLER: u64 = 10;

/// What is measured.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    /// How many messages there are.
    pub(crate) messages: u64,
    /// Over how many days they are spread.
    pub(crate) days: u32,
    /// How often each question is asked.
    pub(crate) asked: usize,
    /// How often rates that are compared are measured.
    pub(crate) pairs: u32,
    /// How long each load of the programs lasts.
    pub(crate) load: Duration,
    /// What of it is measured.
    pub(crate) parts: Vec<Part>,
    /// Settings of the programs that differ from their defaults.
    pub(crate) settings: Vec<(String, String)>,
}

/// A part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// The questions, and the sizes of what they are asked of.
    Questions,
    /// The rates of storing into tables of two sizes, and while filters are made.
    Storing,
    /// The rate of storing beside consoles.
    Consoles,
    /// The rate of storing beside live tails.
    Tails,
}

impl Part {
    /// Every part.
    pub(crate) const ALL: [Self; 4] = [Self::Questions, Self::Storing, Self::Consoles, Self::Tails];
}

/// A database with messages, and the ways into it.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) filled: Filled,
    pub(crate) store: Arc<PostgresStore>,
    pub(crate) reader: Arc<PostgresReader>,
    /// A reader that does not use the filters of words.
    pub(crate) plain_reader: PostgresReader,
    database: TestDatabase,
}

impl Reading {
    /// Fills two tables, asks, and stores beside it.
    ///
    /// # Errors
    /// PostgreSQL or RabbitMQ failed, or an answer misses something.
    pub(crate) async fn run(self) -> Result<Report> {
        eprintln!("  starting a PostgreSQL");
        let server = spawn_blocking(PrivatePostgres::start).await??;
        let outcome = Box::pin(self.on(&server.url())).await;
        spawn_blocking(move || drop(server)).await?;
        outcome
    }

    async fn on(&self, url: &str) -> Result<Report> {
        let mut report = Report::new(self, url).await?;
        if self.parts.iter().any(|part| *part != Part::Tails) {
            let large = table(url, self.messages, self.days, "").await?;
            let asked = Box::pin(self.of_table(url, &large, &mut report)).await;
            large.remove().await?;
            asked?;
        }
        if self.parts.contains(&Part::Tails) {
            let servers = Servers::at(environment::amqp_url(), url.to_owned()).await?;
            report.beside_tails = watched::by_tails(&servers, self).await?;
        }
        Ok(report)
    }

    async fn of_table(&self, url: &str, large: &Table, report: &mut Report) -> Result<()> {
        report.filled = large.filled.rate;
        (report.maintained, report.rounds) = large.keep_fit().await?;
        if self.parts.contains(&Part::Questions) {
            report.sizes = sizes::of(&large.connect().await?).await?;
            eprintln!("  asking");
            report.questions = questions::ask(large, self.asked).await?;
        }
        if self.parts.contains(&Part::Storing) {
            let small = table(url, self.messages / SMALLER, self.days, "").await?;
            small.store.maintain(Timestamp::now()).await?;
            settle().await?;
            let rows = (self.messages / 25).clamp(10_000, 400_000);
            report.by_size = storing::by_size(&large.store, &small.store, rows, self.pairs).await?;
            small.remove().await?;
            report.beside_filters = storing::beside_filters(large, rows, self.pairs).await?;
        }
        if self.parts.contains(&Part::Consoles) {
            let servers = Servers::at(environment::amqp_url(), url.to_owned()).await?;
            report.beside_consoles = watched::by_consoles(&servers, large, self).await?;
        }
        Ok(())
    }
}

/// Fills a database of its own, after some SQL that changes its schema.
async fn table(url: &str, messages: u64, days: u32, changes: &str) -> Result<Table> {
    let database = TestDatabase::create(url).await?;
    let config = PostgresConfig {
        url: format!("{}?sslmode=disable", database.url()),
        // Some indexes take their time.
        statement_timeout: Duration::from_secs(300),
        ..PostgresConfig::default()
    };
    migrate(&config).await.context("cannot migrate")?;
    let client = connect(&database.url()).await?;
    client.batch_execute(changes).await?;
    let store = Arc::new(PostgresStore::new(config.clone(), None)?);
    let reader = Arc::new(PostgresReader::new(&config, &ReaderConfig::default())?);
    let plain = PostgresConfig {
        word_index: false,
        ..config
    };
    let plain_reader = PostgresReader::new(&plain, &ReaderConfig::default())?;
    let filled = fill(&store, messages, days).await?;
    // Statistics and visibility, as autovacuum would have seen to over the days.
    client.batch_execute("vacuum (analyze)").await?;
    client.batch_execute("checkpoint").await?;
    settle().await?;
    Ok(Table {
        filled,
        store,
        reader,
        plain_reader,
        database,
    })
}

impl Table {
    /// Does the rounds of maintenance that the messages ask for; returns how long they take, and how many there were.
    async fn keep_fit(&self) -> Result<(Duration, u32)> {
        eprintln!("  making filters");
        let client = self.connect().await?;
        let (begun, mut rounds) = (Instant::now(), 0);
        loop {
            self.store.maintain(Timestamp::now()).await?;
            rounds += 1;
            if client.query_one(DUE, &[]).await?.try_get::<_, i64>(0)? == 0 {
                break;
            }
        }
        let took = begun.elapsed();
        client.batch_execute("vacuum (analyze)").await?;
        client.batch_execute("checkpoint").await?;
        settle().await?;
        Ok((took, rounds))
    }

    /// Opens a connection to look at it from outside.
    pub(crate) async fn connect(&self) -> Result<Client> {
        connect(&self.database.url()).await
    }

    async fn remove(self) -> Result<()> {
        self.reader.close().await;
        self.plain_reader.close().await;
        self.store.close().await;
        self.database.drop().await
    }
}
