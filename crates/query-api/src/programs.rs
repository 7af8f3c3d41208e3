//! What the programs beside this one count.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use tokio::time::Instant;
use warren_pipeline::flow::{CounterSource, Counters, Counting, Page, Silent};
use warren_process::peer::Peer;
use warren_process::telemetry::metrics::Metrics;

/// How long a program may take to answer: less than the console waits between two questions.
const PATIENCE: Duration = Duration::from_millis(1_500);

/// Asks programs for their counters, all at once, and has those of this process. Takes [`PATIENCE`] at most.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    own: Metrics,
    peers: Vec<Peer>,
    patience: Duration,
}

impl Programs {
    pub(crate) const fn new(own: Metrics, peers: Vec<Peer>) -> Self {
        Self {
            own,
            peers,
            patience: PATIENCE,
        }
    }
}

#[async_trait]
impl CounterSource for Programs {
    async fn counters(&self) -> Arc<Counters> {
        let asked = self.peers.iter().map(|peer| peer.metrics(self.patience));
        let told = join_all(asked).await;
        let this = Counting {
            program: "query-api".to_owned(),
            page: Page::parse(&self.own.render()),
        };
        let mut counters = Counters {
            at: Instant::now(),
            counting: vec![this],
            silent: Vec::new(),
        };
        for (peer, told) in self.peers.iter().zip(told) {
            let program = peer.to_string();
            match told {
                Ok(text) => {
                    let page = Page::parse(&text);
                    // At another address the same process has counted the same.
                    let known = page.process().is_some_and(|process| {
                        let mut counting = counters.counting.iter();
                        counting.any(|known| known.page.process() == Some(process))
                    });
                    if !known {
                        counters.counting.push(Counting { program, page });
                    }
                }
                Err(reason) => counters.silent.push(Silent { program, reason }),
            }
        }
        Arc::new(counters)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use warren_process::telemetry::metrics;

    use super::*;

    #[tokio::test]
    async fn programs_that_do_not_answer_are_named_and_are_not_waited_for_one_after_the_other() {
        let own = metrics::install("1.2.3").unwrap();
        // They take connections and say nothing.
        let mut silent = Vec::new();
        for _ in 0..20 {
            silent.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
        }
        let places = silent
            .iter()
            .map(|listener| listener.local_addr().unwrap().to_string());
        let peers: Vec<_> = places.map(|place| Peer::parse(&place).unwrap()).collect();
        let programs = Programs {
            patience: Duration::from_millis(500),
            ..Programs::new(own, peers.clone())
        };
        let began = Instant::now();
        let counters = programs.counters().await;
        // One after the other it would be ten seconds.
        assert!(began.elapsed() < 10 * programs.patience, "{:?}", began.elapsed());
        let named: Vec<_> = counters
            .silent
            .iter()
            .map(|silent| silent.program.clone())
            .collect();
        let expected: Vec<_> = peers.iter().map(ToString::to_string).collect();
        assert_eq!(named, expected);
        assert!(
            counters.silent[0].reason.contains("nothing within"),
            "{:?}",
            counters.silent[0]
        );
        assert_eq!(counters.counting.len(), 1);
        assert!(counters.counting[0].page.started().is_some());
    }
}
