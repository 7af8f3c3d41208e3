//! Counts what a consumer group is delivered.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use metrics::gauge;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tracing::debug;
use warren_domain::Timestamp;
use warren_domain::ports::{
    Cause, GroupLag, HealthCheck, Lag, MessageConsumer, NamedGroup, TallyBook, Unacknowledged,
};

use super::activity::{Activity, Until, Watched};
use super::config::TallyConfig;
use super::counting::{Counting, Reported};
use super::metrics::{GroupCounters, PAUSED};
use super::rates::Rates;
use super::report::{GroupReport, GroupState, ReportedLag};
use crate::consume_loop::ConsumeLoop;
use crate::health::WorkerHealth;

/// How soon it is noticed that the consumer is in the group; scripts wait for it.
const STATE_EVERY: Duration = Duration::from_millis(50);
/// How often the broker is asked what waits while it has not answered.
const UNKNOWN_LAG_EVERY: Duration = Duration::from_millis(200);
/// How often the book is read: members on the same machine write it too.
const BOOK_EVERY: Duration = Duration::from_secs(1);

/// Counts what a consumer group is delivered: gathers, drops what the group does not select, counts through the book,
/// then acknowledges.
///
/// A book that cannot be written pauses it: it holds what it has, backs off, and after a long while gives it back. It
/// publishes what the group has counted, whoever counted it, whenever that changes and at least every second.
pub struct TallyLoop {
    counting: ConsumeLoop<Counting>,
    watching: Watching,
    until: Until,
}

impl fmt::Debug for TallyLoop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TallyLoop")
            .field("counting", &self.counting)
            .field("until", &self.until)
            .finish_non_exhaustive()
    }
}

/// What a tally loop is made of beside its settings.
#[derive(Clone, Debug)]
pub struct TallyParts {
    /// The group whose messages are counted; whoever makes the consumers has put them into it.
    pub group: NamedGroup,
    /// Where they are counted.
    pub book: Arc<dyn TallyBook>,
    /// Well while the latest consumer is in its group.
    pub consumer_health: Arc<dyn HealthCheck>,
    /// What waits for the group.
    pub lag: Arc<dyn GroupLag>,
}

impl TallyLoop {
    /// Makes a loop that consumes from what `subscribe` returns, until `until` says that it is done.
    ///
    /// `subscribe` is called again whenever consuming begins anew; when it fails, it is called again after a while.
    pub fn new(
        subscribe: impl Fn() -> Result<Box<dyn MessageConsumer>, Cause> + Send + Sync + 'static,
        parts: TallyParts,
        config: &TallyConfig,
        until: Until,
    ) -> Self {
        let TallyParts {
            group,
            book,
            consumer_health,
            lag,
        } = parts;
        let (activity, counters) = (Activity::new(), GroupCounters::new(&group.name));
        let report = GroupReport::unknown(group.name.clone(), Timestamp::now());
        let reported = Reported(Arc::new(watch::Sender::new(report)), counters.clone());
        let health = WorkerHealth::new("tally", gauge!(PAUSED, "group" => group.name.to_string()));
        let watched = activity.clone();
        let subscribe = move || {
            let watched: Box<dyn MessageConsumer> = Box::new(Watched {
                consumer: subscribe()?,
                activity: watched.clone(),
                count: until.count,
            });
            Ok(watched)
        };
        let counting = Counting {
            group,
            book: Arc::clone(&book),
            activity: activity.clone(),
            reported: reported.clone(),
            counters,
        };
        Self {
            counting: ConsumeLoop::new(subscribe, counting, config.pace(), health),
            watching: Watching {
                book,
                consumer_health,
                lag,
                lag_interval: config.lag_interval,
                activity,
                reported,
            },
            until,
        }
    }

    /// Returns what tells whether the loop is at work.
    pub fn health(&self) -> WorkerHealth {
        self.counting.health()
    }

    /// Returns the latest report of the group, always there and always changing.
    pub fn reports(&self) -> watch::Receiver<GroupReport> {
        self.watching.reported.0.subscribe()
    }

    /// Runs until it is done or `stop` is cancelled; then counts what it holds, at most `tally.drain_timeout`, and
    /// gives the rest back. The last report says `stopped`.
    pub async fn run(self, stop: CancellationToken) {
        let Self {
            counting,
            watching,
            until,
        } = self;
        let stop = stop.child_token();
        {
            let done = async {
                watching.activity.done(until).await;
                debug!("done; stopping");
                // While the consumer can still be asked.
                watching.refresh_lag().await;
                stop.cancel();
                // The loop ends by that.
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = counting.run(stop.clone()) => {}
                () = done => {}
                () = watching.keep_up() => {}
            }
        }
        watching.finish().await;
    }
}

/// What keeps the report true while the loop counts.
#[derive(Debug)]
struct Watching {
    book: Arc<dyn TallyBook>,
    consumer_health: Arc<dyn HealthCheck>,
    lag: Arc<dyn GroupLag>,
    lag_interval: Duration,
    activity: Activity,
    reported: Reported,
}

impl Watching {
    async fn keep_up(&self) {
        tokio::join!(self.watch_state(), self.watch_book(), self.watch_lag());
    }

    /// Tells whether the consumer is in the group.
    async fn watch_state(&self) {
        let mut was = GroupState::Connecting;
        loop {
            let state = match self.consumer_health.check().await {
                Ok(()) => GroupState::Consuming,
                Err(_) => GroupState::Connecting,
            };
            self.activity.set_consuming(state == GroupState::Consuming);
            if state != was {
                self.reported.change(|report| {
                    report.state = state;
                    if state == GroupState::Connecting {
                        // What was known before tells nothing about the time since.
                        (report.lag, report.unacknowledged) = (None, None);
                    }
                });
                was = state;
            }
            sleep(STATE_EVERY).await;
        }
    }

    /// Reads what other members have counted, and how fast it goes.
    async fn watch_book(&self) {
        let (mut rates, mut ticks) = (Rates::default(), every(BOOK_EVERY));
        loop {
            ticks.tick().await;
            match self.book.tally().await {
                Ok(tally) => self.reported.take_and(&tally, |report| {
                    report.per_second = rates.note(Instant::now(), report.received);
                }),
                // The loop tells what is wrong with the book; a member that only reads it has no more to say.
                Err(error) => debug!(%error, "the book cannot be read"),
            }
        }
    }

    async fn watch_lag(&self) {
        loop {
            // Asked at once when the consumer is in the group: until then nobody knows.
            let wait = if self.refresh_lag().await {
                self.lag_interval
            } else {
                UNKNOWN_LAG_EVERY.min(self.lag_interval)
            };
            sleep(wait).await;
        }
    }

    /// Asks what waits for the group, and what is held; returns whether it is known. What was known is told until it is
    /// known better.
    async fn refresh_lag(&self) -> bool {
        match self.lag.lag().await {
            Ok(lag) => {
                let waiting = self.estimated(lag);
                self.reported.change(|report| {
                    report.lag = Some(waiting);
                    report.unacknowledged = Some(lag.unacknowledged);
                });
                true
            }
            Err(reason) => {
                debug!(%reason, "what waits for the group is not known");
                false
            }
        }
    }

    /// Fills in how old the oldest waiting message is, where the broker does not tell: a queue is in order, so what
    /// waits is hardly older than the newest that was delivered.
    fn estimated(&self, lag: Lag) -> ReportedLag {
        let age = |moment: Timestamp| {
            let micros = Timestamp::now().unix_micros() - moment.unix_micros();
            micros.max(0) as f64 / 1e6
        };
        let oldest_seconds = if lag.packets == 0 {
            Some(0.0)
        } else {
            lag.oldest.or_else(|| self.activity.newest()).map(age)
        };
        ReportedLag {
            packets: lag.packets,
            messages: lag.messages,
            oldest_seconds,
        }
    }

    /// Makes the last report.
    async fn finish(&self) {
        let tally = self.book.tally().await;
        self.reported.change(|report| {
            if let Ok(tally) = &tally {
                report.take(tally);
            }
            report.state = GroupState::Stopped;
            // Everything is settled or given back.
            report.unacknowledged = report.unacknowledged.map(|held| Unacknowledged {
                packets: 0,
                messages: held.messages.map(|_| 0),
            });
        });
    }
}

fn every(period: Duration) -> tokio::time::Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
