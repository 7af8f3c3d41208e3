//! The shipped consumer groups, counted in this process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use warren_adapter_embedded::{Embedded, EmbeddedTally, OpenError};
use warren_domain::ports::{GroupLag, HealthCheck, NamedGroup, Unhealthy};
use warren_pipeline::tally::{GroupReport, GroupState, TallyHealth, TallyLoop, TallyParts, Until};

use crate::settings::Settings;

/// How long serving waits for the groups, so that they hear of the very first message.
const JOIN_PATIENCE: Duration = Duration::from_secs(5);

/// A tally loop and a book for each of the shipped groups.
#[derive(Debug)]
pub(crate) struct Counting {
    books: Vec<Arc<EmbeddedTally>>,
    loops: Vec<TallyLoop>,
    reports: Vec<watch::Receiver<GroupReport>>,
    health: Arc<TallyHealth>,
}

impl Counting {
    /// Opens the books; counts nothing yet.
    pub(crate) async fn open(settings: &Settings, embedded: &Arc<Embedded>) -> Result<Self, OpenError> {
        let (folder, place) = settings.books();
        let (mut books, mut loops, mut health) = (Vec::new(), Vec::new(), Vec::new());
        for group in NamedGroup::shipped() {
            let window = settings.tally.window;
            let book = Arc::new(EmbeddedTally::open(&folder, &group.name, window, place).await?);
            let lag = embedded.lag(&group.name);
            let parts = TallyParts {
                group: group.clone(),
                book: book.clone(),
                consumer_health: Arc::new(Membership::of(Arc::clone(&lag))),
                lag,
            };
            let (name, consumers) = (group.name.clone(), Arc::clone(embedded));
            let subscribe = move || Ok(consumers.counting_consumer(group.clone()));
            let tally_loop = TallyLoop::new(subscribe, parts, &settings.tally, Until::default());
            health.push((name, tally_loop.health()));
            loops.push(tally_loop);
            books.push(book);
        }
        Ok(Self {
            reports: loops.iter().map(TallyLoop::reports).collect(),
            health: Arc::new(TallyHealth::of(health)),
            books,
            loops,
        })
    }

    /// Returns what tells whether all groups are at work.
    pub(crate) fn health(&self) -> Arc<dyn HealthCheck> {
        Arc::clone(&self.health) as Arc<dyn HealthCheck>
    }

    /// Returns the reports of each group.
    pub(crate) fn reports(&self) -> Vec<watch::Receiver<GroupReport>> {
        self.reports.clone()
    }

    /// Begins to count, and returns once every group hears what is published from then on.
    pub(crate) async fn begin(&mut self, tasks: &mut JoinSet<()>, stop: &CancellationToken) {
        for tally_loop in self.loops.drain(..) {
            tasks.spawn(tally_loop.run(stop.clone()));
        }
        for reports in &mut self.reports.clone() {
            let joining = reports.wait_for(|report| report.state == GroupState::Consuming);
            if timeout(JOIN_PATIENCE, joining).await.is_err() {
                let group = &reports.borrow().group;
                warn!(%group, "not counting yet; what is sent before it does may not be counted");
            }
        }
    }

    /// Closes the books; the loops must have ended.
    pub(crate) async fn close(&self) {
        for book in &self.books {
            book.close().await;
        }
    }
}

/// Whether a group is there; the queue is in this process, so it stays there.
#[derive(Debug)]
struct Membership {
    lag: Arc<dyn GroupLag>,
    begun: AtomicBool,
}

impl Membership {
    const fn of(lag: Arc<dyn GroupLag>) -> Self {
        Self {
            lag,
            begun: AtomicBool::new(false),
        }
    }
}

#[async_trait]
impl HealthCheck for Membership {
    fn name(&self) -> &'static str {
        "embedded_group"
    }

    async fn check(&self) -> Result<(), Unhealthy> {
        if !self.begun.load(Ordering::Relaxed) {
            self.lag.lag().await?;
            self.begun.store(true, Ordering::Relaxed);
        }
        Ok(())
    }
}
