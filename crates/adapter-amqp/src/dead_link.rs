//! The connection that the dead letters are read on: opened, and left.

use std::io;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::config::AmqpConfig;
use crate::url::Endpoint;
use crate::wire::{Frames, HEARTBEAT, MAX_FRAME, Reader, Stream, Writer, long, short};

/// How long writing a frame may take.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// The one channel there is.
pub(crate) const CHANNEL: u16 = 1;

/// A connection that delivers.
pub(crate) struct Link {
    pub(crate) frames: Frames,
    pub(crate) writer: Writer,
    /// How often both sides say that they are alive; zero for never.
    pub(crate) heartbeat: Duration,
}

impl Link {
    /// Connects, logs in, and asks for the queue's messages, of which `prefetch` are on their way at once.
    pub(crate) async fn open(
        endpoint: &Endpoint,
        tls: Option<&TlsConnector>,
        config: &AmqpConfig,
        queue: &str,
        prefetch: u16,
    ) -> io::Result<Self> {
        let tcp = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await?;
        tcp.set_nodelay(true)?;
        let stream: Box<dyn Stream> = match (tls, endpoint.tls) {
            (Some(tls), true) => {
                let name = ServerName::try_from(endpoint.host.clone()).map_err(io::Error::other)?;
                Box::new(tls.connect(name, tcp).await?)
            }
            _ => Box::new(tcp),
        };
        let (reading, writing) = tokio::io::split(stream);
        let (mut frames, mut writer) = (Frames::new(reading), Writer(writing));
        writer.bytes(b"AMQP\x00\x00\x09\x01").await?;
        expect(&mut frames, (10, 10)).await?;
        let login = format!("\0{}\0{}", endpoint.user, endpoint.password);
        let start = [
            long(&client_properties(&format!("{} keep", config.client_name))),
            short("PLAIN"),
            long(login.as_bytes()),
            short("en_US"),
        ];
        writer.method(0, (10, 11), &start.concat()).await?;
        let tune = expect(&mut frames, (10, 30)).await?;
        let mut tune = Reader(&tune);
        let (Some(_channels), Some(frame), Some(_heartbeat)) = (tune.u16(), tune.u32(), tune.u16()) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let heartbeat = u16::try_from(config.heartbeat.as_secs()).unwrap_or(u16::MAX);
        let most = MAX_FRAME as u32;
        let frame = if frame == 0 { most } else { frame.min(most) };
        let tuned = [
            &1_u16.to_be_bytes()[..],
            &frame.to_be_bytes(),
            &heartbeat.to_be_bytes(),
        ]
        .concat();
        writer.method(0, (10, 31), &tuned).await?;
        let host = [short(&endpoint.vhost), short(""), vec![0]].concat();
        writer.method(0, (10, 40), &host).await?;
        expect(&mut frames, (10, 41)).await?;
        writer.method(CHANNEL, (20, 10), &short("")).await?;
        expect(&mut frames, (20, 11)).await?;
        let qos = [&0_u32.to_be_bytes()[..], &prefetch.to_be_bytes(), &[0]].concat();
        writer.method(CHANNEL, (60, 10), &qos).await?;
        expect(&mut frames, (60, 11)).await?;
        let consume = [vec![0, 0], short(queue), short("warren-keep"), vec![0], long(b"")].concat();
        writer.method(CHANNEL, (60, 20), &consume).await?;
        expect(&mut frames, (60, 21)).await?;
        Ok(Self {
            frames,
            writer,
            heartbeat: Duration::from_secs(heartbeat.into()),
        })
    }
}

/// Says why the broker ends a connection, a channel or a consumer.
pub(crate) fn ended((class, method, mut reader): (u16, u16, Reader<'_>)) -> io::Error {
    let said = match (class, method) {
        (10, 50) | (20, 40) => {
            let said = match (reader.u16(), reader.short()) {
                (Some(code), Some(text)) => format!("RabbitMQ: {text} ({code})"),
                _ => {
                    let what = if class == 10 { "connection" } else { "channel" };
                    format!("RabbitMQ closed the {what}, and its reason could not be read")
                }
            };
            return io::Error::new(io::ErrorKind::ConnectionAborted, said);
        }
        (60, 30) => "RabbitMQ ended the deliveries: the queue was deleted, or has no leader".to_owned(),
        (class, method) => format!("RabbitMQ says what was not asked: method {class}.{method}"),
    };
    io::Error::other(said)
}

/// Waits for one method and returns its arguments.
async fn expect(frames: &mut Frames, expected: (u16, u16)) -> io::Result<Vec<u8>> {
    loop {
        let frame = frames.next().await.map_err(|error| match error.kind() {
            // RabbitMQ says nothing to a login that it refuses, unless it is asked to.
            io::ErrorKind::UnexpectedEof => io::Error::other("RabbitMQ closed the connection"),
            _ => error,
        })?;
        if frame.kind == HEARTBEAT {
            continue;
        }
        match frame.method() {
            Some((class, method, reader)) if (class, method) == expected => return Ok(reader.0.to_vec()),
            Some(method) => return Err(ended(method)),
            None => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// Tells the broker what the connection is called, and that refusals and deleted queues are to be told.
fn client_properties(name: &str) -> Vec<u8> {
    let yes = |name: &str| [&short(name)[..], b"t\x01"].concat();
    let capabilities = [yes("authentication_failure_close"), yes("consumer_cancel_notify")].concat();
    let text = |name: &str, value: &str| [&short(name)[..], b"S", &long(value.as_bytes())].concat();
    [
        text("product", "warren"),
        text("connection_name", name),
        [&short("capabilities")[..], b"F", &long(&capabilities)].concat(),
    ]
    .concat()
}

/// Closes the connection; the broker takes back what was not acknowledged.
pub(crate) async fn farewell(writer: &mut Writer) -> io::Result<()> {
    let close = [&200_u16.to_be_bytes()[..], &short("bye"), &[0; 4]].concat();
    limited(writer.method(0, (10, 50), &close)).await
}

/// Waits until something is written, but not for ever.
pub(crate) async fn limited(writing: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    match timeout(WRITE_TIMEOUT, writing).await {
        Ok(written) => written,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "RabbitMQ reads nothing")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_close_says_its_reason_or_that_it_could_not_be_read() {
        let said = |class, method, bytes: &[u8]| ended((class, method, Reader(bytes))).to_string();
        let whole = [&404_u16.to_be_bytes()[..], &short("no queue 'a'")].concat();
        assert_eq!(said(20, 40, &whole), "RabbitMQ: no queue 'a' (404)");
        for torn in [&whole[..1], &whole[..2], &whole[..6]] {
            let expected = "RabbitMQ closed the channel, and its reason could not be read";
            assert_eq!(said(20, 40, torn), expected);
        }
        assert!(said(10, 50, &[]).contains("closed the connection"));
    }
}
