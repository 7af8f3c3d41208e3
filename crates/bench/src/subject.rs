//! What can be measured.

use clap::ValueEnum;

/// A part of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Subject {
    /// One AMQP message a record, confirmed, by the plainest client.
    RawPublish,
    /// Binary COPY by the plainest client.
    RawCopy,
    /// Requests of one message, answered by a server that keeps nothing.
    BareHttp,
    /// Requests of one message, through to rows.
    Singles,
    /// NDJSON requests of 100 and 1,000 messages, through to rows.
    Batches,
    /// One worker on a full queue.
    CatchUp,
    /// One severity-consumer on a full queue, beside the plainest consumer.
    Consume,
    /// Waits at a tenth of the peak rate.
    Latency,
    /// The same in one process, with nothing but a folder.
    Embedded,
}

impl Subject {
    /// Every part.
    pub(crate) const ALL: [Self; 9] = [
        Self::RawPublish,
        Self::RawCopy,
        Self::BareHttp,
        Self::Singles,
        Self::Batches,
        Self::CatchUp,
        Self::Consume,
        Self::Latency,
        Self::Embedded,
    ];
}
