//! The numbers of watching.

use metrics::{Unit, describe_counter, describe_gauge};

pub(super) const READERS: &str = "warren_tail_readers";
pub(super) const BYTES: &str = "warren_tail_bytes_total";
pub(super) const GAPS: &str = "warren_tail_gaps_total";

/// Registers the help texts and units.
pub(crate) fn describe() {
    describe_gauge!(
        READERS,
        Unit::Count,
        "Readers of tails; at most as many as tail.max_readers"
    );
    describe_counter!(
        BYTES,
        Unit::Bytes,
        "Bytes that readers of tails were sent; at most tail.max_bytes_per_second"
    );
    describe_counter!(
        GAPS,
        Unit::Count,
        "Gaps that readers of tails were told of, by reason; slow_reader: raise tail.keep_messages and tail.keep_bytes; \
         rate_limited: raise tail.max_bytes_per_second; overrun: raise tail.max_messages_per_second, \
         or this process or RabbitMQ is too slow for it"
    );
}
