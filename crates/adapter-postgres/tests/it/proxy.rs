//! A network that fails on demand, between a store and PostgreSQL.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::support::{Database, server_url};

/// What the network does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Network {
    /// Carries everything.
    Up,
    /// Keeps connections open and swallows everything.
    Silent,
    /// Carries what clients send and swallows every answer.
    Mute,
    /// Closes every connection, and each new one at once.
    Down,
}

pub(crate) struct Proxy {
    port: u16,
    network: watch::Sender<Network>,
    connections: Arc<AtomicUsize>,
    accepting: AbortHandle,
}

impl Proxy {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (network, state) = watch::channel(Network::Up);
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(carry(client, state.clone()));
            }
        });
        Self {
            port,
            network,
            connections,
            accepting: accepting.abort_handle(),
        }
    }

    pub(crate) fn set(&self, network: Network) {
        self.network.send_replace(network);
    }

    /// How many connections were ever made.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Returns the way to a database through this network.
    pub(crate) fn url(&self, database: &Database) -> String {
        let (user, _) = database.url.rsplit_once('@').unwrap();
        format!("{user}@127.0.0.1:{}/{}?sslmode=disable", self.port, database.name)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Returns host and port of the real server.
pub(crate) fn server_address() -> String {
    let url = server_url();
    let base = url.split('?').next().unwrap();
    let host = base.rsplit_once('@').unwrap().1.split('/').next().unwrap();
    if host.contains(':') {
        host.to_owned()
    } else {
        format!("{host}:5432")
    }
}

async fn carry(client: TcpStream, state: watch::Receiver<Network>) {
    if *state.borrow() == Network::Down {
        return;
    }
    let Ok(server) = TcpStream::connect(server_address()).await else {
        return;
    };
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let there = pump(
        from_client,
        to_server,
        state.clone(),
        &[Network::Up, Network::Mute],
    );
    let back = pump(from_server, to_client, state, &[Network::Up]);
    tokio::select! {
        () = there => {}
        () = back => {}
    }
}

async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut state: watch::Receiver<Network>,
    carrying: &[Network],
) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let now = *state.borrow_and_update();
        if now == Network::Down {
            return;
        }
        tokio::select! {
            changed = state.changed() => if changed.is_err() { return },
            read = from.read(&mut buffer) => match read {
                Ok(0) | Err(_) => return,
                Ok(n) => {
                    // What the network does not carry is lost, and the connection with it.
                    let carried = carrying.contains(&*state.borrow());
                    if carried && to.write_all(&buffer[..n]).await.is_err() { return }
                }
            },
        }
    }
}
