//! Metrics of a process, as Prometheus reads them.

use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, SystemTime};

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;

use super::process;

/// Seconds; from a quiet loopback call to a wait that somebody has already given up.
const SECONDS: &[f64] = &[
    0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0,
];
/// Bytes; from one short message to the largest request.
const BYTES: &[f64] = &[
    256.0,
    1_024.0,
    4_096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    33_554_432.0,
];
/// Messages; from a packet of one to the largest batch.
const MESSAGES: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1_000.0, 2_500.0, 5_000.0, 10_000.0,
];

/// How often samples are folded into their buckets; in between they take memory.
const UPKEEP: Duration = Duration::from_secs(5);

/// What could not be installed.
#[derive(Debug, thiserror::Error)]
#[error("the metrics recorder cannot be installed")]
pub struct MetricsError(#[from] BuildError);

/// The numbers of this process; cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// Begins to collect what the `metrics` macros report, with buckets by suffix: `_seconds`, `_bytes`, `_messages`.
///
/// Call it before the first metric is described or counted: what came earlier is lost.
///
/// # Errors
/// When another recorder is installed already.
pub fn install(version: &'static str) -> Result<Metrics, MetricsError> {
    let handle = builder()?.install_recorder()?;
    describe_metrics();
    gauge!("warren_build_info", "version" => version).set(1.0);
    gauge!("warren_process_info", "id" => id()).set(1.0);
    // Present from the start: an alert on a number that is not there yet cannot fire.
    counter!("warren_panics_total").increment(0);
    process::record();
    Ok(Metrics { handle })
}

/// Returns a name that no other process has, and no other run of this program.
fn id() -> String {
    // Its keys are random, and the moment is hashed with them.
    let name = RandomState::new().hash_one((std::process::id(), SystemTime::now()));
    format!("{name:016x}")
}

fn builder() -> Result<PrometheusBuilder, BuildError> {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_bytes".to_owned()), BYTES)?
        .set_buckets_for_metric(Matcher::Suffix("_messages".to_owned()), MESSAGES)
}

impl Metrics {
    /// Returns the page that `/metrics` serves, in the Prometheus text format.
    #[must_use]
    pub fn render(&self) -> String {
        process::record();
        self.handle.render()
    }

    /// Returns the exporter's own handle, for whoever serves `/metrics`; [`Metrics::keep_up`] keeps the numbers of
    /// the process fresh in it to within five seconds.
    #[must_use]
    pub fn handle(&self) -> PrometheusHandle {
        self.handle.clone()
    }

    /// Folds samples into buckets every five seconds until `stop`; without it a process nobody scrapes would keep
    /// every sample.
    pub async fn keep_up(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(UPKEEP);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            process::record();
            self.handle.run_upkeep();
        }
    }
}

/// Describes the metrics that every process has.
fn describe_metrics() {
    describe_gauge!("warren_build_info", "Always 1; the label tells the version");
    describe_gauge!(
        "warren_process_info",
        "Always 1; the label tells this process from every other, at whatever address it is asked"
    );
    describe_counter!(
        "warren_panics_total",
        Unit::Count,
        "Tasks that panicked; each is a defect to report"
    );
    process::describe_metrics();
}

#[cfg(test)]
mod tests {
    use metrics::{Unit, describe_histogram, histogram};

    use super::*;

    #[test]
    fn a_histogram_gets_the_buckets_of_its_suffix() {
        let recorder = builder().unwrap().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            describe_histogram!("warren_wait_seconds", Unit::Seconds, "How long");
            histogram!("warren_wait_seconds").record(0.003);
            histogram!("warren_packet_messages").record(3.0);
            describe_metrics();
            process::record();
        });
        let page = handle.render();
        for line in [
            "# HELP warren_wait_seconds How long",
            "warren_wait_seconds_bucket{le=\"0.004\"} 1",
            "warren_packet_messages_bucket{le=\"5\"} 1",
            "# TYPE process_resident_memory_bytes gauge",
        ] {
            assert!(page.contains(line), "{line} is not in:\n{page}");
        }
    }
}
