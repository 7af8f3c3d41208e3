//! A TCP proxy that stops carrying, cuts connections and goes on.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

pub struct Proxy {
    pub address: SocketAddr,
    carries: watch::Sender<bool>,
    cut: watch::Sender<CancellationToken>,
    _accepting: AbortOnDropHandle<()>,
}

impl Proxy {
    pub async fn to(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (carries, gate) = watch::channel(true);
        let (cut, knife) = watch::channel(CancellationToken::new());
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, gate, cut) = (server.clone(), gate.clone(), knife.borrow().clone());
                tokio::spawn(async move { cut.run_until_cancelled(carry(client, server, gate)).await });
            }
        });
        Self {
            address,
            carries,
            cut,
            _accepting: AbortOnDropHandle::new(accepting),
        }
    }

    /// Carries nothing any more, in neither direction, and keeps the connections.
    pub fn hang(&self) {
        self.carries.send_replace(false);
    }

    pub fn heal(&self) {
        self.carries.send_replace(true);
    }

    /// Cuts every connection there is.
    pub fn cut(&self) {
        self.cut.send_replace(CancellationToken::new()).cancel();
    }
}

async fn carry(client: TcpStream, server: String, gate: watch::Receiver<bool>) {
    let Ok(server) = TcpStream::connect(server).await else {
        return;
    };
    let ((client_in, client_out), (server_in, server_out)) = (client.into_split(), server.into_split());
    tokio::select! {
        () = pass(client_in, server_out, gate.clone()) => {}
        () = pass(server_in, client_out, gate) => {}
    }
}

async fn pass(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut gate: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else {
            return;
        };
        if gate.wait_for(|carries| *carries).await.is_err() {
            return;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
