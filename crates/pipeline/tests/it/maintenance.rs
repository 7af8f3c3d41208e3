use std::time::{Duration, Instant};

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use warren_adapter_conformance::PATIENCE;
use warren_adapter_conformance::scripted::ScriptedMaintenance;
use warren_domain::ports::StoreError;
use warren_pipeline::{MaintenanceConfig, run_maintenance};

fn every(interval: Duration) -> MaintenanceConfig {
    MaintenanceConfig { interval }
}

#[tokio::test]
async fn rounds_of_maintenance_go_on_until_they_are_stopped() {
    let store = ScriptedMaintenance::new([]);
    let stop = CancellationToken::new();
    let config = every(Duration::from_millis(5));
    let running = tokio::spawn(run_maintenance(store.clone(), config, stop.clone()));
    timeout(PATIENCE, store.begun(3)).await.unwrap();
    stop.cancel();
    timeout(PATIENCE, running).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_failed_round_of_maintenance_is_tried_again_before_the_interval_is_over() {
    let failure = StoreError::Unavailable {
        reason: "as scripted".to_owned(),
        cause: None,
    };
    let store = ScriptedMaintenance::new([failure]);
    let stop = CancellationToken::new();
    let config = every(Duration::from_secs(3_600));
    let began = Instant::now();
    let running = tokio::spawn(run_maintenance(store.clone(), config, stop.clone()));
    timeout(PATIENCE, store.begun(2)).await.unwrap();
    assert!(began.elapsed() >= Duration::from_millis(50), "not at once");
    stop.cancel();
    timeout(PATIENCE, running).await.unwrap().unwrap();
}
