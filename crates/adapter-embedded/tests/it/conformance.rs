//! The ports' contracts.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tempfile::TempDir;
use warren_adapter_conformance::broker::BrokerUnderTest;
use warren_adapter_conformance::dead_letters::DeadLettersUnderTest;
use warren_adapter_conformance::live::LiveUnderTest;
use warren_adapter_conformance::reader::ReaderUnderTest;
use warren_adapter_conformance::store::StoreUnderTest;
use warren_adapter_embedded::{Embedded, ReaderConfig};
use warren_domain::ports::{
    ConsumerGroup, DeadLetters, GroupLag, GroupName, LiveMessages, MessageConsumer, MessagePublisher,
    MessageReader, MessageStore,
};
use warren_domain::{Message, MessageId, SeverityCounts, Timestamp};

use crate::support::{config, counts, directory, stored};

struct Subject {
    embedded: Embedded,
    prefetch: usize,
    directory: TempDir,
}

async fn fresh() -> Arc<Subject> {
    let directory = directory();
    let config = config(directory.path());
    let prefetch = config.prefetch;
    Arc::new(Subject {
        embedded: Embedded::open(config, None).await.unwrap(),
        prefetch,
        directory,
    })
}

#[async_trait]
impl BrokerUnderTest for Subject {
    fn publisher(&self) -> Arc<dyn MessagePublisher> {
        self.embedded.publisher()
    }

    async fn consumer(&self, group: ConsumerGroup) -> Box<dyn MessageConsumer> {
        self.embedded.consumer(group)
    }

    fn lag(&self, group: &GroupName) -> Arc<dyn GroupLag> {
        self.embedded.lag(group)
    }

    async fn dead_letters(&self) -> Vec<(String, Message)> {
        let letters = crate::support::letters(&self.embedded).await;
        letters
            .into_iter()
            .map(|(letter, content)| {
                let reason = letter.facts.reason.as_str().to_owned();
                (reason, Message::from_json(&content).unwrap())
            })
            .collect()
    }

    fn prefetch(&self) -> Option<usize> {
        Some(self.prefetch)
    }

    async fn tear_down(&self) {
        self.embedded.close().await;
    }
}

#[async_trait]
impl StoreUnderTest for Subject {
    fn store(&self) -> Arc<dyn MessageStore> {
        self.embedded.store()
    }

    async fn find(&self, ids: &[MessageId]) -> Vec<Message> {
        stored(&self.embedded, ids).await
    }

    async fn counts(&self) -> SeverityCounts {
        counts(&self.embedded).await
    }

    async fn refuse(&self, id: MessageId) -> bool {
        let trigger = format!(
            "create trigger refusal_{id} before insert on messages when new.id = x'{id}' \
             begin select raise(abort, 'refused'); end",
            id = id.as_uuid().simple()
        );
        let file = self.directory.path().join("data/store.db");
        crate::opening::run_sql(&file, &[&trigger]).await;
        true
    }

    async fn forget(&self, now: Timestamp) -> bool {
        self.embedded.maintenance().maintain(now).await.unwrap();
        true
    }

    async fn tear_down(&self) {
        self.embedded.close().await;
    }
}

#[async_trait]
impl DeadLettersUnderTest for Subject {
    fn letters(&self) -> Arc<dyn DeadLetters> {
        self.embedded.dead_letters()
    }

    async fn tear_down(&self) {
        self.embedded.close().await;
    }
}

#[async_trait]
impl ReaderUnderTest for Subject {
    fn store(&self) -> Arc<dyn MessageStore> {
        self.embedded.store()
    }

    fn reader(&self) -> Arc<dyn MessageReader> {
        Arc::new(self.embedded.reader(&ReaderConfig::default()))
    }

    fn hasty_reader(&self) -> Arc<dyn MessageReader> {
        Arc::new(self.embedded.reader(&ReaderConfig {
            search_time: Duration::from_millis(1),
            ..ReaderConfig::default()
        }))
    }

    async fn reader_of_slow_counts(&self) -> Option<Arc<dyn MessageReader>> {
        let file = self.directory.path().join("data/store.db");
        crate::opening::run_sql(&file, &crate::reading::ENDLESS).await;
        Some(Arc::new(self.embedded.reader(&ReaderConfig {
            statement_timeout: Duration::from_millis(100),
            ..ReaderConfig::default()
        })))
    }

    async fn maintain(&self) {
        self.embedded
            .maintenance()
            .maintain(Timestamp::now())
            .await
            .unwrap();
    }

    async fn tear_down(&self) {
        self.embedded.close().await;
    }
}

#[async_trait]
impl LiveUnderTest for Subject {
    fn publisher(&self) -> Arc<dyn MessagePublisher> {
        self.embedded.publisher()
    }

    fn live(&self) -> Arc<dyn LiveMessages> {
        self.embedded.live()
    }

    async fn tear_down(&self) {
        self.embedded.close().await;
    }
}

mod broker {
    warren_adapter_conformance::broker_suite!(super::fresh());
}

mod store {
    warren_adapter_conformance::store_suite!(super::fresh());
}

mod dead_letters {
    warren_adapter_conformance::dead_letters_suite!(super::fresh());
}

mod reader {
    warren_adapter_conformance::reader_suite!(super::fresh());
}

mod live {
    warren_adapter_conformance::live_suite!(super::fresh());
}
