//! A publisher whose calls a test sees and answers.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{Semaphore, mpsc};
use warren_domain::ports::{MessagePublisher, Unpublished};
use warren_domain::{Message, TraceContext};

/// Says with how many messages it was called, and answers when it is let.
#[derive(Debug)]
pub(crate) struct Gate {
    called: mpsc::Sender<usize>,
    pub(crate) open: Semaphore,
    panics: bool,
}

impl Gate {
    pub(crate) fn new() -> (Arc<Self>, mpsc::Receiver<usize>) {
        Self::with(false)
    }

    pub(crate) fn that_panics() -> (Arc<Self>, mpsc::Receiver<usize>) {
        Self::with(true)
    }

    fn with(panics: bool) -> (Arc<Self>, mpsc::Receiver<usize>) {
        let (called, calls) = mpsc::channel(1_000);
        (
            Arc::new(Self {
                called,
                open: Semaphore::new(0),
                panics,
            }),
            calls,
        )
    }
}

#[async_trait]
impl MessagePublisher for Gate {
    async fn publish(&self, messages: Vec<Message>, _: Option<TraceContext>) -> Result<(), Unpublished> {
        self.called.send(messages.len()).await.unwrap();
        assert!(!self.panics, "as scripted");
        self.open.acquire().await.unwrap().forget();
        Ok(())
    }
}
