//! How the programs of a scenario are told their settings.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use tokio::process::Command;
use warren_process::cli::SettingsArgs;
use warren_process::settings::variable_name;

/// The settings of this command for its children, through the environment: of flags other users can read the values,
/// and each program would refuse those of another.
#[derive(Clone, Debug)]
pub(super) struct Environment {
    config: Option<PathBuf>,
    settings: Vec<(String, OsString)>,
}

impl Environment {
    /// Takes over what this command was told.
    pub(super) fn of(settings: &SettingsArgs) -> Self {
        Self {
            config: settings.config.clone(),
            settings: settings
                .set
                .iter()
                .map(|(key, value)| (key.clone(), value.into()))
                .collect(),
        }
    }

    /// Adds a setting, which wins over whatever was said before.
    #[must_use]
    pub(super) fn with(mut self, key: &str, value: impl Into<OsString>) -> Self {
        self.settings.push((key.to_owned(), value.into()));
        self
    }

    /// Returns the command that starts a program with these settings.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        if let Some(config) = &self.config {
            command.env("WARREN_CONFIG", config);
        }
        for (key, value) in &self.settings {
            let name = variable_name(key);
            // Both at once would be an error.
            command.env_remove(format!("{name}_FILE")).env(name, value);
        }
        command
    }
}

/// Finds a program of Warren: beside this one, else in PATH.
///
/// # Errors
/// It is in neither; the message says which command builds it.
pub(super) fn program(name: &str) -> Result<PathBuf> {
    let own = env::current_exe().context("cannot tell where this program is")?;
    let beside = own.with_file_name(name);
    if beside.is_file() {
        return Ok(beside);
    }
    let path = env::var_os("PATH").unwrap_or_default();
    match env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
    {
        Some(found) => Ok(found),
        None => bail!(
            "{name} is neither beside {} nor in PATH; build it with `cargo build --package warren-{name}`",
            own.display()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_value_wins_and_its_file_twin_goes() {
        let told = SettingsArgs {
            config: Some("/etc/warren.toml".into()),
            set: vec![("amqp.url".to_owned(), "amqp://a".to_owned())],
        };
        let command = Environment::of(&told)
            .with("amqp.url", "amqp://b")
            .command(Path::new("program"));
        let environment: Vec<_> = command
            .as_std()
            .get_envs()
            .map(|(name, value)| (name.to_owned(), value.map(ToOwned::to_owned)))
            .collect();
        let some = |text: &str| Some(OsString::from(text));
        assert!(environment.contains(&("WARREN_AMQP__URL".into(), some("amqp://b"))));
        assert!(environment.contains(&("WARREN_AMQP__URL_FILE".into(), None)));
        assert!(environment.contains(&("WARREN_CONFIG".into(), some("/etc/warren.toml"))));
        assert!(command.as_std().get_args().next().is_none());
    }

    #[test]
    fn a_program_that_is_nowhere_is_told_with_the_command_that_builds_it() {
        let error = program("severity-consumer-of-nobody").unwrap_err().to_string();
        assert!(
            error.contains("cargo build --package warren-severity-consumer-of-nobody"),
            "{error}"
        );
    }
}
