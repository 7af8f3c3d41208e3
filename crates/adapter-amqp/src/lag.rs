//! How many packets wait in a consumer's queue, asked over the consumer's own connection.

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use amqprs::channel::QueueDeclareArguments;
use async_trait::async_trait;
use metrics::gauge;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use warren_domain::ports::{GroupLag, HealthCheck, Lag, Unhealthy};

use crate::connection::{Event, Link};
use crate::error::LinkError;
use crate::metrics::DEAD_PACKETS;
use crate::status::{Status, chain};

/// How long whoever asks waits for the answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long one question may stay unanswered before the next is asked. Far longer than anybody waits for it, because a
/// channel on which the broker owes an answer cannot be used again, and there are 2,047 of them.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(60);

/// How many questions may fail on one connection, for the same reason.
const MOST_FAILURES: u32 = 1_000;

/// How many may wait to be asked; whoever comes later waits for room.
const WAITING: usize = 16;

/// Whoever asks, and waits for the number of packets.
pub(crate) type Question = oneshot::Sender<Result<u64, Unhealthy>>;

type Asking = Pin<Box<dyn Future<Output = Result<u64, LinkError>> + Send + Sync>>;

/// Makes the two ends: one that asks, and one for the task that has the connection.
pub(crate) fn questions(status: Arc<Status>) -> (QueueLag, Answering) {
    let (questions, asked) = mpsc::channel(WAITING);
    let answering = Answering {
        questions: asked,
        asking: None,
        failures: 0,
    };
    (QueueLag { questions, status }, answering)
}

/// Asks how many packets wait in a consumer's queue.
#[derive(Debug)]
pub(crate) struct QueueLag {
    questions: mpsc::Sender<Question>,
    status: Arc<Status>,
}

#[async_trait]
impl GroupLag for QueueLag {
    async fn lag(&self) -> Result<Lag, Unhealthy> {
        self.status.check().await?;
        let (question, answer) = oneshot::channel();
        let gone = || Unhealthy("the consumer was closed".to_owned());
        let asking = async {
            self.questions.send(question).await.map_err(|_| gone())?;
            answer.await.map_err(|_| gone())?
        };
        let packets = timeout(PATIENCE, asking).await.unwrap_or_else(|_| {
            let patience = PATIENCE.as_secs();
            Err(Unhealthy(format!(
                "RabbitMQ did not say within {patience} s how many packets wait"
            )))
        })?;
        Ok(Lag {
            packets,
            messages: None,
            oldest: None,
        })
    }
}

/// The end of the task that has the connection: one question at a time is on its way.
pub(crate) struct Answering {
    questions: mpsc::Receiver<Question>,
    asking: Option<(Question, Asking)>,
    /// How many questions failed on this connection.
    failures: u32,
}

impl Answering {
    /// Waits for the next question, after passing on the answer to the last. Cancel safe.
    pub(crate) async fn question(&mut self) -> Question {
        if let Some((_, asking)) = &mut self.asking {
            let outcome = asking.await;
            self.failures += u32::from(outcome.is_err());
            if let Some((question, _)) = self.asking.take() {
                answer(question, outcome);
            }
        }
        match self.questions.recv().await {
            Some(question) => question,
            // The consumer is gone; its deliveries may still be settled.
            None => pending().await,
        }
    }

    /// Has a question answered by `asking`, unless nobody waits for it any more.
    pub(crate) fn ask(
        &mut self,
        question: Question,
        asking: impl Future<Output = Result<u64, LinkError>> + Send + Sync + 'static,
    ) {
        if self.failures >= MOST_FAILURES {
            let reason = "RabbitMQ has refused too often on this connection to say how many packets wait";
            answer(question, Err(LinkError::Lost(reason.to_owned())));
        } else if !question.is_closed() {
            self.asking = Some((question, Box::pin(asking)));
        }
    }

    /// Notes that the connection is gone, and with it what was asked over it.
    pub(crate) fn give_up(&mut self) {
        self.failures = 0;
        if let Some((question, _)) = self.asking.take() {
            let reason = "the connection to RabbitMQ was lost";
            answer(question, Err(LinkError::Lost(reason.to_owned())));
        }
    }
}

/// Passes an answer on; one who has stopped waiting does not want to know.
fn answer(question: Question, outcome: Result<u64, LinkError>) {
    let outcome = outcome.map_err(|error| Unhealthy(chain(&error)));
    question.send(outcome).ok();
}

/// Asks how many packets are ready in a queue; shows how many are in the one of the dead letters, if it is named.
///
/// On a channel of its own, because RabbitMQ closes the channel over a queue that is not there.
pub(crate) fn ready(
    link: &Link,
    queue: &str,
    dead: Option<String>,
) -> impl Future<Output = Result<u64, LinkError>> + Send + 'static {
    let (opening, queue) = (link.side_channel(), queue.to_owned());
    let asking = link.run(QUESTION_TIMEOUT, async move {
        let (channel, mut events) = opening.await?;
        let declare = QueueDeclareArguments::new(&queue).passive(true).finish();
        let of = |declared: Option<(_, u32, _)>| declared.map_or(0, |(_, ready, _)| ready);
        match channel.queue_declare(declare).await {
            Ok(declared) => {
                if let Some(dead) = dead {
                    let declare = QueueDeclareArguments::new(&dead).passive(true).finish();
                    match channel.queue_declare(declare).await {
                        Ok(declared) => gauge!(DEAD_PACKETS).set(of(declared)),
                        Err(error) => {
                            tracing::debug!(%error, "RabbitMQ does not say how many dead letters wait");
                        }
                    }
                }
                Ok(of(declared).into())
            }
            Err(error) => {
                let mut reason = error.to_string();
                while let Ok(event) = events.try_recv() {
                    if let Event::Closed { code, reason: said } = event {
                        reason = format!("{said} ({code})");
                    }
                }
                Err(LinkError::Lost(format!(
                    "RabbitMQ does not say how many packets wait in queue {queue}: {reason}"
                )))
            }
        }
    });
    async move { asking.await? }
}
