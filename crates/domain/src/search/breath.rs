//! Long work on a thread that others need.

use std::future::poll_fn;
use std::task::Poll;

/// Lets other tasks have the thread every so many bytes that were read or looked through, which is some milliseconds.
#[derive(Debug, Default)]
pub struct Breath {
    bytes: usize,
}

impl Breath {
    const BYTES: usize = 256 << 10;

    /// Waits for another turn when there have been enough bytes since the last one.
    pub async fn after(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes < Self::BYTES {
            return;
        }
        self.bytes = 0;
        let mut waited = false;
        poll_fn(|context| {
            if std::mem::replace(&mut waited, true) {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    #[test]
    fn a_turn_ends_after_so_many_bytes() {
        let mut breath = Breath::default();
        let mut context = Context::from_waker(Waker::noop());
        for (bytes, waits) in [
            (Breath::BYTES - 1, false),
            (1, true),
            (1, false),
            (usize::MAX, true),
        ] {
            let mut after = pin!(breath.after(bytes));
            assert_eq!(after.as_mut().poll(&mut context).is_pending(), waits, "{bytes}");
            if waits {
                assert!(after.as_mut().poll(&mut context).is_ready());
            }
        }
    }
}
