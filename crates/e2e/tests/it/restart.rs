//! The servers go away in the middle of a load, and come back.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use time::OffsetDateTime;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_util::sync::CancellationToken;
use warren_e2e::bed::on_servers;
use warren_e2e::environment;
use warren_e2e::load::Load;
use warren_e2e::process::Service;
use warren_e2e::request::Planner;
use warren_e2e::{Generator, Ledger};
use warren_test_servers::{PrivatePostgres, PrivateRabbit};

use crate::alone;

/// Bounds a wait for something that takes seconds; no verdict depends on how long it takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A load without end, and what stops it.
pub(crate) struct Endless {
    ledger: Arc<Ledger>,
    stop: CancellationToken,
    running: JoinHandle<anyhow::Result<()>>,
}

impl Endless {
    pub(crate) fn begin(seed: u64, intake: &Service) -> Self {
        let generator = Generator::new(seed, OffsetDateTime::now_utc()).with_largest_body(4 << 10);
        let ledger = Arc::new(Ledger::new(generator));
        let load = Load {
            clients: 8,
            patience: PATIENCE,
            ..Load::new(intake.address())
        };
        let (stop, book) = (load.stop.clone(), Arc::clone(&ledger));
        let plans = Planner::new(generator, 1 << 32).with_most_messages(20);
        Self {
            ledger,
            stop,
            running: tokio::spawn(async move { load.run(&book, plans).await }),
        }
    }

    /// Waits until clients have seen some more messages accepted.
    pub(crate) async fn goes_on(&self, when: &str) {
        let more = self.ledger.tally().accepted + 1_000;
        let what = format!("1,000 more messages accepted {when}");
        self.ledger
            .wait_until(&what, PATIENCE, |tally| tally.accepted >= more)
            .await
            .unwrap();
    }

    /// Waits until clients have been told to come again later.
    async fn is_refused(&self, when: &str) {
        let before = self.ledger.tally().of(503);
        let what = format!("503 {when}");
        self.ledger
            .wait_until(&what, PATIENCE, |tally| tally.of(503) > before)
            .await
            .unwrap();
    }

    pub(crate) async fn end(self) -> Arc<Ledger> {
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
        self.ledger
    }
}

/// A server of this test's own; what is done to it blocks, and so happens on a thread for that.
pub(crate) struct Private<S>(Arc<Mutex<S>>);

impl<S: Send + 'static> Private<S> {
    pub(crate) async fn start(start: impl FnOnce() -> anyhow::Result<S> + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(
            spawn_blocking(start).await.unwrap().unwrap(),
        )))
    }

    pub(crate) async fn act<T: Send + 'static>(&self, act: impl FnOnce(&mut S) -> T + Send + 'static) -> T {
        let server = Arc::clone(&self.0);
        spawn_blocking(move || act(&mut server.lock().unwrap()))
            .await
            .unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rabbitmq_goes_and_comes_and_clients_are_told_to_wait_and_served_again() {
    let _alone = alone().await;
    let rabbit = Private::start(PrivateRabbit::start).await;
    let url = rabbit.act(|rabbit| rabbit.url()).await;
    on_servers(&url, &environment::postgres_url(), async |bed| {
        bed.migrate().await.unwrap();
        let (mut ingest, mut worker) = (bed.ingest().unwrap(), bed.worker().unwrap());
        ingest.start_ready().await.unwrap();
        worker.start_ready().await.unwrap();
        let load = Endless::begin(21, &ingest);
        load.goes_on("before anything happened").await;
        // The orderly stop comes first: RabbitMQ notes within half a second where a new quorum queue lies (3.10: ra's
        // names.dets), and a broker killed before that never runs the queue again. docs/guarantees.md tells operators.
        for (how, stop) in [
            ("stopped", PrivateRabbit::stop as fn(&mut PrivateRabbit)),
            ("killed", PrivateRabbit::kill),
        ] {
            rabbit.act(stop).await;
            load.is_refused(&format!("after RabbitMQ was {how}")).await;
            ingest.wait_for("/readyz", 503, PATIENCE).await.unwrap();
            ingest.wait_for("/livez", 200, PATIENCE).await.unwrap();
            rabbit.act(PrivateRabbit::start_again).await.unwrap();
            load.goes_on(&format!("after RabbitMQ was {how} and started"))
                .await;
        }
        ingest.wait_for("/readyz", 200, PATIENCE).await.unwrap();
        worker.wait_for("/readyz", 200, PATIENCE).await.unwrap();
        let ledger = load.end().await;
        // Every 503 had a Retry-After, and nothing but 202 and 503 was answered: the ledger takes all else as a fault.
        bed.settle(&ledger, &mut ingest, &mut worker)
            .await
            .unwrap()
            .assert_clean();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_goes_and_comes_and_clients_do_not_even_notice() {
    let _alone = alone().await;
    let postgres = Private::start(PrivatePostgres::start).await;
    let url = postgres.act(|postgres| postgres.url()).await;
    on_servers(&environment::amqp_url(), &url, async |bed| {
        bed.migrate().await.unwrap();
        let (mut ingest, mut worker) = (bed.ingest().unwrap(), bed.worker().unwrap());
        ingest.start_ready().await.unwrap();
        worker.start_ready().await.unwrap();
        let load = Endless::begin(22, &ingest);
        load.goes_on("before anything happened").await;
        for (how, stop) in [
            (
                "killed",
                PrivatePostgres::stop_immediate as fn(&mut PrivatePostgres),
            ),
            ("stopped", PrivatePostgres::stop),
        ] {
            postgres.act(stop).await;
            let told = worker.wait_for("/readyz", 503, PATIENCE).await.unwrap();
            assert!(told.text_start().contains("postgres"), "{}", told.text_start());
            worker.wait_for("/livez", 200, PATIENCE).await.unwrap();
            load.goes_on(&format!("while PostgreSQL is {how}")).await;
            postgres.act(PrivatePostgres::start_again).await.unwrap();
            worker.wait_for("/readyz", 200, PATIENCE).await.unwrap();
            load.goes_on(&format!("after PostgreSQL was {how} and started"))
                .await;
        }
        let ledger = load.end().await;
        let tally = ledger.tally();
        assert_eq!(
            (tally.broken, tally.answers.len()),
            (0, 1),
            "clients noticed: {tally:?}"
        );
        bed.settle(&ledger, &mut ingest, &mut worker)
            .await
            .unwrap()
            .assert_clean();
    })
    .await;
}
