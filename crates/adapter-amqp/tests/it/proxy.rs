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
    takes_messages: bool,
    confirms: bool,
}

const OPEN: Gates = Gates {
    to_broker: true,
    to_client: true,
    accepts: true,
    works: true,
    takes_messages: true,
    confirms: true,
};

pub struct Proxy {
    address: SocketAddr,
    gates: watch::Sender<Gates>,
    cut: watch::Sender<CancellationToken>,
    live: Arc<AtomicUsize>,
    opened: Arc<AtomicUsize>,
    held: Arc<AtomicUsize>,
    _accepting: AbortOnDropHandle<()>,
}

impl Proxy {
    pub async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener)
    }

    pub fn on(listener: TcpListener) -> Self {
        let address = listener.local_addr().unwrap();
        let (gates, gates_seen) = watch::channel(OPEN);
        let (cut, cut_seen) = watch::channel(CancellationToken::new());
        let (live, opened) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let held = Arc::new(AtomicUsize::new(0));
        let counters = (Arc::clone(&live), Arc::clone(&opened), Arc::clone(&held));
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
                let (live, held) = (Arc::clone(&counters.0), Arc::clone(&counters.2));
                tokio::spawn(async move {
                    live.fetch_add(1, Ordering::Relaxed);
                    cut.run_until_cancelled(carry(client, gates, cut.clone(), held))
                        .await;
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
            held,
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
        self.gates.send_modify(|gates| *gates = OPEN);
    }

    /// Lets every connection do all but publish: from its first message on, the broker reads nothing of it any more, as
    /// under an alarm.
    pub fn take_no_messages(&self) {
        self.gates.send_modify(|gates| gates.takes_messages = false);
    }

    /// Holds back the broker's confirms and what follows them on the same connection.
    pub fn hold_confirms(&self) {
        self.gates.send_modify(|gates| gates.confirms = false);
    }

    /// How many connections have had something held back for what it was.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
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
const BASIC_PUBLISH: [u8; 4] = [0, 60, 0, 40];
const BASIC_ACK: [u8; 4] = [0, 60, 0, 80];
/// What stands before the class of a method: the kind of frame, the channel, the length.
const FRAME_HEAD: usize = 7;

/// Returns where the first frame begins that holds this method on the first channel.
fn frame_of(bytes: &[u8], method: [u8; 4]) -> Option<usize> {
    bytes
        .windows(FRAME_HEAD + 4)
        .position(|frame| frame[..3] == [1, 0, 1] && frame[FRAME_HEAD..] == method)
}

async fn carry(
    client: TcpStream,
    gates: watch::Receiver<Gates>,
    cut: CancellationToken,
    held: Arc<AtomicUsize>,
) {
    let Ok(broker) = TcpStream::connect(address().authority).await else {
        return;
    };
    let ((client_in, client_out), (broker_in, broker_out)) = (client.into_split(), broker.into_split());
    tokio::select! {
        () = pass(client_in, broker_out, gates.clone(), &cut, &held, TO_BROKER) => {}
        () = pass(broker_in, client_out, gates, &cut, &held, TO_CLIENT) => {}
    }
}

/// What holds one direction back: all of it, or from a certain method on.
#[derive(Clone, Copy)]
struct Direction {
    open: fn(&Gates) -> bool,
    method: [u8; 4],
    lets_method: fn(&Gates) -> bool,
}

const TO_BROKER: Direction = Direction {
    open: |gates| gates.to_broker,
    method: BASIC_PUBLISH,
    lets_method: |gates| gates.takes_messages,
};
const TO_CLIENT: Direction = Direction {
    open: |gates| gates.to_client,
    method: BASIC_ACK,
    lets_method: |gates| gates.confirms,
};

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut gates: watch::Receiver<Gates>,
    cut: &CancellationToken,
    held: &AtomicUsize,
    direction: Direction,
) {
    let Direction {
        open,
        method,
        lets_method,
    } = direction;
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
        let mut sent = 0;
        if !lets_method(&gates.borrow())
            && let Some(at) = frame_of(&buffer[..count], method)
        {
            sent = at;
            if to.write_all(&buffer[..sent]).await.is_err() {
                return;
            }
            held.fetch_add(1, Ordering::Relaxed);
            if gates.wait_for(lets_method).await.is_err() || cut.is_cancelled() {
                return;
            }
        }
        if !opened || to.write_all(&buffer[sent..count]).await.is_err() {
            return;
        }
    }
}
