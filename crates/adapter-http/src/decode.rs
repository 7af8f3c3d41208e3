//! Takes the content coding off a request body.
//!
//! Our own, because clients write the header in ways that a middleware takes literally (`GZIP`, `x-gzip`,
//! `gzip,deflate` over a zlib body), and because the decoded bytes are charged to the budget while they appear.

use std::io::{self, Read};

use axum::http::HeaderMap;
use axum::http::header::CONTENT_ENCODING;
use bytes::Bytes;
use flate2::{Decompress, FlushDecompress, Status};
use metrics::counter;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use crate::body::{Limits, no_permit, overloaded};
use crate::budget::Permit;
use crate::metrics::REFUSED;
use crate::problem::{Kind, Problem};

/// How much is decoded at a time; between two steps other tasks run and the budget is charged.
const STEP: usize = 128 << 10;
/// The largest window a zstd frame may ask for, as a power of two: 8 MiB, what RFC 8878 asks decoders to support.
const ZSTD_WINDOW_LOG: u32 = 23;
/// How many bodies are decoded at once; each may need a zstd window of memory.
pub(crate) const DECODERS: usize = 4;

/// How a body is coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    Identity,
    Gzip,
    /// zlib or raw: RFC 9110 means zlib, some clients send raw.
    Deflate,
    Zstd,
    /// Several codings are named where one is meant: the body's first bytes decide.
    OneOf,
}

/// Reads `Content-Encoding`, in any letter case.
pub(crate) fn coding(headers: &HeaderMap) -> Result<Coding, Problem> {
    let mut coding = Coding::Identity;
    for value in headers.get_all(CONTENT_ENCODING) {
        let value = value
            .to_str()
            .map_err(|_| unsupported("with bytes outside ASCII"))?;
        for name in value.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let named = match name.to_ascii_lowercase().as_str() {
                "identity" => continue,
                "gzip" | "x-gzip" => Coding::Gzip,
                "deflate" => Coding::Deflate,
                "zstd" => Coding::Zstd,
                _ => {
                    let excerpt: String = name.chars().take(40).collect();
                    return Err(unsupported(&format!("{excerpt:?}")));
                }
            };
            coding = if coding == Coding::Identity {
                named
            } else {
                Coding::OneOf
            };
        }
    }
    Ok(coding)
}

fn unsupported(what: &str) -> Problem {
    Problem::new(
        Kind::UnsupportedEncoding,
        format!("a Content-Encoding {what}"),
        "use gzip, deflate or zstd, or send the body as it is",
    )
}

fn garbage(detail: String) -> Problem {
    Problem::new(
        Kind::MalformedEncoding,
        detail,
        "send one complete compressed stream and nothing behind it, with a zstd window of at most 8 MiB; \
         or leave Content-Encoding out",
    )
}

/// The few that may decompress at once, and until when to wait for one of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decoders<'d> {
    pub(crate) all: &'d Semaphore,
    pub(crate) deadline: Instant,
}

impl<'d> Decoders<'d> {
    async fn wait(self) -> Result<SemaphorePermit<'d>, Problem> {
        match timeout_at(self.deadline, self.all.acquire()).await {
            Ok(Ok(slot)) => Ok(slot),
            Ok(Err(_)) | Err(_) => {
                counter!(REFUSED, "reason" => "decode").increment(1);
                Err(overloaded("too many compressed requests at once"))
            }
        }
    }
}

/// Decodes `wire`, step by step; the permit grows with what appears.
pub(crate) async fn decode(
    coding: Coding,
    wire: Bytes,
    limits: &Limits,
    decoders: Decoders<'_>,
    permit: &mut Permit,
) -> Result<Bytes, Problem> {
    if coding == Coding::Identity || wire.is_empty() {
        return Ok(wire);
    }
    let mut stream = Stream::open(coding, &wire)?;
    let _slot = decoders.wait().await?;
    let mut decoded = Vec::new();
    loop {
        let room = STEP.min(limits.max_request + 1 - decoded.len());
        let before = decoded.len();
        stream
            .read(&mut decoded, room)
            .map_err(|error| garbage(format!("as {}: {error}", stream.name())))?;
        if decoded.len() > limits.max_request {
            return Err(limits.over_decoded());
        }
        if decoded.len() - before < room {
            stream
                .finish()
                .map_err(|left| garbage(format!("{left} bytes behind the end of the stream")))?;
            return Ok(decoded.into());
        }
        permit
            .grow_to((decoded.len() + STEP).min(limits.max_request))
            .await
            .map_err(no_permit)?;
        tokio::task::yield_now().await;
    }
}

enum Stream<'w> {
    Gzip(flate2::bufread::MultiGzDecoder<&'w [u8]>),
    Zstd(zstd::stream::read::Decoder<'static, &'w [u8]>),
    /// By hand, because flate2's readers take a stream that is cut off for one that has ended.
    Inflate {
        state: Decompress,
        input: &'w [u8],
        ended: bool,
    },
}

impl<'w> Stream<'w> {
    fn open(coding: Coding, wire: &'w [u8]) -> Result<Self, Problem> {
        let coding = if coding == Coding::OneOf {
            by_first_bytes(wire)
        } else {
            coding
        };
        Ok(match coding {
            Coding::Gzip => Self::Gzip(flate2::bufread::MultiGzDecoder::new(wire)),
            Coding::Zstd => {
                let decoder = zstd::stream::read::Decoder::with_buffer(wire).and_then(|mut decoder| {
                    decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                    Ok(decoder)
                });
                Self::Zstd(decoder.map_err(|error| garbage(format!("as zstd: {error}")))?)
            }
            _ => Self::Inflate {
                state: Decompress::new(is_zlib(wire)),
                input: wire,
                ended: false,
            },
        })
    }

    const fn name(&self) -> &'static str {
        match self {
            Self::Gzip(_) => "gzip",
            Self::Zstd(_) => "zstd",
            Self::Inflate { .. } => "deflate",
        }
    }

    /// Appends up to `room` bytes; fewer mean that the stream has ended.
    fn read(&mut self, decoded: &mut Vec<u8>, room: usize) -> io::Result<()> {
        match self {
            Self::Gzip(reader) => reader.take(room as u64).read_to_end(decoded).map(drop),
            Self::Zstd(reader) => reader.take(room as u64).read_to_end(decoded).map(drop),
            Self::Inflate { state, input, ended } => {
                decoded.reserve_exact(room);
                // `reserve_exact` may give more than it is asked for.
                let full = decoded.len() + room;
                while !*ended && decoded.len() < full {
                    let (taken, given) = (state.total_in(), decoded.len());
                    let status = state.decompress_vec(input, decoded, FlushDecompress::None)?;
                    let taken = (state.total_in() - taken) as usize;
                    *input = &input[taken..];
                    *ended = status == Status::StreamEnd;
                    if !*ended && taken == 0 && decoded.len() == given {
                        return Err(io::Error::new(
                            io::ErrorKind::UnexpectedEof,
                            "the stream is cut off",
                        ));
                    }
                }
                Ok(())
            }
        }
    }

    /// Checks that nothing is left; gzip and zstd have read everything as further members already.
    const fn finish(&self) -> Result<(), usize> {
        match self {
            Self::Inflate { input, .. } if !input.is_empty() => Err(input.len()),
            _ => Ok(()),
        }
    }
}

fn by_first_bytes(wire: &[u8]) -> Coding {
    if wire.starts_with(&[0x1f, 0x8b]) {
        Coding::Gzip
    } else if wire.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Coding::Zstd
    } else {
        Coding::Deflate
    }
}

/// Tells a zlib header (RFC 1950 §2.2) from the first bytes of a raw deflate stream.
fn is_zlib(wire: &[u8]) -> bool {
    matches!(wire, [method, flags, ..]
        if method & 0x0f == 8 && method >> 4 <= 7 && (u16::from(*method) << 8 | u16::from(*flags)) % 31 == 0)
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
