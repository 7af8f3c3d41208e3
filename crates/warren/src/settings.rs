//! The settings of this program: the sections of its parts.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use warren_adapter_amqp::AmqpConfig;
use warren_adapter_embedded::{EmbeddedConfig, ReaderConfig};
use warren_adapter_http::HttpConfig;
use warren_pipeline::tail::TailConfig;
use warren_pipeline::tally::TallyConfig;
use warren_pipeline::{IntakeConfig, MaintenanceConfig, WorkerConfig};
use warren_process::program::ServiceSettings;
use warren_process::settings::{CheckSettings, within};
use warren_process::telemetry::TelemetryConfig;

/// The settings of `warren`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) http: HttpConfig,
    pub(crate) intake: IntakeConfig,
    pub(crate) embedded: EmbeddedConfig,
    pub(crate) reader: ReaderConfig,
    pub(crate) tail: TailConfig,
    /// For the commands that speak to RabbitMQ; serving does not.
    pub(crate) amqp: AmqpConfig,
    pub(crate) worker: WorkerConfig,
    pub(crate) maintenance: MaintenanceConfig,
    pub(crate) tally: TallyConfig,
    /// The days that messages are kept, counted from the time in their ids; 0 keeps them for ever. Default 0.
    pub(crate) retention_days: u32,
    pub(crate) telemetry: TelemetryConfig,
}

impl CheckSettings for Settings {
    fn problems(&self) -> Vec<(String, String)> {
        let publishing = self.embedded.publish_timeout;
        let impatience = self.http.impatience("embedded.publish_timeout", publishing);
        within("http", self.http.problems())
            .chain(within("http", impatience))
            .chain(within("intake", self.intake.problems()))
            .chain(within("embedded", self.embedded.problems()))
            .chain(within("reader", self.reader.problems()))
            .chain(within("tail", self.tail.problems()))
            .chain(within("amqp", self.amqp.problems()))
            .chain(within("worker", self.worker.problems()))
            .chain(within("maintenance", self.maintenance.problems()))
            .chain(within("tally", self.tally.problems()))
            .chain(within("telemetry", self.telemetry.problems()))
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
    /// Returns the folder of the books, and the setting that names it.
    pub(crate) fn books(&self) -> (PathBuf, &'static str) {
        match &self.tally.path {
            Some(path) => (path.clone(), "tally.path"),
            None => (self.embedded.path.join("tally"), "embedded.path"),
        }
    }

    /// Returns the days to keep messages, `None` for ever.
    pub(crate) fn retention(&self) -> Option<u32> {
        (self.retention_days > 0).then_some(self.retention_days)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_reference_has_every_setting_with_its_default() {
        let reference = include_str!("../../../docs/configuration.md");
        let settings = warren_process::settings::flatten(&Settings::default()).unwrap();
        assert_eq!(
            warren_process::docs::compare("warren", reference, &settings),
            Vec::<String>::new()
        );
    }

    #[test]
    fn the_defaults_are_without_problems() {
        assert_eq!(Settings::default().problems(), []);
    }

    #[test]
    fn a_request_that_may_not_last_as_long_as_its_publishing_is_a_problem() {
        let mut settings = Settings::default();
        settings.http.request_timeout = settings.embedded.publish_timeout;
        let problems = settings.problems();
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].0, "http.request_timeout");
        assert!(problems[0].1.contains("embedded.publish_timeout"), "{problems:?}");
        settings.http.request_timeout += Duration::from_millis(1);
        assert_eq!(settings.problems(), []);
    }
}
