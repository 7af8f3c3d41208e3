//! Calls that wait as long as a test wants.

use tokio::sync::watch;

/// The calls that are under way, and whether they wait.
#[derive(Debug)]
pub(crate) struct Calls {
    held: watch::Sender<bool>,
    under_way: watch::Sender<usize>,
}

impl Default for Calls {
    fn default() -> Self {
        Self {
            held: watch::Sender::new(false),
            under_way: watch::Sender::new(0),
        }
    }
}

impl Calls {
    pub(crate) fn hold(&self, held: bool) {
        self.held.send_replace(held);
    }

    /// Waits until exactly so many are under way.
    pub(crate) async fn are(&self, calls: usize) {
        let mut under_way = self.under_way.subscribe();
        under_way
            .wait_for(|now| *now == calls)
            .await
            .expect("it is not dropped meanwhile");
    }

    /// Begins one, and waits while they are held.
    pub(crate) async fn begin(&self) -> UnderWay<'_> {
        let under_way = UnderWay::new(&self.under_way);
        let mut held = self.held.subscribe();
        held.wait_for(|held| !held)
            .await
            .expect("it is not dropped meanwhile");
        under_way
    }
}

/// A call that is under way, until it is dropped.
pub(crate) struct UnderWay<'c>(&'c watch::Sender<usize>);

impl<'c> UnderWay<'c> {
    fn new(calls: &'c watch::Sender<usize>) -> Self {
        calls.send_modify(|calls| *calls += 1);
        Self(calls)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|calls| *calls -= 1);
    }
}
