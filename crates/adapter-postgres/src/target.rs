//! What a URL says about the server.

use std::path::PathBuf;

use tokio_postgres::config::{Host, SslMode};

use crate::tls::TlsMode;

/// A server, a database, and how to speak to it.
#[derive(Clone)]
pub(crate) struct Target {
    /// Host, port and database: what may be shown.
    pub(crate) place: String,
    pub(crate) host: TargetHost,
    pub(crate) port: u16,
    pub(crate) user: String,
    pub(crate) password: Option<String>,
    pub(crate) database: String,
    pub(crate) tls: TlsMode,
}

#[derive(Clone)]
pub(crate) enum TargetHost {
    Tcp(String),
    Unix(PathBuf),
}

const FORM: &str =
    "expected postgres://user:password@host:5432/database, with special characters percent-encoded";

impl Target {
    /// Reads a URL; the error says what is wrong without repeating any of it.
    pub(crate) fn parse(url: &str) -> Result<Self, String> {
        let (base, options) = url.split_once('?').unwrap_or((url, ""));
        if !["postgres://", "postgresql://"]
            .iter()
            .any(|scheme| base.starts_with(scheme))
        {
            return Err(format!("is not a PostgreSQL URL: {FORM}"));
        }
        let mut mode = None;
        for option in options.split('&').filter(|option| !option.is_empty()) {
            let Some(("sslmode", value)) = option.split_once('=') else {
                return Err(format!(
                    "has an option other than sslmode, which is the only one it takes; {FORM}, and everything \
                     else has a setting of its own"
                ));
            };
            mode = Some(TlsMode::parse(value).ok_or(
                "has an unknown sslmode: use disable, prefer, require, verify-ca or verify-full".to_owned(),
            )?);
        }
        let parsed: tokio_postgres::Config = base
            .parse()
            .map_err(|_| format!("is not a PostgreSQL URL: {FORM}"))?;
        let host = match parsed.get_hosts() {
            [Host::Tcp(host)] if !host.is_empty() => TargetHost::Tcp(host.clone()),
            [Host::Unix(directory)] => TargetHost::Unix(directory.clone()),
            [] | [_] => return Err(format!("names no host: {FORM}")),
            _ => {
                return Err(
                    "names several hosts: name one, such as an address that follows the primary".to_owned(),
                );
            }
        };
        let user = parsed.get_user().filter(|user| !user.is_empty());
        let user = user.ok_or_else(|| format!("names no user: {FORM}"))?.to_owned();
        let database = parsed.get_dbname().filter(|name| !name.is_empty());
        let database = database
            .ok_or_else(|| format!("names no database: {FORM}"))?
            .to_owned();
        let password = match parsed.get_password() {
            None | Some([]) => None,
            Some(bytes) => Some(
                String::from_utf8(bytes.to_vec())
                    .map_err(|_| "has a password that is not UTF-8 once decoded".to_owned())?,
            ),
        };
        let port = parsed.get_ports().first().copied().unwrap_or(5432);
        let (place, tls) = match &host {
            TargetHost::Tcp(host) if host.contains(':') => (format!("[{host}]:{port}/{database}"), mode),
            TargetHost::Tcp(host) => (format!("{host}:{port}/{database}"), mode),
            // As libpq: there is no TLS over a Unix socket, whatever the mode.
            TargetHost::Unix(path) => (
                format!("{}:{port}/{database}", path.display()),
                Some(TlsMode::Disable),
            ),
        };
        Ok(Self {
            place,
            host,
            port,
            user,
            password,
            database,
            tls: tls.unwrap_or(TlsMode::Prefer),
        })
    }

    /// Returns the same for tokio-postgres.
    pub(crate) fn driver_config(&self) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        match &self.host {
            TargetHost::Tcp(host) => config.host(host),
            TargetHost::Unix(directory) => config.host_path(directory),
        };
        config.port(self.port).user(&self.user).dbname(&self.database);
        if let Some(password) = &self.password {
            config.password(password);
        }
        config.ssl_mode(match self.tls {
            TlsMode::Disable => SslMode::Disable,
            TlsMode::Prefer => SslMode::Prefer,
            TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => SslMode::Require,
        });
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_all_that_is_needed() {
        let target = Target::parse("postgresql://anna:p%40ss%3F@db.example:5433/logs?sslmode=verify-full")
            .ok()
            .unwrap();
        assert_eq!(target.place, "db.example:5433/logs");
        assert_eq!(target.password.as_deref(), Some("p@ss?"));
        assert_eq!((target.user.as_str(), target.tls), ("anna", TlsMode::VerifyFull));
        let target = Target::parse("postgres://anna@db/logs").ok().unwrap();
        assert_eq!((target.port, target.tls), (5432, TlsMode::Prefer));
        let target = Target::parse("postgres://anna@%2Frun%2Fpostgresql/logs?sslmode=require")
            .ok()
            .unwrap();
        assert_eq!(target.place, "/run/postgresql:5432/logs");
        assert_eq!(target.tls, TlsMode::Disable);
    }

    #[test]
    fn what_is_wrong_is_said_without_repeating_the_password() {
        for (url, expected) in [
            ("", "not a PostgreSQL URL"),
            ("host=db user=anna password=hunter2", "not a PostgreSQL URL"),
            ("mysql://anna:hunter2@db/logs", "not a PostgreSQL URL"),
            ("postgres://anna:hunter2@db:port/logs", "not a PostgreSQL URL"),
            ("postgres://anna:hunter2@db", "no database"),
            ("postgres://db/logs", "no user"),
            ("postgres://anna:hunter2@/logs", "no host"),
            ("postgres://anna:hunter2@a,b/logs", "several hosts"),
            ("postgres://anna:hunter2@db/logs?sslmode=yes", "unknown sslmode"),
            ("postgres://anna:hunter2@db/logs?hunter2=1", "other than sslmode"),
            ("postgres://anna:hun?ter2@db/logs", "other than sslmode"),
        ] {
            let problem = Target::parse(url).err().unwrap();
            assert!(problem.contains(expected), "{url}: {problem}");
            assert!(
                !problem.contains("hunter2") && !problem.contains("ter2@"),
                "{problem}"
            );
        }
    }
}
