//! The data directory: made, and held by one process at a time.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::error::OpenError;

/// How long opening waits for a predecessor that is just ending.
const PATIENCE: Duration = Duration::from_secs(1);

/// A data directory that this process holds; let go when the last owner drops it, also by a crash.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    /// Locked as a whole by `flock`, which the kernel releases with the process.
    _lock: File,
}

impl Directory {
    /// Makes the directory where it is missing, and locks it.
    pub(crate) async fn hold(path: &Path, place: &'static str) -> Result<Self, OpenError> {
        let fail = |what| {
            let path = path.to_owned();
            move |source| OpenError::Directory {
                path,
                what,
                place,
                source,
            }
        };
        make(path).map_err(fail("it cannot be made"))?;
        let path = fs::canonicalize(path).map_err(fail("it cannot be found"))?;
        let name = path.join("warren.lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&name)
            .map_err(fail("its lock file warren.lock cannot be opened for writing"))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(Self { path, _lock: lock }),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    sleep(Duration::from_millis(20 + fastrand::u64(..20))).await;
                }
                Err(TryLockError::WouldBlock) => return Err(OpenError::InUse { path, place }),
                Err(TryLockError::Error(source)) => {
                    return Err(fail("its lock file warren.lock cannot be locked")(source));
                }
            }
        }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

/// Makes a directory and those above it, for its owner only.
pub(crate) fn make(path: &Path) -> std::io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    // What people write into their logs is nobody else's business.
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}
