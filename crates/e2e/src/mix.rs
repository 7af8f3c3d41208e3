//! Messages of every severity, some of them sent twice, of which it is known how many there are.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::json;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::Generator;
use crate::http::Client;
use crate::request::Request;

/// The names of the severities, lowest first, and how many of a hundred messages have each.
const SEVERITIES: [(&str, u64); 5] = [
    ("debug", 45),
    ("info", 30),
    ("warning", 14),
    ("error", 8),
    ("critical", 3),
];
const SOURCES: [&str; 4] = ["billing.api", "billing", "shop.web.checkout", "sensor-7"];
/// One message in so many is sent a second time, with a later request.
const REPEATED: u64 = 20;
const CLIENTS: usize = 4;
/// How long a request is repeated before the test is given up.
const PATIENCE: Duration = Duration::from_secs(120);

/// How many messages there are of each severity, lowest first.
pub type Counts = [u64; 5];

/// A number of messages in requests of some size.
#[derive(Clone, Debug)]
pub struct Mix {
    generator: Generator,
    messages: u64,
    per_request: u64,
}

impl Mix {
    /// Plans `messages` in requests of `per_request`, each request of one source.
    pub fn new(seed: u64, messages: u64, per_request: u64) -> Self {
        Self {
            generator: Generator::new(seed, OffsetDateTime::now_utc()),
            messages,
            per_request,
        }
    }

    fn severity(&self, number: u64) -> usize {
        let mut place = self.generator.rng(9, number).u64(..100);
        let mut severity = 0;
        while place >= SEVERITIES[severity].1 {
            place -= SEVERITIES[severity].1;
            severity += 1;
        }
        severity
    }

    fn source(&self, number: u64) -> &'static str {
        SOURCES[(number / self.per_request) as usize % SOURCES.len()]
    }

    /// Counts the messages, each once, that `severities` and the start of the source select.
    pub fn counts(&self, severities: &[&str], source: &str) -> Counts {
        let mut counts = [0; 5];
        for number in (0..self.messages).filter(|number| self.source(*number).starts_with(source)) {
            let severity = self.severity(number);
            if severities.contains(&SEVERITIES[severity].0) {
                counts[severity] += 1;
            }
        }
        counts
    }

    /// Counts the messages that are sent twice.
    pub const fn repeated(&self) -> u64 {
        self.messages.div_ceil(REPEATED)
    }

    fn requests(&self) -> u64 {
        // The last one holds only what is repeated of the one before.
        self.messages.div_ceil(self.per_request) + 1
    }

    /// Writes a request: messages of its own, and again some of the request before.
    fn body(&self, request: u64) -> String {
        let (begin, end) = (request * self.per_request, (request + 1) * self.per_request);
        let again = begin.saturating_sub(self.per_request)..begin.min(self.messages);
        let again = again.filter(|number| number.is_multiple_of(REPEATED));
        let own = begin.min(self.messages)..end.min(self.messages);
        let mut body = String::new();
        for number in own.chain(again) {
            let line = json!({
                "id": self.generator.id(number), "severity": SEVERITIES[self.severity(number)].0,
                "source": self.source(number), "body": format!("message {number} of the mix"),
            });
            body.push_str(&line.to_string());
            body.push('\n');
        }
        body
    }

    /// Sends everything through the intake at `address`, and repeats what is not answered with 202.
    ///
    /// `progress` is told how many requests are accepted.
    ///
    /// # Errors
    /// A request found no 202 within two minutes, or was refused.
    pub async fn send(&self, address: SocketAddr, progress: &watch::Sender<u64>) -> Result<()> {
        let next = Arc::new(AtomicU64::new(0));
        let mut clients = JoinSet::<Result<()>>::new();
        for _ in 0..CLIENTS {
            let (mix, next, progress) = (self.clone(), Arc::clone(&next), progress.clone());
            clients.spawn(async move {
                let mut client = Client::new(address);
                loop {
                    let request = next.fetch_add(1, Ordering::Relaxed);
                    if request >= mix.requests() {
                        return Ok(());
                    }
                    settle(&mut client, &mix.body(request))
                        .await
                        .with_context(|| format!("request {request}"))?;
                    progress.send_modify(|accepted| *accepted += 1);
                }
            });
        }
        while let Some(ended) = clients.join_next().await {
            ended??;
        }
        Ok(())
    }

    /// Sends everything, and waits for nothing else.
    ///
    /// # Errors
    /// As [`Mix::send`].
    pub async fn send_all(&self, address: SocketAddr) -> Result<()> {
        self.send(address, &watch::Sender::new(0)).await
    }

    /// Returns how many accepted requests are this part of all.
    pub fn share(&self, percent: u64) -> u64 {
        self.requests() * percent / 100
    }
}

async fn settle(client: &mut Client, body: &str) -> Result<()> {
    if body.is_empty() {
        return Ok(());
    }
    let request = Request::post(body.to_owned()).header("content-type", "application/x-ndjson");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let last = match client.send(&request).await {
            Ok(answer) if answer.status == 202 => return Ok(()),
            Ok(answer) if answer.status == 503 => answer.text_start(),
            Ok(answer) => bail!("{}: {}", answer.status, answer.text_start()),
            Err(error) => format!("{error:#}"),
        };
        if Instant::now() > deadline {
            bail!("not accepted within {PATIENCE:?}; last: {last}");
        }
        sleep(Duration::from_millis(100)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde_json::Value;

    use super::*;

    #[test]
    fn the_requests_hold_what_is_counted() {
        let mix = Mix::new(7, 1_050, 100);
        let mut seen: HashMap<String, (usize, String)> = HashMap::new();
        for request in 0..mix.requests() {
            for line in mix.body(request).lines() {
                let message: Value = serde_json::from_str(line).unwrap();
                let entry = seen.entry(message["id"].to_string()).or_default();
                *entry = (entry.0 + 1, message["severity"].as_str().unwrap().to_owned());
            }
        }
        assert_eq!(seen.len(), 1_050);
        let twice = seen.values().filter(|(times, _)| *times == 2).count();
        assert_eq!(twice as u64, mix.repeated());
        let all: Vec<_> = SEVERITIES.iter().map(|(name, _)| *name).collect();
        let counts = mix.counts(&all, "");
        for ((name, _), count) in SEVERITIES.iter().zip(counts) {
            let found = seen.values().filter(|(_, severity)| severity == name).count();
            assert_eq!((count, count > 0), (found as u64, true), "{name}");
        }
        let some = mix.counts(&["error"], "billing");
        assert!(some[3] > 0 && some[3] < counts[3] && some[0] == 0);
    }
}
