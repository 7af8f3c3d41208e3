//! What is shown of what waits for the store loop.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use warren_adapter_conformance::scripted::ScriptedLag;
use warren_domain::ports::{Lag, Unacknowledged, Unhealthy};
use warren_pipeline::watch_backlog;

use crate::recorder::Recorded;

#[tokio::test(start_paused = true)]
async fn a_number_that_is_not_known_any_more_stays_and_is_marked() {
    let recorded = Recorded::default();
    let _recording = metrics::set_default_local_recorder(&recorded);
    let (lag, stop) = (Arc::new(ScriptedLag::default()), CancellationToken::new());
    let shown = || ["known", "packets"].map(|name| recorded.gauge(&format!("warren_store_backlog_{name}")));
    lag.fail(Unhealthy("no connection".to_owned()));
    let watching = tokio::spawn(watch_backlog(lag.clone(), stop.clone()));
    // It asks at once, and then each second of a clock that goes on when everybody waits.
    let until_asked = async || sleep(Duration::from_millis(1_500)).await;
    tokio::task::yield_now().await;
    assert_eq!(shown(), [0.0, 0.0]);
    lag.set(Lag {
        packets: 7,
        unacknowledged: Unacknowledged {
            packets: 2,
            messages: None,
        },
        ..Lag::default()
    });
    until_asked().await;
    assert_eq!(shown(), [1.0, 7.0]);
    assert_eq!(recorded.gauge("warren_store_unacknowledged_packets"), 2.0);
    lag.fail(Unhealthy("no connection".to_owned()));
    until_asked().await;
    assert_eq!(shown(), [0.0, 7.0]);
    stop.cancel();
    watching.await.unwrap();
}
