//! A TCP proxy in front of the broker that hangs, holds back and cuts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::support::address;

#[derive(Clone, Copy, Debug, PartialEq)]
struct Gates {
    to_broker: bool,
    to_client: bool,
    accepts: bool,
    works: bool,
}

pub struct Proxy {
    address: SocketAddr,
    gates: watch::Sender<Gates>,
    cut: watch::Sender<CancellationToken>,
    live: Arc<AtomicUsize>,
    opened: Arc<AtomicUsize>,
    _accepting: AbortOnDropHandle<()>,
}

impl Proxy {
    pub async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener)
    }

    pub fn on(listener: TcpListener) -> Self {
        let address = listener.local_addr().unwrap();
        let open = Gates {
            to_broker: true,
            to_client: true,
            accepts: true,
            works: true,
        };
        let (gates, gates_seen) = watch::channel(open);
        let (cut, cut_seen) = watch::channel(CancellationToken::new());
        let (live, opened) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let counters = (Arc::clone(&live), Arc::clone(&opened));
        let accepting = tokio::spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else {
                    continue;
                };
                if !gates_seen.borrow().accepts {
                    continue;
                }
                counters.1.fetch_add(1, Ordering::Relaxed);
                let (gates, cut) = (gates_seen.clone(), cut_seen.borrow().clone());
                let live = Arc::clone(&counters.0);
                tokio::spawn(async move {
                    live.fetch_add(1, Ordering::Relaxed);
                    cut.run_until_cancelled(carry(client, gates, cut.clone())).await;
                    live.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        Self {
            address,
            gates,
            cut,
            live,
            opened,
            _accepting: AbortOnDropHandle::new(accepting),
        }
    }

    pub fn authority(&self) -> String {
        self.address.to_string()
    }

    /// Carries nothing any more, in neither direction, and keeps the connections.
    pub fn hang(&self) {
        self.gates
            .send_modify(|gates| (gates.to_broker, gates.to_client) = (false, false));
    }

    /// Holds back what the broker says.
    pub fn mute_broker(&self) {
        self.gates.send_modify(|gates| gates.to_client = false);
    }

    /// Closes every new connection at once.
    pub fn refuse(&self) {
        self.gates.send_modify(|gates| gates.accepts = false);
    }

    /// Lets every connection in, and closes it at its first declaration.
    pub fn refuse_work(&self) {
        self.gates.send_modify(|gates| gates.works = false);
    }

    /// Carries everything again.
    pub fn heal(&self) {
        self.gates.send_modify(|gates| {
            *gates = Gates {
                to_broker: true,
                to_client: true,
                accepts: true,
                works: true,
            };
        });
    }

    /// Cuts every connection there is; what is held back is lost.
    pub fn cut(&self) {
        self.cut.send_replace(CancellationToken::new()).cancel();
    }

    /// How many connections there are.
    pub fn live(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }

    /// How many connections there have been.
    pub fn opened(&self) -> usize {
        self.opened.load(Ordering::Relaxed)
    }
}

/// The class and the number of the method that every connection of ours begins its work with.
/// <https://www.rabbitmq.com/amqp-0-9-1-reference#exchange.declare>
const EXCHANGE_DECLARE: [u8; 4] = [0, 40, 0, 10];

async fn carry(client: TcpStream, gates: watch::Receiver<Gates>, cut: CancellationToken) {
    let Ok(broker) = TcpStream::connect(address().authority).await else {
        return;
    };
    let ((client_in, client_out), (broker_in, broker_out)) = (client.into_split(), broker.into_split());
    tokio::select! {
        () = pass(client_in, broker_out, gates.clone(), &cut, |gates| gates.to_broker) => {}
        () = pass(broker_in, client_out, gates, &cut, |gates| gates.to_client) => {}
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut gates: watch::Receiver<Gates>,
    cut: &CancellationToken,
    open: fn(&Gates) -> bool,
) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        if gates.wait_for(open).await.is_err() {
            return;
        }
        let Ok(count @ 1..) = from.read(&mut buffer).await else {
            return;
        };
        // What was read while the gate was closing is held back too, and a cut comes before the next opening.
        let opened = gates.wait_for(open).await.is_ok() && !cut.is_cancelled();
        let declares = buffer[..count].windows(4).any(|bytes| bytes == EXCHANGE_DECLARE);
        if declares && !gates.borrow().works {
            return;
        }
        if !opened || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
