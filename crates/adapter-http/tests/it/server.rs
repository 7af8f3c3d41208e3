//! A server on a free port, with whatever publisher a test needs.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use warren_adapter_conformance::scripted::{PublishStep, ScriptedPublisher};
use warren_adapter_conformance::scripted_letters::ScriptedDeadLetters;
use warren_adapter_conformance::scripted_live::ScriptedLive;
use warren_adapter_conformance::scripted_reader::ScriptedReader;
use warren_adapter_http::{
    Drained, GroupRoutes, Health, HttpConfig, IntakeRoutes, QueryRoutes, Routes, Server, TailRoutes,
    describe_metrics,
};
use warren_domain::MessageLimits;
use warren_domain::ports::{HealthCheck, MessagePublisher};
use warren_pipeline::dead_letters::DeadLetterJobs;
use warren_pipeline::flow::{CounterSource, Counters, Counting, Flow, Page, StageName};
use warren_pipeline::tail::{Hub, TailConfig};
use warren_pipeline::tally::GroupReport;
use warren_pipeline::{Intake, IntakeConfig};

use crate::hostile_requests::post;
use crate::wire::{Answer, exchange};

/// Installs the one recorder of this process.
pub(crate) fn metrics() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE
        .get_or_init(|| {
            let handle = PrometheusBuilder::new().install_recorder().unwrap();
            describe_metrics();
            handle
        })
        .clone()
}

/// The numbers of this thread's test alone: what is counted or made here goes into them.
pub(crate) struct Numbers {
    handle: PrometheusHandle,
    _guard: metrics::LocalRecorderGuard<'static>,
}

impl Numbers {
    pub(crate) fn new() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        // A guard borrows its recorder, and a test's recorder may live as long as the program.
        let guard = metrics::set_default_local_recorder(Box::leak(Box::new(recorder)));
        Self {
            handle,
            _guard: guard,
        }
    }

    pub(crate) fn page(&self) -> String {
        self.handle.render()
    }

    /// Returns one of them, its labels written as they are printed; 0 until it is told.
    pub(crate) fn value(&self, series: &str) -> f64 {
        let page = self.page();
        let line = page
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0.0, |number| number.parse().unwrap())
    }
}

#[derive(Debug)]
pub(crate) struct TestServer {
    pub(crate) address: SocketAddr,
    pub(crate) publisher: Arc<ScriptedPublisher>,
    pub(crate) letters: Arc<ScriptedDeadLetters>,
    pub(crate) reader: ScriptedReader,
    pub(crate) health: Health,
}

/// The names that requests of the tests are for.
const HOSTS: [&str; 4] = ["w", "warren", "warren.test", "a"];

pub(crate) fn config() -> HttpConfig {
    HttpConfig {
        listen: "127.0.0.1:0".to_owned(),
        drain_delay: Duration::ZERO,
        hosts: HOSTS.map(str::to_owned).into(),
        ..HttpConfig::default()
    }
}

impl TestServer {
    pub(crate) async fn start() -> Self {
        Self::with(config(), []).await
    }

    pub(crate) async fn with(config: HttpConfig, script: impl IntoIterator<Item = PublishStep>) -> Self {
        let publisher = ScriptedPublisher::new(script);
        let behind = Arc::clone(&publisher);
        let (letters, reader) = (ScriptedDeadLetters::new(), ScriptedReader::new());
        let stored = (letters.clone(), reader.clone());
        let (address, health, ..) = serve_with(config, behind, Vec::new(), stored, metrics()).await;
        Self {
            address,
            publisher,
            letters,
            reader,
            health,
        }
    }

    pub(crate) async fn send(&self, request: &[u8]) -> Answer {
        exchange(self.address, request, false).await.expect("an answer")
    }

    pub(crate) async fn post(&self, body: impl AsRef<[u8]>) -> Answer {
        self.send(&post("/v1/messages", &[], body.as_ref())).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: warren\r\n\r\n").as_bytes())
            .await
    }
}

/// How many requests may read at once.
pub(crate) const READERS: usize = 2;

/// The counters of a program that takes in and stores.
#[derive(Debug)]
struct Counted;

#[async_trait]
impl CounterSource for Counted {
    async fn counters(&self) -> Arc<Counters> {
        let page = "warren_intake_accepted_messages_total{severity=\"info\"} 7\nwarren_store_paused 0\n\
                    warren_store_backlog_packets 1\nwarren_store_inserted_messages_total{severity=\"info\"} 5\n";
        let program = Counting {
            program: "this".to_owned(),
            page: Page::parse(page),
        };
        Arc::new(Counters {
            at: Instant::now(),
            counting: vec![program],
            silent: Vec::new(),
        })
    }
}

fn flow() -> Flow {
    Flow::new(Arc::new(Counted), StageName::Queued, "nothing")
}

/// A group that never changes.
fn group() -> tokio::sync::watch::Receiver<GroupReport> {
    let report = GroupReport::unknown("error".parse().unwrap(), warren_domain::Timestamp::MIN);
    tokio::sync::watch::channel(report).1
}

pub(crate) async fn serve(
    config: HttpConfig,
    publisher: Arc<dyn MessagePublisher>,
    checks: Vec<Arc<dyn HealthCheck>>,
) -> (SocketAddr, Health, CancellationToken, JoinHandle<Drained>) {
    serve_with(config, publisher, checks, Default::default(), metrics()).await
}

/// Serves with a `/metrics` that shows the test's own numbers.
pub(crate) async fn serve_numbered(
    config: HttpConfig,
    publisher: Arc<dyn MessagePublisher>,
    numbers: &Numbers,
) -> (SocketAddr, Health, CancellationToken, JoinHandle<Drained>) {
    let metrics = numbers.handle.clone();
    serve_with(config, publisher, Vec::new(), Default::default(), metrics).await
}

async fn serve_with(
    config: HttpConfig,
    publisher: Arc<dyn MessagePublisher>,
    checks: Vec<Arc<dyn HealthCheck>>,
    (letters, reader): (Arc<ScriptedDeadLetters>, ScriptedReader),
    metrics: PrometheusHandle,
) -> (SocketAddr, Health, CancellationToken, JoinHandle<Drained>) {
    let health = Health::new(checks);
    let jobs = DeadLetterJobs::new(letters, Arc::clone(&publisher));
    let intake = Intake::new(publisher, MessageLimits::default());
    let routes = Routes {
        service: "test",
        version: "1.2.3",
        health: health.clone(),
        metrics,
        groups: Some(GroupRoutes::Own(vec![group()])),
        pipeline: Some(flow()),
        dead_letters: Some(jobs),
        query: Some(QueryRoutes::new(Arc::new(reader), READERS)),
        tail: Some(TailRoutes::new(
            Hub::start(ScriptedLive::new(), TailConfig::default()),
            &config,
        )),
        intake: Some(IntakeRoutes::new(intake, &config, &IntakeConfig::default())),
    };
    let (address, shutdown, serving) = serve_routes(&config, routes).await;
    (address, health, shutdown, serving)
}

/// Returns what every server answers; tests add to it what they are about.
pub(crate) fn bare() -> Routes {
    Routes::bare("test", "1.2.3", Health::new(Vec::new()), metrics())
}

pub(crate) async fn serve_routes(
    config: &HttpConfig,
    routes: Routes,
) -> (SocketAddr, CancellationToken, JoinHandle<Drained>) {
    let server = Server::bind(config).await.unwrap();
    let (address, shutdown) = (server.local_addr(), CancellationToken::new());
    let serving = tokio::spawn(server.serve(routes, shutdown.clone()));
    (address, shutdown, serving)
}
