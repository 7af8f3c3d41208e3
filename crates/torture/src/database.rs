//! What is done to PostgreSQL and asked of it, past the product.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_postgres::Client;
use uuid::Uuid;
use warren_e2e::postgres::{TestDatabase, connect};
use warren_test_servers::PrivatePostgres;

use crate::ledger::DeadLetter;
use crate::messages::POISON_SOURCE;

/// How long a question may take.
const DEADLINE: Duration = Duration::from_secs(20);

/// The role of the workers; the harness itself is `postgres`.
pub const ROLE: &str = "warren_torture";

/// A private PostgreSQL with one database.
#[derive(Debug)]
pub struct Database {
    server: Arc<Mutex<PrivatePostgres>>,
    database: TestDatabase,
    log: std::path::PathBuf,
}

impl Database {
    /// Starts a server, with a role of the workers.
    ///
    /// # Errors
    /// PostgreSQL is not installed, or does not start.
    pub async fn start_server() -> Result<Arc<Mutex<PrivatePostgres>>> {
        let server = spawn_blocking(PrivatePostgres::start).await??;
        let client = connect(&server.url()).await?;
        // Whoever waits for a lock is evidence, and it is in the log.
        for order in [
            "alter system set log_lock_waits = on",
            "alter system set deadlock_timeout = '200ms'",
            "alter system set log_min_error_statement = 'panic'",
        ] {
            client.batch_execute(order).await?;
        }
        client.query("select pg_reload_conf()", &[]).await?;
        Ok(Arc::new(Mutex::new(server)))
    }

    /// Makes a database that the workers' role owns.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn create(server: Arc<Mutex<PrivatePostgres>>, password: &str) -> Result<Self> {
        let (url, log) = {
            let server = server.lock().unwrap_or_else(PoisonError::into_inner);
            (server.url(), server.log())
        };
        let database = TestDatabase::create(&url).await?;
        let created = Self {
            server,
            database,
            log,
        };
        let (name, client) = (created.name().await?, created.client().await?);
        client
            .batch_execute(&format!(
                "do $$ begin if not exists (select from pg_roles where rolname = '{ROLE}') then \
                 create role {ROLE} login; end if; end $$; \
                 alter role {ROLE} password '{password}'; alter database {name} owner to {ROLE}; \
                 alter schema public owner to {ROLE}"
            ))
            .await?;
        Ok(created)
    }

    /// Has the database refuse the rows of one source for ever.
    ///
    /// # Errors
    /// The tables are not there yet.
    pub async fn refuse_poison(&self) -> Result<()> {
        self.execute(&format!(
            "create function refuse_poison() returns trigger language plpgsql as $$ begin \
             raise exception 'poison' using errcode = '22023'; end $$; \
             create trigger refuse_poison before insert on messages for each row \
             when (new.source = '{POISON_SOURCE}') execute function refuse_poison(); \
             create function sleep_long() returns trigger language plpgsql as $$ begin \
             perform pg_sleep(30); return null; end $$"
        ))
        .await
    }

    /// Returns the URL of the database at another address, as the workers' role.
    pub fn url_at(&self, address: std::net::SocketAddr, password: &str) -> String {
        let url = self.database.url();
        let name = url.rsplit('/').next().unwrap_or_default().to_owned();
        format!("postgres://{ROLE}:{password}@{address}/{name}?sslmode=disable")
    }

    /// Returns the name of the database.
    ///
    /// # Errors
    /// The server does not answer.
    async fn name(&self) -> Result<String> {
        let row = self
            .client()
            .await?
            .query_one("select current_database()::text", &[])
            .await?;
        Ok(row.get(0))
    }

    /// Returns the test's database.
    pub const fn database(&self) -> &TestDatabase {
        &self.database
    }

    /// Returns the server's release.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn release(&self) -> Result<String> {
        let row = self.client().await?.query_one("show server_version", &[]).await?;
        Ok(format!("PostgreSQL {}", row.get::<_, String>(0)))
    }

    /// Does something to the server, on a thread that may block.
    ///
    /// # Errors
    /// As `act`.
    pub async fn act<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut PrivatePostgres) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let server = Arc::clone(&self.server);
        spawn_blocking(move || act(&mut server.lock().unwrap_or_else(PoisonError::into_inner))).await?
    }

    /// Takes back everything that may have been done to it.
    ///
    /// # Errors
    /// The server does not start, or does not answer.
    pub async fn calm(&self) -> Result<()> {
        self.act(|server| match server.pid() {
            Some(_) => server.thaw(),
            None => server.start_again(),
        })
        .await?;
        self.read_only(false).await?;
        self.execute(&format!(
            "alter role {ROLE} connection limit -1; grant insert on messages to {ROLE}; \
             drop trigger if exists sleep_long on messages"
        ))
        .await
    }

    /// Opens a connection as the administrator.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn client(&self) -> Result<Client> {
        self.database.connect().await
    }

    /// Executes statements as the administrator.
    ///
    /// # Errors
    /// The server refuses, or does not answer.
    pub async fn execute(&self, sql: &str) -> Result<()> {
        let client = self.client().await?;
        timeout(DEADLINE, client.batch_execute(sql))
            .await
            .with_context(|| format!("PostgreSQL did not answer within {DEADLINE:?}: {sql}"))?
            .with_context(|| format!("PostgreSQL refused {sql}"))
    }

    /// Ends the sessions of the workers' role; returns how many there were.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn end_sessions(&self) -> Result<i64> {
        let sql = "select count(pg_terminate_backend(pid)) from pg_stat_activity where usename = $1";
        let client = self.client().await?;
        let row = timeout(DEADLINE, client.query_one(sql, &[&ROLE])).await??;
        Ok(row.get(0))
    }

    /// Sets or resets a setting of the database, for sessions to come.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn read_only(&self, on: bool) -> Result<()> {
        let name = self.name().await?;
        let what = if on {
            "set default_transaction_read_only = on"
        } else {
            "reset default_transaction_read_only"
        };
        // An administrator's session is read-only too, and must be able to take it back; what is sent at once is one
        // transaction, whose mode is settled when it begins.
        let client = self.client().await?;
        for sql in [
            "set default_transaction_read_only = off".to_owned(),
            format!("alter database {name} {what}"),
        ] {
            timeout(DEADLINE, client.batch_execute(&sql))
                .await
                .with_context(|| format!("PostgreSQL did not answer within {DEADLINE:?}: {sql}"))?
                .with_context(|| format!("PostgreSQL refused {sql}"))?;
        }
        Ok(())
    }

    /// Counts the lines of the server's log that hold a text.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn log_lines(&self, text: &str) -> Result<usize> {
        let log = tokio::fs::read(&self.log).await?;
        Ok(String::from_utf8_lossy(&log).matches(text).count())
    }

    /// Tells which of these messages are stored.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn any_stored(&self, client: &Client, ids: &[Uuid]) -> Result<bool> {
        let sql = "select exists (select from messages where id = any($1))";
        let row = timeout(Duration::from_secs(2), client.query_one(sql, &[&ids])).await??;
        Ok(row.get(0))
    }

    /// Reads the dead letters that the product keeps in a table, if it does.
    ///
    /// # Errors
    /// The server does not answer, or the table has no such columns.
    pub async fn dead_letters(&self) -> Result<Vec<DeadLetter>> {
        let client = self.client().await?;
        let there: bool = client
            .query_one("select to_regclass('dead_letters') is not null", &[])
            .await?
            .get(0);
        if !there {
            return Ok(Vec::new());
        }
        let rows = client
            .query(
                "select content, reason, exchange, routing_key from dead_letters",
                &[],
            )
            .await?;
        let letters = rows.iter().map(|row| {
            Ok(DeadLetter {
                body: row.try_get(0)?,
                reason: row.try_get(1)?,
                origin: Some((row.try_get(2)?, row.try_get(3)?)),
            })
        });
        letters.collect()
    }

    /// Counts the messages.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn count(&self) -> Result<u64> {
        self.database.count().await
    }

    /// Requires that a process is stopped, as `/proc` says.
    ///
    /// # Errors
    /// It is not.
    pub fn ensure_frozen(pid: u32) -> Result<()> {
        let state = crate::resources::state(pid);
        ensure!(state == Some('T'), "process {pid} is in state {state:?}");
        Ok(())
    }
}
