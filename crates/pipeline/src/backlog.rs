//! What waits for the store loop.

use std::sync::Arc;
use std::time::Duration;

use metrics::gauge;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::debug;
use warren_domain::ports::GroupLag;

use crate::metrics::{BACKLOG_KNOWN, BACKLOG_MESSAGES, BACKLOG_PACKETS, BACKLOG_UNACKNOWLEDGED};

/// How often the broker is asked.
const EVERY: Duration = Duration::from_secs(1);

/// Shows what waits for the store loop until `stop` is cancelled; while it cannot be told, the last number stays, and that it
/// is not known is shown beside it.
pub async fn watch_backlog(lag: Arc<dyn GroupLag>, stop: CancellationToken) {
    let known = gauge!(BACKLOG_KNOWN);
    known.set(0.0);
    let watching = async {
        loop {
            let lag = lag.lag().await;
            known.set(f64::from(u8::from(lag.is_ok())));
            match lag {
                Ok(lag) => {
                    gauge!(BACKLOG_PACKETS).set(lag.packets as f64);
                    gauge!(BACKLOG_UNACKNOWLEDGED).set(lag.unacknowledged.packets as f64);
                    if let Some(messages) = lag.messages {
                        gauge!(BACKLOG_MESSAGES).set(messages as f64);
                    }
                }
                // Its reason is in the health of the broker.
                Err(unknown) => debug!(reason = %unknown, "cannot tell what waits for the store loop"),
            }
            sleep(EVERY).await;
        }
    };
    stop.run_until_cancelled(watching).await;
}
