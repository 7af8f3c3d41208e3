//! The settings of this program: the sections of its parts.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use warren_adapter_amqp::AmqpConfig;
use warren_adapter_http::{HttpConfig, IntakeAddress};
use warren_adapter_postgres::{PostgresConfig, ReaderConfig};
use warren_domain::ports::{GroupName, NamedGroup};
use warren_pipeline::tail::TailConfig;
use warren_process::peer::Peer;
use warren_process::program::ServiceSettings;
use warren_process::settings::{CheckSettings, within};
use warren_process::telemetry::TelemetryConfig;

/// The settings of `query-api`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) http: HttpConfig,
    pub(crate) amqp: AmqpConfig,
    pub(crate) postgres: PostgresConfig,
    pub(crate) reader: ReaderConfig,
    pub(crate) tail: TailConfig,
    pub(crate) pipeline: PipelineConfig,
    pub(crate) telemetry: TelemetryConfig,
}

/// How many programs may be asked, and groups looked at.
const MOST: usize = 64;

/// Settings of what is known of other programs, section `pipeline`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct PipelineConfig {
    /// The programs that are asked for their counters: every `ingest-api`, `store-worker` and `severity-consumer`, as
    /// `http://host:port`; at most 64. Default: none, and what they count is not known.
    pub(crate) programs: Vec<String>,
    /// The consumer groups that are shown, by name; at most 64. Default: the four that Warren ships.
    pub(crate) groups: Vec<String>,
    /// Where clients send messages to, such as `https://intake.example.org`: told at `/version`, and shown by the console.
    /// Default: none, and the console says that it is not known.
    pub(crate) intake_url: Option<String>,
}

impl Default for PipelineConfig {
    fn default() -> Self {
        Self {
            programs: Vec::new(),
            groups: NamedGroup::shipped().map(|group| group.name.to_string()).into(),
            intake_url: None,
        }
    }
}

impl PipelineConfig {
    /// Lists what is wrong: the field, relative to the section, and what to do about it.
    fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        for (field, names) in [("programs", &self.programs), ("groups", &self.groups)] {
            if names.len() > MOST {
                problems.push((field, format!("names {}; name at most {MOST}", names.len())));
            }
            if let Some(twice) = twice(names) {
                problems.push((field, format!("names `{twice}` twice; name each once")));
            }
        }
        let wrong = self.programs.iter().find_map(|url| Peer::parse(url).err());
        problems.extend(wrong.map(|problem| ("programs", problem)));
        let wrong = self.groups.iter().find_map(|name| {
            let error = name.parse::<GroupName>().err()?;
            Some(format!("names `{name}`, which is no name of a group: {error}"))
        });
        problems.extend(wrong.map(|problem| ("groups", problem)));
        let wrong = self
            .intake_url
            .as_deref()
            .map(IntakeAddress::parse)
            .and_then(Result::err);
        problems.extend(wrong.map(|problem| ("intake_url", problem)));
        problems
    }

    /// Returns the programs to ask; one that is not well written is a problem before.
    pub(crate) fn peers(&self) -> Vec<Peer> {
        self.programs
            .iter()
            .filter_map(|url| Peer::parse(url).ok())
            .collect()
    }

    /// Returns the groups to look at; one that is not well written is a problem before.
    pub(crate) fn group_names(&self) -> Vec<GroupName> {
        self.groups.iter().filter_map(|name| name.parse().ok()).collect()
    }

    /// Returns where messages are sent to; what is not well written is a problem before.
    pub(crate) fn intake(&self) -> Option<IntakeAddress> {
        IntakeAddress::parse(self.intake_url.as_deref()?).ok()
    }
}

/// Returns a name that means the same as one before it: a program may be written in several ways.
fn twice(names: &[String]) -> Option<&String> {
    let meant = |name: &String| match Peer::parse(name) {
        Ok(peer) => peer.place().to_ascii_lowercase(),
        Err(_) => name.clone(),
    };
    let mut seen = HashSet::new();
    names.iter().find(|name| !seen.insert(meant(name)))
}

impl CheckSettings for Settings {
    fn problems(&self) -> Vec<(String, String)> {
        within("http", self.http.problems())
            .chain(within("amqp", self.amqp.problems()))
            .chain(within("postgres", self.postgres.problems()))
            .chain(within("reader", self.reader.problems()))
            .chain(within("tail", self.tail.problems()))
            .chain(within("pipeline", self.pipeline.problems()))
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
    use super::*;

    #[test]
    fn the_reference_has_every_setting_with_its_default() {
        let reference = include_str!("../../../docs/configuration.md");
        let settings = warren_process::settings::flatten(&Settings::default()).unwrap();
        assert_eq!(
            warren_process::docs::compare("query-api", reference, &settings),
            Vec::<String>::new()
        );
    }

    #[test]
    fn the_defaults_are_without_problems() {
        assert_eq!(Settings::default().problems(), []);
    }

    #[test]
    fn programs_and_groups_that_cannot_be_asked_are_problems() {
        let wrong = |programs: &[&str], groups: &[&str]| {
            let pipeline = PipelineConfig {
                programs: programs.iter().copied().map(str::to_owned).collect(),
                groups: groups.iter().copied().map(str::to_owned).collect(),
                ..PipelineConfig::default()
            };
            let settings = Settings {
                pipeline,
                ..Settings::default()
            };
            settings.problems()
        };
        assert_eq!(wrong(&["http://ingest:8080", "worker:8080"], &[]), []);
        for (programs, groups, key, told) in [
            (
                &["https://ingest:8080"][..],
                &[][..],
                "pipeline.programs",
                "http://127.0.0.1:8080",
            ),
            (&["a:1", "a:1"], &[], "pipeline.programs", "twice"),
            (
                &["b:1", "a:1", "http://A:1/"],
                &[],
                "pipeline.programs",
                "`http://A:1/` twice",
            ),
            (&[], &["All!"], "pipeline.groups", "All!"),
            (&[], &["all", "all"], "pipeline.groups", "twice"),
        ] {
            let problems = wrong(programs, groups);
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert!(
                problems[0].0 == key && problems[0].1.contains(told),
                "{problems:?}"
            );
        }
        let mut settings = Settings::default();
        settings.pipeline.intake_url = Some("intake:8080".to_owned());
        let problems = settings.problems();
        assert!(
            matches!(&problems[..], [(key, told)] if key == "pipeline.intake_url" && told.contains("http://127.0.0.1:8080")),
            "{problems:?}"
        );
        let many: Vec<_> = (0..65).map(|n| format!("g-{n}")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        assert!(wrong(&[], &many)[0].1.contains("at most 64"));
    }
}
