//! The listener: binds, accepts within bounds, drains.
//!
//! `axum::serve` and axum-server were measured and left aside: the first never closes a silent connection, the second
//! has no bound on connections and no idle timeout apart from the one for a request's head.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures_util::FutureExt;
use hyper::server::conn::http1;
use hyper_util::rt::TokioTimer;
use metrics::{Gauge, gauge};
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::unconstrained;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};
use warren_pipeline::Backoff;

use crate::config::{HttpConfig, host_and_port};
use crate::connection::{self, Stop, Timeouts};
use crate::hosts::Hosts;
use crate::metrics::CONNECTIONS;
use crate::reading::Room;
use crate::routes::Routes;

/// How many connections the kernel keeps ready to be accepted; it may cap this (`net.core.somaxconn`).
const BACKLOG: u32 = 4_096;
/// The largest head of a request, in bytes, and the most that hyper reads at a time.
const HEAD_BYTES: usize = 64 << 10;
/// How long the name in `http.listen` may take to be resolved.
const LOOKUP_TIME: Duration = Duration::from_secs(5);
/// How long connections that are cut have to notice.
const CUT_TIME: Duration = Duration::from_secs(1);

/// Why a server cannot listen: which address, why, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {listen}: {reason}")]
pub struct BindError {
    listen: String,
    reason: &'static str,
    #[source]
    source: Option<io::Error>,
}

impl BindError {
    fn new(listen: &str, source: io::Error) -> Self {
        let reason = match source.kind() {
            io::ErrorKind::AddrInUse => {
                "another program listens there; stop it, or set http.listen to another port"
            }
            io::ErrorKind::AddrNotAvailable => {
                "this machine has no such address; set http.listen to one it has, or to 0.0.0.0 for all"
            }
            io::ErrorKind::PermissionDenied => {
                "not allowed; ports below 1024 need a privilege, set http.listen to a port above"
            }
            _ => "the address cannot be used; check http.listen",
        };
        Self {
            listen: listen.to_owned(),
            reason,
            source: Some(source),
        }
    }

    fn unknown(listen: &str, reason: &'static str, source: Option<io::Error>) -> Self {
        Self {
            listen: listen.to_owned(),
            reason,
            source,
        }
    }
}

/// An HTTP/1.1 server that listens already and is still to serve.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    local_addr: SocketAddr,
    config: HttpConfig,
}

/// How a server has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// When it began to stop.
    pub began: Instant,
    /// How many connections were cut off with a request unanswered, because the drain timeout was over.
    pub cut: usize,
}

impl Server {
    /// Listens on `http.listen`. Clients may connect from now on; they are answered once [`Server::serve`] runs.
    ///
    /// # Errors
    /// [`BindError`], for the operator.
    pub async fn bind(config: &HttpConfig) -> Result<Self, BindError> {
        let listen = config.listen.as_str();
        let Ok((host, port)) = host_and_port(listen) else {
            return Err(BindError::unknown(
                listen,
                "write http.listen as address:port",
                None,
            ));
        };
        let looked_up = timeout(LOOKUP_TIME, lookup_host((host, port)));
        let addresses = looked_up
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|error| {
                BindError::unknown(
                    listen,
                    "the name cannot be resolved; set http.listen to an address",
                    Some(error),
                )
            })?;
        let mut failed = None;
        for address in addresses {
            match listen_on(address) {
                Ok((listener, local_addr)) => {
                    return Ok(Self {
                        listener,
                        local_addr,
                        config: config.clone(),
                    });
                }
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.map_or_else(
            || {
                BindError::unknown(
                    listen,
                    "the name has no address; set http.listen to an address",
                    None,
                )
            },
            |error| BindError::new(listen, error),
        ))
    }

    /// Returns the address it listens on; with port 0, the one that was taken.
    pub const fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Serves `routes` until `shutdown` is cancelled; then stops in steps.
    ///
    /// First it is not ready, ends every tail, and ends a connection with each answer, but goes on accepting for
    /// `http.drain_delay`, as balancers notice late. Then it takes no more connections and finishes the requests at hand
    /// for `http.drain_timeout`. What is left is cut off and has another second to notice.
    pub async fn serve(self, routes: Routes, shutdown: CancellationToken) -> Drained {
        let Self {
            listener,
            local_addr,
            config,
        } = self;
        let (health, tail) = (routes.health.clone(), routes.tail.clone());
        let own = host_and_port(&config.listen).map_or("", |(host, _)| host);
        let router = routes.router(Hosts::of(&config.hosts, own, local_addr), Room::of(&config));
        let stop = Arc::new(Stop::default());
        let acceptor = Acceptor::new(listener, router, &config, Arc::clone(&stop));
        let began;
        {
            let mut accepting = pin!(acceptor.accept());
            tokio::select! {
                never = &mut accepting => match never {},
                () = shutdown.cancelled() => {}
            }
            health.start_draining();
            if let Some(tail) = tail {
                tail.close();
            }
            stop.leave();
            began = Instant::now();
            drop(timeout(config.drain_delay, accepting).await);
        }
        let connections = acceptor.close();

        stop.drain();
        connections.close();
        if timeout(config.drain_timeout, connections.wait()).await.is_ok() {
            return Drained { began, cut: 0 };
        }
        let cut = connections.len();
        warn!(
            connections = cut,
            "http.drain_timeout is over; cutting what is left"
        );
        stop.cut();
        if timeout(CUT_TIME, connections.wait()).await.is_err() {
            info!(connections = connections.len(), "connections outlive the server");
        }
        Drained { began, cut }
    }
}

fn listen_on(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // A restarted server must not wait for the old one's last connections to time out.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    let listener = socket.listen(BACKLOG)?;
    let local_addr = listener.local_addr()?;
    Ok((listener, local_addr))
}

/// Accepts connections, never more than `max_connections` at once, and has each served by a task.
struct Acceptor {
    listener: TcpListener,
    router: Router,
    builder: http1::Builder,
    timeouts: Timeouts,
    stop: Arc<Stop>,
    slots: Arc<Semaphore>,
    open: Gauge,
    connections: TaskTracker,
}

impl Acceptor {
    fn new(listener: TcpListener, router: Router, config: &HttpConfig, stop: Arc<Stop>) -> Self {
        Self {
            listener,
            router,
            builder: http(),
            timeouts: Timeouts {
                first_request: config.first_request_timeout,
                header: config.header_timeout,
                idle: config.idle_timeout,
            },
            stop,
            slots: Arc::new(Semaphore::new(config.max_connections)),
            open: gauge!(CONNECTIONS),
            connections: TaskTracker::new(),
        }
    }

    /// Accepts for ever.
    async fn accept(&self) -> Infallible {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
        let mut failing = false;
        loop {
            // Nobody closes the semaphore.
            let Ok(slot) = Arc::clone(&self.slots).acquire_owned().await else {
                return pending().await;
            };
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                // The peer has gone while it waited; that is its own matter.
                Err(error) if is_of_the_peer(&error) => continue,
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        warn!(%error, "cannot accept connections; raise the limit of open files if it is exceeded");
                    }
                    sleep(backoff.next_wait()).await;
                    continue;
                }
            };
            if std::mem::take(&mut failing) {
                info!("accepting connections again");
                backoff.reset();
            }
            self.serve(stream, slot);
        }
    }

    /// Takes what the kernel has ready, as nobody else can, and then no more.
    fn close(self) -> TaskTracker {
        while let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned()
            && let Some(Ok((stream, _))) = unconstrained(self.listener.accept()).now_or_never()
        {
            self.serve(stream, slot);
        }
        self.connections
    }

    fn serve(&self, stream: TcpStream, slot: OwnedSemaphorePermit) {
        // An answer is one small segment; without this it may wait 40 ms for the client's acknowledgement. A socket
        // that refuses the option is about to fail anyway.
        drop(stream.set_nodelay(true));
        let (router, builder) = (self.router.clone(), self.builder.clone());
        let (timeouts, stop) = (self.timeouts, Arc::clone(&self.stop));
        let open = Open::new(slot, self.open.clone());
        self.connections.spawn(async move {
            connection::serve(stream, router, &builder, timeouts, stop).await;
            drop(open);
        });
    }
}

/// An open connection: its slot, counted.
#[derive(Debug)]
struct Open {
    _slot: OwnedSemaphorePermit,
    open: Gauge,
}

impl Open {
    fn new(slot: OwnedSemaphorePermit, open: Gauge) -> Self {
        open.increment(1);
        Self { _slot: slot, open }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.open.decrement(1);
    }
}

fn is_of_the_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

fn http() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        // The connection's own watch bounds it, and tells it from a silent connection.
        .header_read_timeout(None)
        // A client that has sent all it has and shuts its side still gets its answer.
        .half_close(true)
        // hyper's own limit of 100 headers stays: setting it takes a slower path.
        .max_header_size(HEAD_BYTES)
        // A kept connection may keep a buffer of this size while it is idle.
        .max_buf_size(HEAD_BYTES);
    builder
}
