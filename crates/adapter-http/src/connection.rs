//! One connection: hyper's HTTP/1 with the waits that hyper does not bound, and a farewell that gets through.
//!
//! hyper has one timeout for a request's head, and its clock also runs while a kept connection is silent: short enough
//! against a slow client, it would cut every idle keep-alive connection. And a server that closes while a client is
//! still sending makes the client's kernel throw the answer away. Hence this module: three different waits, watched
//! without a timer for each request, and bytes that are read and dropped for a while after an answer was final.

mod activity;
mod refusal;
mod wire;

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Method};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use metrics::counter;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};
use tower::Service;

use crate::metrics::CONNECTIONS_CUT;
use crate::reading::TakeWithin;
use activity::Activity;
pub(crate) use activity::Timeouts;
use wire::Wire;

/// How much a client may still send after its final answer, in bytes.
const LINGER_BYTES: usize = 64 << 20;
/// How long a client may still send after its final answer.
const LINGER_TIME: Duration = Duration::from_secs(2);

/// How far the server has come in stopping.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    phase: AtomicU8,
    moved: Notify,
}

impl Stop {
    const RUNNING: u8 = 0;
    const LEAVING: u8 = 1;
    const DRAINING: u8 = 2;
    const CUT: u8 = 3;

    /// Asks the client to close with every answer from now on.
    pub(crate) fn leave(&self) {
        // Nobody has to wake up for it.
        self.phase.store(Self::LEAVING, Ordering::Release);
    }

    /// Closes every connection that is idle, and lets every other one finish the request it has.
    pub(crate) fn drain(&self) {
        self.move_to(Self::DRAINING);
    }

    /// Cuts every connection.
    pub(crate) fn cut(&self) {
        self.move_to(Self::CUT);
    }

    fn move_to(&self, phase: u8) {
        self.phase.store(phase, Ordering::Release);
        self.moved.notify_waiters();
    }

    fn phase(&self) -> u8 {
        self.phase.load(Ordering::Acquire)
    }
}

/// Marks an answer that has no end of its own: it ends when the server begins to stop, and whoever does not take the rest of
/// it then is soon cut off.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Endless;

/// Why a connection has ended.
enum End {
    /// By itself: both sides had enough, or the peer is gone, or it does not speak HTTP/1.
    Over {
        /// Whether it begins with HTTP/2, which hyper alone leaves without an answer.
        http2: bool,
    },
    /// It kept the server waiting, for this.
    Overdue(&'static str),
    /// Its client has gone, and with it whoever wanted the answer.
    HungUp,
    /// The server stops and has waited long enough.
    Cut,
}

/// Tells whether the answer to a request is of no use to anybody else, and may cost somebody something: then it is given up
/// with its client.
///
/// A client that shuts its side and waits looks the same as one that has gone. For everything but the reading of what is
/// stored or published it is waited for.
fn is_wanted_only(request: &hyper::Request<Incoming>) -> bool {
    matches!(*request.method(), Method::GET | Method::HEAD)
        && request.uri().path().starts_with("/v1/")
        && request.body().is_end_stream()
}

/// Serves one connection to its end.
pub(crate) async fn serve(
    stream: TcpStream,
    router: Router,
    builder: &http1::Builder,
    timeouts: Timeouts,
    stop: Arc<Stop>,
) {
    let activity = Arc::new(Activity::new());
    let served = Arc::clone(&activity);
    let stopping = Arc::clone(&stop);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        served.begin(is_wanted_only(&request));
        let answering = router.clone().call(request.map(Body::new));
        let (served, stopping) = (Arc::clone(&served), Arc::clone(&stopping));
        async move {
            let mut response = match answering.await {
                Ok(response) => response,
                Err(never) => match never {},
            };
            if stopping.phase() != Stop::RUNNING {
                response
                    .headers_mut()
                    .insert(CONNECTION, HeaderValue::from_static("close"));
            }
            let within = response.extensions_mut().remove::<TakeWithin>();
            served.end(response.extensions().get::<Endless>().is_some(), within);
            Ok::<_, Infallible>(response)
        }
    });
    let wire = TokioIo::new(Wire::new(stream, Arc::clone(&activity)));
    let mut connection = builder.serve_connection(wire, service);

    let mut moved = pin!(stop.moved.notified());
    let mut registered = false;
    let mut phase = Stop::RUNNING;
    let mut alarm = pin!(sleep_until(Instant::now() + timeouts.first_request));
    let end = poll_fn(|cx| {
        loop {
            // Polled only when it is new: the task and so its waker stay the same, and polling it takes a lock.
            if !registered {
                registered = moved.as_mut().poll(cx).is_pending();
            }
            let now = stop.phase();
            if now == phase {
                break;
            }
            phase = now;
            match phase {
                Stop::CUT => return Poll::Ready(End::Cut),
                Stop::DRAINING => {
                    activity.leave();
                    Pin::new(&mut connection).graceful_shutdown();
                }
                _ => {}
            }
            moved.set(stop.moved.notified());
            registered = false;
        }
        if let Poll::Ready(over) = Pin::new(&mut connection).poll(cx) {
            let http2 = over.is_err_and(|error| error.is_parse_version_h2());
            return Poll::Ready(End::Over { http2 });
        }
        if activity.has_hung_up() {
            return Poll::Ready(End::HungUp);
        }
        // The alarm may ring too early, as most requests begin and end without touching it, but never too late.
        while let Some((deadline, reason)) = activity.deadline(&timeouts) {
            if alarm.deadline() > deadline {
                alarm.as_mut().reset(deadline);
            }
            if alarm.as_mut().poll(cx).is_pending() {
                break;
            }
            if Instant::now() >= deadline {
                return Poll::Ready(End::Overdue(reason));
            }
            alarm.as_mut().reset(deadline);
        }
        Poll::Pending
    })
    .await;

    match end {
        End::Over { http2 } if activity.may_linger() => {
            let last_words = if http2 { refusal::http2() } else { Vec::new() };
            // Frees hyper's buffers first: many may linger at once.
            let stream = connection.into_parts().io.into_inner().into_stream();
            linger(stream, &last_words).await;
        }
        End::Over { .. } => {}
        End::Overdue(reason) => counter!(CONNECTIONS_CUT, "reason" => reason).increment(1),
        // Dropped with the connection, the future of the answer ends what it had begun.
        End::HungUp => counter!(CONNECTIONS_CUT, "reason" => "hung_up").increment(1),
        End::Cut => counter!(CONNECTIONS_CUT, "reason" => "drain").increment(1),
    }
}

/// Says what is left to say, then drops what the client still sends, so that the answer it got is not thrown away by
/// a reset.
async fn linger(mut stream: TcpStream, last_words: &[u8]) {
    let dropping = async {
        // hyper may have shut the sending side already, and a peer that takes nothing more may still be sending.
        drop(stream.write_all(last_words).await);
        drop(stream.shutdown().await);
        let mut total = 0;
        // An error means that the peer is gone, which is what is waited for.
        while total < LINGER_BYTES && stream.readable().await.is_ok() {
            match DROPPED.with_borrow_mut(|bytes| stream.try_read(bytes)) {
                Ok(0) => break,
                Ok(length) => total += length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
    };
    // Whoever sends longer than this may see a reset.
    drop(timeout(LINGER_TIME, dropping).await);
}

thread_local! {
    /// Where bytes that nobody wants are read into: one for all connections of a thread, as thousands may linger.
    static DROPPED: RefCell<Vec<u8>> = RefCell::new(vec![0; 128 << 10]);
}
