//! The settings of this program: the sections of its parts.

use serde::{Deserialize, Serialize};
use warren_adapter_amqp::AmqpConfig;
use warren_adapter_embedded::SpoolConfig;
use warren_adapter_http::HttpConfig;
use warren_pipeline::IntakeConfig;
use warren_process::program::ServiceSettings;
use warren_process::settings::{CheckSettings, within};
use warren_process::telemetry::TelemetryConfig;

/// The settings of `ingest-api`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) http: HttpConfig,
    pub(crate) intake: IntakeConfig,
    pub(crate) amqp: AmqpConfig,
    pub(crate) spool: SpoolConfig,
    pub(crate) telemetry: TelemetryConfig,
}

impl CheckSettings for Settings {
    fn problems(&self) -> Vec<(String, String)> {
        let publishing = self.amqp.publish_timeout;
        let impatience = if self.spool.path.is_none() {
            self.http.impatience("amqp.publish_timeout", publishing)
        } else {
            // First the broker is waited for, then the disk.
            let both = publishing.saturating_add(self.spool.publish_timeout);
            self.http
                .impatience("amqp.publish_timeout and spool.publish_timeout together", both)
        };
        within("http", self.http.problems())
            .chain(within("http", impatience))
            .chain(within("intake", self.intake.problems()))
            .chain(within("amqp", self.amqp.problems()))
            .chain(within("spool", self.spool.problems()))
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_reference_has_every_setting_with_its_default() {
        let reference = include_str!("../../../docs/configuration.md");
        let settings = warren_process::settings::flatten(&Settings::default()).unwrap();
        assert_eq!(
            warren_process::docs::compare("ingest-api", reference, &settings),
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
        settings.http.request_timeout = settings.amqp.publish_timeout;
        let problems = settings.problems();
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].0, "http.request_timeout");
        assert!(problems[0].1.contains("amqp.publish_timeout"), "{problems:?}");
        settings.http.request_timeout += Duration::from_millis(1);
        assert_eq!(settings.problems(), []);
    }

    #[test]
    fn a_request_has_to_last_as_long_as_the_broker_and_the_spool_together() {
        let mut settings = Settings::default();
        settings.spool.path = Some("spool".into());
        assert_eq!(settings.problems(), []);
        settings.http.request_timeout = settings.amqp.publish_timeout + Duration::from_secs(1);
        let problems = settings.problems();
        assert_eq!(problems.len(), 1);
        assert!(problems[0].1.contains("spool.publish_timeout"), "{problems:?}");
    }
}
