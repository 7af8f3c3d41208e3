//! A fake is allowed once it passes the suite.

#![allow(missing_docs)]

use std::sync::Arc;

use async_trait::async_trait;
use warren_adapter_conformance::dead_letters::DeadLettersUnderTest;
use warren_adapter_conformance::reader::ReaderUnderTest;
use warren_adapter_conformance::scripted::ScriptedStore;
use warren_adapter_conformance::scripted_letters::ScriptedDeadLetters;
use warren_adapter_conformance::scripted_reader::ScriptedReader;
use warren_adapter_conformance::store::StoreUnderTest;
use warren_domain::ports::{DeadLetters, MessageReader, MessageStore};
use warren_domain::{Message, MessageId, SeverityCounts};

struct Subject(Arc<ScriptedStore>);

async fn fresh() -> Arc<Subject> {
    Arc::new(Subject(ScriptedStore::new([])))
}

#[async_trait]
impl StoreUnderTest for Subject {
    fn store(&self) -> Arc<dyn MessageStore> {
        Arc::clone(&self.0) as Arc<dyn MessageStore>
    }

    async fn find(&self, ids: &[MessageId]) -> Vec<Message> {
        let mut rows = self.0.rows();
        rows.retain(|message| ids.contains(&message.id));
        for message in &mut rows {
            message.idempotency = None;
        }
        rows
    }

    async fn counts(&self) -> SeverityCounts {
        self.0.rows().iter().map(|message| message.severity).collect()
    }

    async fn refuse(&self, id: MessageId) -> bool {
        self.0.refuse(id);
        true
    }

    async fn tear_down(&self) {}
}

warren_adapter_conformance::store_suite!(fresh());

struct Letters(Arc<ScriptedDeadLetters>);

async fn no_letters() -> Arc<Letters> {
    Arc::new(Letters(ScriptedDeadLetters::new()))
}

#[async_trait]
impl DeadLettersUnderTest for Letters {
    fn letters(&self) -> Arc<dyn DeadLetters> {
        Arc::clone(&self.0) as Arc<dyn DeadLetters>
    }

    async fn tear_down(&self) {}
}

warren_adapter_conformance::dead_letters_suite!(no_letters());

struct Messages(ScriptedReader);

async fn no_messages() -> Arc<Messages> {
    Arc::new(Messages(ScriptedReader::new()))
}

#[async_trait]
impl ReaderUnderTest for Messages {
    fn store(&self) -> Arc<dyn MessageStore> {
        Arc::new(self.0.clone())
    }

    fn reader(&self) -> Arc<dyn MessageReader> {
        Arc::new(self.0.clone())
    }

    fn hasty_reader(&self) -> Arc<dyn MessageReader> {
        Arc::new(self.0.hasty(1))
    }

    async fn reader_of_slow_counts(&self) -> Option<Arc<dyn MessageReader>> {
        None
    }

    async fn maintain(&self) {}

    async fn tear_down(&self) {}
}

warren_adapter_conformance::reader_suite!(no_messages());
