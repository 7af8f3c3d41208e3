//! The command line: which group, from where, until when, and how it is shown.

use std::ffi::OsString;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser};
use warren_domain::ports::{GroupName, NamedGroup, StartAt};
use warren_domain::{Selection, SeveritySet, SourcePattern};
use warren_process::cli::SettingsArgs;
use warren_process::program;

/// Counts the messages of one consumer group by severity, each once, and shows the counts.
///
/// Any number of these may run for one group and share its messages. Settings come from warren.toml, the environment
/// (WARREN_AMQP__URL) and --set; docs/configuration.md lists them, docs/consumers.md describes the output.
#[derive(Debug, Parser)]
#[command(name = "severity-consumer", version)]
struct CommandLine {
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    group: GroupArgs,
    #[command(flatten)]
    output: Output,
    #[command(subcommand)]
    command: Option<program::Command>,
}

/// What the command line asks for.
#[derive(Debug)]
pub(crate) struct Arguments {
    /// Where settings come from.
    pub(crate) settings: SettingsArgs,
    /// What to do.
    pub(crate) task: Task,
}

/// What the program does.
#[derive(Debug)]
pub(crate) enum Task {
    /// Count for a group, and show it.
    Count(NamedGroup, Output),
    /// What every service can do.
    Service(program::Command),
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Which group")]
struct GroupArgs {
    /// One of the groups that Warren ships
    #[arg(long, value_name = "GROUP", value_parser = shipped_parser())]
    group: Option<NamedGroup>,
    /// A group of your own, under this name; needs --severities
    #[arg(long, value_name = "NAME", value_parser = own_name, conflicts_with = "group")]
    name: Option<GroupName>,
    /// The severities of your own group, such as `error,critical`, `error+` or `all`
    #[arg(long, value_name = "SEVERITIES", conflicts_with = "group")]
    severities: Option<SeveritySet>,
    /// Only these sources, such as `billing.#`: `*` stands for one segment, `#` for any number; may be repeated
    #[arg(long = "source", value_name = "PATTERN", conflicts_with = "group")]
    sources: Vec<SourcePattern>,
    /// Begin at the oldest message kept for the group; this is the default
    #[arg(long, conflicts_with = "new")]
    from_start: bool,
    /// Begin at the next message: drop what waits for the group, for all its members
    #[arg(long)]
    new: bool,
}

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Until when, and how it is shown")]
pub(crate) struct Output {
    /// End once nothing has come for this long, such as `2s`
    #[arg(long, value_name = "DURATION", value_parser = positive)]
    pub(crate) until_idle: Option<Duration>,
    /// End once this process has counted at least so many messages; what arrived together is counted together
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Print a line of JSON instead of the table
    #[arg(long)]
    pub(crate) json: bool,
    /// The time between two tables, or two lines
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = positive)]
    pub(crate) every: Duration,
}

impl Arguments {
    /// Reads the command line; a subcommand needs no group.
    ///
    /// # Errors
    /// What is wrong with it, to be told by [`clap::Error::exit`]: exit code 2.
    pub(crate) fn read<T: Into<OsString> + Clone>(
        arguments: impl IntoIterator<Item = T>,
    ) -> Result<Self, clap::Error> {
        let CommandLine {
            settings,
            group,
            output,
            command,
        } = CommandLine::try_parse_from(arguments)?;
        let task = match (command, group.named()?) {
            (Some(command), _) => Task::Service(command),
            (None, Some(group)) => Task::Count(group, output),
            (None, None) => {
                return Err(missing(format!(
                    "no group to count for: give --group with one of {}, or --name with --severities for a group of \
                     your own",
                    SHIPPED.join(", ")
                )));
            }
        };
        Ok(Self { settings, task })
    }
}

impl GroupArgs {
    fn named(&self) -> Result<Option<NamedGroup>, clap::Error> {
        let start = if self.new { StartAt::New } else { StartAt::Oldest };
        if let Some(group) = &self.group {
            return Ok(Some(NamedGroup {
                start,
                ..group.clone()
            }));
        }
        match (&self.name, self.severities) {
            (Some(name), Some(severities)) => Ok(Some(NamedGroup {
                name: name.clone(),
                selection: Selection {
                    severities,
                    sources: self.sources.clone(),
                },
                start,
            })),
            (Some(name), None) => Err(missing(format!(
                "--name {name} needs --severities: some of debug, info, warning, error, critical, joined by commas, \
                 or one with a + for it and everything graver"
            ))),
            (None, Some(severities)) => Err(missing(format!(
                "--severities {severities} needs --name, the name of the group: 1–64 characters of a–z, 0–9, _ and -"
            ))),
            (None, None) => match self.sources.first() {
                Some(source) => Err(missing(format!(
                    "--source {source} needs --name and --severities: the shipped groups take every source"
                ))),
                None => Ok(None),
            },
        }
    }
}

fn missing(what: String) -> clap::Error {
    CommandLine::command().error(ErrorKind::MissingRequiredArgument, what)
}

/// The names of [`NamedGroup::shipped`], as clap wants them.
const SHIPPED: [&str; 4] = ["all", "debug-info", "critical", "error"];

fn shipped_parser() -> impl TypedValueParser<Value = NamedGroup> {
    PossibleValuesParser::new(SHIPPED).try_map(|name| {
        let mut shipped = NamedGroup::shipped().into_iter();
        shipped
            .find(|group| group.name.as_str() == name)
            .ok_or("no such group")
    })
}

fn own_name(text: &str) -> Result<GroupName, String> {
    if SHIPPED.contains(&text) {
        return Err(format!(
            "Warren ships a group of that name; use --group {text}, or another name"
        ));
    }
    text.parse::<GroupName>().map_err(|error| error.to_string())
}

fn positive(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration.is_zero() => Err("give more than nothing, such as 2s".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(format!("{error}; write 500ms, 2s or 1m")),
    }
}

#[cfg(test)]
mod tests {
    use warren_domain::Severity;

    use super::*;

    fn read(arguments: &[&str]) -> Result<Option<NamedGroup>, String> {
        let all = ["severity-consumer"].iter().chain(arguments);
        match Arguments::read(all) {
            Ok(Arguments {
                task: Task::Count(group, _),
                ..
            }) => Ok(Some(group)),
            Ok(_) => Ok(None),
            Err(error) => {
                assert_eq!(error.exit_code(), 2, "{error}");
                Err(error.to_string())
            }
        }
    }

    #[test]
    fn a_shipped_group_is_named_by_its_name_alone() {
        assert_eq!(NamedGroup::shipped().map(|group| group.name.to_string()), SHIPPED);
        for shipped in NamedGroup::shipped() {
            let group = read(&["--group", shipped.name.as_str()]).unwrap().unwrap();
            assert_eq!(group, shipped);
        }
        let new = read(&["--group", "error", "--new"]).unwrap().unwrap();
        assert_eq!(new.start, StartAt::New);
        let old = read(&["--group", "error", "--from-start"]).unwrap().unwrap();
        assert_eq!(old.start, StartAt::Oldest);
    }

    #[test]
    fn a_group_of_ones_own_has_a_name_severities_and_sources() {
        let arguments = "--name billing --severities error+ --source billing.# --source *.billing";
        let group = read(&arguments.split(' ').collect::<Vec<_>>()).unwrap().unwrap();
        assert_eq!(group.name.as_str(), "billing");
        let expected = [Severity::Error, Severity::Critical].into_iter().collect();
        assert_eq!(group.selection.severities, expected);
        let sources: Vec<_> = group
            .selection
            .sources
            .iter()
            .map(SourcePattern::as_str)
            .collect();
        assert_eq!(sources, ["billing.#", "*.billing"]);
    }

    #[test]
    fn what_is_wrong_is_told_with_the_value_the_flag_and_what_is_allowed() {
        for (arguments, told) in [
            (
                "",
                &["all, debug-info, critical, error", "--name", "--severities"][..],
            ),
            (
                "--group errors",
                &["errors", "--group", "debug-info, critical, error"],
            ),
            ("--group error --name billing", &["--group", "--name"]),
            ("--group error --severities error", &["--group", "--severities"]),
            ("--group error --source a", &["--group", "--source"]),
            (
                "--name billing",
                &["billing", "--severities", "debug, info, warning, error, critical"],
            ),
            ("--severities error", &["error", "--name"]),
            ("--source a.#", &["a.#", "--name", "--severities"]),
            (
                "--name error --severities error",
                &["error", "--name", "--group error"],
            ),
            ("--name Billing --severities error", &["Billing", "--name", "a–z"]),
            (
                "--name b --severities loud",
                &["loud", "--severities", "debug, info, warning, error, critical"],
            ),
            (
                "--name b --severities ,",
                &["--severities", "debug, info, warning, error, critical"],
            ),
            (
                "--name b --severities all --source a..b",
                &["a..b", "--source", "segment"],
            ),
            (
                "--name b --severities all --source bill*",
                &["bill*", "--source", "whole segments"],
            ),
            ("--group all --from-start --new", &["--from-start", "--new"]),
            ("--group all --count 0", &["0", "--count"]),
            ("--group all --until-idle 0s", &["0s", "--until-idle"]),
            ("--group all --every soon", &["soon", "--every", "2s"]),
        ] {
            let words: Vec<_> = arguments.split_whitespace().collect();
            let error = read(&words).unwrap_err();
            for expected in told {
                assert!(
                    error.contains(expected),
                    "{arguments}: {expected} is not in: {error}"
                );
            }
        }
    }

    #[test]
    fn a_subcommand_needs_no_group() {
        assert_eq!(read(&["config", "check"]), Ok(None));
        assert_eq!(read(&["healthcheck", "--live"]), Ok(None));
    }
}
