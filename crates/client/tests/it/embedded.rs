//! Into the embedded log.

use tokio::time::timeout;
use warren_adapter_embedded::{Embedded, EmbeddedConfig};
use warren_client::{Logger, Severity};
use warren_domain::ports::ConsumerGroup;

use crate::support::{PATIENCE, counts};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_logged_is_in_the_log_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let config = EmbeddedConfig {
        path: folder.path().join("data"),
        ..EmbeddedConfig::default()
    };
    let embedded = Embedded::open(config, None).await.unwrap();
    let mut consumer = embedded.consumer(ConsumerGroup::Store);
    let logger = Logger::builder()
        .source("shop")
        .start(embedded.publisher())
        .unwrap();
    for n in 0..100 {
        logger.log(Severity::ALL[n % 5], format!("message {n}"));
    }
    let report = logger.close(PATIENCE).await;
    assert!(report.is_complete(), "{report:?}");
    let mut taken = Vec::new();
    while taken.len() < 100 {
        let mut delivery = timeout(PATIENCE, consumer.next()).await.unwrap().unwrap();
        taken.append(&mut delivery.messages);
        delivery.ack().await.unwrap();
    }
    let severities = taken.iter().map(|message| message.severity).collect();
    assert_eq!(counts(Severity::ALL.map(|severity| (severity, 20))), severities);
    consumer.close().await;
    embedded.close().await;
}
