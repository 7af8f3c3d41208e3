//! Where counters are to be had.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::page::Page;

/// Tells what programs have counted until now.
#[async_trait]
pub trait CounterSource: fmt::Debug + Send + Sync + 'static {
    /// Asks all of them. Ends within the implementation's documented time; a program that does not answer is named
    /// instead of counted. Dropping the future is safe.
    async fn counters(&self) -> Arc<Counters>;
}

/// What programs had counted at about one moment.
#[derive(Clone, Debug)]
pub struct Counters {
    /// When.
    pub at: Instant,
    /// Those that answered.
    pub counting: Vec<Counting>,
    /// Those that did not.
    pub silent: Vec<Silent>,
}

/// A program that counts.
#[derive(Clone, Debug)]
pub struct Counting {
    /// Which it is, such as its address.
    pub program: String,
    /// What it has counted.
    pub page: Page,
}

/// A program that did not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Silent {
    /// Which it is, such as its address.
    pub program: String,
    /// Why there is no answer: a sentence that names it, for people.
    pub reason: String,
}

/// For how long what was told is told again.
pub(crate) const FRESH: Duration = Duration::from_millis(900);

/// Asks another source once a second at most, however many ask it.
#[derive(Debug)]
pub struct Recent<S> {
    source: S,
    last: Mutex<Option<(Instant, Arc<Counters>)>>,
}

impl<S: CounterSource> Recent<S> {
    /// Makes it of the source that is asked.
    pub fn of(source: S) -> Self {
        Self {
            source,
            last: Mutex::default(),
        }
    }
}

#[async_trait]
impl<S: CounterSource> CounterSource for Recent<S> {
    async fn counters(&self) -> Arc<Counters> {
        // Whoever comes meanwhile waits for the same answer.
        let mut last = self.last.lock().await;
        if let Some((at, counters)) = &*last
            && at.elapsed() < FRESH
        {
            return Arc::clone(counters);
        }
        let counters = self.source.counters().await;
        *last = Some((Instant::now(), Arc::clone(&counters)));
        counters
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::time::advance;

    use super::*;

    #[derive(Debug, Default)]
    struct Asked(AtomicU32);

    #[async_trait]
    impl CounterSource for Asked {
        async fn counters(&self) -> Arc<Counters> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Arc::new(Counters {
                at: Instant::now(),
                counting: Vec::new(),
                silent: Vec::new(),
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_who_ask_at_once_cost_one_question() {
        let recent = Recent::of(Asked::default());
        for _ in 0..20 {
            recent.counters().await;
        }
        assert_eq!(recent.source.0.load(Ordering::Relaxed), 1);
        advance(FRESH).await;
        recent.counters().await;
        assert_eq!(recent.source.0.load(Ordering::Relaxed), 2);
    }
}
