//! What is left of connections that are gone: nothing, but that they are counted.

use std::process::Command;

use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::runtime::Handle;
use warren_adapter_amqp::{AmqpConfig, AmqpConsumer, AmqpPublisher};
use warren_adapter_conformance::samples::messages;
use warren_domain::ports::{ConsumerGroup, HealthCheck, MessagePublisher};

use crate::proxy::Proxy;
use crate::support::{Corner, eventually, take, unhealthy};

const CHILD: &str = "WARREN_TEST_RECONNECTING_CHILD";
const CUTS: usize = 50;

/// What the process holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    files: usize,
    threads: usize,
    tasks: usize,
}

impl Held {
    fn now() -> Self {
        let count = |path| std::fs::read_dir(path).unwrap().count();
        Self {
            files: count("/proc/self/fd"),
            threads: count("/proc/self/task"),
            tasks: Handle::current().metrics().num_alive_tasks(),
        }
    }

    fn is_within(self, other: Self) -> bool {
        self.files <= other.files && self.threads <= other.threads && self.tasks <= other.tasks
    }
}

#[test]
fn fifty_lost_connections_are_counted_and_leave_no_file_no_thread_and_no_task_behind() {
    // In a process of its own: what other tests hold would be counted, too.
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "reconnecting::loses_fifty_connections", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout) + String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success(), "{said}");
}

/// The other side of the test above: runs only when that starts it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loses_fifty_connections() {
    #[allow(clippy::disallowed_methods, reason = "tests have no settings")]
    if std::env::var(CHILD).is_err() {
        return;
    }
    let numbers = PrometheusBuilder::new().install_recorder().unwrap();
    Corner::run(|corner| async move {
        let proxies = [Proxy::new().await, Proxy::new().await];
        let config = |proxy: &Proxy| AmqpConfig {
            reconnect_max: std::time::Duration::from_millis(100),
            ..corner.at(&proxy.authority())
        };
        let publisher = AmqpPublisher::start(config(&proxies[0])).unwrap();
        let mut consumer = AmqpConsumer::new(config(&proxies[1]), ConsumerGroup::Store).unwrap();
        let health = consumer.health();
        publisher.publish(messages(1), None).await.unwrap();
        take(&mut consumer, 1).await;
        let before = Held::now();
        for _ in 0..CUTS {
            let seen = proxies.each_ref().map(Proxy::opened);
            proxies.iter().for_each(Proxy::cut);
            eventually("both have connected again", async || {
                let opened = proxies.each_ref().map(Proxy::opened);
                opened[0] > seen[0]
                    && opened[1] > seen[1]
                    && publisher.check().await.is_ok()
                    && health.check().await.is_ok()
            })
            .await;
        }
        let sent = messages(1);
        publisher.publish(sent.clone(), None).await.unwrap();
        assert_eq!(take(&mut consumer, 1).await, sent);
        let mut now = Held::now();
        let returned = tokio::time::timeout(crate::support::PATIENCE, async {
            while !now.is_within(before) {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                now = Held::now();
            }
        });
        let returned = returned.await.is_ok();
        assert!(returned, "before: {before:?}, after: {now:?}");

        let page = numbers.render();
        for role in ["publish", "consume"] {
            let lost: usize = page
                .lines()
                .filter(|line| {
                    line.starts_with("warren_amqp_lost_connections_total{")
                        && line.contains(&format!("role=\"{role}\""))
                })
                .map(|line| line.rsplit(' ').next().unwrap().parse::<usize>().unwrap())
                .sum();
            assert!(lost >= CUTS, "{lost} of {role} in\n{page}");
        }
        // The reason is shown while there is no connection.
        proxies.iter().for_each(Proxy::refuse);
        proxies.iter().for_each(Proxy::cut);
        for health in [&publisher as &dyn HealthCheck, &*health] {
            let said = unhealthy(health, "connect").await;
            assert!(!said.is_empty());
        }
    })
    .await;
}
