//! A TCP proxy on a link, which cuts, swallows, delays and slices what goes through it.
//!
//! It stands in for the network, so it does what networks do: what a hole holds back is there again when the hole is
//! mended, because TCP sends it again; what a middlebox has taken and lost never comes, so the connection is reset as
//! soon as anybody can hear of it. One thing it cannot do: a lost first packet. The system accepts connections by itself,
//! so in a hole a client connects and then hears nothing.
//!
//! What is random (jitter, the size of slices) comes from the seed. Nothing lives longer than the [`Proxy`], and it
//! holds at most 256 KiB a connection and direction.

mod bites;
mod carry;
mod fault;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

pub use self::bites::Bites;
use self::bites::Counters;
use self::carry::{Carried, Wire, carry};
pub use self::fault::{Direction, Fault};

/// How many connections there are at most; further ones wait to be accepted.
const MOST_CONNECTIONS: usize = 1_024;

/// How long it waits after the system could not accept a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// What the connections are to do.
#[derive(Clone, Copy, Debug, Default)]
struct Order {
    fault: Option<Fault>,
    /// How often a fault was set or healed.
    turn: u64,
    /// How often everything was cut.
    cuts: u64,
}

/// Carries connections to one address, with a fault or without.
///
/// Dropped, it closes every connection and its own address.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    upstream: SocketAddr,
    orders: watch::Sender<Order>,
    counters: Arc<Counters>,
    _accepting: AbortOnDropHandle<()>,
}

impl Proxy {
    /// Begins to carry, without a fault; needs a tokio runtime around it. `upstream` need not answer yet.
    ///
    /// # Errors
    /// No address is to be had on 127.0.0.1.
    pub fn start(upstream: SocketAddr, seed: u64) -> Result<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").context("cannot listen for a proxy")?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let address = listener.local_addr()?;
        let (orders, seen) = watch::channel(Order::default());
        let counters = Arc::<Counters>::default();
        let wire = Arc::new(Wire::new(upstream, Arc::clone(&counters)));
        let accepting = tokio::spawn(accept(listener, wire, seen, fastrand::Rng::with_seed(seed)));
        Ok(Self {
            address,
            upstream,
            orders,
            counters,
            _accepting: AbortOnDropHandle::new(accepting),
        })
    }

    /// Returns where to connect to instead of `upstream`.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns where everything is carried to.
    #[must_use]
    pub const fn upstream(&self) -> SocketAddr {
        self.upstream
    }

    /// Lets the link have this fault, instead of the one it has.
    pub fn set(&self, fault: Fault) {
        self.order(Some(fault));
    }

    /// Ends the fault. What was held back goes on its way at once; a connection that has lost something is reset.
    pub fn heal(&self) {
        self.order(None);
    }

    /// Resets every connection there is now; new ones are carried as before.
    pub fn cut_now(&self) {
        self.orders.send_modify(|order| order.cuts += 1);
    }

    /// Returns what the faults have done so far.
    #[must_use]
    pub fn bites(&self) -> Bites {
        self.counters.read()
    }

    fn order(&self, fault: Option<Fault>) {
        self.orders.send_modify(|order| {
            order.fault = fault;
            order.turn += 1;
        });
    }
}

/// Accepts until it is aborted, which ends its connections too.
async fn accept(
    listener: TcpListener,
    wire: Arc<Wire>,
    orders: watch::Receiver<Order>,
    mut random: fastrand::Rng,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MOST_CONNECTIONS => match accepted {
                Ok((client, _)) => {
                    wire.counters.connections(1);
                    connections.spawn(connection(client, Arc::clone(&wire), orders.clone(), random.fork()));
                }
                Err(_) => sleep(ACCEPT_PAUSE).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Carries one connection to its end.
async fn connection(
    client: TcpStream,
    wire: Arc<Wire>,
    orders: watch::Receiver<Order>,
    random: fastrand::Rng,
) {
    match carry(client, &wire, orders, random).await {
        Carried::Refused => wire.counters.refused(1),
        Carried::Cut => wire.counters.reset(1),
        Carried::Ended | Carried::Broken => {}
    }
}
