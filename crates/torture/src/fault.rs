//! What can be done to the programs, the links between them and their servers.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A link of the topology; each instance of a program has its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Link {
    /// From the clients to an intake.
    Clients,
    /// From an intake to RabbitMQ.
    Publish,
    /// From RabbitMQ to a worker.
    Consume,
    /// From a worker to PostgreSQL.
    Store,
}

impl Link {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Clients, Self::Publish, Self::Consume, Self::Store];

    const fn name(self) -> &'static str {
        match self {
            Self::Clients => "clients",
            Self::Publish => "publish",
            Self::Consume => "consume",
            Self::Store => "store",
        }
    }
}

/// What a link does to what goes through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trouble {
    /// Resets every connection and refuses new ones.
    Cut,
    /// Holds every byte back until the end.
    Hole,
    /// Takes bytes and hands none on, in both directions.
    Swallow,
    /// Hands on only what the server sends.
    HalfOpenUp,
    /// Hands on only what the client sends.
    HalfOpenDown,
    /// Delays every byte by so many milliseconds.
    Latency,
    /// Lets so many bytes a second through.
    Bandwidth,
    /// Writes in pieces of so many bytes.
    Slice,
    /// Resets each connection after so many more bytes from the client.
    CutAfterUp,
    /// Resets each connection after so many more bytes from the server.
    CutAfterDown,
}

impl Trouble {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Cut,
        Self::Hole,
        Self::Swallow,
        Self::HalfOpenUp,
        Self::HalfOpenDown,
        Self::Latency,
        Self::Bandwidth,
        Self::Slice,
        Self::CutAfterUp,
        Self::CutAfterDown,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Cut => "cut",
            Self::Hole => "hole",
            Self::Swallow => "swallow",
            Self::HalfOpenUp => "half-open-up",
            Self::HalfOpenDown => "half-open-down",
            Self::Latency => "latency",
            Self::Bandwidth => "bandwidth",
            Self::Slice => "slice",
            Self::CutAfterUp => "cut-after-up",
            Self::CutAfterDown => "cut-after-down",
        }
    }
}

/// Returns the name of every kind of fault.
pub fn kinds() -> impl Iterator<Item = String> {
    let links = Link::ALL.into_iter().flat_map(|link| {
        Trouble::ALL
            .into_iter()
            .map(move |trouble| format!("link-{}-{}", link.name(), trouble.name()))
    });
    KINDS.into_iter().map(str::to_owned).chain(links)
}

/// Every kind but those of the links.
const KINDS: [&str; 27] = [
    "kill-ingest",
    "kill-worker",
    "term-ingest",
    "term-worker",
    "freeze-ingest",
    "freeze-worker",
    "freeze-rabbit",
    "freeze-postgres",
    "kill-rabbit",
    "stop-rabbit",
    "memory-alarm",
    "disk-alarm",
    "close-connections",
    "delete-bindings",
    "revoke-broker",
    "full-queue",
    "kill-postgres",
    "stop-postgres",
    "no-connections",
    "lock-table",
    "slow-inserts",
    "read-only",
    "revoke-insert",
    "end-sessions",
    "poison-packets",
    "poison-rows",
    "repeated-packets",
];

/// One of the two intakes, or one of the two workers.
pub type Instance = usize;

/// A fault, complete with what it is done to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Fault {
    /// kill -9 of an intake; it is started again at the end.
    KillIngest {
        /// Which one.
        instance: Instance,
    },
    /// kill -9 of a worker; it is started again at the end.
    KillWorker {
        /// Which one.
        instance: Instance,
    },
    /// SIGTERM of an intake, which must end in good order; it is started again.
    TermIngest {
        /// Which one.
        instance: Instance,
    },
    /// SIGTERM of a worker, which must end in good order; it is started again.
    TermWorker {
        /// Which one.
        instance: Instance,
    },
    /// SIGSTOP of an intake, SIGCONT at the end.
    FreezeIngest {
        /// Which one.
        instance: Instance,
    },
    /// SIGSTOP of a worker, SIGCONT at the end.
    FreezeWorker {
        /// Which one.
        instance: Instance,
    },
    /// SIGSTOP of RabbitMQ, SIGCONT at the end.
    FreezeRabbit,
    /// SIGSTOP of PostgreSQL, SIGCONT at the end.
    FreezePostgres,
    /// kill -9 of RabbitMQ; started again at the end.
    KillRabbit,
    /// RabbitMQ stops its work in good order within a process that lives on; started again at the end.
    StopRabbit,
    /// RabbitMQ believes to have no memory left.
    MemoryAlarm,
    /// RabbitMQ believes to have no disk left.
    DiskAlarm,
    /// RabbitMQ closes every connection.
    CloseConnections,
    /// The bindings of the store queue are deleted.
    DeleteBindings,
    /// The programs' user loses its permissions, and its connections, which have cached them.
    RevokeBroker,
    /// The store queue takes no more, because the workers hang.
    FullQueue,
    /// kill -9 of PostgreSQL; started again at the end.
    KillPostgres,
    /// PostgreSQL stops in good order; started again at the end.
    StopPostgres,
    /// The workers' role may not connect any more; its sessions are ended.
    NoConnections,
    /// Somebody holds the table of messages.
    LockTable,
    /// Every insert takes longer than a statement may.
    SlowInserts,
    /// The database is read-only, as after a switch to a standby.
    ReadOnly,
    /// The workers' role may not insert any more.
    RevokeInsert,
    /// Every session of the workers is ended.
    EndSessions,
    /// Trouble on a link.
    Link {
        /// Which link.
        link: Link,
        /// Of which instance.
        instance: Instance,
        /// What happens on it.
        trouble: Trouble,
        /// Milliseconds, bytes a second or bytes, as the trouble wants it.
        amount: u64,
    },
    /// Records that are no messages are put into the queue.
    PoisonPackets {
        /// How many.
        count: u64,
    },
    /// Messages that the database refuses for ever are posted among good ones.
    PoisonRows {
        /// How many.
        count: u64,
    },
    /// Packets of messages that were sent already are published again, past the intake.
    RepeatedPackets {
        /// How many.
        count: u64,
    },
}

impl Fault {
    /// Returns its kind, as `--only` and reports name it.
    pub fn name(&self) -> String {
        match self {
            Self::KillIngest { .. } => "kill-ingest",
            Self::KillWorker { .. } => "kill-worker",
            Self::TermIngest { .. } => "term-ingest",
            Self::TermWorker { .. } => "term-worker",
            Self::FreezeIngest { .. } => "freeze-ingest",
            Self::FreezeWorker { .. } => "freeze-worker",
            Self::FreezeRabbit => "freeze-rabbit",
            Self::FreezePostgres => "freeze-postgres",
            Self::KillRabbit => "kill-rabbit",
            Self::StopRabbit => "stop-rabbit",
            Self::MemoryAlarm => "memory-alarm",
            Self::DiskAlarm => "disk-alarm",
            Self::CloseConnections => "close-connections",
            Self::DeleteBindings => "delete-bindings",
            Self::RevokeBroker => "revoke-broker",
            Self::FullQueue => "full-queue",
            Self::KillPostgres => "kill-postgres",
            Self::StopPostgres => "stop-postgres",
            Self::NoConnections => "no-connections",
            Self::LockTable => "lock-table",
            Self::SlowInserts => "slow-inserts",
            Self::ReadOnly => "read-only",
            Self::RevokeInsert => "revoke-insert",
            Self::EndSessions => "end-sessions",
            Self::Link { link, trouble, .. } => return format!("link-{}-{}", link.name(), trouble.name()),
            Self::PoisonPackets { .. } => "poison-packets",
            Self::PoisonRows { .. } => "poison-rows",
            Self::RepeatedPackets { .. } => "repeated-packets",
        }
        .to_owned()
    }

    /// Returns what nothing else may touch while it lasts.
    pub fn claims(&self) -> Vec<String> {
        let one = |what: &str| vec![what.to_owned()];
        match self {
            Self::KillIngest { instance }
            | Self::TermIngest { instance }
            | Self::FreezeIngest { instance } => vec![format!("ingest-{instance}")],
            Self::KillWorker { instance }
            | Self::TermWorker { instance }
            | Self::FreezeWorker { instance } => vec![format!("worker-{instance}")],
            Self::FreezeRabbit
            | Self::KillRabbit
            | Self::StopRabbit
            | Self::MemoryAlarm
            | Self::DiskAlarm
            | Self::CloseConnections
            | Self::DeleteBindings
            | Self::RevokeBroker
            | Self::PoisonPackets { .. }
            | Self::RepeatedPackets { .. } => one("rabbit"),
            Self::FullQueue => vec!["rabbit".into(), "worker-0".into(), "worker-1".into()],
            Self::FreezePostgres
            | Self::KillPostgres
            | Self::StopPostgres
            | Self::NoConnections
            | Self::LockTable
            | Self::SlowInserts
            | Self::ReadOnly
            | Self::RevokeInsert
            | Self::EndSessions => one("postgres"),
            // A link without its program has nothing to bite.
            Self::Link { link, instance, .. } => match link {
                Link::Clients | Link::Publish => vec![format!("ingest-{instance}")],
                Link::Consume | Link::Store => vec![format!("worker-{instance}")],
            },
            Self::PoisonRows { .. } => one("poison-rows"),
        }
    }

    /// Tells whether it needs traffic on the broker or the database, which another fault there would take away.
    pub fn needs(&self) -> Vec<String> {
        match self {
            Self::Link {
                link: Link::Publish | Link::Consume,
                ..
            } => vec!["rabbit".into()],
            Self::Link {
                link: Link::Store, ..
            } => vec!["rabbit".into(), "postgres".into()],
            // Their evidence is a worker that tries to write.
            Self::LockTable
            | Self::SlowInserts
            | Self::ReadOnly
            | Self::RevokeInsert
            | Self::NoConnections => {
                vec!["rabbit".into(), "worker-0".into(), "worker-1".into()]
            }
            Self::EndSessions | Self::CloseConnections => vec!["worker-0".into(), "worker-1".into()],
            _ => Vec::new(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name();
        match self {
            Self::KillIngest { instance }
            | Self::KillWorker { instance }
            | Self::TermIngest { instance }
            | Self::TermWorker { instance }
            | Self::FreezeIngest { instance }
            | Self::FreezeWorker { instance } => write!(f, "{name} {instance}"),
            Self::Link { instance, amount, .. } => write!(f, "{name} {instance} {amount}"),
            Self::PoisonPackets { count } | Self::PoisonRows { count } | Self::RepeatedPackets { count } => {
                write!(f, "{name} {count}")
            }
            _ => f.write_str(&name),
        }
    }
}
