//! One connection: two directions, each with what it has read and may not pass on yet.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::Order;
use super::bites::Counters;
use super::fault::{Direction, Fault};

/// How many bytes of one direction are held at most; then nothing more is read, and the sender feels it.
const MOST_HELD: usize = 256 << 10;

/// How many bytes are read at once.
const CHUNK: usize = 16 << 10;

/// How long the server may take to accept.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carried {
    /// Both ends have closed it.
    Ended,
    /// One of the ends broke it, or the server did not accept it.
    Broken,
    /// A fault has reset it.
    Cut,
    /// A fault has reset it before it stood.
    Refused,
}

/// What the connections of a link share.
#[derive(Debug)]
pub(super) struct Wire {
    upstream: SocketAddr,
    pub(super) counters: Arc<Counters>,
    lines: [Mutex<Line>; 2],
}

/// One direction of a link that has a bandwidth.
#[derive(Debug, Default)]
struct Line {
    /// The turn in which it got it.
    turn: u64,
    /// When everything so far has gone through.
    free: Option<Instant>,
}

impl Wire {
    pub(super) fn new(upstream: SocketAddr, counters: Arc<Counters>) -> Self {
        Self {
            upstream,
            counters,
            lines: Default::default(),
        }
    }

    /// Returns when `bytes` more have gone through a line that carries `rate` bytes a second since `turn`.
    fn through(&self, direction: Direction, turn: u64, bytes: usize, rate: u64) -> Instant {
        let line = &self.lines[usize::from(direction == Direction::ToClient)];
        let mut line = line.lock().unwrap_or_else(PoisonError::into_inner);
        if line.turn != turn {
            *line = Line { turn, free: None };
        }
        let now = Instant::now();
        let from = line.free.map_or(now, |free| free.max(now));
        *line
            .free
            .insert(from + Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64))
    }
}

/// Carries a connection to its end; both sides hear of a reset as one.
pub(super) async fn carry(
    mut client: TcpStream,
    wire: &Wire,
    mut orders: watch::Receiver<Order>,
    mut random: fastrand::Rng,
) -> Carried {
    let cuts = orders.borrow().cuts;
    let mut upstream = match connected(wire, &mut orders, cuts).await {
        Ok(upstream) => upstream,
        Err(carried) => {
            reset(client);
            return carried;
        }
    };
    // What an application sends in one piece arrives as one, as far as it is up to the proxy.
    let prompt = client.set_nodelay(true).and(upstream.set_nodelay(true));
    let (from_client, to_client) = client.split();
    let (from_upstream, to_upstream) = upstream.split();
    let mut half = |from, to, direction| Half {
        from,
        to,
        direction,
        wire,
        orders: orders.clone(),
        random: random.fork(),
        cuts,
        turn: None,
        allowance: None,
        swallowed: false,
        waiting: VecDeque::new(),
        held: 0,
        ended: None,
    };
    let there = half(from_client, to_upstream, Direction::ToUpstream);
    let back = half(from_upstream, to_client, Direction::ToClient);
    let carried = match prompt {
        Ok(()) => tokio::try_join!(there.pass(), back.pass()),
        Err(_) => Err(Carried::Broken),
    };
    match carried {
        Ok(_) => Carried::Ended,
        Err(carried) => {
            reset(client);
            reset(upstream);
            carried
        }
    }
}

/// Connects to the server once the fault lets a connection come to stand.
async fn connected(
    wire: &Wire,
    orders: &mut watch::Receiver<Order>,
    cuts: u64,
) -> Result<TcpStream, Carried> {
    let mut waited = false;
    loop {
        let order = *orders.borrow_and_update();
        match order.fault {
            _ if order.cuts != cuts => return Err(Carried::Refused),
            Some(Fault::Cut) => return Err(Carried::Refused),
            Some(fault) if !fault.connects() => {}
            _ => break,
        }
        if !waited {
            waited = true;
            wire.counters.waited(1);
        }
        orders.changed().await.map_err(|_| Carried::Broken)?;
    }
    match timeout(CONNECT_TIMEOUT, TcpStream::connect(wire.upstream)).await {
        Ok(Ok(upstream)) => Ok(upstream),
        Ok(Err(_)) | Err(_) => Err(Carried::Broken),
    }
}

/// Closes a connection so that the other end cannot take it for a farewell.
fn reset(connection: TcpStream) {
    // It fails only on a socket that is no connection any more.
    if let Err(error) = connection.set_zero_linger() {
        debug_assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
    }
}

/// A piece on its way, and when it arrives at the earliest.
#[derive(Debug)]
struct Piece {
    due: Instant,
    bytes: Bytes,
}

/// How a side stopped sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SideEnd {
    Closed,
    Broken,
}

/// One direction of a connection.
struct Half<'a> {
    from: ReadHalf<'a>,
    to: WriteHalf<'a>,
    direction: Direction,
    wire: &'a Wire,
    orders: watch::Receiver<Order>,
    random: fastrand::Rng,
    /// The cuts before this connection.
    cuts: u64,
    /// The turn that was last heeded.
    turn: Option<u64>,
    /// How many bytes may still pass before the connection is reset.
    allowance: Option<u64>,
    /// Something was taken and lost.
    swallowed: bool,
    waiting: VecDeque<Piece>,
    /// How many bytes wait.
    held: usize,
    ended: Option<SideEnd>,
}

impl Half<'_> {
    /// Passes on what comes, until its side has closed and everything has arrived.
    async fn pass(mut self) -> Result<(), Carried> {
        let mut buffer = vec![0; CHUNK];
        loop {
            let fault = self.heed()?;
            let open = fault.is_none_or(|fault| !fault.holds(self.direction) && fault != Fault::Swallow);
            if open && self.waiting.is_empty() {
                match self.ended {
                    Some(SideEnd::Closed) => {
                        return self.to.shutdown().await.map_err(|_| Carried::Broken);
                    }
                    Some(SideEnd::Broken) => return Err(Carried::Broken),
                    None => {}
                }
            }
            let (most, chunk) = room(fault);
            let wanted = most.saturating_sub(self.held).min(chunk);
            let piece = self.waiting.front();
            let size = self.allowance.map_or(usize::MAX, |allowance| {
                usize::try_from(allowance).unwrap_or(usize::MAX)
            });
            let size = match fault {
                Some(Fault::Slice(most)) => size.min(slice(&mut self.random, most)),
                _ => size,
            };
            tokio::select! {
                biased;
                changed = self.orders.changed() => changed.map_err(|_| Carried::Broken)?,
                read = self.from.read(&mut buffer[..wanted]), if wanted > 0 && self.ended.is_none() => match read {
                    Ok(0) => self.ended = Some(SideEnd::Closed),
                    Ok(count) => self.take(&buffer[..count], fault),
                    Err(_) => self.ended = Some(SideEnd::Broken),
                },
                written = write(&mut self.to, piece, size), if open && piece.is_some() => {
                    self.passed(written.map_err(|_| Carried::Broken)?, fault)?;
                }
            }
        }
    }

    /// Returns the fault there is, after what its beginning or its predecessor's end asks for.
    fn heed(&mut self) -> Result<Option<Fault>, Carried> {
        let order = *self.orders.borrow_and_update();
        if order.fault == Some(Fault::Cut) || order.cuts != self.cuts {
            return Err(Carried::Cut);
        }
        if self.turn != Some(order.turn) {
            self.turn = Some(order.turn);
            if self.swallowed {
                return Err(Carried::Cut);
            }
            self.allowance = match order.fault {
                Some(Fault::CutAfter { bytes, direction }) if direction == self.direction => Some(bytes),
                _ => None,
            };
            let now = Instant::now();
            self.waiting.iter_mut().for_each(|piece| piece.due = now);
            let holds = order.fault.is_some_and(|fault| fault.holds(self.direction));
            if holds {
                self.wire.counters.held(self.held as u64);
            }
        }
        if order.fault == Some(Fault::Swallow) && (self.held > 0 || self.ended.is_some()) {
            self.wire.counters.swallowed(self.held as u64);
            self.swallowed = true;
            self.waiting.clear();
            self.held = 0;
        }
        Ok(order.fault)
    }

    /// Takes what was read on its way.
    fn take(&mut self, bytes: &[u8], fault: Option<Fault>) {
        let now = Instant::now();
        let (count, counters) = (bytes.len() as u64, &self.wire.counters);
        let due = match fault {
            Some(Fault::Latency(latency)) => {
                counters.delayed(count);
                now + latency.mul_f64(0.5 + self.random.f64())
            }
            Some(Fault::Bandwidth(rate)) => {
                counters.delayed(count);
                self.wire
                    .through(self.direction, self.turn.unwrap_or(0), bytes.len(), rate)
            }
            Some(fault) if fault.holds(self.direction) => {
                counters.held(count);
                now
            }
            _ => now,
        };
        let due = self.waiting.back().map_or(due, |last| last.due.max(due));
        let bytes = Bytes::copy_from_slice(bytes);
        self.held += bytes.len();
        self.waiting.push_back(Piece { due, bytes });
    }

    /// Notes what has arrived.
    fn passed(&mut self, count: usize, fault: Option<Fault>) -> Result<(), Carried> {
        self.held -= count;
        if let Some(piece) = self.waiting.front_mut() {
            piece.bytes.advance(count);
            if piece.bytes.is_empty() {
                self.waiting.pop_front();
            } else if let Some(Fault::Slice(_)) = fault {
                self.wire.counters.sliced(1);
            }
        }
        if let Some(allowance) = &mut self.allowance {
            let before = *allowance;
            *allowance = before.saturating_sub(count as u64);
            if before == 0 {
                return Err(Carried::Cut);
            }
        }
        Ok(())
    }
}

/// Returns how many bytes may be held, and how many be read at once.
fn room(fault: Option<Fault>) -> (usize, usize) {
    match fault {
        // A narrow line has a short queue: a quarter of a second, and a twentieth at once.
        Some(Fault::Bandwidth(rate)) => {
            let within = |divisor, most| usize::try_from(rate / divisor).unwrap_or(most).clamp(1, most);
            (within(4, MOST_HELD), within(20, CHUNK))
        }
        _ => (MOST_HELD, CHUNK),
    }
}

fn slice(random: &mut fastrand::Rng, most: u64) -> usize {
    usize::try_from(random.u64(1..=most.max(1))).unwrap_or(usize::MAX)
}

/// Writes up to `most` bytes of a piece once it is due; dropped before it returns, it has written nothing.
async fn write(to: &mut WriteHalf<'_>, piece: Option<&Piece>, most: usize) -> io::Result<usize> {
    let Some(piece) = piece else { return Ok(0) };
    sleep_until(piece.due).await;
    if most == 0 {
        return Ok(0);
    }
    match to.write(&piece.bytes[..piece.bytes.len().min(most)]).await? {
        0 => Err(io::ErrorKind::WriteZero.into()),
        count => Ok(count),
    }
}
