//! The book of a consumer group: its counts, and the ids it counted last.
//!
//! - [`window`]: the ids in memory.
//! - [`book`]: one transaction: what others have counted, what counts now.
//!
//! A task of its own writes the file. Calls that wait while a commit is under way share the next one: one fsync for
//! all of them.

mod book;
mod window;

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use metrics::histogram;
use sea_orm::sqlx;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use warren_domain::ports::{Cause, Countable, Counted, GroupName, Tally, TallyBook, TallyError};

use crate::database::{Database, Layout};
use crate::directory;
use crate::error::{OpenError, chain, explain, fault};
use crate::metrics::{COMMIT_MESSAGES, COMMIT_SECONDS};
use crate::schema::TallyMigrator;
use crate::sync::lock;
use book::{Book, BookError, read_tally};

/// How many calls wait for their commit; more callers wait in turn.
const CALLS: usize = 64;
/// How many messages one commit takes together, unless one call alone has more.
const COMMIT_MESSAGES_MAX: usize = 100_000;
/// How long one commit may take; it waits five seconds for another process that writes.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a call may take: the commit that is under way, and its own.
const CALL_TIMEOUT: Duration = Duration::from_secs(25);
/// How long opening waits for another process that opens a book of the same folder.
const OPEN_PATIENCE: Duration = Duration::from_secs(30);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(15);
const WAL_BYTES: u64 = 16 << 20;

/// The book of one consumer group in an SQLite file, shared by any number of processes of one machine.
///
/// It remembers the last `window` ids: in memory, at 38 bytes each for a window of a million and never more than 60,
/// and in the file, at 16 bytes and a little. What other processes count is read before anything is counted, so all
/// of them have the same window; they should be opened with the same size of it, for the smallest is what the file
/// keeps.
///
/// A commit waits up to five seconds for another process that writes, and fails then. Dropping the book is safe at
/// any moment; [`EmbeddedTally::close`] ends in order.
#[derive(Debug)]
pub struct EmbeddedTally {
    database: Arc<Database>,
    calls: mpsc::Sender<Call>,
    stop: CancellationToken,
    writer: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Call {
    batch: Vec<Countable>,
    reply: oneshot::Sender<Result<Counted, TallyError>>,
}

impl EmbeddedTally {
    /// Opens the book of `group` in `folder`, or makes both; brings its schema up to date and reads the last `window`
    /// ids. `place` is the setting that names the folder, for errors.
    ///
    /// # Errors
    /// [`OpenError`], with the file and what to do. Nothing was changed but for the schema.
    pub async fn open(
        folder: &Path,
        group: &GroupName,
        window: usize,
        place: &'static str,
    ) -> Result<Self, OpenError> {
        let opening = Opening::begin(folder, place).await?;
        let path = opening.folder.join(format!("{group}.db"));
        let layout = Layout {
            wal_bytes: WAL_BYTES,
            readers: 1,
            cache_kib: 2 << 10,
            place,
        };
        let database = Arc::new(Database::open_with::<TallyMigrator>(path.clone(), layout).await?);
        drop(opening);
        let book = match Book::load(Arc::clone(&database), window).await {
            Ok(book) => book,
            Err(failure) => {
                if let Err(error) = database.leave().await {
                    tracing::debug!(error = chain(&error), "the refused book was not closed in order");
                }
                return Err(refusal(&database, failure, place));
            }
        };
        let (calls, waiting) = mpsc::channel(CALLS);
        let stop = CancellationToken::new();
        let writer = tokio::spawn(write(book, waiting, stop.clone()));
        Ok(Self {
            database,
            calls,
            stop,
            writer: Mutex::new(Some(writer)),
        })
    }

    /// Finishes the commit that is under way and closes the file; calls answer as closed from now on.
    pub async fn close(&self) {
        self.stop.cancel();
        let writer = lock(&self.writer).take();
        let closing = async {
            if let Some(writer) = writer
                && let Err(error) = writer.await
            {
                tracing::error!(%error, "the writer of a book ended badly");
            }
            if let Err(error) = self.database.leave().await {
                tracing::warn!(error = chain(&error), path = %self.path(), "the book was not closed in order");
            }
        };
        if timeout(CLOSE_TIMEOUT, closing).await.is_err() {
            tracing::warn!(path = %self.path(), "the disk did not answer; closing the book without it");
        }
    }

    fn path(&self) -> std::path::Display<'_> {
        self.database.path().display()
    }

    fn late(&self) -> TallyError {
        error(format!(
            "{} did not answer within {CALL_TIMEOUT:?}; check the disk",
            self.path()
        ))
    }

    fn closed(&self) -> TallyError {
        error(format!("{} is closed", self.path()))
    }

    async fn ask(&self, batch: Vec<Countable>) -> Result<Counted, TallyError> {
        let (reply, answer) = oneshot::channel();
        let call = Call { batch, reply };
        self.calls.send(call).await.map_err(|_| self.closed())?;
        answer.await.map_err(|_| self.closed())?
    }
}

impl Drop for EmbeddedTally {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[async_trait]
impl TallyBook for EmbeddedTally {
    async fn count(&self, batch: &[Countable]) -> Result<Counted, TallyError> {
        if batch.is_empty() {
            let tally = self.tally().await?;
            return Ok(Counted {
                tally,
                ..Counted::default()
            });
        }
        timeout(CALL_TIMEOUT, self.ask(batch.to_vec()))
            .await
            .unwrap_or_else(|_| Err(self.late()))
    }

    async fn tally(&self) -> Result<Tally, TallyError> {
        if self.stop.is_cancelled() {
            return Err(self.closed());
        }
        let read = async {
            let mut connection = self.database.read_pool().acquire().await?;
            read_tally(&mut connection).await
        };
        match timeout(COMMIT_TIMEOUT, read).await {
            Ok(read) => read.map_err(|failure| tally_error(&failure, self.database.path())),
            Err(_) => Err(self.late()),
        }
    }
}

/// Writes what is called for until `stop`.
async fn write(mut book: Book, mut waiting: mpsc::Receiver<Call>, stop: CancellationToken) {
    while let Some(Some(first)) = stop.run_until_cancelled(waiting.recv()).await {
        if first.reply.is_closed() {
            // Nobody waits for it any more; whoever gave up calls again.
            continue;
        }
        let (mut batches, mut replies) = (vec![first.batch], vec![first.reply]);
        let mut messages = batches[0].len();
        while messages < COMMIT_MESSAGES_MAX {
            let Ok(call) = waiting.try_recv() else { break };
            if call.reply.is_closed() {
                continue;
            }
            messages += call.batch.len();
            batches.push(call.batch);
            replies.push(call.reply);
        }
        let began = Instant::now();
        let outcome = match timeout(COMMIT_TIMEOUT, book.count(&batches)).await {
            Ok(Ok(outcomes)) => {
                histogram!(COMMIT_SECONDS, "file" => "tally").record(began.elapsed());
                histogram!(COMMIT_MESSAGES, "file" => "tally").record(messages as f64);
                Ok(outcomes)
            }
            Ok(Err(failure)) => Err(tally_error(&failure, book.database.path())),
            Err(_) => Err(error(format!(
                "{} did not take a commit within {COMMIT_TIMEOUT:?}; check the disk",
                book.database.path().display()
            ))),
        };
        match outcome {
            Ok(outcomes) => {
                for (reply, counted) in replies.into_iter().zip(outcomes) {
                    answer(reply, Ok(counted));
                }
            }
            Err(failure) => {
                for reply in replies {
                    answer(reply, Err(failure.clone()));
                }
            }
        }
    }
}

/// Makes the error of a file that is no whole book.
fn refusal(database: &Database, failure: BookError, place: &'static str) -> OpenError {
    match failure {
        BookError::Sql(error) => {
            let shared = |error: Arc<sqlx::Error>| sqlx::Error::Protocol(error.to_string());
            database.refusal(Arc::try_unwrap(error).unwrap_or_else(shared))
        }
        BookError::Damaged => OpenError::Foreign {
            path: database.path().to_owned(),
            what: "a damaged book of counts: its counts and its ids do not belong together",
            place,
            source: None,
        },
    }
}

/// Tells a caller what became of its batch; one that is gone does not want to know.
fn answer(caller: oneshot::Sender<Result<Counted, TallyError>>, outcome: Result<Counted, TallyError>) {
    caller.send(outcome).ok();
}

const fn error(reason: String) -> TallyError {
    TallyError { reason, cause: None }
}

fn tally_error(failure: &BookError, path: &Path) -> TallyError {
    match failure {
        BookError::Sql(cause) => TallyError {
            reason: explain(fault(cause), path),
            cause: Some(Arc::clone(cause) as Cause),
        },
        BookError::Damaged => error(format!(
            "{} is damaged: {failure}; restore it from a backup, or move it away to count anew",
            path.display()
        )),
    }
}

/// The right to make files in a folder of books, held while one is opened: two processes at once would both make the
/// schema.
///
/// A lock of its own and not the book's: whoever closes a file loses every lock that SQLite has on it.
struct Opening {
    folder: PathBuf,
    _lock: File,
}

impl Opening {
    async fn begin(folder: &Path, place: &'static str) -> Result<Self, OpenError> {
        let fail = |what| {
            let path = folder.to_owned();
            move |source| OpenError::Directory {
                path,
                what,
                place,
                source,
            }
        };
        directory::make(folder).map_err(fail("it cannot be made"))?;
        let folder = std::fs::canonicalize(folder).map_err(fail("it cannot be found"))?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(folder.join("opening.lock"))
            .map_err(fail("its lock file opening.lock cannot be opened for writing"))?;
        let deadline = Instant::now() + OPEN_PATIENCE;
        loop {
            match lock.try_lock() {
                Ok(()) => {
                    return Ok(Self { folder, _lock: lock });
                }
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    sleep(Duration::from_millis(20 + fastrand::u64(..20))).await;
                }
                Err(TryLockError::WouldBlock) => {
                    let source = std::io::ErrorKind::TimedOut.into();
                    return Err(fail("another process has been opening a book in it all the time")(source));
                }
                Err(TryLockError::Error(source)) => {
                    return Err(fail("its lock file opening.lock cannot be locked")(source));
                }
            }
        }
    }
}
