//! The search: named, on this machine, private, installed.

use anyhow::{Context as _, Result, bail};

use crate::address::without_password;
use crate::{PrivatePostgres, PrivateRabbit, amqp, pg, programs};

/// The environment variable that names the RabbitMQ of the tests.
pub const AMQP_VARIABLE: &str = "WARREN_TEST_AMQP_URL";
/// The environment variable that names the PostgreSQL of the tests.
pub const POSTGRES_VARIABLE: &str = "WARREN_TEST_POSTGRES_URL";
/// Where a RabbitMQ is looked for when none is named.
pub const AMQP_DEFAULT: &str = "amqp://guest:guest@127.0.0.1:5672/%2f";
/// Where a PostgreSQL is looked for when none is named.
pub const POSTGRES_DEFAULT: &str = "postgres://postgres@127.0.0.1:5432/postgres";

/// The servers of a test run. Private ones stop when this is dropped.
#[derive(Debug)]
pub struct Servers {
    /// URL of the RabbitMQ, for [`AMQP_VARIABLE`].
    pub amqp_url: String,
    /// URL of the PostgreSQL, for [`POSTGRES_VARIABLE`].
    pub postgres_url: String,
    _rabbit: Option<PrivateRabbit>,
    _postgres: Option<PrivatePostgres>,
}

/// Finds or starts both servers, and tells through `say` which are used and why.
///
/// # Errors
/// When a server is named but cannot be used, or when none is found and none can be started: the error says what is
/// missing and which commands mend it.
pub fn find_or_start(say: impl Fn(&str) + Sync) -> Result<Servers> {
    let (rabbit_found, postgres_found) = (RABBITMQ.find(&say), POSTGRES.find(&say));
    let (rabbit_found, postgres_found) = match (rabbit_found, postgres_found) {
        (Ok(rabbit), Ok(postgres)) => (rabbit, postgres),
        (Err(rabbit), Err(postgres)) => bail!("{rabbit:#}\n{postgres:#}"),
        (Err(error), _) | (_, Err(error)) => return Err(error),
    };
    let mut packages = Vec::new();
    if matches!(rabbit_found, Found::Nothing { .. }) && !PrivateRabbit::is_installed() {
        packages.push(RABBITMQ.package);
    }
    if matches!(postgres_found, Found::Nothing { .. }) && !PrivatePostgres::is_installed() {
        packages.push(POSTGRES.package);
    }
    install(&packages, &say)?;
    // Together, because a RabbitMQ takes its time to start.
    std::thread::scope(|scope| {
        let rabbit = scope.spawn(|| {
            settle(
                &RABBITMQ,
                rabbit_found,
                PrivateRabbit::is_installed,
                PrivateRabbit::start,
                PrivateRabbit::url,
                &say,
            )
        });
        let postgres = settle(
            &POSTGRES,
            postgres_found,
            PrivatePostgres::is_installed,
            PrivatePostgres::start,
            PrivatePostgres::url,
            &say,
        );
        let rabbit = rabbit
            .join()
            .unwrap_or_else(|_| bail!("the thread that starts RabbitMQ panicked"));
        match (rabbit, postgres) {
            (Ok((amqp_url, rabbit)), Ok((postgres_url, postgres))) => Ok(Servers {
                amqp_url,
                postgres_url,
                _rabbit: rabbit,
                _postgres: postgres,
            }),
            (Err(rabbit), Err(postgres)) => bail!("{rabbit:#}\n{postgres:#}"),
            (Err(error), _) | (_, Err(error)) => Err(error),
        }
    })
}

/// One kind of server, and how it is looked for.
struct Kind {
    name: &'static str,
    variable: &'static str,
    default: &'static str,
    package: &'static str,
    probe: fn(&str) -> Result<()>,
}

const RABBITMQ: Kind = Kind {
    name: "RabbitMQ",
    variable: AMQP_VARIABLE,
    default: AMQP_DEFAULT,
    package: "rabbitmq-server",
    probe: amqp::probe,
};

const POSTGRES: Kind = Kind {
    name: "PostgreSQL",
    variable: POSTGRES_VARIABLE,
    default: POSTGRES_DEFAULT,
    package: "postgresql",
    probe: pg::probe,
};

enum Found {
    Usable(String),
    Nothing { tried: String },
}

impl Kind {
    fn find(&self, say: &impl Fn(&str)) -> Result<Found> {
        let (name, variable) = (self.name, self.variable);
        if let Some(url) = named(variable) {
            if url.starts_with("amqps://") {
                say(&format!(
                    "{name}: {}, from {variable}; not tried, because it needs TLS",
                    without_password(&url)
                ));
                return Ok(Found::Usable(url));
            }
            (self.probe)(&url).with_context(|| {
                format!(
                    "{name}: {variable} names {}, which cannot be used",
                    without_password(&url)
                )
            })?;
            say(&format!("{name}: {}, from {variable}", without_password(&url)));
            return Ok(Found::Usable(url));
        }
        match (self.probe)(self.default) {
            Ok(()) => {
                say(&format!(
                    "{name}: {}, found on this machine",
                    without_password(self.default)
                ));
                Ok(Found::Usable(self.default.to_owned()))
            }
            Err(error) => Ok(Found::Nothing {
                tried: format!("{error:#}"),
            }),
        }
    }

    /// Says what is missing, and each way to mend it.
    fn missing(&self, tried: &str) -> anyhow::Error {
        let Self {
            name,
            variable,
            default,
            package,
            ..
        } = self;
        anyhow::anyhow!(
            "{name} is needed and there is none: {variable} is not set, {} cannot be used ({tried}), and {package} is \
             not installed.\nDo one of:\n  sudo apt-get install --no-install-recommends {package}    # Debian, \
             Ubuntu: a private one is started then\n  export {variable}={}",
            without_password(default),
            default
                .replace("guest:guest@127.0.0.1", "USER:PASSWORD@HOST")
                .replace("@127.0.0.1", ":PASSWORD@HOST"),
        )
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "tests have no settings of their own; this is their only source"
)]
fn named(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|url| !url.is_empty())
}

fn install(packages: &[&str], say: &impl Fn(&str)) -> Result<()> {
    if packages.is_empty() || !programs::can_install() {
        return Ok(());
    }
    say(&format!("installing {} with apt-get", packages.join(" ")));
    // A package whose service could not be started counts as failed, and its programs are there all the same: what
    // is missing is found out next.
    programs::install(packages).or_else(|error| {
        say(&format!("{error:#}"));
        Ok(())
    })
}

fn settle<S>(
    kind: &Kind,
    found: Found,
    is_installed: fn() -> bool,
    start: fn() -> Result<S>,
    url: fn(&S) -> String,
    say: &impl Fn(&str),
) -> Result<(String, Option<S>)> {
    let tried = match found {
        Found::Usable(url) => return Ok((url, None)),
        Found::Nothing { tried } => tried,
    };
    if !is_installed() {
        return Err(kind.missing(&tried));
    }
    let (name, default) = (kind.name, without_password(kind.default));
    say(&format!(
        "{name}: starting a private one, because {default} cannot be used ({tried})"
    ));
    let server = start().with_context(|| format!("{name}: the private server does not start"))?;
    let url = url(&server);
    say(&format!(
        "{name}: {}, private, stopped at the end",
        without_password(&url)
    ));
    Ok((url, Some(server)))
}
