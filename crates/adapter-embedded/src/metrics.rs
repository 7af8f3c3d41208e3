//! What the embedded adapter counts and measures.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

pub(crate) const COMMIT_SECONDS: &str = "warren_embedded_commit_seconds";
pub(crate) const COMMIT_MESSAGES: &str = "warren_embedded_commit_messages";
pub(crate) const BYTES: &str = "warren_embedded_bytes";
pub(crate) const QUEUE_MESSAGES: &str = "warren_embedded_queue_messages";
pub(crate) const GROUP_DROPPED: &str = "warren_embedded_group_dropped_total";
pub(crate) const REFUSED: &str = "warren_embedded_refused_total";
pub(crate) const DEAD_LETTERS: &str = "warren_dead_letters_total";

/// Describes the metrics of this adapter to the recorder; call it once, after the recorder is installed.
pub fn describe_metrics() {
    describe_histogram!(
        COMMIT_SECONDS,
        Unit::Seconds,
        "How long a commit took, by file: queue, spool, store, tally."
    );
    describe_histogram!(
        COMMIT_MESSAGES,
        Unit::Count,
        "How many messages one commit held, by file: queue, spool, store, tally."
    );
    describe_gauge!(
        BYTES,
        Unit::Bytes,
        "What a file and its write-ahead log take on the disk, by file: queue, spool, store."
    );
    describe_gauge!(
        QUEUE_MESSAGES,
        Unit::Count,
        "Messages offered to a consumer group and not settled yet, by group."
    );
    describe_counter!(
        GROUP_DROPPED,
        Unit::Count,
        "Messages dropped for a named consumer group that lagged too far behind, by group."
    );
    describe_counter!(
        REFUSED,
        Unit::Count,
        "Messages refused because embedded.max_bytes, or spool.max_bytes, was used up."
    );
    describe_counter!(
        DEAD_LETTERS,
        Unit::Count,
        "Messages and lines that became dead letters, by reason."
    );
}
