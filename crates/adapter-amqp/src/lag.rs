//! How many packets wait in a consumer's queue, asked over the consumer's own connection, and how many it holds.

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use amqprs::channel::{Channel, QueueDeclareArguments};
use async_trait::async_trait;
use metrics::gauge;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};
use warren_domain::ports::{GroupLag, HealthCheck, Lag, Unacknowledged, Unhealthy};

use crate::backoff::Backoff;
use crate::connection::{Event, Link};
use crate::error::LinkError;
use crate::metrics::{DEAD_PACKETS, Unsettled};
use crate::status::{Status, chain};

/// How long whoever asks waits for the answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long one question may stay unanswered before the next is asked. Far longer than anybody waits for it, because a
/// channel on which the broker owes an answer cannot be used again, and there are 2,047 of them.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(60);

/// How many questions may fail on one connection, for the same reason.
const MOST_FAILURES: u32 = 1_000;

/// How many times on one connection RabbitMQ may fail to say what waits among the dead letters; each costs a channel, too.
const MOST_DEAD_FAILURES: u32 = 500;

/// The pauses after such a failure: while their queue is not there, a question each second is an answer too many.
const DEAD_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_DEAD_PAUSE: Duration = Duration::from_secs(600);

/// How many may wait to be asked; whoever comes later waits for room.
const WAITING: usize = 16;

/// Whoever asks, and waits for the answer.
pub(crate) type Question = oneshot::Sender<Result<Lag, Unhealthy>>;

type Asking = Pin<Box<dyn Future<Output = Result<Told, LinkError>> + Send + Sync>>;

/// What RabbitMQ says, and what is known here.
pub(crate) struct Told {
    lag: Lag,
    /// How many packets are ready among the dead letters, or why it does not say; `None` if it was not asked.
    dead: Option<Result<u64, String>>,
}

/// Makes the two ends: one that asks, and one for the task that has the connection.
pub(crate) fn questions(status: Arc<Status>) -> (QueueLag, Answering) {
    let (questions, asked) = mpsc::channel(WAITING);
    let answering = Answering {
        questions: asked,
        asking: None,
        failures: 0,
        dead: DeadLetters::new(),
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
        timeout(PATIENCE, asking).await.unwrap_or_else(|_| {
            let patience = PATIENCE.as_secs();
            Err(Unhealthy(format!(
                "RabbitMQ did not say within {patience} s how many packets wait"
            )))
        })
    }
}

/// The end of the task that has the connection: one question at a time is on its way.
pub(crate) struct Answering {
    questions: mpsc::Receiver<Question>,
    asking: Option<(Question, Asking)>,
    /// How many questions failed on this connection.
    failures: u32,
    dead: DeadLetters,
}

impl Answering {
    /// Waits for the next question, after passing on the answer to the last. Cancel safe.
    pub(crate) async fn question(&mut self) -> Question {
        if let Some((_, asking)) = &mut self.asking {
            let outcome = asking.await.map(|told| {
                self.dead.heed(told.dead);
                told.lag
            });
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

    /// Has a question answered by what `asking` makes, unless nobody waits for it any more; it is told whether to ask
    /// for the dead letters, too.
    pub(crate) fn ask<A>(&mut self, question: Question, asking: impl FnOnce(bool) -> A)
    where
        A: Future<Output = Result<Told, LinkError>> + Send + Sync + 'static,
    {
        if self.failures >= MOST_FAILURES {
            let reason = "RabbitMQ has refused too often on this connection to say how many packets wait";
            answer(question, Err(LinkError::Lost(reason.to_owned())));
        } else if !question.is_closed() {
            let asking = asking(self.dead.due());
            self.asking = Some((question, Box::pin(asking)));
        }
    }

    /// Notes that the connection is gone, and with it what was asked over it.
    pub(crate) fn give_up(&mut self) {
        self.failures = 0;
        self.dead = DeadLetters::new();
        if let Some((question, _)) = self.asking.take() {
            let reason = "the connection to RabbitMQ was lost";
            answer(question, Err(LinkError::Lost(reason.to_owned())));
        }
    }
}

/// Shows how many packets wait among the dead letters, and knows when to ask for that.
struct DeadLetters {
    backoff: Backoff,
    failures: u32,
    not_before: Option<Instant>,
}

impl DeadLetters {
    fn new() -> Self {
        Self {
            backoff: Backoff::new(DEAD_PAUSE, LONGEST_DEAD_PAUSE),
            failures: 0,
            not_before: None,
        }
    }

    fn due(&self) -> bool {
        let paused = self.not_before.is_some_and(|at| Instant::now() < at);
        !paused && self.failures < MOST_DEAD_FAILURES
    }

    fn heed(&mut self, told: Option<Result<u64, String>>) {
        match told {
            None => {}
            Some(Ok(packets)) => {
                gauge!(DEAD_PACKETS).set(packets as f64);
                self.backoff.reset();
                self.not_before = None;
            }
            Some(Err(reason)) => {
                gauge!(DEAD_PACKETS).set(f64::NAN);
                let pause = self.backoff.pause();
                tracing::warn!(reason, ?pause, "it is not known how many dead letters wait");
                self.failures += 1;
                self.not_before = Some(Instant::now() + pause);
            }
        }
    }
}

/// Passes an answer on; one who has stopped waiting does not want to know.
fn answer(question: Question, outcome: Result<Lag, LinkError>) {
    let outcome = outcome.map_err(|error| Unhealthy(chain(&error)));
    question.send(outcome).ok();
}

/// Asks how many packets are ready in a queue of which `unsettled` are held, and in the one of the dead letters, if it is
/// named.
///
/// On a channel of its own, because RabbitMQ closes the channel over a queue that is not there.
pub(crate) fn ready(
    link: &Link,
    queue: &str,
    dead: Option<String>,
    unsettled: Arc<Unsettled>,
) -> impl Future<Output = Result<Told, LinkError>> + Send + 'static {
    let (opening, queue) = (link.side_channel(), queue.to_owned());
    let asking = link.run(QUESTION_TIMEOUT, async move {
        let (channel, mut events) = opening.await?;
        let packets = ready_in(&channel, &mut events, &queue).await;
        let lag = Lag {
            packets: packets.map_err(LinkError::Lost)?,
            messages: None,
            oldest: None,
            unacknowledged: Unacknowledged {
                packets: unsettled.out(),
                messages: None,
            },
        };
        let dead = match dead {
            Some(dead) => Some(ready_in(&channel, &mut events, &dead).await),
            None => None,
        };
        Ok(Told { lag, dead })
    });
    async move { asking.await? }
}

/// Asks how many packets are ready in a queue; after an error the channel is gone.
async fn ready_in(channel: &Channel, events: &mut mpsc::Receiver<Event>, queue: &str) -> Result<u64, String> {
    let declare = QueueDeclareArguments::new(queue).passive(true).finish();
    match channel.queue_declare(declare).await {
        Ok(declared) => Ok(declared.map_or(0, |(_, ready, _)| ready).into()),
        Err(error) => {
            let mut reason = error.to_string();
            while let Ok(event) = events.try_recv() {
                if let Event::Closed { code, reason: said } = event {
                    reason = format!("{said} ({code})");
                }
            }
            Err(format!(
                "RabbitMQ does not say how many packets wait in queue {queue}: {reason}"
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_missing_queue_of_dead_letters_is_asked_for_seldom_and_at_once_on_the_next_connection() {
        let (lag, mut answering) = questions(Arc::new(Status::idle("test")));
        let seven = Lag {
            packets: 7,
            ..Lag::default()
        };
        let mut asked = 0;
        let mut ask = async |answering: &mut Answering| {
            let (question, answer) = oneshot::channel();
            lag.questions.send(question).await.unwrap();
            let question = answering.question().await;
            answering.ask(question, |dead| {
                asked += u32::from(dead);
                let dead = dead.then(|| Err("no queue 'warren.dead'".to_owned()));
                async move { Ok(Told { lag: seven, dead }) }
            });
            // Whoever asks next gets the answer passed on.
            timeout(Duration::from_secs(1), answering.question())
                .await
                .unwrap_err();
            assert_eq!(answer.await.unwrap(), Ok(seven));
            asked
        };
        for _ in 0..3_600 {
            ask(&mut answering).await;
        }
        // Each costs one of 2,047 channels.
        let before = ask(&mut answering).await;
        assert!((6..60).contains(&before), "{before}");
        answering.give_up();
        assert_eq!(ask(&mut answering).await, before + 1);
        sleep(DEAD_PAUSE / 2).await;
        assert_eq!(ask(&mut answering).await, before + 1);
    }
}
