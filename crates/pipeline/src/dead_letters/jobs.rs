//! Jobs over dead letters: one at a time, and the last few to be asked about.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tracing::{error, info};
use warren_domain::ports::{DeadLetterFilter, DeadLetters, DeadLettersError, MessagePublisher, Revision};

use super::job::{Job, JobAction, JobReport, JobState};
use super::redrive::Work;

/// How many jobs are remembered.
const MOST_JOBS: usize = 20;

/// What became of the wish for a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begun {
    /// It is under way.
    Job(JobReport),
    /// Another one is; there is one at a time.
    Busy(JobReport),
}

/// Redrives and purges dead letters, one job at a time.
///
/// Jobs live in this process: one that is interrupted by its end leaves letters behind that are still there, or that
/// are there and stored as well; to begin it again does what is left, and stores nothing twice.
#[derive(Clone)]
pub struct DeadLetterJobs(Arc<Shared>);

struct Shared {
    letters: Arc<dyn DeadLetters>,
    publisher: Arc<dyn MessagePublisher>,
    /// The newest last.
    jobs: Mutex<VecDeque<Arc<Job>>>,
    /// Held while a job is being made: two that are wished for at once do not both see that there is none.
    beginning: tokio::sync::Mutex<()>,
    working: TaskTracker,
}

impl fmt::Debug for DeadLetterJobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetterJobs")
            .field("letters", &self.0.letters)
            .finish_non_exhaustive()
    }
}

impl DeadLetterJobs {
    /// Makes what redrives from `letters` through `publisher`.
    pub fn new(letters: Arc<dyn DeadLetters>, publisher: Arc<dyn MessagePublisher>) -> Self {
        Self(Arc::new(Shared {
            letters,
            publisher,
            jobs: Mutex::default(),
            beginning: tokio::sync::Mutex::default(),
            working: TaskTracker::new(),
        }))
    }

    /// Returns the letters that it works with.
    pub fn letters(&self) -> &Arc<dyn DeadLetters> {
        &self.0.letters
    }

    /// Begins a job over what `filter` means now; what dies while it runs is not met, whenever it says it died.
    ///
    /// # Errors
    /// [`DeadLettersError`]: the letters cannot be counted, or not be removed, and so nothing has begun.
    pub async fn begin(
        &self,
        action: JobAction,
        mut filter: DeadLetterFilter,
    ) -> Result<Begun, DeadLettersError> {
        let _beginning = self.0.beginning.lock().await;
        if let Some(running) = self.running() {
            return Ok(Begun::Busy(running));
        }
        // Else a redrive would publish what it cannot remove.
        self.0.letters.check_writable().await?;
        let counts = self.0.letters.count(&filter).await?;
        let total = counts.total();
        // A letter that comes meanwhile may stand anywhere in the list, and nobody has looked at it.
        filter.as_of = Some(counts.newest.unwrap_or(Revision::NONE));
        let job = Arc::new(Job::begin(action, total));
        let report = job.report();
        info!(
            job = report.id,
            ?action,
            letters = total,
            "began a job over dead letters"
        );
        {
            let mut jobs = self.lock();
            jobs.push_back(Arc::clone(&job));
            while jobs.len() > MOST_JOBS {
                jobs.pop_front();
            }
        }
        let work = Work {
            letters: Arc::clone(&self.0.letters),
            publisher: Arc::clone(&self.0.publisher),
            filter,
            job: Arc::clone(&job),
        };
        let working = tokio::spawn(work.run(action));
        self.0.working.spawn(async move {
            if let Err(failure) = working.await {
                error!(error = %failure, "a job over dead letters ended badly");
                job.change(|report| report.note(format!("a fault of this program ended it: {failure}")));
                job.end(JobState::Cancelled);
            }
        });
        Ok(Begun::Job(report))
    }

    /// Returns how far a job is; `None`: there is none of this id, or too many were begun since.
    pub fn job(&self, id: &str) -> Option<JobReport> {
        self.find(id).map(|job| job.report())
    }

    /// Returns every job that is remembered, the newest first.
    pub fn all(&self) -> Vec<JobReport> {
        self.lock().iter().rev().map(|job| job.report()).collect()
    }

    /// Tells a job to stop; it does after the batch that is under way. `None` as in [`DeadLetterJobs::job`].
    pub fn cancel(&self, id: &str) -> Option<JobReport> {
        let job = self.find(id)?;
        job.cancelled.cancel();
        Some(job.report())
    }

    /// Stops the job that runs, and waits for it, at most `patience`.
    pub async fn close(&self, patience: Duration) {
        for job in self.lock().iter() {
            job.cancelled.cancel();
        }
        self.0.working.close();
        if timeout(patience, self.0.working.wait()).await.is_err() {
            info!(
                "a job over dead letters was cut off; its letters stay, and those that are stored are stored once"
            );
        }
    }

    fn running(&self) -> Option<JobReport> {
        let jobs = self.lock();
        let running = jobs.iter().map(|job| job.report());
        running
            .into_iter()
            .find(|report| report.state == JobState::Running)
    }

    fn find(&self, id: &str) -> Option<Arc<Job>> {
        self.lock().iter().find(|job| job.report().id == id).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<Job>>> {
        self.0.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
