//! How an HTTP publisher is set up.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Url, redirect};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::encode::Encoder;
use super::endpoint::endpoint;
use super::{HttpPublisher, RequestLimits};

/// How requests are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// Zstandard: the fastest of those that Warren takes.
    #[default]
    Zstd,
    /// For what stands between and knows no better.
    Gzip,
}

/// Sets up an [`HttpPublisher`]; every setting has a default.
#[must_use = "a publisher is made by `build`"]
pub struct HttpPublisherBuilder {
    base: String,
    headers: Vec<(String, String)>,
    compression: Compression,
    compress_from: usize,
    request_messages: usize,
    request_bytes: usize,
    connect_timeout: Duration,
    request_timeout: Duration,
    deadline: Duration,
    retry_min: Duration,
    retry_max: Duration,
    authority_file: Option<PathBuf>,
    use_proxies: bool,
}

impl std::fmt::Debug for HttpPublisherBuilder {
    /// Shows neither the address nor the headers: both may hold secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpPublisherBuilder").finish_non_exhaustive()
    }
}

impl HttpPublisherBuilder {
    pub(super) fn new(base: String) -> Self {
        Self {
            base,
            headers: Vec::new(),
            compression: Compression::default(),
            compress_from: 1 << 10,
            request_messages: 5_000,
            request_bytes: 4 << 20,
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(10),
            deadline: Duration::from_secs(10),
            retry_min: Duration::from_millis(100),
            retry_max: Duration::from_secs(5),
            authority_file: None,
            use_proxies: true,
        }
    }

    /// Adds `Authorization: Bearer …` to every request. Default none.
    pub fn bearer(self, token: impl AsRef<str>) -> Self {
        self.header("authorization", format!("Bearer {}", token.as_ref()))
    }

    /// Adds a header to every request. Its value is never shown. Default none.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sets how requests are compressed. Default [`Compression::Zstd`].
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// Sets from what size on, in bytes, a request is compressed. Default 1 KiB.
    pub fn compress_from(mut self, bytes: usize) -> Self {
        self.compress_from = bytes;
        self
    }

    /// Sets how many messages one request carries at most. Default 5,000; 1 to 1,000,000. Warren's own limit is 10,000
    /// by default (`intake.max_messages`).
    pub fn request_messages(mut self, messages: usize) -> Self {
        self.request_messages = messages;
        self
    }

    /// Sets how many bytes one request carries at most before it is compressed; a single message over it travels
    /// alone. Default 4 MiB; 1 KiB to 1 GiB. Warren's own limit is 20 MiB by default (`http.max_request`).
    pub fn request_bytes(mut self, bytes: usize) -> Self {
        self.request_bytes = bytes;
        self
    }

    /// Sets how long one attempt to connect may take. Default 5 s.
    pub fn connect_timeout(mut self, time: Duration) -> Self {
        self.connect_timeout = time;
        self
    }

    /// Sets how long one request may take, from connecting to the last byte of the answer. Default 10 s: longer than a
    /// Warren takes by default to say that its broker is away (5 s).
    pub fn request_timeout(mut self, time: Duration) -> Self {
        self.request_timeout = time;
        self
    }

    /// Sets how long a call of [`publish`](warren_domain::ports::MessagePublisher::publish) may take with all its
    /// attempts. Default 10 s; a [`Logger`](crate::Logger) calls again for as long as it takes, and knows the reason
    /// only after that time.
    pub fn deadline(mut self, time: Duration) -> Self {
        self.deadline = time;
        self
    }

    /// Sets the shortest and the longest pause between two attempts; the pauses double and are random below that, and
    /// at least what `Retry-After` asks for. Default 100 ms and 5 s.
    pub fn retry_pauses(mut self, shortest: Duration, longest: Duration) -> Self {
        (self.retry_min, self.retry_max) = (shortest, longest);
        self
    }

    /// Names a PEM file with authorities to trust beside those of the system. Default none.
    pub fn authority_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.authority_file = Some(file.into());
        self
    }

    /// Connects directly, whatever `HTTP_PROXY` and its relatives say; to a server on this machine it does so anyway.
    pub fn without_proxies(mut self) -> Self {
        self.use_proxies = false;
        self
    }

    /// Makes the publisher; opens no connection yet.
    ///
    /// # Errors
    /// [`HttpPublisherError`], which never shows a credential.
    pub fn build(self) -> Result<HttpPublisher, HttpPublisherError> {
        let (endpoint, authorization) = endpoint(&self.base)?;
        let mut headers = HeaderMap::new();
        if let Some(value) = authorization {
            headers.insert(AUTHORIZATION, value);
        }
        for (name, value) in &self.headers {
            let bad = || HttpPublisherError::Header(name.clone());
            let key: HeaderName = name.parse().map_err(|_| bad())?;
            let mut value = HeaderValue::from_str(value).map_err(|_| bad())?;
            value.set_sensitive(true);
            headers.insert(key, value);
        }
        self.check()?;
        let mut client = reqwest::Client::builder()
            .default_headers(headers)
            .user_agent(concat!("warren-client/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(self.connect_timeout)
            // A message must not go where nobody sent it.
            .redirect(redirect::Policy::none())
            // Below the server's own 60 s, so that a request rarely meets a connection that is being closed.
            .pool_idle_timeout(Duration::from_secs(30))
            .tls_backend_preconfigured(self.tls(endpoint.scheme() == "https")?);
        if !self.use_proxies || is_loopback(&endpoint) {
            client = client.no_proxy();
        }
        Ok(HttpPublisher {
            client: client.build().map_err(HttpPublisherError::Client)?,
            endpoint,
            encoder: Encoder {
                compression: self.compression,
                from_bytes: self.compress_from,
            },
            limits: RequestLimits {
                messages: self.request_messages,
                bytes: self.request_bytes,
            },
            request_timeout: self.request_timeout,
            deadline: self.deadline,
            retry_min: self.retry_min,
            retry_max: self.retry_max,
            not_before: Mutex::new(None),
        })
    }

    fn check(&self) -> Result<(), HttpPublisherError> {
        let setting = |setting, problem| Err(HttpPublisherError::Setting { setting, problem });
        if !(1..=1_000_000).contains(&self.request_messages) {
            let problem = format!("is {}; use 1 to 1000000", self.request_messages);
            return setting("request_messages", problem);
        }
        if !(1 << 10..=1 << 30).contains(&self.request_bytes) {
            let problem = format!("is {}; use 1 KiB to 1 GiB", self.request_bytes);
            return setting("request_bytes", problem);
        }
        let (least, most) = (Duration::from_millis(1), Duration::from_secs(3_600));
        for (name, time) in [
            ("connect_timeout", self.connect_timeout),
            ("request_timeout", self.request_timeout),
            ("deadline", self.deadline),
            ("retry_pauses", self.retry_min),
            ("retry_pauses", self.retry_max),
        ] {
            if !(least..=most).contains(&time) {
                return setting(name, format!("is {time:?}; use 1ms to 1h"));
            }
        }
        if self.retry_min > self.retry_max {
            let (shortest, longest) = (self.retry_min, self.retry_max);
            let problem = format!("are {shortest:?} and {longest:?}; the shorter one comes first");
            return setting("retry_pauses", problem);
        }
        Ok(())
    }

    fn tls(&self, needed: bool) -> Result<rustls::ClientConfig, HttpPublisherError> {
        let mut roots = rustls::RootCertStore::empty();
        let mut taken = 0;
        // Reading the system's authorities takes some milliseconds.
        if needed {
            let system = rustls_native_certs::load_native_certs();
            (taken, _) = roots.add_parsable_certificates(system.certs);
        }
        if let Some(file) = &self.authority_file {
            let unreadable = |reason: String| HttpPublisherError::Authority {
                file: file.clone(),
                reason,
            };
            let own: Vec<_> = CertificateDer::pem_file_iter(file)
                .and_then(Iterator::collect)
                .map_err(|error| unreadable(error.to_string()))?;
            let (added, _) = roots.add_parsable_certificates(own);
            if added == 0 {
                return Err(unreadable("no certificate in it".to_owned()));
            }
            taken += added;
        }
        if needed && taken == 0 {
            return Err(HttpPublisherError::NoAuthorities);
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        Ok(rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(HttpPublisherError::Tls)?
            .with_root_certificates(roots)
            .with_no_client_auth())
    }
}

/// No proxy would find the server there.
fn is_loopback(endpoint: &Url) -> bool {
    let host = endpoint.host_str().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let address = host.parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Why an HTTP publisher cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum HttpPublisherError {
    /// The base URL cannot be used. It is not shown: it may hold credentials.
    #[error("the server's URL {0}")]
    Base(&'static str),
    /// A header has an impossible name or value.
    #[error("the header {0:?} has a name or value that HTTP does not allow")]
    Header(String),
    /// A setting is out of its range.
    #[error("{setting} {problem}")]
    Setting {
        /// Its name.
        setting: &'static str,
        /// What it is and what it may be.
        problem: String,
    },
    /// The file with authorities cannot be used.
    #[error("cannot read authorities from {}: {reason}", file.display())]
    Authority {
        /// Which file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The system trusts nobody.
    #[error("the system has no certificate authorities; name a PEM file with the server's (authority_file)")]
    NoAuthorities,
    /// TLS cannot be used.
    #[error("TLS is not usable")]
    Tls(#[source] rustls::Error),
    /// The HTTP client cannot be made.
    #[error("the HTTP client cannot be made")]
    Client(#[source] reqwest::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_go_into_a_header_and_are_never_shown() {
        let publisher = HttpPublisher::builder("http://u:secret@h").bearer("hidden");
        assert!(!format!("{publisher:?}").contains("secret"));
        let publisher = publisher.build().unwrap();
        let shown = format!("{publisher:?} {}", publisher.endpoint());
        assert!(!shown.contains("secret") && !shown.contains("hidden"), "{shown}");
    }

    #[test]
    fn an_address_that_cannot_work_is_refused_without_being_shown() {
        for base in [
            "",
            "localhost:8080",
            "amqp://u:secret@h",
            "http://u:secret@h/?x=1",
            "http://u:secret@h/#x",
            "http://u:secret@:80",
        ] {
            let error = HttpPublisher::builder(base).build().unwrap_err().to_string();
            assert!(
                error.starts_with("the server's URL") && !error.contains("secret"),
                "{base}: {error}"
            );
        }
    }

    #[test]
    fn a_server_on_this_machine_is_reached_directly() {
        let loopback = |url: &str| is_loopback(&url.parse().unwrap());
        assert!(loopback("http://localhost:1") && loopback("http://127.0.0.7") && loopback("http://[::1]:1"));
        assert!(!loopback("http://localhost.example") && !loopback("http://10.0.0.1"));
    }

    #[test]
    fn every_impossible_setting_is_named() {
        let with = |change: fn(HttpPublisherBuilder) -> HttpPublisherBuilder| {
            change(HttpPublisher::builder("http://h"))
                .build()
                .unwrap_err()
                .to_string()
        };
        assert!(with(|b| b.request_messages(0)).starts_with("request_messages is 0"));
        assert!(with(|b| b.request_bytes(1)).starts_with("request_bytes is 1"));
        assert!(with(|b| b.deadline(Duration::ZERO)).starts_with("deadline is 0ns"));
        assert!(with(|b| b.retry_pauses(Duration::from_secs(2), Duration::from_secs(1))).contains("shorter"));
        assert!(with(|b| b.header("x y", "z")).contains("\"x y\""));
        assert!(with(|b| b.authority_file("/nonexistent.pem")).contains("/nonexistent.pem"));
    }
}
