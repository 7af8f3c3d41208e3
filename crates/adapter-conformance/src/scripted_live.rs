//! A broker that is watched and says what a test wants it to.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use warren_domain::ports::{LiveEvent, LiveMessages, LiveStream, Unhealthy};
use warren_domain::{Message, SeverityCounts};

/// How much may be said that nobody has heard yet.
const MOST: usize = 100_000;

/// Says to whoever listens what the test says; nothing is kept for those who come later.
#[derive(Debug)]
pub struct ScriptedLive {
    listeners: Mutex<Vec<mpsc::Sender<LiveEvent>>>,
    /// Why nobody can begin to listen.
    down: Mutex<Option<String>>,
    /// How often somebody has begun to listen.
    begun: watch::Sender<usize>,
}

impl ScriptedLive {
    /// Makes one that can be listened to.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            listeners: Mutex::default(),
            down: Mutex::default(),
            begun: watch::Sender::new(0),
        })
    }

    /// Lets nobody begin to listen any more, or everybody again.
    pub fn set_down(&self, reason: Option<&str>) {
        *self.down.lock().unwrap_or_else(PoisonError::into_inner) = reason.map(str::to_owned);
    }

    /// Says something to everyone who listens.
    pub fn say(&self, event: &LiveEvent) {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|listener| tell(listener, event.clone()));
    }

    /// Publishes messages.
    pub fn publish(&self, messages: &[Message]) {
        for message in messages {
            self.say(&LiveEvent::Message(Box::new(message.clone())));
        }
    }

    /// Ends every stream.
    pub fn hang_up(&self) {
        self.listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// Returns how often somebody has begun to listen.
    pub fn begun(&self) -> usize {
        *self.begun.borrow()
    }

    /// Returns how many listen.
    pub fn listening(&self) -> usize {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|listener| !listener.is_closed());
        listeners.len()
    }
}

/// Tells whether `listener` still listens.
fn tell(listener: &mpsc::Sender<LiveEvent>, event: LiveEvent) -> bool {
    match listener.try_send(event) {
        Ok(()) => true,
        Err(TrySendError::Closed(_)) => false,
        Err(TrySendError::Full(_)) => panic!("a test says more than {MOST} events at once"),
    }
}

#[async_trait]
impl LiveMessages for ScriptedLive {
    async fn listen(&self) -> Result<Box<dyn LiveStream>, Unhealthy> {
        let down = self.down.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(reason) = down {
            return Err(Unhealthy(reason));
        }
        let (sender, events) = mpsc::channel(MOST);
        tell(&sender, LiveEvent::Listening);
        self.listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(sender);
        self.begun.send_modify(|begun| *begun += 1);
        Ok(Box::new(Stream {
            events,
            said: VecDeque::new(),
        }))
    }
}

#[derive(Debug)]
struct Stream {
    events: mpsc::Receiver<LiveEvent>,
    /// What stood between messages that were passed over.
    said: VecDeque<LiveEvent>,
}

#[async_trait]
impl LiveStream for Stream {
    async fn next(&mut self) -> Option<LiveEvent> {
        match self.said.pop_front() {
            Some(event) => Some(event),
            None => self.events.recv().await,
        }
    }

    fn pass_over(&mut self) -> SeverityCounts {
        let mut passed = SeverityCounts::default();
        while let Ok(event) = self.events.try_recv() {
            match event {
                LiveEvent::Message(message) => passed.add(message.severity, 1),
                event => self.said.push_back(event),
            }
        }
        passed
    }

    async fn close(self: Box<Self>) {}
}
