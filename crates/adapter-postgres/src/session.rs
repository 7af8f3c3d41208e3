//! One connection to PostgreSQL, with limits on every exchange.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::timeout;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::task::AbortOnDropHandle;
use warren_domain::ports::StoreError;

use crate::config::{ConfigError, PostgresConfig, SessionLimits};
use crate::error::{Failure, misconfigured, unavailable};
use crate::migration;
use crate::pool::Pooled;
use crate::target::Target;
use crate::tls::Tls;
use crate::{claims, counts, metrics, unnest};

/// How long a polite goodbye to PostgreSQL may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// How PostgreSQL shows our connections in `pg_stat_activity`.
pub(crate) const APPLICATION: &str = "warren";

/// Opens connections; made once, from settings that were checked and certificates that were read.
#[derive(Clone)]
pub(crate) struct Connector {
    pub(crate) target: Target,
    pub(crate) tls: Tls,
    driver: tokio_postgres::Config,
    connect_timeout: Duration,
}

impl Connector {
    /// Checks the settings and reads the certificates; connects to nothing.
    pub(crate) fn new(config: &PostgresConfig) -> Result<Self, ConfigError> {
        let mut problems = config.problems();
        let target = Target::parse(&config.url);
        let tls = match &target {
            Ok(target) => Tls::load(target.tls, config.tls_ca_file.as_deref())
                .map_err(|problem| problems.push(("tls_ca_file", problem)))
                .ok(),
            Err(_) => None,
        };
        let (Ok(target), Some(tls), []) = (target, tls, &problems[..]) else {
            return Err(ConfigError {
                section: "postgres",
                problems,
            });
        };
        let mut driver = target.driver_config();
        driver
            .application_name(APPLICATION)
            .keepalives(true)
            .keepalives_idle(config.keepalive)
            .keepalives_interval(config.keepalive)
            .keepalives_retries(3);
        Ok(Self {
            target,
            tls,
            driver,
            connect_timeout: config.connect_timeout,
        })
    }

    pub(crate) fn place(&self) -> &str {
        &self.target.place
    }

    /// Connects and checks the schema, all within the connect timeout.
    pub(crate) async fn open(&self, limits: SessionLimits) -> Result<Session, StoreError> {
        self.limited(async {
            let session = self.connect(limits).await?;
            session.check_schema(self.place()).await?;
            Ok(session)
        })
        .await
    }

    /// Connects and prepares the statements that write, all within the connect timeout.
    async fn open_writing(&self, limits: SessionLimits) -> Result<WriteSession, StoreError> {
        self.limited(async {
            let session = self.connect(limits).await?;
            session.check_schema(self.place()).await?;
            #[cfg(not(feature = "planted-bugs"))]
            let store = unnest::STORE;
            #[cfg(feature = "planted-bugs")]
            let store = &unnest::planted_store();
            let (copy, count, unnest, claim) = tokio::try_join!(
                session.client.prepare(COPY),
                session.client.prepare(counts::INSERT),
                session.client.prepare(store),
                session.client.prepare(claims::CLAIM),
            )?;
            let statements = Statements {
                copy,
                count,
                unnest,
                claim,
            };
            Ok(WriteSession { session, statements })
        })
        .await
    }

    /// Connects to a database whose schema may be missing or of another version.
    pub(crate) async fn open_unchecked(&self, limits: SessionLimits) -> Result<Session, StoreError> {
        self.limited(self.connect(limits)).await
    }

    async fn limited<T>(&self, opening: impl Future<Output = Result<T, Failure>>) -> Result<T, StoreError> {
        match timeout(self.connect_timeout, opening).await {
            Ok(opened) => opened.map_err(|failure| failure.into_store_error(self.place())),
            Err(_) => Err(unavailable(
                self.place(),
                &format!("cannot connect within {:?}", self.connect_timeout),
            )),
        }
    }

    async fn connect(&self, limits: SessionLimits) -> Result<Session, Failure> {
        let ended = Arc::new(Mutex::new(None));
        let keep_end = Arc::clone(&ended);
        // The reason why a connection ended reaches its driver alone; whoever waits for an answer learns only that
        // it is closed, so it is kept for them.
        let keep_end = move |end: Result<(), tokio_postgres::Error>| {
            if let Err(error) = end {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "connection to PostgreSQL ended"
                );
                *keep_end.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            }
        };
        let (client, driver) = if let Some(tls) = &self.tls.client {
            let tls = MakeRustlsConnect::new(tls.clone());
            let (client, connection) = self.driver.connect(tls).await?;
            (client, tokio::spawn(async move { keep_end(connection.await) }))
        } else {
            let (client, connection) = self.driver.connect(NoTls).await?;
            (client, tokio::spawn(async move { keep_end(connection.await) }))
        };
        let session = Session {
            client,
            driver: AbortOnDropHandle::new(driver),
            ended,
            opened: Instant::now(),
            limit: limits.client_side(),
            spoiled: AtomicBool::new(false),
            _open: metrics::OpenConnection::count(),
        };
        let told = session.texts(&settings(limits)).await?;
        match told.first().map(String::as_str) {
            Some("UTF8") => Ok(session),
            other => {
                let fault = format!(
                    "the database is encoded as {}, which cannot hold every text; create one with encoding 'UTF8'",
                    other.unwrap_or("something unknown")
                );
                Err(misconfigured(self.place(), &fault, None).into())
            }
        }
    }
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Connector").field(&self.place()).finish()
    }
}

const COPY: &str =
    "copy messages (id, severity, source, body, attributes, occurred_at, received_at) from stdin binary";

/// Returns what every session begins with; the first answer is the database's encoding.
///
/// Not startup options, because connection poolers refuse those; a pooler has to hand out whole sessions all the same,
/// as `docs/configuration.md` says. A server or role whose `synchronous_commit` is off
/// would make `Ok` mean "probably"; any of its other values flushes before the answer, and is left as it is.
fn settings(limits: SessionLimits) -> String {
    format!(
        "show server_encoding; set client_min_messages = error; set statement_timeout = {}; set lock_timeout = {}; set idle_in_transaction_session_timeout = {}; \
         set tcp_keepalives_idle = {keepalive}; set tcp_keepalives_interval = {keepalive}; set tcp_keepalives_count = 3; \
         select set_config('synchronous_commit', 'on', false) where current_setting('synchronous_commit') = 'off'",
        limits.statement.as_millis(),
        limits.lock.as_millis(),
        limits.idle_in_transaction.as_millis(),
        keepalive = limits.keepalive.as_secs().max(1),
    )
}

/// One connection. Dropping it closes it at once, whatever is under way on it.
#[derive(Debug)]
pub(crate) struct Session {
    client: Client,
    driver: AbortOnDropHandle<()>,
    ended: Arc<Mutex<Option<tokio_postgres::Error>>>,
    opened: Instant,
    limit: Duration,
    spoiled: AtomicBool,
    _open: metrics::OpenConnection,
}

impl Session {
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Tells whether it takes no statements any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.client.is_closed() || self.spoiled.load(Ordering::Relaxed)
    }

    /// Notes that an answer may come that belongs to nothing: whatever were asked now might take it for its own.
    pub(crate) fn spoil(&self) {
        self.spoiled.store(true, Ordering::Relaxed);
    }

    pub(crate) fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    /// Waits for an exchange no longer than the client's own limit; after [`Failure::Silent`] the connection's state
    /// is unknown, and it must be dropped.
    pub(crate) async fn within<T>(
        &self,
        exchange: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        match timeout(self.limit, exchange).await {
            Ok(Err(Failure::Driver(error))) if error.is_closed() => {
                let end = self.ended.lock().unwrap_or_else(PoisonError::into_inner).take();
                Err(Failure::Driver(end.unwrap_or(error)))
            }
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::Silent(self.limit)),
        }
    }

    /// Runs statements that return nothing.
    pub(crate) async fn run(&self, statements: &str) -> Result<(), Failure> {
        self.within(async { Ok(self.client.batch_execute(statements).await?) })
            .await
    }

    /// Returns the first column of what a query yields, as text.
    pub(crate) async fn texts(&self, query: &str) -> Result<Vec<String>, Failure> {
        let found = self
            .within(async { Ok(self.client.simple_query(query).await?) })
            .await?;
        Ok(found
            .iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                _ => None,
            })
            .collect())
    }

    pub(crate) async fn check_schema(&self, place: &str) -> Result<(), Failure> {
        Ok(migration::check(&migration::applied(self).await?, place)?)
    }

    /// Says goodbye, so that PostgreSQL does not have to find out.
    pub(crate) async fn close(self) {
        let Self { client, driver, .. } = self;
        drop(client);
        // A server that does not answer to a goodbye finds out by itself.
        if timeout(GOODBYE, driver).await.is_err() {
            tracing::debug!("PostgreSQL did not take leave in time");
        }
    }
}

/// The statements a writing connection has prepared.
#[derive(Debug)]
pub(crate) struct Statements {
    pub(crate) copy: Statement,
    pub(crate) count: Statement,
    pub(crate) unnest: Statement,
    pub(crate) claim: Statement,
}

/// A connection that is ready to write.
#[derive(Debug)]
pub(crate) struct WriteSession {
    session: Session,
    statements: Statements,
}

impl WriteSession {
    pub(crate) fn statements(&self) -> &Statements {
        &self.statements
    }
}

impl Pooled for WriteSession {
    async fn open(connector: &Connector, limits: SessionLimits) -> Result<Self, StoreError> {
        connector.open_writing(limits).await
    }

    async fn close(self) {
        self.session.close().await;
    }
}

impl std::ops::Deref for WriteSession {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

/// A connection that is ready to read, and can do nothing else.
#[derive(Debug)]
pub(crate) struct ReadSession(Session);

/// What a session that reads begins with.
///
/// One process of the server for each: what a reader may use of the machine is the number of its connections. Rows are
/// found through the key, a bounded part of it at a time, and statistics lag behind a table that grows: without them
/// PostgreSQL might read a whole day to find a minute. Compiling a statement would take longer than it runs.
const READING: &str = "set default_transaction_read_only = on; set application_name = 'warren reader'; \
    set max_parallel_workers_per_gather = 0; set enable_seqscan = off; set jit = off";

impl Pooled for ReadSession {
    async fn open(connector: &Connector, limits: SessionLimits) -> Result<Self, StoreError> {
        let opening = async {
            let session = connector.connect(limits).await?;
            session.run(READING).await?;
            session.check_schema(connector.place()).await?;
            Ok(Self(session))
        };
        connector.limited(opening).await
    }

    async fn close(self) {
        self.0.close().await;
    }
}

impl std::ops::Deref for ReadSession {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.0
    }
}
