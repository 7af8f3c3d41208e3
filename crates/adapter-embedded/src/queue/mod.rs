//! A durable log with a cursor for each consumer group.
//!
//! - [`packet`]: messages as lines, many lines a row.
//! - [`writer`]: the one task that writes; it commits for all who wait at once.
//! - [`group`]: what is out, comes back, and is settled, of each consumer group.
//! - [`publisher`], [`consumer`], [`lag`], [`live`]: the ports.
//! - [`upkeep`]: what keeps the log small.

pub(crate) mod consumer;
pub(crate) mod dead_letter;
pub(crate) mod dead_letters;
mod group;
mod groups;
mod head;
pub(crate) mod lag;
pub(crate) mod live;
mod packet;
mod pen;
pub(crate) mod publisher;
mod rows;
mod script;
mod statements;
mod trim;
mod upkeep;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use sea_orm::sqlx;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use warren_domain::Selection;
use warren_domain::ports::{PublishError, StartAt};

use self::dead_letter::{DeadLine, Origin};
use self::dead_letters::LetterWork;
use self::group::{Group, Membership};
use self::head::Head;
use self::live::Feeds;
use self::packet::{Packet, PacketLimits};
use crate::config::EmbeddedConfig;
use crate::database::Database;
use crate::directory::Directory;
use crate::health::Condition;
use crate::section::Section;
use crate::space::Space;

pub(crate) use self::groups::Groups;
pub(crate) use self::upkeep::keep_free;

/// The name of the way into the store among the groups; no [`warren_domain::ports::GroupName`] has a star.
pub(crate) const STORE_GROUP: &str = "*store";

/// Returns what people call a group.
pub(crate) fn known_as(group: &str, section: Section) -> &str {
    if group == STORE_GROUP {
        section.way_out()
    } else {
        group
    }
}

/// How many commands may wait in the channel; what they hold is bounded by the permits they carry.
const COMMANDS: usize = 1_024;

/// What the writer is asked to do.
#[derive(Debug)]
enum Command {
    Publish(Publication),
    Bury(Burial),
    Join {
        joining: Joining,
        reply: oneshot::Sender<Result<Membership, Arc<sqlx::Error>>>,
    },
    /// Keeps or removes dead letters; answers how many were removed.
    Letters {
        work: LetterWork,
        reply: oneshot::Sender<Result<u64, sqlx::Error>>,
    },
    /// Looks a group up.
    Find {
        name: String,
        reply: oneshot::Sender<Option<Arc<Group>>>,
    },
    /// Drops what nobody needs, gives free pages back.
    Tend(oneshot::Sender<()>),
}

/// What a new member asks for.
#[derive(Clone, Debug)]
struct Joining {
    name: String,
    selection: Selection,
    start: StartAt,
}

/// Messages that wait for their commit.
#[derive(Debug)]
struct Publication {
    packets: Vec<Packet>,
    bytes: u64,
    reply: oneshot::Sender<Result<(), PublishError>>,
    /// Given back once nothing of the publication is in memory any more.
    _pending: [OwnedSemaphorePermit; 2],
}

/// A row of the log that is settled in that some of its lines become dead letters.
#[derive(Debug)]
struct Burial {
    group: Arc<Group>,
    origin: Origin,
    lines: Vec<DeadLine>,
    reply: oneshot::Sender<Result<(), Arc<sqlx::Error>>>,
}

/// What the writer, the publisher and the consumers share.
#[derive(Debug)]
pub(crate) struct Queue {
    limits: Limits,
    commands: mpsc::Sender<Command>,
    pending_messages: Arc<Semaphore>,
    pending_bytes: Arc<Semaphore>,
    head: watch::Receiver<Head>,
    /// Some group's position changed.
    settled: Arc<Notify>,
    feeds: Arc<Feeds>,
    database: Arc<Database>,
    /// Cancelled: the writer ends, and with it everything.
    closing: CancellationToken,
    _directory: Arc<Directory>,
}

#[derive(Clone, Copy, Debug)]
struct Limits {
    section: Section,
    packet: PacketLimits,
    commit_bytes: u64,
    pending_messages: u32,
    pending_bytes: u32,
    publish_timeout: Duration,
    prefetch: usize,
    prefetch_bytes: u32,
    group_bytes: u64,
    group_expiry: Duration,
}

impl Limits {
    fn of(config: &EmbeddedConfig, section: Section) -> Self {
        let permits = |wanted: u64| {
            u32::try_from(wanted.min(Semaphore::MAX_PERMITS as u64))
                .unwrap_or(u32::MAX)
                .max(1)
        };
        Self {
            section,
            packet: PacketLimits {
                messages: config.packet_max_messages,
                bytes: usize::try_from(config.packet_max_bytes.as_u64()).unwrap_or(usize::MAX),
            },
            commit_bytes: config.commit_max_bytes.as_u64(),
            pending_messages: permits(config.pending_max_messages as u64),
            pending_bytes: permits(config.pending_max_bytes.as_u64()),
            publish_timeout: config.publish_timeout,
            prefetch: config.prefetch,
            prefetch_bytes: permits(config.prefetch_max_bytes.as_u64()),
            group_bytes: config.group_max_bytes.as_u64(),
            group_expiry: config.group_expiry,
        }
    }
}

impl Queue {
    /// Reads where the log stands, and starts its writer, which runs until `closing` is cancelled.
    pub(crate) async fn start(
        config: &EmbeddedConfig,
        section: Section,
        database: Arc<Database>,
        space: Arc<Space>,
        condition: Arc<Condition>,
        directory: Arc<Directory>,
        closing: CancellationToken,
    ) -> Result<(Arc<Self>, tokio::task::JoinHandle<()>), sqlx::Error> {
        let limits = Limits::of(config, section);
        let (sender, commands) = mpsc::channel(COMMANDS);
        let settled = Arc::new(Notify::new());
        let feeds = Arc::new(Feeds::default());
        let writer = writer::Writer::open(writer::Parts {
            limits,
            database: Arc::clone(&database),
            space,
            condition,
            settled: Arc::clone(&settled),
            feeds: Arc::clone(&feeds),
            commands,
            closing: closing.clone(),
            _directory: Arc::clone(&directory),
        })
        .await?;
        let queue = Self {
            limits,
            commands: sender,
            pending_messages: Arc::new(Semaphore::new(limits.pending_messages as usize)),
            pending_bytes: Arc::new(Semaphore::new(limits.pending_bytes as usize)),
            head: writer.head(),
            settled,
            feeds,
            database,
            closing,
            _directory: directory,
        };
        Ok((Arc::new(queue), tokio::spawn(writer.run())))
    }

    /// Has the writer drop what nobody needs; returns when it has.
    pub(crate) async fn tend(&self) {
        let (reply, done) = oneshot::channel();
        if self.commands.send(Command::Tend(reply)).await.is_ok() {
            // The writer may end before it answers; then there is nothing left to tend.
            done.await.unwrap_or(());
        }
    }
}
