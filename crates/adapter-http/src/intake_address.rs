//! Where messages are sent to, of a server that takes none itself.

use std::fmt;

use axum::http::Uri;
use axum::http::uri::Scheme;

use crate::routes::MESSAGES_ROUTE;

/// The address of an intake, as those reach it who send messages.
///
/// It is told at `/version` and in `/`, and the console puts it into commands to be pasted into a shell; nothing is asked
/// there. So it has none of the characters that mean something to a shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntakeAddress(String);

impl IntakeAddress {
    /// Reads `https://host`, with a port and a path before `/v1/messages` where there are any.
    ///
    /// # Errors
    /// What is wrong with it and what to do, in words.
    pub fn parse(url: &str) -> Result<Self, String> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/[]".contains(&byte);
        let base = url.trim_end_matches('/');
        let wrong = if url.contains(['@', '?', '#']) {
            "has a user, a query or a fragment"
        } else if !url.bytes().all(plain) {
            "has characters that are no part of a plain address"
        } else if base.ends_with(MESSAGES_ROUTE) {
            "ends in /v1/messages, which is added to it"
        } else if !is_absolute(base) {
            "is no address of a server"
        } else {
            return Ok(Self(format!("{base}{MESSAGES_ROUTE}")));
        };
        Err(format!(
            "{wrong}; write where clients send messages to, such as https://intake.example.org or http://127.0.0.1:8080"
        ))
    }

    /// Returns where messages are posted to: an absolute URL with its path.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for IntakeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Tells whether a URL says by `http` or `https` which host is meant.
fn is_absolute(url: &str) -> bool {
    let Ok(uri) = url.parse::<Uri>() else {
        return false;
    };
    let by_http = [Scheme::HTTP, Scheme::HTTPS]
        .iter()
        .any(|scheme| uri.scheme() == Some(scheme));
    by_http
        && uri.authority().is_some_and(|authority| {
            let host = authority.host();
            let rest = &authority.as_str()[host.len()..];
            // Behind the host there is nothing, or a port that is one.
            !host.is_empty() && (rest.is_empty() || authority.port_u16().is_some_and(|port| port > 0))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_posted_beneath_what_is_written() {
        for (url, address) in [
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080/v1/messages"),
            (
                "https://intake.example.org/",
                "https://intake.example.org/v1/messages",
            ),
            (
                "HTTP://[::1]:8080/warren/",
                "HTTP://[::1]:8080/warren/v1/messages",
            ),
        ] {
            assert_eq!(IntakeAddress::parse(url).unwrap().as_str(), address);
        }
    }

    #[test]
    fn what_is_no_address_or_not_safe_in_a_shell_is_named() {
        for (url, told) in [
            ("", "no address"),
            ("intake.example.org", "no address"),
            ("127.0.0.1:8080", "no address"),
            ("/v1", "no address"),
            ("ftp://intake", "no address"),
            ("http://", "no address"),
            ("http://:8080", "no address"),
            ("http://intake:", "no address"),
            ("http://intake:0", "no address"),
            ("http://intake:66000", "no address"),
            ("http://[::1", "no address"),
            ("http://a b", "characters"),
            ("http://a/$(id)", "characters"),
            ("http://a/'", "characters"),
            ("http://é", "characters"),
            ("http://user:secret@intake", "a user"),
            ("http://intake/?key=1", "a query"),
            ("http://intake/#top", "a fragment"),
            ("http://intake/v1/messages/", "/v1/messages"),
        ] {
            let problem = IntakeAddress::parse(url).unwrap_err();
            assert!(
                problem.contains(told) && problem.contains("https://intake.example.org"),
                "{url:?}: {problem}"
            );
            assert!(!problem.contains("secret"), "{problem}");
        }
    }
}
