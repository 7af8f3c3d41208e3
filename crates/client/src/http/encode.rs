//! What a request carries.

use std::io::{self, Write};

use warren_domain::Message;

use super::Compression;

/// Compresses what is worth it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Encoder {
    pub(super) compression: Compression,
    /// The smallest body that is compressed, in bytes.
    pub(super) from_bytes: usize,
}

impl Encoder {
    /// Returns the body and its `Content-Encoding`, if it has one.
    pub(super) fn encode(&self, lines: Vec<u8>) -> (Vec<u8>, Option<&'static str>) {
        if lines.len() < self.from_bytes {
            return (lines, None);
        }
        let (packed, name) = match self.compression {
            Compression::None => return (lines, None),
            // Level 1: most of the gain for a fraction of the time.
            Compression::Zstd => (zstd::bulk::compress(&lines, 1), "zstd"),
            Compression::Gzip => (gzip(&lines), "gzip"),
        };
        match packed {
            Ok(packed) if packed.len() < lines.len() => (packed, Some(name)),
            // It is as good without.
            _ => (lines, None),
        }
    }
}

fn gzip(lines: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(lines)?;
    encoder.finish()
}

/// Writes a message as a line that an intake takes: without `received_at`, which is the intake's to set.
pub(super) fn line(message: &Message) -> Vec<u8> {
    #[derive(serde::Serialize)]
    struct Line<'a> {
        id: warren_domain::MessageId,
        severity: warren_domain::Severity,
        source: &'a warren_domain::Source,
        body: &'a str,
        #[serde(skip_serializing_if = "warren_domain::Attributes::is_empty")]
        attributes: &'a warren_domain::Attributes,
        occurred_at: warren_domain::Timestamp,
    }
    let mut line = Vec::with_capacity(256 + message.body.as_str().len());
    let written = serde_json::to_writer(
        &mut line,
        &Line {
            id: message.id,
            severity: message.severity,
            source: &message.source,
            body: message.body.as_str(),
            attributes: &message.attributes,
            occurred_at: message.occurred_at,
        },
    );
    // Writing JSON into memory cannot fail: every key is a string, every number finite, and a Vec takes all.
    debug_assert!(written.is_ok());
    line.push(b'\n');
    line
}
