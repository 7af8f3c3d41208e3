use std::process::Command;
use std::time::Duration;

#[tokio::test]
async fn the_first_signal_asks_for_an_orderly_stop() {
    let stop = warren_process::shutdown::on_signals().unwrap();
    assert!(!stop.is_cancelled());
    let sent = Command::new("sh")
        .args(["-c", "kill -TERM $PPID"])
        .status()
        .unwrap();
    assert!(sent.success());
    tokio::time::timeout(Duration::from_secs(10), stop.cancelled())
        .await
        .unwrap();
}
