//! One run: start, load, faults, heal, drain, verify.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::task::JoinHandle;
use tokio::time::{interval, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use warren_e2e::StoredRow;
use warren_test_servers::PrivatePostgres;

use crate::bed::{Bed, Programs};
use crate::books::{Audit, Books, STRETCH};
use crate::broker::Broker;
use crate::clients::{CANARY_PAUSE, Canary, Clients};
use crate::fault::{Fault, Link, Trouble, kinds};
use crate::inject::{Done, inject};
use crate::ledger::{DeadLetter, Findings, Ledger};
use crate::messages::Messages;
use crate::plan::{Episode, INSTANCES, Plan};
use crate::report::{Goals, QUIET_ANSWER, RECOVERY, Report};
use crate::resources::{Held, state};

/// How long after a recovery nothing may be refused any more.
const SETTLED: Duration = Duration::from_secs(1);

/// How long clients repeat what is unknown after the end of the load.
const PATIENCE: Duration = Duration::from_secs(40);

/// How long the queue may take to become empty.
const DRAIN: Duration = Duration::from_secs(60);

/// What a run may take beside its plan: starts, drain, the time without a fault, verification.
const BESIDE: Duration = Duration::from_secs(180);

/// One canary in so many that are due must have been sent in a quiet time, or it shows nothing.
const SUNG: u32 = 4;

/// So few canaries may all fall into one breath of a busy machine.
const FEW: u128 = 20;

/// A cut that lasts so long must be seen, whatever the machine does beside.
const SEEN_CUT: Duration = Duration::from_secs(2);

/// A hang that lasts so long must be seen: the longest deadline of a publication, and some.
const SEEN_HANG: Duration = Duration::from_secs(7);

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
    let watched = Mutex::new(Watched::default());
    let mut torture = Torture {
        plan,
        programs,
        bed: &bed,
        clients: &clients,
        report: &mut report,
        spool: plan.setup.spool,
        windows: Vec::new(),
        events: Vec::new(),
    };
    let tortured = async {
        tokio::select! {
            tortured = timeout(limit, torture.run()) => tortured,
            never = watch(&bed, &watched) => match never {},
        }
    };
    match tortured.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => report.problems.push(format!("{error:#}")),
        Err(_) => report
            .problems
            .push(format!("watchdog: the run did not end within {limit:?}")),
    }
    let watched = watched.into_inner().unwrap_or_else(PoisonError::into_inner);
    report.held = watched.held;
    report.problems.extend(watched.problems);
    report.tally = ledger.tally();
    report.due = clients.due();
    report.held_back = clients.held_back();
    report.not_met = kinds()
        .filter(|kind| !report.injections.contains_key(kind))
        .collect();
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
    programs: &'a Programs,
    bed: &'a Bed,
    clients: &'a Arc<Clients>,
    report: &'a mut Report,
    /// Whether the intakes have a spool now.
    spool: bool,
    /// When nothing was wrong.
    windows: Vec<Window>,
    /// What happened when, for those who ask where a message was lost.
    events: Vec<(Instant, String)>,
}

/// A time in which every canary has to be accepted, and soon.
#[derive(Debug)]
struct Window {
    from: Instant,
    to: Instant,
    name: String,
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
        // Whatever goes wrong from here on, what was answered is compared with what is stored.
        let tormented = self.torment().await;
        let whole = tormented.is_ok();
        self.note("", tormented);
        let problems = self.bed.calm().await;
        self.report.problems.extend(problems);
        stop.cancel();
        silence.cancel();
        canaries.await?;
        self.note("I7: the load did not settle", load.await?);
        let settled = self.clients.settle_canaries(PATIENCE).await;
        self.note("I7: the canaries did not settle", settled);
        // What is still under way would be in nobody's books.
        if self.drain().await && whole {
            let closed = self.close_books().await;
            self.note("I9: the books could not be closed", closed);
        }
        self.judge_windows();
        self.verify().await
    }

    /// Notes what went wrong.
    fn note(&mut self, what: &str, done: Result<()>) {
        if let Err(error) = done {
            let problem = match what {
                "" => format!("{error:#}"),
                what => format!("{what}: {error:#}"),
            };
            eprintln!("           {problem}");
            self.report.problems.push(problem);
        }
    }

    async fn torment(&mut self) -> Result<()> {
        let half = Duration::from_millis(self.plan.warm_up / 2);
        sleep(half).await;
        self.quiet("the warm-up".to_owned(), Instant::now(), half).await?;
        for (number, episode) in self.plan.episodes.iter().enumerate() {
            if let Some(setup) = &episode.setup {
                eprintln!("           the programs are set up anew");
                self.bed.set_up(setup).await?;
                self.spool = setup.spool;
            }
            self.episode(number, episode).await?;
        }
        Ok(())
    }

    async fn drain(&mut self) -> bool {
        match self.bed.drain(self.clients.ledger().to_store(), DRAIN).await {
            Ok(took) => {
                self.report.drained = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
                true
            }
            Err(error) => {
                self.note("", Err(error));
                false
            }
        }
    }

    /// I9: while nothing is wrong, every program counts exactly what passes it. Nothing is under way before or after, so
    /// that clients, programs and table tell of the same messages; `warren audit` watches as an operator would let it.
    async fn close_books(&mut self) -> Result<()> {
        let (bed, clients, seed, rate) = (self.bed, Arc::clone(self.clients), self.plan.seed, self.plan.rate);
        let before = Books::at_rest(bed, clients.ledger()).await?;
        let audit = Audit::start(bed, &self.programs.folder).await?;
        let (stop, silence) = (CancellationToken::new(), CancellationToken::new());
        let _ended = (stop.clone().drop_guard(), silence.clone().drop_guard());
        let load = {
            let (clients, stop) = (Arc::clone(&clients), stop.clone());
            // Other choices than those of the first load.
            tokio::spawn(async move { clients.run(!seed, rate, &stop, PATIENCE).await })
        };
        let canaries = {
            let (clients, silence) = (Arc::clone(&clients), silence.clone());
            tokio::spawn(async move { clients.sing(&silence).await })
        };
        let quiet = self
            .quiet("the time without a fault".to_owned(), Instant::now(), STRETCH)
            .await;
        stop.cancel();
        silence.cancel();
        canaries.await?;
        load.await??;
        quiet?;
        clients.settle_canaries(PATIENCE).await?;
        bed.drain(clients.ledger().to_store(), DRAIN).await?;
        let audited = audit.verdict().await?;
        let after = Books::at_rest(bed, clients.ledger()).await?;
        let checked = after.since(&before).agree()?;
        self.report.books = vec![checked, audited];
        Ok(())
    }

    async fn episode(&mut self, number: usize, episode: &Episode) -> Result<()> {
        let begun = Instant::now();
        let mut running = Vec::new();
        for injection in &episode.injections {
            eprintln!(
                "{:>6.1} s  episode {number}: {injection}",
                self.clients.ledger().opened().elapsed().as_secs_f64()
            );
            let (bed, clients, spool) = (self.bed, Arc::clone(self.clients), self.spool);
            running.push(async move {
                sleep(Duration::from_millis(injection.after)).await;
                (injection, inject(bed, &clients, injection, spool).await)
            });
        }
        let mut healed = begun;
        let mut failed = None;
        for (injection, done) in futures_util::future::join_all(running).await {
            let done = match done {
                Ok(done) => done,
                Err(error) => {
                    let bitten = self.report.injections.entry(injection.fault.name()).or_default();
                    bitten.planned += 1;
                    failed.get_or_insert(error);
                    continue;
                }
            };
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
        if let Some(error) = failed {
            return Err(error);
        }
        self.recover(healed).await?;
        // What was under way when everything healed may still fail; what is sent a second later may not.
        let settled = Instant::now() + SETTLED;
        let quiet = Duration::from_millis(episode.quiet).saturating_sub(SETTLED);
        self.quiet(format!("the quiet after episode {number}"), settled, quiet)
            .await
    }

    /// Lets canaries sing while nothing is wrong, and goes on when each that was sent meanwhile is answered or given up:
    /// the next fault shall spoil no answer.
    async fn quiet(&mut self, name: String, from: Instant, length: Duration) -> Result<()> {
        let to = from + length;
        sleep_until(to.into()).await;
        self.windows.push(Window { from, to, name });
        self.clients.canaries_before(to).await
    }

    /// I7: names the quiet times in which canaries were refused, hung, or were too few to show anything.
    fn judge_windows(&mut self) {
        for Window { from, to, name } in &self.windows {
            for instance in 0..INSTANCES {
                let canaries = self.clients.canaries_since(instance, *from);
                let canaries: Vec<_> = canaries.iter().filter(|canary| canary.sent < *to).collect();
                let due = (*to - *from).as_millis() / CANARY_PAUSE.as_millis();
                let count =
                    |what: &dyn Fn(&Canary) -> bool| canaries.iter().filter(|canary| what(canary)).count();
                let refused = count(&|canary| canary.status != Some(202));
                let hung = count(&|canary| canary.answered - canary.sent > QUIET_ANSWER);
                if refused > 0 {
                    self.report.problems.push(format!(
                        "I7: {refused} canaries of ingest-{instance} were not accepted in {name}"
                    ));
                }
                if hung > 0 {
                    self.report.hung.push(format!(
                        "I7: {hung} canaries of ingest-{instance} waited longer than {QUIET_ANSWER:?} in {name}"
                    ));
                }
                if due >= FEW && canaries.len() as u128 * u128::from(SUNG) < due {
                    self.report.problems.push(format!(
                        "no evidence: {} canaries of ingest-{instance} were sent in {name}, and {due} were due",
                        canaries.len()
                    ));
                }
            }
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
        if self.spool {
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
            let lasted = done.healed - done.begun;
            if first.is_none() && lasted >= if hangs { SEEN_HANG } else { SEEN_CUT } {
                self.report.problems.push(format!(
                    "I7: {fault} was never seen as 503 at ingest-{instance} in {lasted:.1?}"
                ));
            }
            // What a client sees begins with the first request that meets the fault.
            let met = self
                .clients
                .canaries_since(instance, done.begun)
                .into_iter()
                .map(|canary| canary.sent)
                .min()
                .unwrap_or(done.begun);
            let after = first.map_or(lasted, |first| first.saturating_duration_since(met));
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
        match Books::read(bed, ledger).await {
            Ok(books) => self.report.problems.extend(books.disagree(bed)),
            Err(error) => self.note("I9: the books could not be read", Err(error)),
        }
        self.report.problems.extend(bed.stop().await);
        // Only now does the count say everything: what a consumer held is back in the queue.
        match bed.topology.waiting("store").await {
            Ok(0) => {}
            Ok(left) => self
                .report
                .problems
                .push(format!("I7: {left} packets are left in the queue of the store")),
            Err(error) => self.note("the queue of the store cannot be asked", Err(error)),
        }
        self.note("", bed.spools_are_empty().await);
        let mut rows: Vec<StoredRow> = Vec::new();
        bed.database.database().each_row(|row| rows.push(row)).await?;
        let mut dead = bed.database.dead_letters().await?;
        dead.extend(dead_in_queue(bed).await?);
        let planted = bed.planted.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.events.sort_by_key(|(when, _)| *when);
        let findings: Findings = ledger.verdict(&rows, &dead, &planted, &self.events);
        self.report.findings = findings;
        self.report.compared = true;
        Ok(())
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
        letters.push(DeadLetter {
            body,
            reason,
            origin: None,
        });
    }
    warren_e2e::rabbit::close(connection, channel).await;
    Ok(letters)
}
