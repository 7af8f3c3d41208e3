//! The whole adapter: a directory with a queue and a store in it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytesize::ByteSize;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use warren_domain::ports::{
    ConsumerGroup, DeadLetters, GroupLag, GroupName, HealthCheck, LiveMessages, MessageConsumer,
    MessagePublisher, MessageStore, NamedGroup, StoreMaintenance,
};

use crate::config::{EmbeddedConfig, ReaderConfig};
use crate::database::Database;
use crate::directory::Directory;
use crate::error::{OpenError, chain};
use crate::health::{Condition, EmbeddedHealth, StoreHealth};
use crate::metrics::BYTES;
use crate::queue::Queue;
use crate::queue::STORE_GROUP;
use crate::queue::consumer::{Consumer, Reading};
use crate::queue::dead_letters::QueueLetters;
use crate::queue::lag::QueueLag;
use crate::queue::live::QueueLive;
use crate::queue::publisher::Publisher;
use crate::reader::EmbeddedReader;
use crate::schema::{QueueMigrator, StoreMigrator};
use crate::section::Section;
use crate::space::Space;
use crate::store::Store;
use crate::sync::lock;
#[cfg(doc)]
use warren_domain::ports::StartAt;

/// How often the directory is measured and the log tended.
pub(crate) const TEND_EVERY: Duration = Duration::from_secs(1);
/// How long closing waits for a disk.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(15);
/// How large the write-ahead log of a file may be; less where `max_bytes` is small.
const WAL_BYTES: u64 = 32 << 20;

/// Returns how large the write-ahead log of a file may be in a directory of `max_bytes`.
pub(crate) fn wal_bytes(max_bytes: ByteSize) -> u64 {
    (max_bytes.as_u64() / 32).clamp(1 << 20, WAL_BYTES)
}

/// Queue and store in one directory, held by this process alone.
///
/// `queue.db` and `store.db` are files of their own, so that a commit of one never waits for the other; nothing needs
/// to be atomic over both, because storing is idempotent and acknowledged afterwards.
///
/// Dropping it stops everything that was made from it, as a crash would: nothing that was acknowledged is lost,
/// some of it may be delivered again. [`Embedded::close`] ends in order.
#[derive(Debug)]
pub struct Embedded {
    queue: Arc<Queue>,
    store: Arc<Store>,
    queue_file: Arc<Database>,
    store_file: Arc<Database>,
    health: Arc<EmbeddedHealth>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    stop: CancellationToken,
    _stop_on_drop: DropGuard,
}

impl Embedded {
    /// Opens the data directory, or makes it; brings its schema up to date.
    ///
    /// Messages older than `retention_days`, by the time in their id, are removed by maintenance; `None` keeps them.
    ///
    /// # Errors
    /// [`OpenError`], each with the file and what to do. Nothing was changed but for the schema.
    pub async fn open(config: EmbeddedConfig, retention_days: Option<u32>) -> Result<Self, OpenError> {
        let section = Section::Embedded;
        let place = section.place();
        let directory = Arc::new(Directory::hold(&config.path, place).await?);
        let wal_bytes = wal_bytes(config.max_bytes);
        let queue_file =
            Database::open::<QueueMigrator>(directory.file("queue.db"), wal_bytes, place).await?;
        let store_file =
            Database::open::<StoreMigrator>(directory.file("store.db"), wal_bytes, place).await?;
        let (queue_file, store_file) = (Arc::new(queue_file), Arc::new(store_file));
        let space = Arc::new(Space::new(section, config.max_bytes, wal_bytes));
        let condition = Arc::new(Condition::default());
        let stop = CancellationToken::new();

        let (queue, writer) = Queue::start(
            &config,
            section,
            Arc::clone(&queue_file),
            Arc::clone(&space),
            Arc::clone(&condition),
            Arc::clone(&directory),
            stop.clone(),
        )
        .await
        .map_err(|error| queue_file.refusal(error))?;
        let store = Arc::new(Store::new(
            Arc::clone(&store_file),
            Arc::clone(&queue),
            Arc::clone(&space),
            config.store_timeout,
            retention_days,
            config.idempotency_keep,
            directory,
        ));
        store.measure().await.map_err(|error| store_file.refusal(error))?;
        let keeper = tokio::spawn(keep(Arc::clone(&queue), Arc::clone(&store), space, stop.clone()));
        Ok(Self {
            queue,
            store,
            queue_file,
            store_file: Arc::clone(&store_file),
            health: Arc::new(EmbeddedHealth {
                condition,
                store: Arc::new(StoreHealth(store_file)),
            }),
            tasks: Mutex::new(vec![writer, keeper]),
            _stop_on_drop: stop.clone().drop_guard(),
            stop,
        })
    }

    /// Returns the way into the queue.
    pub fn publisher(&self) -> Arc<dyn MessagePublisher> {
        Arc::new(Publisher(Arc::clone(&self.queue)))
    }

    /// Makes a member of a consumer group; any number of members share a group's messages.
    ///
    /// A named group is made when its first member first asks for a delivery: with [`StartAt::Oldest`] it begins at the
    /// oldest message that the queue still holds, which is the oldest that the store or another group has not passed;
    /// with [`StartAt::New`] at the next one published. It goes on where it was after a restart, unless nobody attended
    /// it for `embedded.group_expiry`. Every member that asks for [`StartAt::New`] drops what waits in that moment, for
    /// all members; what others hold is theirs.
    ///
    /// A group whose members are gone may come back with another selection. It goes on where it was: of what was
    /// published meanwhile it gets what the new selection means, as far as the queue still holds it, and drops the rest.
    /// While it has members, what the first of them selects holds for all.
    pub fn consumer(&self, group: ConsumerGroup) -> Box<dyn MessageConsumer> {
        Box::new(Consumer::new(Arc::clone(&self.queue), group, Reading::Whole))
    }

    /// Makes a member of a named group for whoever only counts: it is delivered what [`Embedded::consumer`] is, but
    /// every message with an empty body and no attributes, which are not read.
    ///
    /// What it refuses is kept whole. A line that is faulty only in what is not read is delivered like any other; who
    /// reads it whole, such as the way into the store, puts it among the dead letters.
    pub fn counting_consumer(&self, group: NamedGroup) -> Box<dyn MessageConsumer> {
        let group = ConsumerGroup::Named(group);
        Box::new(Consumer::new(Arc::clone(&self.queue), group, Reading::Envelope))
    }

    /// Returns what tells how far a named group is behind: exact in messages and in their age.
    ///
    /// One packet is one row of the queue. For a group with patterns of sources it counts packets only, and those whose
    /// severity is selected: which sources are in them shows when they are opened.
    pub fn lag(&self, group: &GroupName) -> Arc<dyn GroupLag> {
        Arc::new(QueueLag {
            queue: Arc::clone(&self.queue),
            group: group.as_str().to_owned(),
        })
    }

    /// Returns what tells how far the store is behind: exact in messages and in their age.
    pub fn store_lag(&self) -> Arc<dyn GroupLag> {
        Arc::new(QueueLag {
            queue: Arc::clone(&self.queue),
            group: STORE_GROUP.to_owned(),
        })
    }

    /// Returns what lets somebody watch what is published.
    ///
    /// What is committed is handed on in memory: a listener that is slow to take it has 16 MiB of it waiting, then the
    /// oldest is dropped and counted.
    pub fn live(&self) -> Arc<dyn LiveMessages> {
        Arc::new(QueueLive(Arc::clone(&self.queue)))
    }

    /// Returns the store.
    pub fn store(&self) -> Arc<dyn MessageStore> {
        Arc::clone(&self.store) as Arc<dyn MessageStore>
    }

    /// Returns what nobody could store.
    pub fn dead_letters(&self) -> Arc<dyn DeadLetters> {
        Arc::new(QueueLetters(Arc::clone(&self.queue)))
    }

    /// Returns what removes old messages and gives room back.
    pub fn maintenance(&self) -> Arc<dyn StoreMaintenance> {
        Arc::clone(&self.store) as Arc<dyn StoreMaintenance>
    }

    /// Returns the state of queue and store, named `embedded`.
    pub fn health(&self) -> Arc<dyn HealthCheck> {
        Arc::clone(&self.health) as Arc<dyn HealthCheck>
    }

    /// Returns the state of the store alone: it is well while the queue is full, and whoever empties the queue asks it.
    pub fn store_health(&self) -> Arc<dyn HealthCheck> {
        Arc::clone(&self.health.store) as Arc<dyn HealthCheck>
    }

    /// Returns what finds stored messages, on connections of its own, which it opens at once; within a runtime.
    ///
    /// Each call makes another reader with other connections; clones share theirs.
    pub fn reader(&self, config: &ReaderConfig) -> EmbeddedReader {
        EmbeddedReader::new(Arc::clone(&self.store_file), config.clone())
    }

    /// Keeps the acknowledgements, moves the write-ahead logs into their files and closes them.
    ///
    /// Publishers, consumers and stores made from this answer as closed from now on. Waits 15 seconds at most;
    /// what a hanging disk leaves undone is done by the next start. The directory is free for another process once
    /// everything made from this is dropped.
    pub async fn close(&self) {
        self.stop.cancel();
        let tasks: Vec<_> = lock(&self.tasks).drain(..).collect();
        if tasks.is_empty() {
            // Closed before.
            return;
        }
        close_files(tasks, &[&self.queue_file, &self.store_file]).await;
    }
}

/// Waits until the tasks have ended that write the files, and closes these; for [`CLOSE_TIMEOUT`] at most.
pub(crate) async fn close_files(tasks: Vec<JoinHandle<()>>, files: &[&Database]) {
    let ending = async {
        for task in tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "a task of the embedded adapter ended badly");
            }
        }
        for file in files {
            if let Err(error) = file.close().await {
                tracing::warn!(
                    error = chain(&error),
                    path = %file.path().display(),
                    "the file was not closed in order; its write-ahead log stays beside it"
                );
            }
        }
    };
    if timeout(CLOSE_TIMEOUT, ending).await.is_err() {
        tracing::warn!("the disk did not answer within {CLOSE_TIMEOUT:?}; closing without it");
    }
}

/// Measures the directory, tends the queue and the store's write-ahead log until `stop`.
async fn keep(queue: Arc<Queue>, store: Arc<Store>, space: Arc<Space>, stop: CancellationToken) {
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
        if let Err(error) = store.measure().await {
            tracing::warn!(error = chain(&error), "the store's file cannot be measured");
        }
        let tended = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            tended = store.tend_log() => tended,
        };
        if let Err(error) = tended {
            tracing::warn!(
                error = chain(&error),
                "the store's write-ahead log cannot be moved into its file"
            );
        }
        metrics::gauge!(BYTES, "file" => "queue").set(space.queue().total() as f64);
        metrics::gauge!(BYTES, "file" => "store").set(space.store().total() as f64);
    }
}
