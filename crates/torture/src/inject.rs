//! Does each fault, looks whether it had an effect, and takes it back.

use std::os::unix::process::ExitStatusExt as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use fastrand::Rng;
use rustix::process::Signal;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::bed::{Bed, Program};
use crate::clients::Clients;
use crate::database::Database;
use crate::fault::{Fault, Instance, Link, Trouble};
use crate::ledger::Ledger;
use crate::plan::{INSTANCES, Injection};
use crate::proxy::{Direction, Fault as LinkFault};
use crate::publisher::{Confirm, Publisher};

/// How long a stopping program may take: its drain, and some for a machine that is busy.
const STOP: Duration = Duration::from_secs(30);

/// How long the effect of a fault may stay away after the fault is there.
const EFFECT: Duration = Duration::from_secs(8);

/// How long an alarm may stay in force after its cause is gone.
const CLEARED: Duration = Duration::from_secs(30);

/// The pause between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// How many packets fill the store queue, when it is to be full.
const FULL: u32 = 20;

/// The routing key of records that are no messages.
pub const POISON_KEY: &str = "poison.packet";

/// The store queue.
const QUEUE: &str = "warren.store";

/// The exchange of each severity's number.
const EXCHANGES: [(i16, &str); 5] = [
    (5, "warren.debug"),
    (9, "warren.info"),
    (13, "warren.warning"),
    (17, "warren.error"),
    (21, "warren.critical"),
];

/// A fault that has been.
#[derive(Clone, Debug)]
pub struct Done {
    /// When it was there.
    pub begun: Instant,
    /// When it was taken back.
    pub healed: Instant,
    /// What was seen of it; an error when nothing was.
    pub bite: Result<String, String>,
}

/// Does one injection from beginning to end. Intakes with a `spool` refuse nobody, whatever their broker does.
///
/// # Errors
/// The harness itself could not do it or take it back; that it had no effect is no error here.
pub async fn inject(bed: &Bed, clients: &Clients, injection: &Injection, spool: bool) -> Result<Done> {
    let length = Duration::from_millis(injection.length);
    let context = || format!("while doing {injection}");
    // What the plan leaves open depends on it all the same.
    let rng = Rng::with_seed(injection.after << 32 | injection.length);
    match &injection.fault {
        Fault::KillIngest { instance } => kill(bed.ingest_of(*instance)?, length).await,
        Fault::KillWorker { instance } => kill(bed.worker_of(*instance)?, length).await,
        Fault::TermIngest { instance } => terminate(bed.ingest_of(*instance)?, length).await,
        Fault::TermWorker { instance } => terminate(bed.worker_of(*instance)?, length).await,
        Fault::FreezeIngest { instance } => freeze(bed.ingest_of(*instance)?, length).await,
        Fault::FreezeWorker { instance } => freeze(bed.worker_of(*instance)?, length).await,
        Fault::Link {
            link,
            instance,
            trouble,
            amount,
        } => trouble_link(bed, *link, *instance, *trouble, *amount, length).await,
        Fault::FreezeRabbit
        | Fault::KillRabbit
        | Fault::StopRabbit
        | Fault::MemoryAlarm
        | Fault::DiskAlarm
        | Fault::CloseConnections
        | Fault::DeleteBindings
        | Fault::RevokeBroker
        | Fault::FullQueue => broker(bed, clients, &injection.fault, length, spool).await,
        Fault::FreezePostgres
        | Fault::KillPostgres
        | Fault::StopPostgres
        | Fault::NoConnections
        | Fault::LockTable
        | Fault::SlowInserts
        | Fault::ReadOnly
        | Fault::RevokeInsert
        | Fault::EndSessions => database(bed, &injection.fault, length).await,
        Fault::PoisonPackets { count } => poison_packets(bed, *count, rng).await,
        Fault::PoisonRows { count } => {
            let begun = Instant::now();
            clients
                .post_poison(*count)
                .await
                .map(|()| Done::at_once(begun, format!("{count} accepted")))
        }
        Fault::RepeatedPackets { count } => repeat_packets(bed, clients, *count, rng).await,
    }
    .with_context(context)
}

impl Done {
    fn at_once(begun: Instant, bite: String) -> Self {
        Self {
            begun,
            healed: Instant::now(),
            bite: Ok(bite),
        }
    }

    fn now(begun: Instant, bite: Result<String>) -> Self {
        Self {
            begun,
            healed: Instant::now(),
            bite: bite.map_err(|error| format!("{error:#}")),
        }
    }
}

/// Kills a program as a crash would, and starts it again after a while.
///
/// # Errors
/// It does not run, or cannot be started.
pub async fn kill(program: &Program, length: Duration) -> Result<Done> {
    let begun = Instant::now();
    program.interrupted();
    let pid = program.signal(Signal::KILL).await?;
    let mut service = program.service.lock().await;
    let status = service.wait(STOP).await?;
    sleep(length).await;
    service.spawn()?;
    let bite = match status.signal() {
        Some(9) => Ok(format!("process {pid} died by signal 9")),
        other => Err(anyhow::anyhow!(
            "process {pid} ended with {status}, signal {other:?}"
        )),
    };
    Ok(Done::now(begun, bite))
}

async fn terminate(program: &Program, length: Duration) -> Result<Done> {
    let begun = Instant::now();
    program.interrupted();
    let pid = program.signal(Signal::TERM).await?;
    let mut service = program.service.lock().await;
    let status = match service.wait(STOP).await {
        Ok(status) => status,
        Err(error) => {
            // What does not end would be in the way of everything that follows.
            service.kill().await?;
            service.spawn()?;
            return Err(error.context("I7: SIGTERM"));
        }
    };
    let took = begun.elapsed();
    sleep(length).await;
    service.spawn()?;
    ensure!(
        status.success(),
        "process {pid} ended with {status} after SIGTERM"
    );
    Ok(Done::now(
        begun,
        Ok(format!("process {pid} ended in good order after {took:.1?}")),
    ))
}

async fn freeze(program: &Program, length: Duration) -> Result<Done> {
    let begun = Instant::now();
    let pid = program.signal(Signal::STOP).await?;
    sleep(length).await;
    let bite = Database::ensure_frozen(pid).map(|()| format!("process {pid} stood still"));
    program.signal(Signal::CONT).await?;
    Ok(Done::now(begun, bite))
}

async fn trouble_link(
    bed: &Bed,
    link: Link,
    instance: Instance,
    trouble: Trouble,
    amount: u64,
    length: Duration,
) -> Result<Done> {
    let proxy = bed.link(link, instance)?;
    let (before, begun) = (proxy.bites(), Instant::now());
    proxy.set(match trouble {
        Trouble::Cut => LinkFault::Cut,
        Trouble::Hole => LinkFault::Hole,
        Trouble::Swallow => LinkFault::Swallow,
        Trouble::HalfOpenUp => LinkFault::HalfOpen(Direction::ToUpstream),
        Trouble::HalfOpenDown => LinkFault::HalfOpen(Direction::ToClient),
        Trouble::Latency => LinkFault::Latency(Duration::from_millis(amount)),
        Trouble::Bandwidth => LinkFault::Bandwidth(amount),
        Trouble::Slice => LinkFault::Slice(amount),
        Trouble::CutAfterUp => LinkFault::CutAfter {
            bytes: amount,
            direction: Direction::ToUpstream,
        },
        Trouble::CutAfterDown => LinkFault::CutAfter {
            bytes: amount,
            direction: Direction::ToClient,
        },
    });
    sleep(length).await;
    // A link that is silent for a while is met by the next heartbeat at the latest.
    let end = begun + length + EFFECT;
    while !(proxy.bites() - before).any() && Instant::now() < end {
        sleep(LOOK).await;
    }
    let bites = proxy.bites() - before;
    proxy.heal();
    let bite = if bites.any() {
        Ok(serde_json::to_string(&bites)?)
    } else {
        Err(anyhow::anyhow!("nothing went through the link"))
    };
    Ok(Done::now(begun, bite))
}

/// Waits until a look finds something.
async fn seen<T>(within: Duration, mut look: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + within;
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        ensure!(Instant::now() < end, "no effect was seen within {within:?}");
        sleep(LOOK).await;
    }
}

async fn broker(bed: &Bed, clients: &Clients, fault: &Fault, length: Duration, spool: bool) -> Result<Done> {
    let (broker, vhost) = (&bed.broker, bed.vhost.as_str());
    let begun = Instant::now();
    let bite = match fault {
        Fault::FreezeRabbit => {
            let pid = broker
                .act(|node| {
                    node.freeze()?;
                    node.pid().context("no process")
                })
                .await?;
            sleep(length).await;
            let bite = Database::ensure_frozen(pid).map(|()| format!("process {pid} stood still"));
            broker.act(|node| node.thaw()).await?;
            bite
        }
        Fault::KillRabbit => {
            let address = broker
                .act(|node| {
                    node.kill();
                    Ok(node.address())
                })
                .await?;
            sleep(length).await;
            let bite = gone(address).await;
            broker.act(|node| node.start_again()).await?;
            bite
        }
        Fault::StopRabbit => {
            broker.order("rabbit:stop()").await?;
            sleep(length).await;
            let bite = broker.evaluate("rabbit:is_running()").await.and_then(|runs| {
                ensure!(runs == "false", "it runs: {runs}");
                Ok("it did not run".to_owned())
            });
            broker.order("rabbit:start()").await?;
            bite
        }
        Fault::MemoryAlarm | Fault::DiskAlarm => {
            let memory = *fault == Fault::MemoryAlarm;
            let set = async |on| match memory {
                true => broker.memory_alarm(on).await,
                false => broker.disk_alarm(on).await,
            };
            set(true).await?;
            sleep(length).await;
            let alarms = broker.alarms().await;
            set(false).await?;
            // The monitor looks again only after a while.
            seen(CLEARED, async || {
                Ok((broker.alarms().await? == "[]").then_some(()))
            })
            .await?;
            alarms.and_then(|alarms| {
                ensure!(alarms.contains("resource_limit"), "no alarm: {alarms}");
                Ok(alarms)
            })
        }
        Fault::CloseConnections => {
            let closed = broker.close_connections().await?;
            sleep(length).await;
            some(closed, "connections were closed")
        }
        Fault::DeleteBindings => {
            let deleted = broker.delete_bindings(vhost, QUEUE).await?;
            sleep(length).await;
            some(deleted, "bindings were deleted")
        }
        Fault::RevokeBroker => {
            let lines = async || anyhow::Ok(broker.log().await?.matches("refused for user").count());
            let before = lines().await?;
            broker.revoke(vhost).await?;
            broker.close_connections().await?;
            sleep(length).await;
            let bite = seen(EFFECT, async || {
                let refused = lines().await? - before;
                Ok((refused > 0).then(|| format!("{refused} lines of refused access")))
            })
            .await;
            broker.permit(crate::broker::USER, vhost).await?;
            bite
        }
        Fault::FullQueue => full_queue(bed, clients, length, spool).await?,
        other => bail!("{other} is not one of the broker"),
    };
    Ok(Done::now(begun, bite))
}

/// Without workers the queue fills, and refuses what is published: clients are answered 503. Where a spool takes what the
/// queue refuses, a publisher of the harness is the witness.
async fn full_queue(bed: &Bed, clients: &Clients, length: Duration, spool: bool) -> Result<Result<String>> {
    for worker in bed.workers() {
        worker.interrupted();
        worker.signal(Signal::KILL).await?;
        worker.service.lock().await.wait(STOP).await?;
    }
    bed.broker.limit_queue(&bed.vhost, QUEUE, FULL.into()).await?;
    let begun = Instant::now();
    sleep(length).await;
    let refused = || {
        (0..INSTANCES)
            .flat_map(|instance| clients.answers_since(instance, begun))
            .filter(|canary| canary.status == Some(503))
            .count()
    };
    let bite = if spool {
        refused_by_queue(bed, clients).await
    } else {
        seen(EFFECT, async || {
            let refused = refused();
            Ok((refused > 0).then(|| format!("{refused} canaries were answered 503")))
        })
        .await
    };
    bed.broker.unlimit_queue(&bed.vhost).await?;
    for worker in bed.workers() {
        worker.service.lock().await.spawn()?;
    }
    Ok(bite)
}

/// Publishes messages that were sent already until the broker refuses one.
async fn refused_by_queue(bed: &Bed, clients: &Clients) -> Result<String> {
    let publisher = Publisher::open(bed.topology.url()).await?;
    let bite = seen(EFFECT, async || {
        let Some((exchange, key, body)) = repeated(clients.ledger(), clients.dealt())? else {
            return Ok(None);
        };
        let confirm = publisher.publish(exchange, &key, body.into_bytes()).await?;
        Ok((confirm == Confirm::Nack).then(|| "the queue refused what the harness published".to_owned()))
    })
    .await;
    publisher.close().await;
    bite
}

fn some(count: u64, what: &str) -> Result<String> {
    ensure!(count > 0, "no {what}");
    Ok(format!("{count} {what}"))
}

async fn gone(address: std::net::SocketAddr) -> Result<String> {
    match timeout(EFFECT, TcpStream::connect(address)).await {
        Ok(Ok(_)) => bail!("{address} still takes connections"),
        Ok(Err(error)) => Ok(format!("{address}: {error}")),
        Err(_) => bail!("{address} is silent"),
    }
}

async fn database(bed: &Bed, fault: &Fault, length: Duration) -> Result<Done> {
    let database = &bed.database;
    let begun = Instant::now();
    let bite = match fault {
        Fault::FreezePostgres => {
            let pid = database
                .act(|server| {
                    server.freeze()?;
                    server.pid().context("no process")
                })
                .await?;
            sleep(length).await;
            let bite = Database::ensure_frozen(pid).map(|()| format!("process {pid} stood still"));
            database.act(|server| server.thaw()).await?;
            bite
        }
        Fault::KillPostgres | Fault::StopPostgres => {
            let killed = *fault == Fault::KillPostgres;
            let address = database
                .act(move |server| {
                    if killed {
                        server.stop_immediate();
                    } else {
                        server.stop();
                    }
                    Ok(server.address())
                })
                .await?;
            sleep(length).await;
            let bite = gone(address).await;
            database.act(|server| server.start_again()).await?;
            bite
        }
        Fault::EndSessions => {
            let ended = database.end_sessions().await?;
            sleep(length).await;
            some(u64::try_from(ended)?, "sessions were ended")
        }
        Fault::LockTable => {
            let mut client = database.client().await?;
            let before = database.log_lines("due to lock timeout").await?;
            let held = client.transaction().await?;
            held.batch_execute("lock table messages in access exclusive mode")
                .await?;
            sleep(length).await;
            let bite = logged(database, "due to lock timeout", before).await;
            held.rollback().await?;
            bite
        }
        Fault::SlowInserts => {
            let sql = "create trigger sleep_long before insert on messages for each statement execute function sleep_long()";
            bite_of(
                database,
                length,
                sql,
                "drop trigger sleep_long on messages",
                "due to statement timeout",
                false,
            )
            .await?
        }
        Fault::RevokeInsert => {
            let revoke = format!("revoke insert on messages from {}", crate::database::ROLE);
            let grant = format!("grant insert on messages to {}", crate::database::ROLE);
            bite_of(
                database,
                length,
                &revoke,
                &grant,
                "permission denied for table",
                false,
            )
            .await?
        }
        Fault::NoConnections => {
            let none = format!("alter role {} connection limit 0", crate::database::ROLE);
            let any = format!("alter role {} connection limit -1", crate::database::ROLE);
            bite_of(
                database,
                length,
                &none,
                &any,
                "too many connections for role",
                true,
            )
            .await?
        }
        Fault::ReadOnly => {
            let before = database.log_lines("in a read-only transaction").await?;
            database.read_only(true).await?;
            database.end_sessions().await?;
            sleep(length).await;
            let bite = logged(database, "in a read-only transaction", before).await;
            database.read_only(false).await?;
            bite
        }
        other => bail!("{other} is not one of the database"),
    };
    Ok(Done::now(begun, bite))
}

/// Does something, waits, and takes it back; the server's log shows whether anybody met it.
async fn bite_of(
    database: &Database,
    length: Duration,
    begin: &str,
    end: &str,
    line: &str,
    end_sessions: bool,
) -> Result<Result<String>> {
    let before = database.log_lines(line).await?;
    database.execute(begin).await?;
    if end_sessions {
        database.end_sessions().await?;
    }
    sleep(length).await;
    let bite = logged(database, line, before).await;
    database.execute(end).await?;
    Ok(bite)
}

async fn logged(database: &Database, line: &str, before: usize) -> Result<String> {
    seen(EFFECT, async || {
        let lines = database.log_lines(line).await?.saturating_sub(before);
        Ok((lines > 0).then(|| format!("{lines} × {line:?} in the server's log")))
    })
    .await
}

async fn poison_packets(bed: &Bed, count: u64, mut rng: Rng) -> Result<Done> {
    let begun = Instant::now();
    let publisher = Publisher::open(bed.topology.url()).await?;
    for _ in 0..count {
        // Not of the plan: a body is what tells one planted record from those of earlier faults.
        let mark = fastrand::u64(..);
        let body = match rng.u8(..3) {
            0 => format!("poison {mark:016x}: no JSON").into_bytes(),
            1 => [b"\xff\xfe poison ".as_slice(), format!("{mark:016x}").as_bytes()].concat(),
            _ => format!("{{\"poison\":\"{mark:016x}\"}}").into_bytes(),
        };
        let (_, exchange) = EXCHANGES[rng.usize(..EXCHANGES.len())];
        // Before it is there: it may be a dead letter at once.
        bed.planted
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .insert(body.clone(), exchange);
        publisher.publish_surely(exchange, POISON_KEY, body).await?;
    }
    publisher.close().await;
    Ok(Done::at_once(begun, format!("{count} confirmed")))
}

async fn repeat_packets(bed: &Bed, clients: &Clients, count: u64, mut rng: Rng) -> Result<Done> {
    let begun = Instant::now();
    let publisher = Publisher::open(bed.topology.url()).await?;
    let mut published = 0;
    for _ in 0..count {
        let wished = rng.u64(..clients.dealt().max(1));
        let Some((exchange, key, line)) = repeated(clients.ledger(), wished)? else {
            continue;
        };
        // Now and then the same message twice in one packet, and each packet twice.
        let body = line.repeat(1 + usize::from(published % 3 == 0));
        for _ in 0..2 {
            publisher
                .publish_surely(exchange, &key, body.clone().into_bytes())
                .await?;
        }
        published += 1;
    }
    publisher.close().await;
    let bite = some(published, "packets were confirmed twice");
    Ok(Done::now(begun, bite))
}

/// Writes a message near `wished` that was sent as the intake would publish it: the exchange, the key and the line.
fn repeated(ledger: &Ledger, wished: u64) -> Result<Option<(&'static str, String, String)>> {
    let Some(number) = ledger.sent_before(wished) else {
        return Ok(None);
    };
    let record = ledger.messages().record(number);
    let now = OffsetDateTime::now_utc().format(&Rfc3339)?;
    let mut line = json!({
        "id": record.id,
        "severity": record.severity,
        "source": record.source,
        "body": record.body,
        "attributes": record.attributes,
        "received_at": now,
    });
    if let Some(moment) = &record.occurred_at {
        line["occurred_at"] = moment.text.clone().into();
    }
    let exchange = exchange_of(record.severity_number);
    Ok(Some((
        exchange,
        record.stored_source().to_owned(),
        format!("{line}\n"),
    )))
}

/// Returns the exchange of a severity.
pub fn exchange_of(severity: i16) -> &'static str {
    EXCHANGES
        .iter()
        .find(|(number, _)| *number == severity)
        .map_or(EXCHANGES[1].1, |(_, name)| name)
}
