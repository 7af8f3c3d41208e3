//! Logs, metrics and panics of a process.

pub mod escape;
pub mod logging;
pub mod metrics;
mod process;

use std::io::{self, IsTerminal as _};

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

/// The section `telemetry`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetryConfig {
    /// What is logged: a level, or levels by module such as `info,warren_pipeline=debug`. Default `info`.
    pub log: String,
    /// How it is written: `text`, `json`, or `auto`, which is text on a terminal and JSON elsewhere. Default `auto`.
    pub format: LogFormat,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            log: "info".to_owned(),
            format: LogFormat::Auto,
        }
    }
}

impl TelemetryConfig {
    /// Tells whether standard error gets text for people, not JSON for programs.
    #[must_use]
    pub fn is_text(&self) -> bool {
        match self.format {
            LogFormat::Json => false,
            LogFormat::Text => true,
            LogFormat::Auto => io::stderr().is_terminal(),
        }
    }

    /// Lists what the types cannot express: field and problem.
    #[must_use]
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        match EnvFilter::try_new(&self.log) {
            Ok(_) => Vec::new(),
            Err(error) => vec![(
                "log",
                format!(
                    "{error}; give off, error, warn, info, debug or trace, or module=level pairs with commas"
                ),
            )],
        }
    }
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// One line of text an event.
    Text,
    /// One JSON object an event.
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_cannot_be_read_is_a_problem_of_its_field() {
        let config = TelemetryConfig {
            log: "warren=loud".to_owned(),
            ..TelemetryConfig::default()
        };
        let problems = config.problems();
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].0, "log");
        assert!(TelemetryConfig::default().problems().is_empty());
    }
}
