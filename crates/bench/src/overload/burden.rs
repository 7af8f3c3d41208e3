//! Somebody who takes a share of a core and does nothing with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::time::sleep;

use crate::own_thread::on_own_thread;

/// How often the share is taken, as often as a load sends.
const TURN: Duration = Duration::from_millis(1);

/// Does `work` while a thread that goes before others, as a load does, is busy for a share of each turn, from 0 to 1; on
/// the cores of the thread that calls.
///
/// # Errors
/// As `work` does, or when there can be no such thread.
pub(crate) async fn beside<T>(share: f64, work: impl Future<Output = Result<T>>) -> Result<T> {
    let over = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&over);
    let taking = on_own_thread("burden", true, move || take(share, seen));
    let working = async {
        let outcome = work.await;
        over.store(true, Ordering::Relaxed);
        outcome
    };
    let (taken, outcome) = tokio::join!(taking, working);
    taken?;
    outcome
}

async fn take(share: f64, over: Arc<AtomicBool>) -> Result<()> {
    let began = Instant::now();
    let mut taken = Duration::ZERO;
    while !over.load(Ordering::Relaxed) {
        // What a long sleep has missed is made up for.
        let due = began.elapsed().mul_f64(share).saturating_sub(taken);
        let turn = Instant::now();
        while turn.elapsed() < due {
            std::hint::spin_loop();
        }
        taken += turn.elapsed();
        sleep(TURN).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost::Family;

    #[tokio::test]
    async fn it_costs_processor_for_as_long_as_the_work_lasts() {
        let own = Family::alone(std::process::id());
        let before = own.processor_seconds().unwrap();
        let work = async {
            sleep(Duration::from_millis(500)).await;
            Ok(7)
        };
        assert_eq!(beside(0.5, work).await.unwrap(), 7);
        assert!(own.processor_seconds().unwrap() > before);
    }
}
