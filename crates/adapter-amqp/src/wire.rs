//! AMQP 0-9-1 as far as reading one queue needs it, and forgiving.
//!
//! amqprs ends a connection on which a header comes that is not UTF-8. What ends up among the dead letters is just
//! what nobody could read, such as the very packet with that header; so they are read by these few frames instead,
//! which take every message that a broker can hold.
//!
//! <https://www.rabbitmq.com/amqp-0-9-1-reference>, <https://www.rabbitmq.com/amqp-0-9-1-errata#section_3>

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};

pub(crate) const METHOD: u8 = 1;
pub(crate) const HEADER: u8 = 2;
pub(crate) const BODY: u8 = 3;
pub(crate) const HEARTBEAT: u8 = 8;
const FRAME_END: u8 = 0xce;

/// The largest frame that is taken, in bytes; RabbitMQ proposes 128 KiB.
pub(crate) const MAX_FRAME: usize = 1 << 20;

/// How deep tables within tables are read.
const MAX_DEPTH: usize = 16;

/// What frames travel over: TCP, or TLS over it.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A frame as it came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) channel: u16,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// Returns class, number and arguments of a method.
    pub(crate) fn method(&self) -> Option<(u16, u16, Reader<'_>)> {
        let mut reader = Reader(&self.payload);
        (self.kind == METHOD).then_some(())?;
        Some((reader.u16()?, reader.u16()?, reader))
    }
}

/// Reads frames; what was read of the next one stays when a future is dropped.
pub(crate) struct Frames {
    stream: ReadHalf<Box<dyn Stream>>,
    buffer: Vec<u8>,
}

impl Frames {
    pub(crate) fn new(stream: ReadHalf<Box<dyn Stream>>) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    /// Waits for the next frame. Cancel safe.
    pub(crate) async fn next(&mut self) -> io::Result<Frame> {
        loop {
            if let Some(frame) = take_frame(&mut self.buffer)? {
                return Ok(frame);
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

fn take_frame(buffer: &mut Vec<u8>) -> io::Result<Option<Frame>> {
    let Some((head, rest)) = buffer.split_first_chunk::<7>() else {
        return Ok(None);
    };
    let [kind, c1, c2, s1, s2, s3, s4] = *head;
    if kind == b'A' {
        let fault = "the broker speaks another version of AMQP";
        return Err(io::Error::new(io::ErrorKind::InvalidData, fault));
    }
    let size = u32::from_be_bytes([s1, s2, s3, s4]) as usize;
    if size > MAX_FRAME {
        let fault = format!("a frame of {size} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, fault));
    }
    let Some((payload, [end, ..])) = rest.split_at_checked(size) else {
        return Ok(None);
    };
    if *end != FRAME_END {
        let fault = "a frame that does not end where it says";
        return Err(io::Error::new(io::ErrorKind::InvalidData, fault));
    }
    let frame = Frame {
        kind,
        channel: u16::from_be_bytes([c1, c2]),
        payload: payload.to_vec(),
    };
    buffer.drain(..7 + size + 1);
    Ok(Some(frame))
}

/// Writes frames.
pub(crate) struct Writer(pub(crate) WriteHalf<Box<dyn Stream>>);

impl Writer {
    pub(crate) async fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await?;
        self.0.flush().await
    }

    pub(crate) async fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) -> io::Result<()> {
        let mut frame = vec![kind];
        frame.extend(channel.to_be_bytes());
        frame.extend((payload.len() as u32).to_be_bytes());
        frame.extend(payload);
        frame.push(FRAME_END);
        self.bytes(&frame).await
    }

    pub(crate) async fn method(
        &mut self,
        channel: u16,
        (class, method): (u16, u16),
        arguments: &[u8],
    ) -> io::Result<()> {
        let payload = [&class.to_be_bytes(), &method.to_be_bytes(), arguments].concat();
        self.frame(METHOD, channel, &payload).await
    }
}

/// Writes a short string, of which 255 bytes are taken.
pub(crate) fn short(text: &str) -> Vec<u8> {
    let text = &text.as_bytes()[..text.floor_char_boundary(255)];
    [&[text.len() as u8], text].concat()
}

/// Writes a long string.
pub(crate) fn long(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes(), bytes].concat()
}

/// Reads what a payload holds, in order; `None` where it ends too early.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        Some(u8::from_be_bytes(self.array()?))
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_be_bytes(self.array()?))
    }

    /// Reads a short string; what is not UTF-8 in it is replaced.
    pub(crate) fn short(&mut self) -> Option<String> {
        let length = self.u8()?;
        Some(String::from_utf8_lossy(self.bytes(length.into())?).into_owned())
    }

    fn long(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()?;
        self.bytes(length as usize)
    }

    /// Reads a table as far as it can be read; what stands behind it is found in any case.
    pub(crate) fn table(&mut self) -> Option<Table> {
        self.table_within(MAX_DEPTH)
    }

    fn table_within(&mut self, depth: usize) -> Option<Table> {
        let mut inner = Reader(self.long()?);
        let mut entries = Vec::new();
        while let Some((name, value)) = inner.entry(depth) {
            entries.push((name, value));
        }
        Some(Table(entries))
    }

    fn entry(&mut self, depth: usize) -> Option<(String, Value)> {
        Some((self.short()?, self.value(depth)?))
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        let depth = depth.checked_sub(1)?;
        Some(match self.u8()? {
            b't' | b'B' => Value::Number(self.u8()?.into()),
            b'b' => Value::Number(i8::from_be_bytes(self.array()?).into()),
            b's' | b'U' => Value::Number(i16::from_be_bytes(self.array()?).into()),
            b'u' => Value::Number(self.u16()?.into()),
            b'I' => Value::Number(i32::from_be_bytes(self.array()?).into()),
            b'i' => Value::Number(self.u32()?.into()),
            b'l' | b'L' => Value::Number(i64::from_be_bytes(self.array()?)),
            b'T' => Value::Number(i64::from_be_bytes(self.array()?)),
            b'f' => self.bytes(4).map(|_| Value::Other)?,
            b'd' => self.bytes(8).map(|_| Value::Other)?,
            b'D' => self.bytes(5).map(|_| Value::Other)?,
            b'V' => Value::Other,
            b'S' | b'x' => Value::Text(String::from_utf8_lossy(self.long()?).into_owned()),
            b'F' => Value::Table(self.table_within(depth)?),
            b'A' => {
                let mut inner = Reader(self.long()?);
                let mut items = Vec::new();
                while let Some(item) = inner.value(depth) {
                    items.push(item);
                }
                Value::List(items)
            }
            // Its length is not known, and so neither is what stands behind it.
            _ => return None,
        })
    }
}

/// What a header says, as far as anybody here asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Text(String),
    Number(i64),
    Table(Table),
    List(Vec<Value>),
    Other,
}

/// Named values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Table(Vec<(String, Value)>);

impl Table {
    #[cfg(test)]
    pub(crate) fn of<const N: usize>(entries: [(&str, Value); N]) -> Self {
        Self(entries.map(|(name, value)| (name.to_owned(), value)).into())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value)
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        match self.get(name)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn number(&self, name: &str) -> Option<i64> {
        match self.get(name)? {
            Value::Number(number) => Some(*number),
            _ => None,
        }
    }
}

/// What the header of a message says, as far as anybody here asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) body_bytes: u64,
    pub(crate) content_encoding: Option<String>,
    pub(crate) headers: Table,
    pub(crate) message_id: Option<String>,
    /// Seconds since 1970.
    pub(crate) timestamp: Option<u64>,
    pub(crate) message_type: Option<String>,
}

impl Header {
    /// Reads a header frame; of properties that end too early what can be read.
    pub(crate) fn read(payload: &[u8]) -> Option<Self> {
        let mut reader = Reader(payload);
        let (_class, _weight) = (reader.u16()?, reader.u16()?);
        let mut header = Self {
            body_bytes: reader.u64()?,
            ..Self::default()
        };
        let flags = reader.u16()?;
        // As far as it can be read; the body is there in any case.
        header.properties(flags, &mut reader);
        Some(header)
    }

    fn properties(&mut self, flags: u16, reader: &mut Reader<'_>) -> Option<()> {
        let has = |bit: u32| flags & (1 << bit) != 0;
        for bit in (2..=15).rev().filter(|bit| has(*bit)) {
            match bit {
                14 => self.content_encoding = Some(reader.short()?),
                13 => self.headers = reader.table()?,
                12 | 11 => drop(reader.u8()?),
                7 => self.message_id = Some(reader.short()?),
                6 => self.timestamp = Some(reader.u64()?),
                5 => self.message_type = Some(reader.short()?),
                _ => drop(reader.short()?),
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(name: &str, kind: u8, value: &[u8]) -> Vec<u8> {
        [&short(name)[..], &[kind], value].concat()
    }

    fn header(flags: u16, properties: &[u8]) -> Header {
        let payload = [
            &60_u16.to_be_bytes()[..],
            &[0, 0],
            &7_u64.to_be_bytes(),
            &flags.to_be_bytes(),
            properties,
        ]
        .concat();
        Header::read(&payload).unwrap()
    }

    #[test]
    fn a_header_is_read_with_every_kind_of_value_and_one_that_is_not_utf_8() {
        let inner = [
            entry("queue", b'S', &long(b"q")),
            entry("count", b'l', &3_i64.to_be_bytes()),
        ]
        .concat();
        let list = [&b"F"[..], &long(&inner)].concat();
        let entries = [
            entry("bad", b'S', &long(b"\xff\xfe")),
            entry("yes", b't', &[1]),
            entry("float", b'd', &[0; 8]),
            entry("nothing", b'V', &[]),
            entry("time", b'T', &5_u64.to_be_bytes()),
            entry("x-death", b'A', &long(&list)),
        ]
        .concat();
        let properties = [
            short("application/x-ndjson"),
            short("gzip"),
            long(&entries),
            vec![2, 0],
            short("corr"),
            short("reply"),
            short("60000"),
            short("id"),
            9_u64.to_be_bytes().to_vec(),
            short("warren.v1"),
        ]
        .concat();
        let header = header(0b1111_1111_1110_0000, &properties);
        assert_eq!((header.body_bytes, header.timestamp), (7, Some(9)));
        assert_eq!(header.message_id.as_deref(), Some("id"));
        assert_eq!(header.message_type.as_deref(), Some("warren.v1"));
        assert_eq!(header.content_encoding.as_deref(), Some("gzip"));
        assert_eq!(header.headers.text("bad"), Some("\u{fffd}\u{fffd}"));
        assert_eq!(header.headers.number("time"), Some(5));
        let Some(Value::List(deaths)) = header.headers.get("x-death") else {
            panic!("no list");
        };
        let Value::Table(death) = &deaths[0] else {
            panic!("no table");
        };
        assert_eq!((death.text("queue"), death.number("count")), (Some("q"), Some(3)));
    }

    #[test]
    fn what_cannot_be_read_of_a_header_costs_nothing_but_itself() {
        let unknown = [
            entry("a", b'S', &long(b"1")),
            entry("b", b'?', b"what"),
            entry("c", b'S', &long(b"2")),
        ];
        let properties = [long(&unknown.concat()), short("id")].concat();
        let header = header(1 << 13 | 1 << 7, &properties);
        assert_eq!(
            (header.headers.text("a"), header.headers.text("c")),
            (Some("1"), None)
        );
        assert_eq!(header.message_id.as_deref(), Some("id"));
        let cut = self::header(1 << 13 | 1 << 7, &long(b"x")[..3]);
        assert_eq!((cut.body_bytes, cut.message_id), (7, None));
        // As deep as it goes it is read, and what is deeper is left out.
        let deep = (0..1_000).fold(Vec::new(), |inner, _| [&b"A"[..], &long(&inner)].concat());
        let deep = long(&[&short("deep")[..], &deep].concat());
        let headers = self::header(1 << 13, &deep).headers;
        let (mut value, mut levels) = (headers.get("deep"), 0);
        while let Some(Value::List(items)) = value {
            (value, levels) = (items.first(), levels + 1);
        }
        assert_eq!(levels, MAX_DEPTH);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            Header::read(&bytes);
            Reader(&bytes).table();
            let mut buffer = bytes;
            while let Ok(Some(_)) = take_frame(&mut buffer) {}
        }

        #[test]
        fn frames_are_read_wherever_they_are_cut(cut in 0_usize..40) {
            let mut whole = Vec::new();
            for (kind, payload) in [(METHOD, &b"\0\x3c\0\x50"[..]), (HEARTBEAT, b""), (BODY, b"body")] {
                whole.extend([kind, 0, 1]);
                whole.extend((payload.len() as u32).to_be_bytes());
                whole.extend(payload);
                whole.push(FRAME_END);
            }
            let (first, rest) = whole.split_at(cut.min(whole.len()));
            let (mut buffer, mut kinds) = (Vec::new(), Vec::new());
            for part in [first, rest] {
                buffer.extend(part);
                while let Some(frame) = take_frame(&mut buffer).unwrap() {
                    kinds.push(frame.kind);
                }
            }
            prop_assert_eq!(kinds, [METHOD, HEARTBEAT, BODY]);
        }
    }
}
