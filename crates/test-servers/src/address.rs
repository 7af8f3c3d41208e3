//! Just enough of a URL to knock at a server.

use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use anyhow::{Context as _, Result};

/// The parts of `scheme://user:password@host:port/path?query`, percent-decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) scheme: String,
    pub(crate) user: String,
    pub(crate) password: String,
    pub(crate) host: String,
    pub(crate) port: Option<u16>,
    pub(crate) path: String,
}

impl Address {
    pub(crate) fn parse(url: &str) -> Result<Self> {
        let (scheme, rest) = url.split_once("://").context("not a URL: it has no `://`")?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let path = path.split('?').next().unwrap_or(path);
        let authority = authority.split('?').next().unwrap_or(authority);
        let (login, place) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        let (host, port) = match place.strip_prefix('[').and_then(|v6| v6.split_once(']')) {
            Some((host, rest)) => (host, rest.strip_prefix(':')),
            None => place
                .split_once(':')
                .map_or((place, None), |(host, port)| (host, Some(port))),
        };
        Ok(Self {
            scheme: scheme.to_owned(),
            user: decoded(user),
            password: decoded(password),
            host: decoded(host),
            port: port
                .map(str::parse)
                .transpose()
                .context("the port is not a number")?,
            path: decoded(path),
        })
    }

    /// Connects within two seconds, and lets no read or write wait for more than five.
    pub(crate) fn connect(&self, default_port: u16) -> Result<TcpStream> {
        let port = self.port.unwrap_or(default_port);
        let mut last = None;
        for address in (self.host.as_str(), port)
            .to_socket_addrs()
            .context("the host is not known")?
        {
            match TcpStream::connect_timeout(&address, Duration::from_secs(2)) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
                    stream.set_write_timeout(Some(Duration::from_secs(5)))?;
                    stream.set_nodelay(true)?;
                    return Ok(stream);
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.map_or_else(|| anyhow::anyhow!("the host has no address"), Into::into))
    }
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let hex = (byte == b'%')
            .then(|| tail.get(..2).and_then(|pair| std::str::from_utf8(pair).ok()))
            .flatten()
            .and_then(|pair| u8::from_str_radix(pair, 16).ok());
        bytes.push(hex.unwrap_or(byte));
        rest = if hex.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Returns `url` without its password, for messages.
pub(crate) fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return "***".to_owned();
    };
    let login = rest.rsplit_once('@');
    match login.and_then(|(login, place)| Some((login.split_once(':')?.0, place))) {
        Some((user, place)) => format!("{scheme}://{user}:***@{place}"),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_url_is_found() {
        let address = Address::parse("amqp://a%40b:p%2fw@[::1]:5673/%2f?x=y").unwrap();
        assert_eq!(address.user, "a@b");
        assert_eq!(address.password, "p/w");
        assert_eq!((address.host.as_str(), address.port), ("::1", Some(5673)));
        assert_eq!(address.path, "/");
        let plain = Address::parse("postgres://localhost").unwrap();
        assert_eq!(
            (plain.user.as_str(), plain.port, plain.path.as_str()),
            ("", None, "")
        );
        assert!(Address::parse("localhost:5432").is_err());
    }

    #[test]
    fn a_message_shows_no_password() {
        assert_eq!(without_password("amqp://a:b@c@h/x"), "amqp://a:***@h/x");
        assert_eq!(without_password("postgres://a@h/x"), "postgres://a@h/x");
        assert_eq!(without_password("amqp://h/x"), "amqp://h/x");
    }
}
