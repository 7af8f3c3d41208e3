//! Enough of AMQP 0-9-1 to publish, and to take back, what amqprs cannot: a header that is not UTF-8.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Address, address};

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;

struct Raw(TcpStream);

impl Raw {
    async fn send(&mut self, kind: u8, channel: u16, payload: &[u8]) {
        let mut frame = vec![kind];
        frame.extend(channel.to_be_bytes());
        frame.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
        frame.extend(payload);
        frame.push(0xce);
        self.0.write_all(&frame).await.unwrap();
    }

    async fn method(&mut self, channel: u16, class: u16, method: u16, arguments: &[u8]) {
        let payload = [&class.to_be_bytes(), &method.to_be_bytes(), arguments].concat();
        self.send(METHOD, channel, &payload).await;
    }

    /// Reads one frame: its kind and what is in it.
    async fn frame(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 7];
        self.0.read_exact(&mut head).await.unwrap();
        let size = u32::from_be_bytes(head[3..7].try_into().unwrap());
        let mut payload = vec![0; size as usize + 1];
        self.0.read_exact(&mut payload).await.unwrap();
        payload.pop();
        (head[0], payload)
    }

    /// Reads frames until the method `class.method` comes.
    async fn await_method(&mut self, class: u16, method: u16) {
        loop {
            let (kind, payload) = self.frame().await;
            if kind == METHOD && payload[..4] == [class.to_be_bytes(), method.to_be_bytes()].concat() {
                return;
            }
        }
    }

    /// Connects and opens channel 1.
    async fn open() -> Self {
        let Address {
            authority,
            user,
            path,
        } = address();
        let mut raw = Self(TcpStream::connect(authority).await.unwrap());
        raw.0.write_all(b"AMQP\x00\x00\x09\x01").await.unwrap();
        raw.await_method(10, 10).await;
        let login = format!("\0{}", user.replacen(':', "\0", 1));
        let start_ok = [long(b""), short("PLAIN"), long(login.as_bytes()), short("en_US")].concat();
        raw.method(0, 10, 11, &start_ok).await;
        raw.await_method(10, 30).await;
        raw.method(0, 10, 31, &[0, 1, 0, 2, 0, 0, 0, 0]).await;
        let vhost = path.replace("%2f", "/").replace("%2F", "/");
        raw.method(0, 10, 40, &[short(&vhost), short(""), vec![0]].concat())
            .await;
        raw.await_method(10, 41).await;
        raw.method(1, 20, 10, &short("")).await;
        raw.await_method(20, 11).await;
        raw
    }
}

fn short(text: &str) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
}

fn long(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
    [&length, bytes].concat()
}

/// Publishes a packet whose one header kills every amqprs connection that receives it.
pub async fn publish_poison(exchange: &str, body: &str) {
    let mut raw = Raw::open().await;
    raw.method(1, 85, 10, &[0]).await;
    raw.await_method(85, 11).await;
    let publish = [vec![0, 0], short(exchange), short("poison"), vec![0]].concat();
    raw.method(1, 60, 40, &publish).await;
    let table = [short("bad"), b"S".to_vec(), long(b"\xff\xfe")].concat();
    let header = [
        &60_u16.to_be_bytes()[..],
        &0_u16.to_be_bytes(),
        &(body.len() as u64).to_be_bytes(),
        // The flags of the two properties that follow: headers and delivery mode.
        &0x3000_u16.to_be_bytes(),
        &long(&table),
        &[2],
    ]
    .concat();
    raw.send(HEADER, 1, &header).await;
    raw.send(BODY, 1, body.as_bytes()).await;
    raw.await_method(60, 80).await;
}

/// Takes the first packet out of a queue, whatever its headers; returns its body.
pub async fn take(queue: &str) -> String {
    let mut raw = Raw::open().await;
    // basic.get without an acknowledgement; get-ok, a header and the body follow.
    raw.method(1, 60, 70, &[vec![0, 0], short(queue), vec![1]].concat())
        .await;
    raw.await_method(60, 71).await;
    let (kind, header) = raw.frame().await;
    assert_eq!(kind, HEADER);
    let size = u64::from_be_bytes(header[4..12].try_into().unwrap());
    let mut body = Vec::new();
    while (body.len() as u64) < size {
        body.extend(raw.frame().await.1);
    }
    String::from_utf8(body).unwrap()
}
