//! The settings of this program: the sections of its parts.

use serde::{Deserialize, Serialize};
use warren_adapter_amqp::AmqpConfig;
use warren_adapter_http::HttpConfig;
use warren_adapter_postgres::PostgresConfig;
use warren_pipeline::tail::TailConfig;
use warren_pipeline::{MaintenanceConfig, WorkerConfig};
use warren_process::program::ServiceSettings;
use warren_process::settings::{CheckSettings, within};
use warren_process::telemetry::TelemetryConfig;

/// The settings of `store-worker`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) http: HttpConfig,
    pub(crate) amqp: AmqpConfig,
    pub(crate) postgres: PostgresConfig,
    pub(crate) worker: WorkerConfig,
    pub(crate) maintenance: MaintenanceConfig,
    pub(crate) tail: TailConfig,
    /// The days that messages are kept, counted from the time in their ids; 0 keeps them for ever. Default 0.
    pub(crate) retention_days: u32,
    pub(crate) telemetry: TelemetryConfig,
}

impl CheckSettings for Settings {
    fn problems(&self) -> Vec<(String, String)> {
        within("http", self.http.problems())
            .chain(within("amqp", self.amqp.problems()))
            .chain(within("postgres", self.postgres.problems()))
            .chain(within("worker", self.worker.problems()))
            .chain(within("maintenance", self.maintenance.problems()))
            .chain(within("tail", self.tail.problems()))
            .chain(within("telemetry", self.telemetry.problems()))
            .chain(self.prefetch_problem())
            .collect()
    }
}

impl ServiceSettings for Settings {
    fn telemetry(&self) -> &TelemetryConfig {
        &self.telemetry
    }

    fn listen(&self) -> &str {
        &self.http.listen
    }
}

impl Settings {
    /// Says what is wrong when the broker does not deliver enough for a batch to gather while others are stored.
    fn prefetch_problem(&self) -> Option<(String, String)> {
        let batches = self.worker.batches_in_flight.saturating_add(1);
        let least = batches.saturating_mul(self.worker.batch_deliveries);
        (usize::from(self.amqp.prefetch) < least).then(|| {
            let prefetch = self.amqp.prefetch;
            (
                "amqp.prefetch".to_owned(),
                format!(
                    "is {prefetch}; use at least {least}, which is (worker.batches_in_flight + 1) × \
                     worker.batch_deliveries, or lower those: no batch can gather while others are stored"
                ),
            )
        })
    }

    /// Returns the days to keep messages, `None` for ever.
    pub(crate) fn retention(&self) -> Option<u32> {
        (self.retention_days > 0).then_some(self.retention_days)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_has_every_setting_with_its_default() {
        let reference = include_str!("../../../docs/configuration.md");
        let settings = warren_process::settings::flatten(&Settings::default()).unwrap();
        assert_eq!(
            warren_process::docs::compare("store-worker", reference, &settings),
            Vec::<String>::new()
        );
    }

    #[test]
    fn the_defaults_are_without_problems() {
        assert_eq!(Settings::default().problems(), []);
    }

    #[test]
    fn a_prefetch_without_room_for_another_batch_is_a_problem() {
        let mut settings = Settings::default();
        settings.amqp.prefetch = 383;
        let problems = settings.problems();
        assert_eq!(problems.len(), 1);
        assert!(
            problems[0].0 == "amqp.prefetch" && problems[0].1.contains("384"),
            "{problems:?}"
        );
        settings.worker.batch_deliveries = 100;
        assert_eq!(settings.problems(), []);
    }
}
