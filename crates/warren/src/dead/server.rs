//! The server that is asked about dead letters.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, Method, Url, redirect};
use serde_json::Value;
use warren_process::settings::mask;
use warren_process::telemetry::escape::Escaped;

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an answer may take; a database that hangs answers within its own limits, some 30 s.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The most bytes of an answer that are read: a letter of 8 MiB in base64, or escaped.
const MOST_BYTES: usize = 64 << 20;

/// The server does not know what it was asked for.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct NotThere(String);

/// A program of Warren that has dead letters.
#[derive(Debug)]
pub(super) struct Server {
    client: Client,
    base: Url,
}

impl Server {
    /// Reads the value of `--to`; without one it is the program that listens on `listen`.
    ///
    /// # Errors
    /// What is wrong with it; never with a password.
    pub(super) fn of(to: Option<&str>, listen: &str) -> Result<Self, String> {
        let own = || {
            let listen = listen
                .strip_prefix("0.0.0.0")
                .or(listen.strip_prefix("[::]"))
                .map_or_else(|| listen.to_owned(), |port| format!("127.0.0.1{port}"));
            format!("http://{listen}")
        };
        let text = to.map_or_else(own, str::to_owned);
        let wrong = || {
            format!(
                "invalid value '{}' for '--to': expected a program of Warren that has dead letters, such as \
                 http://127.0.0.1:8080",
                mask("to.url", &text)
            )
        };
        let base: Url = text.parse().map_err(|_| wrong())?;
        if !matches!(base.scheme(), "http" | "https") || !base.has_host() {
            return Err(wrong());
        }
        let mut client = Client::builder()
            .user_agent(concat!("warren/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
            // A purge must not go where nobody sent it.
            .redirect(redirect::Policy::none())
            .tls_backend_preconfigured(tls(base.scheme() == "https")?);
        if to.is_none() || base.host_str().is_some_and(is_loopback) {
            client = client.no_proxy();
        }
        let client = client.build().map_err(|error| format!("{}: {error}", wrong()))?;
        Ok(Self { client, base })
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value> {
        Ok(self.ask(Method::GET, path, None).await?.1)
    }

    pub(super) async fn delete(&self, path: &str) -> Result<Value> {
        Ok(self.ask(Method::DELETE, path, None).await?.1)
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        Ok(self.ask(Method::POST, path, Some(body)).await?.1)
    }

    /// Says that what answers is not what was expected.
    pub(super) fn another_version(&self) -> String {
        format!("{self} answers in an unknown form; does a `warren` of another version run there?")
    }

    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<(u16, Value)> {
        let url = self.base.join(path).context("not a path of the server")?;
        let mut request = self.client.request(method, url);
        if let Some(body) = body {
            request = request
                .header(CONTENT_TYPE, "application/json")
                .body(body.to_string());
        }
        let mut response = request.send().await.map_err(|error| self.away(error))?;
        let status = response.status().as_u16();
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.away(error))? {
            if bytes.len() + chunk.len() > MOST_BYTES {
                bail!("{self} answers with more than {MOST_BYTES} bytes");
            }
            bytes.extend_from_slice(&chunk);
        }
        if (200..300).contains(&status) {
            let answer = serde_json::from_slice(&bytes).with_context(|| self.another_version())?;
            return Ok((status, answer));
        }
        Err(self.refusal(status, &bytes))
    }

    /// Says what a problem document says, as far as it is one.
    fn refusal(&self, status: u16, bytes: &[u8]) -> anyhow::Error {
        let problem: Value = serde_json::from_slice(bytes).unwrap_or_default();
        let member = |name: &str| {
            let text = problem.get(name).and_then(Value::as_str).unwrap_or_default();
            Escaped(text).to_string()
        };
        let (detail, hint) = (member("detail"), member("hint"));
        if status == 404 && detail.starts_with("nothing is at") {
            return anyhow!(
                "the program at {self} has no dead letters; `warren` has, and beside RabbitMQ each `store-worker`: say \
                 with --to where one of them listens"
            );
        }
        let text = match detail.as_str() {
            "" => format!("{self} answers {status}"),
            _ => format!("{detail}; {hint}"),
        };
        match status {
            404 => NotThere(text).into(),
            _ => anyhow!(text),
        }
    }

    fn away(&self, error: reqwest::Error) -> anyhow::Error {
        let error = error.without_url();
        let mut root: &dyn std::error::Error = &error;
        while let Some(source) = root.source() {
            root = source;
        }
        anyhow!(
            "{self} does not answer: {root}; start `warren` there, or say with --to where it runs, or where a \
             `store-worker` does"
        )
    }
}

impl std::fmt::Display for Server {
    /// Writes where it is, without a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(mask("to.url", self.base.as_str()).trim_end_matches('/'))
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.starts_with("127.") || host == "[::1]"
}

fn tls(needed: bool) -> Result<rustls::ClientConfig, String> {
    let mut roots = rustls::RootCertStore::empty();
    if needed {
        let system = rustls_native_certs::load_native_certs();
        let (taken, _) = roots.add_parsable_certificates(system.certs);
        if taken == 0 {
            return Err(
                "the system has no certificate authorities to trust; --to https:// needs some".to_owned(),
            );
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS is not usable: {error}"))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// Writes parameters as a query, percent-encoded.
pub(super) fn query(parameters: &[(&str, String)]) -> String {
    let encoded = |text: &str| {
        text.bytes()
            .map(|byte| match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b',' => {
                    char::from(byte).to_string()
                }
                other => format!("%{other:02X}"),
            })
            .collect::<String>()
    };
    let pairs: Vec<_> = parameters
        .iter()
        .map(|(name, value)| format!("{name}={}", encoded(value)))
        .collect();
    pairs.join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_encoded() {
        let query = query(&[
            ("source", "a.#".to_owned()),
            ("since", "2026-11-22T13:00:00Z".to_owned()),
        ]);
        assert_eq!(query, "source=a.%23&since=2026-11-22T13%3A00%3A00Z");
    }

    #[test]
    fn only_http_leads_to_dead_letters_and_no_password_is_shown() {
        assert_eq!(
            Server::of(None, "0.0.0.0:80").unwrap().to_string(),
            "http://127.0.0.1"
        );
        assert_eq!(
            Server::of(None, "localhost:8080").unwrap().to_string(),
            "http://localhost:8080"
        );
        for wrong in [
            "amqp://user:hunter2@host",
            "host",
            "http://",
            "ftp://user:hunter2@host",
        ] {
            let problem = Server::of(Some(wrong), "").unwrap_err();
            assert!(
                problem.contains("--to") && !problem.contains("hunter2"),
                "{problem}"
            );
        }
        let secret = Server::of(Some("http://user:hunter2@host:1"), "").unwrap();
        assert!(!secret.to_string().contains("hunter2"), "{secret}");
    }
}
