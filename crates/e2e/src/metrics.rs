//! Reads the numbers that a process publishes on `/metrics`.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Result, ensure};

use crate::http::Client;
use crate::request::Request;

/// What a process counted at one moment.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// By name and labels as they were printed: `warren_x_total{severity="info"}`.
    series: BTreeMap<String, f64>,
    /// The names with a help text.
    helped: Vec<String>,
}

impl Metrics {
    /// Asks the process at `address`.
    ///
    /// # Errors
    /// It does not answer, or not with 200.
    pub async fn scrape(address: SocketAddr) -> Result<Self> {
        let answer = Client::new(address).send(&Request::get("/metrics")).await?;
        ensure!(
            answer.status == 200,
            "/metrics answered {}: {}",
            answer.status,
            answer.text_start()
        );
        Ok(Self::parse(&String::from_utf8_lossy(&answer.body)))
    }

    /// Reads the Prometheus text format; lines that are none of it are left out.
    pub fn parse(text: &str) -> Self {
        let mut metrics = Self::default();
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                metrics.helped.extend(help.split(' ').next().map(str::to_owned));
            } else if !line.starts_with('#')
                && let Some((series, value)) = line.rsplit_once(' ')
                && let Ok(value) = value.parse()
            {
                metrics.series.insert(series.to_owned(), value);
            }
        }
        metrics
    }

    /// Adds up a counter or gauge over all its labels; 0 when it was never counted.
    pub fn sum(&self, name: &str) -> u64 {
        let sum: f64 = self.of(name).map(|(_, value)| value).sum();
        sum as u64
    }

    /// Returns the value of one series, its labels written as they are printed.
    pub fn value(&self, series: &str) -> Option<f64> {
        self.series.get(series).copied()
    }

    /// Lists the names of all metrics.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.series
            .keys()
            .map(|series| series.split('{').next().unwrap_or(series))
    }

    /// Tells whether the metric came with a help text.
    pub fn has_help(&self, name: &str) -> bool {
        self.helped.iter().any(|helped| helped == name)
    }

    fn of(&self, name: &str) -> impl Iterator<Item = (&str, f64)> {
        self.series
            .range(name.to_owned()..)
            .take_while(move |(series, _)| series.starts_with(name))
            .filter(move |(series, _)| series.len() == name.len() || series[name.len()..].starts_with('{'))
            .map(|(series, value)| (series.as_str(), *value))
    }
}

/// Where each accepted message went, by the count of the processes themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Books {
    /// Answered for by the intake.
    pub accepted: u64,
    /// Stored for the first time.
    pub stored: u64,
    /// Stored already.
    pub duplicate: u64,
    /// Dead letters.
    pub dead: u64,
}

impl Books {
    /// Reads the books of an intake and a store; the same process may be both.
    ///
    /// # Errors
    /// One of them does not answer.
    pub async fn read(intake: SocketAddr, store: SocketAddr) -> Result<Self> {
        let intake = Metrics::scrape(intake).await?;
        let store = Metrics::scrape(store).await?;
        Ok(Self {
            accepted: intake.sum("warren_intake_accepted_messages_total"),
            stored: store.sum("warren_store_inserted_messages_total"),
            duplicate: store.sum("warren_store_duplicate_messages_total"),
            dead: store.sum("warren_store_dead_lettered_messages_total"),
        })
    }

    /// Tells whether everything accepted has arrived somewhere.
    pub const fn balance(&self) -> bool {
        self.accepted == self.stored + self.duplicate + self.dead
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_summed_over_its_labels_and_not_over_its_namesakes() {
        let metrics = Metrics::parse(
            "# HELP a_total All.\n# TYPE a_total counter\na_total{severity=\"info\"} 3\na_total{severity=\"error\"} 4\n\
             a_total_more 100\n\nb 1.5\nc{le=\"+Inf\",x=\"a b\"} 7\n",
        );
        assert_eq!(
            (
                metrics.sum("a_total"),
                metrics.sum("b"),
                metrics.sum("c"),
                metrics.sum("d")
            ),
            (7, 1, 7, 0)
        );
        assert_eq!(metrics.value("a_total{severity=\"error\"}"), Some(4.0));
        assert!(metrics.has_help("a_total") && !metrics.has_help("b"));
    }
}
