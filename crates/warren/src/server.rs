//! The server that a command asks.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use reqwest::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER};
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
pub(crate) struct NotThere(String);

/// There is no answer now, and there may be one in a moment.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct Unavailable {
    reason: String,
    /// How long the server asks to wait; `None` when it is not there at all.
    pub(crate) after: Option<Duration>,
}

/// A parameter is wrong, and where.
#[derive(Debug, thiserror::Error)]
#[error("{detail}; {hint}")]
pub(crate) struct InvalidParameter {
    /// Which.
    pub(crate) parameter: String,
    /// Where in it, in characters from 1, and over how many.
    pub(crate) place: Option<(usize, usize)>,
    detail: String,
    hint: String,
}

impl InvalidParameter {
    pub(crate) fn new(
        parameter: impl Into<String>,
        place: Option<(usize, usize)>,
        detail: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self {
            parameter: parameter.into(),
            place,
            detail: detail.into(),
            hint: hint.into(),
        }
    }
}

/// What a server has to have, in the words of errors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Needed {
    /// What it is.
    pub(crate) what: &'static str,
    /// Which programs have it.
    pub(crate) by: &'static str,
}

/// A program of Warren that has what is needed.
#[derive(Debug)]
pub(crate) struct Server {
    client: Client,
    base: Url,
    needed: Needed,
}

impl Server {
    /// Reads the value of `--to`; without one it is the program that listens on `listen`.
    ///
    /// # Errors
    /// What is wrong with it; never with a password.
    pub(crate) fn of(needed: Needed, to: Option<&str>, listen: &str) -> Result<Self, String> {
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
                "invalid value '{}' for '--to': expected a program of Warren that has {}, such as \
                 http://127.0.0.1:8080",
                mask("to.url", &text),
                needed.what
            )
        };
        let base: Url = text.parse().map_err(|_| wrong())?;
        if !matches!(base.scheme(), "http" | "https") || !base.has_host() {
            return Err(wrong());
        }
        let mut client = Client::builder()
            .user_agent(concat!("warren/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            // Nothing, or nothing more, for so long is no answer; whoever waits for a whole one bounds that, too.
            .read_timeout(TIMEOUT)
            // A purge must not go where nobody sent it.
            .redirect(redirect::Policy::none())
            .tls_backend_preconfigured(tls(base.scheme() == "https")?);
        if to.is_none() || base.host_str().is_some_and(is_loopback) {
            client = client.no_proxy();
        }
        let client = client.build().map_err(|error| format!("{}: {error}", wrong()))?;
        Ok(Self { client, base, needed })
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value> {
        Ok(self.ask(Method::GET, path, None).await?.1)
    }

    /// Begins to read an answer that goes on, as lines of JSON.
    pub(crate) async fn stream(&self, path: &str) -> Result<reqwest::Response> {
        let url = self.base.join(path).context("not a path of the server")?;
        let asking = self.client.get(url).header(ACCEPT, "application/x-ndjson").send();
        let mut response = asking.await.map_err(|error| self.away(error))?;
        let status = response.status().as_u16();
        if status == 200 {
            return Ok(response);
        }
        let after = retry_after(&response);
        let bytes = self.whole(&mut response).await?;
        Err(self.refusal(status, after, &bytes))
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<Value> {
        Ok(self.ask(Method::DELETE, path, None).await?.1)
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        Ok(self.ask(Method::POST, path, Some(body)).await?.1)
    }

    /// Says that what answers is not what was expected.
    pub(crate) fn another_version(&self) -> String {
        format!("{self} answers in an unknown form; does a `warren` of another version run there?")
    }

    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<(u16, Value)> {
        let url = self.base.join(path).context("not a path of the server")?;
        let mut request = self.client.request(method, url).timeout(TIMEOUT);
        if let Some(body) = body {
            request = request
                .header(CONTENT_TYPE, "application/json")
                .body(body.to_string());
        }
        let mut response = request.send().await.map_err(|error| self.away(error))?;
        let status = response.status().as_u16();
        let after = retry_after(&response);
        let bytes = self.whole(&mut response).await?;
        if (200..300).contains(&status) {
            let answer = serde_json::from_slice(&bytes).with_context(|| self.another_version())?;
            return Ok((status, answer));
        }
        Err(self.refusal(status, after, &bytes))
    }

    async fn whole(&self, response: &mut reqwest::Response) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.away(error))? {
            if bytes.len() + chunk.len() > MOST_BYTES {
                bail!("{self} answers with more than {MOST_BYTES} bytes");
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    /// Says what a problem document says, as far as it is one.
    fn refusal(&self, status: u16, after: Duration, bytes: &[u8]) -> anyhow::Error {
        let problem: Value = serde_json::from_slice(bytes).unwrap_or_default();
        let member = |name: &str| {
            let text = problem.get(name).and_then(Value::as_str).unwrap_or_default();
            Escaped(text).to_string()
        };
        let (detail, hint) = (member("detail"), member("hint"));
        if status == 404 && detail.starts_with("nothing is at") {
            return anyhow!(
                "the program at {self} has no {}; {}: say with --to where one of them listens",
                self.needed.what,
                self.needed.by
            );
        }
        let text = match detail.as_str() {
            "" => format!("{self} answers {status}"),
            _ => format!("{detail}; {hint}"),
        };
        match (status, member("parameter")) {
            (404, _) => NotThere(text).into(),
            (503, _) => Unavailable {
                reason: text,
                after: Some(after),
            }
            .into(),
            (400, parameter) if !parameter.is_empty() => {
                let number = |name: &str| {
                    let number = problem.get(name).and_then(Value::as_u64)?;
                    usize::try_from(number).ok()
                };
                let place = number("column").zip(number("length"));
                InvalidParameter::new(parameter, place, detail, hint).into()
            }
            _ => anyhow!(text),
        }
    }

    pub(crate) fn away(&self, error: reqwest::Error) -> anyhow::Error {
        let error = error.without_url();
        let mut root: &dyn std::error::Error = &error;
        while let Some(source) = root.source() {
            root = source;
        }
        Unavailable {
            reason: format!(
                "{self} does not answer: {root}; start `warren` there, or say with --to where a program listens that has {}",
                self.needed.what
            ),
            after: None,
        }
        .into()
    }
}

impl std::fmt::Display for Server {
    /// Writes where it is, without a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(mask("to.url", self.base.as_str()).trim_end_matches('/'))
    }
}

/// Returns how long an answer asks to wait, as far as it says so in seconds.
fn retry_after(response: &reqwest::Response) -> Duration {
    let said = response.headers().get(RETRY_AFTER);
    let seconds = said.and_then(|said| said.to_str().ok()?.parse().ok());
    Duration::from_secs(seconds.unwrap_or(0))
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
pub(crate) fn query(parameters: &[(&str, String)]) -> String {
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

    const NEEDED: Needed = Needed {
        what: "dead letters",
        by: "`warren` has",
    };

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
            Server::of(NEEDED, None, "0.0.0.0:80").unwrap().to_string(),
            "http://127.0.0.1"
        );
        assert_eq!(
            Server::of(NEEDED, None, "localhost:8080").unwrap().to_string(),
            "http://localhost:8080"
        );
        for wrong in [
            "amqp://user:hunter2@host",
            "host",
            "http://",
            "ftp://user:hunter2@host",
        ] {
            let problem = Server::of(NEEDED, Some(wrong), "").unwrap_err();
            assert!(
                problem.contains("--to") && !problem.contains("hunter2"),
                "{problem}"
            );
        }
        let secret = Server::of(NEEDED, Some("http://user:hunter2@host:1"), "").unwrap();
        assert!(!secret.to_string().contains("hunter2"), "{secret}");
    }
}
