//! The servers that are measured: where they are, what they are, which processes they consist of.

use anyhow::{Context as _, Result};
use warren_e2e::{environment, postgres, rabbit};

use crate::cost::{Family, place};

/// This process among the parties of a measurement.
pub(crate) const OWN: &str = "bench";

/// RabbitMQ and PostgreSQL of this run.
#[derive(Clone, Debug)]
pub(crate) struct Servers {
    pub(crate) amqp: String,
    pub(crate) postgres: String,
    /// What they and the machine are, for the head of the table.
    pub(crate) description: Vec<String>,
    /// Those that run on this machine and can be seen.
    parties: Vec<(&'static str, Family)>,
}

impl Servers {
    /// Finds the servers as tests do.
    ///
    /// # Errors
    /// One of them does not answer.
    pub(crate) async fn find() -> Result<Self> {
        Self::at(environment::amqp_url(), environment::postgres_url()).await
    }

    /// Looks at the servers at these URLs.
    ///
    /// # Errors
    /// One of them does not answer.
    pub(crate) async fn at(amqp: String, postgres: String) -> Result<Self> {
        let (connection, channel) = rabbit::open(&amqp).await?;
        let broker = connection.server_properties().version().to_owned();
        rabbit::close(connection, channel).await;
        let client = postgres::connect(&postgres).await?;
        let row = client
            .query_one("select current_setting('server_version')", &[])
            .await?;
        let database: String = row.try_get(0).context("PostgreSQL does not say its version")?;
        let mut parties = Vec::new();
        for (name, url, port) in [("rabbitmq", &amqp, 5672), ("postgres", &postgres, 5432)] {
            let (host, port) = place(url, port);
            match Family::listening_at(&host, port) {
                Some(family) => parties.push((name, family)),
                None => eprintln!("{name}: not on this machine or not to be seen; its cost is left out"),
            }
        }
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let description = vec![
            format!("{cores} cores"),
            format!("RabbitMQ {broker}"),
            format!("PostgreSQL {database}"),
        ];
        Ok(Self {
            amqp,
            postgres,
            description,
            parties,
        })
    }

    /// Returns the parties of a measurement: the servers, this process, and these.
    pub(crate) fn with(&self, others: &[(&'static str, u32)]) -> Vec<(&'static str, Family)> {
        let mut parties = self.parties.clone();
        parties.extend(others.iter().map(|(name, pid)| (*name, Family::alone(*pid))));
        parties.push((OWN, Family::alone(std::process::id())));
        parties
    }
}
