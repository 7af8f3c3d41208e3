//! Against real sockets.

use std::io::ErrorKind;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout};

use super::*;

const SOON: Duration = Duration::from_secs(10);
/// Long enough for a byte that may pass to have passed.
const WHILE: Duration = Duration::from_millis(150);

/// A server whose connections the test holds, and the proxy in front of it.
struct Link {
    server: TcpListener,
    proxy: Proxy,
}

/// One connection: the client's end and the server's.
struct Pair {
    client: TcpStream,
    server: TcpStream,
}

impl Link {
    async fn new() -> Self {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::start(server.local_addr().unwrap(), 7).unwrap();
        Self { server, proxy }
    }

    async fn connect(&self) -> TcpStream {
        within(TcpStream::connect(self.proxy.address())).await.unwrap()
    }

    async fn accept(&self) -> TcpStream {
        within(self.server.accept()).await.unwrap().0
    }

    async fn pair(&self) -> Pair {
        let client = self.connect().await;
        let server = self.accept().await;
        Pair { client, server }
    }

    /// Waits until the proxy has counted something.
    async fn until(&self, what: impl Fn(Bites) -> bool) -> Bites {
        within(async {
            while !what(self.proxy.bites()) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        self.proxy.bites()
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(SOON, future).await.expect("not in time")
}

async fn heard(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    within(stream.read_exact(&mut bytes)).await.unwrap();
    bytes
}

/// Reads to the end, whatever kind of end it is.
async fn end(stream: &mut TcpStream) -> (Vec<u8>, Result<(), ErrorKind>) {
    let mut bytes = Vec::new();
    let end = within(stream.read_to_end(&mut bytes)).await;
    (bytes, end.map(drop).map_err(|error| error.kind()))
}

async fn is_silent(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    timeout(WHILE, stream.read(&mut byte)).await.is_err()
}

#[tokio::test]
async fn without_a_fault_everything_passes_both_ways_and_so_does_the_end() {
    let link = Link::new().await;
    let Pair { client, mut server } = link.pair().await;
    let sent: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let (mut client_in, mut client_out) = client.into_split();
    let sending = {
        let sent = sent.clone();
        tokio::spawn(async move {
            client_out.write_all(&sent).await.unwrap();
            client_out.shutdown().await.unwrap();
        })
    };
    assert!(end(&mut server).await == (sent, Ok(())));
    sending.await.unwrap();
    // Closed in one direction, it still carries the other one.
    server.write_all(b"thanks").await.unwrap();
    drop(server);
    let mut answer = String::new();
    within(client_in.read_to_string(&mut answer)).await.unwrap();
    assert_eq!(answer, "thanks");
    assert!(!link.proxy.bites().any());
    assert_eq!(link.proxy.bites().connections, 1);
}

#[tokio::test]
async fn a_cut_resets_both_ends_and_every_new_connection_until_it_is_healed() {
    let link = Link::new().await;
    let mut pair = link.pair().await;
    link.proxy.set(Fault::Cut);
    assert_eq!(end(&mut pair.client).await.1, Err(ErrorKind::ConnectionReset));
    assert_eq!(end(&mut pair.server).await.1, Err(ErrorKind::ConnectionReset));
    let mut refused = link.connect().await;
    assert_eq!(end(&mut refused).await.1, Err(ErrorKind::ConnectionReset));
    let bites = link.until(|bites| bites.refused == 1).await;
    assert_eq!((bites.reset, bites.connections), (1, 2));
    link.proxy.heal();
    let mut pair = link.pair().await;
    pair.client.write_all(b"x").await.unwrap();
    assert_eq!(heard(&mut pair.server, 1).await, b"x");
}

#[tokio::test]
async fn a_cut_of_the_moment_spares_the_next_connection() {
    let link = Link::new().await;
    let (mut first, mut second) = (link.pair().await, link.pair().await);
    link.proxy.cut_now();
    let mut third = link.pair().await;
    for cut in [&mut first, &mut second] {
        assert_eq!(end(&mut cut.client).await.1, Err(ErrorKind::ConnectionReset));
        assert_eq!(end(&mut cut.server).await.1, Err(ErrorKind::ConnectionReset));
    }
    third.client.write_all(b"x").await.unwrap();
    assert_eq!(heard(&mut third.server, 1).await, b"x");
    assert_eq!(link.until(|bites| bites.reset == 2).await.refused, 0);
}

#[tokio::test]
async fn what_a_hole_holds_back_arrives_when_it_is_mended() {
    let link = Link::new().await;
    let mut pair = link.pair().await;
    link.proxy.set(Fault::Hole);
    pair.client.write_all(b"question").await.unwrap();
    pair.server.write_all(b"answer").await.unwrap();
    link.until(|bites| bites.held == 14).await;
    assert!(is_silent(&mut pair.server).await && is_silent(&mut pair.client).await);
    let mut late = link.connect().await;
    late.write_all(b"late").await.unwrap();
    assert!(timeout(WHILE, link.server.accept()).await.is_err());
    // The end of a connection does not pass either.
    pair.server.shutdown().await.unwrap();
    assert!(is_silent(&mut pair.client).await);
    link.proxy.heal();
    assert_eq!(heard(&mut pair.server, 8).await, b"question");
    assert_eq!(end(&mut pair.client).await, (b"answer".to_vec(), Ok(())));
    let mut late = link.accept().await;
    assert_eq!(heard(&mut late, 4).await, b"late");
    assert_eq!((link.proxy.bites().waited, link.proxy.bites().reset), (1, 0));
}

#[tokio::test]
async fn a_hole_makes_the_sender_wait_once_it_is_full() {
    let link = Link::new().await;
    let mut pair = link.pair().await;
    link.proxy.set(Fault::Hole);
    let flood = vec![1; 64 << 20];
    assert!(timeout(SOON / 10, pair.client.write_all(&flood)).await.is_err());
    assert!(link.proxy.bites().held <= 256 << 10, "{:?}", link.proxy.bites());
}

#[tokio::test]
async fn a_connection_that_lost_something_stays_open_and_is_reset_when_the_link_is_healed() {
    let link = Link::new().await;
    let (mut lossy, mut idle) = (link.pair().await, link.pair().await);
    link.proxy.set(Fault::Swallow);
    // Far more than a hole would take.
    within(lossy.client.write_all(&vec![1; 16 << 20])).await.unwrap();
    link.until(|bites| bites.swallowed == 16 << 20).await;
    assert!(is_silent(&mut lossy.server).await && is_silent(&mut lossy.client).await);
    link.proxy.heal();
    assert_eq!(
        end(&mut lossy.server).await,
        (vec![], Err(ErrorKind::ConnectionReset))
    );
    assert_eq!(end(&mut lossy.client).await.1, Err(ErrorKind::ConnectionReset));
    idle.client.write_all(b"x").await.unwrap();
    assert_eq!(heard(&mut idle.server, 1).await, b"x");
}

#[tokio::test]
async fn half_open_passes_one_direction_only() {
    let link = Link::new().await;
    let mut pair = link.pair().await;
    link.proxy.set(Fault::HalfOpen(Direction::ToClient));
    pair.client.write_all(b"question").await.unwrap();
    assert_eq!(heard(&mut pair.server, 8).await, b"question");
    pair.server.write_all(b"answer").await.unwrap();
    assert!(is_silent(&mut pair.client).await);
    assert_eq!(link.proxy.bites().held, 6);
    link.proxy.heal();
    assert_eq!(heard(&mut pair.client, 6).await, b"answer");
}

#[tokio::test]
async fn latency_delays_and_keeps_the_order() {
    let link = Link::new().await;
    let mut pair = link.pair().await;
    link.proxy.set(Fault::Latency(Duration::from_millis(200)));
    link.until(|_| true).await;
    let begun = Instant::now();
    for n in 0..50_u8 {
        pair.client.write_all(&[n]).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(heard(&mut pair.server, 50).await, (0..50).collect::<Vec<u8>>());
    assert!(
        begun.elapsed() >= Duration::from_millis(100),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(link.proxy.bites().delayed, 50);
}

#[tokio::test]
async fn a_bandwidth_is_shared_and_its_end_lets_the_rest_through() {
    let link = Link::new().await;
    let (mut first, mut second) = (link.pair().await, link.pair().await);
    link.proxy.set(Fault::Bandwidth(20_000));
    let begun = Instant::now();
    first.client.write_all(&[1; 5_000]).await.unwrap();
    second.client.write_all(&[2; 5_000]).await.unwrap();
    heard(&mut first.server, 5_000).await;
    heard(&mut second.server, 5_000).await;
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(450), "{took:?}");
    first.client.write_all(&[1; 100_000]).await.unwrap();
    link.proxy.heal();
    let begun = Instant::now();
    heard(&mut first.server, 100_000).await;
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn slices_are_small_and_lose_nothing() {
    let link = Link::new().await;
    let mut pair = link.pair().await;
    link.proxy.set(Fault::Slice(3));
    let sent: Vec<u8> = (0..200).collect();
    pair.client.write_all(&sent).await.unwrap();
    assert_eq!(heard(&mut pair.server, 200).await, sent);
    assert!(link.proxy.bites().sliced >= 66, "{:?}", link.proxy.bites());
}

#[tokio::test]
async fn a_connection_is_cut_after_so_many_bytes_and_the_next_one_too() {
    let link = Link::new().await;
    let mut before = link.pair().await;
    before.server.write_all(b"before").await.unwrap();
    assert_eq!(heard(&mut before.client, 6).await, b"before");
    let direction = Direction::ToClient;
    link.proxy.set(Fault::CutAfter { bytes: 4, direction });
    let after = link.pair().await;
    for mut pair in [before, after] {
        // The other direction is not counted.
        pair.client.write_all(b"a question").await.unwrap();
        assert_eq!(heard(&mut pair.server, 10).await, b"a question");
        pair.server.write_all(b"1234").await.unwrap();
        assert_eq!(heard(&mut pair.client, 4).await, b"1234");
        assert!(is_silent(&mut pair.client).await);
        pair.server.write_all(b"5").await.unwrap();
        assert_eq!(
            end(&mut pair.client).await,
            (vec![], Err(ErrorKind::ConnectionReset))
        );
        assert_eq!(end(&mut pair.server).await.1, Err(ErrorKind::ConnectionReset));
    }
    assert_eq!(link.until(|bites| bites.reset == 2).await.refused, 0);
    link.proxy.heal();
    let mut pair = link.pair().await;
    pair.server.write_all(b"123456").await.unwrap();
    assert_eq!(heard(&mut pair.client, 6).await, b"123456");
}

#[tokio::test]
async fn a_side_that_breaks_the_connection_breaks_it_for_the_other_side() {
    let link = Link::new().await;
    let mut pair = link.pair().await;
    pair.client.set_zero_linger().unwrap();
    drop(pair.client);
    assert_eq!(end(&mut pair.server).await.1, Err(ErrorKind::ConnectionReset));
    assert!(!link.proxy.bites().any());
}

#[tokio::test]
async fn nobody_behind_it_is_a_reset_and_no_fault() {
    let Link { server, proxy } = Link::new().await;
    drop(server);
    let mut client = within(TcpStream::connect(proxy.address())).await.unwrap();
    assert_eq!(end(&mut client).await.1, Err(ErrorKind::ConnectionReset));
    assert!(!proxy.bites().any());
}

#[tokio::test]
async fn nothing_outlives_the_proxy() {
    let link = Link::new().await;
    let mut pair = link.pair().await;
    let address = link.proxy.address();
    drop(link.proxy);
    let (bytes, _) = end(&mut pair.client).await;
    assert_eq!(bytes, b"");
    within(async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
