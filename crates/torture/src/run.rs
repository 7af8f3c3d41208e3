//! One run: start, load, faults, heal, drain, verify.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::task::JoinHandle;
use tokio::time::{interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use warren_e2e::StoredRow;
use warren_e2e::metrics::Metrics;
use warren_test_servers::PrivatePostgres;

use crate::bed::{Bed, Programs};
use crate::broker::Broker;
use crate::clients::Clients;
use crate::fault::{Fault, Link, Trouble};
use crate::inject::{Done, inject};
use crate::ledger::{DeadLetter, Findings, Ledger};
use crate::messages::Messages;
use crate::plan::{Episode, INSTANCES, Plan};
use crate::report::{Goals, RECOVERY, Report};
use crate::resources::{Held, state};

/// How long after a recovery nothing may be refused any more.
const SETTLED: Duration = Duration::from_secs(1);

/// How long clients repeat what is unknown after the end of the load.
const PATIENCE: Duration = Duration::from_secs(40);

/// How long the queue may take to become empty.
const DRAIN: Duration = Duration::from_secs(60);

/// What a run may take beside its plan: starts, drain, verification.
const BESIDE: Duration = Duration::from_secs(150);

/// The servers that runs share, one after the other.
#[derive(Clone, Debug)]
pub struct Servers {
    /// RabbitMQ.
    pub broker: Arc<Broker>,
    /// PostgreSQL.
    pub postgres: Arc<Mutex<PrivatePostgres>>,
}

impl Servers {
    /// Starts both.
    ///
    /// # Errors
    /// One of them is not installed, or does not start.
    pub async fn start() -> Result<Self> {
        let (broker, postgres) = tokio::join!(Broker::start(), crate::database::Database::start_server());
        Ok(Self {
            broker: Arc::new(broker?),
            postgres: postgres?,
        })
    }
}

/// Carries a plan out and reports.
///
/// # Errors
/// The harness could not do its part: that is no verdict about the product.
pub async fn run(
    plan: &Plan,
    programs: &Programs,
    servers: &Servers,
    out: &Path,
    goals: Goals,
) -> Result<Report> {
    std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    plan.write(&out.join("plan.json"))?;
    let begun = Instant::now();
    // What an earlier run could not take back.
    servers.broker.calm().await?;
    let bed = Bed::make(
        plan,
        programs,
        Arc::clone(&servers.broker),
        Arc::clone(&servers.postgres),
    )
    .await?;
    eprintln!("everything runs after {:.1?}", begun.elapsed());
    let mut report = Report {
        seed: plan.seed,
        plan: plan.hash()?,
        versions: vec![
            bed.broker.release().await?,
            bed.database.release().await?,
            format!("warren {}", env!("CARGO_PKG_VERSION")),
        ],
        logs: out.join("logs").display().to_string(),
        ..Report::default()
    };
    let ledger = Arc::new(Ledger::new(Messages::new(plan.seed)));
    let addresses = (0..INSTANCES)
        .map(|instance| Ok(bed.link(Link::Clients, instance)?.address()))
        .collect::<Result<_>>()?;
    let clients = Arc::new(Clients::new(Arc::clone(&ledger), addresses));
    // A watchdog: what does not end is a failure, with everything that is known by then.
    let limit = Duration::from_millis(plan.length()).mul_f64(1.5) + BESIDE;
    let mut torture = Torture {
        plan,
        bed: &bed,
        clients: &clients,
        report: &mut report,
        events: Vec::new(),
    };
    match timeout(limit, torture.run()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => report.problems.push(format!("{error:#}")),
        Err(_) => report
            .problems
            .push(format!("watchdog: the run did not end within {limit:?}")),
    }
    report.tally = ledger.tally();
    report.held_back = clients.held_back();
    let logs = bed.write_logs(&out.join("logs")).await?;
    for (program, log) in &logs {
        if log.contains("panicked at") {
            report.problems.push(format!("I10: {program} panicked"));
        }
        if log.contains(bed.secret()) {
            report
                .problems
                .push(format!("I10: a password is in the log of {program}"));
        }
    }
    report.seconds = begun.elapsed().as_secs_f64();
    report.judge(goals);
    report.write(out)?;
    Ok(report)
}

struct Torture<'a> {
    plan: &'a Plan,
    bed: &'a Bed,
    clients: &'a Arc<Clients>,
    report: &'a mut Report,
    /// What happened when, for those who ask where a message was lost.
    events: Vec<(Instant, String)>,
}

impl Torture<'_> {
    async fn run(&mut self) -> Result<()> {
        let (stop, silence) = (CancellationToken::new(), CancellationToken::new());
        // However this ends, nobody sends on.
        let _ended = (stop.clone().drop_guard(), silence.clone().drop_guard());
        let (plan, clients) = (self.plan, Arc::clone(self.clients));
        let load: JoinHandle<Result<()>> = {
            let (stop, seed, rate) = (stop.clone(), plan.seed, plan.rate);
            tokio::spawn(async move { clients.run(seed, rate, &stop, PATIENCE).await })
        };
        let canaries = {
            let (clients, silence) = (Arc::clone(self.clients), silence.clone());
            tokio::spawn(async move { clients.sing(&silence).await })
        };
        let (watched, bed) = (Mutex::new(Watched::default()), self.bed);
        let torment = async {
            sleep(Duration::from_millis(plan.warm_up)).await;
            self.quiet(
                "the warm-up",
                Instant::now() - Duration::from_millis(plan.warm_up / 2),
            );
            for (number, episode) in plan.episodes.iter().enumerate() {
                self.episode(number, episode).await?;
            }
            anyhow::Ok(())
        };
        let tormented = tokio::select! {
            tormented = torment => tormented,
            never = watch(bed, &watched) => match never {},
        };
        let watched = watched.into_inner().unwrap_or_else(PoisonError::into_inner);
        self.report.held = watched.held;
        self.report.problems.extend(watched.problems);
        bed.heal_links();
        stop.cancel();
        silence.cancel();
        tormented?;
        canaries.await?;
        load.await?.context("I7: the load did not settle")?;
        self.clients
            .settle_canaries(PATIENCE)
            .await
            .context("I7: the canaries did not settle")?;
        self.verify().await
    }

    async fn episode(&mut self, number: usize, episode: &Episode) -> Result<()> {
        let begun = Instant::now();
        let mut running = Vec::new();
        for injection in &episode.injections {
            eprintln!(
                "{:>6.1} s  episode {number}: {injection}",
                self.clients.ledger().opened().elapsed().as_secs_f64()
            );
            let (bed, clients) = (self.bed, Arc::clone(self.clients));
            running.push(async move {
                sleep(Duration::from_millis(injection.after)).await;
                (injection, inject(bed, &clients, injection).await)
            });
        }
        let mut healed = begun;
        for (injection, done) in futures_util::future::join_all(running).await {
            let done = done?;
            self.events.push((done.begun, injection.to_string()));
            healed = healed.max(done.healed);
            let bitten = self.report.injections.entry(injection.fault.name()).or_default();
            bitten.planned += 1;
            match &done.bite {
                Ok(_) => bitten.bitten += 1,
                Err(why) => eprintln!("           no bite of {injection}: {why}"),
            }
            // An intake that is killed or cut off from its clients says nothing, whatever its broker does.
            let silent: Vec<_> = episode
                .injections
                .iter()
                .filter(|other| other.fault != injection.fault)
                .flat_map(|other| other.fault.claims())
                .collect();
            self.seen_as_503(&injection.fault, &done, &silent);
        }
        self.events.push((healed, format!("the end of episode {number}")));
        self.recover(healed).await?;
        // What was under way when everything healed may still fail; what is sent a second later may not.
        let settled = Instant::now() + SETTLED;
        sleep(Duration::from_millis(episode.quiet)).await;
        self.quiet(&format!("the quiet after episode {number}"), settled);
        Ok(())
    }

    /// Names the canaries since a moment that were not accepted although nothing was wrong.
    fn quiet(&mut self, when: &str, since: Instant) {
        let refused = (0..INSTANCES)
            .flat_map(|instance| self.clients.canaries_since(instance, since))
            .filter(|canary| canary.status != Some(202))
            .count();
        if refused > 0 {
            let problem = format!("I7: {refused} canaries were not accepted in {when}");
            self.report.problems.push(problem);
        }
    }

    /// Measures how soon clients learnt of a broker that is away.
    fn seen_as_503(&mut self, fault: &Fault, done: &Done, silent: &[String]) {
        let (instance, hangs) = match fault {
            Fault::FreezeRabbit => (None, true),
            Fault::Link {
                link: Link::Publish,
                instance,
                trouble: trouble @ (Trouble::Cut | Trouble::Swallow | Trouble::Hole),
                ..
            } => (Some(*instance), *trouble != Trouble::Cut),
            _ => return,
        };
        // With a spool there is nothing to see.
        if self.plan.spool {
            return;
        }
        // Shorter than the deadline of a publication it need not be seen at all.
        let long = Duration::from_secs(6);
        if hangs && done.healed - done.begun < long {
            return;
        }
        let meant = |other: &usize| instance.is_none_or(|instance| instance == *other);
        for instance in (0..INSTANCES).filter(meant) {
            if silent.contains(&format!("ingest-{instance}")) {
                continue;
            }
            let first = self
                .clients
                .answers_since(instance, done.begun)
                .into_iter()
                .filter(|canary| canary.status == Some(503))
                .map(|canary| canary.answered)
                .min();
            let after = first.map_or(done.healed - done.begun, |first| first - done.begun);
            if hangs {
                self.report.hang_seen.add(after);
            } else {
                self.report.cut_seen.add(after);
            }
        }
    }

    /// Waits until both intakes accept again and what they accept is stored, and notes how long that took.
    async fn recover(&mut self, healed: Instant) -> Result<()> {
        let accepted = |instance| {
            let canaries = self.clients.canaries_since(instance, healed).into_iter();
            canaries
                .filter(|canary| canary.status == Some(202))
                .min_by_key(|canary| canary.answered)
        };
        let end = healed + RECOVERY;
        let mut first = BTreeMap::new();
        while first.len() < INSTANCES && Instant::now() < end {
            for instance in 0..INSTANCES {
                if let Some(canary) = accepted(instance) {
                    first.entry(instance).or_insert(canary);
                }
            }
            sleep(Duration::from_millis(20)).await;
        }
        let slowest = first.values().map(|canary| canary.answered - healed).max();
        let took = slowest.filter(|_| first.len() == INSTANCES).unwrap_or(RECOVERY);
        self.report.first_202.add(took);
        let stored = self.row_after(healed, end).await.unwrap_or(RECOVERY);
        self.report.first_row.add(stored);
        let ready = self.ready_after(healed, end).await;
        self.report.ready.add(ready);
        eprintln!(
            "           recovered: 202 after {took:.2?}, row after {stored:.2?}, ready after {ready:.2?}"
        );
        Ok(())
    }

    /// Waits until every program calls itself ready: one that never comes back is not made good by its twin.
    async fn ready_after(&self, healed: Instant, end: Instant) -> Duration {
        for program in self.bed.programs() {
            let mut service = program.service.lock().await;
            let left = end.saturating_duration_since(Instant::now());
            if let Err(error) = service.wait_for("/readyz", 200, left).await {
                eprintln!("           {} is not ready: {error:#}", program.name);
                return RECOVERY;
            }
        }
        healed.elapsed()
    }

    /// Waits for the first row of a canary that was accepted after everything had healed.
    async fn row_after(&self, healed: Instant, end: Instant) -> Option<Duration> {
        let mut client = None;
        while Instant::now() < end {
            let ids: Vec<_> = (0..INSTANCES)
                .flat_map(|instance| self.clients.canaries_since(instance, healed))
                .filter(|canary| canary.status == Some(202))
                .take(40)
                .map(|canary| self.clients.ledger().messages().id(canary.number))
                .collect();
            let connected = match client.take() {
                Some(connected) => Ok(connected),
                None => self.bed.database.client().await,
            };
            if let Ok(connected) = connected {
                match self.bed.database.any_stored(&connected, &ids).await {
                    Ok(true) => return Some(healed.elapsed()),
                    Ok(false) => client = Some(connected),
                    Err(_) => {}
                }
            }
            sleep(Duration::from_millis(20)).await;
        }
        None
    }

    async fn verify(&mut self) -> Result<()> {
        let (bed, ledger) = (self.bed, self.clients.ledger());
        match bed.drain(ledger.to_store(), DRAIN).await {
            Ok(took) => self.report.drained = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            Err(error) => self.report.problems.push(format!("{error:#}")),
        }
        let books = self.books().await?;
        self.report.problems.extend(bed.stop().await);
        // Only now does the count say everything: what a consumer held is back in the queue.
        let left = bed.topology.waiting("store").await?;
        if left > 0 {
            self.report
                .problems
                .push(format!("I7: {left} packets are left in the queue of the store"));
        }
        let mut rows: Vec<StoredRow> = Vec::new();
        bed.database.database().each_row(|row| rows.push(row)).await?;
        let mut dead = bed.database.dead_letters().await?;
        dead.extend(dead_in_queue(bed).await?);
        let planted = bed.planted.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.events.sort_by_key(|(when, _)| *when);
        let findings: Findings = ledger.verdict(&rows, &dead, &planted, &self.events);
        self.report
            .problems
            .extend(books.disagree(bed, &ledger.tally(), rows.len() as u64));
        self.report.findings = findings;
        Ok(())
    }

    async fn books(&self) -> Result<Books> {
        let mut books = Books::default();
        for (instance, program) in self.bed.ingests().iter().enumerate() {
            let metrics = Metrics::scrape(program.service.lock().await.address()).await?;
            if let Some(accepted) = books.accepted.get_mut(instance) {
                *accepted = metrics.sum("warren_intake_accepted_messages_total");
            }
        }
        for program in self.bed.workers() {
            let metrics = Metrics::scrape(program.service.lock().await.address()).await?;
            books.inserted += metrics.sum("warren_store_inserted_messages_total");
            books.duplicate += metrics.sum("warren_store_duplicate_messages_total");
        }
        Ok(books)
    }
}

/// What the programs have counted since they started.
#[derive(Debug, Default)]
struct Books {
    accepted: [u64; INSTANCES],
    inserted: u64,
    duplicate: u64,
}

impl Books {
    /// I9: names where the programs' own books contradict the clients' and the table, for those that ran throughout.
    fn disagree(&self, bed: &Bed, tally: &crate::ledger::Tally, rows: u64) -> Vec<String> {
        let mut found = Vec::new();
        for (instance, program) in bed.ingests().iter().enumerate() {
            let (own, seen) = (self.accepted[instance], tally.accepted_by[instance]);
            // It may have accepted what no client heard of, never the other way round.
            if program.is_unbroken() && own < seen {
                found.push(format!(
                    "I9: {} counted {own} accepted messages, and clients saw {seen}",
                    program.name
                ));
            }
        }
        let (inserted, all) = (self.inserted, self.inserted + self.duplicate);
        // A commit whose answer was lost is counted as a duplicate when it is repeated.
        let possible = inserted <= rows && rows <= all;
        if bed.workers().iter().all(crate::bed::Program::is_unbroken) && !possible {
            found.push(format!(
                "I9: the workers counted {inserted} inserted and {} duplicate messages, and {rows} rows are there",
                self.duplicate
            ));
        }
        found
    }
}

/// What was watched from second to second.
#[derive(Debug, Default)]
struct Watched {
    held: BTreeMap<String, Held>,
    problems: Vec<String>,
}

/// Looks at every program once a second: what it holds, and whether it is still there.
async fn watch(bed: &Bed, watched: &Mutex<Watched>) -> std::convert::Infallible {
    let mut second = interval(Duration::from_secs(1));
    loop {
        second.tick().await;
        for program in bed.programs() {
            // Whoever kills or starts it holds it; there is nothing to see then.
            let Ok(service) = program.service.try_lock() else {
                continue;
            };
            let Some(pid) = service.pid() else { continue };
            drop(service);
            let mut watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
            if state(pid) == Some('Z') {
                let problem = format!("I7: {} has ended by itself", program.name);
                if !watched.problems.contains(&problem) {
                    eprintln!("           {problem}");
                    watched.problems.push(problem);
                }
            }
            if let Some(held) = Held::by(pid) {
                let most = watched.held.entry(program.name.clone()).or_default();
                *most = most.most(held);
            }
        }
    }
}

/// Reads what is in the queue of dead letters; it goes back when the connection ends.
async fn dead_in_queue(bed: &Bed) -> Result<Vec<DeadLetter>> {
    use amqprs::channel::BasicGetArguments;
    let (connection, channel) = warren_e2e::rabbit::open(bed.topology.url()).await?;
    let mut letters = Vec::new();
    while let Some((_, properties, body)) = channel.basic_get(BasicGetArguments::new("warren.dead")).await? {
        let reason = properties
            .headers()
            .and_then(|headers| {
                headers
                    .get(&"x-warren-reason".try_into().ok()?)
                    .map(|reason| format!("{reason}"))
            })
            .unwrap_or_default();
        letters.push(DeadLetter { body, reason });
    }
    warren_e2e::rabbit::close(connection, channel).await;
    Ok(letters)
}
