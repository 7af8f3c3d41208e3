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

/// What was found: for each server one that can be used, or the programs to start a private one.
#[derive(Debug)]
pub struct Found {
    rabbit: Place,
    postgres: Place,
}

/// Looks for both servers, installs what is missing where that is allowed, and starts nothing yet.
///
/// It tells through `say` what is used and why. Call it before a build: what is missing is better said before it.
///
/// # Errors
/// When a server is named but cannot be used, or when none is found and none could be started: the error says what is
/// missing and which commands mend it.
pub fn find(say: impl Fn(&str)) -> Result<Found> {
    let (rabbit, postgres) = both(RABBITMQ.find(&say), POSTGRES.find(&say))?;
    let packages: Vec<_> = [(&RABBITMQ, &rabbit), (&POSTGRES, &postgres)]
        .into_iter()
        .filter(|(kind, place)| kind.is_available(place).is_err())
        .map(|(kind, _)| kind.package)
        .collect();
    install(&packages, &say)?;
    both(RABBITMQ.is_available(&rabbit), POSTGRES.is_available(&postgres))?;
    Ok(Found { rabbit, postgres })
}

impl Found {
    /// Starts private servers where none was found. Call it after a build, so that no server waits for the compiler.
    ///
    /// # Errors
    /// When one does not start; the error has the end of its log.
    pub fn start(self, say: impl Fn(&str) + Sync) -> Result<Servers> {
        let Self { rabbit, postgres } = self;
        // Together, because a RabbitMQ takes its time to start.
        let (rabbit, postgres) = std::thread::scope(|scope| {
            let starting =
                scope.spawn(|| settle(&RABBITMQ, rabbit, PrivateRabbit::start, PrivateRabbit::url, &say));
            let postgres = settle(
                &POSTGRES,
                postgres,
                PrivatePostgres::start,
                PrivatePostgres::url,
                &say,
            );
            let rabbit = starting
                .join()
                .unwrap_or_else(|_| bail!("the thread that starts RabbitMQ panicked"));
            both(rabbit, postgres)
        })?;
        let ((amqp_url, rabbit), (postgres_url, postgres)) = (rabbit, postgres);
        Ok(Servers {
            amqp_url,
            postgres_url,
            _rabbit: rabbit,
            _postgres: postgres,
        })
    }
}

/// Sees to it that private servers can be started: their programs are installed, or are now, where that is allowed.
///
/// # Errors
/// One of them is missing and cannot be installed; the message says how to.
pub fn provide_programs(say: impl Fn(&str)) -> Result<()> {
    let missing = || {
        [&RABBITMQ, &POSTGRES]
            .into_iter()
            .filter(|kind| !(kind.is_installed)())
    };
    install(&missing().map(|kind| kind.package).collect::<Vec<_>>(), &say)?;
    let names: Vec<_> = missing().map(|kind| kind.package).collect();
    if names.is_empty() {
        return Ok(());
    }
    bail!(
        "servers of its own are needed, and their programs are not installed:\n  sudo apt-get install \
         --no-install-recommends {}",
        names.join(" ")
    )
}

/// Returns both, or every error there is.
fn both<A, B>(one: Result<A>, other: Result<B>) -> Result<(A, B)> {
    match (one, other) {
        (Ok(one), Ok(other)) => Ok((one, other)),
        (Err(one), Err(other)) => bail!("{one:#}\n{other:#}"),
        (Err(error), _) | (_, Err(error)) => Err(error),
    }
}

/// One kind of server, and how it is looked for.
struct Kind {
    name: &'static str,
    variable: &'static str,
    default: &'static str,
    package: &'static str,
    probe: fn(&str) -> Result<()>,
    is_installed: fn() -> bool,
}

const RABBITMQ: Kind = Kind {
    name: "RabbitMQ",
    variable: AMQP_VARIABLE,
    default: AMQP_DEFAULT,
    package: "rabbitmq-server",
    probe: amqp::probe,
    is_installed: PrivateRabbit::is_installed,
};

const POSTGRES: Kind = Kind {
    name: "PostgreSQL",
    variable: POSTGRES_VARIABLE,
    default: POSTGRES_DEFAULT,
    package: "postgresql",
    probe: pg::probe,
    is_installed: PrivatePostgres::is_installed,
};

/// Where a server is.
#[derive(Debug)]
enum Place {
    /// At this URL.
    Usable(String),
    /// Nowhere yet; why the usual place is none.
    Nowhere { tried: String },
}

impl Kind {
    fn find(&self, say: &impl Fn(&str)) -> Result<Place> {
        let (name, variable) = (self.name, self.variable);
        if let Some(url) = named(variable) {
            if url.starts_with("amqps://") {
                say(&format!(
                    "{name}: {}, from {variable}; not tried, because it needs TLS",
                    without_password(&url)
                ));
                return Ok(Place::Usable(url));
            }
            (self.probe)(&url).with_context(|| {
                format!(
                    "{name}: {variable} names {}, which cannot be used",
                    without_password(&url)
                )
            })?;
            say(&format!("{name}: {}, from {variable}", without_password(&url)));
            return Ok(Place::Usable(url));
        }
        match (self.probe)(self.default) {
            Ok(()) => {
                say(&format!(
                    "{name}: {}, found on this machine",
                    without_password(self.default)
                ));
                Ok(Place::Usable(self.default.to_owned()))
            }
            Err(error) => Ok(Place::Nowhere {
                tried: format!("{error:#}"),
            }),
        }
    }

    /// Fails unless there is a server or the programs to start one.
    fn is_available(&self, place: &Place) -> Result<()> {
        match place {
            Place::Nowhere { tried } if !(self.is_installed)() => Err(self.missing(tried)),
            _ => Ok(()),
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
pub(crate) fn named(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|url| !url.is_empty())
}

pub(crate) fn install(packages: &[&str], say: &impl Fn(&str)) -> Result<()> {
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
    place: Place,
    start: fn() -> Result<S>,
    url: fn(&S) -> String,
    say: &impl Fn(&str),
) -> Result<(String, Option<S>)> {
    let tried = match place {
        Place::Usable(url) => return Ok((url, None)),
        Place::Nowhere { tried } => tried,
    };
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
