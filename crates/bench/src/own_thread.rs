//! Work on a thread and a runtime of its own.

use anyhow::{Context as _, Result};
use tokio::task::LocalSet;

use crate::cores::go_first;

/// Runs `work` on a new thread, which goes before others if it `goes_first`, and waits for it.
///
/// # Errors
/// As `work` does, or when there can be no such thread.
pub(crate) async fn on_own_thread<T, F>(
    name: &str,
    goes_first: bool,
    work: impl FnOnce() -> F + Send + 'static,
) -> Result<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T>>,
{
    let (done, outcome) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let run = || {
            if goes_first && !go_first() {
                eprintln!("  the load may not go before others, so its own delays count; root may");
            }
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            LocalSet::new().block_on(&runtime, work())
        };
        // Nobody waits any more when the measurement was given up.
        drop(done.send(run()));
    })?;
    outcome
        .await
        .with_context(|| format!("the thread {name} ended without a result"))?
}
