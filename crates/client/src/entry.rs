//! One message on its way into the logger.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;

use serde_json::{Map, Value};
use warren_domain::{Draft, Message, MessageId, Rejection, Severity, Source, Timestamp};

use crate::shared::Shared;

/// A message that is about to be logged.
///
/// It is logged at the end of its statement, when it is dropped. To learn what became of it, end the statement with
/// [`send`](Entry::send), which waits for room on this thread where the policy is to wait, or with `.await`, which
/// waits in this task:
///
/// ```
/// # use warren_client::{Logger, MessageId, NotLogged};
/// # async fn shop(logger: Logger) -> Result<(), NotLogged> {
/// logger.info("shop opened");
/// logger.error("card declined").attribute("order", 42);
/// let id: MessageId = logger.critical("till is on fire").attribute("till", 3).await?;
/// # Ok(())
/// # }
/// ```
///
/// What goes in is checked at that moment, in the caller's thread. It never panics: a body or attributes over the
/// limits are an error where the call returns one, and always counted as rejected.
///
/// Inside a runtime a full queue under [`WhenFull::Wait`](crate::WhenFull::Wait) is better waited for with `.await`:
/// the other two ways hold up the thread, and with it the runtime's other tasks. They cannot block each other for ever:
/// the sender has a thread of its own.
#[derive(Debug)]
pub struct Entry {
    shared: Arc<Shared>,
    /// Taken out when it is logged.
    draft: Option<Draft>,
    common: Arc<Map<String, Value>>,
}

impl Entry {
    pub(crate) fn new(
        shared: &Arc<Shared>,
        severity: Severity,
        source: &Source,
        common: &Arc<Map<String, Value>>,
        mut body: String,
    ) -> Self {
        // What is spare would be held unweighed.
        body.shrink_to_fit();
        let draft = Draft {
            id: Some(MessageId::generate()),
            severity: Some(severity),
            source: Some(source.clone()),
            body: Some(body),
            attributes: None,
            occurred_at: Some(Timestamp::now()),
            received_at: None,
            idempotency: None,
        };
        Self {
            shared: Arc::clone(shared),
            draft: Some(draft),
            common: Arc::clone(common),
        }
    }

    fn change(mut self, change: impl FnOnce(&mut Draft)) -> Self {
        if let Some(draft) = &mut self.draft {
            change(draft);
        }
        self
    }

    /// Adds an attribute; the last one of a name counts, before the logger's own.
    ///
    /// A float that is no number becomes `null`, as in all JSON.
    pub fn attribute(self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.attributes([(key, value)])
    }

    /// Adds several attributes.
    pub fn attributes<K: Into<String>, V: Into<Value>>(
        self,
        attributes: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        self.change(|draft| {
            let all = draft.attributes.get_or_insert_default();
            all.extend(
                attributes
                    .into_iter()
                    .map(|(key, value)| (key.into(), value.into())),
            );
        })
    }

    /// Replaces the logger's source for this message.
    pub fn source(self, source: Source) -> Self {
        self.change(|draft| draft.source = Some(source))
    }

    /// Replaces the id that was made for it: a message is stored once under an id, however often it is logged.
    pub fn id(self, id: MessageId) -> Self {
        self.change(|draft| draft.id = Some(id))
    }

    /// Replaces the time of the call.
    pub fn occurred_at(self, moment: Timestamp) -> Self {
        self.change(|draft| draft.occurred_at = Some(moment))
    }

    /// Logs it now; where the policy is to wait for room, this thread waits.
    ///
    /// `Ok` means that the logger has it, not yet the broker: see [`Logger::flush`](crate::Logger::flush).
    ///
    /// # Errors
    /// [`NotLogged`]; it is counted, too.
    pub fn send(mut self) -> Result<MessageId, NotLogged> {
        self.log()
    }

    fn log(&mut self) -> Result<MessageId, NotLogged> {
        let message = self.message()?;
        let id = message.id;
        self.shared.put_blocking(message)?;
        Ok(id)
    }

    /// Makes the message, or counts it as rejected.
    fn message(&mut self) -> Result<Message, NotLogged> {
        let mut draft = self.draft.take().unwrap_or_default();
        if !self.common.is_empty() {
            let own = draft.attributes.take();
            let mut all = Map::clone(&self.common);
            all.extend(own.into_iter().flatten());
            draft.attributes = Some(all);
        }
        let severity = draft.severity.unwrap_or(Severity::Info);
        draft
            .into_message(&self.shared.limits, Timestamp::now())
            .map_err(|rejection| {
                self.shared.queue().reject(severity);
                NotLogged::Rejected(rejection)
            })
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if self.draft.is_some() {
            // Who wants to know calls `send`; the logger has counted it.
            drop(self.log());
        }
    }
}

impl IntoFuture for Entry {
    type Output = Result<MessageId, NotLogged>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    /// Logs it; where the policy is to wait for room, this task waits. Dropped before that is done, also without ever
    /// having been polled, it counts as dropped.
    fn into_future(mut self) -> Self::IntoFuture {
        let put = self
            .message()
            .map(|message| (message.id, self.shared.put(message)));
        Box::pin(async move {
            let (id, put) = put?;
            put.await?;
            Ok(id)
        })
    }
}

/// Why a message was not logged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotLogged {
    /// It is no message: what is wrong, and how to mend it. Counted as rejected.
    #[error("it cannot be logged: {0}")]
    Rejected(Rejection),
    /// There is no room for it, and nothing less grave could make room. Counted as dropped.
    #[error("the logger is full")]
    Full,
    /// The logger was closed before. Counted as dropped.
    #[error("the logger is closed")]
    Closed,
}
