//! The addresses of the broker, as RabbitMQ's URI specification writes them.
//!
//! <https://www.rabbitmq.com/docs/uri-spec>. A fault never quotes the text: a password may stand anywhere in it.

use std::fmt;
use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};

/// One or several addresses of a broker, separated by commas. Shown without passwords, serialized with them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BrokerUrls(String);

impl BrokerUrls {
    /// Reads the addresses; there is at least one.
    pub(crate) fn endpoints(&self) -> Result<Vec<Endpoint>, UrlFault> {
        self.0
            .split(',')
            .enumerate()
            .map(|(index, text)| {
                let place = index + 1;
                endpoint(text.trim()).map_err(|kind| UrlFault { place, kind })
            })
            .collect()
    }
}

impl Default for BrokerUrls {
    fn default() -> Self {
        Self("amqp://guest:guest@127.0.0.1:5672/%2f".to_owned())
    }
}

impl From<&str> for BrokerUrls {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<String> for BrokerUrls {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for BrokerUrls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.endpoints() {
            Ok(endpoints) => f.debug_list().entries(&endpoints).finish(),
            Err(_) => f.write_str("(unreadable)"),
        }
    }
}

/// One address of a broker.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) tls: bool,
    /// A name, an IPv4 address, or an IPv6 address without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) user: String,
    pub(crate) password: String,
    pub(crate) vhost: String,
}

impl fmt::Display for Endpoint {
    /// Writes what tells where it leads, without user and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "amqps" } else { "amqp" };
        write!(f, "{scheme}://{}:{}", self.bracketed_host(), self.port)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let vhost = &self.vhost;
        write!(f, "\"{self}\" (user {:?}, vhost {vhost:?})", self.user)
    }
}

impl Endpoint {
    /// Returns the host as it stands before a colon and a port.
    pub(crate) fn bracketed_host(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        }
    }
}

/// What is wrong with an address of the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("address {place}: {kind}")]
pub(crate) struct UrlFault {
    place: usize,
    kind: UrlFaultKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum UrlFaultKind {
    #[error("begin it with amqp:// or amqps://")]
    Scheme,
    #[error("remove what follows ? or #; settings such as amqp.heartbeat take its place")]
    Query,
    #[error("write a host name, an IPv4 address, or an IPv6 address in brackets")]
    Host,
    #[error("write the port as a number between 1 and 65535")]
    Port,
    #[error("write %2F for each / of the virtual host's name")]
    Path,
    #[error("write % only before two hexadecimal digits; %25 for the sign itself")]
    Percent,
    #[error("use at most 255 bytes each for user, password and virtual host")]
    TooLong,
}

fn endpoint(text: &str) -> Result<Endpoint, UrlFaultKind> {
    let (scheme, rest) = text.split_once("://").ok_or(UrlFaultKind::Scheme)?;
    let tls = match scheme.to_ascii_lowercase().as_str() {
        "amqp" => false,
        "amqps" => true,
        _ => return Err(UrlFaultKind::Scheme),
    };
    if rest.contains(['?', '#']) {
        return Err(UrlFaultKind::Query);
    }
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, address) = match authority.rsplit_once('@') {
        Some((user, address)) => (Some(user), address),
        None => (None, authority),
    };
    let (user, password) = match user {
        Some(user) => {
            let (user, password) = user.split_once(':').unwrap_or((user, ""));
            (decoded(user)?, decoded(password)?)
        }
        None => ("guest".to_owned(), "guest".to_owned()),
    };
    let (host, port) = host_and_port(address)?;
    if path.contains('/') {
        return Err(UrlFaultKind::Path);
    }
    let vhost = if path.is_empty() {
        "/".to_owned()
    } else {
        decoded(path)?
    };
    // AMQP holds the virtual host in a short string, and RabbitMQ the user likewise.
    if [&user, &password, &vhost].iter().any(|part| part.len() > 255) {
        return Err(UrlFaultKind::TooLong);
    }
    Ok(Endpoint {
        tls,
        host,
        port: port.unwrap_or(if tls { 5671 } else { 5672 }),
        user,
        password,
        vhost,
    })
}

fn host_and_port(address: &str) -> Result<(String, Option<u16>), UrlFaultKind> {
    let (host, port) = if let Some(rest) = address.strip_prefix('[') {
        let (host, port) = rest.split_once(']').ok_or(UrlFaultKind::Host)?;
        host.parse::<Ipv6Addr>().map_err(|_| UrlFaultKind::Host)?;
        let port = match port.strip_prefix(':') {
            Some(port) => Some(port),
            None if port.is_empty() => None,
            None => return Err(UrlFaultKind::Host),
        };
        (host, port)
    } else {
        let (host, port) = match address.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (address, None),
        };
        let name_byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if !(1..=253).contains(&host.len()) || !host.bytes().all(name_byte) {
            return Err(UrlFaultKind::Host);
        }
        (host, port)
    };
    let port = match port {
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            let port = port.parse().ok().filter(|port| *port != 0);
            Some(port.ok_or(UrlFaultKind::Port)?)
        }
        Some(_) => return Err(UrlFaultKind::Port),
        None => None,
    };
    Ok((host.to_owned(), port))
}

/// Replaces `%` and two hexadecimal digits by the byte they stand for.
fn decoded(text: &str) -> Result<String, UrlFaultKind> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let mut digit = || {
                bytes
                    .next()
                    .and_then(|byte| char::from(byte).to_digit(16))
                    .ok_or(UrlFaultKind::Percent)
            };
            let byte = digit()? * 16 + digit()?;
            decoded.push(u8::try_from(byte).map_err(|_| UrlFaultKind::Percent)?);
        } else {
            decoded.push(byte);
        }
    }
    String::from_utf8(decoded).map_err(|_| UrlFaultKind::Percent)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn only(text: &str) -> Endpoint {
        let mut endpoints = BrokerUrls::from(text).endpoints().unwrap();
        assert_eq!(endpoints.len(), 1);
        endpoints.remove(0)
    }

    #[test]
    fn what_is_absent_has_its_usual_value() {
        let endpoint = only("amqp://broker");
        assert_eq!(
            (endpoint.host.as_str(), endpoint.port, endpoint.tls),
            ("broker", 5672, false)
        );
        assert_eq!(
            (endpoint.user.as_str(), endpoint.password.as_str()),
            ("guest", "guest")
        );
        assert_eq!(endpoint.vhost, "/");
        assert_eq!(only("amqp://broker/").vhost, "/");
        assert_eq!(only("AMQPS://broker").port, 5671);
        assert_eq!(only("amqp://user@broker").password, "");
    }

    #[test]
    fn escapes_are_decoded() {
        let endpoint = only("amqps://us%65r:p%40ss%3A%2f%25@[2001:db8::1]:5000/%2fa%20b");
        assert_eq!(endpoint.user, "user");
        assert_eq!(endpoint.password, "p@ss:/%");
        assert_eq!(endpoint.vhost, "/a b");
        assert_eq!((endpoint.host.as_str(), endpoint.port), ("2001:db8::1", 5000));
        assert_eq!(endpoint.to_string(), "amqps://[2001:db8::1]:5000");
        assert_eq!(only("amqp://u:p@ss:word@h").password, "p@ss:word");
    }

    #[test]
    fn several_addresses_are_told_apart() {
        let endpoints = BrokerUrls::from("amqp://a, amqp://b:1/v").endpoints().unwrap();
        assert_eq!(endpoints[1].host, "b");
        let fault = BrokerUrls::from("amqp://a,broker").endpoints().unwrap_err();
        assert_eq!(fault.to_string(), "address 2: begin it with amqp:// or amqps://");
    }

    #[test]
    fn every_fault_is_named() {
        use UrlFaultKind::*;
        let long = format!("amqp://h/{}", "v".repeat(256));
        for (text, kind) in [
            ("", Scheme),
            ("broker:5672", Scheme),
            ("http://broker", Scheme),
            ("amqp://", Host),
            ("amqp://:5672", Host),
            ("amqp://a b", Host),
            ("amqp://::1", Host),
            ("amqp://[::1", Host),
            ("amqp://[::1]x", Host),
            ("amqp://[broker]", Host),
            ("amqp://h:0", Port),
            ("amqp://h:65536", Port),
            ("amqp://h:", Port),
            ("amqp://h:+1", Port),
            ("amqp://h:1:2", Port),
            ("amqp://h/a/b", Path),
            ("amqp://h/%2", Percent),
            ("amqp://h/%zz", Percent),
            ("amqp://h/%ff", Percent),
            ("amqp://u:%é@h", Percent),
            ("amqp://h/v?heartbeat=1", Query),
            (&long, TooLong),
        ] {
            let fault = BrokerUrls::from(text).endpoints().unwrap_err();
            assert_eq!(fault, UrlFault { place: 1, kind }, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_without_being_quoted(text in "(amqps?://)?[ -~é]{0,40}") {
            let urls = BrokerUrls::from(text);
            if let Err(fault) = urls.endpoints() {
                prop_assert!(fault.to_string().starts_with("address "));
                prop_assert_eq!(format!("{urls:?}"), "(unreadable)");
            }
        }

        #[test]
        fn what_is_escaped_reads_back_equal(user in "\\PC{1,20}", password in "\\PC{0,20}", vhost in "\\PC{1,20}") {
            let escaped = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
            let url = format!("amqp://{}:{}@h/{}", escaped(&user), escaped(&password), escaped(&vhost));
            let endpoint = only(&url);
            prop_assert_eq!((endpoint.user, endpoint.password, endpoint.vhost), (user, password, vhost));
        }

        #[test]
        fn a_password_is_not_shown(password in "[a-z]{12}") {
            let urls = BrokerUrls::from(format!("amqp://u:{password}@h"));
            let shown = format!("{urls:?} {:?} {}", urls.endpoints(), only(&urls.0));
            prop_assert!(!shown.contains(&password));
        }
    }
}
