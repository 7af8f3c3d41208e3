//! sea-orm's connections: for migrations, entities and queries, whose statements are small.
//!
//! sea-orm alone would try a refused port for 30 seconds and then say only that its pool timed out, so every limit is
//! set here.

use std::time::Duration;

use sea_orm::sqlx::ConnectOptions as _;
use sea_orm::sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};
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
}

impl Limits {
    pub(crate) fn reading(config: &PostgresConfig) -> Self {
        Self {
            connect: config.connect_timeout,
            acquire: config.acquire_timeout,
            lock: config.lock_timeout,
            statement: config.statement_timeout,
        }
    }

    /// A migration may have much to do, and is ended by whoever started it, not by a clock.
    pub(crate) fn migrating(config: &PostgresConfig) -> Self {
        Self {
            connect: config.connect_timeout,
            acquire: config.acquire_timeout,
            lock: config.migrate_timeout,
            statement: Duration::ZERO,
        }
    }
}

/// Opens a pool and one connection of it, within the connect timeout.
pub(crate) async fn connect(
    connector: &Connector,
    connections: u32,
    limits: Limits,
) -> Result<DatabaseConnection, StoreError> {
    let target = &connector.target;
    let mut options = PgConnectOptions::new_without_pgpass()
        .port(target.port)
        .username(&target.user)
        .database(&target.database)
        .application_name(APPLICATION)
        .options([
            ("statement_timeout", limits.statement.as_millis()),
            ("lock_timeout", limits.lock.as_millis()),
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
        .acquire_timeout(limits.acquire);
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
