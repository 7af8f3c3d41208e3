//! What a test runs on: names of its own on the servers, and the programs set up for them.

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::FutureExt as _;
use tokio::time::{Instant, sleep};

use crate::environment;
use crate::ledger::{Ledger, Report};
use crate::metrics::Books;
use crate::postgres::TestDatabase;
use crate::process::Service;
use crate::rabbit::Topology;

/// How long stored messages may stay behind accepted ones; slow machines need it, and no verdict depends on it.
const CATCH_UP: Duration = Duration::from_secs(180);

/// A broker's names and a database that exist for one test.
#[derive(Debug)]
pub struct Bed {
    /// Its queues and exchanges.
    pub topology: Topology,
    /// Its database.
    pub database: TestDatabase,
}

/// Runs a test on the servers that tests share, and removes what it made, also when it fails.
///
/// # Panics
/// As the test does, or when the servers do not answer.
pub async fn on_shared_servers(test: impl AsyncFnOnce(&Bed)) {
    on_servers(&environment::amqp_url(), &environment::postgres_url(), test).await;
}

/// Runs a test on the servers at these URLs, and removes what it made, also when it fails.
///
/// # Panics
/// As the test does, or when the servers do not answer.
pub async fn on_servers(amqp: &str, postgres: &str, test: impl AsyncFnOnce(&Bed)) {
    let ran = lend(amqp, postgres, async |bed| {
        test(bed).await;
        Ok(())
    });
    if let Err(error) = ran.await {
        panic!("{error:#}");
    }
}

/// Lends names of its own on the servers at these URLs, and removes them afterwards, also after a panic.
///
/// # Errors
/// As `work` does, or when the servers do not answer.
///
/// # Panics
/// As `work` does.
pub async fn lend<T>(amqp: &str, postgres: &str, work: impl AsyncFnOnce(&Bed) -> Result<T>) -> Result<T> {
    let bed = Bed {
        topology: Topology::new(amqp),
        database: TestDatabase::create(postgres).await?,
    };
    let outcome = AssertUnwindSafe(work(&bed)).catch_unwind().await;
    let removed = bed
        .remove()
        .await
        .context("something is left behind on the servers");
    match outcome {
        Ok(Ok(done)) => removed.map(|()| done),
        failed => {
            if let Err(error) = removed {
                eprintln!("{error:#}");
            }
            failed.unwrap_or_else(|panic| resume_unwind(panic))
        }
    }
}

impl Bed {
    /// Prepares the intake.
    ///
    /// # Errors
    /// It is not built.
    pub fn ingest(&self) -> Result<Service> {
        Ok(self.to_broker(Service::new("ingest-api")?))
    }

    /// Prepares the worker; it needs [`Bed::migrate`] first.
    ///
    /// # Errors
    /// It is not built.
    pub fn worker(&self) -> Result<Service> {
        Ok(self.to_database(self.to_broker(Service::new("store-worker")?)))
    }

    /// Prepares the one that finds and shows messages; it needs [`Bed::migrate`] first.
    ///
    /// # Errors
    /// It is not built.
    pub fn query(&self) -> Result<Service> {
        Ok(self.to_database(self.to_broker(Service::new("query-api")?)))
    }

    /// Tells a program which broker to use.
    pub fn to_broker(&self, service: Service) -> Service {
        service
            .setting("WARREN_AMQP__URL", self.topology.url())
            .setting("WARREN_AMQP__PREFIX", self.topology.prefix())
    }

    /// Tells a program which database to use.
    pub fn to_database(&self, service: Service) -> Service {
        service.setting("WARREN_POSTGRES__URL", self.database.url())
    }

    /// Makes the schema, as an operator would.
    ///
    /// # Errors
    /// `store-worker migrate` does not end with success within a minute.
    pub async fn migrate(&self) -> Result<()> {
        let mut migrate = self.worker()?.argument("migrate");
        migrate.spawn()?;
        let status = migrate.wait(Duration::from_secs(60)).await?;
        ensure!(
            status.success(),
            "`store-worker migrate` ended with {status}:\n{}",
            migrate.log()?
        );
        Ok(())
    }

    /// Makes the schema, and starts the intake, the worker, and the one that finds messages, until each is ready.
    ///
    /// # Errors
    /// One of them is not built, or does not get ready.
    pub async fn start_all(&self) -> Result<[Service; 3]> {
        self.migrate().await?;
        let mut services = [self.ingest()?, self.worker()?, self.query()?];
        for service in &mut services {
            service.start_ready().await?;
        }
        Ok(services)
    }

    /// Waits until at least as many rows are stored as were accepted.
    ///
    /// # Errors
    /// It does not come to that; the message has the difference.
    pub async fn wait_stored(&self, ledger: &Ledger) -> Result<()> {
        let deadline = Instant::now() + CATCH_UP;
        loop {
            let (stored, accepted) = (self.database.count().await?, ledger.tally().accepted);
            if stored >= accepted {
                return Ok(());
            }
            if Instant::now() > deadline {
                let report = self.database.check(ledger).await?;
                anyhow::bail!("{stored} rows for {accepted} accepted messages after {CATCH_UP:?}\n{report}");
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// Waits until everything is stored, stops both programs politely, and compares every row.
    ///
    /// # Errors
    /// A message is missing, a program does not stop, or something is left in a queue.
    pub async fn settle(
        &self,
        ledger: &Ledger,
        ingest: &mut Service,
        worker: &mut Service,
    ) -> Result<Report> {
        self.wait_stored(ledger).await?;
        ingest.stop(Duration::from_secs(30)).await?;
        self.wait_drained().await?;
        worker.stop(Duration::from_secs(30)).await?;
        // Only now: a consumer's unacknowledged messages are back in the queue.
        self.nothing_waits().await?;
        self.database.check(ledger).await
    }

    /// Fails unless the queue of the store and the one of the dead letters are empty, and none was kept; asked when the
    /// workers have ended.
    ///
    /// # Errors
    /// Something is in one of them, or became a dead letter.
    pub async fn nothing_waits(&self) -> Result<()> {
        for queue in ["store", "dead"] {
            let left = self.topology.take_rest(queue).await?;
            ensure!(left == 0, "{left} packets are left in the queue `{queue}`");
        }
        let kept = "select count(*) from dead_letters";
        let kept: i64 = self.database.connect().await?.query_one(kept, &[]).await?.get(0);
        ensure!(kept == 0, "{kept} dead letters were kept");
        Ok(())
    }

    /// Waits until a worker has taken everything out of the queue of the store.
    ///
    /// # Errors
    /// It does not come to that.
    pub async fn wait_drained(&self) -> Result<()> {
        let deadline = Instant::now() + CATCH_UP;
        while self.topology.waiting("store").await? > 0 {
            ensure!(
                Instant::now() < deadline,
                "the queue of the store does not become empty"
            );
            sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    }

    async fn remove(self) -> Result<()> {
        let topology = self.topology.remove().await;
        self.database.drop().await?;
        topology
    }
}

/// Waits until the books balance, and returns them.
///
/// # Errors
/// They do not; the message has them.
pub async fn balanced_books(intake: &Service, store: &Service) -> Result<Books> {
    let deadline = Instant::now() + CATCH_UP;
    loop {
        let books = Books::read(intake.address(), store.address()).await?;
        if books.balance() {
            return Ok(books);
        }
        ensure!(Instant::now() < deadline, "the books do not balance: {books:?}");
        sleep(Duration::from_millis(100)).await;
    }
}
