//! From the signal to the end: stop taking, finish what is held, give the rest back.

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Cancels the returned token at the first SIGTERM or SIGINT. The second one ends the process at once, with the
/// code a shell would show: 143 or 130.
///
/// # Errors
/// When the operating system refuses to register the handlers.
///
/// # Panics
/// Outside of a tokio runtime.
pub fn on_signals() -> io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let stopping = token.clone();
    tokio::spawn(async move {
        let first = next(&mut terminate, &mut interrupt).await;
        tracing::info!(signal = first.name, "stopping; a second signal ends at once");
        stopping.cancel();
        let second = next(&mut terminate, &mut interrupt).await;
        tracing::warn!(
            signal = second.name,
            "ended by a second signal before everything was finished"
        );
        end_at_once(second);
    });
    Ok(token)
}

#[derive(Clone, Copy)]
struct Received {
    name: &'static str,
    exit_code: i32,
}

async fn next(terminate: &mut Signal, interrupt: &mut Signal) -> Received {
    tokio::select! {
        _ = terminate.recv() => Received { name: "SIGTERM", exit_code: 143 },
        _ = interrupt.recv() => Received { name: "SIGINT", exit_code: 130 },
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "skipping the drain is what the second signal asks for"
)]
fn end_at_once(signal: Received) {
    std::process::exit(signal.exit_code);
}

/// How long a stopping process has, after its server has finished or cut off the last request, to finish what was
/// handed over and to close its connections.
pub const CLOSING_TIME: Duration = Duration::from_secs(5);

/// Waits for `work` to finish, at most `deadline`; then drops it and returns `None`.
///
/// What `work` is called stands in the log line, which is the operator's only trace of what was given up.
pub async fn drain<F: Future>(what: &str, deadline: Duration, work: F) -> Option<F::Output> {
    match tokio::time::timeout(deadline, work).await {
        Ok(output) => Some(output),
        Err(_) => {
            tracing::warn!(what, ?deadline, "not finished within the deadline; given up");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_that_outlasts_the_deadline_is_given_up() {
        assert_eq!(
            drain("quick", Duration::from_secs(60), async { 7 }).await,
            Some(7)
        );
        assert_eq!(
            drain("endless", Duration::from_millis(5), std::future::pending::<()>()).await,
            None
        );
    }
}
