//! Which bug this process has.

use std::cell::Cell;
use std::collections::HashSet;
use std::marker::PhantomData;
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::{Bug, VARIABLE};

/// The bug of the process, once it has looked.
static OF_PROCESS: OnceLock<Option<Bug>> = OnceLock::new();

/// The bugs that were asked for once.
static ASKED: Mutex<Option<HashSet<Bug>>> = Mutex::new(None);

thread_local! {
    static OF_THREAD: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// [`VARIABLE`] names no bug.
#[derive(Debug, thiserror::Error)]
#[error("{VARIABLE}: {0}")]
pub struct UnknownBug(String);

/// Gives the process the bug that [`VARIABLE`] names; returns it.
///
/// # Errors
/// It names none that there is.
pub fn plant_from_environment() -> Result<Option<Bug>, UnknownBug> {
    let bug = match std::env::var_os(VARIABLE) {
        Some(name) => Some(name.to_string_lossy().parse().map_err(UnknownBug)?),
        None => None,
    };
    Ok(*OF_PROCESS.get_or_init(|| bug))
}

/// Tells whether the code has this bug.
#[must_use]
pub fn planted(bug: Bug) -> bool {
    OF_THREAD.get() == Some(bug) || OF_PROCESS.get() == Some(&Some(bug))
}

/// Tells whether the code has this bug, from the second time on that it is asked.
#[must_use]
pub fn planted_from_second_time(bug: Bug) -> bool {
    if !planted(bug) {
        return false;
    }
    let mut asked = ASKED.lock().unwrap_or_else(PoisonError::into_inner);
    !asked.get_or_insert_default().insert(bug)
}

/// A bug of this thread; dropped, it is gone. Tests of code with bugs run beside tests of code without.
#[derive(Debug)]
pub struct Planted(PhantomData<*const ()>);

/// Gives this thread a bug for a while.
#[must_use]
pub fn plant(bug: Bug) -> Planted {
    OF_THREAD.set(Some(bug));
    Planted(PhantomData)
}

impl Drop for Planted {
    fn drop(&mut self) {
        OF_THREAD.set(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_has_its_bug_until_it_is_dug_out() {
        let held = plant(Bug::NoUniqueKey);
        assert!(planted(Bug::NoUniqueKey) && !planted(Bug::MandatoryOff));
        assert!(!std::thread::spawn(|| planted(Bug::NoUniqueKey)).join().unwrap());
        assert!(!planted_from_second_time(Bug::NoUniqueKey));
        assert!(planted_from_second_time(Bug::NoUniqueKey));
        drop(held);
        assert!(!planted(Bug::NoUniqueKey) && !planted_from_second_time(Bug::NoUniqueKey));
    }
}
