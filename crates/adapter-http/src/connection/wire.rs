//! The bytes of a connection, watched on their way.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::activity::Activity;
use super::refusal;

/// A stream that tells its [`Activity`] what passes, and explains the refusals that hyper writes by itself.
#[derive(Debug)]
pub(super) struct Wire {
    stream: TcpStream,
    activity: Arc<Activity>,
    /// An explained refusal that is still to be written; empty but for the end of a few connections.
    refusal: Vec<u8>,
}

impl Wire {
    pub(super) const fn new(stream: TcpStream, activity: Arc<Activity>) -> Self {
        Self {
            stream,
            activity,
            refusal: Vec::new(),
        }
    }

    pub(super) fn into_stream(self) -> TcpStream {
        self.stream
    }

    /// Looks whether the client is still there, without taking anything of what it sends.
    fn watch(&self, cx: &mut Context<'_>) {
        let mut byte = [0];
        let mut byte = ReadBuf::new(&mut byte);
        match self.stream.poll_peek(cx, &mut byte) {
            Poll::Pending => {}
            Poll::Ready(Ok(1..)) => self.activity.is_there(),
            Poll::Ready(Ok(0) | Err(_)) => self.activity.hang_up(),
        }
    }

    fn poll_refusal(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.refusal.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.refusal))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.refusal.drain(..written);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buffer));
        if read.is_ok() && buffer.filled().len() > before {
            self.activity.received();
        } else {
            self.activity.peer_gone();
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_refusal(cx))?;
        if let Some(explained) = refusal::explain(bytes) {
            self.refusal = explained;
            self.activity.sent();
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes));
        match &written {
            Ok(1..) => self.activity.sent(),
            _ => self.activity.peer_gone(),
        }
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_refusal(cx))?;
        // hyper flushes whenever it is polled, and reads nothing while an answer is made.
        if self.activity.wants_watching() {
            self.watch(cx);
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_refusal(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
