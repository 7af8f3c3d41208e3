//! Where `warren send` sends to.

use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, Result};
use warren_adapter_amqp::{AmqpConfig, AmqpPublisher};
use warren_client::{HttpPublisher, Logger, LoggerBuilder};
use warren_process::program::addresses;
use warren_process::settings::mask;

use crate::settings::Settings;

/// How long a request may be repeated before what stands in the way is told, and the logger repeats it.
const HTTP_DEADLINE: Duration = Duration::from_secs(2);

/// How long the name of `http.listen` may take to be resolved.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Where messages go.
#[derive(Debug)]
pub(crate) enum Target {
    /// A server of Warren, at this base URL.
    Http(String),
    /// RabbitMQ, with all of its settings.
    Amqp(Box<AmqpConfig>),
}

impl Target {
    /// Reads the value of `--to`; without one it is the server that runs with the same settings.
    ///
    /// # Errors
    /// What is wrong with it and what may stand there; never with a password.
    pub(crate) fn of(to: Option<&str>, settings: &Settings) -> Result<Self, String> {
        let Some(to) = to else {
            return Ok(Self::Http(format!("http://{}", settings.http.listen)));
        };
        let scheme = to
            .split_once("://")
            .map(|(scheme, _)| scheme.to_ascii_lowercase());
        match scheme.as_deref() {
            Some("http" | "https") => Ok(Self::Http(to.to_owned())),
            Some("amqp" | "amqps") => {
                let amqp = AmqpConfig {
                    url: to.into(),
                    ..settings.amqp.clone()
                };
                let problems: Vec<_> = amqp
                    .problems()
                    .into_iter()
                    .map(|(field, problem)| format!("{field}: {problem}"))
                    .collect();
                if !problems.is_empty() {
                    let shown = mask("to.url", to);
                    return Err(format!(
                        "invalid value '{shown}' for '--to': {}",
                        problems.join("; ")
                    ));
                }
                Ok(Self::Amqp(Box::new(amqp)))
            }
            None if to == "amqp" => Ok(Self::Amqp(Box::new(settings.amqp.clone()))),
            _ => Err(format!(
                "invalid value '{}' for '--to': expected a server of Warren, such as http://127.0.0.1:8080 or \
                 https://…, a RabbitMQ, such as amqp://user:password@host or amqps://…, or amqp for that of amqp.url",
                mask("to.url", to)
            )),
        }
    }

    /// Starts a logger that sends there.
    ///
    /// # Errors
    /// It cannot be used; whether anybody listens there is not asked yet.
    pub(crate) async fn start(&self, logger: LoggerBuilder) -> Result<Logger> {
        let started = match self {
            Self::Http(base) => {
                let publisher = HttpPublisher::builder(reachable(base).await?)
                    .deadline(HTTP_DEADLINE)
                    .build()
                    .with_context(|| format!("cannot send to {self}"))?;
                logger.start(publisher)
            }
            Self::Amqp(config) => {
                let config = AmqpConfig::clone(config);
                logger.start_with(move || async move { AmqpPublisher::start(config) })
            }
        };
        started.with_context(|| format!("cannot send to {self}"))
    }
}

/// Returns a URL that can be connected to: who listens on every address is reached on the loopback.
async fn reachable(base: &str) -> Result<String> {
    let Some(listen) = base
        .strip_prefix("http://0.0.0.0")
        .or(base.strip_prefix("http://[::]"))
    else {
        return Ok(base.to_owned());
    };
    let found = addresses(&format!("127.0.0.1{listen}"), RESOLVE_TIMEOUT).await;
    Ok(found
        .ok()
        .and_then(|found| found.first().map(|address| format!("http://{address}")))
        .unwrap_or_else(|| base.to_owned()))
}

impl fmt::Display for Target {
    /// Writes where it leads, without passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(base) => f.write_str(&mask("to.url", base)),
            Self::Amqp(config) => write!(f, "RabbitMQ {:?}, prefix {}", config.url, config.prefix),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(to: &str) -> Result<Target, String> {
        Target::of(Some(to), &Settings::default())
    }

    #[test]
    fn a_scheme_says_where_it_goes_and_nothing_means_the_server_of_the_settings() {
        assert!(matches!(of("https://logs.example"), Ok(Target::Http(_))));
        assert!(matches!(of("AMQPS://rabbit"), Ok(Target::Amqp(_))));
        let Ok(Target::Amqp(own)) = of("amqp") else {
            panic!("no broker");
        };
        assert_eq!(own.url, AmqpConfig::default().url);
        let default = Target::of(None, &Settings::default()).unwrap();
        assert_eq!(default.to_string(), "http://127.0.0.1:8080");
    }

    #[test]
    fn no_password_is_shown_whatever_is_wrong() {
        for wrong in [
            "amqp://user:hunter2@rabbit:99999",
            "ftp://user:hunter2@host",
            "user:hunter2@host",
            "amqp://user:hunter2@rabbit/?x",
        ] {
            let problem = of(wrong).unwrap_err();
            assert!(!problem.contains("hunter2"), "{problem}");
            assert!(problem.contains("--to"), "{problem}");
        }
        for right in ["amqp://user:hunter2@rabbit", "https://user:hunter2@host"] {
            let target = of(right).unwrap();
            assert!(!target.to_string().contains("hunter2"), "{target}");
        }
    }
}
