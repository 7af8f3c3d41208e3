//! Lets a write-ahead log begin anew, however many read.
//!
//! SQLite writes the log from its beginning again once all of it is in the file and nobody reads what is in it. Readers
//! that overlap each other all the time would never let it come to that, and the log would grow for as long as they read.
//! So they pass a gate before each of their statements, and whoever moves the log closes it for a moment. No writer waits
//! for anybody.

use std::time::Duration;

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::time::timeout;

/// What readers pass.
#[derive(Debug, Default)]
pub(crate) struct LogGate(RwLock<()>);

impl LogGate {
    /// How long whoever closes the gate waits for those who have passed it.
    const PATIENCE: Duration = Duration::from_secs(5);

    /// Lets a statement through until what is returned is dropped. One that has waited for `patience` goes without: that
    /// puts off the log's new beginning, and does no harm.
    pub(crate) async fn pass(&self, patience: Duration) -> Option<RwLockReadGuard<'_, ()>> {
        timeout(patience, self.0.read()).await.ok()
    }

    /// Lets nobody through until what is returned is dropped; `None` when those who were there before are still reading
    /// after five seconds.
    pub(crate) async fn close(&self) -> Option<RwLockWriteGuard<'_, ()>> {
        timeout(Self::PATIENCE, self.0.write()).await.ok()
    }
}
