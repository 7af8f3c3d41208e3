//! The messages that are sent: 300 bytes of JSON each, made before the clock runs.

use std::fmt::Write as _;

use bytes::Bytes;
use fastrand::Rng;

/// How long each message is as JSON, in bytes.
pub(crate) const MESSAGE_BYTES: usize = 300;

/// Severities as services log them, the most frequent first: name, number, share in a hundred.
pub(crate) const SEVERITIES: [(&str, i16, u8); 5] = [
    ("info", 9, 70),
    ("warning", 13, 12),
    ("debug", 5, 10),
    ("error", 17, 7),
    ("critical", 21, 1),
];

/// How many different severities and sources there are; a packet holds messages of one of each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mix {
    /// 1 to 5, the most frequent ones.
    pub(crate) severities: usize,
    pub(crate) sources: usize,
}

impl Mix {
    fn severity(self, rng: &mut Rng) -> (&'static str, i16) {
        let some = &SEVERITIES[..self.severities];
        let all: u8 = some.iter().map(|(_, _, share)| share).sum();
        let mut dice = rng.u8(..all);
        for (name, number, share) in some {
            if dice < *share {
                return (name, *number);
            }
            dice -= share;
        }
        ("info", 9)
    }
}

const WORDS: [&str; 12] = [
    "payment", "declined", "order", "retry", "timeout", "customer", "Straße", "cache", "miss", "upstream",
    "queued", "42ms",
];

/// One message, taken apart for COPY and put together for HTTP and AMQP.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) severity: &'static str,
    pub(crate) severity_number: i16,
    pub(crate) source: String,
    pub(crate) body: String,
    pub(crate) attributes: String,
}

impl Sample {
    /// Makes a message of a source that is [`MESSAGE_BYTES`] long as JSON.
    pub(crate) fn of(source: usize, mix: Mix, rng: &mut Rng) -> Self {
        let (severity, severity_number) = mix.severity(rng);
        let source = format!("service-{source:02}.api");
        let attributes = format!(
            "{{\"order\":{},\"user\":\"u-{}\",\"ok\":{},\"ms\":{}.5}}",
            rng.u32(1_000..10_000_000),
            rng.u32(..100_000),
            rng.bool(),
            rng.u32(..1_000)
        );
        let mut sample = Self {
            severity,
            severity_number,
            source,
            body: String::new(),
            attributes,
        };
        let room = MESSAGE_BYTES.saturating_sub(sample.json().len());
        while sample.body.len() < room {
            sample.body.push_str(WORDS[rng.usize(..WORDS.len())]);
            sample.body.push(' ');
        }
        sample.body.truncate(sample.body.floor_char_boundary(room));
        while sample.body.len() < room {
            sample.body.push('.');
        }
        sample
    }

    /// Returns the message as JSON.
    pub(crate) fn json(&self) -> String {
        format!(
            "{{\"severity\":\"{}\",\"source\":\"{}\",\"body\":\"{}\",\"attributes\":{}}}",
            self.severity, self.source, self.body, self.attributes
        )
    }
}

/// Makes some messages of every source.
pub(crate) fn samples(count: usize, mix: Mix) -> Vec<Sample> {
    let mut rng = Rng::with_seed(300);
    (0..count)
        .map(|n| Sample::of(n % mix.sources, mix, &mut rng))
        .collect()
}

/// Makes whole HTTP requests of `messages` messages, each of one source; several for every source.
pub(crate) fn requests(messages: usize, mix: Mix) -> Vec<Bytes> {
    let mut rng = Rng::with_seed(301);
    // Enough to be no single repeated text, few enough to stay in the processor's cache.
    let count = mix.sources * (512 / messages).max(2);
    (0..count)
        .map(|n| {
            let lines: Vec<_> = (0..messages).map(|_| Sample::of(n % mix.sources, mix, &mut rng).json()).collect();
            let body = lines.join("\n");
            let kind = if messages == 1 { "application/json" } else { "application/x-ndjson" };
            let mut request = String::new();
            // Writing into a String cannot fail.
            let written = write!(
                request,
                "POST /v1/messages HTTP/1.1\r\nhost: bench\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            debug_assert!(written.is_ok());
            Bytes::from(request)
        })
        .collect()
}

/// Makes a whole HTTP request of `messages` messages of one severity, which its head names if it is `declared`.
pub(crate) fn request_of(severity: &str, declared: bool, messages: usize, seed: u64) -> Bytes {
    let mut rng = Rng::with_seed(303 + seed);
    let mix = Mix {
        severities: 1,
        sources: 1,
    };
    let lines: Vec<_> = (0..messages)
        .map(|_| {
            Sample::of(0, mix, &mut rng)
                .json()
                .replacen("\"info\"", &format!("\"{severity}\""), 1)
        })
        .collect();
    let body = lines.join("\n");
    let declared = if declared {
        format!("warren-severity: {severity}\r\n")
    } else {
        String::new()
    };
    Bytes::from(format!(
        "POST /v1/messages HTTP/1.1\r\nhost: bench\r\ncontent-type: application/x-ndjson\r\n{declared}content-length: {}\r\n\r\n{body}",
        body.len()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_has_the_length_that_the_table_says() {
        for sample in samples(
            500,
            Mix {
                severities: 5,
                sources: 7,
            },
        ) {
            let json = sample.json();
            assert_eq!(json.len(), MESSAGE_BYTES, "{json}");
            let value: serde_json::Value = serde_json::from_str(&json).unwrap();
            assert_eq!(value["body"].as_str(), Some(sample.body.as_str()));
        }
    }

    #[test]
    fn a_request_holds_as_many_lines_as_it_should() {
        for request in requests(
            100,
            Mix {
                severities: 1,
                sources: 3,
            },
        ) {
            let text = std::str::from_utf8(&request).unwrap();
            let (_, body) = text.split_once("\r\n\r\n").unwrap();
            assert_eq!(body.lines().count(), 100);
        }
    }
}
