//! The queue alone: what a program puts by while its broker is away.

use std::path::Path;
use std::sync::{Arc, Mutex};

use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::{CancellationToken, DropGuard};
use warren_domain::ports::{
    ConsumerGroup, DeadLetters, GroupLag, HealthCheck, MessageConsumer, MessagePublisher,
};

use crate::config::SpoolConfig;
use crate::database::Database;
use crate::directory::Directory;
use crate::embedded::{TEND_EVERY, close_files, wal_bytes};
use crate::error::OpenError;
use crate::health::{Condition, SpoolHealth};
use crate::metrics::BYTES;
use crate::queue::consumer::{Consumer, Reading};
use crate::queue::dead_letters::QueueLetters;
use crate::queue::lag::QueueLag;
use crate::queue::publisher::Publisher;
use crate::queue::{Queue, STORE_GROUP};
use crate::schema::QueueMigrator;
use crate::section::Section;
use crate::space::Space;
use crate::sync::lock;

/// A durable queue with one reader, in a directory that this process holds alone.
///
/// The same log as that of [`crate::Embedded`]: what is published is on the disk, synchronised, before the answer;
/// a row is dropped only after its delivery was acknowledged. It is bounded by `spool.max_bytes` and never drops the
/// oldest for the newest.
///
/// Dropping it stops everything that was made from it, as a crash would. [`SpoolQueue::close`] ends in order.
#[derive(Debug)]
pub struct SpoolQueue {
    queue: Arc<Queue>,
    file: Arc<Database>,
    condition: Arc<Condition>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    stop: CancellationToken,
    _stop_on_drop: DropGuard,
}

impl SpoolQueue {
    /// Opens the spool in the directory `path`, or makes it; brings its schema up to date. Of `config` it takes all
    /// but the path.
    ///
    /// # Errors
    /// [`OpenError`], with the file and what to do. Nothing was changed but for the schema.
    pub async fn open(path: &Path, config: &SpoolConfig) -> Result<Self, OpenError> {
        let section = Section::Spool;
        let directory = Arc::new(Directory::hold(path, section.place()).await?);
        let wal_bytes = wal_bytes(config.max_bytes);
        let file = directory.file(&format!("{}.db", section.log()));
        let file = Arc::new(Database::open::<QueueMigrator>(file, wal_bytes, section.place()).await?);
        let space = Arc::new(Space::new(section, config.max_bytes, wal_bytes));
        let condition = Arc::new(Condition::default());
        let stop = CancellationToken::new();
        let (queue, writer) = Queue::start(
            &config.queue(),
            section,
            Arc::clone(&file),
            Arc::clone(&space),
            Arc::clone(&condition),
            directory,
            stop.clone(),
        )
        .await
        .map_err(|error| file.refusal(error))?;
        let keeper = tokio::spawn(keep(Arc::clone(&queue), space, stop.clone()));
        Ok(Self {
            queue,
            file,
            condition,
            tasks: Mutex::new(vec![writer, keeper]),
            _stop_on_drop: stop.clone().drop_guard(),
            stop,
        })
    }

    /// Returns the way in.
    pub fn publisher(&self) -> Arc<dyn MessagePublisher> {
        Arc::new(Publisher(Arc::clone(&self.queue)))
    }

    /// Returns the way out: all that waits, in the order in which it came.
    pub fn consumer(&self) -> Box<dyn MessageConsumer> {
        let queue = Arc::clone(&self.queue);
        Box::new(Consumer::new(queue, ConsumerGroup::Store, Reading::Whole))
    }

    /// Returns what tells how much waits, not counting what a consumer holds.
    pub fn lag(&self) -> Arc<dyn GroupLag> {
        Arc::new(QueueLag {
            queue: Arc::clone(&self.queue),
            group: STORE_GROUP.to_owned(),
        })
    }

    /// Returns what came out of it and will never be taken, and the lines of it that cannot be read.
    pub fn dead_letters(&self) -> Arc<dyn DeadLetters> {
        Arc::new(QueueLetters(Arc::clone(&self.queue)))
    }

    /// Returns the state of the spool, named `spool`: well while it takes messages.
    pub fn health(&self) -> Arc<dyn HealthCheck> {
        Arc::new(SpoolHealth(Arc::clone(&self.condition)))
    }

    /// Keeps the acknowledgements, moves the write-ahead log into its file and closes it.
    ///
    /// What was made from this answers as closed from now on. Waits 15 seconds at most; what a hanging disk leaves
    /// undone is done by the next start.
    pub async fn close(&self) {
        self.stop.cancel();
        let tasks: Vec<_> = lock(&self.tasks).drain(..).collect();
        if !tasks.is_empty() {
            close_files(tasks, &[&self.file]).await;
        }
    }
}

/// Measures the directory and tends the log until `stop`.
async fn keep(queue: Arc<Queue>, space: Arc<Space>, stop: CancellationToken) {
    let mut ticks = interval(TEND_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = queue.tend() => {}
        }
        metrics::gauge!(BYTES, "file" => Section::Spool.log()).set(space.queue().total() as f64);
    }
}
