//! `kill -9` in the middle of everything.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use warren_adapter_conformance::samples::messages;
use warren_domain::MessageId;
use warren_domain::ports::ConsumerGroup;

use crate::opening::count;
use crate::support::{PATIENCE, counts, directory, drain, open, stored};

const CHILD: &str = "WARREN_TEST_EMBEDDED_CHILD";
const ROUNDS: u64 = 8;

/// The other side of the test below: runs only when that starts it.
#[test]
fn publishes_and_stores_until_it_is_killed() {
    let Ok(directory) = std::env::var(CHILD) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async move {
        let embedded = Arc::new(open(std::path::Path::new(&directory)).await);
        for n in 0..8 {
            let publisher = embedded.publisher();
            tokio::spawn(async move {
                loop {
                    let batch = messages(if n == 0 { 300 } else { 1 + n % 3 });
                    let mut line: Vec<_> = batch.iter().map(|message| message.id.to_string()).collect();
                    publisher.publish(batch, None).await.unwrap();
                    line.push("acknowledged\n".to_owned());
                    // In one piece, so that a kill cuts a line rather than mixes two.
                    std::io::stdout()
                        .lock()
                        .write_all(line.join(" ").as_bytes())
                        .unwrap();
                }
            });
        }
        let store = embedded.store();
        let mut consumer = embedded.consumer(ConsumerGroup::Store);
        while let Some(delivery) = consumer.next().await {
            store.store(&delivery.messages).await.unwrap();
            delivery.ack().await.unwrap();
        }
    });
}

fn start(directory: &std::path::Path) -> (Child, Receiver<Vec<MessageId>>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "kill::publishes_and_stores_until_it_is_killed",
            "--nocapture",
        ])
        .env(CHILD, directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (sender, acknowledged) = channel();
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            if let Some(ids) = line.strip_suffix(" acknowledged") {
                // What libtest prints may stand before the first id.
                let ids = ids.split(' ').filter_map(|id| id.parse().ok()).collect();
                sender.send(ids).unwrap();
            }
        }
    });
    (child, acknowledged)
}

#[test]
fn nothing_acknowledged_is_lost_by_kill_9_and_nothing_is_stored_twice() {
    let directory = directory();
    let mut acknowledged = HashSet::new();
    for round in 0..ROUNDS {
        let (mut child, ids) = start(directory.path());
        // The moment is random, but always in the middle of work.
        acknowledged.extend(ids.recv_timeout(PATIENCE).unwrap());
        let moment = Instant::now() + Duration::from_micros(fastrand::u64(0..200_000 * (round + 1)));
        while let Ok(more) = ids.recv_timeout(moment.saturating_duration_since(Instant::now())) {
            acknowledged.extend(more);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // Until the reader has seen the end of the pipe.
        acknowledged.extend(ids.iter().flatten());
    }
    let acknowledged: Vec<_> = acknowledged.into_iter().collect();
    assert!(acknowledged.len() > 1_000, "{} are too few", acknowledged.len());

    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let embedded = open(directory.path()).await;
        drain(&embedded).await;
        let stored = stored(&embedded, &acknowledged).await;
        assert_eq!(stored.len(), acknowledged.len(), "acknowledged and lost");
        let counted = counts(&embedded).await.total();
        embedded.close().await;
        drop(embedded);
        let (queue, store) = (
            directory.path().join("data/queue.db"),
            directory.path().join("data/store.db"),
        );
        assert_eq!(
            count(&store, "select count(*) from messages").await as u64,
            counted
        );
        assert_eq!(count(&queue, "select count(*) from log").await, 0);
        for file in [queue, store] {
            let sound = "select count(*) from pragma_integrity_check where integrity_check = 'ok'";
            assert_eq!(count(&file, sound).await, 1);
        }
    });
}
