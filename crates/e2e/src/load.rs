//! Clients that send a sequence of requests and repeat what is unknown.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::http::Client;
use crate::ledger::{Ledger, Verdict};
use crate::request::{Plan, Planner};

/// Some clients, each with a connection of its own, that share one sequence of requests.
#[derive(Clone, Debug)]
pub struct Load {
    /// Where they send to.
    pub address: SocketAddr,
    /// How many there are.
    pub clients: usize,
    /// How long a client repeats one request before it gives the test up; zero: never repeats, and goes on.
    pub patience: Duration,
    /// Cancelled: each client settles the request it has, and stops.
    pub stop: CancellationToken,
}

impl Load {
    /// Makes a load of 16 patient clients.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            clients: 16,
            patience: Duration::from_secs(120),
            stop: CancellationToken::new(),
        }
    }

    /// Sends until the sequence ends or the load is stopped, and notes everything in the ledger.
    ///
    /// # Errors
    /// A request was not answered for good within the clients' patience.
    pub async fn run(&self, ledger: &Arc<Ledger>, plans: Planner) -> Result<()> {
        let plans = Arc::new(Mutex::new(plans));
        let mut clients = JoinSet::new();
        for _ in 0..self.clients {
            let (load, ledger, plans) = (self.clone(), Arc::clone(ledger), Arc::clone(&plans));
            clients.spawn(async move { load.client(&ledger, &plans).await });
        }
        while let Some(ended) = clients.join_next().await {
            ended??;
        }
        Ok(())
    }

    async fn client(&self, ledger: &Ledger, plans: &Mutex<Planner>) -> Result<()> {
        let mut client = Client::new(self.address);
        while !self.stop.is_cancelled() {
            let plan = plans.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(plan) = plan else { break };
            self.settle(&mut client, ledger, &plan).await?;
        }
        Ok(())
    }

    /// Sends one request until it is answered for good.
    async fn settle(&self, client: &mut Client, ledger: &Ledger, plan: &Plan) -> Result<()> {
        let request = plan.request(ledger.generator())?;
        let deadline = Instant::now() + self.patience;
        loop {
            ledger.sent(plan);
            let answer = client.send(&request).await;
            let Verdict::Again(wait) = ledger.answered(plan, &answer) else {
                return Ok(());
            };
            if self.patience.is_zero() {
                sleep(wait).await;
                return Ok(());
            }
            if Instant::now() > deadline {
                let last = match answer {
                    Ok(answer) => format!("{} {}", answer.status, answer.text_start()),
                    Err(error) => format!("{error:#}"),
                };
                bail!(
                    "request {} found no answer within {:?}; last: {last}",
                    plan.number,
                    self.patience
                );
            }
            sleep(wait).await;
        }
    }
}
