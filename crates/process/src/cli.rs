//! The flags that every binary has.

use std::path::PathBuf;

/// Where settings come from, on the command line.
///
/// Flatten it into the binary's own arguments: `#[command(flatten)] settings: SettingsArgs`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct SettingsArgs {
    /// Read settings from FILE, which must exist [default: warren.toml here, if there is one]
    #[arg(long, value_name = "FILE", env = "WARREN_CONFIG", global = true)]
    pub config: Option<PathBuf>,

    /// Set one setting, such as `--set http.listen=127.0.0.1:8080`; wins over file and environment.
    /// Other users of the machine can read it: give secrets through the environment or a `_FILE` variable
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value, global = true)]
    pub set: Vec<(String, String)>,
}

/// Splits `key=value` at its first `=`; the value may be empty and may hold further `=`.
fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE, such as http.listen=127.0.0.1:8080".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        settings: SettingsArgs,
    }

    #[test]
    fn a_value_keeps_its_equals_signs() {
        let program = Program::parse_from(["program", "--set", "amqp.url=amqp://h/?a=b", "--set", "http.x="]);
        assert_eq!(
            program.settings.set,
            [
                ("amqp.url".to_owned(), "amqp://h/?a=b".to_owned()),
                ("http.x".to_owned(), String::new())
            ]
        );
    }

    #[test]
    fn a_flag_without_an_equals_sign_is_a_usage_error_that_shows_the_form() {
        let error = Program::try_parse_from(["program", "--set", "http.listen"]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("expected KEY=VALUE"), "{error}");
    }
}
