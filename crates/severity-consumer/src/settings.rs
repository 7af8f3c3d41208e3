//! The settings of this program: the sections of its parts.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use warren_adapter_amqp::AmqpConfig;
use warren_adapter_http::HttpConfig;
use warren_pipeline::tally::TallyConfig;
use warren_process::program::ServiceSettings;
use warren_process::settings::{CheckSettings, Sources, within};
use warren_process::telemetry::TelemetryConfig;

/// Several of these run on one machine, and nobody balances over them: any free port, and no wait at the end.
const LISTEN: &str = "127.0.0.1:0";
const DRAIN_DELAY: (&str, Duration) = ("0s", Duration::ZERO);

/// The settings of `severity-consumer`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) http: HttpConfig,
    pub(crate) amqp: AmqpConfig,
    pub(crate) tally: TallyConfig,
    pub(crate) telemetry: TelemetryConfig,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            http: HttpConfig {
                listen: LISTEN.to_owned(),
                drain_delay: DRAIN_DELAY.1,
                ..HttpConfig::default()
            },
            amqp: AmqpConfig::default(),
            tally: TallyConfig::default(),
            telemetry: TelemetryConfig::default(),
        }
    }
}

/// Adds the defaults that differ from those of the sections.
pub(crate) fn with_own_defaults(sources: Sources) -> Sources {
    sources
        .preset("http.listen", LISTEN)
        .preset("http.drain_delay", DRAIN_DELAY.0)
}

impl CheckSettings for Settings {
    fn problems(&self) -> Vec<(String, String)> {
        within("http", self.http.problems())
            .chain(within("amqp", self.amqp.problems()))
            .chain(within("tally", self.tally.problems()))
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
    /// Returns the folder of the books.
    pub(crate) fn books(&self) -> PathBuf {
        let default = || Path::new("./warren-tally").to_owned();
        self.tally.path.clone().unwrap_or_else(default)
    }

    /// Says what is wrong when the broker does not deliver enough for a batch to gather while others are counted.
    fn prefetch_problem(&self) -> Option<(String, String)> {
        let (prefetch, least) = (self.amqp.prefetch, self.tally.least_prefetch());
        (usize::from(prefetch) < least).then(|| {
            let problem = format!(
                "is {prefetch}; use at least {least}, which is three times tally.batch_deliveries, or lower that: no \
                 batch can gather while others are counted"
            );
            ("amqp.prefetch".to_owned(), problem)
        })
    }
}

#[cfg(test)]
mod tests {
    use warren_process::settings;

    use super::*;

    #[test]
    fn the_reference_has_every_setting_with_its_default() {
        let reference = include_str!("../../../docs/configuration.md");
        let settings = settings::flatten(&Settings::default()).unwrap();
        assert_eq!(
            warren_process::docs::compare("severity-consumer", reference, &settings),
            Vec::<String>::new()
        );
    }

    #[test]
    fn the_defaults_are_without_problems() {
        assert_eq!(Settings::default().problems(), []);
    }

    #[test]
    fn another_setting_of_a_section_leaves_the_own_defaults_alone() {
        let environment = [("WARREN_HTTP__MAX_CONNECTIONS", "7")];
        let sources = with_own_defaults(Sources::of(None, environment));
        let loaded = settings::load::<Settings>(&sources).unwrap().settings;
        assert_eq!(loaded.http.max_connections, 7);
        assert_eq!(loaded.http.listen, LISTEN);
        assert_eq!(loaded.http.drain_delay, DRAIN_DELAY.1);
    }

    #[test]
    fn a_prefetch_without_room_for_another_batch_is_a_problem() {
        let mut settings = Settings::default();
        settings.amqp.prefetch = 383;
        let problems = settings.problems();
        assert!(
            problems.len() == 1 && problems[0].0 == "amqp.prefetch" && problems[0].1.contains("384"),
            "{problems:?}"
        );
        settings.tally.batch_deliveries = 100;
        assert_eq!(settings.problems(), []);
    }
}
