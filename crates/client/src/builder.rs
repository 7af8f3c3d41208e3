//! How a logger is set up.

use std::error::Error;
use std::future::Future;
use std::time::Duration;

use serde_json::{Map, Value};
use warren_domain::ports::MessagePublisher;
use warren_domain::source::InvalidSource;
use warren_domain::{MessageLimits, Source};

use crate::logger::Logger;
use crate::sender;

/// What happens to a message for which there is no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// The caller waits until there is room: nothing is ever dropped, and an application whose broker is away comes to a
    /// stand. Whoever finds room first takes it, in no certain order: in a fair line, a thread might wait for a task that
    /// only it could run.
    Wait,
    /// Nobody waits. The lowest severity goes first, also when it is already waiting: a graver newcomer takes the
    /// place of the least grave messages, the latest of them first, because the beginning of a trouble says most about
    /// it. Where nothing is less grave, the newcomer goes. Each is counted by its severity.
    ///
    /// A message that was handed to the publisher keeps its place until the publisher has answered for it: it may have
    /// arrived, so that dropping it would make the count a guess.
    #[default]
    DropLowest,
}

/// Sets up a [`Logger`]; every setting has a default.
#[derive(Clone, Debug)]
#[must_use = "a logger begins with `start` or `start_with`"]
pub struct LoggerBuilder {
    pub(crate) source: Result<Source, (String, InvalidSource)>,
    pub(crate) attributes: Map<String, Value>,
    pub(crate) limits: MessageLimits,
    pub(crate) when_full: WhenFull,
    pub(crate) max_messages: usize,
    pub(crate) max_bytes: usize,
    pub(crate) batch_messages: usize,
    pub(crate) batch_bytes: usize,
    pub(crate) batches_in_flight: usize,
    pub(crate) retry_min: Duration,
    pub(crate) retry_max: Duration,
    pub(crate) unroutable_for: Duration,
    pub(crate) publish_timeout: Duration,
    pub(crate) start_timeout: Duration,
    pub(crate) drop_wait: Duration,
}

impl Default for LoggerBuilder {
    fn default() -> Self {
        Self {
            source: Ok(Source::default()),
            attributes: Map::new(),
            limits: MessageLimits::default(),
            when_full: WhenFull::default(),
            max_messages: 50_000,
            max_bytes: 32 << 20,
            batch_messages: 1_000,
            batch_bytes: 1 << 20,
            batches_in_flight: 4,
            retry_min: Duration::from_millis(100),
            retry_max: Duration::from_secs(5),
            unroutable_for: Duration::from_secs(30),
            publish_timeout: Duration::from_secs(60),
            start_timeout: Duration::from_secs(30),
            drop_wait: Duration::from_secs(1),
        }
    }
}

impl LoggerBuilder {
    /// Sets who says the messages: segments of `[A-Za-z0-9_-]` joined by dots, at most 200 bytes. Default `default`.
    pub fn source(mut self, source: impl AsRef<str>) -> Self {
        let source = source.as_ref();
        self.source = source.parse().map_err(|error| (source.to_owned(), error));
        self
    }

    /// Adds an attribute to every message. Default none.
    pub fn attribute(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.attributes.insert(key.into(), value.into());
        self
    }

    /// Sets how large one message may be; a larger one is rejected. Default: body 256 KiB, attributes 64 KiB and 32
    /// levels, which is what an intake over HTTP takes by default.
    pub fn limits(mut self, limits: MessageLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets what happens to a message for which there is no room. Default [`WhenFull::DropLowest`].
    pub fn when_full(mut self, when_full: WhenFull) -> Self {
        self.when_full = when_full;
        self
    }

    /// Sets how many messages are held at most, waiting and being published together. Default 50,000; 1 to 10,000,000.
    pub fn max_messages(mut self, messages: usize) -> Self {
        self.max_messages = messages;
        self
    }

    /// Sets how many bytes of memory the messages that are held take at most; those being published exist a second
    /// time inside the publisher. Default 32 MiB; 64 KiB to 64 GiB.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Sets how many messages are handed to the publisher at once. Default 1,000; 1 to 10,000.
    ///
    /// There is no linger timer: what waits when the publisher has a hand free goes at once, so that batches grow with
    /// the load. All batches in flight together never hold more than half of `max_messages` and `max_bytes`,
    /// but for one message each.
    pub fn batch_messages(mut self, messages: usize) -> Self {
        self.batch_messages = messages;
        self
    }

    /// Sets how many bytes of memory are handed to the publisher at once; a single message over it travels alone.
    /// Default 1 MiB; 1 KiB to 64 MiB.
    pub fn batch_bytes(mut self, bytes: usize) -> Self {
        self.batch_bytes = bytes;
        self
    }

    /// Sets how many batches are being published at a time. Default 4; 1 to 64.
    pub fn batches_in_flight(mut self, batches: usize) -> Self {
        self.batches_in_flight = batches;
        self
    }

    /// Sets the shortest and the longest pause before messages that could not be published are published again, with
    /// the same ids; the pauses double and are random below that. Default 100 ms and 5 s; 1 ms to 1 h.
    pub fn retry_pauses(mut self, shortest: Duration, longest: Duration) -> Self {
        (self.retry_min, self.retry_max) = (shortest, longest);
        self
    }

    /// Sets for how long a message is published again while nobody listens where it goes, counted from the first such
    /// answer; then it counts as failed. Default 30 s: publishers mend their topology themselves within seconds, and
    /// what is not mended then needs a person.
    pub fn unroutable_for(mut self, time: Duration) -> Self {
        self.unroutable_for = time;
        self
    }

    /// Sets after what time a call of the publisher is given up and repeated. It is a safeguard: publishers have
    /// shorter deadlines of their own. Default 60 s; 10 ms to 1 h.
    pub fn publish_timeout(mut self, time: Duration) -> Self {
        self.publish_timeout = time;
        self
    }

    /// Sets how long [`LoggerBuilder::start_with`] waits for the publisher to be made. Default 30 s.
    pub fn start_timeout(mut self, time: Duration) -> Self {
        self.start_timeout = time;
        self
    }

    /// Sets how long dropping the last clone of the logger waits for what is left to be published, on the thread that
    /// drops it. Default 1 s; zero does not wait. [`Logger::close`] is the way to wait longer and to learn what became
    /// of it.
    pub fn drop_wait(mut self, time: Duration) -> Self {
        self.drop_wait = time;
        self
    }

    /// Starts a logger over a publisher that was made elsewhere.
    ///
    /// Its calls run on the sender's own thread, its tasks stay where they were made. Under [`WhenFull::Wait`] that
    /// matters: an application that waits for room on all threads of a runtime in which the publisher's tasks live
    /// waits for ever. Where there are such tasks (as those of an `AmqpPublisher`), use
    /// [`LoggerBuilder::start_with`], which has them run beside the sender; it also keeps what they log from being
    /// sent.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(self, publisher: impl MessagePublisher) -> Result<Logger, StartError> {
        self.start_with(|| async { Ok::<_, std::convert::Infallible>(publisher) })
    }

    /// Starts a logger whose publisher is made, lives and ends in the sender's own runtime, on its own thread.
    ///
    /// Waits on this thread until the publisher is made, inside of a runtime too.
    ///
    /// # Errors
    /// [`StartError`]; among others what `make` returned.
    pub fn start_with<F, Fut, P, E>(self, make: F) -> Result<Logger, StartError>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<P, E>>,
        P: MessagePublisher,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        self.check()?;
        sender::start(self, make)
    }

    fn check(&self) -> Result<(), StartError> {
        if let Err((text, problem)) = &self.source {
            return Err(StartError::Source {
                text: text.clone(),
                problem: *problem,
            });
        }
        let number = |setting, value: usize, least: usize, most: usize| {
            let problem = format!("is {value}; use {least} to {most}");
            ((least..=most).contains(&value))
                .then_some(())
                .ok_or(StartError::Setting { setting, problem })
        };
        number("max_messages", self.max_messages, 1, 10_000_000)?;
        number("max_bytes", self.max_bytes, 64 << 10, 64 << 30)?;
        number("batch_messages", self.batch_messages, 1, 10_000)?;
        number("batch_bytes", self.batch_bytes, 1 << 10, 64 << 20)?;
        number("batches_in_flight", self.batches_in_flight, 1, 64)?;
        let (least, most) = (Duration::from_millis(1), Duration::from_secs(3_600));
        let pauses = [self.retry_min, self.retry_max];
        if self.retry_min > self.retry_max || pauses.iter().any(|pause| !(least..=most).contains(pause)) {
            let (shortest, longest) = (self.retry_min, self.retry_max);
            return Err(StartError::Setting {
                setting: "retry_pauses",
                problem: format!("are {shortest:?} and {longest:?}; use 1ms to 1h, the shorter one first"),
            });
        }
        if !(10 * least..=most).contains(&self.publish_timeout) {
            return Err(StartError::Setting {
                setting: "publish_timeout",
                problem: format!("is {:?}; use 10ms to 1h", self.publish_timeout),
            });
        }
        Ok(())
    }
}

/// Why a logger did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The builder's source is none.
    #[error("the source {text:?} {problem}; use segments of A-Z, a-z, 0-9, _ and - joined by dots")]
    Source {
        /// What was given.
        text: String,
        /// What is wrong with it.
        problem: InvalidSource,
    },
    /// A setting of the builder is out of its range.
    #[error("{setting} {problem}")]
    Setting {
        /// Its name.
        setting: &'static str,
        /// What it is and what it may be.
        problem: String,
    },
    /// The operating system gave no thread, or nothing to wait with.
    #[error("the sender's thread cannot be started")]
    Thread(#[source] std::io::Error),
    /// The publisher could not be made.
    #[error("the publisher cannot be made")]
    Publisher(#[source] Box<dyn Error + Send + Sync>),
    /// The publisher was not made in time.
    #[error("the publisher was not made within {0:?} (start_timeout)")]
    TimedOut(Duration),
}
