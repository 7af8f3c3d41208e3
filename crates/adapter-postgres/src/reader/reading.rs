//! A connection that somebody reads on.

use std::time::Duration;

use futures_util::future::join3;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tokio_postgres::{NoTls, Row};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::statements::Statement;
use crate::error::Failure;
use crate::partitions::DEFAULT_PARTITION;
use crate::pool::{Lease, Pooled};
use crate::session::{Connector, ReadSession};

/// How long ending a statement that nobody waits for may take.
const CANCEL: Duration = Duration::from_secs(2);

/// What a transaction that reads begins with.
///
/// It locks the table and then the partition of whatever has no other, as PostgreSQL does when it drops a day. Whoever
/// makes a partition moves rows out of that one, and lets nobody else have it meanwhile. A statement that had to wait for
/// it would look there and not into the new partition, which it did not know when it was planned, and so miss them.
#[derive(Clone, Debug)]
pub(super) struct Beginning(String);

impl Beginning {
    /// Begins one statement, which has the time of its session.
    pub(super) fn plain() -> Self {
        Self::with("")
    }

    /// Begins a step of a search, which has its own time once it has its locks. For these it waits as long as its session
    /// may: longer than the maintenance waits for its own, behind which everybody queues.
    ///
    /// A step reads a bounded number of rows in the order of an index. A bitmap has no order: with it all that there are
    /// would be read and sorted, and while statistics lag behind PostgreSQL takes them for few.
    pub(super) fn of_step(time: Duration) -> Self {
        let time = time.as_millis();
        Self::with(&format!(
            "set local statement_timeout = {time}; set local enable_bitmapscan = off;"
        ))
    }

    fn with(limits: &str) -> Self {
        Self(format!(
            "begin; {limits} lock table only messages, only {DEFAULT_PARTITION} in access share mode"
        ))
    }
}

/// A connection that somebody reads on. Dropped before it is done, it ends in the server what is under way.
pub(super) struct Reading<'p> {
    lease: Option<Lease<'p, ReadSession>>,
    connector: &'p Connector,
}

impl<'p> Reading<'p> {
    pub(super) const fn on(lease: Lease<'p, ReadSession>, connector: &'p Connector) -> Self {
        Self {
            lease: Some(lease),
            connector,
        }
    }

    /// Runs one statement that reads counts.
    pub(super) async fn rows(&self, statement: &Statement<'_>) -> Result<Vec<Row>, Failure> {
        let Some(session) = self.lease.as_deref() else {
            return Ok(Vec::new());
        };
        let parameters = statement.parameters();
        let asking = session.client().query_typed(statement.text(), &parameters);
        session.within(async { Ok(asking.await?) }).await
    }

    /// Runs one statement that reads messages, in a transaction; all of it is sent at once.
    pub(super) async fn rows_after(
        &self,
        beginning: &Beginning,
        statement: &Statement<'_>,
    ) -> Result<Vec<Row>, Failure> {
        let Some(session) = self.lease.as_deref() else {
            return Ok(Vec::new());
        };
        let (client, parameters) = (session.client(), statement.parameters());
        let asking = async {
            // In this order. What fails makes what follows fail, and the end is an end all the same.
            let (begun, rows, ended) = join3(
                client.batch_execute(&beginning.0),
                client.query_typed(statement.text(), &parameters),
                client.batch_execute("commit"),
            )
            .await;
            begun?;
            let rows = rows?;
            ended?;
            Ok(rows)
        };
        session.within(asking).await
    }

    /// Gives the connection back, if nothing is under way on it.
    pub(super) fn done(mut self, failure: Option<&Failure>) {
        if failure.is_none_or(|failure| failure.state().is_some())
            && let Some(lease) = self.lease.take()
        {
            lease.give_back();
        }
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        let Some((session, permit)) = self.lease.take().map(Lease::keep) else {
            return;
        };
        // Outside a runtime nothing can be asked for; the statement ends with its time.
        if !session.is_closed()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(cancel(session, permit, self.connector.clone()));
        }
    }
}

/// Ends what is under way on a connection, and then the connection; whoever waits for one waits for that.
async fn cancel(session: ReadSession, permit: OwnedSemaphorePermit, connector: Connector) {
    let token = session.client().cancel_token();
    let cancelling = async {
        match &connector.tls.client {
            Some(tls) => token.cancel_query(MakeRustlsConnect::new(tls.clone())).await,
            None => token.cancel_query(NoTls).await,
        }
    };
    match timeout(CANCEL, cancelling).await {
        Ok(Ok(())) => Pooled::close(session).await,
        Ok(Err(error)) => {
            let error = &error as &dyn std::error::Error;
            tracing::debug!(error, "PostgreSQL was not told that nobody waits for a statement");
        }
        Err(_) => tracing::debug!("PostgreSQL did not take in time that nobody waits for a statement"),
    }
    drop(permit);
}
