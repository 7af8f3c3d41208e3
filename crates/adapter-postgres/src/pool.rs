//! The few connections that write, and the few that read.

use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout_at};
use warren_domain::ports::StoreError;

use crate::config::{PostgresConfig, SessionLimits};
use crate::error::unavailable;
use crate::session::{Connector, Session, WriteSession};

/// The pause after the first failed attempt to connect is up to this long…
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// …doubles with each one, and is never longer than this: batches are waiting.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A connection that is ready for some purpose.
pub(crate) trait Pooled: Deref<Target = Session> + Send + Sized {
    /// Connects, within the connect timeout.
    fn open(
        connector: &Connector,
        limits: SessionLimits,
    ) -> impl Future<Output = Result<Self, StoreError>> + Send;

    /// Says goodbye.
    fn close(self) -> impl Future<Output = ()> + Send;
}

/// Lends connections, a bounded number, opened when they are first needed.
#[derive(Debug)]
pub(crate) struct Pool<S = WriteSession> {
    connector: Connector,
    limits: SessionLimits,
    size: u32,
    acquire_timeout: Duration,
    lifetime: Duration,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<S>>,
    attempts: Mutex<Attempts>,
}

/// When to try to connect again, and why not sooner.
#[derive(Debug)]
struct Attempts {
    failures: u32,
    not_before: Instant,
    fault: Option<StoreError>,
}

impl<S: Pooled> Pool<S> {
    /// Makes a pool of so many connections.
    pub(crate) fn new(
        connector: Connector,
        config: &PostgresConfig,
        limits: SessionLimits,
        size: usize,
    ) -> Self {
        Self {
            connector,
            limits,
            size: u32::try_from(size).unwrap_or(u32::MAX),
            acquire_timeout: config.acquire_timeout,
            lifetime: config.connection_lifetime,
            permits: Arc::new(Semaphore::new(size)),
            idle: Mutex::new(Vec::with_capacity(size)),
            attempts: Mutex::new(Attempts {
                failures: 0,
                not_before: Instant::now(),
                fault: None,
            }),
        }
    }

    /// Lends a connection that looks alive, or opens one.
    ///
    /// Takes at most the acquire timeout and the connect timeout together. After a failed attempt nobody tries again
    /// before a jittered pause is over, so that a server that comes back is not run over.
    pub(crate) async fn acquire(&self) -> Result<Lease<'_, S>, StoreError> {
        let deadline = Instant::now() + self.acquire_timeout;
        let too_late = || {
            let fault = format!("no connection was free within {:?}", self.acquire_timeout);
            unavailable(self.connector.place(), &fault)
        };
        let permit = match timeout_at(deadline, Arc::clone(&self.permits).acquire_owned()).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) => {
                return Err(unavailable(
                    self.connector.place(),
                    "this program is shutting down",
                ));
            }
            Err(_) => return Err(too_late()),
        };
        loop {
            if let Some(session) = self.idle_session() {
                return Ok(self.lease(session, permit));
            }
            let (not_before, fault) = {
                let attempts = locked(&self.attempts);
                (attempts.not_before, attempts.fault.clone())
            };
            if not_before <= Instant::now() {
                break;
            }
            sleep_until(not_before.min(deadline)).await;
            if not_before > deadline {
                return Err(fault.unwrap_or_else(too_late));
            }
        }
        match S::open(&self.connector, self.limits).await {
            Ok(session) => {
                let mut attempts = locked(&self.attempts);
                (attempts.failures, attempts.fault) = (0, None);
                drop(attempts);
                Ok(self.lease(session, permit))
            }
            Err(error) => {
                let mut attempts = locked(&self.attempts);
                let doubled = FIRST_PAUSE.saturating_mul(1 << attempts.failures.min(8));
                let pause = doubled.min(LONGEST_PAUSE).mul_f64(0.5 + fastrand::f64() / 2.0);
                attempts.failures = attempts.failures.saturating_add(1);
                attempts.not_before = Instant::now() + pause;
                attempts.fault = Some(error.clone());
                Err(error)
            }
        }
    }

    /// Tells whether every connection is lent.
    pub(crate) fn is_lent_out(&self) -> bool {
        self.permits.available_permits() == 0
    }

    /// Returns why the last attempt to connect failed, if nothing has been heard of the server since.
    pub(crate) fn fault(&self) -> Option<StoreError> {
        locked(&self.attempts).fault.clone()
    }

    /// Lends nothing more, waits for what is lent to come back, and closes everything.
    pub(crate) async fn close(&self) {
        let patience = Instant::now() + self.limits.client_side();
        // Whoever does not come back in time is cut off when the program ends.
        let all = timeout_at(patience, self.permits.acquire_many(self.size)).await;
        self.permits.close();
        drop(all);
        let idle = std::mem::take(&mut *locked(&self.idle));
        for session in idle {
            session.close().await;
        }
    }

    const fn lease(&self, session: S, permit: OwnedSemaphorePermit) -> Lease<'_, S> {
        Lease {
            pool: self,
            session,
            permit,
        }
    }

    fn idle_session(&self) -> Option<S> {
        let mut idle = locked(&self.idle);
        while let Some(session) = idle.pop() {
            if !session.is_closed() && session.age() < self.lifetime {
                return Some(session);
            }
        }
        None
    }
}

/// A connection on loan. Dropped, it is closed: whatever was under way on it never matters to the next one.
#[derive(Debug)]
pub(crate) struct Lease<'p, S: Pooled = WriteSession> {
    pool: &'p Pool<S>,
    session: S,
    permit: OwnedSemaphorePermit,
}

impl<S: Pooled> Lease<'_, S> {
    /// Gives a connection back on which nothing is under way.
    pub(crate) fn give_back(self) {
        let Self {
            pool,
            session,
            permit,
        } = self;
        if !session.is_closed() {
            locked(&pool.idle).push(session);
            // The server has answered on it.
            locked(&pool.attempts).fault = None;
        }
        // Only now may the next one look for it.
        drop(permit);
    }

    /// Takes the connection out of the pool, which opens no other in its place before the permit is dropped.
    pub(crate) fn keep(self) -> (S, OwnedSemaphorePermit) {
        (self.session, self.permit)
    }
}

impl<S: Pooled> Deref for Lease<'_, S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.session
    }
}

/// A panic elsewhere leaves these few words whole.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
