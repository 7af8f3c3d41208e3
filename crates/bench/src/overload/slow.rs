//! Clients that send a byte now and then, and never come to an end.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// How many there are of each kind.
pub(crate) const EACH: usize = 200;
/// How often each sends a byte.
const DRIP: Duration = Duration::from_millis(500);
/// How long they are watched; longer than every limit of the server.
const PATIENCE: Duration = Duration::from_secs(60);

/// What became of the slow clients of one kind.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Closed {
    pub(crate) closed: usize,
    /// When the last of them was, after it began.
    pub(crate) last: Duration,
}

/// Slow clients at work.
pub(crate) struct Clients {
    heads: JoinSet<Result<Option<Duration>>>,
    bodies: JoinSet<Result<Option<Duration>>>,
}

impl Clients {
    /// Connects all of them.
    ///
    /// # Errors
    /// The server takes no connections.
    pub(crate) async fn begin(address: SocketAddr) -> Result<Self> {
        let (mut heads, mut bodies) = (JoinSet::new(), JoinSet::new());
        for _ in 0..EACH {
            for (set, begin) in [
                (&mut heads, "POST /v1/messages HTTP/1.1\r\nhost: slow\r\nx-slow: "),
                (
                    &mut bodies,
                    "POST /v1/messages HTTP/1.1\r\nhost: slow\r\ncontent-length: 10000\r\n\r\n{",
                ),
            ] {
                let stream = TcpStream::connect(address)
                    .await
                    .context("a slow client cannot connect")?;
                set.spawn(drip(stream, begin));
            }
        }
        Ok(Self { heads, bodies })
    }

    /// Waits until the server has closed them; slow heads first.
    ///
    /// # Errors
    /// One of them failed by itself.
    pub(crate) async fn end(self) -> Result<[Closed; 2]> {
        let mut closed = [Closed::default(); 2];
        for (mut set, closed) in [self.heads, self.bodies].into_iter().zip(&mut closed) {
            while let Some(ended) = set.join_next().await {
                if let Some(after) = ended?? {
                    closed.closed += 1;
                    closed.last = closed.last.max(after);
                }
            }
        }
        Ok(closed)
    }
}

/// Sends a byte now and then; returns after how long the server closed, if it did.
async fn drip(stream: TcpStream, begin: &'static str) -> Result<Option<Duration>> {
    let started = Instant::now();
    let (mut reader, mut writer) = stream.into_split();
    writer.write_all(begin.as_bytes()).await?;
    let reading = async {
        let mut said = Vec::new();
        // A reset is a close, too.
        drop(reader.read_to_end(&mut said).await);
    };
    let dripping = async {
        loop {
            sleep(DRIP).await;
            if writer.write_all(b"x").await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    let closed = async {
        tokio::select! {
            () = reading => {}
            () = dripping => {}
        }
    };
    Ok(timeout(PATIENCE, closed).await.ok().map(|()| started.elapsed()))
}
