//! Whether a RabbitMQ can be used: logs in, opens the vhost, declares a queue that vanishes.
//!
//! A dozen frames written by hand (AMQP 0-9-1 §4.2), because a client library would have to be compiled before the
//! first test of a fresh machine can say what is missing.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use anyhow::{Context as _, Result, bail, ensure};

use crate::address::Address;

const METHOD: u8 = 1;
const FRAME_END: u8 = 0xCE;
/// Bytes; the frames asked for here are a few hundred at most.
const MAX_FRAME: usize = 128 << 10;

const CONNECTION_START: (u16, u16) = (10, 10);
const CONNECTION_START_OK: (u16, u16) = (10, 11);
const CONNECTION_TUNE: (u16, u16) = (10, 30);
const CONNECTION_TUNE_OK: (u16, u16) = (10, 31);
const CONNECTION_OPEN: (u16, u16) = (10, 40);
const CONNECTION_OPEN_OK: (u16, u16) = (10, 41);
const CONNECTION_CLOSE: (u16, u16) = (10, 50);
const CONNECTION_CLOSE_OK: (u16, u16) = (10, 51);
const CHANNEL_OPEN: (u16, u16) = (20, 10);
const CHANNEL_OPEN_OK: (u16, u16) = (20, 11);
const CHANNEL_CLOSE: (u16, u16) = (20, 40);
const QUEUE_DECLARE: (u16, u16) = (50, 10);
const QUEUE_DECLARE_OK: (u16, u16) = (50, 11);

/// Exclusive (4) and auto-delete (8).
const EXCLUSIVE_AND_FLEETING: u8 = 0b1100;

/// Tries everything a test would need of the server behind `url`.
///
/// # Errors
/// When one of the steps fails, with the server's own words where it gave some.
pub(crate) fn probe(url: &str) -> Result<()> {
    let address = Address::parse(url)?;
    ensure!(
        address.scheme == "amqp",
        "only amqp:// can be tried without TLS, not {}://",
        address.scheme
    );
    let mut broker = Broker(address.connect(5672).context("cannot connect")?);
    broker.0.write_all(b"AMQP\0\0\x09\x01")?;
    broker
        .expect(CONNECTION_START)
        .context("does not speak AMQP 0-9-1")?;
    let or_guest = |text: &str| {
        if text.is_empty() {
            "guest".to_owned()
        } else {
            text.to_owned()
        }
    };
    let (user, password) = (or_guest(&address.user), or_guest(&address.password));
    let mut arguments = 0_u32.to_be_bytes().to_vec();
    short_text(&mut arguments, "PLAIN");
    let response = format!("\0{user}\0{password}");
    arguments.extend((response.len() as u32).to_be_bytes());
    arguments.extend(response.as_bytes());
    short_text(&mut arguments, "en_US");
    broker.send(0, CONNECTION_START_OK, &arguments)?;
    let mut tune = broker
        .expect(CONNECTION_TUNE)
        .with_context(|| format!("does not let `{user}` log in"))?;
    ensure!(tune.len() >= 8, "sent a tune frame that is too short");
    // No heartbeats: this takes milliseconds.
    tune[6..8].fill(0);
    broker.send(0, CONNECTION_TUNE_OK, &tune[..8])?;
    let vhost = if address.path.is_empty() {
        "/"
    } else {
        &address.path
    };
    let mut open = Vec::new();
    short_text(&mut open, vhost);
    open.extend([0, 0]);
    broker.send(0, CONNECTION_OPEN, &open)?;
    broker
        .expect(CONNECTION_OPEN_OK)
        .with_context(|| format!("does not open the vhost `{vhost}`"))?;
    broker.send(1, CHANNEL_OPEN, &[0])?;
    broker.expect(CHANNEL_OPEN_OK)?;
    broker.send(1, QUEUE_DECLARE, &[0, 0, 0, EXCLUSIVE_AND_FLEETING, 0, 0, 0, 0])?;
    broker
        .expect(QUEUE_DECLARE_OK)
        .context("does not let a queue be declared")?;
    broker.send(0, CONNECTION_CLOSE, &[0, 200, 0, 0, 0, 0, 0])?;
    broker.expect(CONNECTION_CLOSE_OK)?;
    Ok(())
}

struct Broker(TcpStream);

impl Broker {
    fn send(&mut self, channel: u16, (class, method): (u16, u16), arguments: &[u8]) -> Result<()> {
        let mut frame = vec![METHOD];
        frame.extend(channel.to_be_bytes());
        frame.extend((arguments.len() as u32 + 4).to_be_bytes());
        frame.extend(class.to_be_bytes());
        frame.extend(method.to_be_bytes());
        frame.extend(arguments);
        frame.push(FRAME_END);
        Ok(self.0.write_all(&frame)?)
    }

    /// Returns the arguments of the next method, which must be `wanted`.
    fn expect(&mut self, wanted: (u16, u16)) -> Result<Vec<u8>> {
        loop {
            let mut head = [0; 7];
            self.0
                .read_exact(&mut head)
                .context("the server hung up or fell silent")?;
            let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
            ensure!(
                head[0] <= 8 && size <= MAX_FRAME,
                "the server answered with something else"
            );
            let mut payload = vec![0; size + 1];
            self.0.read_exact(&mut payload)?;
            if head[0] != METHOD {
                continue;
            }
            ensure!(
                size >= 4 && payload[size] == FRAME_END,
                "the server sent a broken frame"
            );
            let method = (
                u16::from_be_bytes([payload[0], payload[1]]),
                u16::from_be_bytes([payload[2], payload[3]]),
            );
            if method == wanted {
                return Ok(payload[4..size].to_vec());
            }
            if method == CONNECTION_CLOSE || method == CHANNEL_CLOSE {
                let text = payload.get(7..size).unwrap_or_default();
                bail!(
                    "{}",
                    String::from_utf8_lossy(text)
                        .split('\0')
                        .next()
                        .unwrap_or("closed without a word")
                );
            }
            bail!("the server sent method {method:?} instead of {wanted:?}");
        }
    }
}

fn short_text(frame: &mut Vec<u8>, text: &str) {
    let text = &text.as_bytes()[..text.len().min(255)];
    frame.push(text.len() as u8);
    frame.extend(text);
}
