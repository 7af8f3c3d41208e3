//! What a run stands on: the servers, the links, the programs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::sync::Mutex as AsyncMutex;
use warren_e2e::environment;
use warren_e2e::metrics::Metrics;
use warren_e2e::process::Service;
use warren_e2e::rabbit::Topology;
use warren_e2e::sqlite::dead_letters_in;

use crate::broker::{Broker, USER};
use crate::database::Database;
use crate::fault::{Instance, Link};
use crate::plan::{INSTANCES, Plan, Settings, Setup};
use crate::proxy::Proxy;

/// How long a program may take to become ready, or to stop.
const PATIENCE: Duration = Duration::from_secs(40);

/// After what time without a change nothing changes any more: far longer than any program may wait once all is well.
const STANDSTILL: Duration = Duration::from_secs(15);

/// What gives an intake a spool.
const SPOOL: &str = "WARREN_SPOOL__PATH";

/// What waits in one.
const SPOOLED: &str = "warren_spool_messages";

/// Where the programs are, and what beside the plan they are told.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The folder of the binaries.
    pub folder: PathBuf,
    /// Environment variables for every program: of a planted bug, for example.
    pub environment: Vec<(String, String)>,
}

/// Everything that is tortured.
#[derive(Debug)]
pub struct Bed {
    /// RabbitMQ.
    pub broker: Arc<Broker>,
    /// PostgreSQL.
    pub database: Database,
    /// The virtual host of this run.
    pub vhost: String,
    /// The exchanges and queues of this run.
    pub topology: Topology,
    links: BTreeMap<(Link, Instance), Proxy>,
    /// Of the intakes that have one.
    spools: TempDir,
    ingests: Vec<Program>,
    workers: Vec<Program>,
    secret: String,
    /// The bodies of records that were put into the queue and are no messages, each with the exchange it was put into.
    pub planted: Mutex<BTreeMap<Vec<u8>, &'static str>>,
}

/// One instance of a program.
#[derive(Debug)]
pub struct Program {
    /// Its name, with its number.
    pub name: String,
    /// The program and its log.
    pub service: AsyncMutex<Service>,
    /// Whether it runs since the beginning: its counters tell of the whole run.
    pub unbroken: std::sync::atomic::AtomicBool,
}

impl Program {
    /// Takes a program that runs since the beginning, or will.
    pub fn new(name: String, service: Service) -> Self {
        Self {
            name,
            service: AsyncMutex::new(service),
            unbroken: true.into(),
        }
    }

    /// Sends a signal to the process.
    ///
    /// # Errors
    /// It does not run.
    pub async fn signal(&self, signal: Signal) -> Result<u32> {
        let pid = self
            .service
            .lock()
            .await
            .pid()
            .with_context(|| format!("{} does not run", self.name))?;
        let raw = Pid::from_raw(i32::try_from(pid)?).context("no process has the id 0")?;
        kill_process(raw, signal).with_context(|| format!("cannot send {signal:?} to {}", self.name))?;
        Ok(pid)
    }

    /// Notes that its counters begin anew.
    pub fn interrupted(&self) {
        self.unbroken.store(false, std::sync::atomic::Ordering::Relaxed);
    }

    /// Tells whether it has run since the beginning.
    pub fn is_unbroken(&self) -> bool {
        self.unbroken.load(std::sync::atomic::Ordering::Relaxed)
    }
}

impl Bed {
    /// Makes a virtual host and a database, and starts the programs on them, each behind links of its own.
    ///
    /// # Errors
    /// A server refuses, or a program does not become ready.
    pub async fn make(
        plan: &Plan,
        programs: &Programs,
        broker: Arc<Broker>,
        server: Arc<Mutex<warren_test_servers::PrivatePostgres>>,
    ) -> Result<Self> {
        // Looked for in every log at the end: whatever shows a URL shows it masked.
        let secret = format!("canary{:016x}", fastrand::u64(..));
        let vhost = format!("torture-{}-{:06x}", plan.seed, fastrand::u32(..1 << 24));
        broker.add_vhost(&vhost, &secret).await?;
        let (amqp, postgres) = {
            let server = server.lock().unwrap_or_else(PoisonError::into_inner);
            (broker.act(|node| Ok(node.address())), server.address())
        };
        let amqp = amqp.await?;
        let database = Database::create(server, &secret).await?;
        let mut bed = Self {
            topology: Topology::named(format!("amqp://guest:guest@{amqp}/{vhost}"), "warren"),
            broker,
            database,
            vhost,
            links: BTreeMap::new(),
            spools: tempfile::Builder::new().prefix("warren-torture-").tempdir()?,
            ingests: Vec::new(),
            workers: Vec::new(),
            secret,
            planted: Mutex::default(),
        };
        let seed = |link: Link, instance: usize| plan.seed ^ ((link as u64) << 8) ^ instance as u64;
        for instance in 0..INSTANCES {
            for (link, upstream) in [
                (Link::Publish, amqp),
                (Link::Consume, amqp),
                (Link::Store, postgres),
            ] {
                let proxy = Proxy::start(upstream, seed(link, instance))?;
                bed.links.insert((link, instance), proxy);
            }
        }
        bed.migrate(programs).await?;
        bed.database.refuse_poison().await?;
        for instance in 0..INSTANCES {
            let ingest = bed.ingest(programs, instance)?;
            let proxy = Proxy::start(ingest.address(), seed(Link::Clients, instance))?;
            bed.links.insert((Link::Clients, instance), proxy);
            bed.ingests
                .push(Program::new(format!("ingest-{instance}"), ingest));
            let worker = bed.worker(programs, instance)?;
            bed.workers
                .push(Program::new(format!("worker-{instance}"), worker));
        }
        for (instance, program) in bed.ingests.iter().enumerate() {
            let mut service = program.service.lock().await;
            bed.set(&mut service, &plan.setup.ingest);
            service.set(SPOOL, bed.spool(instance, plan.setup.spool)?);
        }
        for program in &bed.workers {
            bed.set(&mut *program.service.lock().await, &plan.setup.worker);
        }
        for program in bed.programs() {
            program.service.lock().await.spawn()?;
        }
        for program in bed.programs() {
            program
                .service
                .lock()
                .await
                .wait_for("/readyz", 200, PATIENCE)
                .await?;
        }
        Ok(bed)
    }

    fn prepare(name: &str, programs: &Programs) -> Result<Service> {
        let path = environment::find(&programs.folder, name)?;
        let mut service = Service::of(name, path)?;
        for (name, value) in &programs.environment {
            service = service.setting(name, value);
        }
        Ok(service.setting("WARREN_TELEMETRY__FORMAT", "json"))
    }

    fn amqp_url(&self, link: Link, instance: Instance) -> Result<String> {
        let address = self.link(link, instance)?.address();
        Ok(format!("amqp://{USER}:{}@{address}/{}", self.secret, self.vhost))
    }

    fn ingest(&self, programs: &Programs, instance: Instance) -> Result<Service> {
        Ok(Self::prepare("ingest-api", programs)?
            .setting("WARREN_AMQP__URL", self.amqp_url(Link::Publish, instance)?)
            .setting("WARREN_HTTP__DRAIN_DELAY", "100ms"))
    }

    fn set(&self, service: &mut Service, settings: &Settings) {
        for (name, value) in settings {
            service.set(name, Some(value.clone()));
        }
    }

    /// Returns the folder of an intake's spool, if it is to have one.
    fn spool(&self, instance: Instance, wanted: bool) -> Result<Option<String>> {
        let folder = self.spools.path().join(format!("spool-{instance}"));
        let folder = folder.to_str().context("the folder's name is not UTF-8")?;
        Ok(wanted.then(|| folder.to_owned()))
    }

    /// Sets the programs up anew, one after the other: each ends in good order, and the next one waits until it is ready.
    ///
    /// # Errors
    /// One of them does not end, or does not become ready.
    pub async fn set_up(&self, setup: &Setup) -> Result<()> {
        for (instance, program) in self.ingests.iter().enumerate() {
            // Nobody would drain it, should the next one have none.
            self.until_unspooled(program).await?;
            let mut service = program.service.lock().await;
            program.interrupted();
            service.stop(PATIENCE).await?;
            self.set(&mut service, &setup.ingest);
            service.set(SPOOL, self.spool(instance, setup.spool)?);
            service.spawn()?;
            service.wait_for("/readyz", 200, PATIENCE).await?;
        }
        for program in &self.workers {
            let mut service = program.service.lock().await;
            program.interrupted();
            service.stop(PATIENCE).await?;
            self.set(&mut service, &setup.worker);
            service.spawn()?;
            service.wait_for("/readyz", 200, PATIENCE).await?;
        }
        Ok(())
    }

    async fn until_unspooled(&self, program: &Program) -> Result<()> {
        let (begun, address) = (Instant::now(), program.service.lock().await.address());
        loop {
            let left = Metrics::scrape(address).await?.sum(SPOOLED);
            if left == 0 {
                return Ok(());
            }
            ensure!(
                begun.elapsed() < PATIENCE,
                "I7: {left} messages are left in the spool of {} after {PATIENCE:?}",
                program.name
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Requires that the spools hold nothing, not even what RabbitMQ would not take. The programs have ended.
    ///
    /// # Errors
    /// One of them does, or cannot be read.
    pub async fn spools_are_empty(&self) -> Result<()> {
        for instance in 0..INSTANCES {
            let file = self
                .spools
                .path()
                .join(format!("spool-{instance}"))
                .join("spool.db");
            if !file.exists() {
                continue;
            }
            let dead = dead_letters_in(&file).await?;
            ensure!(
                dead == 0,
                "I1: {dead} dead letters are in the spool of ingest-{instance}"
            );
        }
        Ok(())
    }

    fn worker(&self, programs: &Programs, instance: Instance) -> Result<Service> {
        let store = self.link(Link::Store, instance)?.address();
        Ok(Self::prepare("store-worker", programs)?
            .setting("WARREN_AMQP__URL", self.amqp_url(Link::Consume, instance)?)
            .setting("WARREN_POSTGRES__URL", self.database.url_at(store, &self.secret)))
    }

    async fn migrate(&self, programs: &Programs) -> Result<()> {
        let store = self.link(Link::Store, 0)?.address();
        let mut migrate = Self::prepare("store-worker", programs)?
            .argument("migrate")
            .setting("WARREN_POSTGRES__URL", self.database.url_at(store, &self.secret));
        migrate.spawn()?;
        let status = migrate.wait(PATIENCE).await?;
        ensure!(
            status.success(),
            "`store-worker migrate` ended with {status}:\n{}",
            migrate.log()?
        );
        Ok(())
    }

    /// Returns a link's proxy.
    ///
    /// # Errors
    /// There is no such instance.
    pub fn link(&self, link: Link, instance: Instance) -> Result<&Proxy> {
        self.links
            .get(&(link, instance))
            .with_context(|| format!("there is no link {link:?} of instance {instance}"))
    }

    /// Returns an intake.
    ///
    /// # Errors
    /// There is no such instance.
    pub fn ingest_of(&self, instance: Instance) -> Result<&Program> {
        self.ingests
            .get(instance)
            .with_context(|| format!("there is no intake {instance}"))
    }

    /// Returns a worker.
    ///
    /// # Errors
    /// There is no such instance.
    pub fn worker_of(&self, instance: Instance) -> Result<&Program> {
        self.workers
            .get(instance)
            .with_context(|| format!("there is no worker {instance}"))
    }

    /// Returns every program.
    pub fn programs(&self) -> impl Iterator<Item = &Program> {
        self.ingests.iter().chain(&self.workers)
    }

    /// Returns the intakes.
    pub fn ingests(&self) -> &[Program] {
        &self.ingests
    }

    /// Returns the workers.
    pub fn workers(&self) -> &[Program] {
        &self.workers
    }

    /// Returns the word that must be in no log.
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// Ends every fault of a link.
    pub fn heal_links(&self) {
        for proxy in self.links.values() {
            proxy.heal();
        }
    }

    /// Takes back every fault that there can be, and starts what does not run; returns what could not be done.
    pub async fn calm(&self) -> Vec<String> {
        self.heal_links();
        let mut problems = Vec::new();
        let mut note = |what: &str, done: Result<()>| {
            problems.extend(done.err().map(|error| format!("cannot calm {what}: {error:#}")));
        };
        note("RabbitMQ", self.calm_broker().await);
        note("PostgreSQL", self.database.calm().await);
        for program in self.programs() {
            note(&program.name, Self::calm_program(program).await);
        }
        problems
    }

    async fn calm_broker(&self) -> Result<()> {
        self.broker.calm().await?;
        self.broker.unlimit_queue(&self.vhost).await.ok();
        self.broker.permit(USER, &self.vhost).await
    }

    async fn calm_program(program: &Program) -> Result<()> {
        let mut service = program.service.lock().await;
        let Some(pid) = service.pid() else {
            program.interrupted();
            return service.spawn();
        };
        let raw = Pid::from_raw(i32::try_from(pid)?).context("no process has the id 0")?;
        kill_process(raw, Signal::CONT).context("cannot send SIGCONT")
    }

    /// Waits until everything accepted is stored, and nothing waits in a queue or a spool.
    ///
    /// # Errors
    /// It does not come to that; the message has the difference.
    pub async fn drain(&self, at_least: u64, within: Duration) -> Result<Duration> {
        let (begun, mut last) = (Instant::now(), String::new());
        let mut moved = (begun, None);
        while begun.elapsed() < within && moved.0.elapsed() < STANDSTILL {
            let counted = async {
                let mut waiting = u64::from(self.topology.waiting("store").await?);
                waiting += u64::from(self.topology.waiting("dead").await?);
                let mut spooled = 0;
                for program in &self.ingests {
                    let address = program.service.lock().await.address();
                    spooled += Metrics::scrape(address).await?.sum(SPOOLED);
                }
                anyhow::Ok((waiting, spooled, self.database.count().await?))
            };
            match counted.await {
                Ok((0, 0, stored)) if stored >= at_least => return Ok(begun.elapsed()),
                Ok((waiting, spooled, stored)) => {
                    last = format!(
                        "{waiting} packets wait, {spooled} messages are in spools, {stored} rows of {at_least}"
                    );
                    if moved.1 != Some((waiting, spooled, stored)) {
                        moved = (Instant::now(), Some((waiting, spooled, stored)));
                    }
                }
                Err(error) => last = format!("{error:#}"),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        anyhow::bail!("I7: not drained after {:.0?}: {last}", begun.elapsed())
    }

    /// Asks every program to stop and waits until it has.
    pub async fn stop(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for program in self.programs() {
            let mut service = program.service.lock().await;
            if service.pid().is_none() {
                continue;
            }
            if let Err(error) = service.stop(PATIENCE).await {
                problems.push(format!("{}: {error:#}", program.name));
            }
        }
        problems
    }

    /// Writes every program's log into a folder.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub async fn write_logs(&self, folder: &Path) -> Result<Vec<(String, String)>> {
        std::fs::create_dir_all(folder)?;
        let mut logs = Vec::new();
        for program in self.programs() {
            let log = program.service.lock().await.log()?;
            std::fs::write(folder.join(format!("{}.log", program.name)), &log)?;
            logs.push((program.name.clone(), log));
        }
        std::fs::write(folder.join("rabbitmq.log"), self.broker.log().await?)?;
        let postgres = self.database.act(|server| Ok(server.log())).await?;
        std::fs::copy(postgres, folder.join("postgres.log"))?;
        Ok(logs)
    }
}
