//! sea-orm's connections: for migrations, entities and queries, whose statements are small.
//!
//! sea-orm alone would try a refused port for 30 seconds and then say only that its pool timed out, so every limit is
//! set here.

use std::time::Duration;

use sea_orm::sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};
use sea_orm::sqlx::{self, ConnectOptions as _, Connection as _};
use sea_orm::{DatabaseConnection, SqlxPostgresConnector};
use tokio::time::timeout;
use warren_domain::ports::StoreError;

use crate::config::PostgresConfig;
use crate::error::{from_sqlx, misconfigured, unavailable};
use crate::session::{APPLICATION, Connector};
use crate::target::TargetHost;
use crate::tls::TlsMode;

/// What limits sea-orm's statements.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    connect: Duration,
    acquire: Duration,
    lock: Duration,
    /// Zero for none.
    statement: Duration,
    idle_in_transaction: Duration,
    keepalive: Duration,
}

impl Limits {
    pub(crate) fn reading(config: &PostgresConfig) -> Self {
        Self {
            connect: config.connect_timeout,
            acquire: config.acquire_timeout,
            lock: config.lock_timeout,
            statement: config.statement_timeout,
            idle_in_transaction: config.idle_in_transaction_session_timeout,
            keepalive: config.keepalive,
        }
    }

    /// A migration may have much to do, and is ended by whoever started it, not by a clock.
    pub(crate) fn migrating(config: &PostgresConfig) -> Self {
        Self {
            connect: config.connect_timeout,
            acquire: config.acquire_timeout,
            lock: config.migrate_timeout,
            statement: Duration::ZERO,
            idle_in_transaction: config.idle_in_transaction_session_timeout,
            keepalive: config.keepalive,
        }
    }
}

/// Opens a pool and one connection of it, within the connect timeout.
///
/// A connection that does not answer when it is given back is closed, and makes room for another: sqlx alone would wait
/// for an answer as long as the kernel keeps the connection, and a few exchanges that took too long would use up the pool.
pub(crate) async fn connect(
    connector: &Connector,
    connections: u32,
    limits: Limits,
) -> Result<DatabaseConnection, StoreError> {
    let target = &connector.target;
    let keepalive = u128::from(limits.keepalive.as_secs().max(1));
    let mut options = PgConnectOptions::new_without_pgpass()
        .port(target.port)
        .username(&target.user)
        .database(&target.database)
        .application_name(APPLICATION)
        .options([
            ("statement_timeout", limits.statement.as_millis()),
            ("lock_timeout", limits.lock.as_millis()),
            (
                "idle_in_transaction_session_timeout",
                limits.idle_in_transaction.as_millis(),
            ),
            ("tcp_keepalives_idle", keepalive),
            ("tcp_keepalives_interval", keepalive),
            ("tcp_keepalives_count", 3),
        ])
        .ssl_mode(match connector.tls.mode {
            TlsMode::Disable => PgSslMode::Disable,
            TlsMode::Prefer => PgSslMode::Prefer,
            TlsMode::Require => PgSslMode::Require,
            TlsMode::VerifyCa => PgSslMode::VerifyCa,
            TlsMode::VerifyFull => PgSslMode::VerifyFull,
        })
        .disable_statement_logging();
    options = match &target.host {
        TargetHost::Tcp(host) => options.host(host),
        TargetHost::Unix(directory) => options.socket(directory),
    };
    if let Some(password) = &target.password {
        options = options.password(password);
    }
    if !connector.tls.trusted_pem.is_empty() {
        options = options.ssl_root_cert_from_pem(connector.tls.trusted_pem.clone());
    }
    let pool = PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(limits.acquire)
        .after_release(move |connection, _| {
            Box::pin(async move {
                let answers = timeout(limits.acquire / 2, connection.ping()).await;
                answers.unwrap_or(Err(sqlx::Error::PoolTimedOut)).map(|()| true)
            })
        });
    let place = connector.place();
    match timeout(limits.connect, pool.connect_with(options)).await {
        Ok(Ok(pool)) => Ok(SqlxPostgresConnector::from_sqlx_postgres_pool(pool)),
        Ok(Err(error)) => Err(from_sqlx(&error, place).unwrap_or_else(|| {
            misconfigured(place, "sea-orm cannot connect", Some(std::sync::Arc::new(error)))
        })),
        Err(_) => Err(unavailable(
            place,
            &format!("cannot connect within {:?}", limits.connect),
        )),
    }
}
