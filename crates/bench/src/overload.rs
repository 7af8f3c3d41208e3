//! Ten times the load that can be sustained, and clients that are slow on purpose.
//!
//! The load is open: requests come at their rate, whether answers come or not, so a wait counts from when its request was
//! sent; how late that was, for want of a processor, is told apart. A request holds messages of one severity; three of four say so in `Warren-Severity`, the fourth has to be read
//! to be known. The intake has a core of its own, as [`crate::cores`] says, and so RabbitMQ and PostgreSQL are private ones
//! that keep off it; what the load could not send is counted.
//!
//! The load takes its processor from RabbitMQ, PostgreSQL and the worker. So the peak is measured once more at the end, with
//! somebody who does nothing taking as much of it: that is the peak which the overload is held against.

mod burden;
mod generator;
mod report;
mod slow;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use tokio::task::spawn_blocking;
use warren_e2e::bed::{Bed, lend};
use warren_e2e::process::peak_memory;
use warren_test_servers::{PrivatePostgres, PrivateRabbit};

use crate::cores::Cores;
use crate::cost::{Watch, settle};
use crate::load::{Load, Pace};
use crate::messages;
use crate::overload::generator::{Flood, Tally};
use crate::overload::report::Report;
use crate::own_thread::on_own_thread;
use crate::servers::{OWN, Servers};
use crate::whole_path::with;

/// How much more than what can be sustained is sent.
const TIMES: f64 = 10.0;
/// The share of the peak that counts as an ordinary load.
const ORDINARY: f64 = 0.3;
/// How long each phase but the overload lasts.
const PHASE: Duration = Duration::from_secs(10);
/// How many severities there are, and how often each is sent, in a hundred.
pub(crate) const MIX: [(&str, u32); 5] = [
    ("debug", 40),
    ("info", 30),
    ("warning", 15),
    ("error", 10),
    ("critical", 5),
];

/// How the load is made.
#[derive(Clone, Debug)]
pub(crate) struct Overload {
    pub(crate) duration: Duration,
    pub(crate) connections: usize,
    /// Messages in each request.
    pub(crate) messages: usize,
    pub(crate) settings: Vec<(String, String)>,
}

/// A request that is made beforehand.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) bytes: Bytes,
    /// Its place in [`MIX`].
    pub(crate) severity: usize,
    /// Whether its head names the severity.
    pub(crate) declared: bool,
}

/// What is sustained, in messages a second.
struct Peak {
    /// Accepted and stored.
    stored: f64,
    /// Accepted, while the queue grew.
    taken_in: f64,
    /// Until all of it was stored.
    took: Duration,
}

impl Overload {
    /// Measures the peak, an ordinary load beside slow clients, the overload, the way back, and the peak once more.
    ///
    /// # Errors
    /// There is no core for the intake alone, or a server or a program failed.
    pub(crate) async fn run(self) -> Result<Report> {
        on_own_thread("overload", false, || self.run_here()).await
    }

    async fn run_here(self) -> Result<Report> {
        let cores = Cores::deal()?;
        eprintln!("  starting a RabbitMQ and a PostgreSQL that keep off the intake's core");
        let rabbit = spawn_blocking(PrivateRabbit::start).await??;
        let postgres = spawn_blocking(PrivatePostgres::start).await??;
        let servers = Servers::at(rabbit.url(), postgres.url()).await?;
        lend(&servers.amqp, &servers.postgres, async |bed| {
            bed.migrate().await?;
            let mut ingest = with(bed.ingest()?, &self.settings).open_files(16_384);
            let mut worker = with(bed.worker()?, &self.settings);
            cores.enter_intake()?;
            ingest.start_ready().await?;
            cores.leave_intake()?;
            worker.start_ready().await?;
            let pids = [
                ("ingest-api", ingest.pid().context("the intake ended")?),
                ("store-worker", worker.pid().context("the worker ended")?),
            ];
            let made = requests(self.messages);
            settle().await?;

            eprintln!(
                "  the peak: {} connections, as fast as answers come, until all of it is stored",
                self.connections
            );
            let watch = Watch::start(&servers.with(&pids))?;
            let Peak {
                stored: peak,
                taken_in,
                took,
            } = self.peak(bed, ingest.address(), &made).await?;
            let at_peak = watch.end()?;
            let own_at_peak = at_peak.processor_seconds(OWN) / took.as_secs_f64();
            let rate = peak / self.messages as f64;
            let flood = |rate: f64, duration: Duration| Flood {
                address: ingest.address(),
                requests: made.clone(),
                rate,
                duration,
            };
            let mut report = Report::new(&self, &servers, peak);
            report.taken_in = taken_in;
            report.processor.push(("peak", took, at_peak));

            settle().await?;
            eprintln!(
                "  an ordinary load of {:.0} requests a second alone, beside slow clients, and alone again",
                rate * ORDINARY
            );
            let mut alone = flood(rate * ORDINARY, PHASE).run().await?;
            report.before_slow_p99 = alone.accepted_wait(0.99);
            let slow = slow::Clients::begin(ingest.address()).await?;
            let mut beside = flood(rate * ORDINARY, PHASE).run().await?;
            report.beside_slow_p99 = beside.accepted_wait(0.99);
            report.beside_slow_refused = beside.refused();
            report.slow = slow.end().await?;
            let mut alone = flood(rate * ORDINARY, PHASE).run().await?;
            report.after_slow_p99 = alone.accepted_wait(0.99);

            eprintln!("  the overload: {:.0} requests a second", rate * TIMES);
            let watch = Watch::start(&servers.with(&pids))?;
            report.overload = flood(rate * TIMES, self.duration).run().await?;
            let at_overload = watch.end()?;
            let taken = at_overload.processor_seconds(OWN) / self.duration.as_secs_f64() - own_at_peak;
            report.processor.push(("overload", self.duration, at_overload));

            eprintln!("  the way back");
            report.recovered_after = self
                .way_back(&flood, rate * ORDINARY, report.ordinary_p99())
                .await?;

            for (name, pid) in pids {
                report.peak_memory.push((name, peak_memory(pid)?));
            }

            report.burden = taken.clamp(0.0, 0.9);
            eprintln!(
                "  the peak, with {:.2} cores taken from the others",
                report.burden
            );
            bed.wait_drained().await?;
            settle().await?;
            let peak = self.peak(bed, ingest.address(), &made);
            report.burdened_peak = burden::beside(report.burden, peak).await?.stored;
            ingest.stop(Duration::from_secs(30)).await?;
            worker.stop(Duration::from_secs(30)).await?;
            Ok(report)
        })
        .await
    }

    /// Sends as fast as answers come for a phase, and waits until all of it is stored.
    async fn peak(&self, bed: &Bed, address: SocketAddr, made: &[Made]) -> Result<Peak> {
        let load = Load {
            address,
            requests: made.iter().map(|made| made.bytes.clone()).collect(),
            messages: self.messages as u64,
            connections: self.connections,
            duration: PHASE,
            most_messages: u64::MAX,
            pace: Pace::Closed,
            goes_first: true,
        };
        let began = Instant::now();
        let load = load.run().await?;
        // Taking in is faster than storing for as long as the queue grows; what is sustained is both.
        bed.wait_drained().await?;
        let took = began.elapsed();
        Ok(Peak {
            stored: load.accepted as f64 / took.as_secs_f64(),
            taken_in: load.accepted as f64 / load.elapsed.as_secs_f64(),
            took,
        })
    }

    /// Puts the ordinary load on, a second at a time, until one is as it was before.
    async fn way_back(
        &self,
        flood: &impl Fn(f64, Duration) -> Flood,
        rate: f64,
        before: Option<f64>,
    ) -> Result<Option<u32>> {
        for second in 1..=30 {
            let mut tally: Tally = flood(rate, Duration::from_secs(1)).run().await?;
            let wait = tally.accepted_wait(0.99);
            let as_before = wait.zip(before).is_some_and(|(now, before)| now <= 2.0 * before);
            if tally.refused() == 0 && as_before {
                return Ok(Some(second));
            }
        }
        Ok(None)
    }
}

/// Makes requests in the shares of [`MIX`], in an order that has no period of its own.
fn requests(count: usize) -> Vec<Made> {
    let mut made = Vec::new();
    for (severity, (name, share)) in MIX.iter().enumerate() {
        for n in 0..*share {
            let declared = n % 4 != 3;
            let bytes = messages::request_of(name, declared, count, u64::from(n));
            made.push(Made {
                bytes,
                severity,
                declared,
            });
        }
    }
    fastrand::Rng::with_seed(302).shuffle(&mut made);
    made
}
