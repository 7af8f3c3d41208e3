//! By which names the server may be reached.
//!
//! A page of any site can make a browser ask this machine: its own name, resolved anew, then leads to 127.0.0.1 (DNS
//! rebinding), and what the server answers is the page's to read. The browser says in `Host` which name it meant. An
//! address, or `localhost`, cannot be somebody else's.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::Request;
use axum::http::Method;
use axum::http::header::HOST;

use crate::console;
use crate::edge::NONE;
use crate::problem::{Kind, Problem};
use crate::query::excerpt;
use crate::routes::{COMMON_ROUTES, DOCS_ROUTES, MESSAGES_ROUTE};

/// The names by which reading and working with what is stored may be asked for. Whoever sends messages, or watches over the
/// process, may call it anything.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hosts(Option<Arc<[String]>>);

impl Hosts {
    /// Makes the rule for a server that listens there: on the loopback, and wherever names are listed, others are refused.
    /// By `own`, the name that it was told to listen on, it may always be asked.
    pub(crate) fn of(listed: &[String], own: &str, listening: SocketAddr) -> Self {
        let checked = !listed.is_empty() || listening.ip().to_canonical().is_loopback();
        // An address is allowed as it is.
        let own = Some(own).filter(|own| !own.is_empty() && own.parse::<IpAddr>().is_err());
        let allowed = listed.iter().map(String::as_str).chain(own);
        Self(checked.then(|| allowed.map(|host| name_of(host).to_ascii_lowercase()).collect()))
    }

    /// Tells whether a page of another site could read through a name of its own what this server shows.
    pub(crate) const fn are_open(&self) -> bool {
        self.0.is_none()
    }

    /// Says what is wrong with a request that was meant for somebody else.
    pub(crate) fn refusal(&self, route: &str, request: &Request) -> Option<Problem> {
        let listed = self.0.as_deref()?;
        if !shows(route, request) {
            return None;
        }
        // Without one it comes from no browser.
        let host = request.headers().get(HOST)?;
        let host = String::from_utf8_lossy(host.as_bytes());
        let name = name_of(&host);
        if is_of_this_machine(name) || listed.iter().any(|listed| listed.eq_ignore_ascii_case(name)) {
            return None;
        }
        Some(Problem::new(
            Kind::ForeignHost,
            format!(
                "the request is for the host {:?}, which this server does not go by",
                excerpt(name)
            ),
            "ask for it by its address or as localhost; whoever runs this server may allow the name in http.hosts",
        ))
    }
}

/// Tells whether a request to a route, as [`ROUTES`](crate::edge::ROUTES) has it, may be for what is stored or published, or
/// for the page that shows it: all but what is known to be for something else.
fn shows(route: &str, request: &Request) -> bool {
    match route {
        MESSAGES_ROUTE => matches!(*request.method(), Method::GET | Method::HEAD),
        "/" => console::is_wanted(request.headers()),
        route => !(COMMON_ROUTES.contains(&route) || DOCS_ROUTES.contains(&route) || route == NONE),
    }
}

/// Returns a host without its port, its brackets and the dot of the root.
fn name_of(host: &str) -> &str {
    let host = host.trim();
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    name.strip_suffix('.').unwrap_or(name)
}

/// Tells whether a name cannot be made to lead here by somebody else.
fn is_of_this_machine(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    lower.parse::<IpAddr>().is_ok() || lower == "localhost" || lower.ends_with(".localhost")
}

/// Says what is wrong with an entry of `http.hosts`.
pub(crate) fn problem(host: &str) -> Option<String> {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let is_name = host.len() <= 253 && host.split('.').all(label);
    (!is_name).then(|| {
        format!("names {host:?}; write host names such as warren.example.org, without scheme, port or *")
    })
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;
    use crate::console::CONSOLE_ROUTE;
    use crate::edge::OTHER;

    fn refused(hosts: &Hosts, method: &str, path: &str, host: &str) -> bool {
        let request = Request::builder().method(method).uri(path).header(HOST, host);
        let request = request.header("accept", "text/html").body(Body::empty()).unwrap();
        hosts.refusal(path, &request).is_some()
    }

    fn rule(listed: &[&str], listening: &str) -> Hosts {
        let listed: Vec<_> = listed.iter().copied().map(str::to_owned).collect();
        Hosts::of(&listed, "myhost.lan", listening.parse().unwrap())
    }

    const OWN: [&str; 8] = [
        "127.0.0.1:8080",
        "192.168.1.7",
        "[::1]:8080",
        "[2001:db8::1]",
        "localhost:8080",
        "LOCALHOST",
        "localhost.:80",
        "warren.localhost:8080",
    ];
    const FOREIGN: [&str; 8] = [
        "evil.example",
        "evil.example:8080",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "evillocalhost",
        "[evil.example]",
        "2130706433",
        "",
    ];

    #[test]
    fn on_the_loopback_a_name_of_somebody_else_is_refused_for_all_that_reads() {
        for listening in ["127.0.0.1:8080", "[::1]:8080", "[::ffff:127.0.0.1]:8080"] {
            let hosts = rule(&[], listening);
            for path in [
                "/",
                "/v1/messages",
                "/v1/messages/{id}",
                "/v1/sources",
                "/v1/tail",
                "/v1/groups",
                "/v1/pipeline",
                "/v1/dead-letters/purge",
                CONSOLE_ROUTE,
                "/v1/a-route-of-tomorrow",
                OTHER,
            ] {
                for host in OWN {
                    assert!(!refused(&hosts, "GET", path, host), "{path} {host}");
                }
                for host in FOREIGN {
                    assert!(refused(&hosts, "GET", path, host), "{path} {host}");
                }
            }
            assert!(refused(&hosts, "POST", "/v1/dead-letters/purge", "evil.example"));
            assert!(refused(&hosts, "HEAD", "/v1/messages", "evil.example"));
        }
    }

    #[test]
    fn by_the_name_that_it_listens_on_a_server_may_always_be_asked() {
        for (listed, listening) in [
            (&[][..], "127.0.1.1:8080"),
            (&["warren.example"], "10.0.0.7:8080"),
        ] {
            let hosts = rule(listed, listening);
            assert!(!refused(&hosts, "GET", "/v1/messages", "MyHost.lan:8080"));
            assert!(refused(&hosts, "GET", "/v1/messages", "myhost"));
        }
        assert!(!refused(
            &rule(&[], "10.0.0.7:8080"),
            "GET",
            "/v1/messages",
            "any"
        ));
    }

    #[test]
    fn what_sends_and_what_watches_over_the_process_is_never_refused() {
        let hosts = rule(&["warren.example"], "127.0.0.1:8080");
        assert!(!refused(&hosts, "POST", "/v1/messages", "ingest"));
        assert!(
            !refused(&hosts, "PUT", "/v1/messages", "ingest"),
            "it is told what is allowed"
        );
        for path in ["/livez", "/readyz", "/metrics", "/version", "/docs", NONE] {
            assert!(!refused(&hosts, "GET", path, "pod-7"), "{path}");
        }
    }

    #[test]
    fn on_other_addresses_names_are_checked_only_once_some_are_listed() {
        let open = rule(&[], "0.0.0.0:8080");
        assert!(open.are_open());
        assert!(!refused(&open, "GET", "/v1/messages", "query"));
        let closed = rule(&["Warren.Example.org"], "0.0.0.0:8080");
        assert!(!closed.are_open() && !rule(&[], "127.0.0.1:8080").are_open());
        assert!(!refused(&closed, "GET", "/v1/messages", "warren.example.ORG:443"));
        assert!(!refused(&closed, "GET", "/v1/messages", "10.0.0.7:8080"));
        assert!(refused(&closed, "GET", "/v1/messages", "query"));
    }

    #[test]
    fn only_names_can_be_listed() {
        for host in ["warren.example.org", "query", "a_b-c.d"] {
            assert_eq!(problem(host), None);
        }
        for wrong in ["", "http://a", "a:80", "*.example.org", "a..b", "[::1]", "a b"] {
            assert!(
                problem(wrong).is_some_and(|told| told.contains("warren.example.org")),
                "{wrong:?}"
            );
        }
    }
}
