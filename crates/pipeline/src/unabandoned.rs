//! Work that is finished even when nobody waits for it any more.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;

/// A future that is driven to its end even when whoever waited for it has gone.
///
/// It runs in the place of its caller, which costs no task and no wake-up, and becomes a task only when it is dropped
/// unfinished.
pub(crate) struct Unabandoned<T: Send + 'static>(Option<Pin<Box<dyn Future<Output = T> + Send>>>);

impl<T: Send + 'static> Unabandoned<T> {
    pub(crate) fn new(future: impl Future<Output = T> + Send + 'static) -> Self {
        Self(Some(Box::pin(future)))
    }
}

impl<T: Send + 'static> Future for Unabandoned<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        // Taken out while it is polled: after a panic there is nothing left to go on with.
        let Some(mut future) = self.0.take() else {
            return Poll::Pending;
        };
        let done = future.as_mut().poll(cx);
        if done.is_pending() {
            self.0 = Some(future);
        }
        done
    }
}

impl<T: Send + 'static> Drop for Unabandoned<T> {
    fn drop(&mut self) {
        // Without a runtime nothing can go on.
        if let Some(future) = self.0.take()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(async move { drop(future.await) });
        }
    }
}
